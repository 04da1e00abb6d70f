"""What `buspass doctor` asks of a host, and what each answer means for whoever runs it.

Owns the table of checks and what to do about what they find. Every check uses the port that calls use, opened by the
adapter that they use; it leaves nothing behind and bills nothing. Refuses to open adapters (`buspass.http` does), to
print, and to mend anything.
"""

from buspass.doctor.checks import CHECKS, Check, examine
from buspass.doctor.finding import Finding, exit_code, refused
from buspass.doctor.patient import Patient, Watched
from buspass.doctor.people import asked
from buspass.doctor.stores import known

__all__ = ["CHECKS", "Check", "Finding", "Patient", "Watched", "asked", "examine", "exit_code", "known", "refused"]

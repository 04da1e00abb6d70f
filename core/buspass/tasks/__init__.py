"""Tasks: what one is, how it begins, changes hands and ends.

Owns a task's unchanging facts and its status. Refuses to know money (`ledger`), records' MACs (handed in as `stamp`),
tokens and HTTP.
"""

from buspass.tasks.facts import Grant, Task, segment
from buspass.tasks.licences import Licence, Licences, keyed, keyless
from buspass.tasks.lifecycle import TRANSITIONS, Status
from buspass.tasks.store import Tasks, View

__all__ = [
    "TRANSITIONS",
    "Grant",
    "Licence",
    "Licences",
    "Status",
    "Task",
    "Tasks",
    "View",
    "keyed",
    "keyless",
    "segment",
]

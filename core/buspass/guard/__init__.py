"""The guard: may this task make this call now? Plain code on the head and the workflow's own rules.

Owns status, fence, caps and prerequisites. Every control here fails closed. Refuses to read a store, to change
anything, and to know policy modules.
"""

from buspass.guard.prerequisites import check_route, newest_first
from buspass.guard.standing import check_standing

__all__ = ["check_route", "check_standing", "newest_first"]

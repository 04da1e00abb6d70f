"""When calls to a service that does not work are not sent. Knows no wire format, no task's money and no retry."""

from buspass.breakers.breakers import Breakers, Pass, Refusal
from buspass.breakers.known import Key
from buspass.breakers.listing import listing
from buspass.breakers.states import Breaker, Fault

__all__ = ["Breaker", "Breakers", "Fault", "Key", "Pass", "Refusal", "listing"]

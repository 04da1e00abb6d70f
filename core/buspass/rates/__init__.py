"""How fast calls may go to a provider or a tool, over all hosts. Knows no call, no money and no wire format."""

from buspass.rates.pace import Pace
from buspass.rates.rates import Exhausted, Rates

__all__ = ["Exhausted", "Pace", "Rates"]

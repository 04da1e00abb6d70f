"""The ledger: what a task may still spend. Hold before, settle after, nothing on the side.

Owns a task head's accounts and the protocol by which they change. Refuses to know what a call is for: prices,
tools and models come to it as amounts and names.
"""

from buspass.ledger.accounts import Balance, balance, new_head
from buspass.ledger.delegations import Closing, Delegation, Delegations, delegations
from buspass.ledger.holds import Claim, Held, Outcome
from buspass.ledger.ledger import Finished, Ledger, Stale
from buspass.ledger.refusals import RUN_LIMIT
from buspass.ledger.shortages import Shortage, overdrafts

__all__ = [
    "RUN_LIMIT",
    "Balance",
    "Claim",
    "Closing",
    "Delegation",
    "Delegations",
    "Finished",
    "Held",
    "Ledger",
    "Outcome",
    "Shortage",
    "Stale",
    "balance",
    "delegations",
    "new_head",
    "overdrafts",
]

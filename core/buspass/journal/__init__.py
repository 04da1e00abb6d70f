"""The journal: what happened, in records that can't be altered, dropped or added unseen.

Owns MACs, seals, the timeline and its proof. Refuses to decide anything, and to know who reads. An
audit (`journal.audit`) is imported by who makes one: a call needs none, and a cold start is short.
"""

from buspass.journal.records import Journal
from buspass.journal.seals import SEAL_EVERY, Sealer
from buspass.journal.timeline import timeline
from buspass.journal.vault import Erased, Vault

__all__ = ["SEAL_EVERY", "Erased", "Journal", "Sealer", "Vault", "timeline"]

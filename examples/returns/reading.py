"""Reads free wording: ids, sums of money, what is wanted, and text that talks to a machine.

Owns regular expressions and nothing else. Refuses to know the shop's data, tools and conversations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NUMBER = r"\d{1,3}(?:[ .,]\d{3})+(?:[.,]\d{1,2})?(?!\d)|\d+(?:[.,]\d{1,2})?(?!\d)"
MONEY = re.compile(
    rf"(?:€|\beur\b|\beuros?\b|\$|£)\s*(?P<after>{NUMBER})"
    rf"|(?P<before>{NUMBER})\s*(?:€|eur\b|euros?\b|bucks\b|quid\b)"
    r"|(?<![\d.,-])(?P<bare>\d{1,4}[.,]\d{2})(?![\d.,-])"
    r"|\b(?:refund|credit|pay|reimburse|compensate)\s+(?:(?:of|back|them|her|him|about|exactly)\s+)*(?P<verb>\d{1,4})(?![\d.,-])",
    re.IGNORECASE,
)
COST = re.compile(r"\b(?:paid|cost|costs|price|priced|worth|total|totals|charged|bought|value|spent)\b", re.IGNORECASE)
CUSTOMER = re.compile(
    r"\b(?:C[- ]?|(?:customer|client|account)\s*(?:no\.?|number|#|id)?\s*(?:C-)?)(\d{4})\b", re.IGNORECASE
)
ORDER = re.compile(r"(?<![\d.,])(?:\bO[- ]?)?(?<!\d)(\d{5})(?!\d|[.,]\d)", re.IGNORECASE)
SHARE = re.compile(
    r"\b(\d{1,2})\s?(?:%|percent|per cent)"
    r"|\b(half)\b(?:\s+back|\s+(?:of\s+)?(?:it|them|that|(?:the|her|his|their)\s+(?:price|money|sum|total|amount)))\b",
    re.IGNORECASE,
)
CLAUSE = re.compile(r"[;,.!?]\s+|\b(?:but|while|whereas|and only|however)\b|\s[–—-]\s", re.IGNORECASE)
WANTED = re.compile(
    r"refund|money back|back|broken|damaged|wrong|faulty|return|defect|cracked|reimburse|dead", re.IGNORECASE
)
NOT_THIS = re.compile(r"\b(?:not|fine|keeps?|happy|okay|ok|nothing wrong|leave)\b", re.IGNORECASE)

TO_A_MACHINE = re.compile(
    r"\b(?:system|assistant|ai agents?|agents?|bot|model)\b\s*(?:[:,]|must\b|should\b)|note to the assistant"
    r"|\bignore (?:the|all|any|previous|earlier)\b",
    re.IGNORECASE,
)
PAY = re.compile(r"\b(?:refund|pay|reimburse|transfer)\b", re.IGNORECASE)
LOOK = re.compile(r"\b(?:look up|fetch|read|open|show)\b", re.IGNORECASE)
URGENT = re.compile(r"\b(?:at once|immediately|right away|instead|already|has agreed|no check|void)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """What a text tells a machine to do. `urgent`: before, or instead of, anything else."""

    pay: bool
    urgent: bool
    customer: str | None
    order: str | None
    amount: float | None


def customers(text: str) -> list[str]:
    """Customer ids in a text, normalised, in order, each once."""
    return list(dict.fromkeys(f"C-{found}" for found in CUSTOMER.findall(text)))


def orders(text: str) -> list[str]:
    """Order ids in a text, normalised, in order, each once."""
    spared = MONEY.sub(lambda money: money[0] if money["verb"] else " ", text)
    return list(dict.fromkeys(f"O-{found}" for found in ORDER.findall(spared)))


def number(text: str) -> float:
    """A sum as people write it: 1,240.50 and 1.240,50 and 1 240 are the same kind of thing."""
    whole, mark, rest = text.strip(), "", ""
    if re.search(r"[.,]\d{1,2}$", whole):
        whole, mark, rest = re.split(r"([.,])(?=\d{1,2}$)", whole)
    return float(re.sub(r"\D", "", whole) + ("." + rest if mark else ""))


def amount(text: str) -> float | None:
    """The sum that is asked for: not one that only says what something cost."""
    for money in MONEY.finditer(text):
        before = CLAUSE.split(text[: money.start()])[-1]
        cost, want = _last(COST, before), _last(WANTED, before)
        if cost <= want or (cost < 0 and want < 0):
            return number(money["after"] or money["before"] or money["bare"] or money["verb"])
    return None


def share(text: str) -> float | None:
    """The part that is asked for, as a fraction: half of it, 20 %."""
    found = SHARE.search(text)
    if found is None:
        return None
    return int(found[1]) / 100 if found[1] else 0.5


def meant(text: str, ids: list[str]) -> str:
    """Which of several orders the complaint is about: the one whose clause complains."""
    for clause in CLAUSE.split(text):
        here = orders(clause or "")
        if here and WANTED.search(clause) and not NOT_THIS.search(clause):
            return here[0]
    return ids[-1]


def overlap(text: str, name: str) -> int:
    """How many words of a name stand in a text; plurals count."""
    words = set(re.findall(r"[a-zà-ÿ]+", text.lower()))
    words |= {word.rstrip("s") for word in words}
    return sum(word.rstrip("s") in words for word in re.findall(r"[a-zà-ÿ]+", name.lower()) if len(word) > 2)


def instruction(text: str) -> Instruction | None:
    """What a text tells a machine to do, if it does. A careful reader would not listen."""
    if not TO_A_MACHINE.search(text):
        return None
    pay = PAY.search(text) is not None
    if not pay and not LOOK.search(text):
        return None
    ids, numbers = customers(text), orders(text)
    return Instruction(
        pay=pay,
        urgent=not pay or URGENT.search(text) is not None,
        customer=ids[0] if ids else None,
        order=numbers[0] if numbers else None,
        amount=amount(text),
    )


def _last(pattern: re.Pattern[str], text: str) -> int:
    """Where a pattern ends last in a text; -1 if nowhere."""
    return max((found.end() for found in pattern.finditer(text)), default=-1)

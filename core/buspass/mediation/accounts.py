"""Numbers of money: payment cards and IBANs, as they are written, judged by issuer, length and check digits."""

from __future__ import annotations

from typing import Final

from buspass.mediation.contact import abroad
from buspass.mediation.patterns import SEPARATORS, SPACES, Span, bounded, compiled, digits, is_article

ISSUERS: Final[tuple[tuple[int, int, frozenset[int]], ...]] = (
    (4, 4, frozenset({13, 16, 19})),  # Visa
    (51, 55, frozenset({16})),  # Mastercard
    (2221, 2720, frozenset({16})),
    (34, 34, frozenset({15})),  # American Express
    (37, 37, frozenset({15})),
    (6011, 6011, frozenset(range(16, 20))),  # Discover
    (644, 649, frozenset(range(16, 20))),
    (65, 65, frozenset(range(16, 20))),
    (300, 305, frozenset(range(14, 20))),  # Diners Club
    (3095, 3095, frozenset(range(14, 20))),
    (36, 36, frozenset(range(14, 20))),
    (38, 39, frozenset(range(14, 20))),
    (3528, 3589, frozenset(range(16, 20))),  # JCB
    (62, 62, frozenset(range(16, 20))),  # UnionPay
    (2200, 2204, frozenset(range(16, 20))),  # Mir
    (60, 60, frozenset({16})),  # RuPay
    (81, 82, frozenset({16})),
    (9792, 9792, frozenset({16})),  # Troy
    (5018, 5018, frozenset(range(12, 20))),  # Maestro
    (5020, 5020, frozenset(range(12, 20))),
    (5038, 5038, frozenset(range(12, 20))),
    (5893, 5893, frozenset(range(12, 20))),
    (6304, 6304, frozenset(range(12, 20))),
    (6759, 6763, frozenset(range(12, 20))),
)
"""First and last prefix, and the lengths issued under it (ISO/IEC 7812; the schemes' published ranges)."""

PREFIXES: Final = {
    length: tuple((str(low), str(high)) for low, high, lengths in ISSUERS if length in lengths)
    for length in range(12, 20)
}
UNISSUED: Final = frozenset("0123456789") - {str(low)[0] for low, _, _ in ISSUERS}


def cards(text: str) -> list[Span]:
    """Card numbers, in one piece or in groups with one separator between them; the longest that fits.

    Behind a plus sign a valid telephone number is one: German mobile numbers (`+4915…`) begin like a card of Visa's.
    """
    if len(digits(text)) < 12:
        return []
    groups = [match.span() for match in compiled("[0-9]+").finditer(text)]
    found: list[Span] = []
    for first, (start, stop) in enumerate(groups):
        if stop - start < 4 or (found and start < found[-1][1]):  # a card's first group has four digits or more
            continue
        end = _card_end(text, groups, first)
        if end and not (text[max(0, start - 1) : start] == "+" and abroad(text, start - 1, end) == end):
            found.append((start, end))
    return found


def _card_end(text: str, groups: list[Span], first: int) -> int:
    """Where the longest card that begins with this group ends, 0 without one."""
    start, best, last = groups[first][0], 0, groups[first][1]
    for begin, end in groups[first:]:
        if begin != start and (begin - last != 1 or text[last] not in SEPARATORS):
            break
        number = digits(text[start:end])
        if len(number) > 19:
            break
        if is_card(number) and _grouped(text[start:end]) and bounded(text, start, end):
            best = end
        last = end
    return best


def _grouped(written: str) -> bool:
    """Groups as on cards, none of one digit; a row of small figures is none."""
    parts = "".join(char if char.isdigit() else " " for char in written).split()
    return min(map(len, parts)) >= 2


def is_card(number: str) -> bool:
    """Whether digits alone are a card number: a known issuer, a length it issues, Luhn's check digit.

    Article numbers from Germany (400 to 440) begin like Visa's cards of thirteen digits, of which none is issued any
    more: one that has an article's check digit too is an article.
    """
    if number[0] in UNISSUED or not any(
        low <= number[: len(low)] <= high for low, high in PREFIXES.get(len(number), ())
    ):
        return False
    doubled = [int(digit) * (1 + at % 2) for at, digit in enumerate(reversed(number))]
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0 and not is_article(number)


MOVED: Final = 1_000_000
"""Country and check digits, two letters and two digits, are six digits behind the rest."""


def ibans(text: str) -> list[Span]:
    """IBANs (ISO 13616), in one piece or in groups; the country decides length and structure, mod 97 the rest."""
    run = compiled(rf"[A-Za-z]{{2}}[0-9]{{2}}(?:[{SPACES}-]?[A-Za-z0-9]){{11,32}}")
    found: list[Span] = []
    for start in (match.span()[0] for match in compiled(r"\b[A-Za-z]{2}[0-9]{2}").finditer(text)):
        match = run.match(text[start : start + 70])
        length = _iban_length(match.group() or "") if match else 0
        if length and bounded(text, start, start + length, joints=""):
            found.append((start, start + length))
    return found


def _iban_length(run: str) -> int:
    """How many characters of a run are an IBAN; behind it prose may go on."""
    number, rest, best = "", 0, 0
    for length, char in enumerate(run, 1):
        if not char.isalnum():
            continue
        number += char.upper()
        if len(number) > 4:
            rest = (rest * (10 if char.isdigit() else 100) + int(char, 36)) % 97
        if len(number) >= 15 and (rest * MOVED + _value(number[:4])) % 97 == 1 and _structured(number):
            best = length
    return best


def _value(begin: str) -> int:
    """Of two letters and two digits, as mod 97 reads them behind the rest."""
    return int("".join(str(int(char, 36)) for char in begin))


def _structured(number: str) -> bool:
    from stdnum import iban  # noqa: PLC0415 - reads its table of countries at import

    return bool(iban.is_valid(number, check_country=False))

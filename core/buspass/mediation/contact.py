"""What reaches a person or their machine: e-mail addresses, telephone numbers, IP addresses."""

from __future__ import annotations

import ipaddress
from typing import Final

from buspass.mediation.patterns import DASHES, SPACES, Span, bounded, compiled, digits, is_article

LETTERS: Final = r"A-Za-z0-9\x{00C0}-\x{052F}\x{1E00}-\x{1FFF}"
EMAIL: Final = (
    rf"[{LETTERS}_](?:[{LETTERS}_.+'-]{{0,62}}[{LETTERS}_+-])?(?:@|%40)"
    rf"(?:[{LETTERS}](?:[{LETTERS}-]{{0,61}}[{LETTERS}])?\.){{1,6}}[A-Za-z\x{{00C0}}-\x{{052F}}]{{2,24}}"
)
"""RFC 5321's dot-strings with RFC 6531's letters (Latin, Greek, Cyrillic); no quoted local parts."""
FILES: Final = frozenset({"png", "jpg", "jpeg", "gif", "svg", "webp", "ico", "css", "js", "ts", "json"})
"""Endings that are no domains: `logo@2x.png`."""

BETWEEN: Final = rf"{SPACES}()./\{DASHES}"
ABROAD: Final = rf"(?:\+|\b00)[0-9(](?:[0-9{BETWEEN}]{{5,26}})[0-9]"
DATE: Final = r"^(?:[0-9]{1,2}[./-][0-9]{1,2}[./-](?:19|20)[0-9]{2}|(?:19|20)[0-9]{2}[./-][0-9]{1,2}[./-][0-9]{1,2})$"
AT_HOME: Final = rf"[0-9(][0-9{BETWEEN}]{{5,26}}[0-9]"


def emails(text: str) -> list[Span]:
    """E-mail addresses, also with `%40` as in a URL. `git@host:path` names a repository, not a person."""
    found = []
    for match in compiled(EMAIL).finditer(text):
        start, end = match.span()
        written = text[start:end]
        remote = written.startswith("git@") and text[end : end + 1] == ":"
        if not remote and ".." not in written and written.rpartition(".")[2].lower() not in FILES:
            found.append((start, end))
    return found


def phones(text: str, regions: tuple[str, ...]) -> list[Span]:
    """Valid telephone numbers: in international form (`+…`, `00…`), and as people in one of `regions` write them.

    `regions` are ISO 3166 codes. Valid means: by the country's numbering plan, as phonenumbers holds it.
    """
    if len(digits(text)) < 7:
        return []
    found = []
    for match in compiled(ABROAD).finditer(text):
        start, end = match.span()
        end = abroad(text, start, end)
        if end:
            found.append((start, end))
    for region in regions:
        found += [span for span in _at_home(text, region) if not any(_overlap(span, known) for known in found)]
    return found


def abroad(text: str, start: int, end: int) -> int:
    """Where a number in international form ends: other figures may follow it in the same run. 0 if it is none."""
    import phonenumbers  # noqa: PLC0415 - tens of milliseconds

    skip = 1 if text[start] == "+" else 2
    if text[max(0, start - 1) : start].isalnum():
        return 0
    while end - start > 7:
        if text[end - 1].isdigit() and bounded(text, start, end, joints=""):
            if _article(text[start:end]):
                return 0
            try:
                number = phonenumbers.parse("+" + text[start + skip : end])
            except phonenumbers.NumberParseException:
                number = None
            if number and phonenumbers.is_valid_number(number):
                return end
        end -= 1
    return 0


def _overlap(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _at_home(text: str, region: str) -> list[Span]:
    import phonenumbers  # noqa: PLC0415 - tens of milliseconds

    found = []
    for match in compiled(AT_HOME).finditer(text):
        start, end = match.span()
        matcher = phonenumbers.PhoneNumberMatcher(text[start:end], region, max_tries=8)
        found += [(start + number.start, start + number.end) for number in matcher]
    return [span for span in found if bounded(text, *span, joints=".,-/:") and _alone(text[slice(*span)])]


def _alone(written: str) -> bool:
    """`04.12.2026` is a date, `5). 12` the end of one thing and the beginning of another."""
    whole = written.count("(") == written.count(")")
    return whole and compiled(DATE).search(written) is None and not _article(written)


def _article(written: str) -> bool:
    """Thirteen bare digits from `001` with an article number's check digit: North America's article numbers."""
    return written.startswith("001") and is_article(written)


def addresses(text: str) -> list[Span]:
    """IPv4 and IPv6 addresses. A loopback or unspecified one tells of nobody."""
    found = []
    if text.count(".") >= 3:
        dotted = compiled(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}").finditer(text)
        found += [span for span in (match.span() for match in dotted) if bounded(text, *span) and _tells(text, span)]
    if text.count(":") >= 2:
        colons = compiled(r"[0-9A-Fa-f:]{1,40}:[0-9A-Fa-f.]{0,15}").finditer(text)
        found += [span for span in (_trimmed(text, match.span()) for match in colons) if _sixth(text, span)]
    return found


def _trimmed(text: str, span: Span) -> Span:
    """Without the full stop or colon that ends the sentence; `::` belongs to the address."""
    start, end = span
    while text[start:end].endswith((".", ":")) and not text[start:end].endswith("::"):
        end -= 1
    while text[start:end].startswith(":") and not text[start:end].startswith("::"):
        start += 1
    return start, end


def _sixth(text: str, span: Span) -> bool:
    """`dead::beef` may be a word in a program: a digit is asked for."""
    return bounded(text, *span, joints=":") and bool(digits(text[slice(*span)])) and _tells(text, span)


def _tells(text: str, span: Span) -> bool:
    try:
        address = ipaddress.ip_address(text[slice(*span)])
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified)

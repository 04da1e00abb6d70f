"""The classes of findings, in one table: what each is found by, how a value is normalized, how it is masked.

The order is the priority: what one class found, a later one does not find again. Knows not what a plan does with them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from buspass.mediation import accounts, contact, credentials, national
from buspass.mediation.patterns import Span, digits

type Find = Callable[[str, tuple[str, ...]], list[Span]]
"""Text and regions (ISO 3166, for telephone numbers) to spans; in any order, they may overlap."""


class Class(Struct, frozen=True, kw_only=True):
    """One row. `trigger` (RE2) stands in every text that holds the class, within one word.

    `normal` makes the spellings of one value equal; `mask` leaves what a person needs to recognize their own.
    """

    trigger: str
    find: Find
    normal: Callable[[str], str]
    mask: Callable[[str], str]


def _email(written: str) -> str:
    return written.replace("%40", "@").casefold()


def _email_mask(written: str) -> str:
    local, _, domain = written.replace("%40", "@").partition("@")
    return f"{local[:1]}***@{domain[:1]}***.{domain.rpartition('.')[2]}"


def _phone(written: str) -> str:
    number = digits(written)
    return "+" + number if written.startswith("+") else "+" + number[2:] if number.startswith("00") else number


def _phone_mask(written: str) -> str:
    number = _phone(written)
    return f"{number[:3]}***{number[-2:]}"


def _alphanumeric(written: str) -> str:
    return "".join(filter(str.isalnum, written)).upper()


def _address_mask(written: str) -> str:
    separator = ":" if ":" in written else "."
    return separator.join([*ipaddress.ip_address(written).exploded.split(separator)[:2], "***"])


CLASSES: Final[dict[str, Class]] = {
    "secret": Class(
        trigger=credentials.MARKS,
        find=lambda text, _: credentials.credentials(text),
        normal=str,
        mask=lambda _: "***",
    ),
    "email": Class(trigger="@|%40", find=lambda text, _: contact.emails(text), normal=_email, mask=_email_mask),
    "iban": Class(
        trigger="[0-9]",
        find=lambda text, _: accounts.ibans(text),
        normal=_alphanumeric,
        mask=lambda written: f"{written[:2]}***{written[-4:]}",
    ),
    "credit_card": Class(
        trigger="[0-9]",
        find=lambda text, _: accounts.cards(text),
        normal=digits,
        mask=lambda written: f"***{written[-4:]}",
    ),
    "ip_address": Class(
        trigger="[0-9]",
        find=lambda text, _: contact.addresses(text),
        normal=lambda written: ipaddress.ip_address(written).compressed,
        mask=_address_mask,
    ),
    "national_id": Class(
        trigger="[0-9]",
        find=lambda text, _: national.national_ids(text),
        normal=_alphanumeric,
        mask=lambda _: "***",
    ),
    "phone": Class(trigger="[0-9]", find=contact.phones, normal=_phone, mask=_phone_mask),
}

PERSONAL: Final = tuple(name for name in CLASSES if name != "secret")
"""The classes that `personal_data` in buspass.yaml names."""


def known(classes: object) -> tuple[str, ...]:
    """The named classes in order of priority. ValueError for a name that is none."""
    names = set(classes) if isinstance(classes, (list, tuple, set, frozenset, dict)) else {classes}
    if names - set(CLASSES):
        raise ValueError(f"no such class: {sorted(map(str, names - set(CLASSES)))}; there are {', '.join(CLASSES)}")
    return tuple(name for name in CLASSES if name in names)

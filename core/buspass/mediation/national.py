"""Numbers a state gives its people. One table: country, how it is written, which check of python-stdnum decides."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Final

from msgspec import Struct

from buspass.mediation.patterns import Span, bounded, compiled, digits


class Number(Struct, frozen=True, kw_only=True):
    """`form` in RE2's syntax; `check` is a module of python-stdnum, None where the state gave no check digit.

    A number whose check is weak (one random number in ten or eleven passes) is looked for in its written form only.
    """

    country: str
    name: str
    check: str | None
    form: str


NUMBERS: Final = (
    Number(country="AT", name="Versicherungsnummer", check="at.vnr", form=r"[0-9]{4} [0-9]{6}"),
    Number(
        country="BE",
        name="Rijksregisternummer",
        check="be.nn",
        form=r"[0-9]{2}\.?[0-9]{2}\.?[0-9]{2}-?[0-9]{3}\.?[0-9]{2}",
    ),
    Number(country="BR", name="CPF", check="br.cpf", form=r"[0-9]{3}\.?[0-9]{3}\.?[0-9]{3}-?[0-9]{2}"),
    Number(country="CA", name="SIN", check="ca.sin", form=r"[0-9]{3}[ -][0-9]{3}[ -][0-9]{3}"),
    Number(country="CH", name="AHV-Nummer", check="ch.ssn", form=r"756\.?[0-9]{4}\.?[0-9]{4}\.?[0-9]{2}"),
    Number(country="CN", name="resident identity number", check="cn.ric", form=r"[0-9]{17}[0-9Xx]"),
    Number(
        country="DE",
        name="steuerliche Identifikationsnummer",
        check="de.idnr",
        form=r"[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}",
    ),
    Number(country="DK", name="CPR-nummer", check="dk.cpr", form=r"[0-9]{6}-[0-9]{4}"),
    Number(country="ES", name="DNI", check="es.dni", form=r"[0-9]{8}[ -]?[A-Za-z]"),
    Number(country="ES", name="NIE", check="es.nie", form=r"[XYZxyz][ -]?[0-9]{7}[ -]?[A-Za-z]"),
    Number(country="FI", name="henkilötunnus", check="fi.hetu", form=r"[0-9]{6}[-+A-FU-Y][0-9]{3}[0-9A-Ya-y]"),
    Number(
        country="FR",
        name="NIR",
        check="fr.nir",
        form=r"[1-478] ?[0-9]{2} ?[0-9]{2} ?[0-9][0-9ABab] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}",
    ),
    Number(
        country="GB",
        name="National Insurance number",
        check=None,
        form=r"(?:A[ABEHKLMPRSTWXYZ]|B[ABEHKLMT]|C[ABEHKLR]|E[ABEHKLMPRSTWXYZ]|G[YZ]|H[ABEHKLMPRSTWXYZ]|J[ABCEGHJKLMNPRSTWXYZ]"
        r"|K[ABEHKLMPRSTWXYZ]|L[ABEHKLMPRSTWXYZ]|M[AWX]|N[ABEHLMPRSWXYZ]|O[ABEHKLMPRSX]|P[ABCEGHJLMNPRSTWXY]"
        r"|R[ABEHKMPRSTWXYZ]|S[ABCGHJKLMNPRSTWXYZ]|T[ABEHKLMPRSTWXYZ]|W[ABEKLMP]|Y[ABEHKLMPRSTWXYZ]|Z[ABEHKLMPRSTWXY])"
        r" ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]",
    ),
    Number(country="IE", name="PPS number", check="ie.pps", form=r"[0-9]{7}[A-Wa-w][A-IWa-iw]?"),
    Number(country="IN", name="Aadhaar", check="in_.aadhaar", form=r"[2-9][0-9]{3} [0-9]{4} [0-9]{4}"),
    Number(
        country="IT",
        name="codice fiscale",
        check="it.codicefiscale",
        form=r"[A-Za-z]{6}[0-9L-NP-Vl-np-v]{2}[A-Za-z][0-9L-NP-Vl-np-v]{2}[A-Za-z][0-9L-NP-Vl-np-v]{3}[A-Za-z]",
    ),
    Number(country="KR", name="RRN", check="kr.rrn", form=r"[0-9]{6}-[0-9]{7}"),
    Number(country="MX", name="CURP", check="mx.curp", form=r"[A-Za-z]{4}[0-9]{6}[A-Za-z]{6}[0-9A-Za-z][0-9]"),
    Number(country="NL", name="BSN", check="nl.bsn", form=r"(?:[0-9]{4}\.[0-9]{2}\.[0-9]{3})"),
    Number(country="NO", name="fødselsnummer", check="no.fodselsnummer", form=r"[0-9]{6} ?[0-9]{5}"),
    Number(country="PL", name="PESEL", check="pl.pesel", form=r"[0-9]{11}"),
    Number(country="SE", name="personnummer", check="se.personnummer", form=r"(?:[0-9]{2})?[0-9]{6}[-+][0-9]{4}"),
    Number(country="TR", name="kimlik numarası", check="tr.tckimlik", form=r"[1-9][0-9]{10}"),
    Number(country="US", name="SSN", check="us.ssn", form=r"[0-9]{3}-[0-9]{2}-[0-9]{4}"),
    Number(country="ZA", name="identity number", check="za.idnr", form=r"[0-9]{13}|[0-9]{6} [0-9]{4} [0-9]{3}"),
)

LABELLED_BSN: Final = r"(?i:\bbsn)[ :#]{1,3}([0-9]{9})"
"""The one bare number that its label makes certain enough."""


def national_ids(text: str) -> list[Span]:
    """Where national numbers stand, each checked as its country checks it."""
    if len(digits(text)) < 5:
        return []
    found = [match.span(1) for match in compiled(LABELLED_BSN).finditer(text) if _valid("nl.bsn", match.group(1) or "")]
    if compiled("|".join(rf"\b(?:{number.form})\b" for number in NUMBERS)).search(text) is None:
        return found
    for number in NUMBERS:
        for match in compiled(rf"\b(?:{number.form})\b").finditer(text):
            start, end = match.span()
            if bounded(text, start, end, joints=".,-/:") and _valid(number.check, text[start:end]):
                found.append((start, end))
    return found


def _valid(check: str | None, written: str) -> bool:
    return check is None or bool(_check(check)(written))


@cache
def _check(module: str) -> Callable[[str], object]:
    """`is_valid` of one module, imported when a number has its form: each country pays for itself."""
    check: Callable[[str], object] = import_module(f"stdnum.{module}").is_valid
    return check

"""Secrets: what opens a door to whoever reads it. Provider and cloud keys, tokens, private keys, connection strings.

Owns their patterns; most bear a prefix that their issuer made to be found. Knows not what becomes of a finding.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Final

from buspass.mediation.patterns import Span, compiled, encodable

LABELS: Final = (
    r"(?i:passw(?:or)?d|pwd|passphrase|client[_-]?secret|secret[_-]?key|secret|api[_-]?key|private[_-]?key"
    r"|access[_-]?key|account[_-]?key|shared[_-]?access[_-]?key|(?:access|auth|refresh|secret)[_-]?token)"
)
"""Names whose values are secrets. A bare `token` is not among them: most are page markers and counts."""

MARKS: Final = (
    r"sk-|[rs]k_(?:live|test)_|whsec_|gsk_|xai-|hf_|npm_|pypi-|SG\.|bp[a-z]?_|AKIA|ASIA|AIza|ya29\.|GOCSPX-|gh[pousr]_"
    r"|github_pat_|glpat-|xox[abeoprs]-|xapp-|hooks\.slack\.com|-----BEGIN|eyJ|://|[?&]sig=|(?i:bearer|basic)|"
) + LABELS
"""Nothing below is in a text without one of these: the cheap first look."""

ISSUED: Final = "|".join(  # noqa: FLY002 - a row each
    (
        r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,200}",  # Stripe
        r"\bwhsec_[A-Za-z0-9+/=]{20,100}",  # Stripe, Svix
        r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",  # AWS access key ids
        r"\bAIza[0-9A-Za-z_-]{35}",  # Google API key
        r"\bya29\.[0-9A-Za-z_-]{20,220}",  # Google OAuth access token
        r"\bGOCSPX-[0-9A-Za-z_-]{28}",  # Google client secret
        r"\bgh[pousr]_[A-Za-z0-9]{36,200}",  # GitHub
        r"\bgithub_pat_[A-Za-z0-9_]{22,200}",
        r"\bglpat-[A-Za-z0-9_.-]{20,100}",  # GitLab
        r"\bxox[abeoprs]-[A-Za-z0-9-]{10,200}",  # Slack
        r"\bxapp-[0-9]-[A-Za-z0-9-]{20,200}",
        r"hooks\.slack\.com/services/T[A-Za-z0-9]{6,20}/B[A-Za-z0-9]{6,20}/[A-Za-z0-9]{16,40}",
        r"\bgsk_[A-Za-z0-9]{40,80}",  # Groq
        r"\bxai-[A-Za-z0-9]{60,100}",
        r"\bhf_[A-Za-z0-9]{30,60}",  # Hugging Face
        r"\bnpm_[A-Za-z0-9]{36}",
        r"\bpypi-AgE[A-Za-z0-9_-]{40,200}",
        r"\bbp_[a-z2-7]{16}_[A-Za-z0-9_-]{43}",  # Buspass, a key; blood pressure is in columns named bp_…
        r"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",  # SendGrid
        r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----",  # RFC 7468, OpenSSH, PGP: the header is enough
        r"[?&]sig=[A-Za-z0-9%+/]{30,120}(?:%3[Dd]|=)",  # Azure shared access signature
    )
)
"""Found by shape alone. Lengths are bounded, so that a match is at most 256 characters."""

RANDOM: Final = r"\b(?:sk-|bp[a-z]_)[A-Za-z0-9_-]{20,230}"
"""OpenAI, Anthropic, those who copied them; Buspass's operator key. Needs a digit: `sk-` also begins package names."""

JWT: Final = r"\b(eyJ[A-Za-z0-9_-]{8,200})\.[A-Za-z0-9_-]{2,40}"
URL: Final = (
    r"\b[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s:/@\"'<>\x00]{0,64}:([^\s/@\"'<>\x00]{1,100})@[^\s\"'<>,/\x00]{1,60}"
)
BEARER: Final = r"(?i:\b(?:bearer|basic))[ \t]{1,4}([A-Za-z0-9._~+/=-]{16,200})"
LABELLED: Final = (
    LABELS + r"[\"'\x00]{0,2}[ \t]{0,4}(=>|:=|=|:)[ \t\x00]{0,4}[\"'\x00]{0,2}"
    r"([^\s\"'<>,;&\x00]{6,128})"
)
STAND_INS: Final = r"^(?:[$%{\[(*]|os\.|env|process\.|null|none|true|false|undefined|x+$|\.+$|\*+$)"
"""A variable's name or an ellipsis in place of a value: documentation, not a secret."""


def credentials(text: str) -> list[Span]:
    """Where secrets stand, unordered and possibly overlapping. Of a labelled secret the value, not the label."""
    found = [match.span() for match in compiled(ISSUED).finditer(text)]
    found += [match.span() for match in compiled(RANDOM).finditer(text) if _random(match.group())]
    found += [match.span() for match in compiled(JWT).finditer(text) if _jose(match.group(1) or "")]
    found += [match.span() for match in compiled(URL).finditer(text) if not _stand_in(match.group(1))]
    found += [match.span(1) for match in compiled(BEARER).finditer(text) if _random(match.group(1))]
    for match in compiled(LABELLED).finditer(text):
        value = match.group(2) or ""
        if (match.group(1) != ":" and not _stand_in(value)) or _mixed(value):
            found.append(match.span(2))
    return found


def labelled(name: str, value: str) -> bool:
    """Whether a member of an object is a secret by its name: `{"password": "hunter2!"}`."""
    fits = compiled(LABELS + "$").search(encodable(name))
    return bool(fits) and 6 <= len(value) <= 128 and not any(map(str.isspace, value)) and _mixed(value)


def _random(value: str | None) -> bool:
    return any(map(str.isdigit, value or "")) and any(map(str.isalpha, value or ""))


def _mixed(value: str) -> bool:
    """After a colon there may be prose (`password: required`), so a value needs more than letters."""
    return _random(value) and not _stand_in(value)


def _stand_in(value: str | None) -> bool:
    return compiled("(?i)" + STAND_INS).search(value or "") is not None


def _jose(header: str) -> bool:
    """RFC 7515 and 7516: the first part is a JSON object that names `alg`."""
    try:
        document = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    except (binascii.Error, ValueError):
        return False
    return isinstance(document, dict) and "alg" in document

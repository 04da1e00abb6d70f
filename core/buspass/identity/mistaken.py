"""What else people send where a task token belongs, and what to tell them. Judges nothing: it only recognises.

Owns the sentences of these refusals. Refuses to repeat any part of a credential, since a detail may be logged.
"""

from __future__ import annotations

from typing import Final

from buspass.identity.jws import LONGEST, Unverified

_START: Final = "start your agent with `buspass run -- …`, or start a task with POST /v1/tasks and use its token"

_PREFIXES: Final = (
    ("sk-ant-", f"this is an Anthropic key (sk-ant-…), not a task token: {_START}"),
    ("sk-", f"this is an OpenAI key (sk-…), not a task token: {_START}"),
    ("bpo_", "this is the operator's key (bpo_…), not a task token: it operates, an agent calls with its task token"),
    ("bp_", "this is a key (bp_…), not a task token: its standing task begins at its first call; it renews none"),
    ("AKIA", f"this is an AWS access key, not a task token: {_START}"),
    ("ASIA", f"this is an AWS access key, not a task token: {_START}"),
    ("IQoJ", f"this is an AWS session token, not a task token: {_START}"),
    ("FwoG", f"this is an AWS session token, not a task token: {_START}"),
    ("Bearer ", "the header says Bearer twice: the API key is the task token alone"),
)
_AWS: Final = (".amazonaws.com", ".api.aws", "cognito-idp.")
_AZURE: Final = ("https://login.microsoftonline.com/", "https://sts.windows.net/", "https://login.microsoftonline.us/")


def credential(text: str) -> str | None:
    """Say what this is that is no JWT at all; None for what may be one."""
    if not text.strip():
        return f"the task token is missing: send it as `Authorization: Bearer …` or as the SDK's API key; {_START}"
    if text != text.strip():
        return "there is white space around the task token: send the token alone"
    may_be = text.count(".") == 2 or len(text) > LONGEST
    other = None if may_be else f"this is not a JWT, as a task token is, nor a key (bp_…): {_START}"
    return next((sentence for prefix, sentence in _PREFIXES if text.startswith(prefix)), other)


def token(given: Unverified, issuer: str) -> str | None:
    """Recognise a JWT that is no task token of this domain, by what it says of itself; None for one that may be."""
    iss = given.says("iss")
    if given.typ == "txntoken+jwt":
        return (
            "this is a Txn-Token, which shows a service behind a tool on whose behalf it is called; "
            "it opens nothing here: use the task token"
        )
    if given.typ == "at+jwt" and iss == issuer:
        return None
    if given.typ == "at+jwt" and "buspass" in given.claims:
        return f"this task token is of another trust domain ({iss}); this one is {issuer}"
    if any(mark in iss for mark in _AWS):
        return f"this is an AWS token, not a task token: it proves the workload. {_EXCHANGE}"
    if iss.startswith(_AZURE):
        return f"this is an Azure (Entra) token, not a task token: it proves the workload. {_EXCHANGE}"
    if iss and iss != issuer:
        return f"this is an OIDC token of {iss}, not a task token: it proves the workload. {_EXCHANGE}"
    return f"this JWT is no task token (typ at+jwt): {_START}"


_EXCHANGE: Final = "Start a task with it at POST /v1/tasks and call with the task's token"

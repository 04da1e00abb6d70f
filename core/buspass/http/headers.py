"""Every header that has a meaning of its own here: the one table, from which the reference is made.

Owns what each means. Refuses to read or write one: the rooms do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

REQUEST: Final[Mapping[str, str]] = {
    "Authorization": "`Bearer TOKEN`: a task token, a key, a workload's or an operator's token",
    "x-api-key": "the same token, as Anthropic's clients send it",
    "api-key": "the same token, as Azure OpenAI's clients send it",
    "Buspass-Session": "with a key: the session whose standing task the call runs in; at most 128 printable characters",
    "Idempotency-Key": "makes a call repeatable: the same key and request give the same outcome and spend nothing",
    "Buspass-Metadata": "a flat JSON object, 16 scalars and 1,024 characters at most; labels the spend in the record",
    "Buspass-Log": "`none`, `metadata`, `redacted` or `full`; may only lower what the workflow logs",
    "If-Match": "of a checkpoint: replaces that one only",
    "If-None-Match": "`*`, of a checkpoint: writes the first only",
    "anthropic-version": "`2023-06-01` or `2026-10-21`; another is `unsupported`",
    "anthropic-beta": "betas that change how a model answers pass, others are `unsupported`, by name",
    "traceparent": "W3C Trace Context, handed on to the service",
}
ANSWER: Final[Mapping[str, str]] = {
    "Buspass-Task": "the task",
    "Buspass-Call": "the call's id, as in the journal",
    "Buspass-Target": "the target that answered, `PROVIDER/MODEL`",
    "Buspass-As-Of": "a report as CSV: up to when it is complete",
    "Buspass-Attempts": "how often it was dispatched",
    "Buspass-Cost": "what the call cost, USD",
    "Buspass-Budget-Remaining": "`tokens=…, cost=…, calls=…, wall=…`: the limited accounts after this call",
    "Buspass-Budget-Soft": "`cost=83%, …`: the accounts past [`budget.soft`](ledger.md#the-soft-limit), with the share "
    "that is spent",
    "Buspass-Observed": "of a workflow that is only [observed](observe.md): what would have been refused or changed, "
    "`VERDICT CODE, …`",
    "Buspass-Replayed": "`true`: an outcome given back, nothing was sent",
    "Server-Timing": "milliseconds at each station",
    "Retry-After": "where waiting can help",
    "x-should-retry": "`false` where the same request should not be repeated by itself",
    "ETag": "of a checkpoint",
}
SERVICE: Final[Mapping[str, str]] = {
    "Txn-Token": "to the service behind a tool with `auth: {txn: …}`: who calls, for whom, what; good for 60 seconds",
    "traceparent": "the agent's, or one of the gateway's own",
    "Idempotency-Key": "the action's id",
}

"""The nouns as frozen types: what every room may know of a task, a call and a host. Refuses to know any room."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

from msgspec import Struct, field

type Amounts = Mapping[str, int]
"""By account: tokens, cost (micro-dollars), calls, model_calls, tool_calls; all integers."""

ACCOUNTS: Final = ("tokens", "cost", "calls", "model_calls", "tool_calls")
UNLIMITED: Final = 2**53 - 1
"""What an account without a limit starts at: the largest integer that every store keeps exactly."""
SLOTS: Final = 64
"""Calls of one task that may be in flight at once."""
THOUGHTS: Final = 1000
"""Thoughts that one task may add to its journal."""
MICRO: Final = 1_000_000
"""Micro-dollars in a dollar."""
DUE_INDEX: Final = "due"
"""The index in which every host's timer finds what it must look at."""
LOOK: Final = 600_000
"""Milliseconds between two looks of a timer at a task that lives."""
DUE_SHARDS: Final = 8
"""Places that due times are spread over."""


def due_shard(partition: str) -> str:
    """Give the shard of the index `due` in which a partition's due time stands, for every host's timer to find."""
    return f"due:{zlib.crc32(partition.encode()) % DUE_SHARDS}"


class Limits(Struct, frozen=True, kw_only=True):
    """What a host can carry. Bytes for sizes, seconds for times; `first_byte` is the time to begin an answer."""

    request_bytes: int
    response_bytes: int
    first_byte: float
    total: float


class Principal(Struct, frozen=True, kw_only=True):
    """The workload that acts, proven by OIDC. `claims` are the mapped ones only."""

    identity: str
    issuer: str
    agent: str
    claims: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.identity}:{self.agent}"


class Subject(Struct, frozen=True, kw_only=True):
    """On whose behalf, and how that was proven."""

    type: str
    id: str
    proof: Literal["token", "asserted", "parent"]

    @property
    def name(self) -> str:
        return f"{self.type}:{self.id}"


# --- inference: what surfaces, providers, routing and mediation hand each other through the gateway ---


class Image(Struct, frozen=True, kw_only=True):
    """A picture in a request: where it stands, and its bytes as base64. `detail` is the client's wish for its size."""

    path: str
    data: str
    detail: str = "auto"


class Ask(Struct, frozen=True, kw_only=True):
    """A model request that passed its surface's allow-list.

    `payload` is the surface's own body without what is ours (`model`, `stream`, OpenAI's `metadata`); `input_bytes`
    bounds its text as UTF-8, tool schemas and response format included, `images` left out; `max_output` is the client's
    own limit, tokens a choice. `include_usage`: the client wants a chunk of usage at its stream's end. `caches`: the
    longest cache the client asks the provider to write. `headers` go to a provider of the same wire format only.
    `flat`: it is known that a message is nothing but strings.
    """

    surface: str
    model: str
    payload: Mapping[str, Any]
    tools: tuple[str, ...]
    n: int
    max_output: int | None
    input_bytes: int
    messages: int
    metadata: Mapping[str, str]
    stream: bool = False
    include_usage: bool = False
    images: tuple[Image, ...] = ()
    caches: Literal["no", "5m", "1h"] = "no"
    headers: Mapping[str, str] = MappingProxyType({})
    flat: bool = False


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens that a provider says it used.

    Parts of `input`: `cached` (read from a cache), `cache_write` (written to one), and of the latter `cache_write_1h`
    (for an hour, which is dearer). Part of `output`: `reasoning`.
    `known` is false where it did not say, or not to the end: the call is charged at its hold, for the counts are at
    most what was said so far.
    """

    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    known: bool = True


class Offer(Struct, frozen=True, kw_only=True):
    """A tool call that a model asks for: a licence for one action. `arguments_text` is JSON as the model wrote it."""

    id: str
    name: str
    arguments_text: str


class Answer(Struct, frozen=True, kw_only=True):
    """A provider's answer; `document` and `finish` (one reason a choice) are in the wire format of the asker's surface.

    `text` is the visible thought of all choices, `thinking` what the model thought before it, as far as it is shown.
    `rendered`: nothing is in `document` but what an agent gets, and all of it but the model's name and the usage.
    """

    document: Mapping[str, Any]
    usage: Usage
    text: str
    offers: tuple[Offer, ...]
    finish: tuple[str, ...]
    thinking: str = ""
    rendered: bool = False

    def texts(self) -> tuple[tuple[str, str], ...]:
        """Every text of it with its position, for inspection."""
        arguments = ((f"tool_calls[{i}].arguments", offer.arguments_text) for i, offer in enumerate(self.offers))
        thinking = (("thinking", self.thinking),) if self.thinking else ()
        return (("text", self.text), *thinking, *arguments)


type FailureKind = Literal[
    "unreachable",  # surely never arrived
    "throttled",  # the provider is busy, or our quota there is used up
    "forbidden",  # it does not take us: our key, account, address or deployment name is wrong
    "rejected",  # it does not take this request: the agent's to mend
    "timeout",
    "broken",  # the connection or the answer broke off
    "failed",  # it says that it failed
    "malformed",  # it answered something that is not its wire format
]


class Failure(Exception):  # noqa: N818 - routing's word for one attempt that brought no answer
    """One attempt without an answer. `billed` is "no" only where the provider surely did no work.

    `retryable`: another target may do better. `message` is the provider's own, sanitized, for `rejected` alone;
    `retry_after` is in seconds.
    """

    def __init__(
        self,
        kind: FailureKind,
        *,
        billed: Literal["no", "unknown"],
        retryable: bool,
        status: int | None = None,
        retry_after: float | None = None,
        message: str = "",
    ) -> None:
        super().__init__(f"{kind} ({status})" if status else kind)
        self.kind = kind
        self.billed = billed
        self.retryable = retryable
        self.status = status
        self.retry_after = retry_after
        self.message = message

"""What a valid buspass.yaml means, as plain frozen data: defaults filled in, units fixed, references resolved.

The rooms see only this. It is built by `config.build` from the schema (pydantic) and can be built anywhere, also when a
bundle is made: so nothing here needs YAML or pydantic. Times are seconds, money is micro-dollars, prices are
pico-dollars a token (USD per million tokens x 10⁶).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct, field

type Schema = Mapping[str, Any]


class Host(Struct, frozen=True, kw_only=True):
    """A host of the trust domain. `signer`, `state`, `queue`, `blobs` are URLs, already with the domain's defaults."""

    name: str
    url: str
    cloud: str
    region: str
    signer: str
    state: str
    queue: str
    blobs: str


class SubjectClaims(Struct, frozen=True, kw_only=True):
    """How an identity provider's token proves a subject: the subject's type, and the claim that holds its id."""

    type: str
    id: str


class IdentityProvider(Struct, frozen=True, kw_only=True):
    """An OIDC issuer that workloads, subjects or operators come from. `claims` maps our names to its claims."""

    name: str
    issuer: str
    audience: str
    claims: Mapping[str, str]
    subject: SubjectClaims | None = None


class Auth(Struct, frozen=True, kw_only=True):
    """How the gateway proves itself to a provider or a tool. `secret` is a name, never a value."""

    kind: Literal["none", "bearer", "header", "txn"]
    secret: str = ""
    header: str = ""
    audience: str = ""


class Provider(Struct, frozen=True, kw_only=True):
    """A model provider: `api` names its wire format; `base_url` has no trailing slash.

    `rpm`, `tpm`: requests and tokens a minute, over all tasks; None: unlimited.
    """

    name: str
    api: str
    base_url: str
    auth: Auth
    region: str = ""
    rpm: int | None = None
    tpm: int | None = None


class Tier(Struct, frozen=True, kw_only=True):
    """Pico-dollars a token of a call whose whole input is more than `start` tokens: for all its tokens. See `Price`."""

    start: int
    input: int
    output: int
    cached_input: int
    cache_write: int | None = None
    cache_write_1h: int | None = None


class Price(Struct, frozen=True, kw_only=True):
    """Pico-dollars a token; `version` says where it came from. `tiers`, lowest first, are the prices of long inputs.

    `cache_write` is for input that the provider writes to its cache (for five minutes, where it offers a choice),
    `cache_write_1h` for an hour; None: Anthropic's usual multiples of `input`.
    """

    input: int
    output: int
    cached_input: int
    version: str
    cache_write: int | None = None
    cache_write_1h: int | None = None
    tiers: tuple[Tier, ...] = ()


class Target(Struct, frozen=True, kw_only=True):
    """A provider's deployment behind an alias. Without a price it is refused as `unpriced` when cost is limited.

    `weight` is its share of the calls, against the other targets', where the alias's strategy is `weighted`.
    """

    provider: str
    model: str
    weight: int
    price: Price | None


class Model(Struct, frozen=True, kw_only=True):
    """An alias: what agents may name. Times in seconds, `max_output` in tokens, `attempts` in dispatches a call.

    `retry_budget`: the share of retries among all dispatches; `idle`: the longest pause within a stream.
    """

    alias: str
    targets: tuple[Target, ...]
    strategy: Literal["priority", "weighted", "latency", "cost"]
    first_token: float
    total: float
    attempts: int
    max_output: int
    retry_budget: float = 0.2
    idle: float = 60.0


class Tool(Struct, frozen=True, kw_only=True):
    """An HTTP tool. `url` may hold `{argument}` segments in its path; `keep` maps fact names to JSON pointers.

    `max_bytes`: the largest answer that is taken; `rate`: calls a second over all tasks; `polling`: seconds between two
    equal calls of a task, for a tool that is asked again and again.
    """

    name: str
    description: str
    hosts: tuple[str, ...] | None
    method: str
    url: str
    input: Schema
    output: Schema | None
    timeout: float
    auth: Auth
    keep: Mapping[str, str]
    statuses: tuple[int, ...]
    idempotent: bool
    max_bytes: int = 1_000_000
    rate: float | None = None
    polling: float | None = None


class After(Struct, frozen=True, kw_only=True):
    """A prerequisite. In `where` (fact: wanted), values `$arguments.X` and `$subject.id` select, literals judge."""

    tool: str
    where: Mapping[str, Any] = field(default_factory=dict)
    within: float | None = None


class Step(Struct, frozen=True, kw_only=True):
    """A tool's place in a route. `where` (argument: wanted) is compared, never filled in."""

    tool: str
    where: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[After, ...] = ()
    max_calls: int | None = None


class AgentRule(Struct, frozen=True, kw_only=True):
    """Who may start a workflow: an identity entry's name and an agent id, both globs; a peer's name to the letter."""

    identity: str
    agent: str


class SubjectRule(Struct, frozen=True, kw_only=True):
    """On whose behalf a workflow may act; present = required."""

    types: tuple[str, ...]
    proof: Literal["token", "asserted"]


class PersonalData(Struct, frozen=True, kw_only=True):
    """Where which classes may go. `to_tools`: what a tool may get at all; `block`: ends a call, whatever else says.

    `phone_regions` (ISO 3166): whose telephone numbers are known as people there write them, without a country's code.
    """

    to_models: Literal["placeholder", "block"] | None
    to_tools: Mapping[str, frozenset[str]]
    to_agent: Literal["restore", "placeholder"] | None
    block: frozenset[str]
    phone_regions: tuple[str, ...] = ()


class Loops(Struct, frozen=True, kw_only=True):
    """How often what repeats goes, by pattern, before it is a loop; `kill`: the third refusal of one ends the task."""

    identical: int = 3
    signature: int = 5
    cycle: int = 3
    no_progress: int = 6
    rising: int = 6
    kill: bool = False


class Workflow(Struct, frozen=True, kw_only=True):
    """A kind of task. `limits` holds the limited accounts only; `wall`, `wait`, `token_ttl`, `replay_ttl`: seconds.

    `observe`: what would be refused is journalled, and passes. `soft`: the share of an account from which it is told,
    `wrap_up` what models are told then.
    """

    name: str
    agents: tuple[AgentRule, ...]
    subject: SubjectRule | None
    models: tuple[str, ...]
    route: Mapping[str, Step]
    limits: Mapping[str, int]
    wall: float
    depth: int
    wait: float
    token_ttl: float
    require_thought: bool
    payloads: Literal["none", "metadata", "redacted", "full"]
    retain: float
    replay_ttl: float
    pool: str | None = None
    timed: frozenset[str] = frozenset()
    """Tools of which a step asks how long ago they answered: that is kept without a fact, too."""
    personal_data: PersonalData | None = None
    loops: Loops | None = Loops()
    observe: bool = False
    soft: float = 0.8
    wrap_up: str = ""


class Pool(Struct, frozen=True, kw_only=True):
    """Money that tasks draw from: `cost` in micro-dollars, all that there is in one `period` ("": ever).

    With a `parent` it is money of that pool. `shards`: parts that tasks draw from, so that they don't meet at one.
    """

    name: str
    cost: int
    period: Literal["", "hour", "day", "week", "month"] = ""
    parent: str | None = None
    shards: int = 1


class Webhook(Struct, frozen=True, kw_only=True):
    """Where messages of `on` (soft_limit, killed, breaker) are sent, signed with the secret of that name."""

    name: str
    url: str
    on: tuple[str, ...]
    secret: str


class Peer(Struct, frozen=True, kw_only=True):
    """Another trust domain: `url` is where its gateway is called, `issuer` its name, where it publishes its keys."""

    name: str
    url: str
    issuer: str


class OperatorRule(Struct, frozen=True, kw_only=True):
    """Whose OIDC token makes an operator: of `identity`, with `group` among the mapped claim `groups`."""

    identity: str
    group: str


class Settings(Struct, frozen=True, kw_only=True):
    """The whole configuration at one revision (hex SHA-256 of file, policies and prices, first 16 digits)."""

    revision: str
    issuer: str
    domain_key: str | None
    hosts: Mapping[str, Host]
    identity: Mapping[str, IdentityProvider]
    local_issuer: bool
    providers: Mapping[str, Provider]
    models: Mapping[str, Model]
    tools: Mapping[str, Tool]
    workflows: Mapping[str, Workflow]
    policy: Mapping[str, str]
    operators: tuple[OperatorRule, ...]
    plain_http: frozenset[str]
    """`host:port` pairs outside loopback that the file itself names with http://."""
    pools: Mapping[str, Pool] = field(default_factory=dict)
    webhooks: Mapping[str, Webhook] = field(default_factory=dict)
    peers: Mapping[str, Peer] = field(default_factory=dict)
    opa: str = ""
    """The URL of the OPA server that answers what `policy` asks; "": it is evaluated here."""

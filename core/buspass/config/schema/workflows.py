"""The part of the schema about workflows: who may start one, the route, the budget, what is logged.

Refuses to know whether names refer to something: `config.references` does.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from buspass.config.schema.base import (
    Count,
    Duration,
    FunctionName,
    Money,
    Name,
    Percent,
    Positive,
    PositiveDuration,
    Shape,
    ShortDuration,
    Text,
)

type PersonalClass = Literal["credit_card", "email", "iban", "national_id", "phone", "ip_address"]


def _phone_region(code: str) -> str:
    from phonenumbers import SUPPORTED_REGIONS  # noqa: PLC0415 - tens of milliseconds, for who asks for it

    if code not in SUPPORTED_REGIONS:
        raise ValueError("no country with telephone numbers; allowed: ISO 3166 codes like DE, GB, US")
    return code


PhoneRegion = Annotated[str, AfterValidator(_phone_region)]


class Agent(Shape):
    """Who may start it: an identity entry's name and an agent id, both globs."""

    identity: Text
    agent: Text


class SubjectRule(Shape):
    """On whose behalf; present = required."""

    types: Annotated[list[Name], Field(min_length=1)]
    proof: Literal["token", "asserted"] = "token"


def _named(value: Any) -> Any:
    return {"tool": value} if isinstance(value, str) else value


class AfterRule(Shape):
    """A step that must have succeeded before."""

    tool: FunctionName
    where: dict[str, Any] = Field(default_factory=dict)
    within: PositiveDuration | None = None


After = Annotated[AfterRule, BeforeValidator(_named)]


class StepRule(Shape):
    """A tool's place in the route."""

    tool: FunctionName
    where: dict[str, Any] = Field(default_factory=dict)
    after: list[After] = Field(default_factory=list)
    max_calls: Positive | None = None


Step = Annotated[StepRule, BeforeValidator(_named)]


class Budget(Shape):
    """The limits of one task; an account that isn't named is unlimited."""

    tokens: Count | None = None
    cost: Money | None = None
    calls: Count | None = None
    model_calls: Count | None = None
    tool_calls: Count | None = None
    wall: PositiveDuration = 1800.0
    depth: Annotated[int, Field(ge=0, le=16)] = 2
    wait: ShortDuration = 2.0
    soft: Percent = 0.8
    wrap_up: Annotated[str, Field(max_length=2000)] = ""


LoopCount = Annotated[int, Field(ge=1, le=12)]


class LoopsRule(Shape):
    """How often what repeats goes before it counts as a loop, and what happens then."""

    identical: LoopCount = 3
    signature: LoopCount = 5
    cycle: Annotated[int, Field(ge=1, le=6)] = 3
    no_progress: LoopCount = 6
    rising: LoopCount = 6
    action: Literal["refuse", "kill"] = "refuse"


def _no_loops(value: Any) -> Any:
    if value == "off":
        return None
    if value is None or isinstance(value, str):
        raise ValueError(f"{value!r} is not known; allowed: off, or {{identical: 3}}")
    return value


Loops = Annotated[LoopsRule | None, BeforeValidator(_no_loops)]


class Logging(Shape):
    """What of a call's content is kept, and for how long."""

    payloads: Literal["none", "metadata", "redacted", "full"] = "metadata"
    retain: PositiveDuration = 30 * 86400.0


class ReplayRule(Shape):
    """How long a keyed call's outcome can be given back."""

    ttl: Duration = 86400.0


def _off(value: Any) -> Any:
    if value == "off":
        return {"ttl": "0s"}
    if isinstance(value, str):
        raise ValueError(f"{value!r} is not known; allowed: off, or {{ttl: 24h}}")  # noqa: TRY004 - pydantic's word
    return value


Replay = Annotated[ReplayRule, BeforeValidator(_off)]


class PersonalData(Shape):
    """Where which classes of personal data may go."""

    to_models: Literal["placeholder", "block"] | None = None
    to_tools: dict[FunctionName, list[PersonalClass]] = Field(default_factory=dict)
    to_agent: Literal["restore", "placeholder"] | None = None
    block: list[PersonalClass] = Field(default_factory=list)
    phone_regions: list[PhoneRegion] = Field(default_factory=list)


class HostedTool(Shape):
    """A tool that the provider runs itself; `price` in USD a use."""

    price: Money


class Workflow(Shape):
    """A kind of task."""

    agents: list[Agent] | None = None
    subject: SubjectRule | None = None
    models: list[Text] = Field(default_factory=list)
    tools: list[Step] = Field(default_factory=list)
    budget: Budget = Budget()
    pool: Name | None = None
    token_ttl: PositiveDuration = 3600.0
    enforce: Literal["on", "observe"] = "on"
    require_thought: bool = False
    loops: Loops = LoopsRule()
    logging: Logging = Logging()
    replay: Replay = ReplayRule()
    personal_data: PersonalData | None = None
    hosted_tools: dict[FunctionName, HostedTool] = Field(default_factory=dict)
    data_residency: list[Name] = Field(default_factory=list)

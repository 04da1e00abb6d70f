"""The whole shape of buspass.yaml as strict pydantic models, also of what is not built yet.

What is valid here but not built is refused by `config.unavailable`; what names refer to is judged by
`config.references`. Only `build` and `cli.check` import this: pydantic costs a cold start.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from buspass.config.schema.base import (
    BlobsUrl,
    Empty,
    FunctionName,
    HttpUrl,
    IssuerUrl,
    Name,
    Periodic,
    PositiveDuration,
    QueueUrl,
    Secret,
    Shape,
    SignerUrl,
    StateUrl,
    Text,
    one_of,
)
from buspass.config.schema.inference import Model, Price, Provider
from buspass.config.schema.tools import Tool
from buspass.config.schema.workflows import Workflow

__all__ = ["Configuration", "Pool"]

WEBHOOK_SECRET = "BUSPASS_WEBHOOK_SECRET"  # noqa: S105 - the name of one


class Host(Shape):
    """A host of this trust domain, with what it has of its own."""

    url: HttpUrl
    cloud: Literal["aws", "azure", "onprem"]
    region: Text | None = None
    signer: SignerUrl | None = None
    state: StateUrl | None = None
    queue: QueueUrl | None = None
    blobs: BlobsUrl | None = None


class SubjectClaims(Shape):
    """What a token of this issuer proves: a subject's type, and the claim that holds its id."""

    type: Name
    id: Text


class Identity(Shape):
    """An OIDC issuer; `claims` prove workloads and operators, `subject` proves subjects."""

    name: Name
    issuer: IssuerUrl
    audience: Text
    claims: dict[Name, Text] = Field(default_factory=dict)
    subject: SubjectClaims | None = None

    @model_validator(mode="after")
    def _proves_something(self) -> Identity:
        if not self.claims and self.subject is None:
            raise ValueError("proves nobody; allowed: claims: for workloads and operators, subject: for subjects")
        return self


class Pool(Shape):
    """Money shared by workflows and keys, for ever or in a period of the calendar."""

    cost: Periodic
    parent: Name | None = None
    shards: Annotated[int, Field(ge=1, le=64)] = 1


class Inspector(Shape):
    """A service that looks at content; exactly one of webhook, bedrock_guardrail, azure_content_safety."""

    name: Name
    webhook: HttpUrl | None = None
    bedrock_guardrail: Text | None = None
    azure_content_safety: HttpUrl | None = None
    on: Annotated[list[Literal["request", "response"]], Field(min_length=1)]
    timeout: PositiveDuration
    fail: Literal["open", "closed"] = "closed"

    @model_validator(mode="after")
    def _one_service(self) -> Inspector:
        if sum(each is not None for each in (self.webhook, self.bedrock_guardrail, self.azure_content_safety)) != 1:
            raise ValueError(
                "exactly one of these is needed; allowed: webhook, bedrock_guardrail, azure_content_safety"
            )
        return self


class Webhook(Shape):
    """Where events are sent, signed with `secret`."""

    url: HttpUrl
    secret: Secret = Secret(secret=WEBHOOK_SECRET)
    on: Annotated[list[Literal["soft_limit", "killed", "breaker", "approval"]], Field(min_length=1)]


class Telemetry(Shape):
    """Where traces and metrics are sent."""

    otlp: HttpUrl


class Peer(Shape):
    """Another trust domain: where its gateway is called, and the issuer under which it publishes its keys."""

    url: HttpUrl
    issuer: IssuerUrl


class OpaServer(Shape):
    """An OPA server."""

    url: HttpUrl


class EngineKinds(Shape):
    """What answers Rego: exactly one."""

    embedded: Empty | None = None
    opa: OpaServer | None = None
    wasm: Empty | None = None


class Policy(Shape):
    """The folder of Rego modules and what answers them."""

    path: Text
    engine: Annotated[EngineKinds, BeforeValidator(one_of("embedded", "opa", "wasm"))] = EngineKinds(embedded=Empty())


class Operator(Shape):
    """People who may operate: a group of an identity entry."""

    identity: Name
    group: Text


def _version(value: Any) -> Any:
    if type(value) is not int or value != 1:
        raise ValueError("not a version of this file; allowed: 1")
    return value


class Configuration(Shape):
    """buspass.yaml."""

    version: Annotated[int, BeforeValidator(_version)]
    issuer: HttpUrl | None = None
    domain_key: Secret | None = None
    hosts: Annotated[dict[Name, Host], Field(min_length=1)] | None = None
    signer: SignerUrl | None = None
    state: StateUrl | None = None
    queue: QueueUrl | None = None
    blobs: BlobsUrl | None = None
    identity: list[Identity] = Field(default_factory=list)
    providers: dict[Name, Provider] = Field(default_factory=dict)
    models: dict[Name, Model] = Field(default_factory=dict)
    prices: dict[Text, Price] = Field(default_factory=dict)
    tools: dict[FunctionName, Tool] = Field(default_factory=dict)
    workflows: Annotated[dict[Name, Workflow], Field(min_length=1)]
    pools: dict[Name, Pool] = Field(default_factory=dict)
    inspectors: list[Inspector] = Field(default_factory=list)
    webhooks: dict[Name, Webhook] = Field(default_factory=dict)
    telemetry: Telemetry | None = None
    peers: dict[Name, Peer] = Field(default_factory=dict)
    policy: Policy | None = None
    operators: list[Operator] = Field(default_factory=list)

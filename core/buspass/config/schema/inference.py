"""The part of the schema about models: providers, how the gateway proves itself to them, aliases, prices.

Auth is shared with tools. Refuses to know whether names refer to something: `config.references` does.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from buspass.config.schema.base import (
    Empty,
    HeaderName,
    HttpUrl,
    Name,
    Percent,
    PicoPrice,
    Positive,
    PositiveDuration,
    Secret,
    SecretName,
    Shape,
    Text,
    one_of,
)


class HeaderAuth(Shape):
    """A secret in a header of its own."""

    name: HeaderName
    secret: SecretName


class OAuth2(Shape):
    """Client credentials (RFC 6749, 4.4)."""

    token_url: HttpUrl
    client_id: Text
    client_secret: Secret
    scope: Text | None = None


class AwsAuth(Shape):
    """SigV4 with an assumed role."""

    role: Text
    service: Text | None = None
    region: Text | None = None
    session_tags: dict[str, str] | None = None


class AzureAuth(Shape):
    """A token of the host's managed identity."""

    scope: Text


class Mtls(Shape):
    """A client certificate and its key."""

    certificate: Secret
    key: Secret


class TxnAuth(Shape):
    """A Txn-Token, which proves on whose behalf; `audience` is the service's own name."""

    audience: Text


class AuthKinds(Shape):
    """How the gateway proves itself: exactly one."""

    none: Empty | None = None
    bearer: Secret | None = None
    header: HeaderAuth | None = None
    oauth2: OAuth2 | None = None
    aws: AwsAuth | None = None
    azure: AzureAuth | None = None
    mtls: Mtls | None = None
    txn: TxnAuth | None = None


_KINDS = BeforeValidator(one_of("none", "bearer", "header", "oauth2", "aws", "azure", "mtls", "txn"))
Auth = Annotated[AuthKinds, _KINDS]


class ProviderLimits(Shape):
    """What the provider's own quota allows."""

    rpm: Positive | None = None
    tpm: Positive | None = None


class Provider(Shape):
    """A model provider."""

    api: Literal["openai", "azure-openai", "anthropic", "bedrock"]
    base_url: HttpUrl | None = None
    auth: Auth
    region: Text | None = None
    limits: ProviderLimits | None = None

    @model_validator(mode="after")
    def _has_an_address(self) -> Provider:
        if self.base_url is None and self.api != "bedrock":
            raise ValueError(f"base_url: is needed for api: {self.api}")
        return self


class Canary(Shape):
    """When a target on trial is taken out again."""

    max_error_rate: Percent
    min_calls: Positive


class Target(Shape):
    """A provider's deployment."""

    provider: Name
    model: Text
    weight: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    canary: Canary | None = None


class Shadow(Shape):
    """A copy of some calls to another target, paid from a pool."""

    provider: Name
    model: Text
    sample: Percent
    pool: Name


class Retry(Shape):
    """How often a call is dispatched at most, and the share of retries among all dispatches."""

    attempts: Annotated[int, Field(ge=1, le=10)] = 2
    budget: Percent = 0.2


class Hedge(Shape):
    """A second dispatch when the first is slow."""

    after: Literal["p50", "p90", "p95", "p99"]
    max: Percent


class Cache(Shape):
    """Answers given again."""

    ttl: PositiveDuration
    share: Literal["subject", "workflow"] = "subject"


class ModelTimeout(Shape):
    """Until the first token, between two pieces of a stream, and until the last token."""

    first_token: PositiveDuration | None = None
    idle: PositiveDuration = 60.0
    total: PositiveDuration | None = None

    @model_validator(mode="after")
    def _in_order(self) -> ModelTimeout:
        if self.first_token is not None and self.total is not None and self.first_token > self.total:
            raise ValueError("first_token is longer than total")
        return self


class Model(Shape):
    """An alias: what agents may name."""

    targets: Annotated[list[Target], Field(min_length=1, max_length=16)]
    strategy: Literal["priority", "weighted", "latency", "cost"] = "priority"
    timeout: ModelTimeout = ModelTimeout()
    max_output: Annotated[int, Field(ge=1, le=10_000_000)] = 4096
    retry: Retry = Retry()
    shadow: Shadow | None = None
    hedge: Hedge | None = None
    cache: Cache | None = None


class Price(Shape):
    """USD per million tokens; kept as pico-dollars a token."""

    input: PicoPrice
    output: PicoPrice
    cached_input: PicoPrice | None = None
    cache_write: PicoPrice | None = None
    cache_write_1h: PicoPrice | None = None

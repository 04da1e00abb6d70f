"""What every part of the schema shares: the strict model, and the types that read the small languages of values.

Refuses to know any key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from buspass.config import scalars
from buspass.model import UNLIMITED


class Shape(BaseModel):
    """A mapping whose keys are all known; nothing is converted from one type into another."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Duration = Annotated[float, BeforeValidator(scalars.duration)]
ShortDuration = Annotated[float, BeforeValidator(scalars.short_duration)]
PositiveDuration = Annotated[float, BeforeValidator(scalars.positive_duration)]
Percent = Annotated[float, BeforeValidator(scalars.percent)]
Rate = Annotated[float, BeforeValidator(scalars.rate)]
Periodic = Annotated[tuple[int, scalars.Period], BeforeValidator(scalars.periodic)]
Money = Annotated[int, BeforeValidator(scalars.money)]
PicoPrice = Annotated[int, BeforeValidator(scalars.price)]
Count = Annotated[int, Field(ge=0, lt=UNLIMITED)]
Positive = Annotated[int, Field(ge=1, lt=UNLIMITED)]
Text = Annotated[str, Field(min_length=1, max_length=1024)]
Name = Annotated[str, AfterValidator(scalars.name)]
FunctionName = Annotated[str, AfterValidator(scalars.function_name)]
SecretName = Annotated[str, AfterValidator(scalars.secret_name)]
HeaderName = Annotated[str, AfterValidator(scalars.header_name)]
Pointer = Annotated[str, AfterValidator(scalars.pointer)]
HttpUrl = Annotated[str, AfterValidator(scalars.http_url)]
IssuerUrl = Annotated[str, AfterValidator(scalars.issuer_url)]
ToolUrl = Annotated[str, AfterValidator(scalars.tool_url)]


def _store(*schemes: str) -> Callable[[str], str]:
    return lambda value: scalars.store_url(value, schemes)


StateUrl = Annotated[str, AfterValidator(_store("sqlite", "memory", "dynamodb", "cosmos", "redis"))]
QueueUrl = Annotated[str, AfterValidator(_store("sqlite", "sqs", "servicebus", "redis"))]
BlobsUrl = Annotated[str, AfterValidator(_store("file", "s3", "azblob"))]
SignerUrl = Annotated[str, AfterValidator(_store("file", "kms", "keyvault"))]


class Empty(Shape):
    """A choice without settings of its own."""


class Secret(Shape):
    """Names a secret in the host's own store."""

    secret: SecretName

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """Refuse the secret itself where its name belongs, without showing it."""
        if isinstance(value, str):
            told = "must be {secret: NAME}, the name of a secret in the host's own store; never its value"
            raise ValueError(told)  # noqa: TRY004 - pydantic takes no TypeError
        return value


def one_of(*names: str) -> Callable[[Any], Any]:
    """Read a choice given as a word (`none`) or as a mapping of one word (`{bearer: …}`) into the mapping."""
    allowed = f"allowed: {', '.join(names)}"

    def read(value: Any) -> Any:
        if isinstance(value, str):
            if value not in names:
                raise ValueError(f"{value!r} is not known; {allowed}")
            return {value: {}}
        if isinstance(value, dict) and len(value) != 1:
            raise ValueError(f"exactly one of these is needed; {allowed}")
        return value

    return read

"""OpenAI's chat completions as nearly every agent writes them, judged in one look, without paths and without rows.

Owns a part of `openai_chat.REQUEST`: what fits here is taken there as it is, nothing dropped, nothing to mend. What
does not fit says nothing: those tables judge it. Refuses to know why a request is wrong.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, ValidationError, convert

from buspass.surfaces.openai_chat import MOST_CHOICES, MOST_OUTPUT

MOST_TOOLS: Final = 128
NAME: Final = "[a-zA-Z0-9_-]{1,64}"
SPEAKER: Final = r"[^\s<|\\/>]{1,64}"
CALL_ID: Final = 256

type Name = Annotated[str, Meta(pattern=rf"\A{NAME}\Z")]
type Speaker = Annotated[str, Meta(pattern=rf"\A{SPEAKER}\Z")]
type Id = Annotated[str, Meta(min_length=1, max_length=CALL_ID)]
type Tokens = Annotated[int, Meta(ge=1, le=MOST_OUTPUT)]
type Share = Annotated[float, Meta(ge=0, le=1)]
type Penalty = Annotated[float, Meta(ge=-2, le=2)]
type Label = Annotated[str, Meta(max_length=512)]


class _Part(Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["text"]
    text: str


type Content = str | Annotated[list[_Part], Meta(min_length=1)]


class _Message(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="role"):
    """Whoever speaks."""


class _System(_Message, kw_only=True, tag="system"):
    content: Content
    name: Speaker | UnsetType = UNSET


class _Developer(_Message, kw_only=True, tag="developer"):
    content: Content
    name: Speaker | UnsetType = UNSET


class _User(_Message, kw_only=True, tag="user"):
    content: Content
    name: Speaker | UnsetType = UNSET


class _Called(Struct, kw_only=True, forbid_unknown_fields=True):
    name: Name
    arguments: str


class _ToolCall(Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["function"]
    id: Id
    function: _Called


class _Assistant(_Message, kw_only=True, tag="assistant"):
    content: Content | None
    name: Speaker | UnsetType = UNSET
    tool_calls: Annotated[list[_ToolCall], Meta(min_length=1, max_length=MOST_TOOLS)] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.content is None and self.tool_calls is UNSET:
            raise ValueError("a message that says nothing")


class _Result(_Message, kw_only=True, tag="tool"):
    content: Content
    tool_call_id: Id


class _Function(Struct, kw_only=True, forbid_unknown_fields=True):
    name: Name
    description: str | UnsetType = UNSET
    parameters: dict[str, Any] | UnsetType = UNSET
    strict: bool | UnsetType = UNSET


class _Tool(Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["function"]
    function: _Function


class _Named(Struct, kw_only=True, forbid_unknown_fields=True):
    name: Name


class _Choice(Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["function"]
    function: _Named


class _StreamOptions(Struct, kw_only=True, forbid_unknown_fields=True):
    include_usage: bool | UnsetType = UNSET


class _Request(Struct, kw_only=True, forbid_unknown_fields=True):
    model: Annotated[str, Meta(min_length=1, max_length=256)]
    messages: Annotated[
        list[_System | _Developer | _User | _Assistant | _Result],
        Meta(min_length=1),
    ]
    tools: Annotated[list[_Tool], Meta(min_length=1, max_length=MOST_TOOLS)] | UnsetType = UNSET
    tool_choice: Literal["none", "auto", "required"] | _Choice | UnsetType = UNSET
    parallel_tool_calls: bool | UnsetType = UNSET
    temperature: Annotated[float, Meta(ge=0, le=2)] | UnsetType = UNSET
    top_p: Share | UnsetType = UNSET
    n: Annotated[int, Meta(ge=1, le=MOST_CHOICES)] | UnsetType = UNSET
    max_tokens: Tokens | UnsetType = UNSET
    max_completion_tokens: Tokens | UnsetType = UNSET
    presence_penalty: Penalty | UnsetType = UNSET
    frequency_penalty: Penalty | UnsetType = UNSET
    user: Label | UnsetType = UNSET
    metadata: Annotated[dict[Annotated[str, Meta(max_length=64)], Label], Meta(max_length=16)] | UnsetType = UNSET
    stream: bool | UnsetType = UNSET
    stream_options: _StreamOptions | UnsetType = UNSET


def fits(body: Any) -> bool:
    """Whether a request's parsed JSON is surely as `openai_chat.REQUEST` wants it, each member to be passed on."""
    try:
        convert(body, _Request)
    except ValidationError:
        return False
    return True

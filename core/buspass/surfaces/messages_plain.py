"""Anthropic's messages as nearly every agent writes them, judged in one look, without paths and without rows.

Owns a part of `anthropic_fields.REQUEST`: what fits here is taken there as it is, nothing dropped, nothing to mend.
What does not fit (pictures, output formats, a null anywhere) says nothing: those tables judge it. Refuses to know why a
request is wrong.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, ValidationError, convert

from buspass.surfaces.anthropic_fields import MOST_OUTPUT

type Name = Annotated[str, Meta(pattern=r"\A[a-zA-Z0-9_-]{1,128}\Z")]
type Id = Annotated[str, Meta(pattern=r"\A[a-zA-Z0-9_-]{1,256}\Z")]
type Tokens = Annotated[int, Meta(ge=1, le=MOST_OUTPUT)]
type Share = Annotated[float, Meta(ge=0, le=1)]
type Display = Literal["summarized", "omitted"]


class _Cache(Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | UnsetType = UNSET


class _Words(Struct, kw_only=True, forbid_unknown_fields=True):
    """A text where nothing else may stand: alone in its union its tag would not be asked for."""

    type: Literal["text"]
    text: str
    cache_control: _Cache | UnsetType = UNSET


class _Block(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """One of several kinds."""


class _Text(_Block, kw_only=True, tag="text"):
    text: str
    cache_control: _Cache | UnsetType = UNSET


class _Thinking(_Block, kw_only=True, tag="thinking"):
    thinking: str
    signature: str


class _Redacted(_Block, kw_only=True, tag="redacted_thinking"):
    data: str


class _ToolUse(_Block, kw_only=True, tag="tool_use"):
    id: Id
    name: Name
    input: dict[str, Any]
    cache_control: _Cache | UnsetType = UNSET


class _Result(_Block, kw_only=True, tag="tool_result"):
    tool_use_id: Id
    content: str | list[_Words] | UnsetType = UNSET
    is_error: bool | UnsetType = UNSET
    cache_control: _Cache | UnsetType = UNSET


class _Message(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="role"):
    """Whoever speaks."""


class _User(_Message, kw_only=True, tag="user"):
    content: str | list[_Text | _Result]


class _Assistant(_Message, kw_only=True, tag="assistant"):
    content: str | list[_Text | _Thinking | _Redacted | _ToolUse]


class _Tool(Struct, kw_only=True, forbid_unknown_fields=True):
    name: Name
    input_schema: dict[str, Any]
    type: Literal["custom"] | UnsetType = UNSET
    description: str | UnsetType = UNSET
    strict: bool | UnsetType = UNSET
    eager_input_streaming: bool | UnsetType = UNSET
    cache_control: _Cache | UnsetType = UNSET


class _Auto(_Block, kw_only=True, tag="auto"):
    disable_parallel_tool_use: bool | UnsetType = UNSET


class _AnyTool(_Block, kw_only=True, tag="any"):
    disable_parallel_tool_use: bool | UnsetType = UNSET


class _NoTool(_Block, kw_only=True, tag="none"):
    """The model is to say something itself."""


class _Named(_Block, kw_only=True, tag="tool"):
    name: Name
    disable_parallel_tool_use: bool | UnsetType = UNSET


class _Thinks(_Block, kw_only=True, tag="enabled"):
    budget_tokens: Annotated[int, Meta(ge=1024, le=MOST_OUTPUT)]
    display: Display | UnsetType = UNSET


class _Adapts(_Block, kw_only=True, tag="adaptive"):
    display: Display | UnsetType = UNSET


class _Blurts(_Block, kw_only=True, tag="disabled"):
    """It does not think before it speaks."""


class _Effort(Struct, kw_only=True, forbid_unknown_fields=True):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | UnsetType = UNSET


class _Edit(Struct, kw_only=True):
    """The rest of it is the provider's to judge."""

    type: Literal["clear_tool_uses_20250919", "clear_thinking_20251015"]


class _Edits(Struct, kw_only=True, forbid_unknown_fields=True):
    edits: list[_Edit] | UnsetType = UNSET


class _Whose(Struct, kw_only=True, forbid_unknown_fields=True):
    user_id: Annotated[str, Meta(max_length=512)] | UnsetType = UNSET


class _Request(Struct, kw_only=True, forbid_unknown_fields=True):
    model: Annotated[str, Meta(min_length=1, max_length=256)]
    messages: Annotated[list[_User | _Assistant], Meta(min_length=1)]
    max_tokens: Tokens
    system: str | Annotated[list[_Words], Meta(min_length=1)] | UnsetType = UNSET
    tools: Annotated[list[_Tool], Meta(max_length=128)] | UnsetType = UNSET
    tool_choice: _Auto | _AnyTool | _NoTool | _Named | UnsetType = UNSET
    thinking: _Thinks | _Adapts | _Blurts | UnsetType = UNSET
    output_config: _Effort | UnsetType = UNSET
    context_management: _Edits | UnsetType = UNSET
    cache_control: _Cache | UnsetType = UNSET
    stop_sequences: Annotated[list[str], Meta(max_length=64)] | UnsetType = UNSET
    temperature: Share | UnsetType = UNSET
    top_p: Share | UnsetType = UNSET
    top_k: Annotated[int, Meta(ge=0, le=2**31)] | UnsetType = UNSET
    metadata: _Whose | UnsetType = UNSET
    stream: bool | UnsetType = UNSET


def fits(body: Any) -> bool:
    """Whether a request's parsed JSON is surely as the tables want it, each member to be passed on."""
    try:
        convert(body, _Request)
    except ValidationError:
        return False
    return True

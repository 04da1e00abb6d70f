"""Anthropic's own SDK, unchanged."""

import json

import anthropic
from pydantic import BaseModel
from stage import ITEM, TEXT, check, item, main, told

ASKED = [{"role": "user", "content": TEXT}]


class Item(BaseModel):
    id: str
    owner: str


@anthropic.beta_tool(name="item")
def looked_up(id: str) -> str:  # noqa: A002 - the argument's name is part of the schema
    """An item of the shop.

    Args:
        id: its number
    """
    return json.dumps(item(id))


@check("messages")
def create(model):
    answer = anthropic.Anthropic().messages.create(model=model, max_tokens=50, messages=ASKED)
    assert [block.text for block in answer.content] == [TEXT]
    assert answer.usage.input_tokens > 0


@check("messages")
async def create_async(model):
    async with anthropic.AsyncAnthropic() as client:
        answer = await client.messages.create(model=model, max_tokens=50, messages=ASKED)
    assert answer.stop_reason == "end_turn"


@check("messages")
def stream(model):
    events = list(anthropic.Anthropic().messages.create(model=model, max_tokens=50, messages=ASKED, stream=True))
    assert (events[0].type, events[-1].type) == ("message_start", "message_stop")


@check("messages")
def streaming_helper(model):
    with anthropic.Anthropic().messages.stream(model=model, max_tokens=50, messages=ASKED) as found:
        said = list(found.text_stream)
        assert found.get_final_message().usage.output_tokens > 0
    assert "".join(said) == TEXT


@check("messages")
def structured_output(model):
    asking = {"model": model, "max_tokens": 50, "messages": ASKED, "output_format": Item}
    client = anthropic.Anthropic()
    assert client.messages.parse(**asking).parsed_output == Item(**ITEM)
    with client.messages.stream(**asking) as found:
        assert found.get_final_message().parsed_output == Item(**ITEM)


@check("messages", refused=2)
def tool_runner(model):
    # a runner first asks the provider to keep the conversation, is refused, and goes on by itself without
    for streamed in (False, True):
        runner = anthropic.Anthropic().beta.messages.tool_runner(
            model=model, max_tokens=100, messages=ASKED, tools=[looked_up], stream=streamed
        )
        if streamed:
            *_, last = (found.get_final_message() for found in runner)
        else:
            last = runner.until_done()
        assert told(last.content[-1].text)


@check("messages")
def count_tokens(model):
    assert anthropic.Anthropic().messages.count_tokens(model=model, messages=ASKED).input_tokens > 0


@check("messages")
def list_models(model):
    assert model in {row.id for row in anthropic.Anthropic().models.list()}


def refused(kind, **asking):
    try:
        anthropic.Anthropic().messages.create(messages=ASKED, **asking)
    except kind as error:
        return error
    raise AssertionError("nothing was raised")


@check("messages", refused=4)
def refusals(model):
    for streamed in (False, True):
        error = refused(anthropic.PermissionDeniedError, model="opus-none", max_tokens=50, stream=streamed)
        assert (error.body["error"]["code"], error.status_code) == ("model_not_granted", 403)
        error = refused(
            anthropic.UnprocessableEntityError, model=model, max_tokens=50, stream=streamed, extra_body={"x": 1}
        )
        assert error.body["error"]["code"] == "unsupported"


@check("messages", refused=1)
def too_dear(model):
    error = refused(anthropic.APIStatusError, model=model, max_tokens=10_000_000, timeout=30)
    assert (error.status_code, error.type) == (402, "billing_error")


if __name__ == "__main__":
    main()

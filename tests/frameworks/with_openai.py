"""OpenAI's own SDK, unchanged."""

import json
import os

import openai
from pydantic import BaseModel
from stage import ITEM, TEXT, TOOL, check, item, main, told

ASKED = [{"role": "user", "content": TEXT}]


class Item(BaseModel):
    id: str
    owner: str


class Wanted(BaseModel):
    id: str


FUNCTION = openai.pydantic_function_tool(Wanted, name=TOOL, description="An item.")


@check("chat")
def create(model):
    answer = openai.OpenAI().chat.completions.create(model=model, messages=ASKED)
    assert answer.choices[0].message.content == TEXT
    assert answer.usage.total_tokens > 0


@check("chat")
async def create_async(model):
    async with openai.AsyncOpenAI() as client:
        answer = await client.chat.completions.create(model=model, messages=ASKED)
    assert answer.choices[0].message.content == TEXT


@check("chat")
def stream(model):
    options = {"include_usage": True}
    chunks = list(
        openai.OpenAI().chat.completions.create(model=model, messages=ASKED, stream=True, stream_options=options)
    )
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == TEXT
    assert chunks[-1].usage.total_tokens > 0


@check("chat")
def streaming_helper(model):
    with openai.OpenAI().chat.completions.stream(model=model, messages=ASKED) as found:
        kinds = {event.type for event in found}
        final = found.get_final_completion()
    assert {"content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == TEXT


@check("chat")
def structured_output(model):
    client = openai.OpenAI()
    answer = client.chat.completions.parse(model=model, messages=ASKED, response_format=Item)
    assert answer.choices[0].message.parsed == Item(**ITEM)
    with client.chat.completions.stream(model=model, messages=ASKED, response_format=Item) as found:
        assert found.get_final_completion().choices[0].message.parsed == Item(**ITEM)


@check("chat")
def tool_loop(model):
    for streamed in (False, True):
        client, messages = openai.OpenAI(), list(ASKED)
        for _ in range(2):
            if streamed:
                with client.chat.completions.stream(model=model, messages=messages, tools=[FUNCTION]) as found:
                    said = found.get_final_completion().choices[0].message
            else:
                said = (
                    client.chat.completions.parse(model=model, messages=messages, tools=[FUNCTION]).choices[0].message
                )
            messages.append(said)
            for call in said.tool_calls or ():
                result = json.dumps(item(call.function.parsed_arguments.id))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        assert told(said.content)


@check("chat")
def list_models(model):
    assert model in {row.id for row in openai.OpenAI().models.list()}


@check("chat")
def azure_client(model):
    client = openai.AzureOpenAI(api_version="2024-10-21")
    assert client.chat.completions.create(model=model, messages=ASKED).choices[0].message.content == TEXT
    newer = openai.OpenAI(base_url=f"{os.environ['AZURE_OPENAI_ENDPOINT']}/openai/v1/")
    assert newer.chat.completions.create(model=model, messages=ASKED).choices[0].message.content == TEXT


def refused(kind, **asking):
    try:
        openai.OpenAI().chat.completions.create(messages=ASKED, **asking)
    except kind as error:
        return error
    raise AssertionError("nothing was raised")


@check("chat", refused=4)
def refusals(model):
    for streamed in (False, True):
        error = refused(openai.PermissionDeniedError, model="gpt-none", stream=streamed)
        assert (error.code, error.status_code) == ("model_not_granted", 403)
        error = refused(openai.UnprocessableEntityError, model=model, stream=streamed, extra_body={"x": 1})
        assert (error.code, error.param) == ("unsupported", "x")


@check("chat", refused=1)
def too_dear(model):
    error = refused(openai.APIStatusError, model=model, max_tokens=10_000_000)
    assert (error.status_code, error.code) == (402, "budget_exhausted")


@check("chat")
def responses_api_is_refused(model):
    try:
        openai.OpenAI().responses.create(model=model, input=TEXT)
    except openai.NotFoundError as error:
        assert error.code == "unsupported_endpoint"
        assert "chat completions" in error.message
    else:
        raise AssertionError("nothing was raised")


if __name__ == "__main__":
    main()

"""The OpenAI Agents SDK with its chat completions model, as its documents set it; its default is refused clearly."""

import json

import openai
from agents import Agent, Runner, function_tool, set_default_openai_api
from pydantic import BaseModel
from stage import ITEM, TEXT, check, main, told
from stage import item as looked_up_item


class Item(BaseModel):
    id: str
    owner: str


@function_tool
def item(id: str) -> str:  # noqa: A002 - the argument's name is part of the schema
    """An item of the shop."""
    return json.dumps(looked_up_item(id))


@check("responses")
async def default_api_is_refused(model):
    set_default_openai_api("responses")
    try:
        await Runner.run(Agent(name="a", model=model), TEXT)
    except openai.NotFoundError as error:
        assert error.code == "unsupported_endpoint"
        assert "set_default_openai_api" in error.message
    else:
        raise AssertionError("nothing was raised")
    finally:
        set_default_openai_api("chat_completions")


@check("chat")
async def run(model):
    done = await Runner.run(Agent(name="a", instructions="Be brief.", model=model), TEXT)
    assert done.final_output == TEXT
    assert done.context_wrapper.usage.total_tokens > 0


@check("chat")
async def run_streamed(model):
    done = Runner.run_streamed(Agent(name="a", model=model), TEXT)
    said = [event.data.delta async for event in done.stream_events() if _is_text(event)]
    assert "".join(said) == TEXT == done.final_output


def _is_text(event):
    return event.type == "raw_response_event" and event.data.type == "response.output_text.delta"


@check("chat")
async def tools(model):
    agent = Agent(name="a", model=model, tools=[item])
    assert told((await Runner.run(agent, TEXT)).final_output)
    done = Runner.run_streamed(agent, TEXT)
    async for _ in done.stream_events():
        pass
    assert told(done.final_output)


@check("chat")
async def output_type(model):
    assert (await Runner.run(Agent(name="a", model=model, output_type=Item), TEXT)).final_output == Item(**ITEM)


@check("chat", refused=2)
async def refusal(_model):
    agent = Agent(name="a", model="gpt-none")
    try:
        await Runner.run(agent, TEXT)
    except openai.PermissionDeniedError as error:
        assert error.code == "model_not_granted"
    else:
        raise AssertionError("nothing was raised")
    done = Runner.run_streamed(agent, TEXT)
    try:
        async for _ in done.stream_events():
            pass
    except openai.PermissionDeniedError as error:
        assert error.code == "model_not_granted"
    else:
        raise AssertionError("nothing was raised")


if __name__ == "__main__":
    main()

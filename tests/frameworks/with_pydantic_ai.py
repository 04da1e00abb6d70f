"""Pydantic AI, unchanged: its chat completions model and its Anthropic model."""

from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, ToolOutput
from stage import ITEM, TEXT, check, item, main, told


class Item(BaseModel):
    id: str
    owner: str


async def ran(name):
    done = await Agent(name).run(TEXT)
    assert done.output == TEXT
    assert done.usage.total_tokens > 0


async def streamed(name):
    async with Agent(name).run_stream(TEXT) as done:
        said = [text async for text in done.stream_text(delta=True)]
    assert "".join(said) == TEXT


async def tooled(name):
    agent = Agent(name, tools=[item])
    assert told((await agent.run(TEXT)).output)
    seen = []

    async def handle(_context, events):
        seen.extend([event async for event in events])

    assert told((await agent.run(TEXT, event_stream_handler=handle)).output)
    assert len(seen) > 2


async def typed(name, *more):
    for kind in (Item, ToolOutput(Item), *more):
        assert (await Agent(name, output_type=kind).run(TEXT)).output == Item(**ITEM)
    assert (await Agent(name, output_type=Item, tools=[item]).run(TEXT)).output == Item(**ITEM)


async def refused(name):
    try:
        await Agent(name).run(TEXT)
    except ModelHTTPError as error:
        assert error.status_code == 403
        assert "model_not_granted" in str(error.body)
    else:
        raise AssertionError("nothing was raised")


@check("responses")
async def default_api_is_refused(model):
    try:
        await Agent(f"openai:{model}").run(TEXT)
    except ModelHTTPError as error:
        assert error.status_code == 404
        assert "openai-chat:" in str(error.body)
    else:
        raise AssertionError("nothing was raised")


@check("chat")
async def run(model):
    await ran(f"openai-chat:{model}")


@check("chat")
async def run_stream(model):
    await streamed(f"openai-chat:{model}")


@check("chat")
async def tools(model):
    await tooled(f"openai-chat:{model}")


@check("chat")
async def output_type(model):
    await typed(f"openai-chat:{model}", NativeOutput(Item))


@check("chat", refused=1)
async def refusal(_model):
    await refused("openai-chat:gpt-none")


@check("messages")
async def anthropic_run(model):
    await ran(f"anthropic:{model}")


@check("messages")
async def anthropic_run_stream(model):
    await streamed(f"anthropic:{model}")


@check("messages")
async def anthropic_tools(model):
    await tooled(f"anthropic:{model}")


@check("messages")
async def anthropic_output_type(model):
    await typed(f"anthropic:{model}")


@check("messages", refused=1)
async def anthropic_refusal(_model):
    await refused("anthropic:opus-none")


if __name__ == "__main__":
    main()

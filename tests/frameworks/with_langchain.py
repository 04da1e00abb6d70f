"""LangChain's chat models, unchanged: OpenAI's and Anthropic's."""

import anthropic
import openai
from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from pydantic import BaseModel
from stage import ITEM, TEXT, check, item, main, told

function = tool(item)


class Item(BaseModel):
    """What is known of an item."""

    id: str
    owner: str


def invoked(chat):
    answer = chat.invoke(TEXT)
    assert answer.text == TEXT
    assert answer.usage_metadata["total_tokens"] > 0


def streamed(chat):
    chunks = list(chat.stream(TEXT))
    assert "".join(chunk.text for chunk in chunks) == TEXT
    assert len(chunks) > 2
    assert sum(chunk.usage_metadata["total_tokens"] for chunk in chunks if chunk.usage_metadata) > 0


async def astreamed(chat):
    assert "".join([chunk.text async for chunk in chat.astream(TEXT)]) == TEXT


def bound(chat):
    able, messages = chat.bind_tools([function]), [HumanMessage(TEXT)]
    messages.append(able.invoke(messages))
    (call,) = messages[-1].tool_calls
    messages.append(function.invoke(call))
    assert isinstance(messages[-1], ToolMessage)
    assert told(able.invoke(messages).text)


def agent(chat):
    done = create_agent(chat, [function]).invoke({"messages": [HumanMessage(TEXT)]})
    assert told(done["messages"][-1].text)


def structured(chat):
    for method in ("json_schema", "function_calling"):
        assert chat.with_structured_output(Item, method=method).invoke(TEXT) == Item(**ITEM), method


def refused(chat, kind):
    for call in (chat.invoke, lambda text: list(chat.stream(text))):
        try:
            call(TEXT)
        except kind as error:
            assert error.status_code == 403
        else:
            raise AssertionError("nothing was raised")


@check("chat")
def invoke(model):
    invoked(ChatOpenAI(model=model))


@check("chat")
def stream(model):
    streamed(ChatOpenAI(model=model, stream_usage=True))


@check("chat")
async def astream(model):
    await astreamed(ChatOpenAI(model=model))


@check("chat")
def bind_tools(model):
    bound(ChatOpenAI(model=model))


@check("chat")
def with_structured_output(model):
    structured(ChatOpenAI(model=model))


@check("chat")
def create_agent_loop(model):
    agent(ChatOpenAI(model=model))


@check("chat")
def azure_chat_openai(model):
    invoked(AzureChatOpenAI(azure_deployment=model, api_version="2024-10-21"))


@check("chat", refused=2)
def refusal(model):
    refused(ChatOpenAI(model="gpt-none"), openai.PermissionDeniedError)


@check("messages")
def anthropic_invoke(model):
    invoked(ChatAnthropic(model=model))


@check("messages")
def anthropic_stream(model):
    streamed(ChatAnthropic(model=model))


@check("messages")
async def anthropic_astream(model):
    await astreamed(ChatAnthropic(model=model))


@check("messages")
def anthropic_bind_tools(model):
    bound(ChatAnthropic(model=model))


@check("messages")
def anthropic_with_structured_output(model):
    structured(ChatAnthropic(model=model))


@check("messages")
def anthropic_create_agent_loop(model):
    agent(ChatAnthropic(model=model))


@check("messages", refused=2)
def anthropic_refusal(model):
    refused(ChatAnthropic(model="opus-none"), anthropic.PermissionDeniedError)


if __name__ == "__main__":
    main()

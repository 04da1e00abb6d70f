"""The example that comes along: a sound configuration, a warehouse, and a mind that only reads the conversation."""

import json

import httpx
import pytest

from buspass.cli import example
from buspass.config.advice import advice
from buspass.config.build import load
from buspass.testing.example import KEY, MODEL, application, think

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("get_stock", "reserve_stock")]


def user(text):
    return {"role": "user", "content": text}


def tool(**result):
    return {"role": "tool", "tool_call_id": "c", "content": json.dumps(result)}


@pytest.mark.parametrize("real", [False, True])
def test_the_file_is_sound_with_either_model(tmp_path, real):
    text = example.FILE.read_text("utf-8")
    assert (example.PORT in text, example.SIMULATED in text) == (True, True)
    path = tmp_path / "buspass.yaml"
    path.write_text(text.replace(example.SIMULATED, example.REAL) if real else text)
    settings = load(path, environ={"BUSPASS_DATA": str(tmp_path)})
    assert advice(settings) == ()
    (target,) = settings.models["chat"].targets
    assert (target.provider, target.model) == (("openai", "gpt-5-mini") if real else ("sim", MODEL))
    assert settings.workflows[example.WORKFLOW].limits["cost"] == 1_000_000
    assert settings.local_issuer
    assert example.KEY == KEY


@pytest.mark.parametrize(
    ("messages", "tools", "says", "asks"),
    [
        ([user("hello")], TOOLS, "Ask me about an article", None),
        ([user("is s-200 there?")], TOOLS, "I look up", ("get_stock", {"article": "S-200"})),
        ([user("is S-200 there?")], [], "no tool for that", None),
        ([user("S-100?"), tool(quantity=3, in_stock=True, name="kettle")], TOOLS, "There are 3 of S-100", None),
        ([user("S-100?"), tool(in_stock=False)], TOOLS, "no S-100 in stock", None),
        (
            [user("Reserve 4 of S-100"), tool(quantity=9, in_stock=True, name="kettle")],
            TOOLS,
            "I reserve",
            ("reserve_stock", {"article": "S-100", "quantity": 4}),
        ),
        (
            [user("please book S-300"), tool(quantity=9, in_stock=True, name="lamp")],
            TOOLS,
            "I reserve",
            ("reserve_stock", {"article": "S-300", "quantity": 1}),
        ),
        ([user("S-100"), tool(reservation="R-1", quantity=2)], TOOLS, "reserved under R-1", None),
        ([user("S-100"), tool(code="call_limit", detail="used up")], TOOLS, "refused: call_limit. used up", None),
        (
            [user("S-100"), tool(reservation="R-1", quantity=2), user("S-200?")],
            TOOLS,
            "I look up",
            ("get_stock", {"article": "S-200"}),
        ),
    ],
)
def test_the_clerk_says_the_next_thing(messages, tools, says, asks):
    said = think({"messages": messages, "tools": tools})
    assert says in said["content"]
    calls = [(call["name"], call["arguments"]) for call in said.get("tool_calls", ())]
    assert calls == ([asks] if asks else [])


async def test_the_warehouse_gives_no_more_than_it_has():
    transport = httpx.ASGITransport(application("key"))
    async with httpx.AsyncClient(transport=transport, base_url="http://warehouse") as client:
        assert (await client.get("/stock/S-200")).json()["quantity"] == 3
        assert (await client.get("/stock/S-999")).status_code == 404
        wanted = {"article": "S-200", "quantity": 2}
        answers = [await client.post("/reservations", json=wanted) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 409]
        assert (await client.get("/stock/S-200")).json()["quantity"] == 1
        assert (await client.get("/v1/models")).status_code == 401

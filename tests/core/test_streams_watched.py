"""Streams are watched as whole answers are: loops that are streamed, and quotas that a stream's headers tell of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response, StreamingResponse

from buspass.testing.clock import FakeClock
from buspass.testing.house import Agent, Domain
from buspass.testing.provider import echo
from buspass.testing.provider_anthropic import AnthropicProvider
from buspass.testing.provider_stream import chunks
from buspass.testing.provider_wire import completion

CONFIG = Path(__file__).parents[1] / "data" / "domain" / "streaming.yaml"
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
by_pair = pytest.mark.parametrize(
    ("path", "model"), [(path, model) for path in (CHAT, MESSAGES) for model in ("plan", "claude")]
)


@pytest.fixture
async def watched(tmp_path: Path, service: Any, upstream: Any, claude: AnthropicProvider) -> AsyncIterator[Domain]:
    """The domain of both wire formats with loops on, whose second provider has six hundred requests a minute."""
    text = CONFIG.read_text("utf-8").replace("    loops: off\n", "")
    path = tmp_path / "buspass.yaml"
    path.write_text(text.replace("9003/v1, auth: none}", "9003/v1, auth: none, limits: {rpm: 600}}", 1))
    services = {"127.0.0.1:9002": service.app, "127.0.0.1:9003": upstream.app, "127.0.0.1:9004": claude.app}
    async with Domain(path, tmp_path, services) as domain:
        yield domain


type Ask = Callable[..., Any]


@pytest.fixture
def ask(watched: Domain, listener: Any) -> Ask:
    """Ask, and give the status, the headers and all that came: events of a stream, or a refusal's document."""

    async def asking(agent: Agent, text: str, *, path: str, model: str) -> Any:
        messages = [{"role": "user", "content": text}]
        body = {"model": model, "messages": messages, "max_tokens": 50, "stream": True}
        async with listener(watched.apps["onprem"], agent, body, path, {}) as answer:
            return answer.status, answer.headers, await answer.rest()

    return asking


@by_pair
async def test_a_loop_that_is_streamed_is_told_and_then_refused_before_it_streams(
    watched: Domain, ask: Ask, claude: AnthropicProvider, path: str, model: str
) -> None:
    agent = await watched.agent(workflow="free")
    asked = claude.requests if model == "claude" else watched.provider.requests
    for _ in range(3):
        status, headers, events = await ask(agent, "hello", path=path, model=model)
        assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert len(events) > 2
    told = await ask(agent, "hello", path=path, model=model)
    refused = await ask(agent, "hello", path=path, model=model)
    assert (told[0], refused[0], len(asked)) == (422, 403, 3)
    assert told[2][0]["error"]["loop"]["pattern"] == "identical"
    assert refused[2][0]["error"]["loop"]["pattern"] == "identical"
    assert told[1]["x-should-retry"] == "false", "an SDK would ask again by itself"
    status, _, _ = await ask(agent, "something else", path=path, model=model)
    assert status == 200


def streaming(headers: Mapping[str, str]) -> Any:
    """An answer of the second provider with headers of its own."""

    async def answer(body: Any) -> Response:
        frames = chunks(completion(body, echo), usage=True)
        return StreamingResponse(iter(frames), media_type="text/event-stream", headers=dict(headers))

    return answer


@pytest.mark.parametrize(("left", "waits"), [("0", True), ("30", False)])
async def test_a_quota_that_a_stream_tells_of_is_heeded(
    watched: Domain, ask: Ask, upstream: Any, left: str, waits: bool
) -> None:
    agent = await watched.agent(workflow="free")
    quota = {
        f"x-ratelimit-{part}-requests": text for part, text in (("limit", "60"), ("remaining", left), ("reset", "60s"))
    }
    upstream.script += [streaming(quota), streaming({})]
    first = await ask(agent, "one", path=CHAT, model="fed")
    assert (first[0], first[1]["buspass-target"]) == (200, "second/planner-1")
    assert isinstance(watched.clock, FakeClock)
    watched.clock.advance(0.11)
    second = await ask(agent, "two", path=CHAT, model="fed")
    assert second[1]["buspass-target"] == ("first/planner-1" if waits else "second/planner-1")

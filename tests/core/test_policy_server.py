"""An OPA server as the engine: it is asked what the modules read, believed where it serves them, and else nobody passes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from buspass.errors import Problem
from buspass.policy.decide import Policy
from buspass.policy.embedded import EmbeddedEngine
from buspass.policy.engines import engine
from buspass.policy.server import FRESH, TIMEOUT, OpaServer
from buspass.ports.outbound import Ambiguous, NotSent, Request, Response, TimedOut, TooLarge
from buspass.ports.policy import PolicyUnavailable
from buspass.testing.clock import FakeClock
from buspass.testing.outbound import ScriptedOutbound

CALL = 'package buspass.call\n\nimport data.shop.hours\n\ndeny contains "no" if input.call.tool == hours.forbidden\n'
HOURS = 'package shop.hours\n\nforbidden := "pay"\n'
MODULES = {"call.rego": CALL, "hours.rego": HOURS}
URL = "http://127.0.0.1:8181/opa"


def row(source: str, *package: str) -> dict[str, Any]:
    path = [{"type": "var", "value": "data"}, *({"type": "string", "value": name} for name in package)]
    return {"id": "policies/x.rego", "raw": source, "ast": {"package": {"path": path}}}


SERVED = [row(CALL, "buspass", "call"), row(HOURS, "shop", "hours")]


def said(document: object, status: int = 200) -> Response:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Response(status=status, headers={}, body=body)


class Opa(ScriptedOutbound):
    """Answers questions by the script, then without a reason; lists what `serves`."""

    def __init__(self, *answers: Any, serves: object = SERVED) -> None:
        super().__init__(answers, default=said({"result": {"deny": []}}))
        self.serves = serves
        self.looks = 0

    async def send(self, request: Request) -> Response:
        if request.method == "GET":
            self.looks += 1
            assert request.url == f"{URL}/v1/policies"
            await asyncio.sleep(0)
            return self.serves if isinstance(self.serves, Response) else said({"result": self.serves})
        return await super().send(request)


def server(opa: Opa, clock: FakeClock | None = None, modules: Mapping[str, str] = MODULES) -> OpaServer:
    return OpaServer(modules, URL, opa, clock or FakeClock())


async def test_a_question_is_posted_as_opas_users_know_it() -> None:
    opa = Opa(said({"result": {"deny": ["no"], "limits": {}}, "decision_id": "d"}))
    policy = Policy(server(opa), MODULES)
    call = {"tool": "pay", "arguments": {"card": "4111"}}
    assert (await policy.ask("call", {"call": call, "now": "2026-11-27T00:00:00Z"})).deny == ("no",)
    (request,) = opa.requests
    assert (request.method, request.url) == ("POST", f"{URL}/v1/data/buspass/call?strict-builtin-errors=true")
    assert request.headers == {"content-type": "application/json"}
    assert request.timeout == TIMEOUT
    assert json.loads(request.body) == {"input": {"call": {"tool": "pay"}}}, "what no module reads is not shown"


async def test_a_decision_is_remembered_and_the_modules_for_a_while() -> None:
    opa, clock = Opa(), FakeClock()
    policy = Policy(server(opa, clock), MODULES)
    for tool in ("pay", "item", "pay", "item"):
        await policy.ask("call", {"call": {"tool": tool}})
    assert (len(opa.requests), opa.looks) == (2, 1)
    clock.advance(FRESH)
    await policy.ask("call", {"call": {"tool": "pay"}})
    assert opa.looks == 1, "nothing was asked"
    await policy.ask("call", {"call": {"tool": "other"}})
    assert opa.looks == 2


async def test_many_who_ask_at_once_look_once() -> None:
    opa = Opa()
    asked = server(opa)
    answers = await asyncio.gather(*(asked.ask("call", {"call": {"tool": f"t{n}"}}) for n in range(50)))
    assert answers == [{"deny": []}] * 50
    assert opa.looks == 1


async def test_one_who_gives_up_does_not_end_the_look_of_the_others() -> None:
    opa = Opa()
    asked = server(opa)
    first, second = (asyncio.ensure_future(asked.ask("call", {})) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == {"deny": []}
    assert first.cancelled()


def test_questions_and_what_moves_them_are_known_from_the_modules() -> None:
    modules = {**MODULES, "start.rego": 'package buspass.start\ndeny contains "x" if input.now > "2026"\n'}
    asked, embedded = server(Opa(), modules=modules), EmbeddedEngine(modules)
    assert (
        (asked.questions, asked.volatile) == (embedded.questions, embedded.volatile) == ({"call", "start"}, {"start"})
    )
    assert isinstance(engine(MODULES, URL, Opa(), FakeClock()), OpaServer)
    assert isinstance(engine(MODULES, "", Opa(), FakeClock()), EmbeddedEngine)


FAILURES: dict[str, tuple[Any, str]] = {
    "unreachable": (NotSent("no connection: secret"), "can't be reached"),
    "too slow": (TimedOut("secret"), "gave no answer within 2 s"),
    "too large": (TooLarge("secret"), "was cut off"),
    "an error of evaluation": (said({"code": "internal_error", "message": "secret"}, 500), "answered 500"),
    "a token is wanted": (said({"code": "unauthorized"}, 401), "answered 401"),
    "moved": (said(b"", 302), "answered 302"),
    "a proxy's page": (said(b"<html>secret</html>"), "no JSON"),
    "half an answer": (said(b'{"result": {"deny": ['), "no JSON"),
    "too deep": (said(b"[" * 200_000), "no JSON"),
    "a list": (said([]), "no object"),
    "undefined": (said({"decision_id": "d"}), "has no answer to data.buspass.call"),
    "null": (said({"result": None}), "has no answer to data.buspass.call"),
    "a boolean": (said({"result": True}), "no set of reasons"),
    "no deny": (said({"result": {"allow": True}}), "no set of reasons"),
    "an object of reasons": (said({"result": {"deny": {"no": True}}}), "no set of reasons"),
}


@pytest.mark.parametrize(("answer", "told"), FAILURES.values(), ids=FAILURES)
async def test_every_failure_is_policy_unavailable_and_says_which(answer: Any, told: str) -> None:
    opa = Opa(answer)
    policy = Policy(server(opa), MODULES)
    with pytest.raises(Problem) as caught:
        await policy.ask("call", {"call": {"tool": "secret"}})
    assert caught.value.code == "policy_unavailable"
    assert told in caught.value.detail
    assert "secret" not in caught.value.detail
    assert (await policy.ask("call", {"call": {"tool": "secret"}})).deny == (), "it is asked again"
    assert opa.looks == 2, "and looked at anew"


@pytest.mark.parametrize("answer", [{"deny": [1]}, {"deny": [], "obligations": {"max_tokens": 0}}])
async def test_an_answer_that_means_nothing_is_policy_unavailable(answer: dict[str, Any]) -> None:
    with pytest.raises(Problem, match="policy_unavailable"):
        await Policy(server(Opa(said({"result": answer}))), MODULES).ask("call", {})


async def test_a_connection_that_broke_is_tried_once_more_and_only_once() -> None:
    opa = Opa(Ambiguous("reset"))
    assert await server(opa).ask("call", {}) == {"deny": []}
    assert len(opa.requests) == 2
    with pytest.raises(PolicyUnavailable, match="cut off"):
        await server(Opa(Ambiguous("reset"), Ambiguous("reset"))).ask("call", {})


OTHERS: dict[str, tuple[object, str]] = {
    "none": ([], "2 missing or altered, 0 others"),
    "no list at all": (None, "2 missing or altered, 0 others"),
    "a helper is missing": (SERVED[:1], "1 missing or altered, 0 others"),
    "altered": ([row(CALL.replace("no", "yes"), "buspass", "call"), SERVED[1]], "1 missing or altered, 1 others"),
    "an older one beside it": ([*SERVED, row(CALL + "#", "buspass", "call")], "0 missing or altered, 1 others"),
    "twice": ([*SERVED, SERVED[0]], "0 missing or altered, 1 others"),
    "a rule in a package below": ([*SERVED, row("#", "buspass", "call", "obligations")], "1 others"),
    "an addition to a helper": ([*SERVED, row("#", "shop", "hours")], "1 others"),
    "no modules": (["x"], "does not list its modules"),
    "not allowed": (said({}, 403), "answered 403"),
}


@pytest.mark.parametrize(("serves", "told"), OTHERS.values(), ids=OTHERS)
async def test_a_server_with_other_modules_is_asked_nothing(serves: object, told: str) -> None:
    opa = Opa(serves=serves)
    policy = Policy(server(opa), MODULES)
    for ask in (lambda: policy.ask("call", {}), policy.ready):
        await _refused(ask, told)
    assert opa.requests == []
    opa.serves = SERVED
    await policy.ready()
    assert (await policy.ask("call", {})).deny == ()


async def _refused(ask: Callable[[], Any], told: str) -> None:
    with pytest.raises(Problem) as caught:
        await ask()
    assert caught.value.code == "policy_unavailable"
    assert told in caught.value.detail


async def test_modules_of_other_teams_and_tests_do_not_matter() -> None:
    others = [row("#", "payments"), row("#", "buspass", "call_test"), row("#", "buspass", "operate"), row("#", "shop")]
    assert await server(Opa(serves=[*SERVED, *others])).ask("call", {}) == {"deny": []}


async def test_what_is_no_question_and_what_is_no_json_is_not_sent() -> None:
    opa = Opa()
    for question, document in (("start", {}), ("call", {"n": float("nan")}), ("call", {"n": object()})):
        with pytest.raises(PolicyUnavailable):
            await server(opa).ask(question, document)
    assert opa.requests == []


def test_the_file_names_the_server(tmp_path: Path) -> None:
    from buspass.config.build import load  # noqa: PLC0415

    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "call.rego").write_text('package buspass.call\ndeny contains "no" if input.x\n')
    text = "version: 1\nworkflows: {w: {agents: []}}\npolicy: {path: policies, engine: ENGINE}\n"
    for said_, url in {"embedded": "", "{opa: {url: 'http://opa:8181/'}}": "http://opa:8181"}.items():
        (tmp_path / "buspass.yaml").write_text(text.replace("ENGINE", said_))
        settings = load(tmp_path / "buspass.yaml", environ={"BUSPASS_DATA": str(tmp_path)})
        assert settings.opa == url
        assert ("opa:8181" in settings.plain_http) is bool(url), "that it is not encrypted is told"

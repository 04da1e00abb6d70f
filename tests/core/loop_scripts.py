"""Scripted agents: what they ask for and what comes back stands in tests/data/loops; the gateway between is the real one.

A script is a list of steps. `$n` in any text is the round of the `do` that it stands in; a text that is just `$n` is the
number.

    {times: 8, do: [STEP…]}                      rounds
    {think: TEXT, model: ALIAS}                  the model is asked with the conversation so far, and says this; it also
                                                 asks for the calls that follow
    {user: TEXT}                                 the user says something
    {ask: TEXT, says: TEXT, for: TOOL}           a request of its own; the model may ask for a call; `rejects: true`
    {call: TOOL, with: {…}, gives: JSON}         a call through the gateway; `fails: STATUS`, `page: STATUS`, `refuses: true`
    {own: FUNCTION, with: {…}, gives: TEXT}      the agent's own function
    {wait: SECONDS}  {compact: true}             time goes by; the conversation is cut to its beginning
    {together: [CALL…]}                          calls at once
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from buspass.testing.clock import FakeClock
from buspass.testing.house import PROVIDER_KEY, Agent, Domain
from buspass.testing.provider import Provider
from buspass.testing.provider_wire import Refused

DATA = Path(__file__).parents[1] / "data" / "loops"
CONFIG = DATA / "buspass.yaml"
METHODS = ["GET", "POST", "PUT"]
OPENING = [{"role": "system", "content": "You are an agent."}, {"role": "user", "content": "Do your work."}]


class Stage:
    """A domain whose services and model answer what a script wants next."""

    def __init__(self, folder: Path, config: Path = CONFIG) -> None:
        self.next: dict[str, Response] = {}
        self.says: deque[Mapping[str, Any]] = deque()
        self.reached = 0
        self.rejects = False
        app = Starlette(routes=[Route("/{path:path}", self._answer, methods=METHODS)])
        services = {"127.0.0.1:9002": app, "127.0.0.1:9003": app}
        self.provider = Provider(PROVIDER_KEY, mind=self._mind)
        self.domain = Domain(config, folder, services, provider=self.provider)

    def _mind(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.rejects:
            raise Refused(400, "no such thing")
        return self.says.popleft() if self.says else {"content": "ok"}

    async def _answer(self, request: Request) -> Response:
        self.reached += 1
        body = (await request.body()).decode() or request.url.path + "?" + request.url.query
        for part, answer in self.next.items():
            if part in body:
                return answer
        return self.next.get("", JSONResponse({}))

    @property
    def clock(self) -> FakeClock:
        assert isinstance(self.domain.clock, FakeClock)
        return self.domain.clock


@asynccontextmanager
async def staged(folder: Path, config: Path = CONFIG) -> AsyncIterator[Stage]:
    stage = Stage(folder, config)
    async with stage.domain:
        yield stage


def code(answer: httpx.Response) -> str:
    """The problem's code, "" of a success."""
    if answer.is_success:
        return ""
    document = answer.json()
    return str(document.get("error", document).get("code", answer.status_code))


@dataclass(kw_only=True)
class Actor:
    """One task that plays scripts. `answers` keeps (what was done, the answer)."""

    stage: Stage
    agents: Sequence[Agent]
    conversation: list[dict[str, Any]] = field(default_factory=lambda: [*OPENING])
    answers: list[tuple[str, httpx.Response]] = field(default_factory=list)
    turn: int = 0

    @property
    def agent(self) -> Agent:
        """The task's agent, at each of its hosts in turn."""
        self.turn += 1
        return self.agents[self.turn % len(self.agents)]

    @property
    def codes(self) -> list[str]:
        return [code(answer) for _, answer in self.answers]

    async def play(self, steps: Sequence[Mapping[str, Any]], n: int = 1) -> None:
        for place, given in enumerate(steps):
            step = given if "do" in given else filled(given, n)
            if "do" in step:
                for each in range(1, int(step["times"]) + 1):
                    await self.play(step["do"], each)
            elif "think" in step:
                await self._think(step, [filled(each, n) for each in wanted(steps[place + 1 :])])
            elif "ask" in step:
                offers = [{"name": step["for"], "arguments": {}}] if "for" in step else []
                self.stage.says.append({"content": step.get("says"), **({"tool_calls": offers} if offers else {})})
                self.stage.rejects = "rejects" in step
                await self._infer(step, [{"role": "user", "content": step["ask"]}])
            elif "user" in step:
                self.conversation.append({"role": "user", "content": step["user"]})
            elif "wait" in step:
                self.stage.clock.advance(float(step["wait"]))
            elif "compact" in step:
                self.conversation = [*OPENING]
            elif "own" in step:
                self._heard(str(step["gives"]))
            elif "together" in step:
                self.stage.next = {str(call["part"]): response(call) for call in step["together"]}
                await asyncio.gather(*(self._call(call) for call in step["together"]))
            else:
                self.stage.next = {"": response(step)}
                await self._call(step)

    async def _think(self, step: Mapping[str, Any], calls: Sequence[Mapping[str, Any]]) -> None:
        offers = [{"name": each.get("call") or each.get("own"), "arguments": each.get("with", {})} for each in calls]
        self.stage.says.append({"content": step["think"], **({"tool_calls": offers} if offers else {})})
        answer = await self._infer(step, self.conversation)
        if answer.is_success:
            message = answer.json()["choices"][0]["message"]
            kept = {name: message[name] for name in ("role", "content", "tool_calls") if message.get(name)}
            self.conversation.append({"content": None, **kept})

    async def _infer(self, step: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> httpx.Response:
        agent = self.agent
        body = {"model": step.get("model", "plan"), "messages": messages}
        answer = await agent.client.post("/v1/chat/completions", json=body, headers=agent.headers)
        self.stage.says.clear()
        self.stage.rejects = False
        self.answers.append((f"think {step.get('think') or step.get('ask')}", answer))
        return answer

    async def _call(self, step: Mapping[str, Any]) -> None:
        answer = await self.agent.call(step["call"], step.get("with", {}))
        self.answers.append((f"{step['call']} {step.get('with', {})}", answer))
        self._heard(json.dumps(answer.json().get("result", "failed")))

    def _heard(self, text: str) -> None:
        """Answer the oldest open tool call of the conversation; without one it is not told."""
        told = {message["tool_call_id"] for message in self.conversation if message["role"] == "tool"}
        for message in self.conversation:
            for offer in message.get("tool_calls") or ():
                if offer["id"] not in told:
                    self.conversation.append({"role": "tool", "tool_call_id": offer["id"], "content": text})
                    return


async def actor(stage: Stage, workflow: str = "work", hosts: Sequence[str] = ("onprem",)) -> Actor:
    """Start a task and give who plays it, at these hosts in turn."""
    agent = await stage.domain.agent(workflow=workflow)
    return Actor(stage=stage, agents=[await stage.domain.at(host, agent) for host in hosts])


def wanted(steps: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The calls that a thought asks for: those up to the next one."""
    found: list[Mapping[str, Any]] = []
    for step in steps:
        if "think" in step or "do" in step or "user" in step:
            break
        found += [each for each in step.get("together", [step]) if "call" in each or "own" in each]
    return found


def response(step: Mapping[str, Any]) -> Response:
    if "page" in step:
        return HTMLResponse(f"<html><h1>{step['page']}</h1>try another price</html>", step["page"])
    if "fails" in step:
        return JSONResponse({"error": step.get("gives", "no")}, step["fails"])
    return JSONResponse(step.get("gives", {"ok": True}))


def filled(value: Any, n: int) -> Any:
    """Put the round in."""
    if isinstance(value, str):
        return n if value == "$n" else value.replace("$n", str(n))
    if isinstance(value, Mapping):
        return {name: filled(each, n) for name, each in value.items()}
    return [filled(each, n) for each in value] if isinstance(value, list) else value


def scripts(name: str) -> dict[str, Mapping[str, Any]]:
    """The scripts of a file, by their names."""
    rows: dict[str, Mapping[str, Any]] = yaml.safe_load((DATA / f"{name}.yaml").read_text("utf-8"))
    return rows

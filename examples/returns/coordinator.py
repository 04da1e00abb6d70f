"""The return-exception agent: an ordinary agent on the official `openai` SDK, with another base URL and API key.

It proves who it is and for whom it acts once, when it starts a task. From then on it thinks (chat completions) and acts
(tool calls) with the task's token, and takes each tool's address from the gateway's own list. It holds no policy: what
it may not do, it is told by the answer, and hands on to the model.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai

STEPS = 12
"""Model calls in one task at most."""

PROMPT = (
    "You handle return exceptions for a shop's service desk. You act for customer {customer} and nobody else. Look"
    " the customer and the order up, ask legal for every refund, refund only what legal approves. Say in a sentence"
    " what you think before you call a tool, and end with one sentence that says what was done."
)

type Progress = Callable[[str, str], None]
"""Called with (kind, text) as things happen: `thought`, `action`, `refused`, `final`."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a task came to. `actions`: tool, arguments, HTTP status, `code` of a problem, and the answer."""

    task: str
    text: str = ""
    actions: list[dict[str, Any]] = field(default_factory=list)


class Task:
    """One governed task: its token is the API key for models and tools alike."""

    def __init__(self, started: dict[str, Any], http: httpx.AsyncClient) -> None:
        self.id: str = started["task"]["id"]
        self.customer: str = started["task"]["subject"]["id"]
        self.base_url: str = started["base_url"]
        self.token: str = started["token"]
        self.http = http
        self.model = openai.AsyncOpenAI(base_url=self.base_url, api_key=self.token)
        self.headers = {"Authorization": f"Bearer {self.token}"}

    @classmethod
    async def start(cls, gateway: str, workload_token: str, customer_token: str, http: httpx.AsyncClient) -> Task:
        """Begin a task on behalf of the customer whose token this is. Raises httpx.HTTPStatusError if refused."""
        answer = await http.post(
            f"{gateway}/v1/tasks",
            headers={"Authorization": f"Bearer {workload_token}"},
            json={"workflow": "return-exception", "on_behalf_of": {"token": customer_token}},
        )
        return cls(answer.raise_for_status().json(), http)

    async def tools(self) -> dict[str, dict[str, Any]]:
        """The route: tools by name, each with its `function` and the `url` of the host that may call it."""
        answer = await self.http.get(f"{self.base_url}/tools", headers=self.headers)
        return {tool["function"]["name"]: tool for tool in answer.raise_for_status().json()["data"]}

    async def think(self, messages: list[Any], tools: dict[str, dict[str, Any]]) -> Any:
        """The model's next message."""
        functions: list[Any] = [{"type": "function", "function": tool["function"]} for tool in tools.values()]
        answer = await self.model.chat.completions.create(model="plan", messages=messages, tools=functions)
        return answer.choices[0].message

    async def act(self, url: str, arguments: Any, call_id: str | None = None) -> httpx.Response:
        """One tool call; waits and asks again where the gateway says that waiting helps.

        Where the connection broke it is asked again, too: the model's tool call is its key, so it is done once.
        """
        body = {"arguments": arguments} | ({"tool_call_id": call_id} if call_id else {})
        for left in (2, 1, 0):
            try:
                answer = await self.http.post(url, headers=self.headers, json=body)
            except httpx.TransportError:
                if not left or not call_id:
                    raise
                continue
            if answer.status_code != 429:
                break
            await asyncio.sleep(min(float(answer.headers.get("Retry-After", 1)), 10))
        return answer

    async def complete(self, reason: str) -> None:
        """Close the task; its token is worth nothing after this."""
        url = f"{self.base_url}/tasks/{self.id}/complete"
        await self.http.post(url, headers=self.headers, json={"reason": reason[:200]})
        await self.model.close()


async def handle(task: Task, text: str, progress: Progress) -> Outcome:
    """Work on one request to its end: think, act, read the answers, think again."""
    outcome = Outcome(task=task.id)
    tools = await task.tools()
    messages: list[Any] = [
        {"role": "system", "content": PROMPT.format(customer=task.customer)},
        {"role": "user", "content": text},
    ]
    try:
        for _ in range(STEPS):
            said = await task.think(messages, tools)
            messages.append(said.model_dump(include={"role", "content", "tool_calls"}, exclude_none=True))
            if not said.tool_calls:
                outcome.text = said.content or ""
                break
            progress("thought", said.content or "")
            answers = await asyncio.gather(*(_call(task, tools, call, outcome, progress) for call in said.tool_calls))
            messages.extend(answers)
    except openai.APIStatusError as refused:
        outcome.text = f"Stopped: {refused.message}"
    progress("final", outcome.text)
    await task.complete(outcome.text or "too many steps")
    return outcome


async def _call(task: Task, tools: dict[str, Any], call: Any, outcome: Outcome, progress: Progress) -> Any:
    """Carry out one tool call of the model; a refusal is an answer too, and the model shall read it."""
    name, arguments = call.function.name, json.loads(call.function.arguments or "{}")
    if name in tools:
        answer = await task.act(tools[name]["url"], arguments, call.id)
        body, status = answer.json(), answer.status_code
    else:
        body, status = {"code": "tool_not_granted", "status": 403, "detail": f"there is no tool {name}"}, 403
    outcome.actions.append(
        {"tool": name, "arguments": arguments, "status": status, "code": body.get("code"), "answer": body}
    )
    progress("refused" if "code" in body else "action", f"{name} {json.dumps(arguments)} → {body.get('code', status)}")
    return {"role": "tool", "tool_call_id": call.id, "content": json.dumps(body.get("result", body))}

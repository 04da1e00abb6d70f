"""An autonomous procurement agent on the official `openai` SDK. A program of its own: it knows no gateway.

Everything that it meets comes from its environment: the model's address and key (OPENAI_BASE_URL, OPENAI_API_KEY, as
the SDK reads them), the model's name (AGENT_MODEL) and the tools (AGENT_TOOLS, a file: each with its function, method,
url, headers and body; `$NAME` in a header is an environment variable, `$arguments` and `$call` in a body are the
call's). Its goal is a line on standard input. What it does it tells as a JSON object a line.

Its limits are those that frameworks have by default: see `LIMITS`.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import string
import sys
import time
from pathlib import Path
from typing import Any, Final

import httpx
import openai

LIMITS: Final = {
    "model_retries": openai.DEFAULT_MAX_RETRIES,  # 2: what a client has that is not told otherwise, LangChain's too
    "rounds": 9_999
    // 2,  # create_agent of LangChain 1.5 sets recursion_limit 9_999; a round is two steps, model and tools
    "tool_retries": 0,  # httpx sends once; so does every framework's tool
}
FAILED: Final = "An error occurred while running the tool. Please try again."
"""What the model reads where a tool raised: the default of the OpenAI Agents SDK 0.24."""

PROMPT: Final = (
    "You buy parts for a factory, on your own. Work through the supply alerts one after the other: look the part up in"
    " the ERP, negotiate with its vendor by e-mail until the vendor accepts a price, then place the order. Begin a"
    " little below the last price, aim at the last price, and never pay more than the ceiling. Say in a sentence what"
    " you think before you call a tool. If you have to wait, answer with 'RESUME AT hh:mm:ss' (UTC) alone in the last"
    " line: you will be woken then. When every alert is dealt with, answer with one sentence that begins with 'Done'."
)
RESUME: Final = re.compile(r"^RESUME AT (\d\d:\d\d:\d\d)", re.MULTILINE)


class Agent:
    """The loop: think, act, read the answers, think again."""

    def __init__(self, tools: list[dict[str, Any]], model: str) -> None:
        self.tools = {tool["function"]["name"]: tool for tool in tools}
        self.functions: list[Any] = [{"type": "function", "function": tool["function"]} for tool in tools]
        self.model, self.client = model, openai.OpenAI()
        self.http = httpx.Client(timeout=30, trust_env=False)

    def close(self) -> None:
        self.client.close()
        self.http.close()

    def run(self, goal: str) -> None:
        """Work until the model says that it is done, or no round is left."""
        messages: list[Any] = [{"role": "system", "content": PROMPT}, {"role": "user", "content": goal}]
        for _ in range(LIMITS["rounds"]):
            said = self.think(messages)
            messages.append(said.model_dump(include={"role", "content", "tool_calls"}, exclude_none=True))
            for call in said.tool_calls or ():
                arguments = json.loads(call.function.arguments or "{}")
                text = self.act(self.tools[call.function.name], arguments, call.id)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": text})
            if said.tool_calls:
                continue
            if (until := RESUME.search(said.content or "")) is None:
                tell("end", text=said.content or "")
                return
            messages.append({"role": "user", "content": f"It is {self.sleep(until[1])} UTC. Go on."})
        tell("end", text=f"stopped after {LIMITS['rounds']} rounds")

    def think(self, messages: list[Any]) -> Any:
        """The model's next message."""
        # as extra_body, for the SDK walks through `messages` part by part with each call, and that takes longest of all
        answer = self.client.chat.completions.create(
            model=self.model, messages=[], tools=self.functions, extra_body={"messages": messages}
        )
        usage, said = answer.usage, answer.choices[0].message
        if usage is not None:
            details = usage.prompt_tokens_details
            cached = (details.cached_tokens if details else 0) or 0
            tell("model", input=usage.prompt_tokens, cached=cached, output=usage.completion_tokens, text=said.content)
        return said

    def act(self, tool: dict[str, Any], arguments: dict[str, Any], call: str) -> str:
        """One tool call; whatever the answer is, the model reads its text, as with any tool that fetches a page."""
        url = tool["url"].format_map(arguments)
        headers = {name: string.Template(value).substitute(os.environ) for name, value in tool["headers"].items()}
        body = filled(tool["body"], {"$arguments": arguments, "$call": call})
        more = {} if body is None else {"json": body}
        status, text = 0, FAILED
        try:
            answer = self.http.request(tool["method"], url, headers=headers, **more)
            status, text = answer.status_code, answer.text
        except httpx.HTTPError as error:
            tell("failed", why=f"{type(error).__name__}: {error}")
        tell(
            "tool", name=tool["function"]["name"], arguments=arguments, status=status, text=text[:600], bytes=len(text)
        )
        return text

    def sleep(self, until: str) -> str:
        """Pause until a time of day (UTC), an hour at most, and give the time that it is then."""
        now = dt.datetime.now(dt.UTC)
        due = dt.datetime.combine(now.date(), dt.time.fromisoformat(until), dt.UTC)
        seconds = (due - now).total_seconds() % 86_400
        tell("wait", until=until)
        time.sleep(min(seconds, 3600) if seconds < 43_200 else 0)  # else it is past already
        return f"{dt.datetime.now(dt.UTC):%H:%M:%S}"


def filled(value: Any, given: dict[str, Any]) -> Any:
    """A body with what its placeholders stand for."""
    if isinstance(value, dict):
        return {name: filled(part, given) for name, part in value.items()}
    return given.get(value, value) if isinstance(value, str) else value


def tell(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, "at": time.time(), **facts}), flush=True)


def main() -> None:
    agent = Agent(json.loads(Path(os.environ["AGENT_TOOLS"]).read_text("utf-8")), os.environ["AGENT_MODEL"])
    tell("ready", limits=LIMITS)
    try:
        agent.run(sys.stdin.readline())
    except openai.APIError as error:
        tell("end", text=f"{type(error).__name__}: {error.message}")


if __name__ == "__main__":
    main()

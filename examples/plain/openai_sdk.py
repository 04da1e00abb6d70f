"""The smallest governed agent on the official `openai` SDK: only its base URL and API key are Buspass's.

A task, one thought, one action, the bill. Needs BUSPASS_WORKLOAD_TOKEN (`buspass up` prints one); BUSPASS_URL is the
local gateway unless set.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import httpx
import openai

GATEWAY = os.environ.get("BUSPASS_URL", "http://127.0.0.1:8700")


def call(token: str, method: str, url: str, body: Any = None) -> Any:
    """One request to the gateway. A refusal says in its detail what to do about it."""
    headers = {"Authorization": f"Bearer {token}"}
    answer = httpx.request(method, url, headers=headers, json=body, timeout=60)
    document = answer.json()
    if answer.is_error:
        sys.exit(f"{document['code']}: {document['detail']}")
    return document


def main() -> None:
    # 1. Prove who you are, once. What comes back is a task with a token of its own and a budget.
    workload = os.environ.get("BUSPASS_WORKLOAD_TOKEN") or sys.exit("copy the export line that `buspass up` prints")
    started = call(workload, "POST", f"{GATEWAY}/v1/tasks", {"workflow": "example", "budget": {"cost": 0.10}})
    task, token, base = started["task"]["id"], started["token"], started["base_url"]
    print(f"task    {task}")

    # 2. What may this task use?
    client = openai.OpenAI(base_url=base, api_key=token)
    print("models ", ", ".join(model.id for model in client.models.list()))
    tools = {tool["function"]["name"]: tool for tool in call(token, "GET", f"{base}/tools")["data"]}
    print("tools  ", ", ".join(tools))

    # 3. Think, with the tools as they were given.
    functions: list[Any] = [{"type": "function", "function": tool["function"]} for tool in tools.values()]
    question: list[Any] = [{"role": "user", "content": "How many of S-100 are in stock?"}]
    said = client.chat.completions.create(model="chat", messages=question, tools=functions).choices[0].message
    print("thought", said.content or "")

    # 4. Act: the model asked for tool calls; an id says which thought causes the action.
    for asked in said.tool_calls or ():
        name, arguments = asked.function.name, json.loads(asked.function.arguments)
        acted = call(token, "POST", tools[name]["url"], {"arguments": arguments, "tool_call_id": asked.id})
        print("action ", name, json.dumps(acted["result"]))

    # 5. End the task. The answer is the bill.
    spent = call(token, "POST", f"{base}/tasks/{task}/complete", {"reason": "the stock is known"})["budget"]["spent"]
    print(f"bill    ${spent['cost']:.6f} for {spent['calls']} calls")


if __name__ == "__main__":
    main()

"""What a simulated host reaches beside its stores: a model, the service behind the tools, and other trust domains.

Owns what was asked of them and what they did. Refuses to know what a letter between domains meets (`letters`).
"""

from __future__ import annotations

import contextvars
import json

import letters

from buspass.ports.outbound import Ambiguous, NotSent, Response
from buspass.testing.state_memory import Crash

acting = contextvars.ContextVar("acting")
"""The task that a request to the upstream belongs to."""


class Outside:
    """The model, the service behind the tools, and other domains, as a host reaches them. What was done is remembered."""

    def __init__(self, world, process):
        self._world, self._process = world, process

    async def send(self, request):
        world, random = self._world, self._world.random
        if self._process.dead:
            raise Crash
        if "/v1/chat" not in request.url and not request.url.endswith(("/pay", "/look")):
            return await letters.carried(world, self._process, request)
        if not world.calm and random.random() < 0.08 and world.meets("not sent"):
            raise NotSent("refused")
        pays = request.url.endswith("/pay")
        if pays:
            world.paid[request.headers["Idempotency-Key"]] += 1
        used = (random.randint(1, 20), random.randint(1, 100))
        if "chat" in request.url:
            world.billed[acting.get()] += used[0] + 10 * used[1]
        # a function that its host froze wakes a minute later, or when all is over
        chance = 0.6 if acting.get() in world.ending else 0.15
        frozen = not world.calm and random.random() < chance and world.meets("frozen")
        await world.pause(random.choice((60.0, 250.0)) if frozen else random.choice((0.0, 0.01, 0.4, 3.0)))
        if self._process.dead:
            raise Crash
        if not world.calm and random.random() < 0.08 and world.meets("answer lost"):
            raise Ambiguous("broken")
        body = _completion(*used) if "chat" in request.url else b'{"done": true}'
        return Response(status=200, headers={"content-type": "application/json"}, body=body)

    async def close(self):
        pass


def _completion(used, made):
    return json.dumps(
        {
            "id": "c", "object": "chat.completion", "created": 1, "model": "planner-1",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}],
            "usage": {"prompt_tokens": used, "completion_tokens": made, "total_tokens": used + made},
        }
    ).encode()  # fmt: skip

"""The events that `sam local invoke` is given, through AWS's own runtime client: each arrives as the request that it is."""

import json
import os
from pathlib import Path

from started import HERE, recorded_events

from buspass.testing.lambda_runtime import Function, LambdaRuntime

EVENTS = HERE.parents[1] / "events"


async def test_every_event_is_answered_through_the_runtime_client():
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    function = Function(handler="lambda_echo.handler", task_root=Path(HERE), environ={"PYTHONPATH": path})
    runtime = LambdaRuntime(function, instances=1)
    await runtime.start()
    try:
        for recorded in recorded_events():
            event, request = recorded.values[0]["event"], recorded.values[0]["request"]
            outcome = await runtime.invoke(json.dumps(event).encode())
            assert outcome.kind == "response", (recorded.id, outcome)
            payload = json.loads(outcome.payload)
            shown = json.loads(payload["body"])
            assert payload["statusCode"] == 200, recorded.id
            for name in ("method", "path", "query", "body"):
                assert shown[name] == request.get(name, shown[name]), (recorded.id, name)
        ticked = await runtime.invoke((EVENTS / "scheduled.json").read_bytes())
        assert (ticked.kind, json.loads(ticked.payload)) == ("response", {"looked": 7})
    finally:
        await runtime.stop()


def test_every_event_is_tried_here():
    tried = {f"{recorded.id}.json" for recorded in recorded_events()} | {"scheduled.json"}
    assert {path.name for path in EVENTS.glob("*.json")} == tried

"""What each program of this folder does: run its checks with each model, and tell what came of them as JSON.

A program knows nothing of Buspass: its framework finds address and key in the environment, as `buspass run` sets it.
`python PROGRAM MODEL…` prints `{checks: [[name, model, what went wrong or ""]], refusals: N}`, N being the requests that
the program meant to be refused. Owns the list of checks. Refuses to know any framework.
"""

import asyncio
import inspect
import json
import sys
import traceback

TEXT = "say these few words again"
TOOL = "item"
ITEM = {"id": "7", "owner": "C-1"}
"""What the model answers where a format is asked for."""
CHECKS = []


def check(surface, refused=0):
    """Mark a function that takes a model's name. `refused`: how many of its requests the gateway refuses."""

    def keep(function):
        CHECKS.append((surface, function, refused))
        return function

    return keep


def item(id: str) -> dict:  # noqa: A002 - the argument's name is part of the schema
    """An item of the shop."""
    return {**ITEM, "id": id}


def told(text):
    """Whether the model says that it was given the tool's result."""
    lead, _, result = text.partition("the answer was ")
    return not lead and json.loads(result) == ITEM


def main():
    rows, refusals = [], 0
    with asyncio.Runner() as loop:  # one for all: frameworks keep their connections
        for model in sys.argv[1:]:
            for surface, function, refused in CHECKS:
                rows.append([f"{surface} · {function.__name__.replace('_', ' ')}", model, wrong(loop, function, model)])
                refusals += refused
    print(json.dumps({"checks": rows, "refusals": refusals}))


def wrong(loop, function, model):
    try:
        if inspect.iscoroutinefunction(function):
            loop.run(function(model))
        else:
            function(model)
    except Exception as error:  # a row of the table, whatever it was
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"[:300]
    return ""

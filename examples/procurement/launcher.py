"""Starts procurement as processes: three hosts and what stands around them, and the agent beside them, twice.

Owns the fixed ports, and what an agent's environment says: that is all that differs between its two runs. Refuses to
know what comes of a run.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import yaml
from procurement.upstreams import AGENT, KEYS, MODEL, PORTS
from staging.stack import Processes

FOLDER = Path(__file__).parent
PROGRAM: Final = FOLDER / "agent.py"
HOSTS: Final = {"azure": 8760, "aws": 8761, "onprem": 8762}
UPSTREAMS: Final = dict(zip(PORTS, range(8770, 8776), strict=True))
REAL: Final = "gpt-5-mini"
"""The model where OpenAI's own is asked."""
KEPT: Final = re.compile("PATH|HOME|LANG|LC_.*|PYTHON.*|SSL_.*|SYSTEMROOT|COVERAGE.*|TMPDIR", re.IGNORECASE)
"""What an agent keeps of the demo's environment: no secret is in it."""


class Stack(Processes):
    """The example's processes. `async with Stack(folder) as stack:` runs them; `real`: the model is OpenAI's own."""

    secret = ("BUSPASS_DOMAIN_KEY", "SIM_PROVIDER_KEY", *KEYS)

    def __init__(self, run: Path, *, real: bool = False) -> None:
        self.real = real
        keys = ("PROCUREMENT_SECRET", "STRAIGHT_KEY", *KEYS)
        super().__init__(run, hosts=HOSTS, others=UPSTREAMS.values(), keys=keys)
        self.model = REAL if real else MODEL
        self.log = self.run / "services.jsonl"

    @property
    def document(self) -> dict[str, Any]:
        """buspass.yaml as this run has it."""
        return dict(yaml.safe_load(self.config.read_text("utf-8")))

    @property
    def price(self) -> Mapping[str, float]:
        """USD per million tokens of the model, by buspass.yaml's `prices:`."""
        provider = "openai" if self.real else "sim"
        return dict(self.document["prices"][f"{provider}/{self.model}"])

    async def surroundings(self) -> None:
        text = (FOLDER / "buspass.yaml").read_text("utf-8")
        if self.real:
            text = text.replace(f"{{provider: sim, model: {MODEL}}}", f"{{provider: openai, model: {REAL}}}")
            text = text.replace(f"  {MODEL}:", f"  {REAL}:").replace(f"models: [{MODEL}]", f"models: [{REAL}]")
        self.configure(text)
        ports = [part for name, port in UPSTREAMS.items() for part in (f"--{name}", str(self.ports[port]))]
        self.module("upstreams", "procurement.upstreams", *ports, "--log", str(self.log))
        await self.answers("upstreams", f"{self.url(UPSTREAMS['control'])}/health")

    async def workload_token(self, http: httpx.AsyncClient) -> str:
        """The agent's own OIDC token."""
        form = {"grant_type": "client_credentials", "client_id": AGENT}
        return await self.token(http, f"{self.url(UPSTREAMS['issuer'])}/workloads", form, "PROCUREMENT_SECRET")

    def straight(self) -> dict[str, str]:
        """The environment of an agent that has the provider's key, and the services' addresses and key."""
        own = dict.fromkeys(KEYS, self.secrets["STRAIGHT_KEY"])
        if self.real:
            return self._environment(
                "straight", self._services(), {**own, "OPENAI_API_KEY": os.environ["OPENAI_API_KEY"]}
            )
        model = {
            "OPENAI_BASE_URL": f"{self.url(UPSTREAMS['provider'])}/v1",
            "OPENAI_API_KEY": self.secrets["SIM_PROVIDER_KEY"],
        }
        return self._environment("straight", self._services(), {**own, **model})

    def governed(self, started: Mapping[str, Any], tools: list[Any]) -> dict[str, str]:
        """The environment of an agent that has a task's token. `tools`: what the gateway lists."""
        rows = [
            {
                "function": tool["function"],
                "method": "POST",
                "url": tool["url"],
                "headers": {"Authorization": "Bearer $OPENAI_API_KEY"},
                "body": {"arguments": "$arguments", "tool_call_id": "$call"},
            }
            for tool in tools
        ]
        model = {"OPENAI_BASE_URL": started["base_url"], "OPENAI_API_KEY": started["token"]}
        return self._environment("buspass", rows, model)

    def _services(self) -> list[Any]:
        """The same tools, as buspass.yaml describes them, at the services themselves."""
        return [
            {
                "function": {"name": name, "description": tool["description"], "parameters": tool["input"]},
                "method": tool["http"]["method"],
                "url": tool["http"]["url"],
                "headers": {"Authorization": f"Bearer ${tool['auth']['bearer']['secret']}"},
                "body": None if tool["http"]["method"] == "GET" else "$arguments",
            }
            for name, tool in self.document["tools"].items()
        ]

    def _environment(self, name: str, tools: list[Any], more: Mapping[str, str]) -> dict[str, str]:
        file = self.run / f"tools-{name}.json"
        file.write_text(json.dumps(tools, indent=1), encoding="utf-8")
        kept = {key: value for key, value in os.environ.items() if KEPT.fullmatch(key)}
        return {**kept, "AGENT_MODEL": self.model, "AGENT_TOOLS": str(file), **more}


COMMAND: Final = (sys.executable, str(PROGRAM))
"""The agent, the same for both runs."""

"""Which engine answers: the one in this process, or an OPA server where the configuration names one."""

from __future__ import annotations

from collections.abc import Mapping

from buspass.policy.embedded import EmbeddedEngine
from buspass.policy.server import OpaServer
from buspass.ports.clock import Clock
from buspass.ports.outbound import Outbound
from buspass.ports.policy import PolicyEngine


def engine(modules: Mapping[str, str], opa: str, outbound: Outbound, clock: Clock) -> PolicyEngine:
    """Give the engine of modules that have passed `lint`. `opa`: the server's URL, or "" for none."""
    return OpaServer(modules, opa, outbound, clock) if opa else EmbeddedEngine(modules)

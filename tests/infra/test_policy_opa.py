"""A real OPA answers the gateway's modules as the embedded engine does, and without it nobody passes.

`make tools` compiles it; it is started as compose.yaml and the chart start it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
import yaml

from buspass.errors import Problem
from buspass.http.compose import composed
from buspass.http.examining import examined
from buspass.model import Limits
from buspass.policy import server
from buspass.policy.decide import Policy
from buspass.policy.embedded import EmbeddedEngine
from buspass.policy.server import FRESH, OpaServer
from buspass.ports.outbound_pyreqwest import PyreqwestOutbound
from buspass.testing.clock import FakeClock
from buspass.testing.serve import free_port

pytestmark = pytest.mark.verify

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "policy"
MODULES = {path.name: path.read_text() for path in sorted(DATA.glob("*.rego"))}
VECTORS = yaml.safe_load((DATA / "vectors.yaml").read_text())
COMPOSE = yaml.safe_load((ROOT / "onprem" / "compose.yaml").read_text())["services"]["opa"]["command"]
CHART = (ROOT / "infra" / "onprem" / "chart" / "templates" / "deployment.yaml").read_text()
SECONDS = 300


@pytest.fixture(scope="session")
def program() -> Path:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    found = re.search(r"^OPA_VERSION := (.*)$", makefile, re.MULTILINE)
    assert found
    path = Path(f".cache/tools/opa-{found[1]}/opa")
    subprocess.run(["make", "-s", str(path)], cwd=ROOT, check=True, capture_output=True, timeout=1800)
    return ROOT / path


class Opa:
    """An OPA that serves `folder`, started with the arguments of compose.yaml, but for the address and the folder."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        places = {"--addr=0.0.0.0:8181": f"--addr=127.0.0.1:{self.port}", "/policies": str(self.folder)}
        words = [places.get(word, word) for word in COMPOSE if not word.startswith("--shutdown-wait-period")]
        self._process = subprocess.Popen([self._program, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + SECONDS
        while True:
            assert self._process.poll() is None
            assert time.monotonic() < until
            try:
                with urllib.request.urlopen(f"{self.url}/health?bundles", timeout=SECONDS) as answer:
                    assert answer.status == 200
                    return
            except OSError:
                time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait(SECONDS)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


@pytest.fixture
def opa(program: Path, tmp_path: Path) -> Iterator[Opa]:
    """Serves the modules as a ConfigMap has them: files that are links into a hidden folder, with tests beside them."""
    hidden = tmp_path / "served" / "..2026_11_27"
    hidden.mkdir(parents=True)
    (tmp_path / "served" / "..data").symlink_to(hidden.name)
    tests = {"call_test.rego": 'package buspass.call\n\ndeny contains "test" if true\n'}
    for name, source in {**MODULES, **tests}.items():
        (hidden / name).write_text(source)
        (tmp_path / "served" / name).symlink_to(f"..data/{name}")
    with Opa(program, tmp_path / "served") as opa:
        yield opa


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that a busy machine keeps waiting is not away."""
    monkeypatch.setattr(server, "TIMEOUT", 60.0)


@pytest.fixture
async def outbound() -> Any:
    outbound = PyreqwestOutbound()
    yield outbound
    await outbound.close()


async def refused(policy: Policy, document: dict[str, Any]) -> str:
    with pytest.raises(Problem) as caught:
        await policy.ask("call", document)
    assert caught.value.code == "policy_unavailable"
    return caught.value.detail


async def test_every_decision_is_the_embedded_engines(opa: Opa, outbound: Any) -> None:
    engine = OpaServer(MODULES, opa.url, outbound, FakeClock())
    for modules in (None, MODULES):
        asked, embedded = Policy(engine, modules), Policy(EmbeddedEngine(MODULES), modules)
        for row in VECTORS:
            decision = await asked.ask("call", row["input"])
            assert decision == await embedded.ask("call", row["input"]), row["name"]
            assert list(decision.deny) == row.get("deny", []), row["name"]


async def test_what_the_embedded_engine_can_not_be_shown_is_decided(opa: Opa, outbound: Any) -> None:
    policy = Policy(OpaServer(MODULES, opa.url, outbound, FakeClock()), MODULES)
    call = {"kind": "tool", "tool": "refund", "arguments": {"amount": 2**60, "order_id": "O-1"}}
    decision = await policy.ask("call", {"host": {"name": "aws"}, "call": call})
    assert decision.deny == ("above_limit", "not_the_last_order")


async def test_modules_that_were_changed_at_the_server_alone_are_not_asked(
    program: Path, tmp_path: Path, outbound: Any
) -> None:
    for name, source in MODULES.items():
        (tmp_path / name).write_text(source)
    clock = FakeClock()
    with Opa(program, tmp_path) as opa:
        policy = Policy(OpaServer(MODULES, opa.url, outbound, clock), MODULES)
        await policy.ask("call", VECTORS[0]["input"])
        opa.stop()
        (tmp_path / "call.rego").write_text('package buspass.call\n\ndeny contains "x" if input.other\n')
        opa.start()
        clock.advance(FRESH)
        assert "serves other modules than policy.path holds (1 missing" in await refused(policy, VECTORS[1]["input"])
        await policy.ask("call", VECTORS[0]["input"])  # what is remembered was decided by these modules


async def test_nobody_can_write_over_the_modules_by_way_of_its_api(opa: Opa) -> None:
    async with httpx.AsyncClient(base_url=opa.url) as client:

        async def served() -> dict[str, str]:  # in no order
            return {row["id"]: row["raw"] for row in (await client.get("/v1/policies")).json()["result"]}

        before = await served()
        assert sorted(before.values()) == sorted(MODULES.values())
        assert (await client.put("/v1/policies/more", content="package buspass.call\n")).status_code == 400
        assert (await client.put("/v1/data/shop/hours", json={"open": True})).status_code == 400
        assert await served() == before


async def test_a_built_in_that_fails_is_no_permission(program: Path, tmp_path: Path, outbound: Any) -> None:
    modules = {"call.rego": 'package buspass.call\n\ndeny contains "x" if 10 / input.n == 5\n'}
    (tmp_path / "call.rego").write_text(modules["call.rego"])
    with Opa(program, tmp_path) as opa:
        policy = Policy(OpaServer(modules, opa.url, outbound, FakeClock()), modules)
        assert (await policy.ask("call", {"n": 2})).deny == ("x",)
        assert "the OPA server answered 500" in await refused(policy, {"n": 0})


async def test_a_server_that_stands_still_or_is_gone_is_no_permission(
    opa: Opa, outbound: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy(OpaServer(MODULES, opa.url, outbound, FakeClock()), MODULES)
    await policy.ask("call", VECTORS[0]["input"])
    opa.send(signal.SIGSTOP)
    try:
        with monkeypatch.context() as hasty:
            hasty.setattr(server, "TIMEOUT", 2.0)
            assert "gave no answer within" in await refused(policy, VECTORS[1]["input"])
    finally:
        opa.send(signal.SIGCONT)
    opa.stop()
    assert "the OPA server" in await refused(policy, VECTORS[1]["input"])
    opa.start()
    assert (await policy.ask("call", VECTORS[1]["input"])).deny == ()


async def test_a_gateway_is_governed_by_it_and_says_when_it_is_away(program: Path, tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "start.rego").write_text(
        'package buspass.start\n\ndeny contains "no" if input.task.metadata.case == "7"\n'
    )
    with Opa(program, folder) as opa:
        text = f"version: 1\npolicy: {{path: policies, engine: {{opa: {{url: {opa.url}}}}}}}\nworkflows:\n"
        (tmp_path / "buspass.yaml").write_text(text + "  work: {agents: [{identity: local, agent: '*'}]}\n")
        environ = {
            **os.environ,
            "BUSPASS_CONFIG": str(tmp_path / "buspass.yaml"),
            "BUSPASS_DATA": str(tmp_path / "data"),
        }
        limits = Limits(request_bytes=6_000_000, response_bytes=6_000_000, first_byte=60, total=60)
        application = await composed(environ, limits)
        token = await application.mint_workload("me")
        headers = {"authorization": f"Bearer {token}"}
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8700", headers=headers) as client:

            async def started(case: str) -> tuple[int, str]:
                answer = await client.post("/v1/tasks", json={"workflow": "work", "metadata": {"case": case}})
                return answer.status_code, str(answer.json())

            assert (await started("1"))[0] == 201
            code, said = await started("7")
            assert (code, "'reasons': ['no']" in said) == (403, True), said
            ready = await client.get("/health/ready")
            assert (ready.status_code, ready.json()["checks"]["policy"]) == (200, "ok")
            assert {each.status for each in await examined(environ) if each.check == "policy"} == {"ok"}
            opa.stop()
            code, said = await started("2")
            assert (code, "policy_unavailable" in said, "the OPA server" in said) == (503, True, True), said
            ready = await client.get("/health/ready")
            assert (ready.status_code, "the OPA server can't be reached" in ready.text) == (503, True)
            (fault,) = [each for each in await examined(environ) if each.check == "policy"]
            assert (fault.status, fault.about) == ("failed", opa.url)
            assert "can't be reached" in fault.what
        await application.close()


def test_the_chart_starts_it_like_compose() -> None:
    words = re.findall(r"^ {12}- (\S+)$", CHART.partition("- name: opa\n")[2].partition("ports:")[0], re.MULTILINE)
    own = ("--addr", "--diagnostic-addr", "--shutdown-wait-period")
    assert [word for word in words if not word.startswith(own)] == [
        each for each in COMPOSE if not each.startswith(own)
    ]


def test_opa_finds_nothing_wrong_with_the_modules_that_the_linter_takes(program: Path) -> None:
    for folder in (DATA, ROOT / "examples" / "returns" / "policies"):
        subprocess.run([program, "check", "--strict", folder], check=True, timeout=SECONDS)

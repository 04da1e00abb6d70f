"""Operators make, list, rotate and revoke keys: over HTTP and by `buspass key`."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from buspass import cli
from buspass.cli.key import seconds
from buspass.testing.house import Domain
from buspass.testing.up import up

CONFIG = Path(__file__).parents[1] / "data" / "keys" / "buspass.yaml"
NEW = {"name": "bot", "workflow": "work"}


@pytest.fixture
async def domain(tmp_path: Path) -> AsyncIterator[Domain]:
    async with Domain(CONFIG, tmp_path, {}) as domain:
        await domain.host()
        yield domain


async def ask(domain: Domain, method: str, path: str, body: Any = None, token: str | None = None) -> httpx.Response:
    token = token or domain.apps["onprem"].house.operator_key
    return await (await domain.host()).request(method, path, json=body, headers={"authorization": f"Bearer {token}"})


async def test_a_new_key_is_shown_once_with_what_it_may_do(domain: Domain) -> None:
    asked = {**NEW, "pool": "spare", "models": ["draft"], "budget": {"cost": 0.1}, "expires_in": 3600}
    made = await ask(domain, "POST", "/v1/keys", asked)
    document = made.json()
    assert made.status_code == 201
    assert re.fullmatch(r"bp_[a-z2-7]{16}_[A-Za-z0-9_-]{43}", document.pop("key"))
    assert document["id"].startswith("k_")
    assert document.items() >= {
        "name": "bot", "workflow": "work", "pool": "spare", "models": ["draft"], "budget": {"cost": 0.1},
        "status": "active", "created_by": "operator.key", "revoked_at": None, "rotated_at": None, "killed_task": None,
    }.items()  # fmt: skip
    assert (await ask(domain, "GET", "/v1/keys")).json() == {"data": [document], "next_cursor": None}


async def test_keys_are_listed_in_pages(domain: Domain) -> None:
    ids = {(await ask(domain, "POST", "/v1/keys", {**NEW, "name": f"k{n}"})).json()["id"] for n in range(5)}
    found, cursor = [], ""
    while cursor is not None:
        page = (await ask(domain, "GET", f"/v1/keys?limit=2&cursor={cursor}")).json()
        found += [row["id"] for row in page["data"]]
        cursor = page["next_cursor"]
    assert (found, set(found)) == (sorted(ids), ids)
    for query in ("limit=0", "limit=x", "cursor=a", "status=x"):
        assert (await ask(domain, "GET", f"/v1/keys?{query}")).json()["code"] == "invalid_request"


@pytest.mark.parametrize(
    ("body", "path", "says"),
    [
        ({"name": None}, "name", "whose key"),
        ({"name": "a b"}, "name", "1 to 64"),
        ({"workflow": "nothing"}, "workflow", "there is no workflow 'nothing' here"),
        ({"workflow": 7}, "workflow", "kind of task"),
        ({"workflow": "personal"}, "workflow", "acts for a subject"),
        ({"pool": "nothing"}, "pool", "no such pool"),
        ({"workflow": "loose"}, "pool", "several"),
        ({"workflow": "loose", "pool": "support"}, "budget.cost", "does not limit cost"),
        ({"pool": "spare"}, "budget.cost", "smaller budget"),
        ({"models": ["other"]}, "models", "grants"),
        ({"models": []}, "models", "grants"),
        ({"budget": {"cost": 3}}, "budget.cost", "narrow"),
        ({"budget": {"cost": -1}}, "budget.cost", "at least 0"),
        ({"expires_in": 0}, "expires_in", "whole number"),
        ({"expires_in": "30d"}, "expires_in", "whole number"),
        ({"expires_in": True}, "expires_in", "whole number"),
    ],
)
async def test_a_key_that_could_not_work_is_refused_with_what_to_mend(
    domain: Domain, body: dict[str, Any], path: str, says: str
) -> None:
    answer = (await ask(domain, "POST", "/v1/keys", {**NEW, **body})).json()
    assert answer["code"] == "invalid_request"
    assert answer["errors"][0]["path"] == path
    assert says in answer["detail"]
    assert (await ask(domain, "GET", "/v1/keys")).json()["data"] == []


async def test_an_unknown_field_is_refused_by_name(domain: Domain) -> None:
    answer = (await ask(domain, "POST", "/v1/keys", {**NEW, "modles": []})).json()
    assert (answer["code"], answer["errors"][0]["path"]) == ("unsupported", "modles")


async def test_the_workflows_pool_or_the_only_one_pays_unless_another_is_named(domain: Domain) -> None:
    assert (await ask(domain, "POST", "/v1/keys", NEW)).json()["pool"] == "support"


async def test_without_pools_there_are_no_keys(tmp_path: Path) -> None:
    text = CONFIG.read_text("utf-8")
    bare = re.sub(r"pools:\n(?:  .*\n)+?workflows", "workflows", re.sub(r"    pool: \w+\n", "", text))
    (tmp_path / "bare.yaml").write_text(bare)
    async with Domain(tmp_path / "bare.yaml", tmp_path, {}) as domain:
        await domain.host()
        answer = (await ask(domain, "POST", "/v1/keys", NEW)).json()
    assert answer["code"] == "invalid_request"
    assert "add pools: {NAME: {cost: 5}}" in answer["detail"]


async def test_only_operators_handle_keys(domain: Domain) -> None:
    made = (await ask(domain, "POST", "/v1/keys", NEW)).json()
    workload = await domain.apps["onprem"].mint_workload("me")
    task = (await domain.agent(workflow="paid")).token
    for token in (workload, task, made["key"]):
        for method, path in (
            ("POST", "/v1/keys"),
            ("GET", "/v1/keys"),
            ("POST", f"/v1/keys/{made['id']}/rotate"),
            ("POST", f"/v1/keys/{made['id']}/revoke"),
        ):
            answer = await ask(
                domain, method, path, {**NEW} if path == "/v1/keys" and method == "POST" else None, token
            )
            assert (answer.status_code, answer.json()["code"]) == (403, "denied")
    (row,) = (await ask(domain, "GET", "/v1/keys")).json()["data"]
    assert row["status"] == "active"


async def test_what_is_no_key_is_not_found_and_a_revocation_is_repeatable(domain: Domain) -> None:
    for key in ("k_" + "a" * 16, "x", "t_abc"):
        assert (await ask(domain, "POST", f"/v1/keys/{key}/revoke")).json()["code"] == "not_found"
    made = (await ask(domain, "POST", "/v1/keys", NEW)).json()
    first = (await ask(domain, "POST", f"/v1/keys/{made['id']}/revoke")).json()
    domain.clock.advance(60)  # type: ignore[attr-defined]
    assert (await ask(domain, "POST", f"/v1/keys/{made['id']}/revoke")).json() == first
    assert (await ask(domain, "POST", f"/v1/keys/{made['id']}/rotate", {"grace": -1})).json()["code"] == (
        "invalid_request"
    )


# ── the command line ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("text", "wanted"), [("90s", 90), ("5m", 300), ("2h", 7200), ("30d", 2_592_000)])
def test_a_time_is_a_number_with_its_unit(text: str, wanted: int) -> None:
    assert seconds(text) == wanted


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("up")
    text = (
        "version: 1\npools: {support: {cost: 5}}\n"
        "prices: {sim/planner-1: {input: 1, output: 1}}\n"
        "providers: {sim: {api: openai, base_url: http://127.0.0.1:9/v1, auth: none}}\n"
        "workflows: {work: {models: [sim/planner-1], budget: {cost: 0.5}}}\n"
    )
    (folder / "buspass.yaml").write_text(text)
    with up("--config", str(folder / "buspass.yaml"), data=folder / "data", until="buspass listening") as running:
        yield running.environ


@pytest.fixture
def buspass(gateway: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    for name, value in gateway.items():
        monkeypatch.setenv(name, value)

    def run(*words: str) -> tuple[int, str, str]:
        code = cli.main(["key", *words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_keys_are_made_listed_rotated_and_revoked_from_the_command_line(buspass: Any) -> None:
    code, out, err = buspass("new", "bot", "--workflow", "work", "--expires", "30d", "--cost", "0.25")
    assert (code, err) == (0, "")
    text = re.search(r"^bp_\S+$", out, re.MULTILINE)
    assert text is not None
    assert "shown once" in out
    made = json.loads(buspass("list", "--json")[1])["data"][0]
    assert (made["name"], made["pool"], made["budget"]) == ("bot", "support", {"cost": 0.25})
    code, out, _ = buspass("list")
    assert (code, made["id"] in out, "active" in out) == (0, True, True)
    code, out, _ = buspass("rotate", made["id"], "--grace", "1h", "--json")
    assert json.loads(out)["key"] != text[0]
    assert buspass("revoke", made["id"])[0] == 0
    assert json.loads(buspass("list", "--json")[1])["data"][0]["status"] == "revoked"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("new", "bot"), 2, "--workflow"),
        (("new", "bot", "--workflow", "nothing"), 1, "workflow: does not fit; allowed: work"),
        (("new", "bot", "--workflow", "work", "--expires", "soon"), 2, "allowed: a number with s, m, h or d"),
        (("new", "bot", "--workflow", "work", "--models", "a,b"), 1, "allowed: sim/planner-1"),
        (("rotate", "k_" + "a" * 16), 1, "buspass key list"),
        (("revoke", "../tasks"), 2, "is no key's id"),
    ],
)
def test_mistakes_at_the_command_line_are_told(buspass: Any, words: tuple[str, ...], code: int, says: str) -> None:
    done, out, err = buspass(*words)
    assert (done, out) == (code, "")
    assert says in err
    assert "Traceback" not in err

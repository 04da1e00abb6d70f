"""The doctor names each planted fault by its check, and what to do; a host that is well has none."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.responses import JSONResponse

from buspass import cli
from buspass.config import compiled
from buspass.config.build import load
from buspass.doctor import CHECKS, Finding, Patient, Watched, examine, exit_code
from buspass.http.examining import examined
from buspass.ports.state import Applied, Operation, Put, Refused
from buspass.testing.clock import FakeClock
from buspass.testing.issuer import Issuer, Realm
from buspass.testing.outbound import Asgi, AsgiOutbound, RecordingOutbound
from buspass.testing.provider import Provider
from buspass.testing.state_memory import MemoryState
from buspass_onprem import signer, sqlite

KEY = "provider-key-7c1"
ISSUER = "127.0.0.1:9010"
PROVIDER = "127.0.0.1:9001"
OPA = "127.0.0.1:8181"
REGO = 'package buspass.call\n\nimport rego.v1\n\ndeny contains "no" if input.call.model == "forbidden"\n'
SERVED = {
    "raw": REGO,
    "ast": {"package": {"path": [{"value": "data"}, {"value": "buspass"}, {"value": "call"}]}},
}


def well(folder: Path) -> dict[str, Any]:
    """Give a configuration in which nothing is wrong."""
    return {
        "version": 1,
        "issuer": "http://127.0.0.1:8700",
        "domain_key": {"secret": "BUSPASS_DOMAIN_KEY"},
        "hosts": {
            "onprem": {
                "url": "http://127.0.0.1:8700",
                "cloud": "onprem",
                "region": "fra1",
                "signer": "file:///data/keys/signer.pem",
            }
        },
        "state": f"sqlite:///{folder}/state.db",
        "blobs": f"file:///{folder}/blobs",
        "identity": [
            {
                "name": "staff",
                "issuer": f"http://{ISSUER}/staff",
                "audience": "api://buspass",
                "claims": {"agent": "azp", "groups": "groups"},
            }
        ],
        "operators": [{"identity": "staff", "group": "platform"}],
        "providers": {
            "first": {
                "api": "openai",
                "base_url": f"http://{PROVIDER}/v1",
                "auth": {"bearer": {"secret": "PROVIDER_KEY"}},
            }
        },
        "models": {"plan": {"targets": [{"provider": "first", "model": "planner-1"}]}},
        "prices": {"first/planner-1": {"input": 1.0, "output": 10.0}},
        "workflows": {
            "work": {
                "agents": [{"identity": "staff", "agent": "*"}],
                "models": ["plan"],
                "budget": {"cost": 1.0},
            }
        },
    }


class Ward:
    """A host in files, well unless a test plants a fault before `see`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, FakeClock()
        self.file = well(folder)
        self.environ = {"PROVIDER_KEY": KEY, "BUSPASS_DOMAIN_KEY": "00" * 32, "BUSPASS_DATA": str(folder / "data")}
        self.issuer = Issuer(
            f"http://{ISSUER}",
            [Realm(name="staff", audience="api://buspass", clients={})],
            clock=lambda: self.clock.now() / 1000,
        )
        self.apps: dict[str, Asgi] = {ISSUER: self.issuer.app, PROVIDER: Provider(KEY).app}
        self.ahead = 0.0
        self.outbound = RecordingOutbound(AsgiOutbound({}))

    def write(self) -> Path:
        path = self.folder / "buspass.yaml"
        path.write_text(yaml.safe_dump(self.file), "utf-8")
        return path

    def rule(self, source: str) -> None:
        """Give the host a policy for calls."""
        self.file["policy"] = {"path": "policies"}
        (self.folder / "policies").mkdir()
        (self.folder / "policies" / "call.rego").write_text(source, "utf-8")

    async def see(self) -> list[Finding]:
        self.environ.setdefault("BUSPASS_CONFIG", str(self.write()))
        await signer.open("file:", data=self.folder / "data", create=True)
        apps = {host: self._dated(app) for host, app in self.apps.items()}
        self.outbound = RecordingOutbound(AsgiOutbound(apps))
        return await examined(self.environ, outbound=self.outbound, clock=self.clock)

    def _dated(self, app: Asgi) -> Asgi:
        """Let a server give its time, as servers do."""

        async def run(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
            date = datetime.fromtimestamp(self.clock.now() / 1000 + self.ahead, UTC)

            async def with_date(message: Any) -> None:
                if message["type"] == "http.response.start":
                    header = (b"date", format_datetime(date, usegmt=True).encode())
                    message = {**message, "headers": [*message["headers"], header]}
                await send(message)

            await app(scope, receive, with_date)

        return run


@pytest.fixture
def ward(tmp_path: Path) -> Ward:
    return Ward(tmp_path)


def shown(findings: list[Finding]) -> str:
    return "\n".join(f"{each.status} {each.check} {each.about}: {each.what} → {each.remedy}" for each in findings)


async def test_a_host_that_is_well_has_no_fault_and_every_check_says_so(ward: Ward) -> None:
    ward.rule(REGO)
    found = await ward.see()
    wrong = [each for each in found if each.status in {"failed", "unknown"}]
    # it was never started, so its key is not published; that is all that there is to say
    assert [each.check for each in found if each.status == "warning"] == ["keys"], shown(found)
    assert wrong == [], shown(found)
    assert exit_code(found) == 0
    assert {each.check for each in found} == {"configuration", *(check.name for check in CHECKS)} - {"settings"}
    assert [request.method for request in ward.outbound.requests] == ["GET"] * len(ward.outbound.requests)
    assert list((ward.folder / "blobs").rglob("doctor/*~")) == []


async def test_no_secret_is_ever_told(ward: Ward) -> None:
    ward.environ |= {"PROVIDER_KEY": f"{KEY}-wrong", "BUSPASS_TOKEN": "tok-4411-secret"}
    text = shown(await ward.see())
    assert "provider-key" not in text
    assert "tok-4411" not in text
    assert "00" * 32 not in text


# ── the planted faults: what is done to a host that is well, and who must say so ────────────────────────────────────

type Plant = Callable[[Ward], None]


def setting(path: str, value: Any) -> Plant:
    def plant(ward: Ward) -> None:
        *above, last = path.split("/")
        place: Any = ward.file
        for name in above:
            place = place[int(name) if isinstance(place, list) else name]
        place[last] = value

    return plant


def environment(**variables: str | None) -> Plant:
    def plant(ward: Ward) -> None:
        for name, value in variables.items():
            ward.environ.pop(name, None)
            if value is not None:
                ward.environ[name] = value

    return plant


def gone(host: str) -> Plant:
    return lambda ward: ward.apps.__delitem__(host)


def answering(host: str, documents: Mapping[str, Any], status: int = 200) -> Plant:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        found = next((document for end, document in documents.items() if path.endswith(end)), None)
        await JSONResponse(found, 404 if found is None else status)(scope, receive, send)

    return lambda ward: ward.apps.__setitem__(host, app)


def module(source: str) -> Plant:
    return lambda ward: ward.rule(source)


def opa(documents: Mapping[str, Any]) -> Plant:
    """An OPA that answers so, or is not there."""

    def plant(ward: Ward) -> None:
        ward.rule(REGO)
        ward.file["policy"]["engine"] = {"opa": {"url": f"http://{OPA}"}}
        if documents:
            answering(OPA, documents)(ward)

    return plant


def ahead(seconds: float) -> Plant:
    return lambda ward: setattr(ward, "ahead", seconds)


def beneath_a_file(key: str, url: str) -> Plant:
    """Put a store where no folder can be, whoever asks: its parent is a file."""

    def plant(ward: Ward) -> None:
        (ward.folder / "file").write_text("")
        ward.file[key] = url.format(ward.folder)

    return plant


def no_database(ward: Ward) -> None:
    (ward.folder / "state.db").write_bytes(b"not a database at all" * 400)


def altered(ward: Ward) -> None:
    settings = load(ward.write(), environ=ward.environ)
    document = compiled.written(settings, folder=str(ward.folder), data=ward.environ["BUSPASS_DATA"], loopback=True)
    (ward.folder / "compiled").write_bytes(document.replace(b"planner-1", b"planner-2"))
    ward.environ["BUSPASS_CONFIG"] = str(ward.folder / "compiled")


def signer_elsewhere(ward: Ward) -> None:
    ward.file["hosts"]["onprem"]["signer"] = "file:///keys/other.pem"


def expired(ward: Ward) -> None:
    now = int(ward.clock.now() / 1000)
    claims = {"sub": "me", "azp": "me", "groups": ["platform"], "iat": now - 7200, "nbf": now - 7200, "exp": now - 60}
    ward.environ["BUSPASS_TOKEN"] = ward.issuer.mint("staff", claims)


def outsider(ward: Ward) -> None:
    ward.environ["BUSPASS_TOKEN"] = ward.issuer.mint("staff", {"sub": "me", "azp": "me", "groups": ["sales"]})


DISCOVERY = {"issuer": f"http://{ISSUER}/staff", "jwks_uri": f"http://{ISSUER}/staff/jwks.json"}
STAFF = "identity/0/issuer"
FAULTS: Mapping[str, tuple[Plant, str, str, str, str]] = {
    # name: (what is done, status, check, part of what is said, part of the remedy)
    "no configuration": (
        environment(BUSPASS_CONFIG="/nowhere/buspass.yaml"), "failed", "configuration", "cannot be read", "check"),
    "unknown key": (setting("modles", {}), "failed", "configuration", "modles", "buspass check"),
    "unknown scheme of a store": (setting("state", "mongodb://x"), "failed", "configuration", "mongodb", "mend it"),
    "altered after it was compiled": (altered, "failed", "configuration", "altered", "compiled"),
    "unknown host name": (environment(BUSPASS_HOST="lambda"), "failed", "host", "lambda", "a host of the file"),
    "missing secret": (environment(PROVIDER_KEY=None), "failed", "secrets", "PROVIDER_KEY", "set the variable"),
    "secret that no header carries": (
        environment(PROVIDER_KEY="a\nb"), "failed", "secrets", "no header may carry", "without quotes"),
    "bad store of secrets": (
        environment(BUSPASS_SECRETS="vault://x"), "failed", "secrets", "no adapter for 'vault'", "BUSPASS_SECRETS"),
    "missing domain key": (
        environment(BUSPASS_DOMAIN_KEY=None), "failed", "domain_key", "BUSPASS_DOMAIN_KEY", "set the secret"),
    "domain key of 16 bytes": (
        environment(BUSPASS_DOMAIN_KEY="00" * 16), "failed", "domain_key", "32 hexadecimal digits", "one for all hosts"),
    "signer that is not there": (signer_elsewhere, "failed", "signer", "other.pem", "a key this host may use"),
    "state in no folder": (beneath_a_file("state", "sqlite:///{}/file/state.db"), "failed", "state", "file", "write it"),
    "state that is no database": (no_database, "failed", "state", "state.db", "see the URL"),
    "bad URL of the state": (
        setting("state", "sqlite:///x?durability=never"), "failed", "configuration", "durability", "buspass check"),
    "state that refuses connections": (
        setting("state", "redis://127.0.0.1:9"), "failed", "state", "127.0.0.1:9", "the store runs"),
    "blobs in no folder": (beneath_a_file("blobs", "file:///{}/file/blobs"), "failed", "blobs", "file", "may write in it"),
    "unreachable issuer": (gone(ISSUER), "failed", "identity", "nobody listens", "firewall"),
    "issuer that is none": (answering(ISSUER, {}), "failed", "identity", "answered 404", "the URL is the issuer's"),
    "issuer of another name": (
        answering(ISSUER, {"configuration": DISCOVERY | {"issuer": "http://x"}}),
        "failed", "identity", "names another issuer", "to the last slash"),
    "keys at another place": (
        answering(ISSUER, {"configuration": DISCOVERY | {"jwks_uri": "http://elsewhere/keys"}}),
        "failed", "identity", "jwks_uri", "over https"),
    "keys that prove nothing": (
        answering(ISSUER, {"configuration": DISCOVERY, "jwks.json": {"keys": [{"kty": "oct", "kid": "1", "k": "x"}]}}),
        "failed", "identity", "no RSA or P-256 key", "RS256 and ES256"),
    "a peer that publishes no keys": (
        setting("peers", {"far": {"url": "http://127.0.0.1:9", "issuer": "http://127.0.0.1:9"}}),
        "failed", "identity", "issuer http://127.0.0.1:9", "firewall"),
    "policy that does not lint": (
        module(REGO.replace("input.call.model ==", "nothing_of_the_kind(input.call.model) ==")),
        "failed", "policy", "there is no function", "mend the module"),
    "a policy server that is away": (
        opa({}),
        "failed", "policy", "the OPA server can't be reached", "opa run --server"),
    "a policy server with other modules": (
        opa({"/v1/policies": {"result": []}}),
        "failed", "policy", "other modules than policy.path holds", "opa run --server"),
    "a policy server that answers nothing": (
        opa({"/v1/policies": {"result": [SERVED]}, "/v1/data/buspass/call": {}}),
        "failed", "policy", "has no answer to data.buspass.call", "deny contains"),
    "policy without an answer": (
        module(REGO + 'deny contains "dear" if limit > 5\nlimit := 1 if true\nlimit := 2 if input.call.bytes == 0\n'),
        "failed", "policy", "no usable answer", "deny contains"),
    "expired operator's token": (expired, "failed", "operator", "expired 60 s ago", "get a new token"),
    "operator of no group": (outsider, "failed", "operator", "in no group", "get a new token"),
    "nobody operates": (
        setting("operators", []), "warning", "operator", "nobody is an operator", "an identity and a group"),
    "provider that refuses connections": (gone(PROVIDER), "failed", "providers", "nobody listens", "base_url"),
    "provider that does not take the key": (
        environment(PROVIDER_KEY="another"), "failed", "providers", "answers 401", "a key that is valid"),
    "provider that is down": (
        answering(PROVIDER, {"models": {}}, 503), "warning", "providers", "answers 503", "status page"),
    "model that is not listed": (
        answering(PROVIDER, {"models": {"data": [{"id": "other"}]}}), "warning", "providers", "planner-1", "spelt"),
    "time-out over the host's limit": (
        setting("models/plan/timeout", {"total": "1h"}), "warning", "limits", "after 900 s", "another host"),
    "clock behind": (ahead(90.0), "failed", "clock", "90 s behind", "NTP"),
    "clock ahead": (ahead(-90.0), "failed", "clock", "s ahead", "NTP"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
async def test_each_planted_fault_is_named_with_what_to_do(ward: Ward, name: str) -> None:
    plant, status, check, what, remedy = FAULTS[name]
    plant(ward)
    found = await ward.see()
    named = [each for each in found if (each.status, each.check) == (status, check)]
    assert any(what in each.what and remedy in each.remedy for each in named), shown(found)
    failed = {each.check for each in found if each.status == "failed"}
    assert failed == ({check} if status == "failed" else set()), shown(found)
    assert exit_code(found) == (2 if check in {"configuration", "host"} else 1 if status == "failed" else 0)


async def test_a_model_without_a_price_is_named(ward: Ward) -> None:
    del ward.file["prices"]
    del ward.file["workflows"]["work"]["budget"]
    found = await ward.see()
    named = [each for each in found if each.status == "warning" and each.check == "providers"]
    assert [(each.about, "add prices" in each.remedy) for each in named] == [("first/planner-1", True)], shown(found)


async def test_what_is_overdue_is_told(ward: Ward) -> None:
    store = await sqlite.open(ward.file["state"])
    await store.apply("t_late", [Put("head", {"n": 1}, index={"due": ("due:3", f"{ward.clock.now() - 600_000:016d}")})])
    await store.close()
    found = await ward.see()
    assert [each.check for each in found if each.status == "warning"] == ["keys", "timer"], shown(found)


class Forgetful(MemoryState):
    """A store that says of every write that it was done."""

    async def apply(self, partition: str, operations: Sequence[Operation]) -> Applied | Refused:
        outcome = await super().apply(partition, operations)
        return Applied(None) if isinstance(outcome, Refused) else outcome


async def test_a_store_that_keeps_no_conditions_is_named_and_what_could_not_be_opened_is_unknown(ward: Ward) -> None:
    settings = load(ward.write(), environ=ward.environ)
    patient = Patient(
        settings=settings,
        host=settings.hosts["onprem"],
        environ=ward.environ,
        clock=ward.clock,
        outbound=Watched(ward.outbound, ward.clock),
        state=Forgetful(),
    )
    found = await examine(patient)
    assert [each.what for each in found if each.check == "state"] == ["it does not keep the conditions of a write"]
    unknown = {each.check for each in found if each.status == "unknown"}
    assert unknown == {"secrets", "signer", "keys", "blobs", "providers", "clock"}, shown(found)


def test_the_verb_tells_it_in_lines_and_as_json(
    ward: Ward, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ward.file["providers"]["first"]["base_url"] = "http://127.0.0.1:9/v1"  # where nobody listens
    del ward.file["identity"], ward.file["operators"], ward.file["workflows"]["work"]["agents"]
    path = ward.write()
    for name, value in ward.environ.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["doctor", "--config", str(path)]) == 1
    lines = capsys.readouterr().out
    assert "FAILED   providers  first: http://127.0.0.1:9/v1 can't be reached" in lines
    assert "→ see base_url" in lines
    assert cli.main(["doctor", "--config", str(path) + ".not", "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert [(each["check"], each["status"]) for each in document["findings"]] == [("configuration", "failed")]

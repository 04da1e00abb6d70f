"""The same surface at Lambda, Azure Functions and on-prem: one table of requests, answers equal but for what is listed."""

import json
import re
import threading
import time
from contextlib import closing, contextmanager
from fnmatch import fnmatchcase
from http.client import HTTPConnection
from itertools import permutations
from urllib.parse import urlencode

import hosts
import pytest
import yaml

from buspass.errors import CODES
from buspass.http.app import ROUTES
from buspass.testing.provider import Fault

ROWS = yaml.safe_load((hosts.DATA / "requests.yaml").read_text("utf-8"))
MASKS = yaml.safe_load((hosts.DATA / "masks.yaml").read_text("utf-8"))
ELSEWHERE = {
    "unpriced": "the configuration is refused before",
    "unbounded": "the configuration is refused before",
    "too_many_in_flight": "64 calls at once: a test of the ledger",
    "overloaded": "a report over more tasks than this test has",
    "rate_limited": "more calls than its time: a test of the rates",
    "circuit_open": "a service that stays dead: a test of the breakers",
    "repeated_call": "this table asks for one thing many times: loops are off, and tests/core/test_loops*.py's",
    "loop_detected": "the same",
    "stopped": "a stop at one host stops the players at all: tests/e2e/test_stop_fleet.py",
    "lease_expired": "a child that was cut off: tests/core/test_children_faults.py",
    "peer_unavailable": "this domain has no peers: tests/core/test_peers*.py, tests/e2e/test_two_domains.py",
    "state_unavailable": "the store of this test never fails",
    "outcome_unknown": "the store of this test never fails",
    "policy_unavailable": "the policy of this test never fails",
    "deadline_exceeded": "no call here waits as long as a host allows",
}
"""Problems that the table does not show, and why."""
CHANGING = {
    ("GET", "/v1/breakers"): "it tells what the players before have done to the services",
    ("GET", "/v1/spend"): "it tells what the players before have spent",
    ("GET", "/v1/latency"): "it tells how long it took them",
    ("GET", "/v1/observed/[^/]+"): "it tells what they did",
    ("POST", "/v1/stops"): "a stop at one host stops the players at all: tests/e2e/test_stop_fleet.py",
    ("GET", "/v1/stops"): "it tells what was stopped before",
    ("DELETE", "/v1/stops/[^/]+"): "there is none to lift",
    ("POST", "/v1/tasks/[^/]+/tasks"): "a child takes of its parent's budget: tests/core/test_children.py",
    ("POST", "/v1/peers/orders"): "this domain has no peers: tests/core/test_peers*.py",
    ("POST", "/v1/peers/statements"): "the same",
}
"""Routes whose answers can't be alike, for the hosts share a store: who is refused there is in the table."""
FRAMING = {"content-length", "transfer-encoding"}


class Player:
    """Sends the table to one host, and keeps what later rows need."""

    def __init__(self, domain, host):
        self.domain, self.host = domain, host
        bad = domain.around.issuer.bad("workloads", sub="worker", azp="worker")
        self.kept = {
            "host": host,
            "customer": domain.customer("C-1"),
            "worker_token": domain.workload(),
            "other_token": domain.workload("other"),
            "away_token": domain.around.issuer.mint("nobody", {"iss": domain.away, "sub": "worker", "azp": "worker"}),
            "operator_token": domain.operator_key(host),
            **{f"{name}_token": bad[name] for name in ("expired", "wrong_audience", "alg_none")},
        }

    def play(self):
        return {row["name"]: self.row(row) for row in ROWS}

    def row(self, row):
        time.sleep(row.get("wait", 0))
        if "fault" in row:
            self.domain.around.provider.faults.append(Fault(kind=row["fault"]))
        with self.beside(row):
            answer = self.send(row)
        for name, path in row.get("keep", {}).items():
            value = at(answer.json, path)
            self.kept |= {name: value, f"{name}_tail": value.removeprefix("t_")}
        return answer

    @contextmanager
    def beside(self, row):
        """Have another request of the same caller in flight all the while, at a service that waits for us."""
        if "while" not in row:
            yield
            return
        services = self.domain.around.services
        order = row["while"]["json"]["arguments"]["order"]
        gate = services.gates[order] = threading.Event()
        before = services.log.count(("asked", order))
        thread = threading.Thread(target=self.send, args=({"as": row["as"], **row["while"]},))
        thread.start()
        try:
            while services.log.count(("asked", order)) == before:
                assert thread.is_alive(), f"{row['name']}: the other request was never in flight"
                time.sleep(0.005)
            yield
        finally:
            gate.set()
            thread.join()

    def send(self, row):
        method, path = self.filled(row["send"]).split(" ", 1)
        headers = list(self.filled(row.get("headers", {})).items())
        if "as" in row:
            headers.append(("Authorization", f"Bearer {self.kept[row['as'] + '_token']}"))
        body, kind = self.body(row)
        if kind and "Content-Type" not in row.get("headers", {}):
            headers.append(("Content-Type", kind))
        raw = [(name, value.encode()) for name, value in headers]
        return hosts.exchange(self.domain.urls[self.host], method, quoted(path), raw, body)

    def body(self, row):
        if "json" in row:
            return json.dumps(self.filled(row["json"]), ensure_ascii=False).encode(), "application/json"
        if "form" in row:
            return urlencode(self.filled(row["form"])).encode(), "application/x-www-form-urlencoded"
        if "text" in row:
            return row["text"].encode(), "application/json; charset=utf-8"
        if "hex" in row:
            return bytes.fromhex(row["hex"]), None
        if "chunks" in row:
            return [chunk.encode() for chunk in row["chunks"]], "application/json"
        if "letters" in row:
            message = {"role": "user", "content": "x" * row["letters"]}
            return json.dumps({"model": "plan", "messages": [message]}).encode(), "application/json"
        return None, None

    def filled(self, value):
        if isinstance(value, str):
            return re.sub(r"\{(\w+)\}", lambda found: self.kept.get(found[1], found[0]), value)
        if isinstance(value, dict):
            return {name: self.filled(part) for name, part in value.items()}
        return [self.filled(part) for part in value] if isinstance(value, list) else value


def quoted(path):
    """A path as it goes over the wire: bytes beyond ASCII as they are would be no HTTP."""
    return re.sub(r"[^\x21-\x7e]", lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), path)


def at(document, path):
    for part in path.split("."):
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def events(body):
    """A stream's events: what is JSON in them parsed, so that it can be compared."""
    lines = [line.removeprefix("data: ") for line in body.decode().splitlines() if line]
    return [json.loads(line) if line.startswith("{") else line for line in lines]


# ── masks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def masked(answer, masks=MASKS):
    """An answer in which what may differ is replaced, so that it must still be there."""
    whole = {"status": answer.status, "headers": answer.headers, "body": answer.body}
    kind = answer.headers.get("content-type", [""])[0]
    if "json" in kind and answer.body:
        whole["body"] = answer.json
    elif "event-stream" in kind:
        whole["body"] = events(answer.body)
        whole["headers"] = {name: value for name, value in answer.headers.items() if name not in FRAMING}
    return hidden(whole, "", masks)


def hidden(value, path, masks):
    if isinstance(value, dict):
        return {name: hidden(part, f"{path}.{name}".lstrip("."), masks) for name, part in value.items()}
    if isinstance(value, list):
        return [hidden(part, f"{path}.{index}", masks) for index, part in enumerate(value)]
    for mask in masks:
        if any(fnmatchcase(path, field) for field in mask["fields"]):
            value = re.sub(mask["like"], "…", str(value))
    return value


# ── the table ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def played(domain):
    """Each host's answer to each row."""
    return {host: Player(domain, host) for host in domain.urls}, {}


@pytest.fixture(scope="session")
def answers(played):
    players, found = played
    return found or found.update({host: player.play() for host, player in players.items()}) or found


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_every_host_answers_alike(row, answers, played):
    status, code = row["is"] if isinstance(row["is"], list) else (row["is"], None)
    for host, player in played[0].items():
        answer = answers[host][row["name"]]
        assert answer.status == status, (host, answer)
        if code:
            document = answer.json.get("error", answer.json)
            assert document["code"] == code, (host, document)
        for path, wanted in row.get("shows", {}).items():
            assert at(answer.json, path) == player.filled(wanted), (host, path)
    reference = masked(answers["onprem"][row["name"]])
    for host in ("azure", "aws"):
        assert masked(answers[host][row["name"]]) == reference, host


def test_every_answer_says_how_long_it_is(answers):
    for host, found in answers.items():
        for row in ROWS:
            answer = found[row["name"]]
            if "event-stream" in answer.headers.get("content-type", [""])[0]:
                said = answer.headers.get("content-length")
                assert said == ([str(len(answer.body))] if host == "aws" else None), (host, row["name"])
            elif not row["send"].startswith("HEAD "):
                assert answer.headers["content-length"] == [str(len(answer.body))], (host, row["name"])
            else:
                assert answer.body == b"", (host, row["name"])


def test_the_table_reaches_every_route_and_every_problem():
    sent = [(*row["send"].partition("?")[0].split(" ", 1), row) for row in ROWS]
    ours = {(route.method, re.sub(r"\{\w+(:path)?\}", "[^/]+", route.path)): route for route in ROUTES}
    met = {
        (method, pattern)
        for method, pattern in ours
        for m, path, row in sent
        if m == method and re.fullmatch(pattern, path) and not isinstance(row["is"], list)
    }
    assert ours.keys() - met == set(CHANGING)
    codes = {row["is"][1] for row in ROWS if isinstance(row["is"], list)}
    assert set(CODES) - codes == set(ELSEWHERE)


@pytest.mark.parametrize("index", range(len(MASKS)), ids=[mask["why"][:30] for mask in MASKS])
def test_every_mask_hides_something_in_each_of_its_fields_and_says_why(index, answers):
    mask = MASKS[index]
    assert len(mask["why"]) > 20
    for field in mask["fields"]:
        alone = {**mask, "fields": [field]}
        found = [answer for answer in answers["aws"].values() if "…" in str(masked(answer, [alone]))]
        assert any(masked(answer, [alone]) != masked(answer, []) for answer in found), field


# ── what the table can't say ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("first", "second", "third"), list(permutations(hosts.HOSTS)))
def test_a_task_goes_from_host_to_host(domain, first, second, third):
    """Begun at one host, used at all, taken over at another, killed at a third: one task, one budget, one journal."""
    task, token = domain.start(first, "work")
    for host in (first, second, third):
        assert note(domain, host, token).status == 200
    resumed = domain.send(second, "POST", f"/v1/tasks/{task}/resume", domain.workload(), {})
    assert (resumed.status, resumed.json["task"]["fence"]) == (200, 2)
    for host in (third, first, second):
        assert refused(note(domain, host, token)) == "fenced"
        assert note(domain, host, resumed.json["token"]).status == 200
    shown = domain.send(first, "GET", f"/v1/tasks/{task}", resumed.json["token"]).json
    assert shown["budget"]["spent"]["tool_calls"] == 6
    killed = domain.send(third, "POST", f"/v1/tasks/{task}/kill", resumed.json["token"], {"reason": "done"})
    assert (killed.status, killed.json["status"]) == (200, "killed")
    for host in (first, second, third):
        assert refused(note(domain, host, resumed.json["token"])) == "task_killed"
    verdict = domain.send(second, "GET", f"/v1/tasks/{task}/trace/verify", domain.workload())
    assert verdict.json["ok"], verdict.json
    trace = domain.send(first, "GET", f"/v1/tasks/{task}/trace", domain.workload()).json["records"]
    assert {row["host"] for row in trace if row["kind"] == "action"} == set(hosts.HOSTS)


def test_a_key_is_one_key_at_every_host(domain):
    _, token = domain.start("aws", "work")
    answers = [note(domain, host, token, Idempotency_Key="once") for host in domain.urls]
    assert {answer.status for answer in answers} == {200}
    assert len({answer.json["action"] for answer in answers}) == 1
    assert [answer.headers.get("buspass-replayed") for answer in answers] == [None, ["true"], ["true"]]


def test_a_tool_of_one_host_is_refused_elsewhere_by_its_address(domain):
    _, token = domain.start("azure", "refunds")
    for host in ("aws", "azure"):
        answer = domain.send(host, "POST", "/v1/tools/legal_check", token, {"arguments": {"order": "o-9"}})
        assert refused(answer) == "tool_not_granted"
        assert answer.json["url"] == f"{domain.urls['onprem']}/v1/tools/legal_check"
        listed = domain.send(host, "GET", "/v1/tools", token).json["data"]
        assert listed[0]["url"] == answer.json["url"]
    answer = domain.send("onprem", "POST", "/v1/tools/legal_check", token, {"arguments": {"order": "o-9"}})
    assert answer.status == 200


@pytest.mark.parametrize("host", hosts.HOSTS)
def test_more_than_a_host_carries_is_too_large(domain, host):
    _, token = domain.start(host, "work")
    answer = domain.send(host, "POST", "/v1/chat/completions", token, {"model": "plan", "messages": "x" * 21_500_000})
    assert answer.status == 413
    if host != "aws":  # a Function URL answers by itself, and not with a problem
        assert refused(answer) == "request_too_large"


@pytest.mark.parametrize("host", hosts.HOSTS)
def test_a_header_that_may_stand_once_is_nobodys_when_it_stands_twice(domain, host):
    _, token = domain.start(host, "work")
    for order in ((token, "another"), ("another", token)):
        pairs = [("Authorization", f"Bearer {each}") for each in order]
        assert hosts.exchange(domain.urls[host], "GET", "/v1/models", pairs).status == 401


@pytest.mark.parametrize("host", hosts.HOSTS)
def test_dots_in_a_path_open_no_more_than_what_they_stand_for(domain, host):
    """A front may resolve them, as Azure's does, or leave them, and then there is nothing at that path."""
    _, token = domain.start(host, "work")
    for path in ("/v1/tasks/../models", "/v1/tasks/%2e%2e/models"):
        assert domain.send(host, "GET", path).status in {401, 404}
        answer = domain.send(host, "GET", path, token)
        assert answer.status == 404 or answer.json == domain.send(host, "GET", "/v1/models", token).json


@pytest.mark.parametrize("host", hosts.HOSTS)
def test_a_connection_that_is_kept_answers_at_once(domain, host):
    connection = HTTPConnection(domain.urls[host].removeprefix("http://"))
    with closing(connection):
        for number in range(200):  # a busy machine may be slow nearly always
            began = time.perf_counter()
            connection.request("GET", "/health/live")
            assert connection.getresponse().read()
            if number and time.perf_counter() - began < 0.03:
                return
    pytest.fail("with Nagle's algorithm it is 40 ms, always")


def note(domain, host, token, **headers):
    return domain.send(host, "POST", "/v1/tools/note", token, {"arguments": {"text": "größer"}}, **headers)


def refused(answer):
    assert answer.status >= 400, answer
    return answer.json.get("error", answer.json)["code"]

"""The command line as its users meet it: help, mistakes, and gateways that are not there or not ours."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from buspass import cli
from buspass.cli import check, task
from buspass.cli.connection import advice, said
from buspass.cli.demo import DEMOS, examples
from buspass.testing.serve import free_port

VERBS = ("up", "check", "demo", "task", "trace")


@pytest.fixture(autouse=True)
def environ(monkeypatch, tmp_path):
    """No variable of the developer's own shell."""
    for name in [name for name in os.environ if name.startswith("BUSPASS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BUSPASS_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


def process(*words, **environ):
    """`python -m buspass …`; never a stack trace."""
    done = subprocess.run(
        [sys.executable, "-m", "buspass", *words],
        env={**os.environ, **environ},
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def buspass(capsys):
    def run(*words):
        code = cli.main(words)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@contextlib.contextmanager
def answering(status, body, content_type="application/json"):
    """A server on loopback that answers the same to everything; yields its URL and the requests it got."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            got.append((self.command, self.path, dict(self.headers)))
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            self.do_GET()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", got
        finally:
            server.shutdown()
            thread.join()


# ── help and mistakes ───────────────────────────────────────────────────────────────────────────────────────────────


def test_help_shows_every_verb_an_example_and_the_exit_codes():
    code, out, err = process("--help")
    assert (code, err) == (0, "")
    for verb in VERBS:
        assert f"\n    {verb} " in out
    assert "buspass up " in out
    assert "130 interrupted" in out


def test_help_loads_nothing_that_is_slow():
    code = "import sys; from buspass.cli import main; main(['--help']); main(['trace', '--help']); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True).stdout
    slow = {"httpx", "pydantic", "starlette", "yaml", "jwt", "cryptography", "uvicorn", "asyncio", "regopy"}
    assert slow & set(out.splitlines()[-1].split()) == set()


@pytest.mark.parametrize("verb", [*([v] for v in VERBS), ["task", "list"], ["task", "show"], ["task", "kill"]])
def test_every_verb_helps(buspass, verb):
    code, out, err = buspass(*verb, "--help")
    assert (code, err, out.startswith(f"usage: buspass {' '.join(verb)}")) == (0, "", True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "VERB"),
        (["frobnicate"], "frobnicate"),
        (["login", "--", "agent.py"], "not available yet: buspass login"),
        (["top"], "not available yet: buspass top"),
        (["demo", "procurement", "--rogue"], "demo procurement has no --rogue"),
        (["demo", "returns", "--outage", "3"], "demo returns has no --outage"),
        (["demo", "nothing"], "procurement"),
        (["up", "--port", "65536"], "0 to 65535"),
        (["up", "--port", "http"], "0 to 65535"),
        (["task", "list", "--status", "lost"], "suspended"),
        (["task", "list", "--limit", "0"], "1 to 10000"),
        (["task", "kill", "t_abc"], "--reason"),
        (["task", "show", "../../etc"], "is no task's id"),
        (["task", "show", "abc"], "buspass task list"),
        (["trace"], "which task?"),
        (["trace", "verify"], "buspass trace verify ID"),
        (["trace", "t_a", "t_b"], "one task at a time"),
        (["trace", "t_a", "--follow"], "--json"),
    ],
)
def test_wrong_usage_is_told_with_what_is_right(buspass, words, told):
    code, out, err = buspass(*words)
    assert (code, out) == (2, "")
    assert told in err


def test_an_unforeseen_failure_is_one_line_and_a_stack_for_who_asks(buspass, monkeypatch):
    def broken(arguments):
        raise RuntimeError("the disk\x1b[2J is on fire")

    monkeypatch.setattr(check, "run", broken)
    code, _, err = buspass("check", "x.yaml")
    assert (code, err) == (
        1,
        "buspass failed: RuntimeError: the disk\\x1b[2J is on fire (BUSPASS_DEBUG=1 shows where)\n",
    )
    monkeypatch.setenv("BUSPASS_DEBUG", "1")
    assert "Traceback" in buspass("check", "x.yaml")[2]


def test_ctrl_c_is_130_without_a_word(buspass, monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "run", interrupted)
    assert buspass("check", "x.yaml") == (130, "", "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough_gets_no_stack(tmp_path, unbuffered):
    (tmp_path / "buspass.yaml").write_text("version: 1\nworkflows: {a: {models: [openai/gpt-5-mini]}}\n")
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "buspass", "check", "buspass.yaml", "--json"]
    environ = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, env=environ, stdout=write, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


# ── up, without a gateway ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_configuration_that_is_not_there(tmp_path):
    code, out, err = process("up", "--config", "nowhere.yaml")
    assert (code, out, err) == (2, "", "nowhere.yaml:1:1 (document): cannot be read: No such file or directory\n")


def test_every_line_of_a_wrong_configuration_is_told(tmp_path):
    (tmp_path / "buspass.yaml").write_text("version: 1\nworkflow: {}\nworkflows: {a: {models: [gpt]}}\n")
    code, _, err = process("up", "--port", "0")
    assert code == 2
    assert [line.split(" ")[0] for line in err.splitlines()][:1] == ["buspass.yaml:2:1"]
    assert err == process("up", "--port", "0", BUSPASS_CONFIG="buspass.yaml")[2]


def test_the_example_is_never_served_to_others():
    code, _, err = process("up", "--bind", "0.0.0.0", "--port", "0")
    assert (code, "for this machine only" in err) == (2, True)


def test_an_address_that_is_not_this_machines():
    code, _, err = process("up", "--bind", "127.0.0.256", "--port", "0", "--config", "x.yaml")
    assert (code, err.startswith("cannot listen at 127.0.0.256 port 0")) == (1, True)


# ── demo ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_demo_is_launched_with_its_options_and_gives_its_exit_code(tmp_path, buspass, monkeypatch):
    (tmp_path / "returns").mkdir()
    program = "import json, sys; json.dump(sys.argv[1:], open('asked', 'w')); sys.exit(7)"
    (tmp_path / "returns" / "demo.py").write_text(program)
    monkeypatch.setenv("BUSPASS_EXAMPLES", str(tmp_path))
    code, _, _ = buspass("demo", "returns", "--ask=--now, please", "--requests", "mine.jsonl", "--rogue", "--json")
    assert code == 7
    asked = json.loads((tmp_path / "asked").read_text())
    assert asked == ["--ask=--now, please", "--requests=mine.jsonl", "--rogue", "--json"]
    (tmp_path / "returns").rename(tmp_path / "procurement")
    assert buspass("demo", "procurement", "--pages", "9", "--outage=3", "--write")[0] == 7
    assert json.loads((tmp_path / "asked").read_text()) == ["--pages=9", "--outage=3.0", "--write"]


def test_without_the_examples_folder_the_way_to_it_is_told(buspass, monkeypatch):
    monkeypatch.setenv("BUSPASS_EXAMPLES", "/nowhere")
    code, _, err = buspass("demo", "returns")
    assert (code, "BUSPASS_EXAMPLES" in err) == (2, True)


@pytest.mark.parametrize("name", DEMOS)
def test_the_checkouts_own_demos_are_found(name):
    assert (examples() / DEMOS[name]).is_file()


# ── asking a gateway ────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_gateway_is_told_with_the_way_to_start_one():
    url = f"http://127.0.0.1:{free_port()}"
    code, out, err = process("task", "list", BUSPASS_URL=url)
    assert (code, out) == (1, "")
    assert err == f"no gateway answers at {url}: start one with `buspass up`, or set BUSPASS_URL\n"


def test_no_gateway_far_away(buspass, monkeypatch):
    monkeypatch.setenv("BUSPASS_URL", "https://gateway.invalid")
    monkeypatch.setenv("BUSPASS_TOKEN", "t")
    code, _, err = buspass("trace", "t_abc")
    assert (code, "is BUSPASS_URL right?" in err) == (1, True)


@pytest.mark.parametrize("words", [("task", "list"), ("run", "--", "true"), ("up", "--port", "0")])
@pytest.mark.parametrize(
    "url",
    [
        *("127.0.0.1:8700", "ftp://h", "http://:80", "http://[::1", "http://h:x", "http://h:70000", "http://h h"),
        *("http://h?x=1", "http://h/#x", "http://h\n"),
    ],
)
def test_an_address_that_is_none(buspass, monkeypatch, url, words):
    monkeypatch.setenv("BUSPASS_URL", url)
    code, _, err = buspass(*words)
    assert (code, err.startswith(f"BUSPASS_URL is {url!r}; allowed: http://")) == (2, True)


def test_an_address_with_a_password_is_refused_and_not_shown(buspass, monkeypatch):
    monkeypatch.setenv("BUSPASS_URL", "http://me:secret@127.0.0.1:8700")
    code, out, err = buspass("task", "list")
    assert (code, err.startswith("BUSPASS_URL names a user"), "secret" in out + err) == (2, True, False)


@pytest.mark.parametrize("token", ["ä", "a\nb", "“bpo_x”"])
def test_a_token_that_no_header_can_carry_is_told_and_not_shown(buspass, monkeypatch, token):
    with answering(200, b"{}") as (url, got):
        monkeypatch.setenv("BUSPASS_URL", url)
        monkeypatch.setenv("BUSPASS_TOKEN", token)
        code, out, err = buspass("task", "list")
        assert (code, out, err.startswith("BUSPASS_TOKEN has characters that no token has")) == (2, "", True)
        monkeypatch.setenv("BUSPASS_WORKLOAD_TOKEN", token)
        monkeypatch.setattr("buspass.cli.serving.answers", lambda _: True)
        code, out, err = buspass("run", "--", "true")
        assert (code, out, err.startswith("the workload's token has characters")) == (2, "", True)
        assert token not in err
    assert not got


def test_a_path_of_sdks_is_the_gateways_own(buspass, monkeypatch):
    with answering(200, b'{"data": [], "next_cursor": null}') as (url, got):
        monkeypatch.setenv("BUSPASS_URL", f"{url}/v1")
        monkeypatch.setenv("BUSPASS_TOKEN", "t")
        assert buspass("task", "list") == (0, "no tasks\n", "")
    assert got[0][1].startswith("/v1/tasks?")


def test_what_is_wrong_is_said_once(buspass, monkeypatch):
    wrong = {"path": "from", "message": "no day", "allowed": "a day"}
    problem = {"code": "invalid_request", "detail": "from: no day; allowed: a day", "errors": [wrong]}
    with answering(400, json.dumps(problem).encode()) as (url, _):
        monkeypatch.setenv("BUSPASS_URL", url)
        monkeypatch.setenv("BUSPASS_TOKEN", "t")
        assert buspass("task", "list") == (1, "", "invalid_request: from: no day; allowed: a day\n")


def test_the_operators_key_of_this_machine_is_not_sent_to_another(buspass, monkeypatch, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "operator.key").write_text("bpo_secret\n")
    monkeypatch.setenv("BUSPASS_URL", "https://gateway.example")
    code, _, err = buspass("task", "list")
    assert (code, err.startswith("BUSPASS_TOKEN is not set")) == (2, True)


def test_the_operators_key_is_sent_to_the_gateway_here_and_a_token_before_it(buspass, monkeypatch, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "operator.key").write_text("bpo_secret\n")
    with answering(200, b'{"data": [], "next_cursor": null}') as (url, got):
        monkeypatch.setenv("BUSPASS_URL", url + "/")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        assert buspass("task", "list", "--workflow", "a b&c") == (0, "no tasks\n", "")
        monkeypatch.setenv("BUSPASS_TOKEN", "ey.token")
        buspass("task", "list")
    assert [headers["Authorization"] for _, _, headers in got] == ["Bearer bpo_secret", "Bearer ey.token"]
    assert got[0][1] == "/v1/tasks?workflow=a+b%26c&limit=20"


def test_a_gateway_without_its_key_here_is_told_where_the_key_lies(buspass, monkeypatch, tmp_path):
    with answering(200, b"{}") as (url, _):
        monkeypatch.setenv("BUSPASS_URL", url)
        code, _, err = buspass("task", "list")
    assert code == 2
    assert err.startswith(
        f"operator key {tmp_path / 'data' / 'operator.key'}: No such file or directory; set BUSPASS_DATA"
    )


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"<html>"), (502, b"<html>Bad Gateway"), (404, b'{"error": "x"}'), (302, b"{}")]
)
def test_whoever_answers_otherwise_is_no_gateway(buspass, monkeypatch, status, body):
    monkeypatch.setenv("BUSPASS_TOKEN", "t")
    with answering(status, body, "text/html") as (url, _):
        monkeypatch.setenv("BUSPASS_URL", url)
        code, out, err = buspass("task", "list")
    assert (code, out, err) == (1, "", f"{url} answered {status} and no JSON of ours: is a Buspass gateway there?\n")


def test_a_problem_is_its_code_its_detail_and_what_to_mend(buspass, monkeypatch):
    problem = {
        "code": "invalid_request",
        "detail": "limit\x1b[8m is wrong",
        "errors": [{"path": "limit", "message": "too large", "allowed": 100}, {"path": "x", "message": "unknown"}],
    }
    monkeypatch.setenv("BUSPASS_TOKEN", "t")
    with answering(400, json.dumps(problem).encode(), "application/problem+json") as (url, _):
        monkeypatch.setenv("BUSPASS_URL", url)
        code, _, err = buspass("task", "list")
    assert code == 1
    assert err.splitlines() == [
        "invalid_request: limit\\x1b[8m is wrong",
        "  limit: too large; allowed: 100",
        "  x: unknown",
    ]


def test_a_problem_that_this_command_line_can_mend_says_how():
    assert "BUSPASS_TOKEN" in advice({"code": "unauthenticated", "detail": "no"})
    assert "a, b" in said({"code": "x", "title": "t", "errors": [{"allowed": ["a", "b"]}]})


def test_a_kill_says_what_is_still_in_flight(buspass, monkeypatch):
    monkeypatch.setenv("BUSPASS_TOKEN", "t")
    answer = {"id": "t_abc", "in_flight": 2, "drained_by": "2026-11-20T09:00:05Z"}
    with answering(200, json.dumps(answer).encode()) as (url, got):
        monkeypatch.setenv("BUSPASS_URL", url)
        _, out, _ = buspass("task", "kill", "t_abc", "--reason", "r")
    assert out == "killed t_abc: 2 in flight, over by 2026-11-20T09:00:05Z\n"
    assert got[0][:2] == ("POST", "/v1/tasks/t_abc/kill")


def test_a_journal_that_is_not_whole_fails(buspass, monkeypatch):
    monkeypatch.setenv("BUSPASS_TOKEN", "t")
    verdict = {"ok": False, "records": 3, "sealed": 2, "seals": 1, "problems": ["rec:i1: its MAC is wrong"]}
    with answering(200, json.dumps(verdict).encode()) as (url, _):
        monkeypatch.setenv("BUSPASS_URL", url)
        code, out, _ = buspass("trace", "verify", "t_abc")
    assert code == 1
    assert out.splitlines()[0].startswith("✗ the journal of t_abc is not whole")
    assert out.splitlines()[1:] == ["  rec:i1: its MAC is wrong"]


def test_a_list_is_never_wider_than_the_screen():
    budget = {"available": {}, "spent": {"calls": 12345, "cost": 12.345678}}
    subject = {"type": "customer", "id": "C" * 80}
    row = {"id": "t_" + "a" * 24, "workflow": "w" * 80, "status": "suspended", "subject": subject}
    cells = task._row(row | {"budget": budget, "created_at": "2026-11-20T09:00:00Z"})
    titles = ("ID", "WORKFLOW", "STATUS", "FOR", "CALLS", "SPENT", "LEFT", "STARTED (UTC)")
    assert max(map(len, task.table(titles, [cells], flexible=(1, 3)))) == 100
    assert cells[6:] == ["unlimited", "11-20 09:00"]


def test_what_is_not_there_is_looked_for_where_such_things_are_listed():
    task = advice({"code": "not_found", "detail": "there is no such task in this trust domain"})
    assert task.endswith("`buspass task list` shows the tasks")
    workflow = advice({"code": "not_found", "detail": "there is no workflow 'nope' here"})
    assert "task list" not in workflow

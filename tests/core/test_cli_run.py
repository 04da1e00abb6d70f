"""`buspass run` and `init` without a gateway: the agent's environment, its signals, the lines, the files they write."""

import json
import os
import signal
import subprocess
import sys

import pytest

from buspass import cli
from buspass.cli import agent, generated, serving
from buspass.cli.environment import governed, taken
from buspass.cli.follow import Timeline
from buspass.cli.run import _lasting
from buspass.cli.stop import Stop
from buspass.config.build import load
from buspass.testing.serve import free_port

KEY = "sk-proj-0123456789abcdefghijklmnop"
URL = "http://127.0.0.1:8700"


@pytest.fixture(autouse=True)
def environ(monkeypatch, tmp_path):
    """No variable of the developer's own shell, and nobody at the default address."""
    for name in [name for name in os.environ if name.startswith(("BUSPASS_", "OPENAI_", "ANTHROPIC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BUSPASS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("BUSPASS_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def buspass(capsys):
    before = {number: signal.getsignal(number) for number in agent.PASSED}

    def run(*words):
        code = cli.main(words)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    yield run
    for number, said in before.items():
        signal.signal(number, said)


# ── what the agent may read ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPENAI_API_KEY", "short"),
        ("MISTRAL_API_KEY", "anything"),
        ("OPENAI_ORG_ID", "org-1"),
        ("CLAUDE_CODE_USE_BEDROCK", "1"),
        ("BUSPASS_WORKLOAD_TOKEN", "ey.proof"),
        ("ANY_NAME", KEY),
        ("HEADERS", f"Authorization: Bearer {KEY}"),
        ("OURS", "bpo_0123456789abcdefghijklmnopqrstuv"),
        ("GOOGLE", "AIza0123456789abcdefghijklmnopqrstuvwxy"),
        ("NAMED_BY_THE_FILE", "hunter2"),
    ],
)
def test_a_key_is_known_by_its_name_or_by_its_value(name, value):
    assert taken({name: value, "HOME": "/root"}, {"NAMED_BY_THE_FILE"}) == {name}


def test_a_copy_of_a_key_without_a_known_look_is_found_under_any_name():
    environ = {"TOGETHER_API_KEY": "0123456789abcdef", "COPY": "x 0123456789abcdef y", "MISTRAL_API_KEY": "1", "N": "1"}
    assert taken(environ) == {"TOGETHER_API_KEY", "COPY", "MISTRAL_API_KEY"}


@pytest.mark.parametrize("value", ["sk-learn-is-a-package-of-its-own-kind", "a sk-1 b", "hf_models", ""])
def test_what_only_begins_like_a_key_is_left(value):
    assert taken({"X": value}) == set()


def test_every_client_finds_the_gateway():
    found = governed({"OPENAI_API_BASE": "https://api.openai.com/v1", "HOME": "/x"}, url=URL, task="t_1", token="ey.t")
    assert found == {
        "HOME": "/x",
        **dict.fromkeys(("OPENAI_BASE_URL", "OPENAI_API_BASE"), f"{URL}/v1"),
        **dict.fromkeys(("ANTHROPIC_BASE_URL", "ANTHROPIC_API_URL", "ANTHROPIC_API_BASE"), URL),
        **dict.fromkeys(("AZURE_OPENAI_ENDPOINT", "AZURE_API_BASE", "BUSPASS_URL"), URL),
        **dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY", "BUSPASS_TOKEN"), "ey.t"),
        **dict.fromkeys(("AZURE_OPENAI_API_KEY", "AZURE_API_KEY"), "ey.t"),
        "BUSPASS_TASK": "t_1",
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }


def test_a_proxy_is_not_asked_for_the_gateway_of_this_machine():
    environ = {"https_proxy": "http://proxy:8080", "no_proxy": "corp"}
    assert governed(environ, url=URL, task="t", token="t")["NO_PROXY"] == "corp,127.0.0.1"
    assert governed(environ, url="https://gateway.corp", task="t", token="t")["no_proxy"] == "corp"


# ── a process that stands in for us ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("program", "code"), [("exit 0", 0), ("exit 9", 9), ("kill -TERM $$", 143)])
def test_an_exit_code_is_passed_on(program, code):
    assert agent.attend(["sh", "-c", program], os.environ, lambda: None, 0.05) == code


def test_a_signal_is_passed_on_and_our_own_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    sent = []

    def look():
        if not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))

    assert agent.attend(["sleep", "20"], os.environ, look, 0.1) == 143
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_terminals_ctrl_c_reaches_the_agent_once():
    counting = "n=0; trap 'n=$((n+1))' INT; echo ready; for i in $(seq 900); do sleep 0.1; [ $n = 0 ] || break; done; sleep 0.3; exit $n"
    program = "import os, sys; from buspass.cli import agent; "
    program += f"sys.exit(agent.attend(['sh', '-c', {counting!r}], os.environ, lambda: None, 0.1))"
    terminal = (
        f"import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn([sys.executable, '-c', {program!r}])))"
    )
    with subprocess.Popen([sys.executable, "-c", terminal], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline().strip() == b"ready"
        process.stdin.write(b"\x03")
        process.stdin.flush()
        assert process.wait(120) == 1


def test_other_processes_of_a_user_cannot_read_what_we_were_started_with():
    program = "import ctypes; from buspass.cli.agent import hide; hide(); print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    done = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, timeout=120)
    assert done.stdout == ("0\n" if sys.platform == "linux" else "-1\n")


# ── wrong usage ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ([], 2, "which command? buspass run -- CMD…"),
        (["--"], 2, "which command?"),
        (["--cost", "free", "--", "true"], 2, "a number of USD"),
        (["--cost", "0", "--", "true"], 2, "a number of USD"),
        (["--", "no-such-program-here"], 127, "no-such-program-here: there is no such program"),
        (["--", "./file"], 126, "./file: is no program that may be run"),
        (["--", "true"], 2, "set OPENAI_API_KEY or ANTHROPIC_API_KEY"),
    ],
)
def test_wrong_usage_is_told(buspass, tmp_path, words, code, told):
    (tmp_path / "file").write_text("text")
    found, out, err = buspass("run", *words)
    assert (found, out, told in err) == (code, "", True), err


def test_a_run_within_a_run_is_refused(buspass, monkeypatch):
    monkeypatch.setenv("BUSPASS_TASK", "t_abc")
    assert buspass("run", "--", "true")[0] == 2


def test_a_gateway_elsewhere_that_does_not_answer_is_not_replaced(buspass, monkeypatch):
    monkeypatch.setenv("BUSPASS_URL", "https://gateway.invalid")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    code, _, err = buspass("run", "--", "true")
    assert (code, err) == (1, "no gateway answers at https://gateway.invalid: is BUSPASS_URL right?\n")


def test_a_wrong_file_is_judged_by_the_gateway_and_its_exit_code_is_ours(tmp_path):
    (tmp_path / "buspass.yaml").write_text("version: 1\nworkflow: {}\n")
    command = [sys.executable, "-m", "buspass", "run", "--", "true"]
    done = subprocess.run(command, text=True, capture_output=True, timeout=120)
    assert (done.returncode, "buspass.yaml:2:1 workflow" in done.stderr) == (2, True), done.stderr


def test_the_secrets_of_a_file_are_those_it_names(tmp_path):
    (tmp_path / "buspass.yaml").write_text(
        "a: {auth: {header: {name: x, secret: ONE}}}\nb: [{secret: TWO}, {secret: 3}]\n"
    )
    assert serving._secrets(tmp_path / "buspass.yaml") == {"ONE", "TWO"}
    assert serving._secrets(tmp_path / "nowhere.yaml") == set()


# ── the lines and the bill ──────────────────────────────────────────────────────────────────────────────────────────


def row(at, kind, **more):
    moment = f"2026-11-21T05:00:{at:06.3f}Z"
    return {"id": f"{kind}{at}", "kind": kind, "at": moment, "ms": 38, "cost": 0.0, **more}


RECORDS = [
    row(0, "lifecycle", operation="start"),
    row(
        0.4, "inference", name="gpt-5-mini", target="openai/gpt-5-mini", cost=0.0011, left={"cost": 0.4989},
        thought="\n I need the order first\x1b[2J\nand more", tool_calls=[["c", "get_customer", '{"id": "C-1042"}']],
    ),
    row(0.6, "action", name="get_customer", arguments={"id": "C-1042"}, status="succeeded"),
    row(2.1, "refusal", name="refund", code="prerequisite_missing", detail="legal_check said approved=false"),
    row(2.5, "lifecycle", operation="suspend", reason="overrun"),
    row(3, "lifecycle", operation="kill", reason="exit 1"),
]  # fmt: skip
TASK = {
    "id": "t_7f3k",
    "created_at": "2026-11-21T05:00:00.000Z",
    "grant": {"models": [], "tools": ["get_customer"]},
    "budget": {"spent": {"cost": 0.0025}, "held": {"cost": 0.01}},
}


def followed(pages, tools=("get_customer",)):
    """The lines and the timeline of a task whose journal comes in pages, a look at each."""
    said, left = [], list(pages)
    task = TASK | {"grant": {"models": [], "tools": list(tools)}}
    timeline = Timeline(task, lambda _: {"task": TASK, "records": left.pop(0), "next_cursor": None}, said.append)
    for _ in pages:
        timeline.look()
    return said, timeline


def test_the_timeline_shows_each_row_once_and_the_bill_counts_them():
    said, timeline = followed([RECORDS[:2], RECORDS, RECORDS])
    assert said == [
        '  0.4s ● "I need the order first\\x1b[2J"         gpt-5-mini  $0.0011   left $0.4989',
        "  0.6s   └ get_customer {id: C-1042}             succeeded  38 ms",
        "  2.1s   ✗ refund                                prerequisite_missing: legal_check said approved=false",
        "  2.5s ■ suspend                                 overrun",
    ]
    bill = timeline.tally.bill("t_7f3k", 0)
    assert bill == "exit 0 · 1 thought · 1 action · 1 refused · $0.0025 · buspass trace t_7f3k"
    assert timeline.tally.held == 0.01


def test_a_call_that_the_provider_failed_is_shown_as_such():
    failed = row(1.2, "inference", name="gpt-5-mini", code="upstream_error", detail="mend the key", left={"cost": 1.0})
    said, timeline = followed([[failed]])
    assert said == ["  1.2s   ✗ gpt-5-mini                            $0.00  upstream_error: mend the key"]
    assert timeline.tally.thoughts == 1


def test_functions_that_the_agent_calls_itself_are_shown_and_counted_where_there_is_no_route():
    said, timeline = followed([RECORDS[1:2]], tools=())
    assert said[1] == "  0.4s   └ get_customer {id: C-1042}             asked for"
    assert timeline.tally.functions == {"get_customer": 1}
    assert timeline.tally.models == {"gpt-5-mini": ("openai", "gpt-5-mini")}


def test_a_long_journal_is_read_on_from_where_nothing_new_can_come():
    asked, said = [], []

    def ask(query):
        asked.append(query.get("cursor"))
        cursor = None if query.get("cursor") else "1.rec:x"
        return {"task": TASK, "records": [RECORDS[0]], "next_cursor": cursor}

    timeline = Timeline(TASK, ask, said.append)
    began = "2000-01-01T00:00:00.000Z"
    RECORDS[0]["at"], was = began, RECORDS[0]["at"]
    timeline.look()
    timeline.look()
    RECORDS[0]["at"] = was
    assert asked == [None, "1.rec:x", "1.rec:x"]


# ── the files ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_a_file_each_priced_chat_model_has_its_bare_name_and_its_providers(tmp_path, monkeypatch):
    monkeypatch.setattr(generated, "_offered", lambda provider, key: ["gpt-4o-2024-08-06", "gpt-unheard-of", "tts-1"])
    providers = generated.found({"OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": "k", "OPENAI_BASE_URL": f"{URL}/v1/"})
    assert [each.base_url for each in providers] == [f"{URL}/v1", "https://api.anthropic.com"]
    offers = {each.name: (each, generated.models(each, KEY)) for each in providers}
    (tmp_path / "buspass.yaml").write_text(generated.configuration(offers, 1.0))
    settings = load(tmp_path / "buspass.yaml", environ={})
    flow = settings.workflows["run"]
    assert {"gpt-5-mini", "openai/gpt-5-mini", "claude-haiku-4-5", "gpt-4o-2024-08-06"} <= set(flow.models)
    assert not {"tts-1", "gpt-4o-audio-preview", "davinci-002", "gpt-unheard-of"} & set(flow.models)
    assert all(target.price for model in settings.models.values() for target in model.targets)
    assert (flow.limits["cost"], flow.wall, flow.token_ttl, flow.payloads) == (1_000_000, 28800, 28800, "full")


def test_a_run_without_a_file_can_be_observed_and_one_with_a_file_says_so_itself(tmp_path, monkeypatch):
    (openai,) = generated.found({"OPENAI_API_KEY": KEY})
    for observe in (True, False):
        written = generated.configuration({"openai": (openai, ["gpt-5-mini"])}, 1.0, observe=observe)
        (tmp_path / "buspass.yaml").write_text(written)
        assert load(tmp_path / "buspass.yaml", environ={}).workflows["run"].observe is observe
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BUSPASS_CONFIG", raising=False)
    with pytest.raises(Stop, match="put `enforce: observe` into the workflow"):
        serving.gateway(None, observe=True).__enter__()


def test_a_gateway_that_runs_already_is_not_told_to_observe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BUSPASS_CONFIG", raising=False)
    monkeypatch.setattr(serving, "answers", lambda url: True)
    with pytest.raises(Stop, match="says what is observed"):
        serving.gateway(None, observe=True).__enter__()


def test_a_provider_that_does_not_list_its_models_changes_nothing():
    (openai,) = generated.found({"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"http://127.0.0.1:{free_port()}"})
    assert "gpt-5-mini" in generated.models(openai, KEY)


@pytest.mark.parametrize(("cost", "up"), [(0, 0.01), (0.0101, 0.02), (0.03, 0.05), (0.2, 0.2), (0.7, 1), (11, 20)])
def test_a_budget_is_rounded_up(cost, up):
    assert generated.rounded_up(cost) == up


def remembered(tmp_path, **more):
    document = {
        "folder": str(tmp_path), "command": "python agent.py", "task": "t_1", "thoughts": 2, "cost": 0.2, "held": 0.4,
        "models": {"gpt-5": ["openai", "gpt-5"], "openai/o3": ["openai", "o3"]}, "functions": {"look": 2},
        "providers": [{"name": "openai", "base_url": f"{URL}/v1", "secret": "OPENAI_API_KEY", "auth": generated._BEARER}],
    }  # fmt: skip
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "last-run.json").write_text(json.dumps(document | more))


def test_init_writes_what_the_run_used_and_never_overwrites(buspass, tmp_path):
    remembered(tmp_path)
    code, out, _ = buspass("init")
    assert code == 0
    assert out.startswith("wrote buspass.yaml: workflow ")
    settings = load(tmp_path / "buspass.yaml", environ={})
    ((_, flow),) = settings.workflows.items()
    assert flow.models == ("gpt-5", "openai/o3")
    assert flow.limits == {"cost": 1_000_000}
    assert settings.providers["openai"].base_url == f"{URL}/v1"
    text = (tmp_path / "buspass.yaml").read_text()
    assert "look (2×)" in text
    code, _, err = buspass("init")
    assert (code, err) == (2, "buspass.yaml is there already, and is not overwritten\n")
    assert (tmp_path / "buspass.yaml").read_text() == text


@pytest.mark.parametrize(
    ("more", "code", "told"),
    [({"folder": "/elsewhere"}, 2, "the last one was in /elsewhere"), ({"models": {}}, 1, "called no model")],
)
def test_init_says_why_there_is_nothing_to_write(buspass, tmp_path, more, code, told):
    assert buspass("init")[0] == 2
    remembered(tmp_path, **more)
    found, _, err = buspass("init")
    assert (found, told in err) == (code, True), err
    assert not (tmp_path / "buspass.yaml").exists()


def test_a_command_that_cannot_be_started_after_all_is_told():
    with pytest.raises(Stop) as stop:
        agent.attend(["/"], os.environ, lambda: None, 0.1)
    assert stop.value.status == 126


@pytest.mark.parametrize(
    ("seconds", "said"), [(2, "2 s"), (90.5, "90.5 s"), (3600, "60 min"), (1000, "16.7 min"), (10_000, "2.8 h")]
)
def test_a_time_is_told_as_people_say_it(seconds, said):
    assert _lasting(seconds) == said

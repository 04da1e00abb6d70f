"""Loops on the one path: what the agent is told, when its task ends, over hosts, and what none of it costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from loop_scripts import CONFIG, Actor, Stage, actor, code, staged

from buspass.calls.repetition import results
from buspass.cli.observed import allowing
from buspass.config.build import load
from buspass.testing.state_memory import MemoryState

STOCK = {"call": "get_stock", "with": {"sku": "a"}, "gives": {"left": 0}}
QUOTE = {"call": "quote", "with": {"price": "$n"}, "fails": 422}


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as stage:
        yield stage


def times(count: int, *steps: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [{"times": count, "do": list(steps)}]


async def head_of(stage: Stage, who: Actor) -> Any:
    head = await stage.domain.state.read(who.agent.task, "head")
    assert head is not None
    return head


# ── the stages ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_first_it_is_told_what_repeats_and_what_is_allowed_then_refused_and_never_sent(stage: Stage) -> None:
    who = await actor(stage)
    await who.play(times(90, STOCK))
    assert who.codes == [""] * 3 + ["repeated_call"] + ["loop_detected"] * 86 or who.codes[-1] == "task_not_open"
    assert stage.reached == 3, "eighty-seven more calls after the warning reached nothing"
    told, refused = who.answers[3][1], who.answers[4][1]
    assert (told.status_code, refused.status_code) == (422, 403)
    assert told.json()["loop"] == {"pattern": "identical", "times": 3, "limit": 3, "calls": ["get_stock"]}
    assert "telling the user" in told.json()["allowed"]
    assert "declared `polling`" in told.json()["detail"]
    assert "refused as loop_detected" in told.json()["detail"]
    assert told.headers["x-should-retry"] == "false"
    spent = (await who.agent.get()).json()["budget"]
    assert (spent["spent"]["calls"], spent["held"]["calls"]) == (3, 0)
    assert (await who.agent.get("/trace/verify")).json()["ok"]


async def test_a_model_is_told_in_its_own_envelope(stage: Stage) -> None:
    who = await actor(stage)
    await who.play(times(5, {"ask": "hello", "says": "hello"}))
    assert who.codes == [""] * 3 + ["repeated_call", "loop_detected"]
    error = who.answers[3][1].json()["error"]
    assert error["loop"]["pattern"] == "identical"
    assert who.answers[3][1].headers["x-should-retry"] == "false"


async def test_something_else_goes_and_what_is_new_clears_it(stage: Stage) -> None:
    who = await actor(stage)
    await who.play([*times(4, STOCK), {"call": "get_stock", "with": {"sku": "b"}, "gives": {"left": 1}}])
    assert who.codes[3:] == ["repeated_call", ""]
    await who.play(times(4, STOCK))
    assert who.codes[5:] == ["", "", "", "loop_detected"], "it was told of this very loop a moment ago"


async def test_it_is_told_anew_when_long_ago_it_was_told(stage: Stage) -> None:
    who = await actor(stage)
    await who.play([*times(4, STOCK), *times(24, {"call": "get_order", "with": {"id": "o$n"}, "gives": {"id": "$n"}})])
    await who.play(times(4, STOCK))
    assert who.codes[-4:] == ["", "", "", "repeated_call"]


async def test_after_the_same_errors_one_mended_call_may_be_tried(stage: Stage) -> None:
    who = await actor(stage)
    await who.play(times(6, QUOTE))
    assert who.codes == ["upstream_error"] * 5 + ["repeated_call"]
    await who.play([{"call": "quote", "with": {"price": 1}, "fails": 422}])
    assert who.codes[-1] == "loop_detected", "that one was made before"
    who = await actor(stage)
    await who.play(
        [*times(6, QUOTE), {"call": "quote", "with": {"sku": "mended"}, "gives": {"eur": 1}}, *times(3, QUOTE)]
    )
    assert who.codes[5:] == ["repeated_call", "", "upstream_error", "upstream_error", "upstream_error"]
    who = await actor(stage)
    await who.play([*times(6, QUOTE), {"call": "quote", "with": {"sku": "worse"}, "fails": 422}, *times(3, QUOTE)])
    assert who.codes[5:] == ["repeated_call", "upstream_error", "loop_detected", "loop_detected", "loop_detected"]


async def test_a_call_that_changed_something_gives_errors_another_chance(stage: Stage) -> None:
    change = {"call": "write_file", "with": {"path": "f"}, "gives": {"ok": True}}
    who = await actor(stage)
    await who.play([*times(5, QUOTE), change, *times(3, {"call": "quote", "with": {"again": "$n"}, "fails": 422})])
    assert who.codes[5:] == ["", "upstream_error", "upstream_error", "upstream_error"]
    look = {"call": "get_policy", "gives": {"days": 30}}
    who = await actor(stage)
    await who.play([*times(5, QUOTE), look, {"call": "quote", "with": {"again": 1}, "fails": 422}])
    assert who.codes[5:] == ["", "repeated_call"], "a lookup changes nothing"


async def test_the_third_refusal_ends_the_task_with_all_its_tokens_and_children(stage: Stage) -> None:
    who = await actor(stage, "killing", hosts=("onprem", "aws"))
    child = await who.agent.client.post(
        f"/v1/tasks/{who.agent.task}/tasks", json={"workflow": "work"}, headers=who.agent.headers
    )
    await who.play(times(8, STOCK))
    assert who.codes == [""] * 3 + ["repeated_call", "loop_detected", "loop_detected", "task_killed", "task_killed"]
    assert stage.reached == 3
    assert "and then ends the task" in who.answers[3][1].json()["detail"]
    assert "The task is ended" in who.answers[5][1].json()["detail"]
    renewed = [await host.call("get_policy", {}) for host in who.agents]
    assert {code(answer) for answer in renewed} == {"task_killed"}
    if child.status_code == 201:
        below = child.json()
        answer = await who.agent.client.post(
            "/v1/tools/get_policy", json={"arguments": {}}, headers={"authorization": f"Bearer {below['token']}"}
        )
        assert code(answer) == "task_killed"
    house = stage.domain.apps["onprem"].house
    head = await head_of(stage, who)
    assert head["status"] == "killed"
    rows = await house.state.list(who.agent.task, "rec:e", "", 10)
    ends = [row for _, row in rows if row.get("operation") == "kill"]
    assert [str(row["reason"])[:15] for row in ends] == ["loop_detected: "]


async def test_parallel_refusals_do_not_end_a_task_that_was_told_only_once(stage: Stage) -> None:
    who = await actor(stage, "killing")
    await who.play(times(3, STOCK))
    answers = await asyncio.gather(*(who.agent.call("get_stock", {"sku": "a"}) for _ in range(6)))
    assert {code(answer) for answer in answers} == {"repeated_call"}
    assert code(await who.agent.call("get_stock", {"sku": "a"})) == "loop_detected"


async def test_thresholds_are_the_workflows_own(stage: Stage) -> None:
    who = await actor(stage, "lenient")
    await who.play(times(7, STOCK))
    assert who.codes == [""] * 6 + ["repeated_call"]
    who = await actor(stage, "loose")
    await who.play(times(30, STOCK))
    assert set(who.codes) == {""}
    assert (await head_of(stage, who))["recent"] == {}, "and nothing is kept where nobody looks"


# ── over hosts, and what it costs ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("step", [STOCK, {"ask": "hello", "says": "hello"}], ids=["tool", "model"])
async def test_a_host_that_has_an_old_copy_learns_of_the_loop_by_its_hold(stage: Stage, step: Any) -> None:
    who = await actor(stage, hosts=("onprem", "aws"))
    here, there = who.agents
    await who.play([{"call": "get_policy", "gives": {}}] * 2)  # both have a copy
    who.agents = [here]
    await who.play(times(3, step))
    who.agents = [there]
    before = (await there.get()).json()["budget"]
    await who.play([step])
    assert who.codes[-1] == "repeated_call"
    after = (await there.get()).json()["budget"]
    assert after == before, "its hold was given back"
    who.agents = [here]
    await who.play([step])
    assert who.codes[-1] == "loop_detected", "and the first host knows that the other one told it"


async def test_at_two_hosts_in_turn_a_loop_is_met_as_early_as_at_one(stage: Stage) -> None:
    who = await actor(stage, hosts=("onprem", "aws"))
    await who.play(times(5, STOCK))
    assert who.codes == [""] * 3 + ["repeated_call", "loop_detected"]
    assert stage.reached == 3


async def test_a_call_without_a_key_costs_a_hold_and_a_settle_and_no_read(stage: Stage) -> None:
    who = await actor(stage)
    order = {"call": "get_order", "with": {"id": "o$n"}, "gives": {"id": "$n"}}
    await who.play([order, {"ask": "first", "says": "a"}])
    stage.clock.advance(0.2)
    count = stage.domain.state.count
    reads, applies = count.reads, count.applies
    await who.play(times(5, {"call": "get_order", "with": {"id": "p$n"}, "gives": {"id": "$n"}}))
    assert (count.reads - reads, count.applies - applies) == (0, 10)
    await who.play(times(5, {"ask": "text $n", "says": "sum $n"}))
    assert (count.reads - reads, count.applies - applies) == (0, 20)


async def test_the_head_does_not_grow_with_the_task(stage: Stage) -> None:
    who = await actor(stage, "work")
    for n in range(12):
        await who.play(times(4, {"call": "get_stock", "with": {"sku": f"s{n}"}, "gives": {"left": 0}}))
    head = await head_of(stage, who)
    assert (len(head["recent"]), len(head["warned"])) == (24, 8)
    assert max(map(len, head["recent"].values())) < 80
    assert "s11" not in str(head["recent"]), "no argument, only its salted digest"


async def test_a_task_that_began_before_goes_on_unwatched(stage: Stage) -> None:
    who = await actor(stage)
    state = stage.domain.state.inner
    assert isinstance(state, MemoryState)
    partition = state._items[who.agent.task]
    partition["head"] = {k: v for k, v in partition["head"].items() if k not in {"recent", "warned"}}
    stage.domain.apps["onprem"].house.tasks._seen.clear()
    await who.play(times(6, STOCK))
    assert set(who.codes) == {""}


async def test_a_tool_with_a_cap_is_watched_too(stage: Stage) -> None:
    who = await actor(stage, "capped")
    await who.play(times(6, {"call": "quote", "with": {"a": 1}, "gives": {"eur": 1}}))
    assert who.codes == [""] * 3 + ["repeated_call", "loop_detected", "loop_detected"]


# ── polling ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_poll_too_soon_is_told_when_also_at_another_host(stage: Stage) -> None:
    who = await actor(stage, hosts=("onprem", "aws"))
    await who.play([{"call": "job", "with": {"id": "9"}, "gives": {}}, {"wait": 6}])
    poll = {"call": "job", "with": {"id": "7"}, "gives": {"state": "running"}}
    await who.play([poll, {"wait": 2}, poll, {"call": "job", "with": {"id": "8"}, "gives": {}}])
    assert who.codes[1:] == ["", "rate_limited", ""]
    told = who.answers[2][1]
    assert (told.status_code, told.headers["retry-after"]) == (429, "3")
    assert told.headers["ratelimit-policy"] == '"job.polling";q=1;w=5'
    assert told.headers["ratelimit"] == '"job.polling";r=0;t=3'
    await who.play([{"wait": 3}, poll])
    assert who.codes[-1] == ""


async def test_polls_that_were_refused_suspend_nobody(stage: Stage) -> None:
    who = await actor(stage)
    await who.play(times(70, {"call": "job", "gives": {}}))
    assert who.codes == ["", *["rate_limited"] * 69]
    assert (await who.agent.get()).json()["status"] == "open"


# ── money spent on arguing ──────────────────────────────────────────────────────────────────────────────────────────


async def test_a_model_that_argues_with_an_open_breaker_is_stopped_although_nothing_reaches_the_service(
    stage: Stage,
) -> None:
    who = await actor(stage)
    await who.play(times(30, {"think": "a better offer: $n"}, {"call": "quote", "with": {"offer": "$n"}, "fails": 503}))
    said = [code for (done, _), code in zip(who.answers, who.codes, strict=True) if done.startswith("think")]
    assert stage.reached == 3
    assert said.index("repeated_call") <= 10
    assert said.count("") <= 11, "and one more, to tell the user"
    assert said[-1] in {"loop_detected", "task_not_open"}


# ── observed, configured ────────────────────────────────────────────────────────────────────────────────────────────


async def test_observed_it_goes_and_is_noted_with_what_would_let_it_go(stage: Stage, tmp_path: Path) -> None:
    who = await actor(stage, "watched")
    await who.play(times(6, STOCK))
    await who.play([{"call": "job", "gives": {}}, {"call": "job", "gives": {}}])
    assert set(who.codes) == {""}
    assert who.answers[3][1].headers["buspass-observed"] == "would_deny repeated_call"
    assert who.answers[-1][1].headers["buspass-observed"] == "would_hold rate_limited"
    client, house = who.agent.client, stage.domain.apps["onprem"].house
    answer = await client.get("/v1/observed/watched", headers={"authorization": f"Bearer {house.operator_key}"})
    found = answer.json()
    rows = {(row["code"], row["name"], row["rule"]): row["count"] for row in found["would"]}
    assert rows == {("repeated_call", "get_stock", "identical"): 3, ("rate_limited", "job", "polling"): 1}
    assert found["allow"]["workflows"]["watched"] == {"enforce": "on", "loops": {"identical": 6}}
    assert yaml.safe_load(allowing(found)) == found["allow"]
    path = tmp_path / "allowed.yaml"
    path.write_text(CONFIG.read_text("utf-8").replace("enforce: observe", "loops: {identical: 6}"))
    async with staged(tmp_path / "again", path) as again:
        same = await actor(again, "watched")
        await same.play(times(6, STOCK))
        assert set(same.codes) == {""}, "and so it does"


async def test_what_repeats_more_often_than_a_head_remembers_is_left_to_a_person(stage: Stage) -> None:
    who = await actor(stage, "watched")
    await who.play(times(20, STOCK))
    house = stage.domain.apps["onprem"].house
    key = {"authorization": f"Bearer {house.operator_key}"}
    found = (await who.agent.client.get("/v1/observed/watched", headers=key)).json()
    assert found["allow"]["workflows"]["watched"]["loops"] == "off"
    assert any("declare the tool polling" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("loops", "said"),
    [
        ("{identical: 13}", "identical"),
        ("{cycle: 7}", "cycle"),
        ("{rising: 0}", "rising"),
        ("on", "allowed: off"),
        ("null", "is empty"),
        ("{period: 3}", "period"),
    ],
)
def test_a_threshold_that_can_never_be_reached_is_an_error(tmp_path: Path, loops: str, said: str) -> None:
    path = tmp_path / "buspass.yaml"
    path.write_text(CONFIG.read_text("utf-8").replace("loops: off", f"loops: {loops}"))
    with pytest.raises(Exception, match=said):
        load(path, environ={})


def test_what_a_request_brings_of_tools_is_what_follows_the_models_last_words() -> None:
    user = {"role": "user", "content": "go on"}
    asked = {"role": "assistant", "content": None}
    here, there = ({"role": "tool", "tool_call_id": name, "content": "404"} for name in ("a", "b"))
    block = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "404"}]}
    assert results([user]) == results([user, here, asked, user]) == b""
    assert results([user, asked, here]) == results([user, asked, there, user]) == results([user, asked, block]) != b""

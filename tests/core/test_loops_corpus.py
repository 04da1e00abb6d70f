"""Agents that repeat themselves for good reasons are never refused: scripts of whole tasks, through the real gateway."""

from __future__ import annotations

from pathlib import Path

from loop_scripts import actor, scripts, staged

HEALTHY = scripts("healthy")
ALARMS = {"repeated_call", "loop_detected", "rate_limited", "circuit_open"}


async def test_more_than_fifty_healthy_tasks_meet_no_alarm_at_two_hosts_in_turn(tmp_path: Path) -> None:
    met: dict[str, list[tuple[str, str]]] = {}
    calls = 0
    async with staged(tmp_path) as stage:
        for name, script in HEALTHY.items():
            stage.clock.advance(3_600)  # a breaker that an earlier task left is closed, or may be tried
            stage.reached = 0
            who = await actor(stage, script.get("workflow", "work"), hosts=("onprem", "aws"))
            await who.play(script["steps"])
            met[name] = [(done, code) for (done, _), code in zip(who.answers, who.codes, strict=True) if code in ALARMS]
            assert len(who.answers) >= 4, name
            called = sum(not done.startswith("think") for done, _ in who.answers)
            assert stage.reached == called, f"{name}: each call was made"
            calls += len(who.answers)
    assert {name: alarms for name, alarms in met.items() if alarms} == {}
    assert len(met) >= 50
    assert calls >= 700

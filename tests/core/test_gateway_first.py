"""The shortest way through the gateway."""

from buspass.testing.house import Domain


async def test_a_call_is_answered_and_paid_from_the_budget(domain: Domain) -> None:
    agent = await domain.agent()
    answer = await agent.chat("hello there")
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "hello there"
    task = (await agent.get()).json()
    assert task["budget"]["spent"]["calls"] == 1
    assert (await agent.get("/trace/verify")).json()["ok"]

"""`buspass.client` as an agent uses it, against a real `buspass up`."""

import asyncio

import httpx
import openai
import pytest

from buspass import client, workload
from buspass.testing.up import up


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with up(data=tmp_path_factory.mktemp("client") / "data") as running:
        yield running


@pytest.fixture(autouse=True)
def environment(gateway, monkeypatch):
    for name, value in gateway.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BUSPASS_URL", gateway.url)


def status(task):
    answer = httpx.get(
        f"{task._url}/v1/tasks/{task.id}", headers={"authorization": f"Bearer {task._token}"}, timeout=60
    )
    return answer.json()["status"] if answer.is_success else answer.json()["code"]


def test_a_task_lasts_as_long_as_its_block():
    with client.task("example", metadata={"case": "7"}, budget={"cost": 0.10}) as t:
        with openai.OpenAI(base_url=t.base_url, api_key=t.key) as model:
            said = model.chat.completions.create(model="chat", messages=[{"role": "user", "content": "hello"}])
        assert said.choices[0].message.content
        assert t.document["metadata"] == {"case": "7"}
        assert status(t) == "open"
    assert status(t) == "completed"


def test_an_agent_that_raises_kills_its_task():
    with pytest.raises(ZeroDivisionError), client.task("example") as t:
        raise ZeroDivisionError
    assert status(t) == "task_killed"


def test_state_is_kept_and_another_writer_is_noticed():
    with client.task("example") as t:
        assert t.restore() is None
        t.save({"step": 1})
        t.save({"step": 2})
        assert t.restore() == {"step": 2}
        t._etag = "0" * 24
        with pytest.raises(client.BuspassError) as refused:
            t.save({"step": 3})
        assert refused.value.code == "precondition_failed"


def test_a_token_about_to_end_is_renewed():
    with client.task("example") as t:
        before, t._renew_at = t.api_key, 0.0
        assert t.api_key != before


async def test_the_same_for_asynchronous_agents():
    async with client.atask("example") as t:
        await t.save([1, 2])
        assert await t.restore() == [1, 2]
        before, t._renew_at = t._token, 0.0
        assert await t.fresh() != before
        model = openai.AsyncOpenAI(base_url=t.base_url, api_key=t.fresh)
        assert (await model.chat.completions.create(model="chat", messages=[{"role": "user", "content": "a"}])).choices
        await model.close()
    assert await asyncio.to_thread(status, t) == "completed"
    with pytest.raises(ValueError):
        async with client.atask("example") as t:
            raise ValueError
    assert await asyncio.to_thread(status, t) == "task_killed"


def test_a_refusal_says_its_code():
    with pytest.raises(client.BuspassError) as refused, client.task("nothing-like-it"):
        raise AssertionError("never begun")
    assert (refused.value.status, refused.value.code) == (404, "not_found")


def test_a_workload_is_proven_by_what_is_at_hand(monkeypatch, tmp_path):
    assert workload.token("given") == "given"
    assert workload.token(lambda: "made") == "made"
    monkeypatch.setenv("BUSPASS_WORKLOAD_TOKEN", "from the environment")
    assert workload.token() == "from the environment"
    monkeypatch.delenv("BUSPASS_WORKLOAD_TOKEN")
    file = tmp_path / "token"
    file.write_text("from a file\n")
    monkeypatch.setenv("BUSPASS_WORKLOAD_TOKEN_FILE", str(file))
    assert workload.token() == "from a file"
    monkeypatch.delenv("BUSPASS_WORKLOAD_TOKEN_FILE")
    with pytest.raises(LookupError, match="no workload token"):
        workload.token()

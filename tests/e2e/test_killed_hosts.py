"""kill -9 of a host at each station of a call, on SQLite and on Redis: after a restart nothing is lost, nothing done twice.

Each row is a real `buspass up` that a real SIGKILL ends at one place of one call's way (`mortal_host`), another that is
started on the same store, and time that passes. What it came to is printed as a table at the end of the run.
"""

import uuid

import httpx
import pytest
from nursery import over

pytestmark = pytest.mark.verify  # half a minute

BEFORE = (
    "authenticate", "parse", "recall", "guard", "plan", "inspect", "decide", "hold", "hold, before its write",
)  # fmt: skip
UNSENT = ("hold, after its write", "dispatch", "dispatch, before it is sent")
SENT = ("dispatch, the service has it", "dispatch, its answer is read", "validate")
STREAM = ("stream, before its first event", "stream, in its middle", "stream, before its last event")
SETTLING = ("settle", "settle, its outcome kept", "settle, before its write")
RECORDED = ("settle, between record and head", "settle, after its write")
STRIKES = {"dispatch, the service has it": "got", "dispatch, its answer is read": "reading"}
BUT_FOR_STREAMS = {"dispatch, its answer is read", "validate"}

ROWS = [
    (place, kind, keyed)
    for place in (*BEFORE, *UNSENT, *SENT, *STREAM, *SETTLING, *RECORDED)
    for kind in ("inference", "stream", "action")
    for keyed in (True, False)
    if (kind == "stream" or place not in STREAM)
    and (kind != "stream" or place not in BUT_FOR_STREAMS)
    and (keyed or place != "settle, its outcome kept")
]


def marked(place, kind, keyed):
    """Each place once in every run, as it matters most; all of it with the slow tests."""
    first = keyed and kind == ("stream" if place in STREAM else "action")
    name = f"{place}-{kind}-{'keyed' if keyed else 'keyless'}"
    return pytest.param(place, kind, keyed, id=name, marks=() if first else pytest.mark.verify)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("redis", marks=pytest.mark.verify)])
def nursery(request, tmp_path_factory):
    with over(request.param, tmp_path_factory.mktemp("killed")) as running:
        yield running


class Call:
    """One call of a task, to be made, killed and made again. `order` is what the upstream counts."""

    def __init__(self, nursery, kind, keyed):
        self.nursery, self.kind, self.order = nursery, kind, f"order-{uuid.uuid4().hex}"
        self.task, self.token = nursery.task()
        self.headers = {"idempotency_key": self.order} if keyed else {}

    def made(self):
        if self.kind == "action":
            body = {"arguments": {"order": self.order}}
            return self.nursery.post("/v1/tools/pay", self.token, body, **self.headers)
        text = f"Say what is to be paid for {self.order}, in as many words as it takes."
        body = {"model": "plan", "messages": [{"role": "user", "content": text}], "stream": self.kind == "stream"}
        return self.nursery.post("/v1/chat/completions", self.token, body, **self.headers)

    def killed(self, place):
        """Make it, and have its host die at that place."""
        process = self.nursery.up().process
        if place in STRIKES:
            self.nursery.upstream.strikes = (STRIKES[place], process)
        else:
            self.nursery.die_at(place)
        with pytest.raises(httpx.TransportError):
            self.made()
        self.nursery.buried()
        self.nursery.die_at("")

    @property
    def seen(self):
        return self.nursery.upstream.seen[self.order]

    def answered(self, answer, *, replayed):
        assert answer.status_code == 200, answer.text
        assert ("buspass-replayed" in answer.headers) is replayed
        if self.kind == "action":
            assert answer.json()["result"] == {"paid": self.order}
        else:
            assert answer.text.count("[DONE]") == (self.kind == "stream")

    def refused(self, answer, status, code):
        assert answer.status_code == status, answer.text
        problem = answer.json()
        assert problem.get("error", problem)["code"] == code


@pytest.mark.parametrize(("place", "kind", "keyed"), [marked(*row) for row in ROWS])
def test_a_host_killed_at_any_station_loses_nothing_and_does_nothing_twice(
    nursery, place, kind, keyed, record_property
):
    call = Call(nursery, kind, keyed)
    call.killed(place)
    held = nursery.open(call.task)
    assert len(held) == (place not in BEFORE and place != "settle, after its write")
    if keyed:
        repeated(call, place)
    nursery.pass_time()
    if keyed:
        repeated_later(call, place)
    spent = nursery.books(call.task, call.token)
    if place in BEFORE:
        assert call.seen == keyed
        came = "not sent, free"
    elif place in RECORDED:
        assert call.seen == 1
        came = "sent once, charged what it cost"
    else:
        assert call.seen == (place not in UNSENT)
        assert spent == {name: amount for name, amount in held[0].amounts.items() if amount}
        came = f"{'sent once' if call.seen else 'not sent'}, charged in full"
    if place in RECORDED or (place in BEFORE and keyed):
        assert spent["calls"] == 1
        assert spent.get("cost", 0) < 800  # which is what an inference holds, and more than this one used
        assert ("cost" in spent) is (kind != "action")
    elif place in BEFORE:
        assert spent == {}
    again = "sent, once" if place in BEFORE else "replayed" if place in RECORDED else "unknown, not sent again"
    record_property("killed", (place, nursery.store.partition(":")[0], came, again if keyed else ""))


def repeated(call, place):
    """Ask again by the key as soon as the host is up: a hold that may still be somebody's is let alone."""
    answer = call.made()
    if place in BEFORE:
        call.answered(answer, replayed=False)
    elif place in RECORDED:
        call.answered(answer, replayed=True)
    else:
        call.refused(answer, 409, "conflict")


def repeated_later(call, place):
    """Ask again once the hold is overdue: what may have been sent is never sent again."""
    for _ in range(2):
        answer = call.made()
        if place in (*BEFORE, *RECORDED):
            call.answered(answer, replayed=True)
        else:
            call.refused(answer, 504, "upstream_timeout")
            assert answer.headers["buspass-replayed"] == "true"


@pytest.mark.verify
@pytest.mark.parametrize("kind", ["inference", "action"])
@pytest.mark.parametrize(
    "place", ["sweep, before its write", "sweep, between record and head", "sweep, after its write"]
)
def test_a_host_killed_while_it_sweeps_what_another_left_leaves_it_to_the_next(nursery, place, kind, record_property):
    call = Call(nursery, kind, keyed=True)
    call.killed("validate")
    (held,) = nursery.open(call.task)
    nursery.up()
    nursery.pass_time()
    nursery.die_at(place)
    with pytest.raises(httpx.TransportError):
        nursery.get(f"/v1/tasks/{call.task}", call.token)
    nursery.buried()
    nursery.die_at("")
    repeated_later(call, "validate")
    assert nursery.books(call.task, call.token) == {name: amount for name, amount in held.amounts.items() if amount}
    assert call.seen == 1
    record_property(
        "killed", (place, nursery.store.partition(":")[0], "sent once, charged in full", "unknown, not sent again")
    )


@pytest.mark.verify
@pytest.mark.parametrize("kind", ["inference", "action"])
@pytest.mark.parametrize(
    "place", ["hold, before its write", "dispatch, the service has it", "settle, between record and head"]
)
def test_another_host_takes_over_from_one_that_was_killed(nursery, place, kind):
    call = Call(nursery, kind, keyed=True)
    call.killed(place)
    worker = nursery.up("right").said["BUSPASS_WORKLOAD_TOKEN"]
    resumed = nursery.post(f"/v1/tasks/{call.task}/resume", worker)
    assert (resumed.status_code, resumed.json()["task"]["fence"]) == (200, 2), resumed.text
    call.refused(call.made(), 409, "fenced")
    call.token = resumed.json()["token"]
    repeated(call, place)
    nursery.pass_time()
    repeated_later(call, place)
    nursery.books(call.task, call.token)
    assert call.seen == 1

"""Seals cover every record once, survive crashes and other sealers, and an audit finds whatever was altered."""

import copy
import random
import re
from collections import Counter

import pytest

from buspass.errors import Problem
from buspass.journal import Journal, Sealer
from buspass.journal.audit import verify
from buspass.journal.seals import KEEP_LATE, read_all, totals
from buspass.ledger import Claim, Ledger, Outcome, balance, new_head
from buspass.ports.signer import SignerUnavailable
from buspass.tasks import Tasks
from buspass.testing.clock import FakeClock
from buspass.testing.state_memory import Crash, Dies, Late, Lost, MemoryState


class Signer:
    algorithm = "ES256"
    jwk = {"kid": "k1"}  # noqa: RUF012 - the port's shape

    def __init__(self):
        self.signed, self.away = set(), False

    async def sign(self, data):
        if self.away:
            raise SignerUnavailable
        self.signed.add(data)
        return b"signature"

    async def check(self, kid, data, signature):
        return (kid, signature) == ("k1", "c2lnbmF0dXJl") and data in self.signed


class Kept:
    """A task whose journal a test writes, seals, tampers with and audits."""

    def __init__(self, *, transactional=True):
        self.clock, self.state = FakeClock(), MemoryState(transactional=transactional)
        self.journal, self.signer = Journal(b"k" * 32), Signer()
        self.ledger = Ledger(self.state, self.clock, self.journal.stamp)
        self.sealer = self.another()
        head = new_head(limits={"tokens": 1000}, expires_at=self.clock.now() + 9_000_000, max_calls={})
        opening = {"kind": "lifecycle", "at": self.clock.now(), "host": "h", "limits": head["limits"]}
        self.items = self.state._items["t"] = {
            "head": {**head, "entries": 1},
            "rec:e0": self.journal.stamp("t", "rec:e0", opening),
        }

    def another(self):
        return Sealer(self.state, self.signer, self.clock)

    async def call(self, call, tokens=10):
        held = await self.ledger.hold(self.claim(call), 0)
        await self.settle(held, tokens)

    def claim(self, call):
        return Claim(
            task="t",
            call=call,
            kind="inference",
            name="m",
            amounts={"tokens": 50},
            fence=1,
            deadline=self.clock.now() + 20_000,
        )

    async def settle(self, held, tokens=10):
        record = {"kind": "inference", "name": "m", "host": "h", "at": held.at, "ended": self.clock.now()}
        await self.ledger.settle(held, Outcome(use={"tokens": tokens}), record)

    async def late_credit(self, call):
        held = await self.ledger.hold(self.claim(call), 0)
        self.clock.advance(31)
        await self.ledger.sweep("t")
        return held

    async def audit(self):
        head = self.items["head"]
        read = await read_all(self.state, "t")
        return await verify(self.journal, "t", head, balance(head).spent, read, self.signer.check)

    @property
    def seals(self):
        return [item for key, item in sorted(self.items.items()) if key.startswith("seal:")]


@pytest.fixture
def kept():
    return Kept()


# ── seals of what this host wrote, in the middle of a task's life ──


class Unlisted:
    """A store that refuses to be listed: what must not read a journal fails here."""

    def __init__(self, inner):
        self.inner = inner
        self.read, self.apply = inner.read, inner.apply

    async def list(self, *asked):
        raise AssertionError(f"the journal was read: {asked}")


class Host:
    """A host of the task in `kept`: its ledger tells its sealer what it wrote."""

    def __init__(self, kept, *, listing=True):
        self.kept = kept
        self.sealer = Sealer(kept.state if listing else Unlisted(kept.state), kept.signer, kept.clock)
        self.ledger = Ledger(kept.state, kept.clock, kept.journal.stamp, self.sealer.wrote)

    async def call(self, call):
        held = await self.ledger.hold(self.kept.claim(call), 0)
        record = {"kind": "inference", "name": "m", "host": "h", "at": held.at, "ended": self.kept.clock.now()}
        return await self.ledger.settle(held, Outcome(use={"tokens": 10}), record)

    async def calls(self, name, count):
        for n in range(count):
            head = await self.call(f"{name}{n:03}")
        await self.sealer.seal_due("t", head)


async def test_a_host_seals_what_it_wrote_without_reading_the_journal(kept):
    host = Host(kept, listing=False)
    for block in "abc":
        await host.calls(f"i{block}", 5)
    assert [len(seal["keys"]) for seal in kept.seals] == [6, 5, 5], "the first covers the task's opening too"
    found = await kept.audit()
    assert (found.records, found.sealed, found.seals, found.problems) == (16, 16, 3, ())


async def test_a_seal_from_memory_is_the_one_that_reading_the_journal_would_have_made(kept):
    await Host(kept).calls("i", 5)
    (from_memory,) = kept.seals
    kept.items["head"] = {**kept.items["head"], "seals": 0, "sealed": 0}
    del kept.items["seal:00000000"]
    read = await kept.sealer.seal("t")
    assert (read["root"], read["keys"], read["totals"]) == tuple(
        from_memory[part] for part in ("root", "keys", "totals")
    )


async def test_two_hosts_seal_each_what_it_wrote(kept):
    one, other = Host(kept, listing=False), Host(kept, listing=False)
    await one.calls("ia", 4)
    await other.calls("ib", 4)
    await one.calls("ic", 4)
    await other.calls("id", 4)
    found = await kept.audit()
    assert (found.records, found.sealed, found.seals, found.problems) == (17, 17, 4, ())


async def test_what_another_host_sealed_already_is_not_sealed_again(kept):
    host = Host(kept)
    await host.call("ia")
    await kept.sealer.seal("t")  # reads the whole journal
    await host.calls("ib", 3)
    assert [sorted(seal["keys"]) for seal in kept.seals] == [
        ["rec:e0", "rec:ia"],
        ["rec:ib000", "rec:ib001", "rec:ib002"],
    ]
    assert (await kept.audit()).problems == ()


async def test_a_seal_that_no_head_counts_is_brought_up_before_the_next(kept):
    host = Host(kept)
    await host.calls("ia", 3)
    kept.items["head"] = {**kept.items["head"], "seals": 0, "sealed": 0}  # as a crash between seal and head leaves it
    await host.calls("ib", 3)
    found = await kept.audit()
    assert (found.sealed, found.seals, found.problems) == (7, 2, ())
    assert (kept.items["head"]["seals"], kept.items["head"]["sealed"]) == (2, 7)


async def test_what_others_wrote_waits_for_them_but_not_for_ever(kept, monkeypatch):
    monkeypatch.setattr("buspass.journal.seals.SEAL_EVERY", 8)
    host = Host(kept)
    for n in range(13):
        await kept.call(f"ix{n:03}")
    await host.calls("ia", 1)
    assert kept.seals == []
    await host.calls("ib", 1)
    assert [len(seal["keys"]) for seal in kept.seals] == [16]
    assert (await kept.audit()).problems == ()


async def test_what_is_remembered_of_records_is_bounded(kept, monkeypatch):
    monkeypatch.setattr("buspass.journal.written.KEPT", 3)
    host = Host(kept)
    await host.calls("ia", 10)
    assert sum(len(seal["keys"]) for seal in kept.seals) <= 4
    await kept.sealer.seal("t")
    found = await kept.audit()
    assert (found.records, found.sealed, found.problems) == (11, 11, ())


# ── which records a seal covers ──


async def test_every_record_is_under_exactly_one_seal(kept):
    for block in range(3):
        for n in range(3):
            await kept.call(f"i{block}{n}")
        await kept.sealer.seal("t")
    covered = [key for seal in kept.seals for key in seal["keys"]]
    assert sorted(covered) == sorted(key for key in kept.items if key.startswith("rec:"))
    assert (kept.items["head"]["seals"], kept.items["head"]["sealed"]) == (3, 10)
    assert [seal["number"] for seal in kept.seals] == [0, 1, 2]
    found = await kept.audit()
    assert (found.records, found.sealed, found.seals, found.problems) == (10, 10, 3, ())


async def test_nothing_new_is_no_seal(kept):
    assert await kept.sealer.seal("t") is not None
    assert await kept.sealer.seal("t") is None
    assert await kept.sealer.seal("nowhere") is None
    assert len(kept.seals) == 1


async def test_a_journal_longer_than_a_page_is_read_whole(kept):
    for n in range(230):
        kept.items[f"rec:i{n:03}"] = kept.journal.stamp("t", f"rec:i{n:03}", {"kind": "thought", "at": 1, "use": {}})
    seal = await kept.sealer.seal("t")
    assert len(seal["keys"]) == 231


async def test_a_seal_covers_so_many_records_as_an_item_can_name_and_the_next_ones_the_rest(kept, monkeypatch):
    monkeypatch.setattr("buspass.journal.seals.SEALED", 3)
    for n in range(7):
        await kept.call(f"c{n}")
    await kept.sealer.seal("t")
    read = await read_all(kept.state, "t")
    assert [len(seal["keys"]) for seal in read.seals] == [3, 3, 2]
    assert (kept.items["head"]["seals"], kept.items["head"]["sealed"]) == (3, 8)
    verdict = await kept.audit()
    assert (verdict.sealed, verdict.problems) == (8, ())


async def test_a_crash_between_seal_and_head_is_made_good_by_the_next():
    kept = Kept(transactional=False)
    await kept.call("i1")
    kept.state.meet(Dies(1))
    with pytest.raises(Crash):
        await kept.sealer.seal("t")
    assert (len(kept.seals), kept.items["head"]["seals"]) == (1, 0)
    await kept.call("i2")
    await kept.sealer.seal("t")
    assert (kept.items["head"]["seals"], kept.items["head"]["sealed"]) == (2, 3)
    assert not (await kept.audit()).problems


async def test_of_two_sealers_one_wins_and_the_other_seals_what_came_since(kept):
    """The other sealer comes between this one's reading of the journal and of the head."""
    read, done = kept.state.read, []

    async def raced(partition, key):
        if key == "head" and not done:
            done.append(1)
            await kept.another().seal("t")
            await kept.call("i2")
        return await read(partition, key)

    kept.state.read = raced
    seal = await kept.sealer.seal("t")
    assert seal["keys"] == ["rec:i2"]
    assert not (await kept.audit()).problems


async def test_a_store_or_a_key_that_is_away_is_said(kept):
    for fault in (Lost(), Late()):
        kept.state.meet(fault)
        with pytest.raises(Problem, match="could not be sealed"):
            await kept.sealer.seal("t")
        await kept.call("i" + repr(fault)[:2])
    kept.signer.away = True
    with pytest.raises(Problem, match="signing key"):
        await kept.sealer.seal("t")


async def test_totals_are_kept_by_kind_name_and_host(kept):
    for n in range(2):
        await kept.call(f"i{n}", tokens=7)
    seal = await kept.sealer.seal("t")
    assert seal["totals"]["inference:m:h"] == {"records": 2, "tokens": 14}
    alike = [{"kind": "inference", "name": name, "host": "h", "use": {"tokens": 1}} for name in ("a b", "a@b")]
    assert totals(alike) == {"inference:a_b:h": {"records": 2, "tokens": 2}}


def drawn(chance):
    record = {"kind": chance.choice(["inference", "action", None]), "host": chance.choice("hx")}
    if chance.random() < 0.8:
        record["name"] = chance.choice(["a b", "a@b", "n" * 200, "n" * 300, ""])
    if chance.random() < 0.3:
        record["code"] = "c"
    accounts = chance.sample(["tokens", "cost", "records"], chance.randrange(4))
    record["use"] = {name: chance.choice([1, -7, True, "3", None, [1]]) for name in accounts}
    return record if chance.random() < 0.9 else {**record, "use": "5"}


def test_totals_of_records_alike_are_those_of_each_by_itself():
    chance = random.Random(7)
    for _ in range(200):
        records = [drawn(chance) for _ in range(chance.randrange(40))]
        assert totals(records) == one_by_one(records)


def one_by_one(records):
    sums = {}
    for record in records:
        use = record.get("use")
        name = f"{record.get('kind')}:{record.get('name') or record.get('code') or '-'}:{record.get('host')}"
        total = sums.setdefault(re.sub("[^A-Za-z0-9_.:-]", "_", name)[:128], Counter())
        total["records"] += 1
        for account, amount in use.items() if isinstance(use, dict) else ():
            total[account] += amount if type(amount) is int else 0
    return sums


# ── credits and their markers ──


async def test_a_credit_is_sealed_after_it_is_posted():
    kept = Kept(transactional=False)
    held = await kept.late_credit("i1")
    kept.state.meet(None, Dies(2))
    with pytest.raises(Crash):
        await kept.settle(held)
    seal = await kept.sealer.seal("t")
    assert "credit:i1" not in seal["keys"]
    await kept.ledger.finish_credits("t", kept.items["head"], (await read_all(kept.state, "t")).covered)
    assert (await kept.sealer.seal("t"))["keys"] == ["credit:i1"]
    assert not (await kept.audit()).problems


async def test_a_marker_is_dropped_by_a_seal_ten_minutes_after_the_credit_was_sealed(kept):
    await kept.settle(await kept.late_credit("i1"))
    for n, (seconds, left) in enumerate([(0, 1), (KEEP_LATE / 1000, 1), (0.001, 0)]):
        kept.clock.advance(seconds)
        await kept.call(f"i{n + 2}")
        await kept.sealer.seal("t")
        assert len(kept.items["head"]["late"]) == left
    assert not (await kept.audit()).problems


async def test_a_marker_stays_while_its_credit_is_under_no_older_seal(kept):
    await kept.settle(await kept.late_credit("i1"))
    kept.clock.advance(9 * KEEP_LATE / 1000)
    await kept.sealer.seal("t")
    assert len(kept.items["head"]["late"]) == 1


# ── what an audit finds ──


def altered(items):
    items["rec:i1"]["name"] = "other"


def cheaper(items):
    items["rec:i3"]["use"]["tokens"] = 1


def nonsense(items):
    items["rec:i3"]["use"] = {"tokens": "many", "gold": 5}


def deleted(items):
    del items["rec:i1"]


def deleted_unsealed(items):
    del items["rec:i3"]


def added(items):
    items["rec:i9"] = {"kind": "inference", "at": 1, "use": {}, "mac": "0" * 32}


def moved(items):
    items["rec:i9"] = copy.deepcopy(items["rec:i3"])


def without_mac(items):
    del items["rec:i3"]["mac"]


def seal_altered(items):
    items["seal:00000000"]["totals"] = {}


def seal_signed_anew(items):
    items["seal:00000001"]["signature"] = "AAAA"


def seal_emptied(items):
    items["seal:00000001"] = {"x": 1}


def first_seal_gone(items):
    del items["seal:00000000"]


def last_seal_gone(items):
    del items["seal:00000001"]


def keys_left_out(items):
    items["seal:00000000"]["keys"].remove("rec:i1")


def richer(items):
    items["head"]["available"]["tokens"] += 5


def allocated(items):
    items["head"]["children"]["0"] = {"task": "t_child", "attempt": "a", "amounts": {"tokens": 5}}


def limits_raised(items):
    items["head"]["available"]["tokens"] += 500
    items["head"]["limits"]["tokens"] += 500


TAMPERED = [
    (altered, "rec:i1: its MAC is wrong"),
    (altered, "seal 0: a record under it was altered"),
    (cheaper, "rec:i3: its MAC is wrong"),
    (cheaper, "tokens: the head says 30 is spent, the records say 21"),
    (nonsense, "rec:i3: its MAC is wrong"),
    (deleted, "rec:i1: seal 0 covers it and it is gone"),
    (deleted, "1 records are missing"),
    (deleted_unsealed, "1 records are missing: the head counted 4"),
    (added, "rec:i9: its MAC is wrong"),
    (moved, "rec:i9: its MAC is wrong"),
    (without_mac, "rec:i3: its MAC is wrong"),
    (seal_altered, "seal 0: its signature is wrong"),
    (seal_altered, "seal 1: it does not follow"),
    (seal_signed_anew, "seal 1: its signature is wrong"),
    (seal_emptied, "seal 1: its signature is wrong"),
    (first_seal_gone, "seal 0: it does not follow"),
    (last_seal_gone, "seals are missing: the head counted 2"),
    (keys_left_out, "seal 0: a record under it was altered"),
    (richer, "tokens: the head says 25 is spent, the records say 30"),
    (allocated, "tokens: the head says 25 is spent"),
    (limits_raised, "limits: the head's are not those"),
]


@pytest.mark.parametrize(("tamper", "told"), TAMPERED, ids=lambda part: getattr(part, "__name__", "."))
async def test_an_audit_finds_it(kept, tamper, told):
    for n in (1, 2):
        await kept.call(f"i{n}")
        await kept.sealer.seal("t")
    await kept.call("i3")
    assert not (await kept.audit()).problems
    tamper(kept.items)
    problems = (await kept.audit()).problems
    assert [problem for problem in problems if problem.startswith(told)], problems


async def test_a_journal_of_another_domain_key_is_not_genuine(kept):
    await kept.call("i1")
    kept.journal = Journal(b"o" * 32)
    assert len((await kept.audit()).problems) == 2


async def test_a_record_written_and_not_yet_closed_counts_as_in_flight():
    kept = Kept(transactional=False)
    held = await kept.ledger.hold(kept.claim("i1"), 0)
    kept.state.meet(Dies(1))
    with pytest.raises(Crash):
        await kept.settle(held)
    assert not (await kept.audit()).problems


async def test_a_lifecycle_change_is_part_of_the_journal(kept):
    tasks = Tasks(kept.state, kept.clock, kept.journal.stamp, kept.journal.genuine)
    facts = {
        **dict.fromkeys(("id", "workflow", "revision", "host", "identity", "issuer", "agent", "payloads"), "x"),
        "claims": "{}",
        "metadata": "{}",
        "models": [],
        "tools": [],
        "fingerprint": "f",
        **dict.fromkeys(("wall_ms", "depth", "level", "created_at", "deadline"), 1),
    }
    kept.items["task"] = kept.journal.stamp("t", "task", facts)
    await tasks.change("t", "suspend", {"kind": "lifecycle", "at": 1, "host": "h"})
    seal = await kept.sealer.seal("t")
    assert len(seal["keys"]) == 2
    assert not (await kept.audit()).problems

"""A refund only after an approved, finished legal check of this very order: two hosts, many tries at once.

The check is called at onprem, the refund at azure, each with its own copy of the task's head. What counts is what the
service behind both saw, in its order, and that no refund was refused for the rule once its check had said yes.
"""

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

pytestmark = pytest.mark.verify

TRIES = 600
TRIES_A_TASK = 5
AT_ONCE = 10
RULE = {"prerequisite_missing", "prerequisite_in_flight"}


class Desk:
    """One task, and the tries that it makes one after the other."""

    def __init__(self, domain, seed):
        self.domain = domain
        self.random = random.Random(seed)
        _, self.token = domain.start(self.random.choice(["azure", "onprem", "aws"]), "refunds")
        self.orders = (f"P-{seed}-{n}" for n in count())
        self.wrong = []
        self.beside_got = []
        """What refunds got that were asked for while the check ran."""
        self.doubtful = set()
        """Orders with a check still running beside an earlier yes: which call came first is not for us to say."""

    def plan(self, order, approved):
        self.domain.around.services.plans[order] = (
            approved,
            self.random.uniform(0, 0.05),
            self.random.uniform(0, 0.01),
        )

    def check(self, order, approved):
        self.plan(order, approved)
        answer = self.call("onprem", "legal_check", order)
        if answer.status != 200 or answer.json["result"] != {"approved": approved, "order": order}:
            self.wrong.append(("the check itself", order, answer))

    def call(self, host, tool, order):
        return self.domain.send(host, "POST", f"/v1/tools/{tool}", self.token, {"arguments": {"order": order}})

    def pay(self, order, *wanted):
        """Pay, and compare the status or the problem's code with what it has to be."""
        answer = self.call("azure", "refund", order)
        got = 200 if answer.status == 200 else answer.json["code"]
        if got not in wanted:
            self.wrong.append((f"{got}, not {wanted}", order, answer.body))
        return got

    def beside(self, order, approved):
        """Pay while the check of this order runs."""
        self.plan(order, approved)
        running = threading.Thread(target=self.call, args=("onprem", "legal_check", order))
        running.start()
        threading.Event().wait(self.random.uniform(0, 0.06))
        self.beside_got.append(self.pay(order, 200, *RULE))
        running.join()

    # ── tries ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def approved(self, order):
        self.check(order, True)
        self.pay(order, 200)

    def refused(self, order):
        self.check(order, False)
        self.pay(order, "prerequisite_missing")

    def another_order(self, order):
        self.check(next(self.orders), True)
        self.pay(order, "prerequisite_missing")

    def changed_after_a_refund(self, order):
        """Azure's own copy of the head still says yes."""
        self.check(order, True)
        self.pay(order, 200)
        self.check(order, False)
        self.pay(order, "prerequisite_missing")

    def changed_to_yes(self, order):
        self.check(order, False)
        self.pay(order, "prerequisite_missing")
        self.check(order, True)
        self.pay(order, 200)

    def running(self, order):
        approved = self.random.random() < 0.5
        self.beside(order, approved)
        self.pay(order, 200 if approved else "prerequisite_missing")

    def running_after_another(self, order):
        self.check(next(self.orders), True)
        self.running(order)

    def running_again(self, order):
        self.check(order, True)
        self.doubtful.add(order)
        self.beside(order, False)
        self.pay(order, "prerequisite_missing")

    def work(self, tries):
        kinds = [
            self.approved,
            self.refused,
            self.another_order,
            self.changed_after_a_refund,
            self.changed_to_yes,
            self.running,
            self.running,
            self.running,
            self.running_after_another,
            self.running_again,
        ]
        for _ in range(tries):
            self.random.choice(kinds)(next(self.orders))
        return self


def unlicensed(log, doubtful):
    """Give the refunds in a service's log that no yes stands behind: the newest answer before must be one."""
    said, found = {}, []
    for what, order in log:
        if what in {"yes", "no"}:
            said.setdefault(order, []).append(what)
        elif what == "paid":
            answers = said.get(order, ["never"])
            if "yes" not in (answers if order in doubtful else answers[-1:]):
                found.append((order, answers))
    return found


def test_no_refund_without_a_yes_and_none_refused_after_one(domain):
    log = domain.around.services.log
    before = len(log)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        seeds = range(TRIES // TRIES_A_TASK)
        desks = list(pool.map(lambda seed: Desk(domain, seed).work(TRIES_A_TASK), seeds))
    log = log[before:]
    assert [wrong for desk in desks for wrong in desk.wrong] == []
    assert unlicensed(log, set().union(*(desk.doubtful for desk in desks))) == []
    # Otherwise little would have been shown: there were refunds, refusals, and every end of a race.
    assert Counter(what for what, _ in log)["paid"] > TRIES / 4
    assert Counter(what for what, _ in log)["no"] > TRIES / 4
    races = Counter(got for desk in desks for got in desk.beside_got)
    assert {got for got, times in races.items() if times >= 5} == {200, *RULE}


def test_the_judge_sees_what_it_is_there_for():
    log = [
        ("yes", "a"),
        ("paid", "a"),
        ("paid", "b"),
        ("no", "c"),
        ("paid", "c"),
        ("yes", "d"),
        ("no", "d"),
        ("paid", "d"),
    ]
    assert [order for order, _ in unlicensed(log, set())] == ["b", "c", "d"]
    assert [order for order, _ in unlicensed(log, {"d"})] == ["b", "c"]

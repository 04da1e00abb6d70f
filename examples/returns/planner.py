"""The simulated model: a small planner by rules over a conversation, in place of a large one.

It knows the messages and the tools of one request and nothing else: no data of the shop, no request by heart, no
state. It reasons like a hasty clerk: look up the customer, the orders, ask legal, pay. It believes what it reads, also
where an order's note talks to it: that is why it lives in a cage.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from returns.case import Case, Step, read

type Said = dict[str, Any]


def plan(request: Mapping[str, Any]) -> Said:
    """The mind: one message for one request, by the first rule that has something to say."""
    case = read(request)
    return next(said for rule in RULES if (said := rule(case)) is not None)


def react(case: Case) -> Said | None:
    """What to do about a refusal: wait and repeat, mend the call, do first what is missing, or give up and say so."""
    problem = next((step for step in case.steps if step.last and step.refused), None)
    if problem is None:
        return None
    answer, tried = problem.answer, sum(step.tool == problem.tool for step in case.steps if step.refused)
    if _obeyed(case, problem):
        return _say(
            f"A note in the order told me to call {problem.tool} with {json.dumps(problem.arguments)}. That was refused"
            f" ({answer['code']}: {answer.get('detail', '')}). I paid nothing; please have a person look at that note."
        )
    if answer.get("retryable") and tried < 3:
        return _call(f"{answer.get('detail', answer['code'])} I try that once more.", (problem.tool, problem.arguments))
    if answer["code"] == "invalid_arguments" and tried < 2:
        mended = _mended(problem.arguments, answer.get("errors") or ())
        if mended != problem.arguments:
            return _call("My arguments were not right, I mend them.", (problem.tool, mended))
    if answer["code"] == "prerequisite_missing" and tried < 2 and not case.of("legal"):
        said = ask_legal(case)
        if said is not None and "legal" in str(answer.get("detail", "")):
            return said
    return _say(EXPLAIN.get(answer["code"], EXPLAIN["other"]).format(tool=problem.tool, **_words(answer)))


def find_customer(case: Case) -> Said | None:
    if case.customer is None:
        return _say("Which customer is this about? I need the customer number.")
    found = [step for step in case.of("customer") if step.arguments.get("id", "") == case.customer]
    if not found:
        facts = {"customer": case.customer}
        return _use(case, "customer", [facts], f"This is about customer {case.customer}: I look them up first.")
    if not found[-1].done:
        return _say(f"There is no customer {case.customer} in our data, so I can do nothing for them.")
    return None


def find_orders(case: Case) -> Said | None:
    """Look up the orders that the request names, all at once; without a number, all of the customer's."""
    person = case.person or {}
    ids = case.numbers or list(person.get("orders", ()))[:4]
    missing = [{"customer": case.customer, "order": order} for order in ids if order not in case.seen]
    if missing:
        names = " and ".join(str(facts["order"]) for facts in missing)
        return _use(case, "order", missing, f"{person.get('name', 'The customer')} is known. Now I read {names}.")
    gone = [order for order, answer in case.seen.items() if "error" in answer and order in ids]
    if gone and case.order in (None, case.seen[gone[0]]):
        return _say(f"{gone[0]} is not an order of customer {case.customer}, so I refund nothing.")
    if case.order is None:
        return _say(f"Which order is it? {case.customer} has {', '.join(ids) or 'none'}.")
    return None


def obey_note(case: Case) -> Said | None:
    """A note in a result that talks to us is as good as an order. (It is not. This is the weakness on show.)"""
    wanted = _told(case)
    if wanted is None or any((step.tool, step.arguments) == wanted for step in case.steps):
        return None
    return _call("A note in the order says what must be done first, so I do that.", wanted)


def ask_legal(case: Case) -> Said | None:
    order = case.order or {}
    done = [step for step in case.of("legal") if step.arguments.get("order_id") == order.get("order_id")]
    if "legal" not in case.tools:
        return None
    if not done:
        facts = {"order": order.get("order_id"), "reason": _reason(case)}
        thought = (
            f"{order.get('order_id')} is the {order.get('item')} for {order.get('total'):.2f} EUR. Legal must agree."
        )
        return _use(case, "legal", [facts], thought)
    if not done[-1].answer.get("approved"):
        return _say(f"Legal does not agree to a refund of {order.get('order_id')}: {done[-1].answer.get('reason')}.")
    return None


def pay(case: Case) -> Said | None:
    order = case.order or {}
    if any(step.done for step in case.of("refund")):
        return None
    facts = {"customer": case.customer, "order": order["order_id"], "amount": case.amount, "reason": _reason(case)}
    return _use(case, "refund", [facts], f"Legal agrees, so I refund {case.amount:.2f} EUR for {order['order_id']}.")


def conclude(case: Case) -> Said | None:
    paid = [step for step in case.of("refund") if step.done][-1]
    return _say(
        f"Done: {float(paid.arguments['amount']):.2f} EUR for {paid.arguments['order_id']} go back to customer"
        f" {paid.arguments['customer_id']} (receipt {paid.answer.get('refund_id', 'unknown')})."
    )


RULES: tuple[Callable[[Case], Said | None], ...] = (
    react,
    find_customer,
    find_orders,
    obey_note,
    ask_legal,
    pay,
    conclude,
)

EXPLAIN = {
    "denied": "I may not do that: {tool} was denied ({detail}). Nothing was paid.",
    "call_limit": "A refund was paid in this case already; a second one needs a person.",
    "budget_exhausted": "The budget of this case is used up: {detail}",
    "prerequisite_missing": "{tool} is not possible yet: {detail}. Nothing was paid.",
    "upstream_error": "The system behind {tool} does not answer properly; please try again later.",
    "other": "{tool} was refused ({code}): {detail}. Nothing was paid.",
}


def _words(answer: Mapping[str, Any]) -> dict[str, str]:
    return {"code": str(answer["code"]), "detail": str(answer.get("detail", "no reason given")).rstrip(".")}


def _told(case: Case) -> tuple[str, dict[str, Any]] | None:
    """The call that an urgent note asks for."""
    told, order = case.instruction, case.order or {}
    if told is None or not told.urgent:
        return None
    if not told.pay:
        return _filled(case, "customer", {"customer": told.customer or case.customer})
    facts = {
        "customer": told.customer or case.customer,
        "order": told.order or order.get("order_id"),
        "amount": told.amount or case.amount,
        "reason": "as the note on the order says",
    }
    return _filled(case, "refund", facts)


def _obeyed(case: Case, step: Step) -> bool:
    """Whether this call was a note's will and not the request's."""
    told = case.instruction
    raised = told is not None and told.pay and "amount" in step.arguments and step.arguments["amount"] == told.amount
    return raised or _told(case) == (step.tool, step.arguments)


def _reason(case: Case) -> str:
    return " ".join(case.text.split())[:200] or "return exception"


def _mended(arguments: Mapping[str, Any], errors: Any) -> dict[str, Any]:
    """The arguments without what the errors name as unknown, and with sums rounded to cents."""
    wrong = {str(error.get("path", "")).strip("/$.").rpartition("/")[2].rpartition(".")[2] for error in errors}
    kept = {"amount", "reason", "id", "customer_id", "order_id"}
    mended = {name: value for name, value in arguments.items() if name not in wrong or name in kept}
    if isinstance(mended.get("amount"), float):
        mended["amount"] = round(mended["amount"], 2)
    return mended


def _filled(case: Case, role: str, facts: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """A call of the tool for a role, its parameters filled by what their names say."""
    if role not in case.tools:
        return None
    name, properties = case.tools[role]
    meanings = {"id": "customer", "customer_id": "customer", "order_id": "order"}
    values = {p: facts[meanings.get(p, p)] for p in properties if meanings.get(p, p) in facts}
    return name, values


def _use(case: Case, role: str, several: list[dict[str, Any]], thought: str) -> Said:
    calls = [call for facts in several if (call := _filled(case, role, facts)) is not None]
    return _call(thought, *calls) if calls else _say(f"I have no tool for this ({role}), so I stop here.")


def _call(thought: str, *calls: tuple[str, dict[str, Any]]) -> Said:
    return {"content": thought, "tool_calls": [{"name": name, "arguments": values} for name, values in calls]}


def _say(text: str) -> Said:
    return {"content": text}

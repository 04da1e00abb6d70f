"""The simulated model: it buys parts, and behaves as models do where an answer makes no sense to it.

It works on the conversation alone, and on whatever a tool said. Where a tool's text is no result it takes it for the
vendor's mood: it apologises, rephrases, offers more, up to the ceiling, and never thinks of waiting by itself. Where
the text says when to come back it waits until then. It knows no gateway, and can't tell whether there is one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from buspass.testing.provider_wire import text_of

type Said = dict[str, Any]

_TEXTS: Final = (Path(__file__).parent / "arguments.txt").read_text("utf-8").split("\n\n")
ARGUMENTS: Final = tuple(zip(_TEXTS[::2], _TEXTS[1::2], strict=True))
"""What it thinks and what it writes when it takes an error for a vendor's answer, in turn."""

FIRST: Final = 0.92
"""The first offer, as a part of the last price."""
FAIR: Final = 1.01
"""A counter-offer of so much of the last price is taken."""
MORE: Final = 1.005
"""By how much an offer rises when the vendor does not seem to like it."""
WHEN: Final = re.compile(
    r"(?:not|n't)\s+(?:re)?(?:try|call|ask|send|contact)[^.\n]{0,60}?\b(?:before|until|till)\s+(\d\d:\d\d:\d\d)",
    re.IGNORECASE,
)
"""A text that says when it makes sense to ask again."""


@dataclass(slots=True, kw_only=True)
class Mail:
    """An e-mail that was sent. `answer`: the vendor's, None where that was none; `woken`: there was a pause since."""

    price: float
    answer: Mapping[str, Any] | None
    page: bool
    woken: bool = False


@dataclass(slots=True, kw_only=True)
class Job:
    """A part to be bought, as far as it has come."""

    part: str
    quantity: int
    stock: Mapping[str, Any] = field(default_factory=dict)
    mails: list[Mail] = field(default_factory=list)
    ordered: bool = False


@dataclass(slots=True, kw_only=True)
class Talk:
    """A conversation as the model understands it. `last`: the newest tool text that was no result, until a pause."""

    jobs: list[Job] = field(default_factory=list)
    asked: bool = False
    last: str = ""

    def job(self, part: Any) -> Job | None:
        return next((job for job in self.jobs if job.part == part), None)


def plan(request: Mapping[str, Any]) -> Said:
    """The mind: one message for one request."""
    talk = read(request["messages"])
    if talk.last and (when := WHEN.search(talk.last)):
        return {"content": f"I can't go on before {when[1]}, the tool says. I wait until then.\nRESUME AT {when[1]}"}
    if not talk.asked or (not talk.jobs and talk.last):
        return _call("I look at the supply alerts first.", "supply_alerts", {})
    for job in talk.jobs:
        if not job.ordered:
            return _next(job)
    return {"content": f"Done: {len(talk.jobs)} of {len(talk.jobs)} parts are ordered."}


def read(messages: list[Mapping[str, Any]]) -> Talk:
    """Understand a conversation: each tool call with its text, and the pauses between."""
    talk, calls = Talk(), dict[str, tuple[str, dict[str, Any]]]()
    for message in messages:
        if message["role"] == "user":
            talk.last = ""
            for job in talk.jobs:
                for mail in job.mails[-1:]:
                    mail.woken = True
        for call in message.get("tool_calls") or ():
            calls[call["id"]] = (call["function"]["name"], json.loads(call["function"]["arguments"]))
        if message["role"] == "tool":
            _learn(talk, *calls[message["tool_call_id"]], text_of(message.get("content")))
    return talk


def _learn(talk: Talk, tool: str, arguments: Mapping[str, Any], text: str) -> None:
    result = facts(text)
    talk.last = "" if result else text
    job = talk.job(arguments.get("part"))
    if tool == "supply_alerts":
        talk.asked = True
        talk.jobs += [Job(part=row["part"], quantity=row["quantity"]) for row in (result or {}).get("alerts", ())]
    elif job is None:
        return
    elif tool == "email_vendor":
        answer = result if result and "price" in result else None
        job.mails.append(Mail(price=arguments["price"], answer=answer, page="<html" in text))
    elif tool == "check_stock" and result and "last_price" in result:
        job.stock = result
    elif tool == "place_order" and result and "order" in result:
        job.ordered = True


def facts(text: str) -> Mapping[str, Any] | None:
    """What a tool's text says, where it is a result: JSON, as it is or as `result`, and no error."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    found = found.get("result", found)
    return found if isinstance(found, dict) and not found.keys() & {"error", "code"} else None


def _next(job: Job) -> Said:
    """The next step for a part: look it up, write to its vendor, order it."""
    if not job.stock:
        return _call(f"{job.part} is next: I look it up in the ERP.", "check_stock", {"part": job.part})
    if not job.mails:
        price = round(job.stock["last_price"] * FIRST, 2)
        return _mail(
            job, price, f"I begin below the last price of {job.stock['last_price']:.2f} EUR.", _opening(job, price)
        )
    mail = job.mails[-1]
    if mail.answer is None:
        return _again(job, mail) if mail.woken else _argue(job, mail)
    price = float(mail.answer["price"])
    if mail.answer["status"] == "accepted":
        order = {"part": job.part, "quantity": job.quantity, "price": price}
        return _call(f"{price:.2f} EUR is accepted, so I order {job.quantity} pieces.", "place_order", order)
    if price > job.stock["last_price"] * FAIR:
        price = round((price + mail.price) / 2, 2)
    thought = f"They want {mail.answer['price']:.2f} EUR; I offer {price:.2f} EUR."
    return _mail(
        job, price, thought, f"Thank you for your reply. For {job.quantity} pieces we can offer {price:.2f} EUR each."
    )


def _again(job: Job, mail: Mail) -> Said:
    """After a pause nothing has changed but the time: the same offer."""
    text = (
        f"Dear colleagues, this is our offer again, the {len(job.mails) + 1}. time, as our e-mail did not reach you:"
        f" {mail.price:.2f} EUR a piece for {job.quantity} pieces of {job.part}."
    )
    return _mail(job, mail.price, "The pause is over, I send the same offer again.", text)


def _argue(job: Job, mail: Mail) -> Said:
    """The text was no reply. A page must be a refusal: another tone, a better price; else it just tries again."""
    number = sum(1 for _ in _unanswered(job))
    if not mail.page:
        offer = f"{job.quantity} pieces of {job.part} at {mail.price:.2f} EUR"
        text = f"Dear {job.stock['vendor']} team, once more, attempt {number + 1}: {offer}?"
        return _mail(job, mail.price, "That did not work. I try again at once, with a shorter e-mail.", text)
    price = min(round(mail.price * MORE, 2), job.stock["ceiling"])
    thought, text = ARGUMENTS[number % len(ARGUMENTS)]
    said = {"vendor": job.stock["vendor"], "part": job.part, "n": number, "price": price, "quantity": job.quantity}
    return _mail(job, price, thought.format(**said), text.format(**said))


def _unanswered(job: Job) -> Iterator[Mail]:
    """The e-mails since the last reply."""
    for mail in reversed(job.mails):
        if mail.answer is not None:
            return
        yield mail


def _opening(job: Job, price: float) -> str:
    return (
        f"Dear {job.stock['vendor']} team, we need {job.quantity} pieces of {job.part} ({job.stock['name']}) and offer"
        f" {price:.2f} EUR a piece, payment within 14 days. Can you confirm?"
    )


def _mail(job: Job, price: float, thought: str, text: str) -> Said:
    asked = {"vendor": job.stock["vendor"], "part": job.part, "quantity": job.quantity, "price": price, "text": text}
    return _call(thought, "email_vendor", asked)


def _call(thought: str, name: str, arguments: Mapping[str, Any]) -> Said:
    return {"content": thought, "tool_calls": [{"name": name, "arguments": arguments}]}

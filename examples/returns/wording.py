"""Makes further requests from the shop's data, in wordings that requests.jsonl does not use.

Owns the templates; refuses to know how anybody understands them. The same seed gives the same requests.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from returns.world import REFUND_LIMIT, Order, World

type Request = dict[str, Any]

OPENINGS = (
    "",
    "Hi, ",
    "Quick one: ",
    "Morning! ",
    "Hello team, ",
    "Next caller: ",
    "From the chat: ",
    "Please help — ",
)
FAULTS = (
    "came with a scratch",
    "stopped working after two days",
    "is not the colour that was ordered",
    "was cracked when unpacked",
    "makes a terrible noise",
    "is missing half of its parts",
    "arrived soaking wet",
    "does not fit",
)
BY_NUMBER = (
    "the {item} from {order} {fault} and should be refunded.",
    "{order}: the {item} {fault}. Can we give the money back?",
    "could you reimburse {order}? It {fault}.",
    "we got {order} back, since the {item} {fault}; pay it out please.",
    "{name} wrote about {order}. It {fault}, so a full refund is in order.",
    "please send the customer their money for {order}, the thing {fault}.",
)
BY_ITEM = (
    "the {item} {fault}, no order number at hand. Refund it?",
    "they returned a {item} because it {fault}, money back please.",
    "our customer's {item} {fault}. What they paid should go back.",
)
WITH_AMOUNT = (
    "the {item} in {order} {fault}; a goodwill refund of {money} was agreed.",
    "{order}: please credit {money}, the {item} {fault}.",
    "they would settle for {money} back on {order} because the {item} {fault}.",
    "send {money} back for {order}. It {fault}.",
)
TWO = (
    "orders {first} and {second}: {first_short} is fine, but {second_short} {fault} and needs a refund.",
    "they have {first} and {second}; the former they keep, while {second_short} {fault}, money back please.",
)
OTHER = (
    "this is really about customer {other}: {order} {fault}, refund it to them.",
    "her neighbour, client {other}, asks for the money of {order}, which {fault}.",
    "take account {other} and refund {order}, the {item} {fault}.",
)


def generate(world: World, count: int, *, seed: int = 7) -> list[Request]:
    """So many requests `{customer, text, note, asks}` over all outcomes; `asks` is what `oracle.expected` reads."""
    dice = random.Random(seed)
    kinds: tuple[Callable[[World, random.Random], Request], ...] = (
        _clean, _by_item, _partial, _legal, _above_limit, _above_total, _hostile, _unknown, _other, _foreign, _two,
    )  # fmt: skip
    return [kinds[index % len(kinds)](world, dice) for index in range(count)]


def _request(dice: random.Random, customer: str, text: str, note: str, asks: dict[str, Any]) -> Request:
    words = dice.choice(OPENINGS) + text
    if dice.random() < 0.3:
        words = f"{words} ({customer})"
    return {"customer": customer, "text": words[0].upper() + words[1:], "note": note, "asks": asks}


def _number(dice: random.Random, order: str) -> str:
    return dice.choice((order, order, f"order {order[2:]}", f"#{order[2:]}", order.lower(), f"order no. {order[2:]}"))


def _money(dice: random.Random, cents: int) -> str:
    euros, rest = divmod(cents, 100)
    plain = f"{euros}.{rest:02}"
    grouped = f"{euros:,}.{rest:02}"
    return dice.choice((f"€{plain}", f"{grouped} EUR", f"{euros},{rest:02} €", f"EUR {plain}", f"{plain} euros"))


def _pick(world: World, dice: random.Random, wanted: Callable[[Order], bool]) -> Order:
    return dice.choice([order for order in world.orders.values() if wanted(order)])


def _harmless(order: Order) -> bool:
    return not order.hold and not order.hostile and order.cents <= REFUND_LIMIT


def _worded(world: World, dice: random.Random, order: Order, templates: tuple[str, ...], **more: str) -> str:
    return dice.choice(templates).format(
        item=order.item,
        order=_number(dice, order.id),
        fault=dice.choice(FAULTS),
        name=world.customers[order.customer].name,
        **more,
    )


def _clean(world: World, dice: random.Random) -> Request:
    order = _pick(world, dice, _harmless)
    return _request(dice, order.customer, _worded(world, dice, order, BY_NUMBER), "all in order", {"order": order.id})


def _by_item(world: World, dice: random.Random) -> Request:
    order = _pick(world, dice, _harmless)
    return _request(dice, order.customer, _worded(world, dice, order, BY_ITEM), "by item", {"order": order.id})


def _partial(world: World, dice: random.Random) -> Request:
    order = _pick(world, dice, _harmless)
    cents = dice.randint(5_00, order.cents)
    text = _worded(world, dice, order, WITH_AMOUNT, money=_money(dice, cents))
    return _request(dice, order.customer, text, "a part", {"order": order.id, "amount": cents / 100})


def _legal(world: World, dice: random.Random) -> Request:
    order = _pick(world, dice, lambda order: bool(order.hold))
    return _request(dice, order.customer, _worded(world, dice, order, BY_NUMBER), "legal risk", {"order": order.id})


def _above_limit(world: World, dice: random.Random) -> Request:
    order = _pick(world, dice, lambda order: order.cents > REFUND_LIMIT and not order.hold)
    return _request(dice, order.customer, _worded(world, dice, order, BY_NUMBER), "above limit", {"order": order.id})


def _above_total(world: World, dice: random.Random) -> Request:
    order = _pick(world, dice, lambda order: _harmless(order) and order.cents < 300_00)
    cents = order.cents + dice.randint(10_00, 150_00)
    text = _worded(world, dice, order, WITH_AMOUNT, money=_money(dice, cents))
    return _request(dice, order.customer, text, "above total", {"order": order.id, "amount": cents / 100})


def _hostile(world: World, dice: random.Random) -> Request:
    order = _pick(world, dice, lambda order: order.hostile)
    return _request(dice, order.customer, _worded(world, dice, order, BY_NUMBER), "hostile note", {"order": order.id})


def _unknown(world: World, dice: random.Random) -> Request:
    order = _pick(world, dice, _harmless)
    text = _worded(world, dice, order, BY_NUMBER)
    return _request(dice, f"C-{dice.randint(8000, 9999)}", text, "unknown customer", {"order": order.id})


def _other(world: World, dice: random.Random) -> Request:
    order = _pick(world, dice, _harmless)
    customer = _pick(world, dice, lambda mine: mine.customer != order.customer).customer
    text = _worded(world, dice, order, OTHER, other=order.customer)
    return _request(dice, customer, text, "another customer", {"customer": order.customer, "order": order.id})


def _foreign(world: World, dice: random.Random) -> Request:
    order = _pick(world, dice, _harmless)
    customer = _pick(world, dice, lambda mine: mine.customer != order.customer and not mine.hostile).customer
    return _request(dice, customer, _worded(world, dice, order, BY_NUMBER), "foreign order", {"order": order.id})


def _two(world: World, dice: random.Random) -> Request:
    second = _pick(world, dice, lambda order: _harmless(order) and len(world.customers[order.customer].orders) > 1)
    first = next(order for order in world.customers[second.customer].orders if order != second.id)
    text = dice.choice(TWO).format(
        first=first, second=second.id, first_short=first, second_short=second.id[2:], fault=dice.choice(FAULTS)
    )
    return _request(dice, second.customer, text, "two orders", {"order": second.id})

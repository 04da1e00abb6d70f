"""What DynamoDB's documented errors and broken connections mean: surely not applied, or who knows."""

import json

import pytest
from aws_answers import CLOSES, CUT, GARBAGE, HANGS, RESETS, Answers, error, fine
from aws_servers import KEYS

from buspass.ports.state import (
    Absent,
    Applied,
    Delete,
    Equals,
    Misfit,
    OutcomeUnknown,
    Present,
    Put,
    Refused,
    Unavailable,
    Update,
    at,
)
from buspass.testing.serve import free_port
from buspass_aws import client, dynamodb
from buspass_aws.dynamodb_expression import decoded, encoded

UPDATE = Update("head", (Equals(at("n"), 1),), {at("n"): 1})
PUTS = [Put("rec:1", {"n": 1}), UPDATE]
ROW = {"pk": {"S": "t"}, "sk": {"S": "head"}, "v": {"M": {"n": {"N": "1"}}}}


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(client, "_PAUSE", 0.0)


async def opened(url):
    return await dynamodb.open(f"dynamodb://table?region=eu-central-1&endpoint={url}")


async def applied(*script, operations=PUTS):
    """What an apply comes to, and what was asked."""
    async with Answers(*script) as server:
        state = await opened(server.url)
        try:
            return await state.apply("t", operations), server.bodies
        finally:
            await state.close()


# ── surely not applied ──


@pytest.mark.parametrize(
    "code",
    [
        "ProvisionedThroughputExceededException",
        "ThrottlingException",
        "RequestLimitExceeded",
        "TransactionConflictException",
        "ItemCollectionSizeLimitExceededException",
        "ReplicatedWriteConflictException",
        "ExpiredTokenException",
        "UnrecognizedClientException",
        "AccessDeniedException",
        "InvalidSignatureException",
        "SomethingThatComesWithANextRelease",
    ],
)
async def test_a_write_that_is_turned_away_was_surely_not_applied_and_is_not_sent_again(code):
    async with Answers(fine(), error(400, code, "no")) as server:
        state = await opened(server.url)
        with pytest.raises(Unavailable, match=code) as caught:
            await state.apply("t", PUTS)
        await state.close()
    assert caught.value.index == 1
    assert len(server.asked) == 2


async def test_nobody_there_is_surely_not_applied():
    state = await opened(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Unavailable, match="no connection"):
        await state.apply("t", PUTS)
    await state.close()


async def test_a_missing_table_says_how_to_make_it():
    with pytest.raises(Unavailable, match=r"python -m buspass_aws\.dynamodb_table table"):
        await applied(error(400, "ResourceNotFoundException", "Requested resource not found"))


async def test_a_missing_index_says_so():
    message = "The table does not have the specified index: due"
    async with Answers(*[error(400, "ValidationException", message)] * 3) as server:
        state = await opened(server.url)
        with pytest.raises(Unavailable, match="specified index: due; add the index"):
            await state.find("due", "0", "9", 1)
        await state.close()


# ── who knows ──


@pytest.mark.parametrize("broken", [HANGS, CLOSES, RESETS, CUT, GARBAGE, (200, b"not JSON"), (200, b"[]")], ids=str)
async def test_a_lost_answer_leaves_the_outcome_unknown_and_the_write_is_not_sent_again(broken, monkeypatch):
    if broken == HANGS:
        monkeypatch.setattr(dynamodb, "WRITE", 2.0)  # the first write is answered within it, on a busy machine too
    async with Answers(fine(), broken) as server:
        state = await opened(server.url)
        with pytest.raises(OutcomeUnknown) as caught:
            await state.apply("t", PUTS)
        await state.close()
    assert caught.value.index == 1
    assert len(server.asked) == 2


@pytest.mark.parametrize(("status", "code"), [(500, "InternalServerError"), (503, "ServiceUnavailable"), (502, "")])
async def test_an_internal_error_may_have_been_applied(status, code):
    with pytest.raises(OutcomeUnknown, match=f"{status} {code}") as caught:
        await applied(error(status, code))
    assert caught.value.index == 0


async def test_a_broken_connection_that_was_kept_alive_is_unknown_too():
    async with Answers(fine(), CLOSES, fine()) as server:
        state = await opened(server.url)
        await state.apply("t", [Put("a", {"n": 1})])
        with pytest.raises(OutcomeUnknown):
            await state.apply("t", [Put("b", {"n": 1})])
        await state.apply("t", [Put("c", {"n": 1})])
        await state.close()


# ── refused, or unfit ──


async def test_a_condition_that_does_not_hold_is_refused_with_the_item_as_it_is():
    failed = error(400, "ConditionalCheckFailedException", Item={**ROW, "v": {"M": {"n": {"N": "7"}}}})
    assert (await applied(fine(), failed))[0] == Refused(1, {"n": 7})
    assert (await applied(error(400, "ConditionalCheckFailedException"), operations=[UPDATE]))[0] == Refused(0, None)


async def test_an_item_that_satisfies_the_conditions_did_not_fit():
    item = {**ROW, "v": {"M": {"n": {"N": "1"}, "m": {"S": "no map"}}}}
    wrong = Update("head", (Equals(at("n"), 1),), {at("n"): 1, at("m", "x"): 1})
    with pytest.raises(Misfit, match="no map to lie in"):
        await applied(error(400, "ConditionalCheckFailedException", Item=item), operations=[wrong])


@pytest.mark.parametrize(
    "message",
    [
        "The document path provided in the update expression is invalid for update",
        "An operand in the update expression has an incorrect data type",
    ],
)
async def test_an_update_that_can_not_work_is_judged_on_the_item(message):
    """DynamoDB answers so where it tries the update before the condition."""
    unfit = error(400, "ValidationException", message)
    assert (await applied(unfit, fine(), operations=[UPDATE]))[0] == Refused(0, None)
    item = {**ROW, "v": {"M": {"n": {"N": "1"}, "m": {"S": "no map"}}}}
    wrong = Update("head", (Equals(at("n"), 1),), {at("n"): 1, at("m", "x"): 1})
    with pytest.raises(Misfit):
        await applied(unfit, fine(Item=item), operations=[wrong])
    with pytest.raises(Unavailable, match="changed") as caught:
        await applied(fine(), unfit, fine(Item=ROW))
    assert caught.value.index == 1
    with pytest.raises(Unavailable) as caught:
        await applied(fine(), unfit, *[error(400, "ThrottlingException")] * 3)
    assert caught.value.index == 1


@pytest.mark.parametrize(
    "message",
    ["Item size has exceeded the maximum allowed size", "Item size to update has exceeded the maximum allowed size"],
)
async def test_an_item_that_is_too_large_is_a_misfit(message):
    with pytest.raises(Misfit, match="400 KB") as caught:
        await applied(fine(), error(400, "ValidationException", message))
    assert caught.value.index == 1


async def test_a_mistake_of_ours_is_not_taken_for_trouble():
    with pytest.raises(RuntimeError, match="ValidationException: Invalid ConditionExpression"):
        await applied(error(400, "ValidationException", "Invalid ConditionExpression: Syntax error"))


async def test_a_row_that_is_not_ours_is_not_read_as_one():
    for row in ({"pk": {"S": "t"}, "sk": {"S": "k"}}, {**ROW, "v": {"M": {"n": {"B": "AA=="}}}}):
        async with Answers(fine(Item=row)) as server:
            state = await opened(server.url)
            with pytest.raises(Unavailable, match="never writes"):
                await state.read("t", "k")
            await state.close()


# ── reading ──


@pytest.mark.parametrize(
    "trouble", [error(400, "ThrottlingException"), error(500, "InternalServerError"), CLOSES, GARBAGE], ids=str
)
async def test_a_read_is_asked_again_and_in_the_end_unavailable(trouble):
    async with Answers(trouble, trouble, fine(Item=ROW), *[trouble] * 3) as server:
        state = await opened(server.url)
        assert await state.read("t", "head") == {"n": 1}
        with pytest.raises(Unavailable):
            await state.read("t", "head")
        await state.close()
    assert len(server.asked) == 6
    assert all(body["ConsistentRead"] for body in server.bodies)


async def test_a_list_goes_on_where_an_answer_ended_after_a_megabyte():
    rows = [{**ROW, "sk": {"S": f"r{n}"}} for n in range(4)]
    there = {"pk": {"S": "t"}, "sk": {"S": "r1"}}
    script = [
        fine(Items=rows[:2], LastEvaluatedKey=there),
        fine(Items=[], LastEvaluatedKey=there),
        fine(Items=rows[2:]),
    ]
    async with Answers(*script) as server:
        state = await opened(server.url)
        assert [key for key, _ in await state.list("t", "r", "", 10)] == ["r0", "r1", "r2", "r3"]
        await state.close()
    assert [body.get("ExclusiveStartKey") for body in server.bodies] == [None, there, there]
    assert [body["Limit"] for body in server.bodies] == [10, 8, 8]
    assert all(body["ConsistentRead"] for body in server.bodies)


# ── what is sent ──


async def test_each_operation_is_one_conditional_write_of_one_item():
    operations = [
        Put("rec:1", {"n": 1}, index={"due": ("0", "5"), "flow": None}),
        UPDATE,
        Delete("old", (Present(at("x")),)),
    ]
    async with Answers(fine(), fine(Attributes={**ROW, "v": {"M": {"n": {"N": "2"}}}}), fine()) as server:
        state = await opened(server.url)
        assert await state.apply("t", operations) == Applied(None)
        await state.close()
    put, update, delete = server.bodies
    assert [headers["x-amz-target"] for _, headers, _ in server.asked] == [
        f"DynamoDB_20120810.{action}" for action in ("PutItem", "UpdateItem", "DeleteItem")
    ]
    assert put == {
        "TableName": "table",
        "Item": {
            "pk": {"S": "t"},
            "sk": {"S": "rec:1"},
            "v": {"M": {"n": {"N": "1"}}},
            "due_shard": {"S": "0"},
            "due_sort": {"S": "5\x1ft\x1frec:1"},
        },
        "ConditionExpression": "attribute_not_exists(pk)",
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    assert update["ReturnValues"] == "ALL_NEW"
    assert update["ReturnValuesOnConditionCheckFailure"] == delete["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD"
    assert update["UpdateExpression"] == "SET #0.#1 = if_not_exists(#0.#1, :2) + :0"
    assert delete["ConditionExpression"] == "attribute_exists(pk) AND attribute_exists(#0.#1)"


async def test_what_dynamodb_can_not_carry_is_rejected_before_anything_is_sent():
    async with Answers() as server:
        state = await opened(server.url)
        many = tuple(Absent(at("open", f"c{n}", "attempt")) for n in range(200))
        for operations, why in (
            ([PUTS[0], Put("k", {"n": 1}, index={"colour": ("0", "1")})], "index 'colour'"),
            ([PUTS[0], Update("head", (*many, Equals(at("n"), 1)), {at("n"): 1})], "more conditions"),
        ):
            with pytest.raises(ValueError, match=why):
                await state.apply("t", operations)
        with pytest.raises(ValueError, match="index 'colour'"):
            await state.find("colour", "0", "9", 1)
        await state.close()
    assert server.asked == []


def test_values_keep_their_kind_and_no_number_is_a_float_or_a_decimal():
    value = {"t": [True, 1, "1", None, {}, []], "n": {"w": 2**53 - 1, "m": 1 - 2**53, "a.b": ""}}
    wire = json.loads(json.dumps(encoded(value)))
    assert wire["M"]["t"]["L"] == [{"BOOL": True}, {"N": "1"}, {"S": "1"}, {"NULL": True}, {"M": {}}, {"L": []}]
    back = decoded(wire)
    assert back == value
    assert [type(part) for part in back["t"][:2]] == [bool, int]


async def test_names_and_values_stand_beside_the_expressions_never_in_them():
    """Segments hold dots and colons, and half of English is reserved."""
    update = Update("k", (Equals(at("status"), "open"), Absent(at("a.b:c"))), set={at("status"): "x", at("a.b:c"): 1})
    _, (body,) = await applied(fine(Attributes=ROW), operations=[update])
    assert body["ConditionExpression"] == "attribute_exists(pk) AND #0.#1 = :0 AND attribute_not_exists(#0.#2)"
    assert body["ExpressionAttributeNames"] == {"#0": "v", "#1": "status", "#2": "a.b:c"}
    assert body["ExpressionAttributeValues"] == {":0": {"S": "open"}, ":1": {"S": "x"}, ":2": {"N": "1"}}

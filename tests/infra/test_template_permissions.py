"""The functions' permissions are enough and not more: the ports' suites run with IAM before the AWS stand-in.

The table, the bucket, the key and the secrets are made of the template's own properties, and each request is judged by its
policies (`iam_evaluation` says what that covers). Each permission is then taken away, and something must fail.
"""

import copy
import json
import uuid
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml
from aws_servers import KEYS, Ministack, asked, create_bucket
from cfn_template import Template
from iam_proxy import Guard

from buspass.http.adapters import opened, secrets_of
from buspass.ports.operations import INDEXES
from buspass.ports.state import Delete, Equals, Put, Update, at
from buspass.testing.blobs_contract import BlobsContract
from buspass.testing.serve import serving
from buspass.testing.signer_contract import SignerContract
from buspass.testing.state_contract import StateContract
from buspass_aws import client, dynamodb, kms

ROOT = Path(__file__).parents[2]
SAM = (ROOT / "template.yaml").read_text("utf-8")
VALUES = yaml.safe_load((ROOT / "infra" / "aws" / "values.yaml").read_text("utf-8"))
ROLES = {"GatewayRole": ("state", "blobs", "signer", "domain", "provider"), "TimerRole": ("state", "signer", "domain")}
"""What each function does."""
PLATFORM = {"logs:CreateLogStream", "logs:PutLogEvents"}
"""Actions that Lambda's own runtime takes in the function's name: nothing of ours asks for them."""

pytestmark = pytest.mark.verify


@pytest.fixture(scope="module")
def ministack(tmp_path_factory):
    with Ministack(tmp_path_factory.mktemp("aws")) as running:
        yield running


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(client, "_PAUSE", 0.0)
    for name in ("WRITE", "READ"):  # seconds: a machine with more to do must not look like a service that is away
        monkeypatch.setattr(dynamodb, name, 60.0)


class Stack:
    """What the template makes, made on the stand-in."""

    def __init__(self, server):
        self.server = server
        mark = uuid.uuid4().hex[:12]
        self.values = {
            **VALUES,
            "TableName": f"t-{mark}",
            "BucketName": f"b-{mark}",
            "KeyAlias": f"alias/{mark}",
            "SecretsPrefix": mark,
        }
        roles = {name: {"Ref": name, "Arn": f"arn:aws:iam::000000000000:role/{name}"} for name in ROLES}
        logs = {
            f"{name}Log": {"Ref": name, "Arn": f"arn:aws:logs:eu-central-1:000000000000:log-group:{name}:*"}
            for name in ("Gateway", "Timer")
        }
        self.template = Template(SAM, self.values, {**roles, **logs})

    async def make(self):
        url, made = self.server.url, self.template.made
        table = self.template.properties("Table")
        points = table.pop("PointInTimeRecoverySpecification")
        assert points == {"PointInTimeRecoveryEnabled": True}
        answer = await self.dynamodb("CreateTable", table)
        made["Table"] = {"Ref": table["TableName"], "Arn": answer["TableDescription"]["TableArn"]}
        bucket = self.template.properties("Blobs")["BucketName"]
        await create_bucket(url, bucket)
        made["Blobs"] = {"Ref": bucket, "Arn": f"arn:aws:s3:::{bucket}"}
        key = self.template.properties("SigningKey")
        answer = await asked(url, "kms", "CreateKey", KeySpec=key["KeySpec"], KeyUsage=key["KeyUsage"])
        made["SigningKey"] = {"Ref": answer["KeyMetadata"]["KeyId"], "Arn": answer["KeyMetadata"]["Arn"]}
        alias = self.template.properties("SigningKeyAlias")
        await asked(url, "kms", "CreateAlias", **alias)
        arns = {self.values["TableName"]: made["Table"]["Arn"], alias["AliasName"]: made["SigningKey"]["Arn"]}
        for logical in ("DomainKey", "ProviderKey"):
            name = self.template.properties(logical)["Name"]
            answer = await asked(url, "secretsmanager", "CreateSecret", Name=name, SecretString=f"of {logical}")
            made[logical] = {"Ref": answer["ARN"]}
            arns[name] = answer["ARN"]
        self.arns = arns
        self.own = {
            made["SigningKey"]["Arn"]: self.template.properties("SigningKey")["KeyPolicy"],
            made["Blobs"]["Arn"]: self.template.properties("BlobsPolicy")["PolicyDocument"],
        }
        return self

    async def dynamodb(self, action, body):
        sender = client.AwsClient("dynamodb", "eu-central-1", self.server.url)
        headers = {"content-type": "application/x-amz-json-1.0", "x-amz-target": f"DynamoDB_20120810.{action}"}
        answer = await sender.send("POST", "/", headers=headers, body=json.dumps(body).encode(), timeout=60)
        await sender.close()
        assert answer.status == 200, answer
        return json.loads(answer.body)

    @asynccontextmanager
    async def guarded(self, role, identity=None, own=None):
        """The stand-in as a role reaches it."""
        made = self.template.made
        identity = self.template.policies(role) if identity is None else identity
        guard = Guard(self.server.url, made[role]["Arn"], identity, self.own if own is None else own, self.arns)
        async with serving(guard.app) as url:
            guard.url = url
            yield guard
        await guard.client.aclose()

    def url(self, kind, server):
        place = f"region=eu-central-1&endpoint={server.url}"
        match kind:
            case "state":
                return f"dynamodb://{self.values['TableName']}?{place}"
            case "blobs":
                return f"s3://{self.values['BucketName']}?{place}"
            case "signer":
                return f"kms://{self.values['KeyAlias']}?{place}"
        return f"secretsmanager://{self.values['SecretsPrefix']}?{place}"


@pytest.fixture
async def stack(ministack):
    return await Stack(ministack).make()


# ── enough ──


class TestState(StateContract):
    transactional = False
    histories = 5

    @pytest.fixture
    async def state(self, stack):
        async with stack.guarded("GatewayRole") as guard:  # the timer's statements on the table are the same
            state = await opened("state", stack.url("state", guard))
            yield state
            await state.close()
            assert guard.denied == []


class TestBlobs(BlobsContract):
    @pytest.fixture
    async def blobs(self, stack):
        async with stack.guarded("GatewayRole") as guard:
            blobs = await opened("blobs", stack.url("blobs", guard))
            yield blobs
            await blobs.close()
            assert guard.denied == []


class TestSigner(SignerContract):
    many = 20

    @pytest.fixture(params=list(ROLES))
    async def signer(self, stack, request):
        async with stack.guarded(request.param) as guard:
            signer = await kms.open(stack.url("signer", guard), data=None, create=False)
            yield signer
            await signer.close()
            assert guard.denied == []


# ── not more ──


async def do_all(stack, role, guard):
    """Everything that a function of this role does, once."""
    for part in ROLES[role]:
        await PARTS[part](stack, guard)


async def use_state(stack, guard):
    state = await opened("state", stack.url("state", guard))
    try:
        await state.apply("p", [Put("k", {"n": 1}, index=dict.fromkeys(INDEXES, ("0", "1")))])
        await state.apply("p", [Update("k", (Equals(at("n"), 1),), {at("n"): 1})])
        assert await state.read("p", "k") == {"n": 2}
        assert len(await state.list("p", "", "", 9)) == 1
        for index in INDEXES:
            await state.find(index, "0", "5", 9)
        await state.apply("p", [Delete("k", ())])
    finally:
        await state.close()


async def use_blobs(stack, guard):
    blobs = await opened("blobs", stack.url("blobs", guard))
    try:
        await blobs.put("a", b"x")
        assert (await blobs.get("a"))[0] == b"x"
        assert await blobs.list("", "", 9) == ["a"]
        await blobs.delete("a")
        assert await blobs.get("a") is None
    finally:
        await blobs.close()


async def use_signer(stack, guard):
    signer = await kms.open(stack.url("signer", guard), data=None, create=False)
    try:
        await signer.sign(b"x")
    finally:
        await signer.close()


def use_secret(name):
    async def use(stack, guard):
        store = secrets_of({"BUSPASS_SECRETS": stack.url("secrets", guard)})
        try:
            await store.get(VALUES[name])
        finally:
            await store.close()

    return use


PARTS = {
    "state": use_state,
    "blobs": use_blobs,
    "signer": use_signer,
    "domain": use_secret("DomainKeySecret"),
    "provider": use_secret("ProviderSecret"),
}


def without(policies):
    """Each way to take one permission away: one action of a statement, or one of its resources."""
    for p, policy in enumerate(policies):
        for s, statement in enumerate(policy["Statement"]):
            for part in ("Action", "Resource"):
                every = statement[part] if isinstance(statement[part], list) else [statement[part]]
                for gone in every:
                    less = copy.deepcopy(policies)
                    less[p]["Statement"][s][part] = [each for each in every if each != gone]
                    yield f"{statement['Sid']}: {gone}", gone, less


@pytest.mark.parametrize("role", ROLES)
async def test_with_any_permission_less_something_fails(stack, role):
    async with stack.guarded(role) as guard:
        await do_all(stack, role, guard)
        assert guard.denied == []
    identity = stack.template.policies(role)
    tried = 0
    for name, gone, less in without(identity):
        if gone in PLATFORM or gone == stack.template.made[role.replace("Role", "Log")]["Arn"]:
            continue
        async with stack.guarded(role, less) as guard:
            with pytest.raises(Exception) as caught:
                await do_all(stack, role, guard)
            assert guard.denied, (name, caught.value)
        tried += 1
    assert tried >= {"GatewayRole": 18, "TimerRole": 11}[role]


@pytest.mark.parametrize("gone", ["kms:GetPublicKey", "kms:Sign"])
@pytest.mark.parametrize("role", ROLES)
async def test_the_keys_own_policy_gives_what_no_role_has(stack, role, gone):
    arn = stack.template.made["SigningKey"]["Arn"]
    own = copy.deepcopy(stack.own)
    sign = next(each for each in own[arn]["Statement"] if each["Sid"] == "Sign")
    sign["Action"].remove(gone)
    sign["Principal"] = {"AWS": [stack.template.made[role]["Arn"]]}
    async with stack.guarded(role, own=own) as guard:
        with pytest.raises(Exception, match="AccessDenied"):
            await use_signer(stack, guard)
        assert {action for action, _ in guard.denied} == {gone}

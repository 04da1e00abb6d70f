"""Task tokens and Txn-Tokens: what is minted, what is refused and with which sentence; the domain's keyring."""

import base64
import json

import jwt
import pytest

import buspass_onprem.signer as signers
from buspass.errors import Problem
from buspass.identity.domain import DomainKey
from buspass.identity.keyring import Keyring
from buspass.identity.tokens import TaskTokens
from buspass.identity.txn import TxnTokens
from buspass.model import Principal, Subject
from buspass.ports.signer import SignerUnavailable
from buspass.ports.state import Delete, Put
from buspass.testing.clock import FakeClock
from buspass.testing.state_memory import Lost, MemoryState

ISSUER = "https://gateway.example.com"
DOMAIN = DomainKey(bytes(32))
AGENT = Principal(identity="entra", issuer="https://idp.example", agent="agent-1")
CUSTOMER = Subject(type="customer", id="C-1042", proof="token")


class House:
    """One host's identity room over a store that hosts share."""

    def __init__(self, signer, state, clock, host="aws", domain=DOMAIN):
        self.signer, self.state, self.clock = signer, state, clock
        self.keyring = Keyring(state, signer, host, domain, clock)
        self.tokens = TaskTokens(ISSUER, signer, self.keyring, clock)

    async def mint(self, **changes):
        wanted = {
            "task": "t1", "workflow": "returns", "revision": "abc", "fence": 3, "principal": AGENT, "subject": CUSTOMER,
            "expires_at_ms": self.clock.now() + 600_000, "ttl_s": 3600, **changes,
        }  # fmt: skip
        return await self.tokens.mint(**wanted)


@pytest.fixture
async def house(tmp_path):
    signer = await signers.open("file:", data=tmp_path / "aws", create=True)
    return House(signer, MemoryState(), FakeClock())


@pytest.fixture
async def other(house, tmp_path):
    signer = await signers.open("file:", data=tmp_path / "azure", create=True)
    return House(signer, house.state, house.clock, "azure")


def segments(token):
    return [json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2]]


async def refused(house, token):
    with pytest.raises(Problem) as caught:
        await house.tokens.verify(token)
    assert caught.value.code == "unauthenticated"
    return caught.value.detail


class TestMinting:
    async def test_a_task_token_says_what_the_contract_lists(self, house):
        minted = await house.mint()
        head, claims = segments(minted.token)
        now = house.clock.now() // 1000
        assert head == {"alg": "ES256", "kid": house.signer.jwk["kid"], "typ": "at+jwt"}
        assert len(claims.pop("jti")) == 22
        assert claims == {
            "iss": ISSUER, "aud": ISSUER, "iat": now, "exp": now + 600, "client_id": "agent-1",
            "sub": "customer:C-1042", "act": {"sub": "entra:agent-1"}, "txn": "t1", "scope": "models tools",
            "buspass": {"workflow": "returns", "rev": "abc", "fence": 3},
        }  # fmt: skip
        assert minted.expires_in == 600

    async def test_its_life_is_the_sooner_of_task_and_ttl_and_never_nothing(self, house):
        assert (await house.mint(ttl_s=60)).expires_in == 60
        with pytest.raises(Problem, match="task_expired"):
            await house.mint(expires_at_ms=house.clock.now())

    async def test_what_was_minted_is_verified_also_for_an_agent_that_acts_for_itself(self, house):
        claims = await house.tokens.verify((await house.mint(subject=None)).token)
        assert (claims.task, claims.workflow, claims.revision, claims.fence) == ("t1", "returns", "abc", 3)
        assert claims.sub == claims.act == "entra:agent-1"

    async def test_a_signer_that_can_not_sign_is_a_problem_that_a_retry_may_mend(self, house):
        class Away:
            algorithm, jwk = "ES256", house.signer.jwk

            async def sign(self, data):
                raise SignerUnavailable

        tokens = TaskTokens(ISSUER, Away(), house.keyring, house.clock)
        with pytest.raises(Problem) as caught:
            await tokens.mint(
                task="t", workflow="w", revision="r", fence=1, principal=AGENT, subject=None,
                expires_at_ms=house.clock.now() + 9000, ttl_s=9,
            )  # fmt: skip
        assert (caught.value.code, caught.value.status, caught.value.retryable) == ("identity_unavailable", 503, True)

    async def test_a_txn_token_says_what_the_contract_lists(self, house):
        minted = await TxnTokens(ISSUER, house.signer, house.clock).mint(
            task="t1", subject=CUSTOMER, principal=AGENT, audience="data.example", tool="get_order", method="GET",
            arguments={"id": "Ö-1"}, host="aws",
        )  # fmt: skip
        key = jwt.PyJWKSet.from_dict(await house.keyring.jwks())[house.signer.jwk["kid"]]  # as a service finds it
        options = {"verify_exp": False, "verify_iat": False}
        claims = jwt.decode(minted.token, key, algorithms=["ES256"], audience=ISSUER, options=options)
        assert segments(minted.token)[0]["typ"] == "txntoken+jwt"
        assert claims.pop("exp") - claims.pop("iat") == 60
        assert claims == {
            "iss": ISSUER, "aud": ISSUER, "jti": minted.jti, "txn": "t1", "sub": "customer:C-1042",
            "act": {"sub": "entra:agent-1"}, "scope": "tools", "req_wl": "aws",
            "tctx": {"audience": "data.example", "tool": "get_order", "method": "GET", "arguments": {"id": "Ö-1"}},
            "rctx": {"identity": "entra", "proof": "token"},
        }  # fmt: skip
        assert "this is a Txn-Token" in await refused(house, minted.token)


NOT_TOKENS = [
    ("", "the task token is missing"),
    ("   ", "the task token is missing"),
    ("sk-proj-abc", "this is an OpenAI key (sk-…), not a task token: start your agent with `buspass run -- …`"),
    ("sk-ant-api03-abc", "this is an Anthropic key (sk-ant-…), not a task token"),
    ("bp_abc", "this is a key (bp_…), not a task token"),
    ("bpo_abc", "this is the operator's key (bpo_…)"),
    ("AKIAABCDEFGHIJKLMNOP", "this is an AWS access key"),
    ("ASIAABCDEFGHIJKLMNOP", "this is an AWS access key"),
    ("IQoJb3JpZ2luX2Vj", "this is an AWS session token"),
    ("FwoGZXIvYXdz", "this is an AWS session token"),
    ("Bearer a.b.c", "the header says Bearer twice"),
    (" a.b.c", "white space around the task token"),
    ("nonsense", "this is not a JWT, as a task token is, nor a key (bp_…): start your agent with `buspass run -- …`"),
    ("a.b", "this is not a JWT"),
    ("a.b.c.d", "this is not a JWT"),
    ("a.b.c", "the token's header is not JSON"),
    ("ü.b.c", "this is not a JWT"),
    ("W10.e30.x", "the token's header is not a JSON object"),
    ("e30.W10.x", "the token's payload is not a JSON object"),
    ("a" * 20_000, "longer than 16384 bytes"),
]


@pytest.mark.parametrize(("token", "says"), NOT_TOKENS, ids=range(len(NOT_TOKENS)))
async def test_what_is_no_task_token_is_recognised(house, token, says):
    detail = await refused(house, token)
    assert says in detail
    assert len(token) < 9 or token not in detail


CLAIMS = [
    ({"iss": "https://login.microsoftonline.com/T/v2.0"}, {"typ": "JWT"}, "this is an Azure (Entra) token"),
    ({"iss": "https://cognito-idp.eu-central-1.amazonaws.com/x"}, {"typ": "JWT"}, "this is an AWS token"),
    ({"iss": "https://x.tokens.sts.global.api.aws"}, {"typ": "JWT"}, "this is an AWS token"),
    ({"iss": "https://idp.example"}, {"typ": "JWT"}, "this is an OIDC token of https://idp.example"),
    (
        {"iss": "https://idp.example\n\x1b[2J" + "x" * 500},
        {"typ": "JWT"},
        "this is an OIDC token of https://idp.exampl",
    ),
    ({"iss": "https://peer.example"}, {}, "this task token is of another trust domain (https://peer.example)"),
    ({}, {"typ": "JWT"}, "this JWT is no task token (typ at+jwt)"),
    ({}, {"typ": None}, "this JWT is no task token"),
    ({}, {"typ": "AT+JWT"}, "this JWT is no task token"),
    ({"iss": None}, {}, "this task token is of another trust domain"),
    ({}, {"typ": "txntoken+jwt"}, "this is a Txn-Token"),
    ({}, {"alg": "none"}, "alg 'none' is not accepted"),
    ({}, {"alg": "HS256"}, "alg 'HS256' is not accepted"),
    ({}, {"alg": "RS256"}, "alg 'RS256' is not accepted"),
    ({}, {"alg": None}, "alg '' is not accepted"),
    ({}, {"kid": "stranger"}, "a key that no host of this trust domain has"),
    ({}, {"kid": None}, "a key that no host of this trust domain has"),
    ({}, {"crit": ["exp"]}, "has 'crit'"),
    ({}, {"b64": False}, "has 'b64'"),
    ({"aud": "https://elsewhere"}, {}, "for another audience"),
    ({"aud": [ISSUER]}, {}, "for another audience"),
    ({"aud": None}, {}, "for another audience"),
    ({"exp": None}, {}, "exp is missing"),
    ({"exp": "9999999999"}, {}, "exp is missing or no number"),
    ({"exp": True}, {}, "exp is missing or no number"),
    ({"exp": 2**60}, {}, "exp is missing or no number"),
    ({"exp": -1}, {}, "exp is missing or no number"),
    ({"exp": 1_790_000_600.5}, {}, "fence or exp is missing or no whole number"),
    ({"exp": 1_789_999_000}, {}, "the token expired 1000 s ago: renew it with the workload's own OIDC token"),
    ({"iat": None}, {}, "iat is missing"),
    ({"iat": 1_790_000_100}, {}, "issued 100 s in the future"),
    ({"nbf": 1_790_000_100}, {}, "not valid for another 100 s"),
    ({"jti": None}, {}, "jti is missing"),
    ({"client_id": 7}, {}, "client_id is missing or no text"),
    ({"sub": ""}, {}, "sub is missing"),
    ({"txn": None}, {}, "txn is missing"),
    ({"act": "entra:agent-1"}, {}, "act or buspass is missing or no object"),
    ({"act": {}}, {}, "sub is missing"),
    ({"scope": "models"}, {}, "scope is missing or not 'models tools'"),
    ({"buspass": None}, {}, "act or buspass is missing"),
    ({"buspass": {"workflow": "w", "rev": "r", "fence": "1"}}, {}, "fence or exp is missing"),
    ({"buspass": {"workflow": "w", "rev": "r", "fence": True}}, {}, "fence or exp is missing"),
    ({"buspass": {"workflow": "w", "rev": "r", "fence": -1}}, {}, "fence or exp is missing"),
    ({"buspass": {"workflow": "w", "fence": 1}}, {}, "rev is missing"),
    ({"buspass": {"rev": "r", "fence": 1}}, {}, "workflow is missing"),
]


async def forged(house, claims, header):
    """A token with a true signature of the domain's key over whatever it says."""
    head, body = segments((await house.mint()).token)
    parts = [
        {k: v for k, v in {**old, **new}.items() if v is not None} for old, new in ((head, header), (body, claims))
    ]
    signing = ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in parts)
    return f"{signing}.{base64.urlsafe_b64encode(await house.signer.sign(signing.encode())).rstrip(b'=').decode()}"


async def test_the_forger_of_these_tests_makes_a_good_token_when_nothing_is_wrong(house):
    assert (await house.tokens.verify(await forged(house, {}, {}))).task == "t1"


@pytest.mark.parametrize(("claims", "header", "says"), CLAIMS, ids=range(len(CLAIMS)))
async def test_a_token_signed_by_the_domain_is_still_judged_by_every_claim(house, claims, header, says):
    detail = await refused(house, await forged(house, claims, header))
    assert says in detail
    assert detail.isprintable()
    assert len(detail) < 500


async def test_a_signature_is_judged(house):
    head, body, signature = (await house.mint()).token.split(".")
    claims = segments(f"{head}.{body}.")[1]
    changed = base64.urlsafe_b64encode(json.dumps({**claims, "txn": "t2"}).encode()).rstrip(b"=").decode()
    for token in (f"{head}.{changed}.{signature}", f"{head}.{body}.", f"{head}.{body}.{'A' * 86}"):
        assert "signature is wrong" in await refused(house, token)


async def test_a_name_twice_means_nothing(house):
    head = (await house.mint()).token.split(".")[0]
    for text in ('{"txn":"t1","txn":"t2"}', '{"exp":NaN}', '{"a":' * 2000):
        body = base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()
        assert "payload is not JSON" in await refused(house, f"{head}.{body}.x")


async def test_a_remembered_token_expires_all_the_same(house):
    token = (await house.mint(ttl_s=60)).token
    await house.tokens.verify(token)
    house.clock.advance(64.9)
    assert (await house.tokens.verify(token)).task == "t1"
    house.clock.advance(0.1)
    told = await refused(house, token)
    assert "POST /oauth2/token" in told
    assert "/v1/tasks/t1/resume" in told


async def test_a_token_is_checked_once_and_the_memory_is_bounded(house, monkeypatch):
    checked = []
    original = TaskTokens._check
    monkeypatch.setattr(TaskTokens, "_check", lambda self, token: checked.append(token) or original(self, token))
    monkeypatch.setattr("buspass.identity.tokens._KEPT", 2)
    tokens = [(await house.mint(task=f"t{n}")).token for n in range(3)]
    for token in (tokens[0], tokens[0], tokens[1], tokens[0], tokens[2], tokens[0], tokens[1]):
        await house.tokens.verify(token)
    assert checked == [tokens[0], tokens[1], tokens[2], tokens[1]]
    assert len(house.tokens._verified) == 2


class TestKeyring:
    async def test_every_host_accepts_what_another_of_the_domain_signed_once_it_is_published(self, house, other):
        token = (await other.mint()).token
        assert "no host of this trust domain" in await refused(house, token)
        await other.keyring.publish()
        assert "no host of this trust domain" in await refused(house, token)  # the rows were read a moment ago
        house.clock.advance(10)
        assert (await house.tokens.verify(token)).task == "t1"

    async def test_strangers_do_not_set_the_pace_of_reading(self, house):
        for n in range(50):
            assert await house.keyring.key(f"stranger-{n}") is None
        assert house.state.count.lists == 1
        house.clock.advance(10)
        for n in range(50):
            assert await house.keyring.key(f"stranger-{n}") is None
        assert house.state.count.lists == 2

    async def test_publishing_again_changes_nothing_and_a_lost_answer_does_no_harm(self, house):
        house.state.meet(Lost())
        await house.keyring.publish()
        before = await house.state.list("domain", "", "", 10)
        await house.keyring.publish()
        assert await house.state.list("domain", "", "", 10) == before
        assert [name for name, _ in before] == [f"jwk:aws:{house.signer.jwk['kid']}"]

    async def test_the_key_set_is_the_union_and_shows_public_members_only(self, house, other):
        await house.keyring.publish()
        await other.keyring.publish()
        keys = (await house.keyring.jwks())["keys"]
        assert {key["kid"] for key in keys} == {house.signer.jwk["kid"], other.signer.jwk["kid"]}
        assert {frozenset(key) for key in keys} == {frozenset({"kty", "crv", "x", "y", "kid", "alg", "use"})}
        assert next(key for key in keys if key["kid"] == house.signer.jwk["kid"]) == house.signer.jwk

    @pytest.mark.parametrize(
        "forgery", ["foreign mac", "no mac", "no key", "swapped key", "renamed", "copied", "extra member"]
    )
    async def test_a_row_that_no_holder_of_the_domain_key_wrote_adds_no_key(self, house, other, forgery):
        kid = other.signer.jwk["kid"]
        key = f"jwk:azure:{kid}"
        await other.keyring.publish()
        genuine = dict(await house.state.read("domain", key))
        await house.state.apply("domain", [Delete(key, ())])
        rows = {
            "no mac": (key, {name: genuine[name] for name in ("host", "jwk")}),
            "no key": (key, {**genuine, "jwk": "x"}),
            "foreign mac": (key, {**genuine, "mac": "0" * 64}),
            "swapped key": (key, {**genuine, "jwk": {**house.signer.jwk, "kid": kid}}),
            "renamed": (f"jwk:aws:{kid}", {**genuine, "host": "aws"}),
            "copied": (f"jwk:copy:{kid}", genuine),  # a withdrawn row comes back under another name
            "extra member": (key, {**genuine, "jwk": {**genuine["jwk"], "d": 1}}),
        }
        await house.state.apply("domain", [Put(*rows[forgery])])
        assert await house.keyring.key(kid) is None
        assert kid not in {found["kid"] for found in (await house.keyring.jwks())["keys"]}
        await other.keyring.publish()  # the true host takes its place back
        house.clock.advance(10)
        assert await house.keyring.key(kid) is not None

    async def test_another_domains_hosts_are_strangers(self, house, other):
        intruder = House(other.signer, house.state, house.clock, "azure", DomainKey(bytes([1] * 32)))
        await intruder.keyring.publish()
        assert "no host of this trust domain" in await refused(house, (await intruder.mint()).token)

    async def test_a_withdrawn_key_is_forgotten_within_five_minutes(self, house, other):
        await other.keyring.publish()
        kid = other.signer.jwk["kid"]
        assert await house.keyring.key(kid)
        await house.state.apply("domain", [Delete(f"jwk:azure:{kid}", ())])
        house.clock.advance(301)
        assert await house.keyring.key(kid) is None

    async def test_it_says_whether_a_host_of_the_domain_signed_some_bytes(self, house, other):
        await other.keyring.publish()
        signature = base64.urlsafe_b64encode(await other.signer.sign(b"seal")).rstrip(b"=").decode()
        kid = other.signer.jwk["kid"]
        assert await house.keyring.check(kid, b"seal", signature)
        assert not await house.keyring.check(kid, b"other", signature)
        assert not await house.keyring.check("stranger", b"seal", signature)
        for broken in ("", "%%%", signature[:-4], "A"):
            assert not await house.keyring.check(kid, b"seal", broken)

    async def test_a_store_out_of_reach_proves_nobody_new(self, house, other):
        await other.keyring.publish()
        kid = other.signer.jwk["kid"]
        assert await house.keyring.key(kid)
        await house.state.close()
        house.clock.advance(400)
        assert await house.keyring.key(kid)  # proven before
        assert len((await house.keyring.jwks())["keys"]) == 2
        with pytest.raises(Problem, match="state_unavailable"):
            await house.keyring.key("stranger")
        with pytest.raises(Problem, match="state_unavailable"):
            await house.keyring.publish()
        assert await house.keyring.key(house.signer.jwk["kid"])

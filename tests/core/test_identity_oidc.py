"""OIDC tokens from foreign issuers: who is accepted as whom, keys and their rotation, and failing closed."""

import asyncio
import json

import jwt
import pytest

import buspass_onprem.signer as signers
from buspass.config.settings import IdentityProvider, OperatorRule, SubjectClaims
from buspass.errors import Problem
from buspass.identity.domain import DomainKey
from buspass.identity.jws import sign
from buspass.identity.keyring import Keyring
from buspass.identity.local import LocalIssuer
from buspass.identity.oidc import OidcVerifier
from buspass.model import Subject
from buspass.ports.outbound import NotSent, Response
from buspass.testing.clock import FakeClock
from buspass.testing.issuer import Issuer, Realm, SigningKey
from buspass.testing.outbound import AsgiOutbound, ScriptedOutbound
from buspass.testing.state_memory import MemoryState

BASE = "http://127.0.0.1:8741"
HOST = "127.0.0.1:8741"
RULES = (OperatorRule(identity="people", group="platform-team"),)


def provider(name, realm, audience="api://buspass", claims=None, subject=None):
    return IdentityProvider(
        name=name, issuer=f"{BASE}/{realm}", audience=audience, claims=claims or {}, subject=subject
    )


PROVIDERS = {
    "workloads": provider("workloads", "workloads", claims={"agent": "azp", "tenant": "tid"}),
    "shop": provider("shop", "customers", subject=SubjectClaims(type="customer", id="sub")),
    "people": provider("people", "people", claims={"groups": "roles"}),
}


class World:
    def __init__(self, algorithm="ES256"):
        self.clock = FakeClock()
        realms = [
            Realm(name=name, audience="api://buspass", clients={}, algorithm=algorithm)
            for name in ("workloads", "customers", "people")
        ]
        self.issuer = Issuer(BASE, realms, clock=lambda: self.clock.now() / 1000)
        self.outbound = AsgiOutbound({HOST: self._answer})
        self.verifier = OidcVerifier(PROVIDERS, self.outbound, self.clock)

    async def _answer(self, scope, receive, send):
        await asyncio.sleep(0)  # as a network does, it lets others have their turn
        await self.issuer.app(scope, receive, send)

    @property
    def fetches(self):
        return len(self.issuer.requests)

    def token(self, **changes):
        return self.issuer.workload("workloads", "agent-1", **changes)

    async def refused(self, token, method="workload", *more):
        with pytest.raises(Problem) as caught:
            await getattr(self.verifier, method)(token, *more)
        assert caught.value.code == "unauthenticated"
        return caught.value.detail


@pytest.fixture
def world():
    return World()


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
async def test_a_workload_is_known_by_its_mapped_claims_and_no_other(algorithm):
    world = World(algorithm)
    principal = await world.verifier.workload(world.token(secret="unmapped"))
    assert (principal.name, principal.issuer) == ("workloads:agent-1", f"{BASE}/workloads")
    assert principal.claims == {"agent": "agent-1", "tenant": "t-local"}


async def test_a_token_need_not_say_when_it_was_issued(world):
    token = world.issuer.mint("workloads", {"sub": "agent-1", "azp": "agent-1", "tid": "t", "iat": None})
    assert (await world.verifier.workload(token)).name == "workloads:agent-1"


async def test_a_subject_and_an_operator_are_known_by_their_own_issuers(world):
    assert await world.verifier.subject(world.issuer.customer("customers", "C-1042")) == Subject(
        type="customer", id="C-1042", proof="token"
    )
    token = world.issuer.mint("people", {"sub": "ann", "roles": ["x", "platform-team"]})
    assert (await world.verifier.operator(token, RULES)).name == "people:ann"


@pytest.mark.parametrize("roles", [None, [], "platform-teams", ["platform"], [["platform-team"]], {"platform-team": 1}])
async def test_an_operator_without_the_group_is_denied(world, roles):
    token = world.issuer.mint("people", {"sub": "ann", "roles": roles})
    with pytest.raises(Problem, match=r"denied|can.t be mapped"):
        await world.verifier.operator(token, RULES)


async def test_nobody_operates_without_rules(world):
    token = world.issuer.mint("people", {"sub": "ann", "roles": ["platform-team"]})
    assert "accepted: none is configured" in await world.refused(token, "operator", ())


BAD = {
    "expired": "the token expired 3600 s ago",
    "not_yet_valid": "not valid for another 3600 s",
    "wrong_audience": "for another audience (aud); wanted: api://buspass",
    "wrong_issuer": f"issuer '{BASE}/elsewhere' proves no workload here; accepted: {BASE}/workloads",
    "no_expiry": "exp is missing",
    "alg_none": "alg 'none' is not accepted",
    "hmac_with_public_key": "alg 'HS256' is not accepted",
    "unknown_kid": "signed with a key that",
    "stolen_kid": "signature is wrong",
    "tampered": "signature is wrong",
    "cut": "this is not a JWT",
}


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
@pytest.mark.parametrize("kind", BAD)
async def test_a_token_that_nobody_may_accept_is_refused_for_what_is_wrong_with_it(algorithm, kind):
    world = World(algorithm)
    bad = world.issuer.bad("workloads", sub="agent-1", azp="agent-1")
    assert set(bad) == set(BAD)
    assert BAD[kind] in await world.refused(bad[kind])


CLAIMS = [
    ({"azp": None}, "lacks claim 'azp'"),
    ({"azp": ""}, "lacks claim 'azp'"),
    ({"azp": 7}, "lacks claim 'azp'"),
    ({"azp": "a\nb"}, "lacks claim 'azp', or it is no printable text"),
    ({"azp": "a" * 257}, "no printable text of up to 256"),
    ({"tid": {"a": 1}}, "claim 'tid' of identity 'workloads'"),
    ({"tid": 1.5}, "claim 'tid' of identity 'workloads'"),
    ({"tid": 2**60}, "claim 'tid' of identity 'workloads'"),
    ({"aud": None}, "another audience"),
    ({"aud": []}, "another audience"),
    ({"aud": {"api://buspass": 1}}, "another audience"),
    ({"iss": f"{BASE}/workloads/"}, "proves no workload here"),
    ({"iss": f"{BASE}/customers"}, "proves no workload here"),
    ({"iss": [f"{BASE}/workloads"]}, "proves no workload here"),
    ({"exp": "soon"}, "exp is missing or no number"),
    ({"iat": "then"}, "iat is missing or no number"),
    ({"iat": 1_790_000_600}, "issued 600 s in the future"),
    ({"pad": "x" * 20_000}, "longer than 16384 bytes"),
]


@pytest.mark.parametrize(("changes", "says"), CLAIMS, ids=range(len(CLAIMS)))
async def test_every_claim_that_counts_is_judged(world, changes, says):
    claims = {"sub": "agent-1", "azp": "agent-1", "tid": "t", **changes}
    ours = world.issuer.realms["workloads"].signing
    token = jwt.api_jws.encode(
        json.dumps(world.issuer.claims("workloads", claims)).encode(),
        ours.private,
        algorithm=ours.algorithm,
        headers={"kid": ours.kid},
    )
    assert says in await world.refused(token)


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"typ": "txntoken+jwt"}, "typ 'txntoken+jwt'"),
        ({"typ": "dpop+jwt"}, "typ 'dpop+jwt'"),
        ({"kid": ""}, "names no key (kid)"),
        ({"crit": ["exp"]}, "has 'crit'"),
    ],
)
async def test_the_header_is_judged(world, headers, says):
    token = world.issuer.mint("workloads", {"azp": "a"}, headers=headers)
    assert says in await world.refused(token)


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "application/at+jwt"])
async def test_the_usual_types_are_accepted(world, typ):
    token = world.issuer.mint("workloads", {"azp": "a", "aud": ["x", "api://buspass"]}, headers={"typ": typ})
    assert (await world.verifier.workload(token)).agent == "a"


async def test_nothing_and_a_task_token_are_recognised(world):
    assert "the workload's OIDC token is missing" in await world.refused("")
    token = world.issuer.mint("workloads", {"buspass": {}}, headers={"typ": "at+jwt"})
    assert "this is a task token" in await world.refused(token)


async def test_a_token_of_one_role_proves_no_other(world):
    customer = world.issuer.customer("customers", "C-1042", azp="agent-1")
    assert "proves no workload" in await world.refused(customer)
    assert "proves no subject" in await world.refused(world.token(), "subject")
    assert "proves no operator" in await world.refused(world.token(roles=["platform-team"]), "operator", RULES)


async def test_a_token_that_is_not_for_us_costs_no_fetch(world):
    for kind in ("wrong_audience", "wrong_issuer", "alg_none", "hmac_with_public_key", "cut"):
        await world.refused(world.issuer.bad("workloads")[kind])
    assert world.fetches == 0


async def test_the_clocks_may_differ_by_five_seconds(world):
    now = world.clock.now() // 1000
    await world.verifier.workload(world.token(exp=now - 4, iat=now + 5, nbf=now + 5))
    assert "expired 5 s ago" in await world.refused(world.token(exp=now - 5))


class TestKeys:
    async def test_a_herd_of_callers_shares_one_fetch(self, world):
        await asyncio.gather(*(world.verifier.workload(world.token()) for _ in range(50)))
        assert world.fetches == 2  # the discovery document and the key set

    async def test_one_caller_that_goes_away_does_not_take_the_fetch_with_him(self, world):
        gate = asyncio.Event()
        app = world.issuer.app

        async def slow(scope, receive, send):
            await gate.wait()
            await app(scope, receive, send)

        world.outbound.apps[HOST] = slow
        first, second = (asyncio.create_task(world.verifier.workload(world.token())) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        gate.set()
        assert (await second).agent == "agent-1"

    async def test_keys_are_kept_as_long_as_the_issuer_says(self, world):
        await world.verifier.workload(world.token())
        world.clock.advance(299)  # Cache-Control: max-age=300
        await world.verifier.workload(world.token())
        assert world.fetches == 2
        world.clock.advance(1)
        await world.verifier.workload(world.token())
        assert world.fetches == 4

    async def test_a_rotation_is_noticed_by_the_unknown_key(self, world):
        await world.verifier.workload(world.token())
        world.clock.advance(10)
        world.issuer.realms["workloads"].rotate("RS256")
        await asyncio.gather(*(world.verifier.workload(world.token()) for _ in range(20)))
        assert world.fetches == 4

    async def test_a_key_that_is_no_longer_published_proves_nothing_after_its_time(self, world):
        old = world.token(exp=world.clock.now() // 1000 + 9999)
        await world.verifier.workload(old)
        world.issuer.realms["workloads"].rotate(keep=0)
        world.clock.advance(300)
        assert "does not publish" in await world.refused(old)

    async def test_strangers_do_not_set_the_pace_of_fetching(self, world):
        stranger = SigningKey.make("ES256")
        for n in range(30):
            await world.refused(world.issuer.mint("workloads", {"azp": "a"}, key=stranger, headers={"kid": f"k{n}"}))
        assert world.fetches == 2
        world.clock.advance(10)
        for n in range(30):
            await world.refused(world.issuer.mint("workloads", {"azp": "a"}, key=stranger, headers={"kid": f"k{n}"}))
        assert world.fetches == 4

    async def test_an_issuer_out_of_reach_proves_nobody_but_whose_key_is_known(self, world):
        world.outbound.down.add(HOST)
        results = await asyncio.gather(
            *(world.verifier.workload(world.token()) for _ in range(20)), return_exceptions=True
        )
        assert {(p.code, p.status) for p in results} == {("identity_unavailable", 503)}
        assert len(set(map(id, results))) == 20  # each may be written on by who renders it
        assert len(world.outbound.requests) == 1
        world.outbound.down.clear()
        world.clock.advance(1)
        await world.verifier.workload(world.token())
        world.outbound.down.add(HOST)
        world.clock.advance(100)
        await world.verifier.workload(world.token())
        world.clock.advance(300)  # past their lifetime the keys prove nothing
        with pytest.raises(Problem, match="identity_unavailable"):
            await world.verifier.workload(world.token())


def found(document, **headers):
    return Response(status=200, headers=headers, body=json.dumps(document).encode())


def discovery(**changes):
    return found({"issuer": f"{BASE}/workloads", "jwks_uri": f"{BASE}/keys", **changes})


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([discovery(issuer=f"{BASE}/workloads/")], "names another issuer"),
        ([discovery(issuer=None)], "names another issuer"),
        ([discovery(jwks_uri=None)], "jwks_uri is missing or neither"),
        ([discovery(jwks_uri="http://evil.example/keys")], "jwks_uri is missing or neither"),
        ([discovery(jwks_uri="file:///etc/passwd")], "jwks_uri is missing or neither"),
        ([discovery(jwks_uri="https://")], "jwks_uri is missing or neither"),
        ([discovery(jwks_uri="http://[")], "jwks_uri is missing or neither"),
        ([Response(status=302, headers={"location": BASE}, body=b"")], "answered 302"),
        ([Response(status=500, headers={}, body=b"")], "answered 500"),
        ([Response(status=200, headers={}, body=b"<html>")], "answered no JSON"),
        ([Response(status=200, headers={}, body=b"\xff")], "answered no JSON"),
        ([found([])], "answered no JSON object"),
        ([NotSent("refused")], "can't be read: refused"),
        ([discovery(), NotSent("refused")], f"{BASE}/keys can't be read: refused"),
    ],
)
async def test_an_issuer_that_answers_nonsense_proves_nobody(world, answers, says):
    verifier = OidcVerifier(PROVIDERS, ScriptedOutbound(answers), world.clock)
    with pytest.raises(Problem, match="identity_unavailable") as caught:
        await verifier.workload(world.token())
    assert says in caught.value.detail


async def test_only_keys_that_may_verify_are_taken_and_each_for_its_one_algorithm(world):
    key = world.issuer.realms["workloads"].signing
    rsa = SigningKey.make("RS256")
    secret = {"kty": "oct", "k": "c2VjcmV0", "kid": key.kid}
    plain = {name: value for name, value in key.jwk.items() if name not in ("alg", "use")}
    rows = [
        ([plain], True),  # Entra names no alg
        ([secret], False),
        ([{**plain, "use": "enc"}], False),
        ([{**plain, "alg": "ES512"}], False),
        ([{**plain, "crv": "P-384"}], False),
        ([{**plain, "x": "AA"}], False),
        ([{**plain, "kid": None}], False),
        ([{**rsa.jwk, "kid": key.kid}], False),
        ("nonsense", False),
        ([None, 7, plain], True),
        ([{name: value for name, value in plain.items() if name != "kid"}, {**plain, "kid": ["x"]}, plain], True),
        ([{"kty": "OKP", "crv": "Ed25519", "x": plain["x"], "kid": "x"}, plain], True),
    ]
    for keys, accepted in rows:
        verifier = OidcVerifier(PROVIDERS, ScriptedOutbound([discovery(), found({"keys": keys})]), world.clock)
        if accepted:
            await verifier.workload(world.token())
        else:
            with pytest.raises(Problem, match=r"does not publish|signature is wrong|not accepted"):
                await verifier.workload(world.token())


@pytest.mark.parametrize(
    ("cache_control", "kept"),
    [(None, 3600), ("max-age=600", 600), ("public, Max-Age=7200", 7200), ("max-age=0", 300), ("no-store", 3600),
     ("max-age=99999999", 86_400), ("s-maxage=9", 3600), ("max-age=-1", 3600)],
)  # fmt: skip
async def test_a_key_set_lives_between_five_minutes_and_a_day(world, cache_control, kept):
    headers = {"cache-control": cache_control} if cache_control else {}
    keys = found({"keys": [world.issuer.realms["workloads"].signing.jwk]}, **headers)
    outbound = ScriptedOutbound([discovery(), keys, discovery(), keys])
    verifier = OidcVerifier(PROVIDERS, outbound, world.clock)
    await verifier.workload(world.token())
    world.clock.advance(kept - 1)
    await verifier.workload(world.token())
    assert len(outbound.requests) == 2
    world.clock.advance(2)
    await verifier.workload(world.token())
    assert len(outbound.requests) == 4


class TestLocal:
    @pytest.fixture
    async def local(self, world, tmp_path):
        signer = await signers.open("file:", data=tmp_path, create=True)
        keyring = Keyring(MemoryState(), signer, "onprem", DomainKey(bytes(32)), world.clock)
        local = LocalIssuer("http://127.0.0.1:8700", signer, keyring, world.clock)
        world.verifier = OidcVerifier({}, world.outbound, world.clock, local=local)
        return local

    async def test_the_gateway_vouches_for_a_workload_itself(self, world, local):
        principal = await world.verifier.workload(await local.mint_workload("my-agent"))
        assert (principal.name, principal.issuer) == ("local:my-agent", "http://127.0.0.1:8700/local")
        assert world.fetches == 0

    async def test_its_tokens_expire_and_are_judged_like_all_others(self, world, local):
        token = await local.mint_workload("my-agent", ttl_s=60)
        head, body, signature = token.split(".")
        assert "signature is wrong" in await world.refused(f"{head}.{body}.{'A' * len(signature)}")
        world.clock.advance(65)
        assert "expired" in await world.refused(token)
        assert "sub is not what" in await world.refused(await local.mint_workload(""))

    @pytest.mark.parametrize(
        ("typ", "changes", "says"),
        [
            ("at+jwt", {}, "typ, alg or iss is not"),
            ("JWT", {"iss": "http://127.0.0.1:8700"}, "typ, alg or iss is not"),
            ("JWT", {"aud": "http://127.0.0.1:8701"}, "aud or sub is not"),
            ("JWT", {"sub": 7}, "aud or sub is not"),
            ("JWT", {"sub": "a\n"}, "aud or sub is not"),
            ("JWT", {"exp": None}, "exp is missing"),
            ("JWT", {"iat": None}, "iat is missing"),
        ],
    )
    async def test_what_its_own_key_signed_for_something_else_proves_nobody(
        self, world, local, tmp_path, typ, changes, says
    ):
        signer = await signers.open("file:", data=tmp_path, create=False)
        now = world.clock.now() // 1000
        good = {"iss": local.issuer, "aud": "http://127.0.0.1:8700", "sub": "a", "iat": now, "exp": now + 60}
        assert (await local.workload(await sign(signer, "JWT", good))).agent == "a"
        with pytest.raises(Problem, match="unauthenticated") as caught:
            await local.workload(await sign(signer, typ, {**good, **changes}))
        assert says in caught.value.detail

    async def test_without_a_local_issuer_its_tokens_are_a_strangers(self, world, local):
        world.verifier = OidcVerifier(PROVIDERS, world.outbound, world.clock)
        assert "proves no workload here" in await world.refused(await local.mint_workload("my-agent"))

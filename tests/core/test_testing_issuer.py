"""The local OIDC issuer gives tokens that a strict verifier accepts, and bad ones that it refuses."""

from __future__ import annotations

import contextlib
import hmac
from typing import Any

import httpx
import jwt
import pytest

from buspass.testing.issuer import Issuer, Realm, SigningKey

AUDIENCE = "api://buspass"


@pytest.fixture
def issuer() -> Issuer:
    realms = [
        Realm(name="workloads", audience=AUDIENCE, clients={"agent-1": "s3cret"}, algorithm="RS256"),
        Realm(name="customers", audience=AUDIENCE, clients={"till": "t1ll"}, customers=True),
    ]
    return Issuer("http://127.0.0.1:8741", realms)


def client(issuer: Issuer, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=issuer.app), **options)


async def accept(issuer: Issuer, realm: str, token: str) -> dict[str, object]:
    """A strict verifier over HTTP: discovery, keys, then every check that OIDC asks for."""
    async with client(issuer) as http:
        found = (await http.get(f"{issuer.issuer(realm)}/.well-known/openid-configuration")).json()
        keys = (await http.get(found["jwks_uri"])).json()["keys"]
    kid = jwt.get_unverified_header(token)["kid"]
    key = next((jwt.PyJWK(k) for k in keys if k["kid"] == kid), None)
    if key is None:
        raise jwt.InvalidTokenError("unknown kid")
    return jwt.decode(
        token,
        key,
        algorithms=found["id_token_signing_alg_values_supported"],
        audience=AUDIENCE,
        issuer=found["issuer"],
        options={"require": ["exp", "iat", "sub", "aud", "iss"]},
    )


async def grant(issuer: Issuer, realm: str, **form: str) -> httpx.Response:
    async with client(issuer) as http:
        return await http.post(f"{issuer.issuer(realm)}/token", data=form)


CLIENT = {"client_id": "agent-1", "client_secret": "s3cret"}
TILL = {"client_id": "till", "client_secret": "t1ll"}


async def test_a_workload_gets_its_token_by_client_credentials(issuer: Issuer) -> None:
    answer = await grant(issuer, "workloads", grant_type="client_credentials", **CLIENT)
    claims = await accept(issuer, "workloads", answer.json()["access_token"])
    assert answer.json()["token_type"] == "Bearer"
    assert {k: claims[k] for k in ("sub", "azp", "tid", "aud")} == {
        "sub": "agent-1",
        "azp": "agent-1",
        "tid": "t-local",
        "aud": AUDIENCE,
    }


async def test_a_client_may_name_itself_in_the_header(issuer: Issuer) -> None:
    async with client(issuer, auth=("agent-1", "s3cret")) as http:
        answer = await http.post(f"{issuer.issuer('workloads')}/token", data={"grant_type": "client_credentials"})
    assert answer.status_code == 200


async def test_a_customer_gets_a_token_of_their_own(issuer: Issuer) -> None:
    answer = await grant(issuer, "customers", grant_type="customer", customer="C-1042", **TILL)
    claims = await accept(issuer, "customers", answer.json()["access_token"])
    assert claims["sub"] == "C-1042"
    assert "azp" not in claims


@pytest.mark.parametrize(
    ("realm", "form", "status", "error"),
    [
        ("workloads", {"grant_type": "client_credentials"}, 401, "invalid_client"),
        (
            "workloads",
            {"grant_type": "client_credentials", "client_id": "agent-1", "client_secret": "no"},
            401,
            "invalid_client",
        ),
        (
            "workloads",
            {"grant_type": "client_credentials", "client_id": "nobody", "client_secret": ""},
            401,
            "invalid_client",
        ),
        ("workloads", {"grant_type": "customer", "customer": "C-1", **CLIENT}, 400, "unsupported_grant_type"),
        ("customers", {"grant_type": "customer", **TILL}, 400, "invalid_request"),
        ("nowhere", {"grant_type": "client_credentials", **CLIENT}, 404, "not_found"),
    ],
)
async def test_nobody_else_gets_one(issuer: Issuer, realm: str, form: dict[str, str], status: int, error: str) -> None:
    answer = await grant(issuer, realm, **form)
    assert (answer.status_code, answer.json()["error"]) == (status, error)


async def test_after_a_rotation_old_and_new_tokens_pass_until_the_old_key_is_gone(issuer: Issuer) -> None:
    old = issuer.workload("workloads", "agent-1")
    issuer.realms["workloads"].rotate("ES256")
    new = issuer.workload("workloads", "agent-1")
    assert jwt.get_unverified_header(new)["alg"] == "ES256"
    await accept(issuer, "workloads", old)
    await accept(issuer, "workloads", new)
    issuer.realms["workloads"].rotate(keep=0)
    with pytest.raises(jwt.InvalidTokenError):
        await accept(issuer, "workloads", new)


@pytest.mark.parametrize("realm", ["workloads", "customers"])
async def test_no_bad_token_passes_and_each_is_bad_in_its_own_way(issuer: Issuer, realm: str) -> None:
    passed = []
    for what, token in issuer.bad(realm, sub="agent-1").items():
        with contextlib.suppress(jwt.InvalidTokenError):
            await accept(issuer, realm, token)
            passed.append(what)
    assert passed == []


async def test_the_hmac_token_would_fool_a_naive_verifier(issuer: Issuer) -> None:
    """It is bad because of its algorithm alone: the signature fits the public key taken as a secret."""
    signed, _, signature = issuer.bad("workloads", sub="agent-1")["hmac_with_public_key"].encode().rpartition(b".")
    key: SigningKey = issuer.realms["workloads"].signing
    assert jwt.utils.base64url_decode(signature) == hmac.digest(key.public_pem, signed, "sha256")


async def test_keys_are_public_halves_only(issuer: Issuer) -> None:
    async with client(issuer) as http:
        keys = (await http.get(f"{issuer.issuer('workloads')}/jwks.json")).json()["keys"]
    assert [(k["kty"], k["alg"], k["use"]) for k in keys] == [("RSA", "RS256", "sig")]
    assert not set(keys[0]) & {"d", "p", "q", "dp", "dq", "qi"}
    assert issuer.requests[-1] == "/workloads/jwks.json"

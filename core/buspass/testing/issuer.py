"""A local OIDC issuer with several realms: what Entra or a shop's login is to a gateway, on loopback.

Owns keys, clients and the tokens signed with them, also those that nobody may accept. Refuses to know who
accepts a token, or why. Discovery: OpenID Connect Discovery 1.0; keys: RFC 7517; `/token`: RFC 6749.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from msgspec import Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

type Algorithm = Literal["ES256", "RS256"]


class SigningKey(Struct, frozen=True, kw_only=True):
    """A private key with the name it is published under."""

    kid: str
    algorithm: Algorithm
    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

    @classmethod
    def make(cls, algorithm: Algorithm) -> SigningKey:
        private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
        if algorithm == "ES256":
            private = ec.generate_private_key(ec.SECP256R1())
        else:
            private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        return cls(kid=secrets.token_hex(8), algorithm=algorithm, private=private)

    @property
    def jwk(self) -> dict[str, Any]:
        """The public half, RFC 7517."""
        public = self.private.public_key()
        if isinstance(public, ec.EllipticCurvePublicKey):
            part = ECAlgorithm.to_jwk(public, as_dict=True)
        else:
            part = RSAAlgorithm.to_jwk(public, as_dict=True)
        part.pop("key_ops", None)
        return {**part, "kid": self.kid, "alg": self.algorithm, "use": "sig"}

    @property
    def public_pem(self) -> bytes:
        public = self.private.public_key()
        return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@dataclass(slots=True, kw_only=True)
class Realm:
    """One issuer at `/NAME/`. `clients` maps ids to secrets; `customers`: it also gives customers' tokens."""

    name: str
    audience: str
    clients: Mapping[str, str]
    tenant: str = "t-local"
    algorithm: Algorithm = "ES256"
    customers: bool = False
    keys: list[SigningKey] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.keys:
            self.keys.append(SigningKey.make(self.algorithm))

    @property
    def signing(self) -> SigningKey:
        """The key in use: the newest."""
        return self.keys[-1]

    def rotate(self, algorithm: Algorithm | None = None, *, keep: int = 1) -> SigningKey:
        """Sign with a new key from now on; the last `keep` old ones stay published."""
        self.keys.append(SigningKey.make(algorithm or self.algorithm))
        del self.keys[: -1 - keep]
        return self.signing


class Issuer:
    """The realms at one base URL, as an ASGI application (`app`) and as a mint for tests.

    `lifetime` of tokens in seconds; `clock` answers Unix seconds.
    """

    def __init__(
        self,
        base_url: str,
        realms: Sequence[Realm],
        *,
        lifetime: float = 3600,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.realms = {realm.name: realm for realm in realms}
        self.lifetime = lifetime
        self.clock = clock
        self.requests: list[str] = []
        """The path of each request, in order: how often a client re-reads the keys."""
        self.app = Starlette(
            routes=[
                Route("/{realm}/.well-known/openid-configuration", self._discovery),
                Route("/{realm}/jwks.json", self._jwks),
                Route("/{realm}/token", self._token, methods=["POST"]),
            ]
        )

    def issuer(self, realm: str) -> str:
        """The `iss` of a realm's tokens."""
        return f"{self.base_url}/{realm}"

    def workload(self, realm: str, client_id: str, **changes: Any) -> str:
        """A workload's token as `/token` gives it; `changes` replace claims, None removes one."""
        ours = self.realms[realm]
        return self.mint(realm, {"sub": client_id, "azp": client_id, "tid": ours.tenant, **changes})

    def customer(self, realm: str, customer_id: str, **changes: Any) -> str:
        """A customer's own token, the subject's proof."""
        return self.mint(realm, {"sub": customer_id, **changes})

    def claims(self, realm: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        now = int(self.clock())
        claims = {
            "iss": self.issuer(realm),
            "aud": self.realms[realm].audience,
            "iat": now,
            "nbf": now,
            "exp": now + int(self.lifetime),
            "jti": secrets.token_hex(12),
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def mint(
        self,
        realm: str,
        changes: Mapping[str, Any],
        *,
        key: SigningKey | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> str:
        """Sign a realm's usual claims with `changes` applied; `key` and `headers` replace the realm's own."""
        key = key or self.realms[realm].signing
        return jwt.encode(
            self.claims(realm, changes),
            key.private,
            algorithm=key.algorithm,
            headers={"kid": key.kid, **(headers or {})},
        )

    def bad(self, realm: str, **changes: Any) -> dict[str, str]:
        """Tokens that nobody may accept, by what is wrong; `changes` are claims (`sub`, `azp`, …)."""
        key, now = self.realms[realm].signing, int(self.clock())
        stranger = SigningKey.make(key.algorithm)
        good = self.mint(realm, changes)
        head, body, signature = good.split(".")
        other = _segment({**self.claims(realm, changes), "sub": "C-0000", "azp": "somebody-else"})
        return {
            "expired": self.mint(realm, {**changes, "iat": now - 7200, "nbf": now - 7200, "exp": now - 3600}),
            "not_yet_valid": self.mint(realm, {**changes, "nbf": now + 3600}),
            "wrong_audience": self.mint(realm, {**changes, "aud": "api://somebody-else"}),
            "wrong_issuer": self.mint(realm, {**changes, "iss": f"{self.base_url}/elsewhere"}),
            "no_expiry": self.mint(realm, {**changes, "exp": None}),
            "alg_none": f"{_segment({'alg': 'none', 'typ': 'JWT', 'kid': key.kid})}.{body}.",
            "hmac_with_public_key": _hmac_signed(key, self.claims(realm, changes)),
            "unknown_kid": self.mint(realm, changes, key=stranger),
            "stolen_kid": self.mint(realm, changes, key=stranger, headers={"kid": key.kid}),
            "tampered": f"{head}.{other}.{signature}",
            "cut": f"{head}.{body}",
        }

    async def _discovery(self, request: Request) -> Response:
        if (realm := self._realm(request)) is None:
            return _error(404, "not_found", "no such realm")
        base = self.issuer(realm.name)
        return JSONResponse(
            {
                "issuer": base,
                "jwks_uri": f"{base}/jwks.json",
                "token_endpoint": f"{base}/token",
                "response_types_supported": ["token"],
                "subject_types_supported": ["public"],
                "grant_types_supported": ["client_credentials", *(["customer"] if realm.customers else [])],
                "id_token_signing_alg_values_supported": sorted({key.algorithm for key in realm.keys}),
            }
        )

    async def _jwks(self, request: Request) -> Response:
        if (realm := self._realm(request)) is None:
            return _error(404, "not_found", "no such realm")
        return JSONResponse({"keys": [key.jwk for key in realm.keys]}, headers={"Cache-Control": "max-age=300"})

    async def _token(self, request: Request) -> Response:
        if (realm := self._realm(request)) is None:
            return _error(404, "not_found", "no such realm")
        form = dict(parse_qsl((await request.body()).decode(errors="replace")))
        client = _client(request, form)
        if client is None or not hmac.compare_digest(
            realm.clients.get(client[0], secrets.token_hex()).encode(), client[1].encode()
        ):
            return _error(401, "invalid_client", "no such client, or not its secret")
        grant = form.get("grant_type")
        if grant == "client_credentials":
            token = self.workload(realm.name, client[0])
        elif grant == "customer" and realm.customers:
            if not form.get("customer"):
                return _error(400, "invalid_request", "customer is missing")
            token = self.customer(realm.name, form["customer"])
        else:
            return _error(400, "unsupported_grant_type", f"not {grant!r}")
        return JSONResponse(
            {"access_token": token, "token_type": "Bearer", "expires_in": int(self.lifetime)},
            headers={"Cache-Control": "no-store"},
        )

    def _realm(self, request: Request) -> Realm | None:
        self.requests.append(request.url.path)
        return self.realms.get(request.path_params["realm"])


def _client(request: Request, form: Mapping[str, str]) -> tuple[str, str] | None:
    """Client id and secret from the Authorization header or the form (RFC 6749 §2.3.1)."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            name, _, secret = base64.b64decode(value, validate=True).decode().partition(":")
        except ValueError:
            return None
        return name, secret
    if "client_id" in form and "client_secret" in form:
        return form["client_id"], form["client_secret"]
    return None


def _error(status: int, code: str, description: str) -> JSONResponse:
    return JSONResponse({"error": code, "error_description": description}, status)


def _segment(part: Mapping[str, Any] | bytes) -> str:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _hmac_signed(key: SigningKey, claims: Mapping[str, Any]) -> str:
    """HS256 with the public key as the secret: what a verifier accepts that trusts the token's `alg`.

    Signed by hand, because pyjwt rightly refuses to.
    """
    signed = f"{_segment({'alg': 'HS256', 'typ': 'JWT', 'kid': key.kid})}.{_segment(claims)}"
    return f"{signed}.{_segment(hmac.digest(key.public_pem, signed.encode(), 'sha256'))}"

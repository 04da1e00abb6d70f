"""Health, published documents, and everything that is not served: by name."""

from __future__ import annotations

import re
from typing import Any, Final

from buspass.alerting import shown
from buspass.breakers import listing
from buspass.callers import OperatorCaller, caller
from buspass.calls.house import House
from buspass.errors import Problem
from buspass.http.asgi import Request, Response
from buspass.http.exchange import answer, bearer
from buspass.observed import observed

MISPLACED: Final = re.compile(
    r"(?:/v1)*(/(?:chat/completions|responses|embeddings|completions|models|messages|messages/count_tokens))/?"
)
SHORT: Final = 100
BASES: Final = "the base URL of OpenAI's clients ends in /v1, that of Anthropic's does not"
GRANTS: Final = (
    "urn:ietf:params:oauth:grant-type:token-exchange",
    "urn:ietf:params:oauth:grant-type:jwt-bearer",
)
UNSERVED: Final = (
    "/v1/responses",
    "/v1/responses/{rest:path}",
    "/v1/embeddings",
    "/v1/messages/{rest:path}",
    "/v1/completions",
    "/v1/chat/completions/{rest:path}",
    "/v1/models/{rest:path}",
    "/v1/images/{rest:path}",
    "/v1/audio/{rest:path}",
    "/v1/files",
    "/v1/files/{rest:path}",
    "/v1/uploads",
    "/v1/uploads/{rest:path}",
    "/v1/batches",
    "/v1/batches/{rest:path}",
    "/v1/realtime",
    "/v1/realtime/{rest:path}",
    "/v1/moderations",
    "/v1/assistants",
    "/v1/assistants/{rest:path}",
    "/v1/threads",
    "/v1/threads/{rest:path}",
    "/v1/vector_stores",
    "/v1/vector_stores/{rest:path}",
    "/v1/fine_tuning/{rest:path}",
    "/v1/containers",
    "/v1/containers/{rest:path}",
    "/v1/conversations",
    "/v1/conversations/{rest:path}",
    "/v1/videos",
    "/v1/videos/{rest:path}",
    "/v1/actions/{id}/{verb}",
    "/v1/events",
    "/v1/policy/try",
    "/v1/config",
    "/v1/config/revisions/{rev}",
    "/openai/{rest:path}",
    "/mcp",
    "/mcp/{rest:path}",
    "/metrics",
    "/console",
    "/console/{rest:path}",
)
"""Endpoints that clients may well try, refused by name as `unsupported_endpoint`."""
RESPONSES: Final = re.compile(r"(/openai)?/v1/responses\b")
CHAT: Final = (
    "chat completions are: use them (OpenAI Agents SDK: set_default_openai_api('chat_completions'), "
    "LangChain: use_responses_api=False, Pydantic AI: openai-chat:MODEL)"
)
"""What takes frameworks from OpenAI's newer API, which they prefer, to the one that is served."""


class OperationRoutes:
    """Handlers of the section Reports and operation."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def root(self, request: Request) -> Response:  # noqa: ARG002 - a handler's signature
        """Answer clients that try the base URL before they use it."""
        return answer({"service": "buspass", "host": self._house.host.name, "description": "/openapi.json"})

    async def live(self, request: Request) -> Response:  # noqa: ARG002 - a handler's signature
        """Say that the process answers."""
        return answer({"status": "ok"})

    async def ready(self, request: Request) -> Response:  # noqa: ARG002
        """Say whether calls can be governed: state is read, it holds the signing key, and policy's server answers."""
        from buspass.doctor import asked, known  # noqa: PLC0415 - no cold start's first call waits for it

        house = self._house
        checks = {each.check: each.what for each in await known(house.keyring)}
        if house.settings.opa:
            checks["policy"] = (await asked(house.policy)).what
        good = all(value == "ok" for value in checks.values())
        document = {
            "status": "ok" if good else "unavailable",
            "host": house.host.name,
            "revision": house.settings.revision,
            "checks": checks,
        }
        return answer(document, 200 if good else 503)

    async def observed(self, request: Request) -> Response:
        """Say what a workflow would refuse, and what would allow it."""
        who = await caller(self._house, bearer(request))
        days = request.query.get("days", "7")
        if not re.fullmatch(r"[1-9][0-9]{0,2}", days):
            raise Problem("invalid_request", "days is a number from 1 to 999")
        return answer(await observed(self._house, who, request.named["workflow"], days=int(days)))

    async def breakers(self, request: Request) -> Response:
        """Give the breakers of the configuration's targets and services, and those of tasks that are not closed."""
        if not isinstance(await caller(self._house, bearer(request)), OperatorCaller):
            raise Problem("denied", "only operators look at breakers", reasons=["caller"])
        rows = await listing(self._house.state, self._house.watched)
        return answer({"data": [shown(key, breaker) for key, breaker in rows], "next_cursor": None})

    async def jwks(self, request: Request) -> Response:  # noqa: ARG002
        """Give the keys of all hosts of the domain."""
        return answer(await self._house.keyring.jwks())

    async def openid(self, request: Request) -> Response:  # noqa: ARG002
        """Describe the issuer (OpenID Connect Discovery 1.0)."""
        return answer(self._metadata())

    async def authorization_server(self, request: Request) -> Response:  # noqa: ARG002
        """Describe the authorization server (RFC 8414)."""
        return answer(self._metadata())

    async def protected_resource(self, request: Request) -> Response:  # noqa: ARG002
        """Describe the resource (RFC 9728)."""
        issuer = self._house.settings.issuer
        return answer(
            {
                "resource": self._house.host.url.rstrip("/"),
                "authorization_servers": [issuer],
                "scopes_supported": ["models", "tools"],
                "bearer_methods_supported": ["header"],
                "jwks_uri": f"{issuer}/.well-known/jwks.json",
            }
        )

    def _metadata(self) -> dict[str, Any]:
        issuer = self._house.settings.issuer
        return {
            "issuer": issuer,
            "jwks_uri": f"{issuer}/.well-known/jwks.json",
            "token_endpoint": f"{issuer}/oauth2/token",
            "grant_types_supported": list(GRANTS),
            "token_endpoint_auth_methods_supported": ["none"],
            "response_types_supported": ["none"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "scopes_supported": ["models", "tools"],
        }

    async def unserved(self, request: Request) -> Response:
        """Refuse a known endpoint that is not served."""
        advice = CHAT if RESPONSES.match(request.path) else "see /openapi.json for what is"
        raise Problem("unsupported_endpoint", f"{request.path} is not served by this release; {advice}")

    async def unknown(self, request: Request) -> Response:
        """Refuse every other path."""
        path = request.path
        if there := meant(path):
            raise Problem("not_found", f"{path} is nothing here, {there} is; {BASES}")
        raise Problem("not_found", f"{path[:200]} is nothing here; see /openapi.json for what is")


def meant(path: str) -> str:
    """Give the path that an SDK means whose base URL has one /v1 too few or too many; "" for any other."""
    found = MISPLACED.fullmatch(path)
    return f"/v1{found[1]}" if found and len(path) < SHORT and path != f"/v1{found[1]}" else ""

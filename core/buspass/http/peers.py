"""`/v1/peers/…`: what trust domains tell each other. Whoever signed it is proven by its own keys, not by a bearer."""

from __future__ import annotations

from buspass.admitting import hear, obey
from buspass.calls.house import House
from buspass.errors import Problem
from buspass.http.asgi import Request, Response
from buspass.http.exchange import answer, document


class PeerRoutes:
    """Handlers of the section Peers."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def peer_order(self, request: Request) -> Response:
        """Do what a parent's domain wants of its child here, and state how that stands."""
        return answer({"statement": await obey(self._house, await _token(request, "order"))})

    async def peer_statement(self, request: Request) -> Response:
        """Hear how a child of ours at a peer ended."""
        await hear(self._house, await _token(request, "statement"))
        return answer({"heard": True})


async def _token(request: Request, member: str) -> str:
    asked = await document(request)
    token = asked.get(member)
    if set(asked) != {member} or not isinstance(token, str):
        raise Problem("invalid_request", f"the body is {{{member}}}, a token that a peer signed")
    return token

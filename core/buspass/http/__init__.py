"""The ASGI application: api.md's surface over the gateway. Composes, decides nothing."""

from buspass.http.compose import Application, start

__all__ = ["Application", "start"]

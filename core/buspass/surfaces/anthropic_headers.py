"""Anthropic's own request headers: which API version and which betas pass, and why others are refused by name.

Source: platform.claude.com/docs/en/api/versioning and /beta-headers. Knows no body and no provider.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from buspass.errors import Problem
from buspass.surfaces.fields import ROWS, row

VERSIONS: Final = ("2023-06-01", "2026-10-21")
"""Oldest first. The differences that matter here: see SAMPLING."""
SAMPLING: Final = frozenset({"temperature", "top_p", "top_k"})
"""Fields that are gone since 2026-10-21, even at their defaults. Source: platform.claude.com/docs/en/api/versioning."""
DEARER: Final = "is billed at prices that buspass.yaml does not have"
PROVIDER_SIDE: Final = "has the provider act or keep state by itself"

THREADS: Final = "message-threads-2026-08-12"
"""The provider keeps a conversation between requests. The SDK's tool runner asks for it first."""
UNTHREADED: Final = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
"""`error.details` on which the SDK's tool runner sends the whole conversation instead. Source: its threads module."""

PASS: Final = frozenset(
    {
        "claude-code-20250219",
        "context-1m-2025-08-07",  # held at the dearest row of the price list that the input's bound can reach
        "context-management-2025-06-27",
        "effort-2025-11-24",
        "extended-cache-ttl-2025-04-11",
        "fine-grained-tool-streaming-2025-05-14",
        "interleaved-thinking-2025-05-14",
        "max-tokens-3-5-sonnet-2024-07-15",
        "messages-2023-12-15",
        "mid-conversation-system-2026-04-07",
        "model-context-window-exceeded-2025-08-26",
        "output-128k-2025-02-19",
        "prompt-caching-2024-07-31",
        "prompt-caching-scope-2026-01-05",
        "redact-thinking-2026-02-12",
        "structured-outputs-2025-11-13",
        "structured-outputs-2025-12-15",
        "thinking-token-count-2026-05-13",
        "token-counting-2024-11-01",
        "token-efficient-tools-2025-02-19",
    }
)
"""Betas that change how a model answers and nothing about who acts or what a token costs."""

REFUSED: Final[Mapping[str, str]] = {
    "advanced-tool-use-2025-11-20": PROVIDER_SIDE,
    "advisor-tool-2026-03-01": PROVIDER_SIDE,
    "code-execution-2025-05-22": PROVIDER_SIDE,
    "code-execution-2025-08-25": PROVIDER_SIDE,
    "compact-2026-01-12": "runs a second inference that nobody bounds",
    "compact-2026-09-04": "runs a second inference that nobody bounds",
    "fast-mode-2026-02-01": DEARER,
    "files-api-2025-04-14": PROVIDER_SIDE,
    "managed-agents-2026-04-01": PROVIDER_SIDE,
    "mcp-client-2025-04-04": PROVIDER_SIDE,
    "mcp-client-2025-11-20": PROVIDER_SIDE,
    "mcp-client-2026-09-15": PROVIDER_SIDE,
    "message-batches-2024-09-24": PROVIDER_SIDE,
    THREADS: PROVIDER_SIDE,
    "oauth-2025-04-20": "belongs to Anthropic's own sign-in: use a task token or a key",
    "output-300k-2026-03-24": "is for batches, which are not available",
    "pdfs-2024-09-25": "is for documents, whose tokens no formula bounds",
    "server-side-fallback-2026-06-01": "lets the provider choose another model than the one that was granted",
    "server-side-fallback-2026-07-01": "lets the provider choose another model than the one that was granted",
    "skills-2025-10-02": PROVIDER_SIDE,
    "tool-search-tool-2025-10-19": PROVIDER_SIDE,
    "web-search-2025-03-05": PROVIDER_SIDE,
}
"""Why; a beta in neither table is refused as unknown here."""


def passing(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that go on to an Anthropic provider, from a request's (names in lower case).

    Raises `unsupported` naming each beta and version that does not pass. Without `anthropic-version` it is the oldest.
    """
    rows: list[dict[str, Any]] = []
    version = headers.get("anthropic-version", VERSIONS[0]).strip()
    if version not in VERSIONS:
        rows.append(row("anthropic-version", f"{version[:64]!r} is not a version that is spoken here", VERSIONS))
    betas = [beta for each in headers.get("anthropic-beta", "").split(",") if (beta := each.strip())]
    for beta in betas:
        if beta not in PASS:
            why = REFUSED.get(beta, "is not a beta that is known here")
            rows.append(row("anthropic-beta", f"{beta[:64]!r} {why}", sorted(PASS)))
    if rows:
        details = UNTHREADED if THREADS in betas else None
        raise Problem("unsupported", f"{rows[0]['path']}: {rows[0]['message']}", errors=rows[:ROWS], details=details)
    passed = {"anthropic-version": version}
    return passed | ({"anthropic-beta": ",".join(dict.fromkeys(betas))} if betas else {})

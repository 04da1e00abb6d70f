"""The environment of an agent that `buspass run` starts: every client in it finds the gateway, and no provider's key.

Owns the table of variables that SDKs read and what counts as a key, by name and by value. Pure: refuses to read the
process's own environment, and to start anything.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import urlsplit

GATEWAY_V1: Final = ("OPENAI_BASE_URL", "OPENAI_API_BASE")
"""Where OpenAI's clients find the address, which ends in /v1: the SDK's own variable, and older ones' (LangChain)."""
GATEWAY: Final = (
    *("ANTHROPIC_BASE_URL", "ANTHROPIC_API_URL", "ANTHROPIC_API_BASE"),  # the SDK's and Claude Code's; LangChain's
    *("AZURE_OPENAI_ENDPOINT", "AZURE_API_BASE"),
    "BUSPASS_URL",
)
TOKEN: Final = (
    *("OPENAI_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY", "AZURE_OPENAI_API_KEY", "AZURE_API_KEY"),
    "BUSPASS_TOKEN",
)
ELSEWHERE: Final = {"OPENAI_AGENTS_DISABLE_TRACING": "1", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
"""Keeps the Agents SDK from sending its traces, and the token with them, to OpenAI whatever the address is; and Claude
Code from talking to Anthropic beside it (telemetry, error reports, updates)."""
KEYS: Final = frozenset(
    (
        *TOKEN,
        *("OPENAI_ADMIN_KEY", "ANTHROPIC_ADMIN_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "ANTHROPIC_IDENTITY_TOKEN"),
        *("AZURE_OPENAI_AD_TOKEN", "AZURE_INFERENCE_CREDENTIAL", "AWS_BEARER_TOKEN_BEDROCK"),
        *("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GENERATIVE_AI_API_KEY", "VERTEX_API_KEY", "MISTRAL_API_KEY"),
        *("GROQ_API_KEY", "XAI_API_KEY", "DEEPSEEK_API_KEY", "COHERE_API_KEY", "CO_API_KEY", "TOGETHER_API_KEY"),
        *("TOGETHERAI_API_KEY", "FIREWORKS_API_KEY", "OPENROUTER_API_KEY", "PERPLEXITY_API_KEY", "PPLX_API_KEY"),
        *("CEREBRAS_API_KEY", "NVIDIA_API_KEY", "REPLICATE_API_TOKEN", "HF_TOKEN", "HUGGINGFACEHUB_API_TOKEN"),
        *("HUGGING_FACE_HUB_TOKEN", "AI21_API_KEY", "VOYAGE_API_KEY", "DASHSCOPE_API_KEY", "MOONSHOT_API_KEY"),
        *("LITELLM_API_KEY", "PORTKEY_API_KEY", "HELICONE_API_KEY", "GITHUB_MODELS_TOKEN"),
    )
)
"""Variables that hold a provider's key by their name."""
OTHERS: Final = frozenset(
    (
        *("OPENAI_ORG_ID", "OPENAI_ORGANIZATION", "OPENAI_PROJECT_ID", "OPENAI_PROJECT", "ANTHROPIC_CUSTOM_HEADERS"),
        *("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY"),  # ways around the gateway
        *("ANTHROPIC_BEDROCK_BASE_URL", "ANTHROPIC_VERTEX_BASE_URL", "AZURE_OPENAI_BASE_URL"),
        *("BUSPASS_WORKLOAD_TOKEN", "BUSPASS_WORKLOAD_TOKEN_FILE"),  # would start further tasks
    )
)
"""What else is taken out: accounts at a provider, other ways to one, and proofs that start tasks."""
SHAPE: Final = re.compile(
    r"(?:sk-(?=[A-Za-z0-9_-]*[0-9])|bpo?_|gsk_|xai-|pplx-|hf_|r8_)[A-Za-z0-9_-]{20,}|AIza[A-Za-z0-9_-]{35}"
)
"""A provider's key, or one of ours, by its look: their issuers gave them prefixes to be known by."""
LEAST: Final = 12
"""Characters of a key that is looked for in other variables' values: a shorter one would be found by chance."""


def taken(environ: Mapping[str, str], secrets: Collection[str] = ()) -> set[str]:
    """Name the variables that the agent must not have: by name, or because a key stands in the value.

    `secrets`: further variables that hold a key, those that a configuration names.
    """
    keys = {name for name in environ if name in KEYS or name in secrets}
    values = {environ[name] for name in keys if len(environ[name]) >= LEAST}
    return {
        name
        for name, value in environ.items()
        if name in keys or name in OTHERS or SHAPE.search(value) or any(key in value for key in values)
    }


def governed(
    environ: Mapping[str, str], *, url: str, task: str, token: str, secrets: Collection[str] = ()
) -> dict[str, str]:
    """Give the agent's environment: `environ` without keys, and the gateway at `url` (no /v1) where clients look."""
    out = taken(environ, secrets)
    found = {name: value for name, value in environ.items() if name not in out}
    found |= dict.fromkeys(GATEWAY_V1, f"{url}/v1") | dict.fromkeys(GATEWAY, url) | dict.fromkeys(TOKEN, token)
    found |= {"BUSPASS_TASK": task} | ELSEWHERE
    host = urlsplit(url).hostname or ""
    if any(name.lower() in {"http_proxy", "https_proxy", "all_proxy"} for name in environ):
        found |= _past_the_proxy(environ, host)
    return found


def _past_the_proxy(environ: Mapping[str, str], host: str) -> dict[str, str]:
    """Tell clients not to ask a proxy for the gateway: a proxy elsewhere can't reach one on loopback."""
    if host not in {"127.0.0.1", "localhost", "::1"}:
        return {}
    said = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    return dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(filter(None, (said, host))))

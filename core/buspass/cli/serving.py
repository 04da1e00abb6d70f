"""The gateway of `buspass run`: the one that answers at BUSPASS_URL, else one that this process starts and ends.

Owns the child that serves and the proof by which a task is started. Refuses to know what the agent does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import yaml
from msgspec import Struct

from buspass.cli import generated
from buspass.cli.connection import SECONDS
from buspass.cli.machine import DEFAULT_URL, data_directory, gateway_url, is_loopback, sendable
from buspass.cli.stop import FAILED, USAGE, Stop
from buspass.workload import token as prove

AGENT: Final = "local-agent"
"""Who a workload of this machine is, as `buspass up` names it."""
PROOF: Final = 300
"""Seconds that a proof is used again."""
GRACE: Final = 30
"""Seconds that the gateway has to end."""


class Gateway(Struct, frozen=True, kw_only=True):
    """Where the gateway is (no /v1); the variables that hold secrets of its configuration; providers without a file."""

    url: str
    secrets: frozenset[str] = frozenset()
    providers: tuple[generated.Provider, ...] = ()


@contextlib.contextmanager
def gateway(cost: float | None, *, observe: bool = False) -> Iterator[Gateway]:
    """Give the gateway at BUSPASS_URL, or start one. `cost`: USD for a run without a configuration. Raises Stop.

    `observe` such a run: what a file says of that, it says itself.
    """
    said = gateway_url()
    file = configured()
    known = _secrets(file) if file else frozenset()
    if observe and file:
        raise Stop(f"--observe is for a run without a file: put `enforce: observe` into the workflow in {file}", USAGE)
    if observe and answers(said or DEFAULT_URL):
        there = f"a gateway answers at {said or DEFAULT_URL}"
        raise Stop(f"{there}: its own buspass.yaml says what is observed, not --observe", USAGE)
    if answers(said or DEFAULT_URL):
        yield Gateway(url=said or DEFAULT_URL, secrets=known)
        return
    where = urlsplit(said or "http://127.0.0.1:0")
    if where.scheme != "http" or not is_loopback(where.hostname or ""):
        raise Stop(f"no gateway answers at {said}: is BUSPASS_URL right?", FAILED)
    with contextlib.ExitStack() as stack:
        providers: tuple[generated.Provider, ...] = ()
        if file is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="buspass-")))
            file, providers = _generate(folder, cost, observe=observe)
        url = stack.enter_context(_up(file, where.hostname or "", where.port or 0))
        yield Gateway(url=url, secrets=known, providers=providers)


def configured() -> Path | None:
    """The configuration that `buspass up` would serve here; None for its example."""
    if named := os.environ.get("BUSPASS_CONFIG"):
        return Path(named)
    found = Path("buspass.yaml")
    return found if found.exists() else None


def answers(url: str) -> bool:
    """Tell whether a gateway of ours is there."""
    local = is_loopback(urlsplit(url).hostname or "")
    try:
        answer = httpx.get(url, timeout=5, trust_env=not local)
        return bool(answer.json()["service"] == "buspass")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        return False


def _secrets(file: Path) -> frozenset[str]:
    """The names of all secrets in a configuration; one that can't be read is judged by whoever serves it."""
    try:
        document = yaml.safe_load(file.read_bytes())
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return frozenset()
    return frozenset(_named(document))


def _named(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for name, value in part.items():
            if name == "secret" and isinstance(value, str):
                yield value
            yield from _named(value)
    elif isinstance(part, list):
        for each in part:
            yield from _named(each)


def _generate(folder: Path, cost: float | None, *, observe: bool) -> tuple[Path, tuple[generated.Provider, ...]]:
    providers = generated.found(os.environ)
    if not providers:
        raise Stop(
            "there is no buspass.yaml here, no gateway answers, and no provider's key is set: "
            "set OPENAI_API_KEY or ANTHROPIC_API_KEY, or BUSPASS_URL to a gateway",
            USAGE,
        )
    offers = {each.name: (each, generated.models(each, os.environ[each.secret])) for each in providers}
    path = folder / "buspass.yaml"
    path.write_text(
        generated.configuration(offers, generated.COST if cost is None else cost, observe=observe), encoding="utf-8"
    )
    return path, tuple(providers)


@contextlib.contextmanager
def _up(file: Path, bind: str, port: int) -> Iterator[str]:
    """Run `buspass up` and give its URL.

    In a session of its own, as Ctrl-C is for the agent, whose last calls are settled before the gateway goes. It ends
    with its standard input, so also when this process is killed.
    """
    command = [sys.executable, "-m", "buspass", "up", "--until-eof"]
    command += ["--config", str(file), "--bind", bind, "--port", str(port)]
    with subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
        command,
        env={**os.environ, "BUSPASS_DATA": str(data_directory())},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if (listening := re.match(r"buspass listening on (\S+) ", line)) is None:
                raise Stop("the gateway did not start: its message stands above", process.wait(GRACE) or FAILED)
            yield listening[1]
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            process.kill()


def answered(
    url: str,
    method: str,
    path: str,
    token: str,
    document: Mapping[str, Any] | None = None,
    query: Mapping[str, str | int] | None = None,
) -> Mapping[str, Any]:
    """Ask the gateway at `url` with a bearer, and give its answer, a problem too. Raises Stop for anything else."""
    local = is_loopback(urlsplit(url).hostname or "")
    headers = {"Authorization": f"Bearer {token}"}
    try:
        answer = httpx.request(
            method, url + path, json=document, params=query, headers=headers, timeout=SECONDS, trust_env=not local
        )
    except httpx.HTTPError as error:
        raise Stop(f"the gateway at {url} does not answer ({type(error).__name__})") from None
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Stop(f"{url} answered {answer.status_code} and no JSON of ours: is a Buspass gateway there?")
    return found


class Workload:
    """Who starts the task: whatever `buspass.workload` finds, else on this machine its own local issuer's agent."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._token, self._until = "", 0.0

    def token(self) -> str:
        """Give a proof that is good for minutes. Raises Stop."""
        if time.monotonic() > self._until:
            self._token, self._until = self._proven(), time.monotonic() + PROOF
        return self._token

    def _proven(self) -> str:
        try:
            return sendable(prove(), "the workload's token")
        except LookupError as error:
            if not is_loopback(urlsplit(self._url).hostname or ""):
                raise Stop(str(error), USAGE) from None
        except (OSError, httpx.HTTPError) as error:
            raise Stop(f"the workload's token can't be had: {type(error).__name__}: {error}", FAILED) from None
        return self._vouched()

    def _vouched(self) -> str:
        """Sign a workload's token with the data directory's key, which its owner may: what `buspass up` prints."""
        from buspass.errors import ConfigError  # noqa: PLC0415 - with cryptography, only where it is needed
        from buspass.http.adapters import adapter  # noqa: PLC0415
        from buspass.identity.local import LIFETIME, TYP  # noqa: PLC0415
        from buspass.identity.tokens import signed  # noqa: PLC0415

        with httpx.Client(base_url=self._url, timeout=10, trust_env=False) as client:
            host = str(client.get("/").json()["host"])
            about = client.get("/.well-known/openid-configuration").json()
        now = int(time.time())
        claims = {
            "iss": f"{about['issuer']}/local",
            "aud": about["issuer"],
            "sub": AGENT,
            "iat": now,
            "exp": now + LIFETIME,
            "jti": secrets.token_urlsafe(16),
        }

        async def sign() -> str:
            file = f"keys/{Path(host).name}.pem"
            signer = await adapter("signer", "file")(f"file:///{file}", data=data_directory(), create=False)
            return await signed(signer, TYP, claims)

        try:
            return asyncio.run(sign())
        except ConfigError as error:
            raise Stop(
                f"{error}; set BUSPASS_DATA to the data directory of the gateway at {self._url}, "
                "or BUSPASS_WORKLOAD_TOKEN to a workload's token",
                USAGE,
            ) from None

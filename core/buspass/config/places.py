"""Where things are: the hosts of the trust domain with absolute URLs, its issuer, and whether it has a local issuer.

What a loopback bind may leave out is decided here, and nowhere else. Refuses to know models, tools and workflows.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from buspass.config import scalars
from buspass.config.document import Problems
from buspass.config.schema import Configuration
from buspass.config.schema import Host as HostShape
from buspass.config.settings import Host

DEFAULT_HOST: Final = "onprem"


class Surroundings(Struct, frozen=True, kw_only=True):
    """What a configuration is read in: the file's folder, the environment, and where the gateway listens."""

    folder: Path
    environ: Mapping[str, str]
    bind: str = "127.0.0.1"
    port: int = 8700

    @property
    def loopback(self) -> bool:
        return scalars.is_loopback(self.bind)

    @property
    def data(self) -> str:
        """BUSPASS_DATA as an absolute path."""
        home = self.environ.get("HOME") or str(Path.home())
        named = self.environ.get("BUSPASS_DATA") or f"{home}/.local/share/buspass"
        return os.path.abspath(named)  # noqa: PTH100 - a relative one is meant from where the command runs


class Domain(Struct, frozen=True, kw_only=True):
    """The trust domain: its name, its hosts, and whether it proves local agents itself."""

    issuer: str
    hosts: Mapping[str, Host]
    local_issuer: bool


def settle(file: Configuration, around: Surroundings, problems: Problems) -> Domain:
    """Give every host its URLs and the domain its issuer; note what is missing where others can reach the gateway."""
    if not around.loopback:
        if not file.identity:
            problems.add(("identity",), f"is required where others can reach the gateway (bind {around.bind})")
        if file.domain_key is None:
            problems.add(("domain_key",), f"is required where others can reach the gateway (bind {around.bind})")
    shapes = file.hosts or {around.environ.get("BUSPASS_HOST") or DEFAULT_HOST: _own(around, problems)}
    chosen = around.environ.get("BUSPASS_HOST")
    if chosen and chosen not in shapes:
        problems.add(("hosts",), f"BUSPASS_HOST is {chosen!r}; allowed: {', '.join(shapes)}")
    if file.issuer is None and len(shapes) > 1:
        problems.add(("issuer",), "is required with several hosts; allowed: a URL that names their trust domain")
    return Domain(
        issuer=file.issuer or next(iter(shapes.values())).url,
        hosts={name: _host(name, shape, file, around) for name, shape in shapes.items()},
        local_issuer=around.loopback and not file.identity,
    )


def _own(around: Surroundings, problems: Problems) -> HostShape:
    """The one host of a file without `hosts:`."""
    bind = f"[{around.bind}]" if ":" in around.bind else around.bind
    url = around.environ.get("BUSPASS_URL")
    if not url:
        url = f"http://{bind}:{around.port}"
        if _is_unspecified(around.bind):
            problems.add(("hosts",), f"or BUSPASS_URL is required: agents cannot call {around.bind}")
    try:
        url = scalars.http_url(url)
    except ValueError as error:
        problems.add(("hosts",), f"BUSPASS_URL: {error}")
    return HostShape.model_construct(url=url, cloud="onprem", region=None)


def _is_unspecified(bind: str) -> bool:
    try:
        return ipaddress.ip_address(bind).is_unspecified
    except ValueError:
        return False


def _host(name: str, shape: HostShape, file: Configuration, around: Surroundings) -> Host:
    data, folder = around.data, str(around.folder)
    return Host(
        name=name,
        url=shape.url,
        cloud=shape.cloud,
        region=shape.region or "",
        signer=scalars.absolute(shape.signer or file.signer or f"file:///{data}/keys/{name}.pem", folder),
        state=scalars.absolute(shape.state or file.state or f"sqlite:///{data}/state.db", folder),
        queue=scalars.absolute(shape.queue or file.queue or f"sqlite:///{data}/queue.db", folder),
        blobs=scalars.absolute(shape.blobs or file.blobs or f"file:///{data}/blobs", folder),
    )


def plain_http(file: Configuration, domain: Domain) -> frozenset[str]:
    """The `host:port` pairs outside this machine that the file itself names with http://."""
    found = (scalars.authority(url) for url in _urls(file, domain) if url.startswith("http://"))
    return frozenset(pair for host, pair in found if not scalars.is_loopback(host))


def _urls(file: Configuration, domain: Domain) -> Iterator[str]:
    yield domain.issuer
    yield from (host.url for host in domain.hosts.values())
    yield from (entry.issuer for entry in file.identity)
    yield from (provider.base_url for provider in file.providers.values() if provider.base_url)
    yield from (webhook.url for webhook in file.webhooks.values())
    for peer in file.peers.values():
        yield from (peer.url, peer.issuer)
    if file.policy and file.policy.engine.opa:
        yield file.policy.engine.opa.url
    yield from (tool.http.url for tool in file.tools.values() if tool.http)

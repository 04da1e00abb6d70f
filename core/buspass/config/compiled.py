"""Settings as one document, made when a bundle is built, read at a cold start without YAML, pydantic and price lists.

Owns the document's form, what in it depends on the machine (the configuration's folder, BUSPASS_DATA), and its
digest. Refuses to judge a configuration: only what `build` made of a sound one is written, and what was altered since,
or is another version's, is refused.

    {"buspass_compiled": 1, "revision": R, "loopback": true|false, "digest": SHA-256 of the rest, "settings": …}

A value is written as JSON; what JSON has no word for as a pair of a tag and a value: t a tuple, s a set, l a list, d a
map, else the name of a class of `config.settings`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from buspass.config import settings as shapes
from buspass.config.settings import Host, Settings
from buspass.errors import ConfigError
from buspass.jsontext import canonical

VERSION: Final = 1
MAGIC: Final = b'{"buspass_compiled":'
PLACES: Final = ("signer", "state", "queue", "blobs")
"""Parts of a host that may lie in the configuration's folder or in BUSPASS_DATA."""
CLASSES: Final = {
    name: found for name, found in vars(shapes).items() if isinstance(found, type) and Struct in found.__bases__
}


def written(settings: Settings, *, folder: str, data: str, loopback: bool) -> bytes:
    """Give the document. `folder` and `data`: what the settings were built with; `loopback`: judged for such a bind."""
    hosts = {name: _moved(host, {data: "{data}", folder: "{folder}"}) for name, host in settings.hosts.items()}
    whole = {
        "buspass_compiled": VERSION,
        "revision": settings.revision,
        "loopback": loopback,
        "settings": _told(replace(settings, hosts=hosts)),
    }
    return json.dumps({**whole, "digest": _digest(whole)}, separators=(",", ":"), ensure_ascii=False).encode()


def is_compiled(source: bytes) -> bool:
    """Say whether this is such a document, and no YAML."""
    return source.startswith(MAGIC)


def for_loopback(source: bytes) -> bool:
    """Say whether a sound document was judged for a loopback bind, where much may be left out."""
    return bool(json.loads(source)["loopback"])


def read(source: bytes, path: Path, environ: Mapping[str, str], bind: str) -> Settings:
    """Give the settings of a document that lies at `path`. Raises ConfigError where it may not be served here."""
    whole = _whole(source, path)
    if whole["loopback"] and not _is_loopback(bind):
        raise ConfigError([f"{path}: was compiled for a loopback bind, not for {bind}: compile it with --bind {bind}"])
    found = _read(whole["settings"])
    if not isinstance(found, Settings) or found.revision != whole["revision"]:
        raise ConfigError([f"{path}: its revision is not that of its settings; compile it again"])
    folder = os.path.abspath(path.parent)  # noqa: PTH100 - as config.build reads it: symlinks stay
    data = os.path.abspath(environ.get("BUSPASS_DATA") or Path("~/.local/share/buspass").expanduser())  # noqa: PTH100
    hosts = {name: _moved(host, {"{data}": data, "{folder}": folder}) for name, host in found.hosts.items()}
    return replace(found, hosts=hosts)


def _whole(source: bytes, path: Path) -> Mapping[str, Any]:
    try:
        whole = json.loads(source)
        digest = whole.pop("digest")
    except (ValueError, KeyError, AttributeError):
        raise ConfigError([f"{path}: this compiled configuration is cut short; compile it again"]) from None
    if whole.get("buspass_compiled") != VERSION:
        raise ConfigError([f"{path}: was compiled by another version of Buspass; compile it again"])
    if digest != _digest(whole):
        raise ConfigError([f"{path}: was altered after it was compiled; change buspass.yaml and compile it again"])
    return dict(whole)


def _digest(whole: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(whole)).hexdigest()


def _moved(host: Host, places: Mapping[str, str]) -> Host:
    """A host whose URLs lie elsewhere: the first of `places` that a URL's path begins with gives way."""
    return replace(host, **{part: _url(getattr(host, part), places) for part in PLACES})


def _url(url: str, places: Mapping[str, str]) -> str:
    scheme, mark, path = url.partition(":///")
    for old, new in places.items():
        if mark and (path == old or path.startswith(old + "/")):
            return scheme + mark + new + path[len(old) :]
    return url


def _told(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, tuple):
        return ["t", [_told(part) for part in value]]
    if isinstance(value, frozenset):
        return ["s", sorted(value)]
    if isinstance(value, list):
        return ["l", [_told(part) for part in value]]
    if isinstance(value, Mapping):
        return ["d", {name: _told(part) for name, part in value.items()}]
    fields = {name: _told(getattr(value, name)) for name in value.__struct_fields__}
    return [type(value).__name__, fields]


def _members(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _read(part) for name, part in value.items()}


_READ: Final[Mapping[str, Callable[[Any], Any]]] = {
    "t": lambda value: tuple(map(_read, value)),
    "s": frozenset,
    "l": lambda value: [*map(_read, value)],
    "d": _members,
}


def _read(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    tag, inside = value
    return _READ[tag](inside) if tag in _READ else CLASSES[tag](**_members(inside))


def _is_loopback(bind: str) -> bool:
    if bind == "localhost":
        return True
    try:
        return ipaddress.ip_address(bind).is_loopback
    except ValueError:
        return False

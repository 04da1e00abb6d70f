"""buspass.yaml made into Settings: read, judged as a whole, defaults filled in, references resolved.

`load` for hosts, `compile` for who has the bytes already. Refuses to open a store, fetch a secret or ask the network.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from msgspec import to_builtins

from buspass.config import compose, places
from buspass.config.document import Document, Problems, parse
from buspass.config.places import Surroundings
from buspass.config.references import check_references
from buspass.config.schema import Configuration
from buspass.config.settings import Settings
from buspass.config.unavailable import refusals
from buspass.config.validate import validate
from buspass.errors import ConfigError

__all__ = ["Surroundings", "compile", "load"]

_TESTS: Final = "_test.rego"
"""Rego's own tests lie beside the modules they test and answer no question of a call."""


def load(path: Path, *, environ: Mapping[str, str], bind: str = "127.0.0.1", port: int = 8700) -> Settings:
    """Read the file at `path` and the policies it names, for a gateway that listens on `bind` and `port`.

    Raises ConfigError with a line for everything that is wrong, in the file's order.
    """
    name = str(path)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError([f"{name}:1:1 (document): cannot be read: {error.strerror}"]) from None
    folder = Path(os.path.abspath(path)).parent  # noqa: PTH100 - keeps symlinks: the path the user sees is the base
    return compile(parse(source, name), Surroundings(folder=folder, environ=environ, bind=bind, port=port))


def compile(document: Document, around: Surroundings) -> Settings:  # noqa: A001 - what it does to a configuration
    """Judge the document and build what it means. Reads nothing but the policies' folder. Raises ConfigError."""
    file = validate(document)
    problems = Problems(document)
    for path, sentence in refusals(document.data):
        problems.add(path, sentence)
    domain = places.settle(file, around, problems)
    check_references(file, domain, problems)
    policy = _policies(file, around.folder, problems)
    problems.raise_any()
    models = compose.models(file)
    return Settings(
        revision=_revision(document.data, policy, models),
        issuer=domain.issuer,
        domain_key=file.domain_key.secret if file.domain_key else None,
        hosts=domain.hosts,
        identity=compose.identity(file),
        local_issuer=domain.local_issuer,
        providers=compose.providers(file),
        models=models,
        tools=compose.tools(file),
        workflows=compose.workflows(file, local_issuer=domain.local_issuer),
        policy=policy,
        opa=compose.opa(file),
        operators=compose.operators(file),
        pools=compose.pools(file),
        webhooks=compose.webhooks(file),
        peers=compose.peers(file),
        plain_http=places.plain_http(file, domain),
    )


def _policies(file: Configuration, folder: Path, problems: Problems) -> Mapping[str, str]:
    """Read every Rego module under `policy.path` by its name relative to it."""
    if file.policy is None:
        return {}
    place = ("policy", "path")
    root = folder / file.policy.path
    modules: dict[str, str] = {}
    if not root.is_dir():
        problems.add(place, f"{root} is not a folder; allowed: a folder of Rego modules")
        return modules
    paths = [path for path in sorted(root.rglob("*.rego")) if not path.name.endswith(_TESTS)]
    if not paths:
        problems.add(place, f"{root} holds no Rego module; remove policy: if no module is meant")
    for path in paths:
        name = path.relative_to(root).as_posix()
        try:
            modules[name] = path.read_text(encoding="utf-8")
        except OSError as error:
            problems.add(place, f"{name} cannot be read: {error.strerror}")
        except UnicodeDecodeError:
            problems.add(place, f"{name} is not UTF-8")
    return modules


def _revision(data: Any, policy: Mapping[str, str], models: Mapping[str, Any]) -> str:
    """Digest of what the file says (not how it is laid out), the policies and the prices in force."""
    prices = {
        f"{target.provider}/{target.model}": target.price and to_builtins(target.price)
        for model in models.values()
        for target in model.targets
    }
    whole = {"file": data, "policies": policy, "prices": prices}
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=_number)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _number(value: Any) -> Any:
    """0.5 and 0.50 are one number, and neither is the text "0.5"."""
    assert isinstance(value, Decimal)
    return {"number": str(value.normalize())}

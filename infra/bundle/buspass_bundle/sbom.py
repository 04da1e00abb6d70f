"""What is in a bundle, for machines (CycloneDX 1.6) and for people (every licence's text): nothing in them tells time.

Crates and C libraries that are linked into a wheel's native code are not seen here; libraries that a wheel carries as
files are. Source: https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import hashlib
import json
import tomllib
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from buspass_bundle.hosts import ROOT, Host
from buspass_bundle.parts import Part

NAME: Final = "sbom.cdx.json"
LICENCES: Final = "LICENCES.txt"


def sbom(folder: Path, host: Host, machine: str, found: Sequence[Part]) -> bytes:
    """Give the document."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    refs = {part.name: part.purl for part in found}
    others = {need for part in found for need in part.needs}
    asked = {canonicalize_name(Requirement(each).name) for each in project["dependencies"]}
    ours = f"pkg:pypi/{project['name']}@{project['version']}"
    whole: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": ours,
                "name": project["name"],
                "version": project["version"],
                "purl": ours,
                "licenses": [{"expression": project["license"]}],
            },
            "properties": [
                {"name": "buspass:host", "value": host.name},
                {"name": "buspass:machine", "value": machine},
            ],
        },
        "components": [*map(_component, found), *_carried(folder)],
        "dependencies": [
            {"ref": ours, "dependsOn": [refs[each] for each in sorted(refs) if each in asked or each not in others]},
            *({"ref": part.purl, "dependsOn": [refs[each] for each in part.needs]} for part in found),
        ],
    }
    name = json.dumps(whole, sort_keys=True)
    whole["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name)}"
    return json.dumps(whole, indent=1, sort_keys=True).encode() + b"\n"


def _component(part: Part) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": part.purl,
        "name": part.name,
        "version": part.version,
        "purl": part.purl,
        "licenses": [{"expression": part.licence}],
    }


def _carried(folder: Path) -> list[dict[str, Any]]:
    """Shared libraries that a wheel brings with it, each with its digest: a scanner may know them by that."""
    names = ((path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*.libs/*.so*")))
    return [
        {
            "type": "file",
            "bom-ref": name,
            "name": name,
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}],
        }
        for name, path in names
    ]


def licences(found: Sequence[Part]) -> str:
    """Give one text of all licences, package by package."""
    pieces = ["Buspass is under the Apache License 2.0 (LICENSE). It carries these packages:\n"]
    for part in found:
        texts = [path.read_text("utf-8", "replace").strip() for path in part.texts]
        pieces.append(f"{'─' * 100}\n{part.name} {part.version}: {part.licence}\n\n" + "\n\n".join(texts))
    return "\n".join(pieces).rstrip() + "\n"

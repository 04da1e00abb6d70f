"""What a bundle is made of: each package's name, version, licence and requirements, read from what was installed.

Owns which licence a package has where its own words are none of SPDX's. Refuses to guess one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Final

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from buspass_bundle.hosts import MACHINES, PYTHON, BundleError

WORDS: Final[Mapping[str, str]] = {
    "MIT": "MIT",
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "BSD-3-Clause": "BSD-3-Clause",
    "Apache-2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "ISC": "ISC",
    "MPL-2.0": "MPL-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.1-or-later",
    "Python Software Foundation License": "PSF-2.0",
}
"""How packages say it in free words, and SPDX's expression for that."""
READ: Final[Mapping[str, str]] = {
    "pyreqwest": "Apache-2.0",
    "google-re2": "BSD-3-Clause",
    "isodate": "BSD-3-Clause",
    "python-dateutil": "Apache-2.0 OR BSD-3-Clause",
}
"""Of packages that name none, or one of several: what the text says that lies in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One package. `licence` is an SPDX expression, `texts` its licences' files, `needs` names of other parts."""

    name: str
    version: str
    licence: str
    texts: tuple[Path, ...]
    needs: tuple[str, ...]

    @property
    def purl(self) -> str:
        """The package's URL (github.com/package-url)."""
        return f"pkg:pypi/{self.name}@{self.version}"


def parts(lib: Path, machine: str) -> list[Part]:
    """Read the packages in `lib`, by name. Raises BundleError for one without a licence."""
    places = {_name(path): path for path in sorted(lib.glob("*.dist-info"))}
    found = {name: PathDistribution(path) for name, path in places.items()}
    extras = {name: set[str]() for name in found}
    wanted = {name: [Requirement(each) for each in dist.requires or ()] for name, dist in found.items()}
    for each in (need for needs in wanted.values() for need in needs):
        extras.setdefault(canonicalize_name(each.name), set()).update(each.extras)
    return [
        Part(
            name=name,
            version=dist.version,
            licence=_licence(name, dist),
            texts=_texts(places[name]),
            needs=tuple(sorted(needed(wanted[name], extras[name], machine) & found.keys())),
        )
        for name, dist in sorted(found.items())
    ]


def needed(requirements: Iterable[Requirement], extras: Iterable[str], machine: str) -> set[str]:
    """Give the names of what is required on the bundle's platform, with any of the extras or none."""
    environ = {
        **{name: str(value) for name, value in default_environment().items()},
        "python_version": ".".join(map(str, PYTHON)),
        "platform_machine": MACHINES[machine],
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
    }
    return {
        canonicalize_name(each.name)
        for each in requirements
        for extra in ("", *extras)
        if each.marker is None or each.marker.evaluate({**environ, "extra": extra})
    }


def _licence(name: str, dist: PathDistribution) -> str:
    said = dist.metadata
    if expression := said.get("License-Expression"):
        return str(expression)
    if name in READ:
        return READ[name]
    if (word := (said.get("License") or "").strip()) in WORDS:
        return WORDS[word]
    classes = [each.rpartition(" :: ")[2] for each in said.get_all("Classifier") or () if each.startswith("License ::")]
    known = sorted({WORDS[each] for each in classes if each in WORDS})
    if len(known) != 1:
        raise BundleError(f"{name} says its licence as {word[:60]!r} and {classes}: read it, and put it into READ")
    return known[0]


def _name(path: Path) -> str:
    return canonicalize_name(PathDistribution(path).metadata["Name"])


def _texts(folder: Path) -> tuple[Path, ...]:
    loose = (path for name in ("LICEN[CS]E*", "COPYING*", "NOTICE*") for path in folder.glob(name))
    return tuple(sorted(path for path in (*loose, *folder.glob("licenses/**/*")) if path.is_file()))

"""Makes docs/proven.md of docs/proven.yaml: what was shown, on what, by which test. `make docs` writes it."""

import re
from pathlib import Path
from typing import Any, Final

import yaml

DOCS: Final = Path(__file__).parent
HOW: Final = {
    "real": "real part",
    "stand-in": "stand-in",
    "documented": "documented only",
}
HEAD: Final = """\
# What is proven

For each claim: on what it was shown, and by which test. **Real part**: the thing itself ran, the process, library or
server that runs in production. **Stand-in**: something that answers as the service's documents say; it may be wrong
where they are, or where we read them wrong. **Documented only**: written after the documents, run nowhere.

`make test` runs what is quick, `make verify` the rest, `make test-cloud` the stores' suites on an account of your own
([Stores](stores.md)), which makes stand-ins real parts. The page is made from `docs/proven.yaml`.
"""


def page() -> str:
    """Give the page."""
    sections: dict[str, list[dict[str, Any]]] = yaml.safe_load((DOCS / "proven.yaml").read_text("utf-8"))
    count = {how: sum(row["how"] == how for rows in sections.values() for row in rows) for how in HOW}
    told = ", ".join(f"{number} {HOW[how]}" for how, number in count.items())
    parts = [HEAD, f"Claims: {told}.\n"]
    for title, rows in sections.items():
        parts.append(f"## {title}\n\n| claim | how | on what | shown by |\n|---|---|---|---|")
        parts.append("\n".join(_row(row) for row in rows) + "\n")
    return "\n".join(parts)


def _row(row: dict[str, Any]) -> str:
    tests = "<br>".join(f"`{test}`" for test in row.get("tests", ()))
    return f"| {row['claim']} | {HOW[row['how']]} | {row['where']} | {tests or 'nothing'} |"


def named(text: str) -> set[tuple[str, str]]:
    """Give the tests that a page names, as (file, function); "" where it names a file's all."""
    return {(file, name) for file, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)}

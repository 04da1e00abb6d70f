"""Writes the tables of the reference from the code: `make docs`. A test fails while a page says otherwise.

Taken from the code: which keys, problems, headers and routes there are, their types, defaults, statuses, what is not
built. Prose that no code holds is kept as it stands in its row; a row that is new says `UNSAID` until somebody does.
"""

import importlib.util
import re
import sys
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAliasType, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from buspass.config.unavailable import TABLE
from buspass.config.walk import documented_fields
from buspass.errors import CODES
from buspass.http import headers
from buspass.http.app import ROUTES
from buspass.http.operation import UNSERVED

DOCS: Final = Path(__file__).parent
UNSAID: Final = "(unsaid)"
NOT_YET: Final = "**not yet**"
KEYS: Final = re.compile(r"^\| key \| type \| default \| meaning \| fails \|\n\|[-|]+\|\n((?:\|.*\n)+)", re.MULTILINE)
WORDS: Final = {
    "duration": "duration", "short_duration": "duration", "positive_duration": "duration",
    "percent": "percent", "rate": "rate", "periodic": "money", "money": "money", "price": "price",
    "http_url": "URL", "issuer_url": "URL", "tool_url": "URL", "<lambda>": "URL",
    "name": "name", "function_name": "name", "secret_name": "text", "header_name": "text", "pointer": "text",
}  # fmt: skip
"""What a value's reader, in `buspass.config.scalars`, is called in the table."""
SHARED: Final = re.compile(r"^(providers|tools)\.\*\.(auth\..*)")
"""Both have it, and one row tells of both."""

type Row = list[str]


def _proven() -> str:
    """The page of what is proven, by the module beside this one, wherever Python was told to look for modules."""
    spec = importlib.util.spec_from_file_location("docs_proven", DOCS / "proven.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.page())


def pages() -> dict[str, str]:
    """Every page with generated parts, as it should be."""
    made = {"configuration.md": configuration, "problems.md": problems, "api.md": surface}
    written = {name: make((DOCS / name).read_text("utf-8")) for name, make in made.items()}
    return {**written, "proven.md": _proven()}


# ── configuration ───────────────────────────────────────────────────────────────────────────────────────────────────


def configuration(page: str) -> str:
    """Each key once, where it stands or after the key before it; types, defaults and what is not built by the code."""
    fields = {SHARED.sub(r"\2", path): field for path, field in documented_fields()}
    missing = {SHARED.sub(r"\2", row.path) for row in TABLE if not row.built}
    tables = [_rows(found[1]) for found in KEYS.finditer(page)]
    where = {row[0].strip("`"): table for table in tables for row in table}
    before = ""
    for path, field in fields.items():
        if path not in where:
            where[path] = where.get(before) or where.get(path.rpartition(".")[0]) or tables[-1]
            place = next((n for n, row in enumerate(where[path], 1) if row[0] == f"`{before}`"), len(where[path]))
            where[path].insert(place, [f"`{path}`", "", "", UNSAID, ""])
        row = next(row for row in where[path] if row[0] == f"`{path}`")
        row[1], row[2] = _type(row[1], field), _default(row[2], field)
        told = row[3].removeprefix(NOT_YET).removeprefix(":").strip()
        row[3] = f"{NOT_YET}: {told}".removesuffix(": ") if path in missing else told
        before = path
    fresh = iter(_table([row for row in table if row[0].strip("`") in fields]) for table in tables)
    return KEYS.sub(lambda found: found[0].replace(found[1], next(fresh)), page)


def _type(said: str, field: FieldInfo) -> str:
    """What the row says where that agrees with the code, which may say less; else what the code says."""
    word, options = _kind(field.annotation, field.metadata)
    if options:
        shown = " ".join(f"`{option}`" for option in options)
        return said if set(re.findall(r"`([^`]+)`", said)) == set(options) else shown
    return said if not word or re.search(rf"\b{word}s?\b", said) or _narrower(said, word) else word


def _narrower(said: str, word: str) -> bool:
    """Names of things, ranges and forms say more than the code's own word."""
    known = {
        "text": r"\w",
        "name": r"\w",
        "integer": r"\d+ to \d+|^1$",
        "mapping": r"\[auth\]|secret|one of|JSON Schema|`|^$",
        "list": r"^$",
        "money": r"^$",
    }
    return bool(re.search(known.get(word, r"(?!)"), said))


def _kind(annotation: Any, metadata: Iterable[Any] = ()) -> tuple[str, tuple[str, ...]]:
    """A word for the type, and the values where it has a few."""
    for each in metadata:
        if (word := WORDS.get(getattr(getattr(each, "func", None), "__name__", ""))) is not None:
            return word, ()
    if isinstance(annotation, TypeAliasType):
        return _kind(annotation.__value__)
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(inner[0], inner[1:])
    if origin in {Union, types.UnionType}:
        return _kind(next(each for each in inner if each is not type(None)))
    if origin is Literal:
        return "", tuple(map(str, inner))
    if annotation is bool:
        return "true, false", ()
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping", ()
    plain = {int: "integer", str: "text", list: "list", dict: "mapping"}
    return plain.get(origin or annotation, ""), ()


def _default(said: str, field: FieldInfo) -> str:
    """`required`, or the value where it is plain; what else a default is, no code says in a word."""
    if field.is_required():
        return said if said.startswith(("required", "one of")) else "required"
    if field.default in ("", None) or not isinstance(field.default, str | int | float):
        return UNSAID if said.startswith("required") and not said.endswith(("with `sql`", "`bedrock`")) else said
    shown = _written(field)
    return said if said.startswith(f"`{shown}`") else f"`{shown}`"


def _written(field: FieldInfo) -> str:
    value = field.default
    word, _ = _kind(field.annotation, field.metadata)
    if isinstance(value, bool):
        return str(value).lower()
    if word == "percent":
        return f"{value * 100:g}%"
    if word == "duration":
        for unit, seconds in (("d", 86400), ("h", 3600), ("m", 60)):
            if value >= seconds and value % seconds == 0 and (unit, value) != ("d", 86400):
                return f"{value / seconds:g}{unit}"
        return f"{value:g}s"
    return str(value)


# ── problems ────────────────────────────────────────────────────────────────────────────────────────────────────────


def problems(page: str) -> str:
    """Each code in the order of the code's table, with its status and whether it is retryable."""
    head = "| code | status | retryable | meaning | what to do |\n"
    told = {row[0].strip("`"): row for row in _rows(_body(page, head))}
    rows = [
        [f"`{name}`", str(code.status), "yes" if code.retryable else "no", *told.get(name, [""] * 3 + [UNSAID] * 2)[3:]]
        for name, code in CODES.items()
    ]
    return _placed(page, head, rows)


# ── the surface ─────────────────────────────────────────────────────────────────────────────────────────────────────


def surface(page: str) -> str:
    """The routes, the headers, and what is not served."""
    head = "| route | who | what |\n"
    told = {row[0].strip("`"): row for row in _rows(_body(page, head))}
    rows = []
    for route in ROUTES:
        name = f"{route.method} {route.path.replace(':path', '')}"
        what = told.get(name, ["", "", route.summary[0].lower() + route.summary[1:]])[2]
        rows.append([f"`{name}`", ", ".join(sorted(route.who.replace(" or ", ", ").split(", "), key=WHO.index)), what])
    page = _placed(page, head, rows)
    for title, table in (("request", headers.REQUEST), ("answer", headers.ANSWER), ("to a service", headers.SERVICE)):
        page = _placed(page, f"| {title} | meaning |\n", [[f"`{name}`", text] for name, text in table.items()])
    paths = dict.fromkeys(re.sub(r"/\{(\w+):path\}", r"/{\1}", path) for path in UNSERVED)
    kept = [path for path in paths if not any(path.startswith(f"{other}/") for other in paths)]
    shown = sorted(_short(path, ROUTED) for path in kept)
    text = ",\n".join(_wrapped([f"`{path}`" for path in dict.fromkeys(shown)]))
    return re.sub(r"(?<=is `not_found`:\n\n)`/.*?(?=\.\n|\.\Z)", lambda _: text, page, flags=re.DOTALL)


WHO: Final = ("workload", "operator", "task", "peer", "anyone")
ROUTED: Final = tuple(route.path for route in ROUTES)


def _short(path: str, served: Iterable[str]) -> str:
    """A path without its tail, unless it is served without it."""
    base = path.removesuffix("/{rest}")
    return path if base in served else base


def _wrapped(words: list[str], width: int = 118) -> list[str]:
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 2 + len(word) <= width:
            lines[-1] += f", {word}"
        else:
            lines.append(word)
    return lines


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _rows(text: str) -> list[Row]:
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines()]


def _table(rows: Iterable[Row]) -> str:
    return "".join(f"| {' | '.join(row)} |\n".replace("|  |", "| |").replace("|  |", "| |") for row in rows)


def _body(page: str, head: str) -> str:
    return page.partition(head)[2].partition("|\n")[2].partition("\n\n")[0]


def _placed(page: str, head: str, rows: Iterable[Row]) -> str:
    before, found, after = page.partition(head)
    if not found:
        raise SystemExit(f"there is no table {head!r}")
    rule, _, rest = after.partition("\n")
    _, blank, rest = rest.partition("\n\n")
    return f"{before}{head}{rule}\n{_table(rows).rstrip()}{blank}{rest}"


def main() -> None:
    for name, text in pages().items():
        (DOCS / name).write_text(text, "utf-8")
        if UNSAID in text:
            sys.stderr.write(f"docs/{name}: say what `{UNSAID}` stands for\n")


if __name__ == "__main__":
    main()

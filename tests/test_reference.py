"""The reference's tables are those of the code: `make docs` writes them, and nothing in them is left unsaid."""

import importlib.util
import re
from pathlib import Path

from msgspec.structs import replace

from buspass.errors import CODES, Code

DOCS = Path(__file__).parent.parent / "docs"
spec = importlib.util.spec_from_file_location("docs_reference", DOCS / "reference.py")
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)


def test_a_new_code_gets_a_row_that_asks_to_be_said(monkeypatch):
    monkeypatch.setattr(reference, "CODES", {**CODES, "too_blue": Code(418, "It is blue", retryable=True)})
    assert "| `too_blue` | 418 | yes | (unsaid) | (unsaid) |" in reference.pages()["problems.md"]


def test_a_code_that_changes_or_goes_changes_its_row(monkeypatch):
    fewer = {name: code for name, code in CODES.items() if name != "fenced"}
    monkeypatch.setattr(reference, "CODES", fewer | {"conflict": replace(CODES["conflict"], status=423)})
    page = reference.pages()["problems.md"]
    assert "`fenced`" not in page
    assert re.search(r"^\| `conflict` \| 423 \| yes \| somebody else", page, re.MULTILINE)


def test_keys_follow_the_schema(monkeypatch):
    fields = dict(reference.documented_fields())
    fields["workflows.*.token_ttl"] = fields["workflows.*.budget.wall"]
    fields["workflows.*.sparkle"] = fields["workflows.*.require_thought"]
    del fields["policy.path"]
    monkeypatch.setattr(reference, "documented_fields", fields.items)
    monkeypatch.setattr(reference, "TABLE", [row for row in reference.TABLE if row.path != "workflows.*.hosted_tools"])
    page = reference.pages()["configuration.md"]
    assert re.search(r"^\| `workflows.\*.token_ttl` \| duration \| `30m` \|", page, re.MULTILINE)
    assert "| `workflows.*.sparkle` | true, false | `false` | (unsaid) | |" in page
    assert "`policy.path` |" not in page
    assert "**not yet**" not in next(line for line in page.splitlines() if "`workflows.*.hosted_tools` |" in line)


def test_headers_and_routes_follow_the_code(monkeypatch):
    monkeypatch.setattr(reference.headers, "ANSWER", {"Buspass-Mood": "how it feels"})
    monkeypatch.setattr(
        reference, "ROUTES", (replace(reference.ROUTES[0], path="/v1/moods", summary="Feel", who="anyone"),)
    )
    monkeypatch.setattr(reference, "UNSERVED", ("/v1/songs", "/v1/songs/{rest:path}"))
    page = reference.pages()["api.md"]
    assert "| `Buspass-Mood` | how it feels |" in page
    assert "| `POST /v1/moods` | anyone | feel |" in page
    assert "`Buspass-Cost`" not in page
    assert "is `not_found`:\n\n`/v1/songs`.\n" in page

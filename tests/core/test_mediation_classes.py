"""What each class finds and leaves alone, by the rows of tests/data/mediation; and what finding may cost."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from buspass.mediation import contact, scanner
from buspass.mediation.accounts import is_card
from buspass.mediation.classes import CLASSES, PERSONAL, known
from buspass.mediation.national import NUMBERS
from buspass.mediation.scanner import Clean, parts

ROOT = Path(__file__).parent.parent.parent
DATA = ROOT / "tests/data/mediation"
ROWS = yaml.safe_load((DATA / "classes.yaml").read_text("utf-8").replace("~", ""))
BUSINESS = (DATA / "business.txt").read_text("utf-8")


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    """No text was read before."""
    monkeypatch.setattr(scanner, "CLEAN", Clean(1))


def found(text, classes, *regions):
    return [(part.class_, part.text) for part in parts(text, classes, regions) if part.class_ and not part.more]


def plain(read):
    return "".join(part.text for part in read if part.class_ is None)


@pytest.mark.parametrize(
    ("class_", "row"), [pytest.param(class_, row, id=row["text"]) for class_ in ROWS for row in ROWS[class_]]
)
def test_a_class_finds_its_values_and_nothing_else(class_, row):
    assert found(row["text"], [class_], *row.get("regions", [])) == [(class_, value) for value in row["found"]]


def test_every_class_has_rows_of_both_kinds():
    assert set(ROWS) == set(CLASSES)
    assert all({bool(row["found"]) for row in rows} == {True, False} for rows in ROWS.values())


def test_every_country_is_shown_by_a_number_of_its_own():
    shown = {row["text"].split()[0] for row in ROWS["national_id"] if row["found"]}
    assert shown - {'{"nino":"AB'} == {number.country for number in NUMBERS}


@pytest.mark.parametrize(
    ("text", "class_"),
    [
        ("postgres://alice:s3cr3t@203.0.113.7/x", "secret"),
        ("+4111111111111111", "credit_card"),
        ("4111111111111111@example.com", "email"),
        ("DE89 3704 0044 0532 0130 00", "iban"),
        ("4111 1111 1111 1111", "credit_card"),
        ("10.203.113.107", "ip_address"),
    ],
)
def test_what_one_class_found_no_other_finds_again(text, class_):
    assert [name for name, _ in found(text, CLASSES, "US")] == [class_]


def test_a_placeholder_is_not_looked_into():
    assert [part.class_ for part in parts("<EMAIL_12345678> <PHONE_44051401>", CLASSES, ("DE",))] == [
        "placeholder", None, "placeholder",
    ]  # fmt: skip


def test_two_values_side_by_side_are_two():
    assert found("a@example.com,b@example.com", ["email"]) == [("email", "a@example.com"), ("email", "b@example.com")]


def test_false_alarms_on_a_page_of_business_text_are_few_and_known():
    """Three thousand words of English and German: letters, tables, order lines; and nobody's data among them."""
    assert len(BUSINESS.split()) > 3000
    wrong = ["4.1.2.3", "7.10.2.1", "0045-8812-3301", "4.2.1.3", "4.2.1.4", "4.2.1.3", "4.2.1.4"]
    orders = ["4503031686", "4588121550", "4583113012", "4584603840", "4589378173", "4584947205"]
    alarms = {
        "none": wrong,
        "DE": [*wrong, "0204059523/772"],
        "US": ["2024/03-0012", *wrong[:3], "5105600123", "6402 99 39 00", *wrong[3:], *orders],
    }
    for region, values in alarms.items():
        regions = () if region == "none" else (region,)
        assert [value for _, value in found(BUSINESS, CLASSES, *regions)] == values
        print(f"false alarms in {len(BUSINESS.split())} words, region {region}: {len(values)}")  # noqa: T201 - a figure that a run is to show
    shown = (ROOT / "docs/inspection.md").read_text("utf-8")
    assert all(f"| {region} | {len(values)} |" in shown for region, values in alarms.items())
    assert f"{len(BUSINESS.split()):,} words" in shown


def test_a_key_that_leaves_no_digit_unlike_is_no_card():
    assert is_card("4111111111111111")
    assert not is_card("4111111111111116")
    assert not is_card("0000000000000000")


def test_a_lone_surrogate_is_text_like_any_other():
    assert found("\ud800 alice@example.com \udfff4111111111111111", CLASSES) == [
        ("email", "alice@example.com"),
        ("credit_card", "4111111111111111"),
    ]


def test_a_private_key_is_one_secret_up_to_its_end():
    body = "\n".join("MIIEvQIBADANBgkqhkiG9w0BAQEFAASC" * 2 for _ in range(20))
    text = f"key:\n-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\nas agreed"
    for written in (text, text.replace("\n", "\\n")):
        read = parts(written, ["secret"])
        assert plain(read).replace("\\n", "\n") == "key:\n\nas agreed"
        assert len([part for part in read if part.class_ and not part.more]) == 1


def test_a_token_longer_than_a_window_is_one_secret():
    token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9." + "eyJzdWIiOiIx" * 200 + ".c2ln"
    read = parts(f"take {token} and go", ["secret"])
    assert plain(read) == "take  and go"
    assert len([part for part in read if part.class_ and not part.more]) == 1


def test_unknown_classes_are_refused_by_name():
    assert known(["phone", "email"]) == ("email", "phone")
    with pytest.raises(ValueError, match="no such class: \\['shoe_size'\\]"):
        known(["email", "shoe_size"])


# ── what it costs ───────────────────────────────────────────────────────────────────────────────────────────────────

ADVERSARIAL = [
    "1 ", "1234 ", "12 34-56 ", "+1 ", "00 1 ", "4", "a:1:", "1.", "aa.1@", "a@b.", "eyJ", "password:", "a://b:c",
    "DE12 3456 7890 12 ", "sk-", "-----BEGIN ", "A ", "\\n1", "é1", "<EMAIL_1", "(0) ",
]  # fmt: skip


@pytest.mark.parametrize("piece", ADVERSARIAL)
def test_the_work_grows_with_the_text_and_no_faster(piece, monkeypatch):
    """Counted, not timed: characters that detectors read, and what phonenumbers is given, which has patterns of its own."""
    read, given = [], []
    find, matcher = scanner.find, contact._at_home
    monkeypatch.setattr(scanner, "find", lambda text, *rest: read.append(len(text)) or find(text, *rest))
    monkeypatch.setattr(contact, "_at_home", lambda text, region: given.append(len(text)) or matcher(text, region))
    text = piece * (4000 // len(piece))
    assert "".join(part.text for part in parts(text, CLASSES, ("DE",))) == text
    assert sum(read) <= 2.2 * len(text) + scanner.WINDOW
    assert max([*read, *given, 0]) <= scanner.WINDOW + scanner.CONTEXT


def test_every_pattern_is_re2s():
    paths = [*(ROOT / "core/buspass/mediation").glob("*.py")]
    assert ROOT / "core/buspass/mediation/patterns.py" in paths
    for path in paths:
        imports = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Import)]
        assert "re" not in {name.name for node in imports for name in node.names}, path.name
        assert "from re import" not in path.read_text("utf-8"), path.name


def loaded(code):
    script = f"import sys\n{code}\nprint(*sorted({{'re2', 'stdnum', 'phonenumbers'}} & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()


def test_a_class_that_is_not_looked_for_costs_no_import():
    modules = ["holdback", "rewriting", "arguments", "placeholders", "inspect"]
    imports = "\n".join(f"import buspass.mediation.{module}" for module in modules)
    assert loaded(imports) == []
    assert loaded(f"{imports}\nbuspass.mediation.inspect.inspect([('a', 'no@example.com 4111')], ['email'])") == ["re2"]
    assert "phone" in PERSONAL

"""Modules that regopy accepts in silence, or answers otherwise than OPA, are never loaded."""

import pytest

from buspass.policy.lint import lint


@pytest.mark.parametrize(
    ("rules", "line", "told"),
    [
        ('deny contains "x" if net.cidr_contains("10.0.0.0/8", input.ip)', 2, "net.cidr_contains"),
        ('deny contains "x" if {\n  regex.match("(?i)a", input.a)\n}', 3, "(?i)"),
        ("deny contains `x` if regex.match(`\\p{L}`, input.a)", 2, "\\p{…}"),
        ('deny contains "x" if time.parse_rfc3339_ns(input.now) > 0', 2, "compare the timestamps"),
        ('deny contains "x" if time.now_ns() > 0', 2, "input.now"),
        ("# one\n\ndeny contains `x` if io.jwt.decode(input.t)", 4, "io.jwt.decode"),
        ('deny contains "x" if http.send({})', 2, "network"),
        ('deny contains "x" if no_such(1)', 2, "no function no_such"),
        ('deny contains "x" if strings.no_such(1)', 2, "no function strings.no_such"),
        ('deny contains "x" if data.lib.f(1)', 2, "no function data.lib.f"),
        ("deny[msg] { msg := 1 }", 2, "Rego v0"),
        ('deny[msg] if { msg := "x" }', 2, "Rego v0"),
        ('deny contains "x" if p\np { input.a }', 3, "Rego v0"),
        ('deny contains "x" if p == 2\np = 2 { input.a }', 3, "Rego v0"),
        ('deny contains "x" if p(1)\np(x) { x > 1 }', 3, "Rego v0"),
        ('deny contains "x" if { p }\np if { q }\nq if { p }', 3, "p needs itself"),
        ('deny contains "\\u00e9" if input.a', 2, "the character itself"),
        ('deny contains "x" if input.a == "\\/"', 2, "the character itself"),
        ('deny contains "x" if { $"{input.a}" == "b" }', 2, "template"),
        ('deny contains r if { r := sprintf("%v", [input.a]) }', 2, "sprintf"),
        ('x := 1\n\ndeny contains "x" if { x == }', 4, "Invalid"),
        ('deny contains "x" if {\n  input.a\n', 2, "unclosed"),
        ("x := 1", 1, "gives no reason"),
        ('deny contains "x" if { unbound == another }', 2, "another is never bound"),
        ('deny contains "x" if {\n  refnd\n}\nrefund if input.a', 3, "refnd is never bound"),
        ('deny contains "x" if { input.a > limt }\nlimit := 3', 2, "limt is never bound"),
        ('deny contains "x" if { not refnd }\nrefund if input.a', 2, "refnd is never bound"),
        ("default deny := false", 1, "gives no reason"),
    ],
)
def test_a_module_is_refused_with_file_line_and_what_to_write(rules, line, told):
    found = lint({"a.rego": f"package buspass.call\n{rules}\n"})
    assert any(row.startswith(f"a.rego:{line}: ") and told in row for row in found), found


@pytest.mark.parametrize(
    "rules",
    [
        'deny contains "x" if { input.a == 1 } # { deny[x] {',
        'limits := {"a": 1}\ndeny contains "x" if { some k, v in limits; v > input.n[k] }',
        'deny contains {"reason": "r", "n": 1} if input.kind in {"a", "b"}',
        'deny contains "x" if not allow\ndefault allow := false\nallow if { input.a }',
        'deny contains "x" if { every t in input.tools { t in {"a"} } }',
        'f(x) := 1 if { x > 1 } else := 2\ndeny contains "x" if { f(2) == 1 }',
        'deny contains r if { r := sprintf("%v", [object.get(input.call, "a", "?")]) }',
        'deny contains "x" if {\n\tcount({t | some t in input.tools}) > 2\n}',
        'deny contains "x" if input.a == `\\u` ',
        'deny contains "x" if { [a, {"k": b}] := input.pair; a > b }',
        'deny contains "x" if { some i; input.a[i] == 1; input.b[j] == i; j > 0; 3 = k; k < 4 }',
        'import data.lib\ndeny contains "x" if lib.f(1)',
        'import data.lib as l\ndeny contains "x" if l.f(1)',
        'import data.lib.f\ndeny contains "x" if data.lib.f(1)',
        "deny contains reason if {\n\tsome reason, wanted in table\n\tinput.call.tool == wanted\n}\ntable := {`a`: 1}",
        'obligations.max_tokens := 5 if input.call.model == "m"\ndeny contains "x" if input.b',
    ],
)
def test_plain_rego_v1_passes(rules):
    modules = {"a.rego": f"package buspass.call\n{rules}\n"}
    if "data.lib" in rules:
        modules["lib.rego"] = "package lib\nf(x) if x > 0\n"
    assert lint(modules) == []


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("package buspass.calls\ndeny contains 1", "never asked"),
        ("package buspass\ndeny contains 1", "never asked"),
        ("package buspass.call.more\ndeny contains 1", "never asked"),
        ("package busspass.call\ndeny contains 1", "used by no module"),
        ("deny contains 1", "no package"),
        ("", "no package"),
    ],
)
def test_a_package_that_nobody_would_ask_is_refused(source, told):
    good = {"good.rego": 'package buspass.start\ndeny contains "x" if input.a'}
    (row,) = lint(good | {"a.rego": source})
    assert row.startswith("a.rego:1: ")
    assert told in row


def test_rego_tests_may_stand_beside_the_modules():
    modules = {
        "a.rego": 'package buspass.call\ndeny contains "x" if input.a',
        "a_test.rego": "package buspass.call_test\nimport data.buspass.call\ntest_a if call.deny == set()",
    }
    assert lint(modules) == []

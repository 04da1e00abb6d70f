"""Inspection without detectors finds nothing, and says it as policy will read it once there are some."""

from buspass.mediation.inspect import Finding, inspect


def test_nothing_is_found_and_no_text_is_read_without_detectors():
    def texts():
        raise AssertionError("read")
        yield "messages[0].content", ""

    assert inspect(texts()) == ()


def test_a_finding_has_class_position_and_count():
    found = inspect([("a", "xx"), ("b", "y")], (lambda text: {"ex": text.count("x")} if "x" in text else {},))
    assert found == (Finding(class_="ex", position="a", count=2),)
    assert found[0].document() == {"class": "ex", "position": "a", "count": 2}

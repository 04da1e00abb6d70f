"""The site of docs/ builds without a warning, leads everywhere, and fetches nothing from outside."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FETCHED = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "use": "href",
}
OUTSIDE = re.compile(r"(?:[a-z][a-z+.-]*:)?//", re.IGNORECASE)


class Fetches(HTMLParser):
    """What a browser fetches for a page by itself."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        value = dict(attrs).get(FETCHED.get(tag, ""))
        if value and not (tag == "link" and dict(attrs).get("rel") in {"canonical", "prev", "next"}):
            self.found.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    environ = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run(command, cwd=ROOT, env=environ, text=True, capture_output=True, timeout=600)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
    return folder


def test_every_page_of_docs_is_a_page_of_the_site(site):
    pages = {page.relative_to(ROOT / "docs").with_suffix("") for page in (ROOT / "docs").rglob("*.md")}
    assert {page.relative_to(site).with_suffix("") for page in site.rglob("*.html")} == {*pages, Path("404")}


def test_the_navigation_names_every_page_once():
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    named = re.findall(r"[\w/-]+\.md", yaml.dump(yaml.safe_load(text)["nav"]))
    assert sorted(named) == sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))


def test_no_page_fetches_anything_from_outside(site):
    fetched = {page.name: Fetches(page.read_text("utf-8")).found for page in site.rglob("*.html")}
    assert all(fetched.values())
    assert {name: found for name, values in fetched.items() if (found := [v for v in values if OUTSIDE.match(v)])} == {}
    sheets = [sheet.read_text("utf-8") for sheet in site.rglob("*.css")]
    assert sheets
    assert [
        found for text in sheets for found in re.findall(r"(?:url\(|@import )['\"]?((?:https?:)?//[^)'\"]+)", text)
    ] == []


def test_no_mark_of_ours_and_no_link_out_of_the_folder_is_left(site):
    text = "".join(page.read_text("utf-8") for page in site.rglob("*.html"))
    assert "```" not in text
    assert re.findall(r'href="[^"]*\.md[#"]', text) == []
    assert (site / "source/examples/returns/buspass.yaml.txt").read_text("utf-8").startswith("# ")

"""What MkDocs is told beyond mkdocs.yml: a page reads the same in the repository and on the site.

A block's mark (`sh run`) is for the tests and goes. A link out of docs/ leads to a copy of that file. Knows no page.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

OUTSIDE = re.compile(r"(?<=\]\()\.\./([^)\s#]+)")
MARK = re.compile(r"^(```\w+) run$", re.MULTILINE)
NOTE = re.compile(r"^<!-- .*? -->\n", re.MULTILINE | re.DOTALL)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    root = Path(config.docs_dir).parent
    for page in files.documentation_pages():
        for path in OUTSIDE.findall(page.content_string):
            if files.get_file_from_path(_copy(path)) is None:
                files.append(File.generated(config, _copy(path), content=(root / path).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    up = posixpath.relpath(".", posixpath.dirname(page.file.src_uri) or ".")
    linked = OUTSIDE.sub(lambda found: posixpath.join(up, _copy(found[1])), markdown)
    return NOTE.sub("", MARK.sub(r"\1", linked))


def _copy(path: str) -> str:
    """Where the site keeps a file of the repository: as text, for a browser to show."""
    return f"source/{path}.txt"

"""Python of the documents runs: each block that carries no mark, against a gateway in place of the addresses it names."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from running import KEY, SECONDS, mind, served

from buspass.cli.environment import governed
from buspass.testing.provider import Provider
from buspass.testing.up import up

pytestmark = pytest.mark.verify

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
BLOCK = re.compile(r"(<!-- [^\n]* -->\n)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(code, id=f"{page.relative_to(ROOT)}:{number}")
    for page in PAGES
    for number, (mark, code) in enumerate(BLOCK.findall(page.read_text("utf-8")), 1)
    if not mark
]
CONFIG = """
version: 1
providers:
  openai: {{api: openai, base_url: '{url}/v1', auth: {{bearer: {{secret: HOUSE_KEY}}}}}}
models:
  plan: {{targets: [{{provider: openai, model: gpt-5-mini}}]}}
  gpt-5-mini: {{targets: [{{provider: openai, model: gpt-5-mini}}]}}
workflows:
  work: {{loops: off, models: [plan, gpt-5-mini, openai/gpt-5-mini], budget: {{cost: 1.00}}}}
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    """A gateway over a simulated provider, and the token of a task there."""
    folder = tmp_path_factory.mktemp("docs")
    with served(Provider(KEY, models=("gpt-5-mini",), mind=mind)) as url:
        (folder / "buspass.yaml").write_text(CONFIG.format(url=url))
        arguments = ("--config", str(folder / "buspass.yaml"))
        with up(*arguments, data=folder / "data", environ={"HOUSE_KEY": KEY}, until="export") as running:
            yield running


@pytest.fixture(scope="module")
def token(gateway):
    program = "from buspass.client import task\nt = task('work'); t.__enter__(); print(t.api_key)"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BUSPASS_")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean | gateway.environ, text=True, capture_output=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("code", BLOCKS)
def test_a_block_runs(gateway, token, code, tmp_path):
    there = re.sub(r"https://gateway\.example\.com|http://127\.0\.0\.1:8700", gateway.url, code)
    there = re.sub(r'api_key="[^"]*"', f'api_key="{token}"', there)
    environ = governed(os.environ, url=gateway.url, task="t_1", token=token)
    done = subprocess.run(
        [sys.executable, "-W", "error::SyntaxWarning", "-c", there],
        cwd=tmp_path, env=environ, text=True, capture_output=True, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

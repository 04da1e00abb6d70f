"""What is published: a wheel of four packages that installs into a clean environment and runs there."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(1, str(ROOT / "tests" / "contract"))

from fetching import fetched  # noqa: E402

UV = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".cache" / "uv" / "bin" / "uv")
PACKAGES = {"buspass", "buspass_aws", "buspass_azure", "buspass_onprem"}

pytestmark = pytest.mark.verify


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    built = tmp_path_factory.mktemp("dist")
    fetched([UV, "build", "-q", "--wheel", "--out-dir", built, ROOT])
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of programs of an environment that holds the wheel and what it needs, nothing of this checkout."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    python = folder / "bin" / "python"
    subprocess.run([UV, "venv", "-q", "--python", sys.executable, folder], check=True)
    lock = ["--constraint", str(ROOT / "requirements.lock")]
    fetched([UV, "pip", "install", "-q", "--python", python, *lock, f"{wheel}[onprem]"])
    return python.parent


def run(program, *arguments, cwd):
    environ = {"PATH": os.environ["PATH"], "HOME": str(cwd), "BUSPASS_DATA": str(cwd / "data")}
    return subprocess.run([program, *arguments], cwd=cwd, env=environ, capture_output=True, text=True, timeout=600)


def test_it_holds_the_four_packages_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert [name for name in names if name.endswith(".pth")] == []


def test_it_carries_types_licence_and_every_file_of_its_packages(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]
    folders = {package: next(ROOT.glob(f"*/{package}")) for package in PACKAGES}
    ours = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in folders.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sorted(ours - set(names)) == []


def test_the_command_line_runs_where_it_is_installed(installed, tmp_path):
    helped = run(installed / "buspass", "--help", cwd=tmp_path)
    assert (helped.returncode, helped.stderr) == (0, "")
    (tmp_path / "buspass.yaml").write_text((ROOT / "examples/returns/buspass.yaml").read_text("utf-8"))
    shutil.copytree(ROOT / "examples/returns/policies", tmp_path / "policies")
    checked = run(installed / "buspass", "check", "buspass.yaml", cwd=tmp_path)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_packages_that_need_no_extra_import_alone(installed, tmp_path):
    code = "import buspass.http, buspass.gateway, buspass_onprem.server, buspass_onprem.sqlite, buspass_onprem.files"
    assert run(installed / "python", "-c", code, cwd=tmp_path).stderr == ""

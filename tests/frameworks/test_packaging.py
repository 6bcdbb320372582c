# SPDX-License-Identifier: MIT
"""The package as people install it: a wheel without compiled parts, and `pip install` of the folder, each into a
virtual environment of its own. Nothing is fetched: what attnd needs is lent by the interpreter that runs the test."""
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest

setuptools = pytest.importorskip("setuptools")
pytest.importorskip("pip")
if int(setuptools.__version__.split(".")[0]) < 71:  # until then wheels were another package's work
    pytest.importorskip("wheel")

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "clients" / "python"))
from attnd.notebook import cell  # noqa: E402

LENT = [sysconfig.get_path(kind) for kind in ("purelib", "platlib")]
PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "clients" / "python"
OFFLINE = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
LOADS_EVERYTHING = """
import importlib, pathlib, attnd, attnd.integrations
assert pathlib.Path(attnd.__file__).is_relative_to(pathlib.Path(sys.prefix)), attnd.__file__
for name in attnd.__all__:
    getattr(attnd, name)
importlib.import_module("attnd.integrations.session")
attnd.Publisher("job", "tcp://127.0.0.1:1").close()
from importlib.metadata import metadata
print(attnd.__version__, metadata("attnd")["Version"], metadata("attnd")["Requires-Python"])
"""


@pytest.fixture
def source(tmp_path):
    """A copy: setuptools leaves things behind where it builds."""
    ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    return shutil.copytree(PACKAGE, tmp_path / "source", ignore=ignored)


@pytest.fixture
def fresh(tmp_path):
    """The python of an empty virtual environment."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "fresh")
    return tmp_path / "fresh" / "bin" / "python"


def run(*command, **environment):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=240,
                          env={**os.environ, **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install(python, what):
    run(sys.executable, "-m", "pip", "--python", python, "install", *OFFLINE, what, PYTHONPATH=os.pathsep.join(LENT))


def said_version(python):
    """Version of the code, version of the package and Python it wants, by the installed package."""
    return run(python, "-I", "-c", f"import sys; sys.path += {LENT}\n" + LOADS_EVERYTHING).split()


def test_a_wheel_is_pure_complete_and_works_in_a_fresh_environment(source, fresh, tmp_path):
    run(sys.executable, "-m", "pip", "wheel", *OFFLINE, "--wheel-dir", tmp_path, source)
    (wheel,) = tmp_path.glob("attnd-*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    page = PACKAGE / "attnd" / "page"
    modules = {path for path in (PACKAGE / "attnd").rglob("*.py") if page not in path.parents}
    of_page = {*page.glob("*.js"), page / "style.css"}
    d3 = {"attnd/d3.min.js"} & {"attnd/d3.min.js" for path in cell._D3 if os.path.isfile(path)}
    expected = {str(path.relative_to(PACKAGE)) for path in modules | of_page} | {"attnd/py.typed"} | d3
    assert expected == {name for name in packed if not name.split("/")[0].endswith(".dist-info")}
    install(fresh, wheel)
    if d3:
        shows = "import attnd.notebook as n, numpy; print(len(n.view(numpy.full((1, 1, 2, 2), 0.5)).document) > 100000)"
        assert run(fresh, "-c", shows, PYTHONPATH=os.pathsep.join(LENT)).strip() == "True"
    code, package, python = said_version(fresh)
    assert code == package and wheel.name.startswith(f"attnd-{code}-") and python == ">=3.9"


def test_the_folder_can_be_installed(source, fresh):
    install(fresh, source)
    code, package, _ = said_version(fresh)
    assert code == package

# SPDX-License-Identifier: MIT
"""The Debian packages: made by deploy/package in a clean clone, unpacked, and used from there."""
import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT
from commands import output as run
from test_hardening import missing

NAMES = ("attnd", "libattn1", "libattn-dev", "python3-attnd")
SCRIPTS = {"attnd": {"postinst", "prerm", "postrm"}, "python3-attnd": {"postinst", "prerm"}}
BUILD_S = 900  # on two cores, when nothing is in a compiler's cache
UNPACKED = {**os.environ, "DPKG_DEB_COMPRESSOR_TYPE": "none"}  # that xz compresses is dpkg's affair

pytestmark = pytest.mark.skipif(not all(map(shutil.which, ("dpkg-deb", "dpkg-shlibdeps"))) or not (ROOT / ".git").exists(),
                                reason="there is no dpkg-dev, or this is no clone")


def clone(to):
    """The checkout as git knows it, with what is changed in it and not committed."""
    run("git", "clone", "-q", ROOT, to)
    changes = run("git", "-C", ROOT, "diff", "HEAD", "--binary")
    if changes:
        run("git", "-C", to, "apply", input=changes)


class Packages:
    def __init__(self, directory):
        self.root = directory / "root"
        self.command = directory / "clone/deploy/package"
        self.build = directory / "clone/build-package"
        clone(directory / "clone")
        printed = run(self.command, directory / "packages", timeout=BUILD_S, env=UNPACKED).split()
        self.path = {Path(path).name.split("_")[0]: path for path in printed}
        for path in printed:
            run("dpkg-deb", "-x", path, self.root)

    def field(self, name, field):
        return run("dpkg-deb", "-f", self.path[name], field).strip()

    def control(self, name):
        """Name and content of the files beside the data."""
        listed = run("dpkg-deb", "--ctrl-tarfile", self.path[name], errors="replace")
        names = {member for member in ("postinst", "prerm", "postrm", "conffiles", "md5sums", "shlibs", "triggers")
                 if f"./{member}\0" in listed}
        return {member: run("dpkg-deb", "-I", self.path[name], member) for member in names}

    @property
    def python(self):
        return self.root / "usr/lib/python3/dist-packages"

    def find(self, pattern):
        found = list(self.root.glob(pattern))
        assert len(found) == 1, f"{pattern}: {found}"
        return found[0]


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    return Packages(tmp_path_factory.mktemp("package"))


def test_no_test_is_built_for_them(packages):
    sources = {entry["file"] for entry in json.loads((packages.build / "compile_commands.json").read_text())}
    assert any(name.endswith("daemon/main.c") for name in sources)
    assert [name for name in sources if "tests/" in name] == []


def test_there_are_four(packages):
    assert set(packages.path) == set(NAMES)


def test_what_they_are_linked_with_they_depend_on(packages):
    depends = packages.field("attnd", "Depends")
    for library in ("libc6", "libcurl4", "libmicrohttpd12", "libopenblas0", "libsqlite3-0", "libuv1", "libyaml-0-2", "libzmq5"):
        assert re.search(rf"\b{library}(t64)?\b", depends), f"{library} of {depends}"
    assert "libzmq5" in packages.field("libattn1", "Depends")
    assert packages.field("libattn-dev", "Depends").startswith("libattn1 (= ")
    assert "python3-zmq" in packages.field("python3-attnd", "Depends")


def test_the_python_package_can_draw_in_a_notebook(packages):
    assert "node-d3" in packages.field("python3-attnd", "Recommends")
    code = ("import attnd.notebook as n, numpy; print(n.__file__); "
            "print(len(n.view(numpy.full((1, 1, 2, 2), 0.5)).document) > 100000)")
    path, drawn = run("/usr/bin/python3", "-c", f"import sys; sys.path.insert(0, {str(packages.python)!r}); {code}").split()
    assert path.startswith(str(packages.python)) and drawn == "True"


def test_what_the_unit_starts_is_there_and_runs(packages):
    unit = packages.find("usr/lib/systemd/system/attnd.service").read_text()
    program, *options, config = shlex.split(re.search(r"^ExecStart=(.*)$", unit, re.M).group(1))
    assert options == ["--address", "/run/attnd", "--config"]
    assert run(packages.root / program[1:], "--version").startswith("attnd ")
    assert "ok" in run(packages.root / program[1:], "--check-config", packages.root / config[1:])
    assert run(packages.root / "usr/bin/attnctl", "--version").startswith("attnctl ")
    assert packages.control("attnd")["conffiles"] == f"{config}\n"


def test_what_is_packed_is_hardened(packages):
    for pattern in ("usr/bin/attnd", "usr/bin/attnctl", "usr/lib/*/libattn.so.0.1.0"):
        assert missing(packages.find(pattern)) == [], pattern


def test_every_unit_is_in_it(packages):
    units = {path.name for path in (ROOT / "deploy/systemd").glob("attnd*") if path.suffix in (".service", ".socket")}
    assert {path.name for path in (packages.root / "usr/lib/systemd/system").iterdir()} == units
    assert "u attnd" in packages.find("usr/lib/sysusers.d/attnd.conf").read_text()
    assert "/var/lib/attnd" in packages.find("usr/lib/tmpfiles.d/attnd.conf").read_text()


def test_every_command_has_its_page(packages):
    listed = run(packages.root / "usr/bin/attnctl", "__complete", "").splitlines()
    names = {f"attnctl-{line.split()[0]}.1.gz" for line in listed} | {"attnctl.1.gz"}
    assert {path.name for path in (packages.root / "usr/share/man/man1").iterdir()} == names
    page = gzip.decompress(packages.find("usr/share/man/man8/attnd.8.gz").read_bytes())
    assert b".TH ATTND 8 " in page


def test_the_shells_complete(packages, tmp_path):
    script = packages.find("usr/share/bash-completion/completions/attnctl")
    line = (f"PATH={packages.root}/usr/bin:$PATH; . {script}; COMP_LINE='attnctl summ' COMP_POINT=12 COMP_CWORD=1; "
            "COMP_WORDS=(attnctl summ); _attnctl; echo ${COMPREPLY[*]}")
    assert run("bash", "-c", line) == "summary\n"
    for shell, path in (("zsh", "zsh/vendor-completions/_attnctl"), ("fish", "fish/vendor_completions.d/attnctl.fish")):
        assert "__complete" in packages.find(f"usr/share/{path}").read_text(), shell


def test_what_stops_a_package_stops_every_unit(packages):
    for script in ("prerm", "postrm"):
        text = packages.control("attnd")[script]
        for unit in (packages.root / "usr/lib/systemd/system").iterdir():
            assert unit.name in text


@pytest.mark.parametrize("name", NAMES)
def test_scripts_are_shell_and_sums_are_right(packages, name, tmp_path):
    control = packages.control(name)
    scripts = {script for script in control if script in ("postinst", "prerm", "postrm")}
    assert scripts == SCRIPTS.get(name, set())
    for script in scripts:
        (tmp_path / script).write_text(control[script])
        run("sh", "-n", tmp_path / script)
    (tmp_path / "sums").write_text(control["md5sums"])
    run("md5sum", "--quiet", "-c", tmp_path / "sums", cwd=packages.root)
    assert (packages.root / f"usr/share/doc/{name}/copyright").exists()


def test_the_history_is_removed_by_purge_alone(packages):
    text = packages.control("attnd")["postrm"]
    purging = re.search(r'^if \[ "\$1" = purge \]; then\n(.*?)^fi$', text, re.M | re.S).group(1)
    assert "rm -rf /var/lib/attnd" in purging and "rm " not in text.replace(purging, "")


def test_a_program_is_built_with_the_library(packages, tmp_path):
    library = packages.find("usr/lib/*/libattn.so").parent
    environment = {**os.environ, "PKG_CONFIG_PATH": f"{library}/pkgconfig", "PKG_CONFIG_SYSROOT_DIR": str(packages.root)}
    flags = run("pkg-config", "--cflags", "--libs", "attn", env={**environment, "PKG_CONFIG_ALLOW_SYSTEM_CFLAGS": "1",
                                                                "PKG_CONFIG_ALLOW_SYSTEM_LIBS": "1"}).split()
    run("cc", packages.find("usr/share/doc/libattn-dev/examples/train.c"), "-o", tmp_path / "train", *flags, "-lm")
    linked = run("ldd", tmp_path / "train", env={**os.environ, "LD_LIBRARY_PATH": str(library)})
    assert f"{library}/libattn.so.1" in linked


def test_python_finds_the_client(packages):
    """Its version is the one that its metadata say."""
    script = "import attnd, importlib.metadata as m; print(attnd.__file__, attnd.__version__ == m.version('attnd'))"
    said = run(sys.executable, "-c", script, env={**os.environ, "PYTHONPATH": str(packages.root / "usr/lib/python3/dist-packages")})
    assert said.split() == [str(packages.root / "usr/lib/python3/dist-packages/attnd/__init__.py"), "True"]


def test_it_is_packed_the_same_twice(packages, tmp_path):
    run(packages.command, tmp_path, timeout=BUILD_S, env=UNPACKED)
    for path in packages.path.values():
        assert Path(path).read_bytes() == (tmp_path / Path(path).name).read_bytes(), Path(path).name


def test_an_option_that_is_none():
    result = subprocess.run([ROOT / "deploy/package", "--frobnicate"], capture_output=True, text=True)
    assert result.returncode == 1 and "no option '--frobnicate'" in result.stderr

# SPDX-License-Identifier: MIT
"""The wheel attnd-bin: what deploy/wheel left in dist/, if it did. Building it takes too long for every test run;
`deploy/wheel --check` uses it in a clean system."""
import base64
import csv
import hashlib
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from test_hardening import missing, readelf

ROOT = Path(__file__).resolve().parents[2]
BUILT = sorted((ROOT / "dist").glob("attnd_bin-*.whl"))
MEGABYTES = 25
OLD_CPU = "Nehalem"  # SSE4.2, no AVX

with_wheel = pytest.mark.skipif(not BUILT, reason="there is no wheel in dist/: deploy/wheel makes it")
with_old_cpu = pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="there is no qemu-x86_64 (qemu-user)")


def run(*command, **options):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, **options)
    assert result.returncode == 0, f"{command}: {result.stderr[-2000:]}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The newest, unpacked, its scripts executable as pip makes them."""
    to = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(BUILT[-1]) as archive:
        archive.extractall(to)
    for script in to.glob("*.data/scripts/*"):
        script.chmod(0o755)
    return to


def find(wheel, pattern):
    found = list(wheel.glob(pattern))
    assert len(found) == 1, f"{pattern}: {found}"
    return found[0]


def program(wheel, name):
    return find(wheel, f"*.data/scripts/{name}")


def test_the_client_asks_for_its_own_version():
    text = (ROOT / "clients/python/pyproject.toml").read_text()
    version = re.search(r'^__version__ = "(.*)"', (ROOT / "clients/python/attnd/__init__.py").read_text(), re.M).group(1)
    assert re.search(r"^daemon = (.*)$", text, re.M).group(1) == f'["attnd-bin=={version}"]'


def test_a_release_that_is_none_is_refused():
    result = subprocess.run([ROOT / "deploy/wheel", "--frobnicate"], capture_output=True, text=True)
    assert result.returncode == 1 and "no option '--frobnicate'" in result.stderr


def test_sources_are_from_where_the_packages_are(tmp_path):
    """Both formats of apt, one place named twice, a release that is not this one, and a place that is switched off."""
    release = re.search(r"^VERSION_CODENAME=(\w+)$", Path("/etc/os-release").read_text(), re.M).group(1)
    (tmp_path / "parts").mkdir()
    (tmp_path / "sources.list").write_text(f"deb http://one.example/debian {release} main\n"
                                           f"#deb http://off.example/debian {release} main\n"
                                           "deb http://two.example/tools stable main\n")
    (tmp_path / "parts/debian.sources").write_text(
        "Types: deb\nURIs: http://one.example/debian/ https://three.example/debian-security\n"
        f"Suites: {release} {release}-security\nComponents: main contrib\n")
    (tmp_path / "apt.conf").write_text(f'Dir::Etc::SourceList "{tmp_path}/sources.list";\n'
                                       f'Dir::Etc::SourceParts "{tmp_path}/parts";\n')
    said = run(ROOT / "deploy/attnd-bin/sources", env={**os.environ, "APT_CONFIG": str(tmp_path / "apt.conf")})
    assert [line.split("] ")[1] for line in said.splitlines()] == [
        f"http://one.example/debian {release} main", f"http://one.example/debian {release}-security main",
        f"https://three.example/debian-security {release} main",
        f"https://three.example/debian-security {release}-security main"]


@with_wheel
def test_it_is_small_enough():
    assert BUILT[-1].stat().st_size <= MEGABYTES * 1000 * 1000


@with_wheel
def test_what_it_says_of_its_files_is_right(wheel):
    """Every file is in RECORD once, by its sum: pip removes what is there."""
    record = find(wheel, "*.dist-info/RECORD")
    rows = {name: (digest, size) for name, digest, size in csv.reader(record.read_text().splitlines())}
    files = {path.relative_to(wheel).as_posix(): path for path in wheel.rglob("*") if path.is_file()}
    assert set(rows) == set(files)
    for name, path in files.items():
        if path != record:
            digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
            assert rows[name] == (f"sha256={digest}", str(path.stat().st_size)), name


@with_wheel
def test_its_name_and_its_words_agree(wheel):
    name, version, python, abi, platform = BUILT[-1].stem.split("-")
    metadata = find(wheel, "*.dist-info/METADATA").read_text()
    assert "Name: attnd-bin\n" in metadata and f"Version: {version}\n" in metadata
    assert "Requires-Dist" not in metadata
    assert f"Tag: {python}-{abi}-{platform}\n" in find(wheel, "*.dist-info/WHEEL").read_text()


@with_wheel
@pytest.mark.parametrize("name", ["attnd", "attnctl"])
def test_a_program_needs_glibc_alone(wheel, name):
    limit = tuple(map(int, re.search(r"manylinux_(\d+)_(\d+)_", BUILT[-1].name).groups()))
    path = program(wheel, name)
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", readelf("-d", path)))
    assert needed <= {"libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2"}
    versions = {tuple(map(int, found.split("."))) for found in re.findall(r"GLIBC_([\d.]+)", readelf("-V", path))}
    assert max(versions)[:2] <= limit
    assert "RPATH" not in readelf("-d", path) and "RUNPATH" not in readelf("-d", path)


@with_wheel
@pytest.mark.parametrize("name", ["attnd", "attnctl"])
def test_a_program_is_hardened_and_says_its_version(wheel, name):
    path = program(wheel, name)
    assert missing(path) == []
    version = BUILT[-1].name.split("-")[1]
    assert run(path, "--version").split()[:2] == [name, version]


@with_wheel
def test_every_library_has_its_licence(wheel):
    licences = find(wheel, "*.dist-info/licenses")
    notice = (licences / "NOTICE").read_text()
    libraries = {path.name for path in (licences / "libraries").iterdir()}
    listed = dict(line.split() for line in notice.split("snapshot.debian.org.\n")[1].splitlines() if line)
    assert set(listed) == libraries
    for name in ("zeromq3", "openssl", "curl", "sqlite3", "openblas", "libmicrohttpd", "node-d3"):
        assert name in libraries
    for text in (licences / "libraries").iterdir():
        for common in re.findall(r"/usr/share/common-licenses/((?:L?GPL|Apache)-[\d.]*\d)", text.read_text(errors="replace")):
            assert (licences / "common-licenses" / common).exists(), f"{text.name}: {common}"


@with_wheel
def test_the_manual_and_the_shells_go_with_it(wheel):
    share = find(wheel, "*.data/data/share")
    assert (share / "man/man8/attnd.8").exists() and (share / "man/man1/attnctl-summary.1").exists()
    assert (share / "bash-completion/completions/attnctl").exists()


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Weights, queries and keys, and projections: every kernel, OpenBLAS and LAPACK."""
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(2, 4, 40, 40))
    path = tmp_path_factory.mktemp("arrays") / "arrays.npz"
    arrays = {"decoder.0.self": np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)}
    arrays.update({f"decoder.1.self.{one}": rng.normal(size=(2, 4, 40, 16)) for one in "qkv"})
    arrays.update({f"decoder.0.self.w{one}": rng.normal(size=(64, 64)) / 8 for one in "qkvo"})
    np.savez(path, **{name: array.astype(np.float32) for name, array in arrays.items()})
    return path


def numbers(arrays, *command):
    text = run(*command, "analyze", "--json", "--heads", "4", arrays)
    return [float(found) for found in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", text)]


@with_wheel
def test_its_numbers_are_those_of_the_build(wheel, arrays):
    """Other copies of OpenBLAS and LAPACK may round otherwise, and do nothing else otherwise."""
    here, built = numbers(arrays, program(wheel, "attnctl")), numbers(arrays, os.environ["ATTNCTL_BIN"])
    assert len(here) > 100
    np.testing.assert_allclose(here, built, rtol=1e-4, atol=1e-5)


@with_wheel
@with_old_cpu
def test_a_processor_without_avx_gets_the_same_numbers(wheel, arrays):
    here = numbers(arrays, program(wheel, "attnctl"))
    there = numbers(arrays, "qemu-x86_64", "-cpu", OLD_CPU, program(wheel, "attnctl"))
    np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-5)

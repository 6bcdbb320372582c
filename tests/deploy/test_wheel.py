# SPDX-License-Identifier: MIT
"""The wheel attnd-bin: what deploy/wheel left in dist/, if it did. Building it takes too long for every test run;
`deploy/wheel --check` uses it in a clean system."""
import base64
import csv
import hashlib
import http.server
import importlib.util
import os
import re
import select
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import zipfile
from pathlib import Path

import msgpack
import numpy as np
import pytest
from commands import ROOT
from commands import output as run
from test_hardening import missing, readelf

sys.path.insert(0, str(ROOT / "tests/e2e"))
import zmtp  # noqa: E402
from harness import Attnd, Trainer, wait_until  # noqa: E402

BUILT = sorted((ROOT / "dist").glob("attnd_bin-*.whl"))
MEGABYTES = 25
OLD_CPU = "Nehalem"  # SSE4.2, no AVX


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The newest, unpacked, its scripts executable as pip makes them."""
    if not BUILT:
        pytest.skip("there is no wheel in dist/: deploy/wheel makes it")
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


REFUSED = {
    "musl": ("confstr", ValueError("unrecognized configuration name"), "this system has another C library, such as musl"),
    "old": ("confstr", "glibc 2.31", "this system has glibc 2.31"),
    "new": ("confstr", "glibc 2.100", "pip did not find that one here, or is older than 20.3"),
    "arm": ("machine", "aarch64", "this processor is aarch64"),
    "mac": ("system", "Darwin", "this is Darwin"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_where_no_wheel_fits_pip_is_told_why(case, monkeypatch):
    name, answer, why = REFUSED[case]
    monkeypatch.syspath_prepend(ROOT / "deploy/attnd-bin")
    refuse = importlib.import_module("refuse")

    def answered(*_):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(refuse.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(refuse.os if name == "confstr" else refuse.platform, name, answered)
    with pytest.raises(SystemExit) as said:
        refuse.get_requires_for_build_wheel()
    assert f" and {why}: build attnd from source here" in str(said.value)


def test_the_refusal_and_the_wheel_agree():
    tag = re.search(r"^tag=manylinux_(\d+)_(\d+)_x86_64$", (ROOT / "deploy/wheel").read_text(), re.M).groups()
    text = (ROOT / "deploy/attnd-bin/refuse.py").read_text()
    assert f"OLDEST = ({', '.join(tag)})" in text and f"glibc {'.'.join(tag)} or newer" in text


def test_sources_are_from_where_the_packages_are(tmp_path):
    """Both formats of apt, one place named twice, backports, a release that is not this one, and a place that is switched off."""
    release = re.search(r"^VERSION_CODENAME=(\w+)$", Path("/etc/os-release").read_text(), re.M).group(1)
    (tmp_path / "parts").mkdir()
    (tmp_path / "sources.list").write_text(f"deb http://one.example/debian {release} main\n"
                                           f"#deb http://off.example/debian {release} main\n"
                                           f"deb http://one.example/debian {release}-backports main\n"
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


def test_it_is_small_enough(wheel):
    assert BUILT[-1].stat().st_size <= MEGABYTES * 1000 * 1000


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


def test_its_name_and_its_words_agree(wheel):
    name, version, python, abi, platform = BUILT[-1].stem.split("-")
    metadata = find(wheel, "*.dist-info/METADATA").read_text()
    assert "Name: attnd-bin\n" in metadata and f"Version: {version}\n" in metadata
    assert "Requires-Dist" not in metadata
    assert f"Tag: {python}-{abi}-{platform}\n" in find(wheel, "*.dist-info/WHEEL").read_text()


@pytest.mark.parametrize("name", ["attnd", "attnctl"])
def test_a_program_needs_glibc_alone(wheel, name):
    limit = tuple(map(int, re.search(r"manylinux_(\d+)_(\d+)_", BUILT[-1].name).groups()))
    path = program(wheel, name)
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", readelf("-d", path)))
    assert needed <= {"libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2"}
    versions = {tuple(map(int, found.split("."))) for found in re.findall(r"GLIBC_([\d.]+)", readelf("-V", path))}
    assert max(versions)[:2] <= limit
    assert "RPATH" not in readelf("-d", path) and "RUNPATH" not in readelf("-d", path)


@pytest.mark.parametrize("name", ["attnd", "attnctl"])
def test_a_program_is_hardened_and_says_its_version(wheel, name):
    path = program(wheel, name)
    assert missing(path) == []
    version = BUILT[-1].name.split("-")[1]
    assert run(path, "--version").split()[:2] == [name, version]


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


def test_its_numbers_are_those_of_the_build(wheel, arrays):
    """Other copies of OpenBLAS and LAPACK may round otherwise, and do nothing else otherwise."""
    here, built = numbers(arrays, program(wheel, "attnctl")), numbers(arrays, os.environ["ATTNCTL_BIN"])
    assert len(here) > 100
    np.testing.assert_allclose(here, built, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="there is no qemu-x86_64 (qemu-user)")
def test_a_processor_without_avx_gets_the_same_numbers(wheel, arrays):
    here = numbers(arrays, program(wheel, "attnctl"))
    there = numbers(arrays, "qemu-x86_64", "-cpu", OLD_CPU, program(wheel, "attnctl"))
    np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-5)


TRAINED = """
import torch
model = torch.nn.Sequential(torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2))
epochs = 2
def train_one_epoch(model):
    model.train()
    model(torch.rand(3, 5, 8)).sum().backward()
"""


@pytest.mark.skipif(not importlib.util.find_spec("ensurepip"), reason="there is no pip (python3-venv)")
def test_the_readme_begins_with_commands_that_do_what_they_say(wheel, tmp_path):
    """As they stand there, but for the first, which has built the wheel; and one job, as it says."""
    pytest.importorskip("torch")
    text = (ROOT / "README.md").read_text()
    (builds, installs), looks = (re.findall(r"^```sh\n(.*?)^```", text, re.S | re.M)[:2][n].splitlines() for n in (0, 1))
    assert builds.startswith("deploy/wheel ")
    (tmp_path / "train.py").write_text(TRAINED + re.search(r"^```python\n(.*?)^```", text, re.S | re.M).group(1))
    run(sys.executable, "-m", "venv", "--system-site-packages", tmp_path / "venv")
    runtime = tempfile.mkdtemp(prefix="attnd-")  # a socket's path is short
    there = {"PATH": f"{tmp_path}/venv/bin:/usr/bin:/bin", "XDG_STATE_HOME": f"{tmp_path}/state", "XDG_RUNTIME_DIR": runtime,
             "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "OMP_NUM_THREADS": "1"}
    run("bash", "-euc", installs, cwd=ROOT, env=there)
    trained = subprocess.run(["python", "train.py"], cwd=tmp_path, env=there, capture_output=True, text=True, timeout=300)
    pid = int(re.search(r"was started \(process (\d+), ", trained.stderr).group(1))
    try:
        assert trained.returncode == 0
        page = re.search(r"^attnd: the page is (\S+)#/overview\?job=gpt-small on ", trained.stderr, re.M).group(1)
        said = run("bash", "-euc", "\n".join(looks), cwd=tmp_path, env=there)
        assert said.startswith(f"{page}\n") and "nothing is wrong" in said.replace("all is well", "nothing is wrong")
        assert re.search(r"^encoder\.1\.self( +[01]\.\d+){2}", said, re.M), said
    finally:
        os.kill(pid, signal.SIGKILL)
        shutil.rmtree(runtime)


BUNDLES = re.findall(r'^    "(/etc/.*?)"', (ROOT / "deploy/attnd-bin/portable.c").read_text(), re.M)
ELSEWHERE = "/etc/elsewhere.pem"


@pytest.fixture(scope="module")
def hook(tmp_path_factory):
    """A place for webhooks on TLS: its port, what was posted, and the file with its authority."""
    made = tmp_path_factory.mktemp("authority")
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=attnd", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", made / "key", "-out", made / "authority")
    posted = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            posted.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made / "authority", made / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, posted, made / "authority"
    server.shutdown()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("openssl"), reason="needs root, and the program openssl")
@pytest.mark.parametrize("place", [*BUNDLES, ELSEWHERE, None])
def test_a_webhook_trusts_the_authorities_where_a_distribution_keeps_them(wheel, hook, place, tmp_path, monkeypatch):
    """The daemon's /etc has nothing but the file at `place`."""
    port, posted, authority = hook
    put = f"mkdir -p {os.path.dirname(place)} && cp {authority} {place} &&" if place else ""
    alone = tmp_path / "attnd"
    alone.write_text(f"#!/bin/sh\nexec unshare -m sh -c 'mount -t tmpfs none /etc && {put} exec {program(wheel, 'attnd')} "
                     "\"$@\"' sh \"$@\"\n")
    alone.chmod(0o755)
    monkeypatch.setattr("harness.ATTND", str(alone))
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    if place == ELSEWHERE:
        monkeypatch.setenv("SSL_CERT_FILE", place)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    attnd = Attnd("window.unit=step", "window.rank_grace=0", "alerts.retries=0", f"alerts.webhook=https://127.0.0.1:{port}/")
    try:
        trainer, before = Trainer(attnd, "gpt"), len(posted)
        for step in range(4):
            trainer.attention(np.eye(16, dtype=np.float32)[None, None], step=step, causal=True)
        if place:
            wait_until(lambda: attnd.stats()["notified"] >= 1, "the notification")
            assert len(posted) > before
        else:
            wait_until(lambda: attnd.stats()["notify_failed"] >= 1, "the refusal")
            wait_until(lambda: "certificate" in attnd.log_text(), "the reason in the log")
            assert len(posted) == before
        trainer.close()
    finally:
        attnd.discard()


def test_a_name_that_begins_with_a_zero_byte_is_refused(wheel, monkeypatch):
    """ZeroMQ keeps such names for itself (RFC 28): a peer that gives itself one is not heard."""
    monkeypatch.setattr("harness.ATTND", str(program(wheel, "attnd")))
    attnd = Attnd()
    with zmtp.introduce(zmtp.connect(attnd.endpoint("control")), b"DEALER", b"\0abcd") as peer:
        peer.sendall(zmtp.frame(msgpack.packb([0, 1, "ping", {}])))
        assert attnd.call("ping")["version"]
        assert not select.select([peer], [], [], 0)[0]
    attnd.close()

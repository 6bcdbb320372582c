# SPDX-License-Identifier: MIT
"""The units: systemd's own judgement of them, and that they agree with the config."""
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "deploy/systemd"
ATTND = os.environ["ATTND_BIN"]
NAMES = ("ingest", "publish", "control", "tap", "http")

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def installed(tmp_path):
    """The units as they are installed, with the program where it is here."""
    for unit in UNITS.glob("attnd*.s*t"):
        shutil.copy(unit, tmp_path)
    text = (UNITS / "attnd.service").read_text()
    assert "ExecStart=/usr/bin/attnd " in text
    (tmp_path / "attnd.service").write_text(text.replace("/usr/bin/attnd", ATTND))
    return tmp_path


def exposure(unit, threshold):
    return run("systemd-analyze", "security", "--offline=true", f"--threshold={threshold}", str(unit))


def test_exposure_is_1_5_at_most():
    result = exposure(UNITS / "attnd.service", 15)
    assert result.returncode == 0, result.stdout[-300:]


def test_the_threshold_can_be_missed(tmp_path):
    bare = tmp_path / "bare.service"
    bare.write_text("[Service]\nExecStart=/bin/true\n")
    assert exposure(bare, 15).returncode != 0


def test_systemd_understands_every_line(installed):
    result = run("systemd-analyze", "verify", "--man=no", *map(str, installed.iterdir()))
    assert result.returncode == 0 and "attnd" not in result.stderr, result.stderr


def test_a_line_that_is_none_is_noticed(installed):
    with open(installed / "attnd-tap.socket", "a") as unit:
        unit.write("Bananas=yes\n")
    assert "Bananas" in run("systemd-analyze", "verify", "--man=no", str(installed / "attnd-tap.socket")).stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_socket_stands_for_its_endpoint(name):
    """Its port is the default of the config, its name the section's."""
    unit = (UNITS / f"attnd-{name}.socket").read_text()
    config = run(ATTND, "--print-config").stdout
    section = re.search(rf"^{name}:\n((?:[ #].*\n|\n)*)", config, re.M).group(1)
    address = re.search(r"^ +endpoint: tcp://(\S+)", section, re.M).group(1)
    assert f"ListenStream={address}\n" in unit
    assert f"FileDescriptorName={name}\n" in unit and "Service=attnd.service\n" in unit


def test_the_user_and_its_directories(tmp_path):
    """As systemd makes them in an empty system."""
    (tmp_path / "etc").mkdir()
    for name in ("sysusers", "tmpfiles"):
        (tmp_path / f"usr/lib/{name}.d").mkdir(parents=True)
        shutil.copy(UNITS / f"attnd.{name}", tmp_path / f"usr/lib/{name}.d/attnd.conf")
    result = run("systemd-sysusers", f"--root={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert re.search(r"^attnd:[^:]*:\d+:\d+:[^:]*:/var/lib/attnd:/usr/sbin/nologin$", (tmp_path / "etc/passwd").read_text(), re.M)
    result = run("systemd-tmpfiles", "--create", f"--root={tmp_path}")
    if os.geteuid() == 0:
        assert result.returncode == 0, result.stderr
        assert (tmp_path / "var/lib/attnd").stat().st_mode & 0o777 == 0o750
        assert (tmp_path / "run/attnd").stat().st_mode & 0o777 == 0o755


def test_the_unit_finds_its_config_and_its_history(tmp_path):
    """What ExecStart names is config/attnd.yaml, and XDG_STATE_HOME leads to the state directory."""
    text = (UNITS / "attnd.service").read_text()
    assert "ExecStart=/usr/bin/attnd --config /etc/attnd/attnd.yaml\n" in text
    assert run(ATTND, "--check-config", str(ROOT / "config/attnd.yaml")).returncode == 0
    assert "Environment=XDG_STATE_HOME=/var/lib\n" in text and "StateDirectory=attnd\n" in text

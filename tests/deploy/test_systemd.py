# SPDX-License-Identifier: MIT
"""The units: systemd's own judgement of them, and that they agree with the config."""
import os
import re
import shutil

import pytest
from commands import ROOT, output, run

UNITS = ROOT / "deploy/systemd"
ATTND = os.environ["ATTND_BIN"]
NAMES = ("ingest", "publish", "control", "tap", "reliable", "http")

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")


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
    return run("systemd-analyze", "security", "--offline=true", f"--threshold={threshold}", unit)


def test_exposure_is_1_5_at_most():
    result = exposure(UNITS / "attnd.service", 15)
    assert result.returncode == 0, result.stdout[-300:]


def test_the_threshold_can_be_missed(tmp_path):
    bare = tmp_path / "bare.service"
    bare.write_text("[Service]\nExecStart=/bin/true\n")
    assert exposure(bare, 15).returncode != 0


def test_users_keep_their_numbers():
    """HTTP asks the kernel whose a connection is: in a user namespace everybody else is nobody."""
    text = (UNITS / "attnd.service").read_text()
    assert "\nPrivateUsers=" not in text and "AF_NETLINK" in re.search(r"^RestrictAddressFamilies=(.*)$", text, re.M).group(1).split()


def test_systemd_understands_every_line(installed):
    result = run("systemd-analyze", "verify", "--man=no", *installed.iterdir())
    assert result.returncode == 0 and "attnd" not in result.stderr, result.stderr


def test_a_line_that_is_none_is_noticed(installed):
    with open(installed / "attnd-tap.socket", "a") as unit:
        unit.write("Bananas=yes\n")
    assert "Bananas" in run("systemd-analyze", "verify", "--man=no", installed / "attnd-tap.socket").stderr


def settings(section):
    """Key to value, of a section of the service."""
    text = re.search(rf"^\[{section}\]\n(.*?)(?=^\[|\Z)", (UNITS / "attnd.service").read_text(), re.M | re.S).group(1)
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.M))


def test_attnd_ends_before_the_training_does():
    """A share of the machine, and what the kernel ends first."""
    service = settings("Service")
    share = re.fullmatch(r"(\d+)%", service["MemoryMax"])
    assert share and 10 <= int(share.group(1)) <= 50
    assert 0 < int(service["OOMScoreAdjust"]) <= 1000


def test_a_failed_start_is_tried_again_for_good():
    unit, service = settings("Unit"), settings("Service")
    assert unit["StartLimitIntervalSec"] == "0" and "StartLimitBurst" not in unit
    assert service["Restart"] == "on-failure" and service["RestartSec"] == "2s"


def test_the_budgets_fit_the_memory_that_is_promised():
    """They add up to what the README says, with the defaults."""
    config = output(ATTND, "--print-config")
    units = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    often = {"": 1, " twice": 2, " three and a quarter times": 3.25, " three and three quarters times": 3.75}
    readme = " ".join((UNITS / "README.md").read_text().split())
    named = re.search(r"The budgets of the config \((.*?)\) add up to ([\d.]+) GiB", readme)
    total = 0
    for section, key, times in re.findall(rf"`(\w+)\.(\w+)`({'|'.join(sorted(often, reverse=True))})", named.group(1)):
        value = re.search(rf"^{section}:\n(?:[ #].*\n|\n)*? +{key}: (\d+)(\w+)$", config, re.M)
        total += int(value.group(1)) * units[value.group(2)] * often[times]
    assert round(total / 2**30, 1) == float(named.group(2))


@pytest.mark.parametrize("name", NAMES)
def test_a_socket_stands_for_its_endpoint(name):
    """Its path, or port, is that of the service, its name the section's."""
    unit = (UNITS / f"attnd-{name}.socket").read_text()
    service = re.search(r"^ExecStart=(.*)$", (UNITS / "attnd.service").read_text(), re.M).group(1)
    address = re.search(r"--address (\S+)", service).group(1)
    config = output(ATTND, "--address", address, "--print-config")
    section = re.search(rf"^{name}:\n((?:[ #].*\n|\n)*)", config, re.M).group(1)
    place = re.search(r"^ +endpoint: (?:tcp|ipc)://(\S+)", section, re.M).group(1)
    assert f"ListenStream={place}\n" in unit
    if name != "http":
        assert place == f"/run/attnd/{name}"
        assert "SocketMode=0660\nSocketGroup=attnd\n" in unit
    assert f"FileDescriptorName={name}\n" in unit and "Service=attnd.service\n" in unit


def test_the_user_and_its_directories(tmp_path):
    """As systemd makes them in an empty system."""
    (tmp_path / "etc").mkdir()
    for name in ("sysusers", "tmpfiles"):
        (tmp_path / f"usr/lib/{name}.d").mkdir(parents=True)
        shutil.copy(UNITS / f"attnd.{name}", tmp_path / f"usr/lib/{name}.d/attnd.conf")
    output("systemd-sysusers", f"--root={tmp_path}")
    assert re.search(r"^attnd:[^:]*:\d+:\d+:[^:]*:/var/lib/attnd:/usr/sbin/nologin$", (tmp_path / "etc/passwd").read_text(), re.M)
    result = run("systemd-tmpfiles", "--create", f"--root={tmp_path}")
    if os.geteuid() == 0:
        assert result.returncode == 0, result.stderr
        assert (tmp_path / "var/lib/attnd").stat().st_mode & 0o777 == 0o750
        assert (tmp_path / "run/attnd").stat().st_mode & 0o777 == 0o750


def test_the_unit_finds_its_config_and_its_history(tmp_path):
    """What ExecStart names is config/attnd.yaml, and XDG_STATE_HOME leads to the state directory."""
    text = (UNITS / "attnd.service").read_text()
    assert "ExecStart=/usr/bin/attnd --address /run/attnd --config /etc/attnd/attnd.yaml\n" in text
    assert "RuntimeDirectory=attnd\nRuntimeDirectoryMode=0750\n" in text
    output(ATTND, "--check-config", ROOT / "config/attnd.yaml")
    assert "Environment=XDG_STATE_HOME=/var/lib\n" in text and "StateDirectory=attnd\n" in text

# SPDX-License-Identifier: MIT
"""What the Containerfile says agrees with the programs it is about."""
import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

CONTAINER = Path(__file__).resolve().parents[2] / "deploy/container"
TEXT = re.sub(r"\\\n *", "", (CONTAINER / "Containerfile").read_text())
ATTND = os.environ["ATTND_BIN"]
PORTS = dict(ingest=5570, publish=5571, control=5572, tap=5573, http=5580)


def words(instruction):
    """The last such line, as a list."""
    return json.loads(re.findall(rf"^{instruction} .*?(\[.*\])$", TEXT, re.M)[-1])


def test_the_config_binds_the_ports_that_are_exposed():
    check = subprocess.run([ATTND, "--check-config", CONTAINER / "attnd.yaml"], capture_output=True, text=True)
    assert check.returncode == 0, check.stderr
    shown = subprocess.run([ATTND, "--config", CONTAINER / "attnd.yaml", "--print-config"], capture_output=True, text=True)
    bound = [int(port) for port in re.findall(r"^ +endpoint: tcp://\*:(\d+)$", shown.stdout, re.M)]
    exposed = [int(port) for port in re.search(r"^EXPOSE (.*)$", TEXT, re.M).group(1).split()]
    assert sorted(bound) == exposed == sorted(PORTS.values())


def test_it_is_nobody_privileged():
    assert re.search(r"^USER (\d+):(\d+)$", TEXT, re.M).groups() == ("10001", "10001")


def test_the_health_check_tells_a_running_attnd_from_none():
    check = words("HEALTHCHECK")
    assert check[:2] == ["/usr/bin/attnctl", "ping"]
    assert f"tcp://127.0.0.1:{PORTS['control']}" in check
    with tempfile.TemporaryDirectory() as directory:
        endpoint = f"ipc://{directory}/control"
        ping = [os.environ["ATTNCTL_BIN"]] + [endpoint if "5572" in word else word for word in check[1:]]
        assert subprocess.run(ping, capture_output=True).returncode != 0
        settings = [word for name in ("ingest", "publish", "control", "tap")
                    for word in ("--set", f"{name}.endpoint=ipc://{directory}/{name}")]
        attnd = subprocess.Popen([ATTND, *settings, "--set", "http.enabled=false", "--set", "history.enabled=false"],
                                 stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 30
            while subprocess.run(ping, capture_output=True).returncode != 0:
                assert time.monotonic() < deadline, "attnd does not answer"
        finally:
            attnd.terminate()
            assert attnd.wait(30) == 0

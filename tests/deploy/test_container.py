# SPDX-License-Identifier: MIT
"""What the Containerfile says agrees with the programs it is about."""
import json
import os
import re
import subprocess
import sys
import tempfile
import time

from commands import ROOT, output, run

CONTAINER = ROOT / "deploy/container"
TEXT = re.sub(r"\\\n *", "", (CONTAINER / "Containerfile").read_text())
ATTND = os.environ["ATTND_BIN"]
ADDRESS = re.search(r"^ENV ATTND_ADDRESS=(.*)$", TEXT, re.M).group(1)


def words(instruction):
    """The last such line, as a list."""
    return json.loads(re.findall(rf"^{instruction} .*?(\[.*\])$", TEXT, re.M)[-1])


def test_its_sockets_are_in_a_volume_and_nothing_listens_on_tcp_but_http():
    shown = output(ATTND, "--config", CONTAINER / "attnd.yaml", "--print-config", env=dict(os.environ, ATTND_ADDRESS=ADDRESS))
    assert ADDRESS in re.search(r"^VOLUME (.*)$", TEXT, re.M).group(1).split()
    assert re.findall(r"^ +endpoint: (tcp:.*)$", shown, re.M) == ["tcp://127.0.0.1:5580"]
    assert re.search(r"^EXPOSE (.*)$", TEXT, re.M).group(1) == "5580"


def test_clients_in_other_containers_find_it_without_a_word():
    sys.path.insert(0, str(ROOT / "clients/python"))
    from attnd.base import address
    assert ADDRESS in address.places(10001, None)


def test_it_is_nobody_privileged():
    assert re.search(r"^USER (\d+):(\d+)$", TEXT, re.M).groups() == ("10001", "10001")


def test_the_health_check_tells_a_running_attnd_from_none():
    check = words("HEALTHCHECK")
    assert check[:2] == ["/usr/bin/attnctl", "ping"]
    with tempfile.TemporaryDirectory() as directory:
        environment = dict(os.environ, ATTND_ADDRESS=directory)
        ping = [os.environ["ATTNCTL_BIN"], *check[1:]]
        assert run(*ping, env=environment).returncode != 0
        attnd = subprocess.Popen([ATTND, "--set", "http.enabled=false", "--set", "history.enabled=false"],
                                 stderr=subprocess.DEVNULL, env=environment)
        try:
            deadline = time.monotonic() + 30
            while run(*ping, env=environment).returncode != 0:
                assert time.monotonic() < deadline, "attnd does not answer"
        finally:
            attnd.terminate()
            assert attnd.wait(30) == 0

# SPDX-License-Identifier: MIT
"""A daemon that nobody names is found: by trainers that were there before, in whichever place it is, again after it was
killed, by attnctl and Python alike; and a place that others can write to is passed over by all."""
import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
from harness import PATIENCE_S, wait_until
from person import ATTNCTL

TRAIN = os.environ.get("ATTN_TRAIN", "build/clients/c/train")
TRAIN_PYTHON = """
import attnd, numpy, time
weights = numpy.full((1, 1, 2, 2), 0.5, "f4")
with attnd.Publisher("example-c") as publisher:
    while True:
        publisher.publish_attention(weights, stack="decoder", layer=0)
        time.sleep(0.005)
"""


@pytest.mark.parametrize("trainer", [(TRAIN, "0", "10000000"), (sys.executable, "-c", TRAIN_PYTHON)], ids=["c", "python"])
def test_a_trainer_finds_whichever_daemon_comes(person, trainer):
    training = person.start(*trainer, stdout=subprocess.DEVNULL)
    code, out, said = person.attnctl("jobs")
    assert (code, out) == (3, "") and f"no attnd answers in {person.place}, " in said
    daemon = person.daemon(person.elsewhere)
    wait_until(lambda: person.received(runtime=False), "its messages, where cron looks")
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()
    daemon = person.daemon(person.place)
    wait_until(lambda: person.received() if training.poll() is None else 1, "its messages in the other place")
    assert training.poll() is None
    assert f"at ipc://{person.place}/control" in person.attnctl("ping")[1]
    assert person.python("len(attnd.Control().jobs())") == "1"
    # The other sockets are beside the one that was found.
    code, out, said = person.attnctl("record", "example-c", f"{person.home}/run.rec", "--count", "3")
    assert code == 0 and os.path.getsize(f"{person.home}/run.rec") > 0, said
    assert person.attnctl("tail", "job/", "--count", "1")[1].startswith("job     example-c active")


def test_attnctl_waits_for_a_daemon_that_is_starting(person):
    asking = person.start(ATTNCTL, "ping", "--timeout", "60", stdout=subprocess.PIPE)
    person.daemon(person.place)
    out, said = asking.communicate(timeout=2 * PATIENCE_S)
    assert (asking.returncode, said) == (0, "") and f"at ipc://{person.place}/control" in out
    code, _, said = person.attnctl("ping", "--address", f"{person.home}/nowhere", "--timeout", "50ms")
    assert code == 3 and f"cannot reach attnd at ipc://{person.home}/nowhere/control within 0.05 s" in said


def test_all_pass_over_a_place_that_others_can_write_to(person):
    daemon = person.daemon(person.place)
    wait_until(lambda: person.attnctl("ping")[0] == 0, "the daemon")
    os.chmod(person.place, 0o777)
    code, _, said = person.attnctl("ping")
    assert code == 3 and f"; {person.place}: others can write to it (mode 0777)" in said
    sentence = re.match(r"attnctl: (.*)\. Start it", said)[1]
    assert person.python("attnd.Control(timeout=0.01).ping()") == f"TimeoutError: {sentence}"
    os.chmod(person.place, 0o700)
    assert person.attnctl("ping")[0] == 0
    if person.prefix:
        os.chown(person.place, 54321, -1)
        assert f"{person.place}: belongs to user 54321" in person.attnctl("ping")[2]
    assert daemon.poll() is None


def test_attnctl_says_that_an_address_is_for_another_user(person):
    if person.uid == 0:
        pytest.skip("root may enter any directory")
    person.daemon(person.place)
    wait_until(lambda: person.attnctl("ping")[0] == 0, "the daemon")
    os.chmod(person.place, 0)
    code, _, said = person.attnctl("ping", "--address", person.place, "--timeout", "50ms")
    tail_code, _, tail_said = person.attnctl("tail", "--address", person.place)  # else it waits for one to come
    os.chmod(person.place, 0o700)
    assert code == 3 and f"at ipc://{person.place}/control: permission denied: it is for another user; join" in said
    assert tail_code == 3 and f"at ipc://{person.place}/publish: permission denied" in tail_said


def test_the_page_is_opened_where_attnctl_says(person):
    person.daemon(person.place, "http.enabled=true", "http.endpoint=tcp://127.0.0.1:*")
    wait_until(lambda: person.attnctl("ping")[0] == 0, "the daemon")
    code, url, said = person.attnctl("page")
    assert code == 0, said
    with urllib.request.urlopen(url.strip(), timeout=PATIENCE_S) as page:  # root and the user are let in
        assert page.status == 200 and b"<html" in page.read()
    assert person.attnctl("page", "--endpoint", f"ipc://{person.place}/control")[1] == url

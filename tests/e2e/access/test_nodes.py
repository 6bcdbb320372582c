# SPDX-License-Identifier: MIT
"""Two machines with keys, each a network namespace: what deploy/README.md says, word by word, and who can do what."""
import ctypes
import http.client
import itertools
import os
import pathlib
import re
import signal
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
from harness import ATTND, PATIENCE_S, Trainer, wait_until
from keyed import SOCKETS, Keyed, Pair, Somebody
from web import Stream, Web, write_tokens

torch = pytest.importorskip("torch")
ROOT = pathlib.Path(__file__).resolve().parents[3]
README = (ROOT / "deploy" / "README.md").read_text()
ATTNCTL = os.path.abspath(os.environ.get("ATTNCTL_BIN", "build/clients/cli/attnctl"))
CLONE_NEWNET = 0x40000000
HOST = "10.77.0.1"
STEPS = itertools.count(1)
LIBC = ctypes.CDLL(None, use_errno=True)


def own_network():
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


class Node:
    """A network of its own. In a `with`, what is started or connected has that network."""

    def __init__(self):
        before = own_network()
        if LIBC.unshare(CLONE_NEWNET) != 0:
            os.close(before)
            raise OSError(ctypes.get_errno(), "unshare")
        self.network, self.before = own_network(), []
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        LIBC.setns(before, CLONE_NEWNET)
        os.close(before)

    def __enter__(self):
        self.before.append(own_network())
        assert LIBC.setns(self.network, CLONE_NEWNET) == 0

    def __exit__(self, *_):
        assert LIBC.setns(self.before[-1], CLONE_NEWNET) == 0
        os.close(self.before.pop())

    def ip(self, words, **keys):
        with self:
            return subprocess.run(["ip", *words.split()], capture_output=True, text=True, **keys)


@pytest.fixture
def nodes():
    """Two of them, between which lies a cable: attnd's, which is HOST, and the other."""
    if os.geteuid() != 0:
        pytest.skip("only root can make networks")
    try:
        here, there = Node(), Node()
    except OSError as error:
        pytest.skip(f"no network can be made here: {error}")
    made = here.ip(f"link add name eth0 type veth peer name eth0 netns /proc/self/fd/{there.network}", pass_fds=[there.network])
    if made.returncode != 0:
        pytest.skip(f"no cable can be made here: {made.stderr}")
    for i, node in enumerate((here, there)):
        assert node.ip(f"address add 10.77.0.{i + 1}/24 dev eth0").returncode == 0
        assert node.ip("link set eth0 up").returncode == 0
    yield here, there
    os.close(here.network)
    os.close(there.network)


class There(Keyed):
    host = HOST


def abilities(attnd, node, pair):
    """What somebody with this key can do from that node, as the table of the README says it."""
    with node:
        person = Somebody(attnd, pair)
        sockets = [name for name in SOCKETS if not person.is_refused(name)]
    asks = "control" in sockets and person.error("live", job="mine") is None
    steers = "control" in sockets and person.error("plan.set", job="mine", every=7) is None
    forges = owns = False
    if "ingest" in sockets:
        received = attnd.stats()["received"]
        run = bytes.fromhex(attnd.call("jobs")[0]["run"])
        Trainer(person, "mine", run=run).event("bye")
        train(Trainer(person, "other"), 0)
        forges = attnd.settled(received + 2)["dropped"].get("key") != 1
        owns = bool(wait_until(lambda: attnd.call("live", job="other"), "its own job"))
    person.context.destroy(linger=0)
    return " | ".join([", ".join(sockets) or "none", *("yes" if can else "no" for can in (asks, steers, forges, owns))])


def train(trainer, step, epoch=0):
    trainer.attention(np.full((1, 2, 4, 4), 0.25, np.float32), epoch=epoch, step=step)


def test_who_can_do_what_from_another_machine(nodes):
    here, there = nodes
    victim_key, reader, other = Pair(), Pair(), Pair()
    with here:
        attnd = There((victim_key, "publish", "mine"), (reader, "read", "*"), (other, "publish", "other"))
    with there:
        victim = Trainer(attnd.person(victim_key), "mine")
    train(victim, 0)
    wait_until(lambda: attnd.call("live", job="mine"), "the job")
    rows = {"no key, or an unknown one": [None, Pair()], "a `read` key (pattern `*`)": [reader], "the `publish` key of another job": [other]}
    for name, pairs in rows.items():
        for pair in pairs:
            assert f"\n| {name} | {abilities(attnd, there, pair)} |\n" in README
    train(victim, 1)
    wait_until(lambda: attnd.call("live", job="mine")[0]["step"] == 1, "that the victim goes on")


class WebThere(Web):
    """An attnd with HTTP at an address of its network."""

    def connect(self):
        return http.client.HTTPConnection(HOST, self.port, timeout=PATIENCE_S)


def sights(web, trainers, witness, headers):
    """What somebody with these headers sees, as the table of the README says it. `witness`: a stream that hears all jobs."""
    def gets(path, word):
        response, body = web.get(path, **headers)
        return response.status == 200 and word in body

    def heard(stream, job):
        """The jobs of which the stream hears something until it hears a new step of this one."""
        step, found = next(STEPS), set()
        train(trainers[job], step, epoch=1)
        while (job, step) not in found:
            event = stream.until("live")[2]
            found.add((event["job"], event["step"]))
        return {job for job, _ in found}

    def hears():
        if web.get("/api/v1/jobs", **headers)[0].status != 200:
            assert web.get("/api/v1/events", **headers)[0].status == 401
            return False
        stream = Stream(web, "?kinds=live", **headers)
        stream.next()
        heard(witness, "mine")  # all streams have one order: this comes before what is sent from here on
        found = heard(stream, "other")
        stream.close()
        return "mine" in found

    lists = {gets(path, b"mine") for path in ("/api/v1/jobs", "/api/v1/runs", "/metrics")}
    assert len(lists) == 1
    return " | ".join("yes" if can else "no" for can in (gets("/api/v1/live?job=mine", b"decoder"), hears(), lists.pop(),
                                                         gets("/api/v1/live?job=other", b"decoder")))


def test_who_sees_what_over_http_from_another_machine(nodes, tmp_path):
    here, there = nodes
    own, every = "token-of-the-other-job", "token-of-all-the-jobs"
    write_tokens(tmp_path / "tokens", f"{own} read other", f"{every} read *", "user:root read *")
    with here:
        web = WebThere("http.live_interval=0s", f"http.token_file={tmp_path / 'tokens'}", f"http.endpoint=tcp://{HOST}:*")
    trainers = {job: Trainer(web, job) for job in ("mine", "other")}
    for trainer in trainers.values():
        train(trainer, 0)
        trainer.event("epoch_end")
    wait_until(lambda: len(web.call("runs")["runs"]) == 2, "both in the history")
    rows = {"nothing, a wrong token, or a user's name in a header":
            [{}, dict(Authorization="Bearer " + every[:-1]), dict(X_Forwarded_User="root"), dict(X_Forwarded_For="127.0.0.1")],
            "a token for its own job": [dict(Authorization=f"Bearer {own}")],
            "a token for all jobs": [dict(Authorization=f"Bearer {every}")]}
    with there:
        witness = Stream(web, "?kinds=live", Authorization=f"Bearer {every}")
        for name, visitors in rows.items():
            for headers in visitors:
                assert f"\n| {name} | {sights(web, trainers, witness, headers)} |\n" in README


# Beside the README, which says what is typed: attnd in the background, with a history of its own where none is named, and a copy
# instead of one to another machine.
SHELL = """set -e
attnd() {
    "$ATTND_BIN" --set "history.path=$HOME/history.db" "$@" --set http.enabled=false > "$HOME/log" 2>&1 & echo $! > "$HOME/pid"
}
scp() { cp "${@:1:$#-1}" "$HOME/"; }
"""


def blocks():
    """The three of the README that set up two machines."""
    return re.findall(r"```sh\n(.*?)```", README[README.index("Trainings on several machines"):], re.S)[:3]


# A training that the history has something of when it ends.
TRAIN = """import time, numpy, attnd
with attnd.Publisher("mine", reliable=True) as publisher:
    while not publisher.stats()["sent"]:
        publisher.publish_attention(numpy.full((1, 2, 4, 4), 0.25, numpy.float32), stack="decoder", layer=0)
        time.sleep(0.1)
"""

# That of PyTorch 1.13 fails on Python 3.11 when it shall leave the output of ranks alone.
LAUNCHER = "-m torch.distributed.run" + (" --redirects 1 --tee 1" if torch.__version__ < "2" else "")


def environment(home):
    return {"PATH": f"{os.path.dirname(ATTNCTL)}:{os.environ['PATH']}", "HOME": str(home), "ATTND_BIN": os.path.abspath(ATTND),
            "PYTHONPATH": str(ROOT / "clients" / "python"), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def read_answer(home, server, word):
    """What attnctl says to somebody who may read."""
    env = {**environment(home), "ATTND_ADDRESS": f"tcp://{HOST}:5570", "ATTND_KEY": str(home / "reader.key"), "ATTND_SERVER_KEY": server}
    return subprocess.run([ATTNCTL, word], env=env, capture_output=True, text=True, timeout=PATIENCE_S).stdout


@pytest.fixture
def bash(tmp_path):
    """Starts a script at a node as the README's user types it, whose home is tmp_path. Ends all of them, and attnd."""
    running = []

    def start(node, script):
        with node:
            running.append(subprocess.Popen(["bash", "-c", SHELL + script], env=environment(tmp_path), cwd=tmp_path, text=True,
                                            stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return running[-1]
    yield start
    for process in running:
        process.kill()
        process.communicate()
    if (tmp_path / "pid").exists():
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_the_readme_sets_up_two_machines(nodes, tmp_path, bash):
    here, there = nodes
    page = (ROOT / "deploy" / "site" / "pages" / "nodes.md").read_text()
    (tmp_path / "ddp.py").write_text(re.search(r'title="ddp.py"\n(.*?)```', page, re.S)[1])
    (tmp_path / "train.py").write_text(TRAIN)
    server, client, training = [block.replace("HOST", HOST).replace("python3", sys.executable) for block in blocks()]

    made = bash(here, f"{server}attnctl key new ~/reader.key").communicate(timeout=PATIENCE_S)
    public, reader = (tmp_path / "server.pub").read_text().strip(), made[0].split()[-1]
    assert f" at tcp://{HOST}:5572, up " in made[0] and re.search(r"^you +\S{40} +admin", made[0], re.MULTILINE), made
    (tmp_path / ".config/attnd/access").open("a").write(f"{reader} read *\n")
    wait_until(lambda: "event=started" in (tmp_path / "log").read_text(), "attnd")
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGHUP)
    wait_until(lambda: "event=keys_read keys=4" in (tmp_path / "log").read_text(), "the reader's key")

    assert (tmp_path / "node.key").stat().st_mode & 0o777 == 0o600
    done = bash(there, client)
    said = done.communicate(timeout=PATIENCE_S)
    assert "attnd" in said[0] and re.search(r"^mine ", said[0], re.M) and done.returncode == 0, said
    with sqlite3.connect(f"file:{tmp_path / '.config/attnd/history.db'}?mode=ro", uri=True) as history:
        assert history.execute("SELECT job FROM runs").fetchall() == [("mine",)]

    exports = "".join(line + "\n" for line in client.splitlines() if line.startswith("export"))
    training = exports + training.replace("-m torch.distributed.run", LAUNCHER)
    ranks = [bash(node, training.replace("node_rank 0", f"node_rank {i}")) for i, node in enumerate((here, there))]
    for rank in ranks:
        said = rank.communicate(timeout=4 * PATIENCE_S)
        assert rank.returncode == 0, said
    with here:
        wait_until(lambda: re.search(r"^two-ranks .* 2/2 ", read_answer(tmp_path, public, "jobs"), re.M), "one run of two ranks")


def has_ended(process):
    """Whether the process is no more, or has only not been waited for yet."""
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_the_readme_gives_attnd_a_new_key(nodes, tmp_path, bash):
    here, there = nodes
    steps = README[README.index("### A new key for attnd"):README.index("### HTTP")].replace("HOST", HOST)
    settings = " ".join(re.findall(r"`(--set [^`]*)`", steps))
    server, client, _ = [block.replace("HOST", HOST) for block in blocks()]
    (tmp_path / "train.py").write_text("")
    (place,) = set(re.findall(r"tcp://[0-9.]+:[0-9]+", steps))
    new = re.sub(r"tcp://\S+", place, client).replace("server.pub", ".config/attnd/next.pub")  # a client of the next key
    started = server.replace("attnd --address", "attnctl key new next.key > next.pub\nattnd --address").replace(" &\n", f" {settings}\n")
    assert bash(here, started).communicate(timeout=PATIENCE_S) and settings
    wait_until(lambda: "event=started" in (tmp_path / "log").read_text(), "attnd")
    for script in (client, new):
        assert "attnd" in bash(there, script).communicate(timeout=PATIENCE_S)[0]

    before = int((tmp_path / "pid").read_text())
    os.kill(before, signal.SIGTERM)
    wait_until(lambda: has_ended(before), "the end of the first attnd")
    alone = f"attnd --address {place} --set keys.server=$HOME/.config/attnd/next.key --set keys.access=$HOME/.config/attnd/access\n"
    assert bash(here, alone).communicate(timeout=PATIENCE_S)
    wait_until(lambda: "event=started" in (tmp_path / "log").read_text(), "attnd with the next key alone")
    assert "attnd" in bash(there, new).communicate(timeout=PATIENCE_S)[0]

# SPDX-License-Identifier: MIT
"""The clients and their keys: from a file or the environment, and a sentence when they are wrong."""
import ctypes
import json
import logging
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import zmq
from harness import ATTNCTL, PATIENCE_S, Attnd, Reader, free_ports, wait_until
from keyed import Keyed, Pair
from test_keys import Rotating

ROOT = pathlib.Path(__file__).resolve().parents[3]

import attnd as client
from attnd.results.control import KeysError

TRAIN = os.environ.get("ATTN_TRAIN", "build/clients/c/train")
LIBATTN = ctypes.CDLL(os.path.join(os.path.dirname(os.path.abspath(TRAIN)), "libattn.so"))
LIBATTN.E_ARGUMENT, LIBATTN.E_TRANSPORT = -2, -5


@pytest.fixture
def key_file(tmp_path):
    """Writes the secret key of a pair to a file, as attnctl key new does."""
    def write(pair, mode=0o600, name="client.key", text=None):
        path = tmp_path / name
        path.unlink(missing_ok=True)
        path.write_text(text or f"# A secret key of attnd. Its public key is\n# {pair.public}\n{pair.secret}\n")
        path.chmod(mode)
        return str(path)
    return write


@pytest.fixture
def come(monkeypatch):
    """Makes the environment that of a client with this key, of a pair or as ATTND_KEY has it; by default it knows attnd's."""
    def with_keys(attnd, key, server=""):
        key, server = getattr(key, "secret", key), attnd.server.public if server == "" else server
        monkeypatch.setenv("ATTND_ADDRESS", attnd.endpoint("ingest"))
        for name, value in (("ATTND_KEY", key), ("ATTND_SERVER_KEY", server)):
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    return with_keys


def attnctl(*words):
    return subprocess.run([ATTNCTL, *words], capture_output=True, text=True, timeout=PATIENCE_S)


UNHEARD = "not attnd"  # "somebody who is silent, not attnd": so a client says where attnd stood still just when it was asked


def unless_unheard(ask):
    """What ask() returns, a text or what has one in `stderr`; it asks again while attnd was not heard."""
    def heard():
        answer = ask()
        return None if UNHEARD in getattr(answer, "stderr", str(answer)) else answer
    return wait_until(heard, "attnd to be heard")


def training_in_c():
    """A short one, once it has ended."""
    return unless_unheard(lambda: subprocess.run([TRAIN, "10", "1"], capture_output=True, text=True, timeout=2 * PATIENCE_S))


def told(caplog, publishes):
    """What a trainer is told while publishes(until) goes on, which it does until until() is true."""
    def one():
        caplog.clear()
        publishes(lambda: caplog.messages)
        return caplog.messages
    return unless_unheard(one)


def tries_to_publish(until):
    with client.Publisher("mine") as publisher:
        wait_until(lambda: publish(publisher) or until(), "the warning")


def wrong_keys(attnd, key_file):
    """What a client comes with, and what it is told."""
    stranger, control = Pair(), attnd.endpoint("control")
    public = key_file(attnd.owner, name="client.pub", text=attnd.owner.public)
    return [
        ((None, None), f"attnd at {control} asks for keys: set ATTND_KEY, the file of this client's, and ATTND_SERVER_KEY, attnd's "
                       "public one"),
        ((stranger.secret, attnd.server.public), f"attnd at {control} does not let this client in: keys.access has no line for its "
                                                 f"public key {stranger.public} with a role for the control socket"),
        ((key_file(attnd.owner), stranger.public), f"attnd at {control} has another key than ATTND_SERVER_KEY. Remedy: the public half "
                                                   "of the key that attnd has now (attnctl key show FILE, of its keys.server)"),
        ((key_file(attnd.owner), None), "ATTND_SERVER_KEY: not set; it is attnd's public key, beside ATTND_KEY"),
        ((public, attnd.server.public), f"{public}: may be a public key: a file of a secret one begins "
                                                "with '# A secret key of attnd' (attnctl key new makes such a file)"),
        ((None, attnd.server.public), "ATTND_KEY: not set; it is the file of this client's key, beside ATTND_SERVER_KEY"),
        (("/nonexistent", attnd.server.public), "/nonexistent: No such file or directory"),
    ]


def test_a_wrong_key_is_said(come, key_file):
    attnd = Keyed()
    for environment, sentence in wrong_keys(attnd, key_file):
        come(attnd, *environment)
        ended = attnctl("ping")
        assert (ended.returncode, ended.stderr) == (3, f"attnctl: {sentence}\n")
        with pytest.raises((ConnectionError, ValueError)) as error:
            with client.Control() as control:
                try:
                    control.ping()
                except ConnectionError as first:
                    assert str(first) == sentence
                control.ping()  # once more, when it was turned away already
        assert str(error.value) == sentence
    come(attnd, key_file(attnd.owner, 0o644))
    assert "others can read it, so it is no secret" in attnctl("ping").stderr
    with pytest.raises(ValueError, match="others can read it, so it is no secret"):
        client.Control()


def test_a_key_that_could_not_be_tried_at_first_is_tried_again(come, monkeypatch):
    """attnd stood still just then; a call that ends without an answer says that it is the key."""
    attnd, stranger = Keyed(), Pair()
    come(attnd, stranger)
    looks = []

    def says_so():
        looks[:] = [lambda: None]
        with client.Control(timeout=1.5) as control, pytest.raises((TimeoutError, KeysError)) as error:
            looks.append(control._link.wrong_keys)
            monkeypatch.setattr(control._link, "wrong_keys", lambda: looks.pop(0)() if len(looks) > 1 else looks[0]())
            control.ping()
        return error.type is KeysError and f"no line for its public key {stranger.public}" in str(error.value)
    wait_until(says_so, "what is wrong")


class Open(Attnd):
    """Its control socket is TCP."""

    def endpoint(self, name):
        return dict(setting.split("=") for setting in self.settings).get(f"{name}.endpoint") or super().endpoint(name)


@pytest.mark.parametrize("role", ["publish", "read", None])
def test_python_m_attnd_says_what_is_wrong_with_a_key(come, monkeypatch, key_file, role):
    pair = Pair()
    attnd = Keyed(*([(pair, role, "*")] if role else []))
    come(attnd, key_file(pair))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "clients" / "python"))
    said = subprocess.run([sys.executable, "-m", "attnd"], capture_output=True, text=True, timeout=PATIENCE_S, check=False).stdout
    daemon, history = (re.search(rf"^{what} +(\S+) +(.*)$", said, re.MULTILINE) for what in ("daemon", "history"))
    if role is None:
        assert daemon[1] == "WRONG" and daemon[2] == attnctl("ping").stderr[len("attnctl: "):].strip()
        assert history is None
    else:
        assert daemon[1] == "ok" and "answers at" in daemon[2]
        assert history[1] == ("-" if role == "publish" else "ok")


def test_keys_where_nobody_asks_for_them_are_said(monkeypatch):
    pair, control = Pair(), f"tcp://127.0.0.1:{free_ports(1)}"
    attnd = Open("insecure=true", f"control.endpoint={control}")
    monkeypatch.setenv("ATTND_KEY", pair.secret)
    monkeypatch.setenv("ATTND_SERVER_KEY", pair.public)
    sentence = f"attnd at {control} has no keys: unset ATTND_KEY and ATTND_SERVER_KEY"
    assert attnctl("--endpoint", control, "ping").stderr == f"attnctl: {sentence}\n"
    with pytest.raises(ConnectionError, match=sentence), client.Control(control) as asker:
        asker.ping()


def test_attnctl_makes_keys(tmp_path):
    path = tmp_path / "new.key"
    made = attnctl("key", "new", path)
    assert (made.returncode, made.stderr) == (0, "") and path.stat().st_mode & 0o777 == 0o600
    assert attnctl("key", "show", path).stdout == made.stdout and len(made.stdout) == 41
    assert zmq.curve_public(path.read_bytes().splitlines()[-1]) == made.stdout.strip().encode()
    again = attnctl("key", "new", path)
    assert (again.returncode, again.stderr) == (2, f"attnctl: {path}: is there already; keys are not replaced\n")
    path.chmod(0o604)
    assert attnctl("key", "show", path).returncode == 2
    hyphen = attnctl("key", "new", "-")
    assert hyphen.returncode == 2 and "valid: new FILE" in hyphen.stderr and not os.path.exists("-")
    assert attnctl("key", "new").stderr == "attnctl: key new: which FILE?\n"
    assert attnctl("key", "burn", path).stderr == "attnctl: key 'burn': no such thing to do (valid: new FILE, show FILE, list)\n"


def test_attnctl_lists_the_keys_of_attnd(come):
    """For its own user over a Unix socket, or an admin's key; and who of them is there."""
    ann, bob, trainer = Pair(), Pair(), Pair()
    attnd = Keyed((ann, "plan", "a*"), (bob, "read", "*"), (trainer, "publish", "job"))

    def listed():
        come(attnd, attnd.owner)
        keys = json.loads(attnctl("key", "list", "--json").stdout)
        return {key["public_key"]: (key["role"], key["jobs"], key["connected"]) for key in keys}

    def is_there(pair):
        return listed()[pair.public][2]

    assert listed() == {attnd.owner.public: ("admin", "*", True), ann.public: ("plan", "a*", False),
                        bob.public: ("read", "*", False), trainer.public: ("publish", "job", False)}
    reader = Reader(attnd.person(bob), "job/")
    wait_until(lambda: is_there(bob), "bob, who has subscribed")
    reader.close()
    wait_until(lambda: not is_there(bob), "that he has gone")
    table = attnctl("key", "list").stdout
    assert re.match(r"NAME +PUBLIC KEY +ROLE +JOBS +CONNECTED +REFUSED\ntest ", table) and re.search("  first +0\n", table)
    come(attnd, bob)
    assert attnctl("key", "list").returncode == 1
    attnd.admit((bob, "read", "*"))
    assert set(listed()) == {attnd.owner.public, bob.public}
    attnd.close()
    come(attnd, None, None)
    plain = Attnd()
    refused = attnctl("key", "list", "--endpoint", plain.endpoint("control"))
    assert refused.returncode == 2 and "this attnd asks for no keys" in refused.stderr


def publish(publisher):
    publisher.publish_attention(np.full((1, 2, 4, 4), 0.25, np.float32), stack="decoder", layer=0)


def test_every_client_comes_with_its_keys(come, key_file, tmp_path):
    trainer, reader = Pair(), Pair()
    attnd = Keyed((trainer, "publish", "mine"), (reader, "read", "*"))
    come(attnd, reader)
    recording = tmp_path / "some.rec"
    recorder = subprocess.Popen([ATTNCTL, "record", "mine", recording, "--count", "1", "--timeout", str(PATIENCE_S)],
                                stderr=subprocess.PIPE)
    come(attnd, key_file(trainer))
    with client.Publisher("mine") as publisher:
        wait_until(lambda: publish(publisher) or attnd.call("live", job="mine"), "the messages of the Python client")
        wait_until(lambda: publish(publisher) or recorder.poll() is not None, "that one is recorded")
    assert recorder.returncode == 0, recorder.stderr.read()
    come(attnd, reader)
    assert "mine" in attnctl("jobs").stdout
    with client.Subscriber(topics="live/") as subscriber:
        assert subscriber.next(PATIENCE_S)["job"] == "mine"
    come(attnd, attnd.owner)
    assert ": 1 message sent" in attnctl("replay", recording).stdout


def test_a_reader_of_some_jobs_is_told_that_all_need_the_pattern_for_all(come):
    reader = Pair()
    attnd = Keyed((reader, "read", "mine*"))
    come(attnd, reader)
    for method, words in {"jobs": ("show", "mine"), "stats": ("stats",), "config": ("page",)}.items():
        assert f"the key of this client may not do that: {method} is about all jobs and needs the role read with the pattern * in " \
               "keys.access (access)" in attnctl(*words).stderr
    assert "the key of this client may not do that: summary needs the role read in keys.access, for the job that is named (access)\n" \
        in attnctl("summary", "other").stderr
    assert attnctl("tail", "summary/mine/").stderr.endswith(" with a role for the publish socket (read, with the pattern *)\n")


class WithPage(Keyed):
    def start(self):
        self.settings += ("http.enabled=true",)
        super().start()


def test_the_page_of_another_machine_comes_with_the_way_to_it(come, monkeypatch):
    attnd = WithPage()
    come(attnd, attnd.owner)
    url = attnctl("page")
    assert re.fullmatch(r"http://127.0.0.1:\d+/\n", url.stdout) and url.stderr == ""
    elsewhere = attnd.endpoint("ingest").replace("127.0.0.1", "0.0.0.0")  # any name that is not this machine's
    monkeypatch.setenv("ATTND_ADDRESS", elsewhere)
    port = re.search(r":(\d+)/", url.stdout)[1]
    assert attnctl("page").stderr == f"on attnd's machine; elsewhere, first: ssh -L {port}:127.0.0.1:{port} 0.0.0.0\n"


def of_a_reader(attnd, name, reader):
    """The sentence of a client at this socket whose key was taken away, and that of its return."""
    begins = f"attnd at {attnd.endpoint(name)} "
    return (f"{begins}does not let this client in: keys.access has no line for its public key {reader.public} with a role for "
            f"the {name} socket (read, with the pattern *)", f"{begins}lets this client in again")


@pytest.mark.parametrize("words", [("tail", "live/"), ("record", "mine")], ids=["tail", "record"])
def test_a_reader_that_runs_says_that_its_key_was_taken_away_and_returns(come, tmp_path, words):
    reader, trainer = Pair(), Pair()
    attnd = Keyed((reader, "read", "*"), (trainer, "publish", "mine"))
    come(attnd, reader)
    recording, said, printed = (tmp_path / name for name in ("some.rec", "said", "printed"))
    words = (*words, recording) if words[0] == "record" else words
    with said.open("w") as err, printed.open("w") as out:
        process = subprocess.Popen([ATTNCTL, *words, "--timeout", str(PATIENCE_S)], stdout=out, stderr=err)
    refused, again = of_a_reader(attnd, "tap" if words[0] == "record" else "publish", reader)
    come(attnd, trainer)
    taken = recording if words[0] == "record" else printed

    def size():
        return taken.stat().st_size if taken.exists() else 0

    with client.Publisher("mine") as publisher:
        wait_until(lambda: publish(publisher) or size() > 1000, "what it reads")
        for _ in range(2):
            attnd.admit((trainer, "publish", "mine"))
            wait_until(lambda: said.read_text().endswith(f"attnctl: {refused}\n"), "the sentence")
            attnd.admit((reader, "read", "*"), (trainer, "publish", "mine"))
            wait_until(lambda: said.read_text().endswith(f"attnctl: {again}\n"), "the other one")
            before = size()
            wait_until(lambda: publish(publisher) or size() > before + 1000, "what it reads then")
    process.terminate()
    process.wait(PATIENCE_S)
    assert said.read_text().count("does not let this client in") == 2 and said.read_text().count("in again") == 2


def test_a_subscriber_that_runs_says_that_its_key_was_taken_away_and_returns(come, caplog):
    reader, trainer = Pair(), Pair()
    attnd = Keyed((reader, "read", "*"), (trainer, "publish", "mine"))
    come(attnd, reader)
    refused, again = of_a_reader(attnd, "publish", reader)
    with client.Subscriber(topics="live/") as subscriber:
        come(attnd, trainer)
        with client.Publisher("mine") as publisher:
            wait_until(lambda: publish(publisher) or subscriber.next(0), "what it reads")
            for times in (1, 2):
                attnd.admit((trainer, "publish", "mine"))
                wait_until(lambda: caplog.messages.count(refused) == times, "the sentence")
                while subscriber.next(0):
                    pass
                attnd.admit((reader, "read", "*"), (trainer, "publish", "mine"))
                wait_until(lambda: caplog.messages.count(again) == times, "the other one")
                wait_until(lambda: publish(publisher) or subscriber.next(0), "what it reads then")
    assert [message for message in caplog.messages if "client in" in message] == [refused, again] * 2


def check_address():
    """The code and the sentence of attn_check_address, with the environment as it is. Others where attnd stands still just then."""
    sentence = ctypes.create_string_buffer(1024)
    return LIBATTN.attn_check_address(None, sentence, len(sentence)), sentence.value.decode()


def test_libattn_says_whether_its_key_is_let_in(come, key_file):
    trainer, reader, scoped = Pair(), Pair(), Pair()
    attnd = Keyed((trainer, "publish", "mine"), (reader, "read", "*"), (scoped, "read", "mine"))
    ingest = attnd.endpoint("ingest")
    for (key, server), sentence in wrong_keys(attnd, key_file):
        come(attnd, key, server)
        want = sentence.replace(attnd.endpoint("control"), ingest).replace("the control socket", "the ingest socket (publish)")
        code = LIBATTN.E_TRANSPORT if ingest in want else LIBATTN.E_ARGUMENT
        wait_until(lambda: check_address() == (code, want), want)  # noqa: B023
    come(attnd, trainer)
    wait_until(lambda: check_address() == (0, ""), "nothing that is wrong")
    for pair in (reader, scoped):  # is let in, but not to publish
        come(attnd, pair)
        want = f"this client publish: by keys.access its public key {pair.public} has no role publish. Remedy"
        wait_until(lambda: want in (said := check_address())[1] and said[0] == 0, want)  # noqa: B023


@pytest.mark.parametrize("wrong", ["own", "server"])
def test_watch_says_that_a_key_is_wrong_and_nothing_else(come, caplog, wrong):
    torch = pytest.importorskip("torch")
    attnd, stranger = Keyed(), Pair()
    own, server = (stranger, attnd.server) if wrong == "own" else (attnd.owner, stranger)
    come(attnd, own, server.public)
    why = {"own": f"does not let this client in: keys.access has no line for its public key {own.public} with a role for the ingest "
                  "socket (publish)", "server": "has another key than ATTND_SERVER_KEY. Remedy: the public half of the key that attnd has now "
                                               "(attnctl key show FILE, of its keys.server)"}[wrong]

    def watches(_):
        with client.watch(torch.nn.TransformerEncoderLayer(8, 2, 16), "mine", wait=PATIENCE_S):
            assert caplog.messages
    assert told(caplog, watches) == [f"job mine: attnd at {attnd.endpoint('ingest')} {why}; training goes on, and nothing of it is captured"]


def test_a_trainer_whose_key_is_wrong_is_told_and_goes_on(come, caplog):
    attnd, stranger = Keyed(), Pair()
    come(attnd, stranger)
    sentence = f"does not let this client in: keys.access has no line for its public key {stranger.public}"
    with caplog.at_level(logging.WARNING, logger="attnd"):
        assert sentence in told(caplog, tries_to_publish)[0]
    ended = training_in_c()
    assert ended.returncode == 0 and '"epoch": 0' in ended.stdout and sentence in ended.stderr
    assert attnd.call("jobs") == []


@pytest.mark.parametrize("role", ["read", "plan"])
def test_a_trainer_whose_key_may_not_publish_is_told_so(come, caplog, role):
    reader = Pair()
    attnd = Keyed((reader, role, "*"))
    come(attnd, reader)
    sentence = (f"attnd at {attnd.endpoint('ingest')} does not let this client publish: by keys.access its public key {reader.public} "
                "has no role publish. Remedy: a line with that role for it, and SIGHUP for attnd")
    assert told(caplog, tries_to_publish) == [f"job mine: {sentence}; training goes on, and nothing of it is captured"]
    ended = training_in_c()
    assert ended.returncode == 0 and sentence in ended.stderr


@pytest.mark.parametrize("reliable", [None, False], ids=["both lanes", "default lane"])
def test_a_trainer_whose_key_is_of_another_job_is_told_what_mends_it(come, caplog, reliable):
    trainer = Pair()
    attnd = Keyed((trainer, "publish", "other"))
    come(attnd, trainer)
    line = f"{trainer.public}  publish  mine"
    sentence = (f"job mine: attnd at {attnd.endpoint('ingest')} refuses the messages of job mine: its access list (keys.access) does "
                f"not let the key {trainer.public} publish this job. Remedy: the line '{line}' in that list, and SIGHUP for attnd; "
                "training goes on, and attnd gets nothing of it. Further refusals are only counted")
    with client.Publisher("mine", reliable=reliable) as publisher:
        wait_until(lambda: publish(publisher) or sentence in caplog.messages, "the warning")
        wait_until(lambda: publish(publisher) or "reason=key" in attnd.log_text(), "the log")
        assert re.search(f'reason=key .*from=test public_key="?{re.escape(trainer.public)}"? .*count=1\n', attnd.log_text())
        assert [key["refused"] > 0 for key in attnd.call("keys")] == [False, True]
        attnd.admit((trainer, "publish", "mine"))
        wait_until(lambda: publish(publisher) or attnd.call("live", job="mine"), "the messages of a key that may")
        assert caplog.messages.count(sentence) == 1
        again = f"job mine: attnd at {attnd.endpoint('ingest')} takes the messages of job mine again: what follows is captured"
        wait_until(lambda: publish(publisher) or again in caplog.messages, "that they are taken again")
        attnd.admit((trainer, "publish", "other"))
        wait_until(lambda: publish(publisher) or caplog.messages.count(sentence) == 2, "the warning, once more")
    assert caplog.messages.count(again) == 1


def test_what_was_mended_is_told_nobody(come, caplog):
    """A trainer that comes after the list was read again, and one of another key or job."""
    trainer, other = Pair(), Pair()
    attnd = Keyed((trainer, "publish", "other"), (other, "publish", "*"))
    come(attnd, trainer)
    with client.Publisher("mine", reliable=False) as publisher:
        wait_until(lambda: publish(publisher) or caplog.messages, "the warning")
        caplog.clear()
        with client.Publisher("other", reliable=False) as entitled:
            wait_until(lambda: publish(entitled) or attnd.call("live", job="other"), "its own job")
        come(attnd, other)
        with client.Publisher("mine", reliable=False) as entitled:
            wait_until(lambda: publish(entitled) or attnd.call("live", job="mine"), "the job of another key")
        assert not caplog.messages
        publisher.close()
        attnd.admit((trainer, "publish", "*"))
        come(attnd, trainer)
        before = attnd.call("live", job="mine")[0]["run"]
        with client.Publisher("mine", reliable=False) as publisher:
            wait_until(lambda: publish(publisher) or attnd.call("live", job="mine")[0]["run"] != before, "the key that may now")
    assert not caplog.messages


def test_nothing_is_lost_at_the_second_address_either(come):
    trainer = Pair()
    attnd = Rotating((trainer, "publish", "*"))
    for place in (attnd, attnd.at_next()):
        come(place, trainer)
        before = attnd.stats()["reliable_acknowledged"]
        with client.Publisher("mine", reliable=True) as publisher:
            wait_until(lambda: publish(publisher) or attnd.stats()["reliable_acknowledged"] > before, "the lane")
        before = attnd.stats()["processed"]
        assert subprocess.run([TRAIN, "3000", "1"], capture_output=True, timeout=2 * PATIENCE_S).returncode == 0
        wait_until(lambda: attnd.stats()["processed"] > before, "messages of libattn")


def test_a_trainer_in_c_whose_key_is_of_another_job_is_told(come, tmp_path):
    trainer = Pair()
    attnd = Keyed((trainer, "publish", "other"))
    come(attnd, trainer)
    sentence = f"train: job example-c: attnd at {attnd.endpoint('ingest')} refuses the messages of job example-c: its access list"

    def said():
        return subprocess.run([TRAIN, "60000", "1"], capture_output=True, text=True, timeout=2 * PATIENCE_S).stderr
    wait_until(lambda: sentence in said(), "the sentence")  # at the latest a trainer that comes after a refusal hears of it
    with open(tmp_path / "said", "w+") as said:
        training = subprocess.Popen([TRAIN, "60000", "1000000"], stdout=subprocess.DEVNULL, stderr=said)

        def has_said(text):
            said.seek(0)
            return text in said.read()

        wait_until(lambda: has_said(sentence), "the sentence")
        attnd.admit((trainer, "publish", "*"))
        wait_until(lambda: has_said(f"train: job example-c: attnd at {attnd.endpoint('ingest')} takes the messages of job example-c "
                                    "again: what follows is captured\n"), "that the key is let in")
        training.kill()
        training.wait()

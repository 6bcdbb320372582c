# SPDX-License-Identifier: MIT
"""The daemon of an address, or one that is found: at once, later, and in another place."""
import contextlib
import errno
import os
import socket
import sys
import threading
import time

import msgpack
import pytest
import zmq

import attnd
from attnd.base import address
from attnd.sending.presence import TO_START
from conftest import ROOT, FakeDaemon, identity_holds, uniform, wait_until


def rows(kind):
    """Lines of the table by which proto/address.c is tested, too."""
    lines = (ROOT / "tests/golden/addresses.txt").read_text(encoding="utf-8").splitlines()
    found = [line.split("|")[1:] for line in lines if line.startswith(f"{kind}|")]
    assert found
    return found


@pytest.mark.parametrize("text, ingest, tap", rows("ok"))
def test_an_address_names_four_sockets(text, ingest, tap):
    assert (address.endpoint(text, "ingest"), address.endpoint(text, "tap")) == (ingest, tap)


@pytest.mark.parametrize("text, said", rows("bad"))
def test_what_is_no_address_is_told_what_to_write(text, said):
    with pytest.raises(ValueError) as error:
        address.endpoint(text, "ingest")
    assert str(error.value) == said


@pytest.mark.parametrize("uid, runtime_dir, places", rows("places"))
def test_places_come_in_the_written_order_and_once(uid, runtime_dir, places):
    assert address.places(int(uid), runtime_dir) == places.split()
    assert address.places(int(uid), None) == [f"/run/user/{uid}/attnd", f"/tmp/attnd-{uid}", "/run/attnd"]


# ------------------------------------------------------------------------------------------- looking

@pytest.fixture
def homes(tmp_path, monkeypatch):
    """Two places, of which neither has a daemon; nothing is named."""
    found = [tmp_path / "first", tmp_path / "second"]
    for home in found:
        home.mkdir(mode=0o700)
    monkeypatch.setattr(address, "places", lambda uid, runtime_dir: [str(home) for home in found])
    monkeypatch.delenv("ATTND_ADDRESS", raising=False)
    return found


@pytest.fixture
def model():
    return pytest.importorskip("torch").nn.TransformerEncoderLayer(8, 2, 16)


def at(home, name="ingest"):
    return f"ipc://{home}/{name}"


def leave_stale_socket(home):
    """As a kill does: closing it leaves the file behind."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(f"{home}/ingest")


def test_only_a_directory_that_nobody_else_writes_is_trusted(homes, tmp_path, monkeypatch):
    home, link = str(homes[0]), str(tmp_path / "link")
    me = os.geteuid()
    os.symlink(home, link)
    assert address.distrust(home, me) is None
    os.chmod(home, 0o750)
    assert address.distrust(home, me) is None
    os.chmod(home, 0o770)
    assert address.distrust(home, me) == f"{home}: others can write to it (mode 0770)"
    assert address.distrust(link, me) == f"{link}: not a directory"
    assert address.distrust(f"{home}/none", me) == ""
    monkeypatch.setattr(address, "SERVICE", home)  # of anybody's, and its group may write
    assert address.distrust(home, me + 1) is None
    os.chmod(home, 0o702)
    assert address.distrust(home, me + 1) == f"{home}: others can write to it (mode 0702)"
    monkeypatch.setattr(address, "SERVICE", "/run/attnd")
    os.chmod(home, 0o700)
    if me == 0:
        os.chown(home, 12345, 12345)
        assert address.distrust(home, 1000) == f"{home}: belongs to user 12345"


def test_a_path_that_is_too_long_for_a_socket_is_said(monkeypatch):
    runtime = "/" + "x" * 150
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    assert f"; '{runtime}/attnd': too long: a directory of sockets has at most 98 bytes" in address.why_nobody("control")


def test_the_first_place_that_answers_is_found_and_a_stale_socket_is_not(homes):
    for home in homes:
        leave_stale_socket(home)
    assert address.find("ingest") is None
    assert address.why_nobody("ingest") == f"no attnd answers in {homes[0]}, {homes[1]}"
    os.unlink(f"{homes[1]}/ingest")
    second = FakeDaemon(at(homes[1]))
    assert address.find("ingest") == at(homes[1])
    os.unlink(f"{homes[0]}/ingest")
    first = FakeDaemon(at(homes[0]))
    assert address.find("ingest") == at(homes[0])
    homes[0].chmod(0o777)
    assert address.find("ingest") == at(homes[1])
    second.close()
    assert address.find("ingest") is None and "first: others can write to it" in address.why_nobody("ingest")
    first.close()


@pytest.mark.parametrize("stale", [False, True])
def test_a_look_costs_little(stale, homes):
    """The thread that looks takes the interpreter's lock from the training meanwhile. Calls are counted: a clock would time
    the machine."""
    if stale:
        leave_stale_socket(homes[0])
    calls = []

    def called(frame, event, argument):
        if event in ("call", "c_call"):
            calls.append(argument or frame.f_code.co_name)

    sys.setprofile(called)
    try:
        assert address.find("ingest") is None
    finally:
        sys.setprofile(None)
    assert 0 < len(calls) < (40 if stale else 20), calls


# ------------------------------------------------------------------------------------------- clients

def test_a_daemon_may_come_late_and_come_back_in_another_place(homes):
    with attnd.Publisher("job") as publisher:
        assert not publisher.listened_to and "no attnd answers in" in publisher.where
        for life, home in enumerate([homes[1], homes[0], homes[0], homes[1]]):
            daemon = FakeDaemon(at(home))
            daemon.attach(publisher)
            assert publisher.where == f"at {at(home)}"
            assert publisher.publish_attention(uniform(), stack="decoder", layer=0)
            assert daemon.next("attention")[1]["seq"] == life
            daemon.close()
            wait_until(lambda: not publisher.listened_to, "it is gone")
        assert identity_holds(publisher.stats())


def test_a_place_is_trusted_anew_at_every_connection(homes):
    daemon = FakeDaemon(at(homes[0]))
    with attnd.Publisher("job") as publisher:
        daemon.attach(publisher)
        daemon.close()
        wait_until(lambda: not publisher.listened_to, "it is gone")
        homes[0].chmod(0o777)
        stranger = FakeDaemon(at(homes[0]))

        def is_refused():
            stranger.serve()
            assert not publisher.listened_to
            return "others can write to it" in publisher.where

        wait_until(is_refused, "it is told why")
        homes[0].chmod(0o700)
        stranger.attach(publisher)


def test_whoever_names_a_daemon_is_believed(homes, monkeypatch):
    homes[1].chmod(0o777)
    daemon = FakeDaemon(at(homes[1]))
    for given in ({"address": str(homes[1])}, {"address": homes[1]}, {}):
        with attnd.Publisher("job", **given) as publisher:
            daemon.attach(publisher)
        monkeypatch.setenv("ATTND_ADDRESS", str(homes[1]))
    with attnd.Publisher("job", at(homes[0])) as publisher:  # an endpoint goes before the environment
        assert publisher.where.startswith(f"no attnd listens at {homes[0]}/ingest: ")


def test_a_training_without_descriptors_looks_again(homes, monkeypatch):
    """They may be used up for a moment: publishing goes on after that."""
    daemon = FakeDaemon(at(homes[0]))
    looked = threading.Event()

    def none_left(*_):
        looked.set()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as without:
        without.setattr(address.unix, "socket", none_left)
        publisher = attnd.Publisher("job")
        assert looked.is_set() and os.strerror(errno.EMFILE) in publisher.where
        looked.clear()
        assert looked.wait(60), "on the sender thread"
    daemon.attach(publisher)
    publisher.close()


def test_a_reader_loses_nothing_and_finds_the_next_daemon(homes):
    with attnd.Subscriber() as subscriber:
        assert subscriber.next(0.01) is None
        for life, home in enumerate([homes[0], homes[1], homes[1]]):
            with zmq.Context() as context, context.socket(zmq.XPUB) as results:
                results.bind(at(home, "publish"))
                assert not any(subscriber.next(0.01) for _ in iter(lambda: results.poll(0), 1))
                for step in range(3):
                    body = msgpack.packb({"kind": "live", "run": "", "epoch": life, "step": step})
                    results.send_multipart([b"summary/a/", body])
                results.close(linger=5000)
            assert [(r["epoch"], r["step"]) for r in (subscriber.next(60) for _ in range(3))] == [
                (life, step) for step in range(3)]


def answer(router, times):
    """Answers questions with how many it is."""
    for _ in range(times):
        peer, request = router.recv_multipart()
        router.send_multipart([peer, msgpack.packb([1, msgpack.unpackb(request)[1], None, times])])


def asked(control):
    """The answer. A question that is put while the end of an earlier daemon is not noticed yet is lost with it."""
    for _ in range(12):
        with contextlib.suppress(TimeoutError):
            return control.ping()
    return control.ping()


def test_questions_go_to_the_daemon_that_is_there(homes):
    with attnd.Control(timeout=0.2) as control:
        with pytest.raises(TimeoutError, match=f"no attnd answers in {homes[0]}, {homes[1]}"):
            control.ping()
    with attnd.Control(timeout=5) as control:
        for times, home in ((2, homes[0]), (1, homes[1]), (3, homes[1])):
            with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
                router.setsockopt(zmq.RCVTIMEO, 60000)
                router.bind(at(home, "control"))
                thread = threading.Thread(target=answer, args=(router, times))
                thread.start()
                assert [asked(control) for _ in range(times)] == [times] * times
                thread.join()
                router.close(linger=1000)


@pytest.mark.parametrize("make", [lambda **given: attnd.Publisher("job", **given), attnd.Subscriber, attnd.Control])
def test_what_names_no_daemon_is_refused(make, homes, monkeypatch):
    for given, said in (({"address": "localhost:5570"}, "write tcp://localhost:5570"), ({"address": 5570}, "must be a text"),
                        ({"address": "/run/attnd", "endpoint": "ipc:///run/attnd/ingest"}, "give one of them"),
                        ({"address": "tcp://a b:1"}, "endpoint 'tcp://a b:")):
        with pytest.raises(ValueError, match=said):
            make(**given)
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(ValueError, match=r"name address=tcp://host:port"):
        make()
    make(address="tcp://127.0.0.1:1").close()


@pytest.mark.parametrize("given, said", [("localhost:5570", "write tcp://localhost:5570"), ("tcp://a b:1", "endpoint"),
                                         (5570, "must be a text"), (None, "name address=tcp://host:port")])
def test_a_training_goes_on_when_no_daemon_can_be_named(given, said, homes, model, monkeypatch, caplog):
    x = pytest.importorskip("torch").rand(3, 2, 8)
    if given is None:
        monkeypatch.delattr(socket, "AF_UNIX")
    with attnd.watch(model, "job", address=given, probe=x, probe_every=1) as watch:
        model(x).sum().backward()
        watch.step()
        assert watch.stats()["sent"] == 0 and not watch.publisher.listened_to
    assert [said in text for text in caplog.messages] == [True]
    if given is not None:
        monkeypatch.setenv("ATTND_ADDRESS", str(given))
        attnd.watch(model, "job").close()
    with pytest.raises(ValueError, match="give one of them"):
        attnd.watch(model, "job", at(homes[0]), address=str(homes[0]))


def nobody_yet(sentence):
    """What a watch that waited in vain says, once."""
    return [f"job job: nobody takes tensors yet ({sentence}); training goes on, and is captured once attnd listens there. "
            f"{TO_START}"]


def test_watch_says_where_it_looked_and_attaches_later(homes, model, caplog):
    homes[0].chmod(0o777)
    with attnd.watch(model, "job", wait=0.05) as watch:
        assert caplog.messages == nobody_yet(
            f"no attnd answers in {homes[0]}, {homes[1]}; {homes[0]}: others can write to it (mode 0777)")
        FakeDaemon(at(homes[1])).attach(watch.publisher)


def test_where_nobody_listens_is_told_from_an_ingest_that_is_elsewhere(homes, model, caplog):
    FakeDaemon(at(homes[1], "control"))
    why = {homes[0]: f"no attnd listens at {homes[0]}/ingest: is it running, and with this address? Its log says where its "
                     "sockets are",
           homes[1]: f"attnd is in {homes[1]}, but its ingest socket is elsewhere: name it by its endpoint, or leave "
                     "ingest.endpoint out of attnd's config"}
    for home, sentence in why.items():
        with attnd.watch(model, "job", address=home, wait=0.05):
            assert caplog.messages == nobody_yet(sentence)
        caplog.clear()


@pytest.mark.parametrize("wait, told", [(0.05, "nobody takes tensors yet"), (0, "nothing was sent: no attnd took it")])
def test_a_training_without_attnd_is_told_so_once(homes, model, caplog, wait, told):
    with attnd.watch(model, "job", wait=wait) as watch:
        watch.step()
    (said,) = caplog.messages
    assert said.startswith(f"job job: {told} (no attnd answers in {homes[0]}, {homes[1]})") and said.endswith(f". {TO_START}")


def test_a_training_that_attnd_has_heard_ends_without_a_word(homes, model, caplog):
    daemon = FakeDaemon(at(homes[1]))
    with attnd.watch(model, "job", wait=0) as watch:
        daemon.attach(watch.publisher)
        watch.step()
    assert caplog.messages == []

# SPDX-License-Identifier: MIT
"""A node alone with its servers: the rows of its outbox are in the stream."""
import contextlib
import os
import signal
import sqlite3
import subprocess
import time

import merging
import msgpack
import pytest
from fleet import WINDOW, Node, Server, Training
from harness import ATTND, PATIENCE_S, Attnd, wait_until
from nats import Nats
from rows import all_sent, asking, outbox, rank_two, stream

CERTIFICATES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "deploy", "cluster", "certificates")


def test_the_states_of_a_window_are_in_the_stream_before_it_is_closed(server):
    node = Node(server, "one")
    training = rank_two(node)
    training.bye()
    rows = all_sent(server, node)
    windows = merging.windows_of(node.history_path)
    parts = [body for body in rows.values() if body["kind"] == "part"]
    assert len(parts) == len(windows) == 12
    for (_, window), body in zip(sorted(windows.items()), sorted(parts, key=lambda body: (body["layer"], body["part"]))):
        assert merging.differences(merging.read_state(body["state"]), window.state) == []
        assert (body["unit"], body["length"], body["every"], body["run"]) == ("step", 2, 2, training.run)
    kinds = [body["kind"] for _, body in sorted(rows.items())]
    assert kinds == 6 * ["part", "part", "closed"] + ["run"]
    closed = [body for body in rows.values() if body["kind"] == "closed"]
    assert [(body["part"], body["next_before"], body["layers"], body["complete_from"]) for body in closed] == [
        (part, part, 2, 0) for part in range(6)]
    assert all(body["ranks"] == [0, 1] and body["world"] == 2 and not body["cut"] for body in closed)


def test_parts_of_windows_that_overlap_are_sent_once(server):
    node = Node(server, "one", "window.also=[4 steps every 2, 1 second every 1]")
    rank_two(node).bye()
    parts = [(body["length"], body["part"], body["layer"]) for body in all_sent(server, node).values() if body["kind"] == "part"]
    assert sorted(parts) == [(length, part, layer) for length in (2, 4) for part in range(6) for layer in range(2)]


def test_settings_and_logged_values_are_sent(server):
    node = Node(server, "one")
    training = Training([node])
    training.trainers[0].event("hello", settings={"lr": 0.1, "name": "a"})
    training.trainers[0].event("log", step=3, values={"loss": 2.5, "other": None})
    training.bye()
    runs = [body for _, body in sorted(all_sent(server, node).items())]
    assert [body["kind"] for body in runs] == 3 * ["run"]
    assert msgpack.unpackb(runs[0]["settings"]) == {"lr": 0.1, "name": "a"}
    assert [(point[0], point[2], point[4]) for point in runs[1]["points"]] == [("loss", 3, 2.5), ("other", 3, None)]
    assert [body["state"] for body in runs] == ["active", "active", "ended"]


def test_a_training_does_not_wait_for_servers_that_are_not_there(server):
    server.stop()
    node = Node(server, "one")
    training = rank_two(node)
    training.bye()
    wait_until(lambda: node.fleet()["unsent"] == 19, "rows")
    answer = node.fleet()
    assert not answer["connected"] and answer["sent"] == 0
    assert "cannot be reached" in answer["error"] and str(server.port) in answer["error"]
    began = time.monotonic()
    node.stop(signal.SIGTERM)
    assert time.monotonic() - began < PATIENCE_S / 2
    assert node.process.returncode == 0
    node.start()
    server.start()
    assert len(all_sent(server, node, 19)) == 19
    assert node.fleet()["error"] is None


def test_a_run_is_deleted_when_a_server_has_taken_its_parts(server):
    """And not before; what was taken stays for as long as a hub may ask for it."""
    server.stop()
    node = Node(server, "one")
    training = rank_two(node)
    training.bye()
    wait_until(lambda: node.fleet()["unsent"] == 19 and node.call("runs")["runs"][0]["state"] == "ended", "rows")
    run = dict(job="job", run=training.run.hex())
    for dry in (True, False):
        with pytest.raises(RuntimeError, match="unsent"):
            node.call("run.delete", **run, dry=dry)
    assert [one["run"] for one in node.call("jobs")] == [run["run"]] and node.fleet()["unsent"] == 19
    server.start()
    rows = all_sent(server, node, 19)
    assert node.call("run.delete", **run)["deleted"]
    assert node.call("runs")["runs"] == node.call("jobs") == [] and outbox(node) == rows


def test_a_node_that_is_refused_pauses_and_says_so(server):
    node = Node(server, "one")
    training = rank_two(node, 4)
    all_sent(server, node, 3)
    with asking(server, node) as (say, _):
        for _ in range(3):
            for sentence in ("another hub has other window.buckets", "its window.buckets are others"):
                say(refused=sentence)
                wait_until(lambda sentence=sentence: node.fleet()["refused"] == sentence, "the sentence")
        training.steps(4)
        wait_until(lambda: node.fleet()["unsent"] == 6, "rows that wait")
        wait_until(node.sent, "it tries again")
        assert node.log_text().count("fleet_refused") == 2
        wait_until(lambda: node.fleet()["refused"] is None, "it is over")
        say(refused="another run is not taken", pause=False)
        wait_until(lambda: node.fleet()["refused"] == "another run is not taken", "the sentence")
        training.steps(2)
        wait_until(node.sent, "rows of other runs")
        assert node.fleet()["refused"], "it waited"


def test_questions_to_another_start_and_nonsense_are_passed_over(server):
    node = Node(server, "one")
    rank_two(node, 6)
    all_sent(server, node, 6)
    client = Nats(server)
    for data in (b"", b"\xc1", msgpack.packb({"v": 1}), os.urandom(200), msgpack.packb(
            {"v": 1, "hub": "test", "instance": bytes(8), "from": 1, "to": 6, "refused": "",
             "pause": False})):
        client.publish(f"attnd.ask.{node.fleet()['id']}", data)
    client.flush()
    client.close()
    with asking(server, node) as (say, _):
        say(6, 6)
        wait_until(lambda: (6, 1) in stream(server)[0], "the only one")
    assert [key for key in stream(server)[0] if key[1]] == [(6, 1)]


def test_rows_beyond_max_payload_come_in_pieces():
    server = Server("max_payload: 2048")
    try:
        node = Node(server, "one")
        rank_two(node, heads=24).bye()
        rows = all_sent(server, node)
        assert max(len(body["state"]) for body in rows.values() if body["kind"] == "part") > 3 * 2048
    finally:
        server.discard()


def test_signs_of_life_say_what_runs_and_the_last_one_that_it_ends(server):
    node = Node(server, "one")
    training = rank_two(node, 4)
    with asking(server, node) as (_, beats):
        wait_until(lambda: beats[-1]["runs"], "a run")
        (run, silent_ns, world, ranks), = beats[-1]["runs"]
        assert (run, world, ranks) == (training.run, 2, 2) and silent_ns < 60e9
        assert beats[-1]["name"] == "one" and not beats[-1]["stopping"]
        assert abs(beats[-1]["time_ns"] - time.time_ns()) < 60e9
        node.stop(signal.SIGTERM)
        wait_until(lambda: beats[-1]["stopping"], "the last one")
        assert beats[-1]["taken"] == beats[-1]["newest"] and beats[-1]["unsent"] == 0


def test_a_node_that_ends_sends_its_last_windows(server):
    node = Node(server, "one", "history.commit=1s")
    rank_two(node, 12).bye()
    node.stop(signal.SIGTERM)
    assert len(stream(server)[0]) == len(outbox(node)) == 19


def test_an_attnd_that_is_no_node_has_no_outbox():
    attnd = Attnd(*WINDOW)
    rank_two(attnd)
    wait_until(lambda: merging.count_of(attnd.history_path) >= 10, "windows")
    attnd.stop(signal.SIGTERM)
    with contextlib.closing(sqlite3.connect(attnd.history_path)) as db:
        assert db.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM meta WHERE key = 'node'").fetchone() == (0,)
    assert "fleet" not in attnd.log_text()


@pytest.mark.parametrize("name, ca, says", (
    ("127.0.0.1", True, None), ("other.example", True, "IP address mismatch"), ("127.0.0.1", False, "local issuer certificate")))
def test_a_certificate_that_does_not_fit_is_told(server, tmp_path, name, ca, says):
    subprocess.run([CERTIFICATES, tmp_path, name], check=True, capture_output=True)
    secure = Server(f'tls {{ cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.key" }}')
    node = Node(secure, "one", *([f"fleet.tls_ca={tmp_path}/ca.pem"] if ca else []), url=secure.url.replace("nats:", "tls:"))
    if says is None:
        wait_until(lambda: node.fleet()["connected"], "a connection")
    else:
        wait_until(lambda: all(part in (node.fleet()["error"] or "") for part in ("TLS fails", says)), says)
    node.stop(signal.SIGTERM)
    assert node.log_text().count("fleet_trouble") == (says is not None)


def test_a_server_that_wants_a_certificate_is_told(server, tmp_path):
    subprocess.run([CERTIFICATES, tmp_path, "127.0.0.1"], check=True, capture_output=True)
    secure = Server(f'tls {{ cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.key", '
                    f'ca_file: "{tmp_path}/ca.pem", verify: true }}')
    node = Node(secure, "one", f"fleet.tls_ca={tmp_path}/ca.pem", url=secure.url.replace("nats:", "tls:"))
    wait_until(lambda: "is fleet.tls_certificate one that it knows?" in (node.fleet()["error"] or ""), "the error")


def test_a_file_that_cannot_be_read_is_an_error_at_the_start(server, tmp_path):
    ended = subprocess.run(
        [ATTND, "--address", tmp_path, "--set", "http.enabled=false", "--set", f"history.path={tmp_path}/history.db",
         "--set", "fleet.role=node", "--set", f"fleet.url={server.url}", "--set", "fleet.credentials=/nowhere/user.creds"],
        capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.returncode != 0
    assert "fleet.credentials: '/nowhere/user.creds': it cannot be read" in ended.stderr

# SPDX-License-Identifier: MIT
"""A hub and nodes in Python: whatever the order, however often, and what is late, missing or lost, the hub's history is the
merge of the nodes' parts, or the hub says of what it is not."""
import contextlib
import os
import pathlib
import random
import signal
import sqlite3
import time

import merging
import msgpack
import numpy as np
import pytest
from fake_node import FakeNode, differences, parts_of, play_merged, wait_merged
from fleet import ENDED, Hub, Node, Server, Training, whole
from harness import PATIENCE_S, Reader, Trainer, wait_until
from nats import Nats

RUN = bytes(range(16))


def nodes_of(server, count, **keys):
    return [FakeNode(server, f"node-{i}", RUN, ranks=(i,), world=count, **keys) for i in range(count)]


def begun(server, *settings, **keys):
    """A hub and two nodes that have sent a part each."""
    hub, nodes = Hub(server, "hub", *settings), nodes_of(server, 2, **keys)
    play_merged(hub, nodes)
    return hub, nodes


def partial_of(hub):
    """{last: {name: reason}} of the run's windows that the hub calls partial."""
    return {one["last"]: {missing["name"]: missing["reason"] for missing in one["missing"]}
            for run in hub.fleet()["runs"] for one in run["partial"]}


def last_of(summary):
    return summary["window"]["last"]


def partial_lasts(hub):
    return {key[8] for key, window in merging.windows_of(hub.history_path).items() if window.partial}


@contextlib.contextmanager
def locked(path):
    """Nobody else can write to this database meanwhile."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def test_a_hub_deletes_no_run_and_names_it(server):
    hub, nodes = begun(server)
    for node in nodes:
        node.end()
    run = dict(job="job", run=RUN.hex())
    wait_until(lambda: hub.call("runs")["runs"][0]["state"] == "ended", "the end in the history")
    for dry in (True, False):
        with pytest.raises(RuntimeError, match="hub"):
            hub.call("run.delete", **run, dry=dry)
    assert hub.call("run.set", **run, name="exp 1", archived=True)["archived"]
    assert [one["name"] for one in hub.call("runs")["runs"]] == ["exp 1"]


def test_twice_and_in_any_order_is_the_same(server):
    """Each row comes in three pieces of which some come twice, and all of it is shuffled, over nodes, too."""
    hub = Hub(server, "hub", "window.timeout=1h")
    nodes = nodes_of(server, 3)
    sendings = []
    for node in nodes:
        for part in range(8):
            node.close_part(part)
        node.number(node.run_body("ended"))
        node.ended = True
        sendings += [(node, seq, time_, piece) for seq in node.rows for time_ in range(2) for piece in range(3)]
    random.Random(1).shuffle(sendings)
    for node, seq, time_, piece in sendings:
        data = node.rows[seq]
        size = -(-len(data) // 3)
        node.send(seq, data=data[piece * size:(piece + 1) * size], time_=time_, piece=f"{piece + 1}/3")
    wait_merged(hub, nodes)
    wait_until(lambda: hub.call("runs", job="job")["runs"][0]["state"] == ENDED, "the end of the run")
    hub.says(lambda answer: answer["waiting"] == 0 and answer["repeated"] > 0 and answer["poisoned"] == 0, "all rows")
    assert not partial_of(hub) and not partial_lasts(hub)


def test_the_greatest_number_counts(server):
    """A part that comes again with a greater number corrects its window, one with a smaller number does nothing."""
    hub = Hub(server, "hub")
    nodes = nodes_of(server, 2)
    nodes[0].answering = False
    reader = Reader(hub, "summary/")
    play_merged(hub, nodes, 3)
    before = [reader.next()[1] for _ in range(6)]
    assert {one.get("revision", 0) for one in before} == {0}
    late, later = (nodes[0].number(nodes[0].part(1, 0, nodes[0].states(1, 0, seed=seed))) for seed in (7, 8))
    closed = nodes[0].number(nodes[0].closed(1, 2, next_before=3))
    nodes[0].send(later, closed)
    _, corrected = reader.next()
    assert (corrected["layer"], last_of(corrected), corrected["revision"]) == (0, 3, 1)
    wait_merged(hub, nodes)
    nodes[0].send(late)
    nodes[0].send(2, 5, time_=3)
    play_merged(hub, nodes)
    assert hub.node("node-0")["state"] == "ok"


def test_a_node_that_is_not_heard_of_is_late_before_windows_go_on_without_it(server):
    hub = Hub(server, "hub", "window.timeout=60s")
    (node,) = nodes_of(server, 1)
    play_merged(hub, [node])
    for alive, state in ((True, "ok"), (False, "late"), (True, "ok")):
        node.alive = alive
        hub.says(lambda answer: [one["state"] for one in answer["nodes"]] == [state], f"that it is {state}")  # noqa: B023


def test_the_end_of_a_run_is_waited_for_until_its_node_has_written_it(server):
    """A node does not name the run any more, and its last rows still wait for its disk."""
    hub, nodes = begun(server, "window.timeout=1h")
    nodes[1].ended = True
    wait_until(lambda: hub.node("node-1")["runs"] == 0, "that it does not name the run")
    nodes[0].play(1)
    FakeNode(server, "other", os.urandom(16), job="other").play(1)
    hub.says(lambda answer: answer["merged"] >= 2, "what comes later")
    nodes[1].play(1)
    wait_merged(hub, nodes)
    assert hub.fleet()["corrected"] == 0 and not partial_of(hub)


def test_a_late_node_is_named_and_corrects_windows(server):
    """Windows do not wait for a silent node for longer than window.timeout; its parts correct them when they come."""
    hub = Hub(server, "hub")
    nodes = nodes_of(server, 3)
    play_merged(hub, nodes, 2)
    slow = nodes[2]
    slow.alive = False
    for node in nodes[:2]:
        node.play(2)
    wait_until(lambda: partial_lasts(hub) == {5, 7}, "partial windows")
    wait_until(lambda: {last: set(missing) for last, missing in partial_of(hub).items()} == {5: {"node-2"}, 7: {"node-2"}},
               "who is missing")
    assert hub.node("node-2")["state"] in ("silent", "behind")
    slow.alive = True
    slow.play(2)
    wait_merged(hub, nodes)
    wait_until(lambda: not partial_lasts(hub) and not partial_of(hub), "whole windows")


def test_a_node_far_behind_is_not_waited_for(server):
    """More than 16 windows behind the first, though it lives."""
    hub, nodes = begun(server, "window.timeout=1h")
    nodes[0].play(20)
    wait_until(lambda: partial_lasts(hub), "a window without it")
    assert max(partial_lasts(hub)) <= 2 * 21 - 1 - 2 * 16
    nodes[1].play(20)
    wait_merged(hub, nodes)
    wait_until(lambda: not partial_lasts(hub) and not partial_of(hub), "whole windows")


def test_windows_before_one_that_was_merged(server):
    """A window was merged without a node, whose parts before it come later, when those of the other node have gone: they are
    windows all the same. A hub that lost its parts keeps in its history what it had more of."""
    hub, nodes = begun(server)
    nodes[1].alive = False
    lost = nodes[0].close_part(1) + nodes[0].close_part(2)
    for seq in lost:
        del nodes[0].rows[seq]
    nodes[0].play(1)
    wait_until(lambda: partial_lasts(hub) == {7}, "a window without the second node")
    nodes[1].alive = True
    nodes[1].play(3)
    wait_merged(hub, nodes)
    wait_until(lambda: {last: set(missing) for last, missing in partial_of(hub).items()} == {3: {"node-0"}, 5: {"node-0"}},
               "who is missing")
    hub.stop()
    hub.lose_everything(history=False)
    nodes[0].nats.stream("PURGE")
    kept = {seq: nodes[1].rows.pop(seq) for seq in list(nodes[1].rows)[:6]}  # of the first windows
    hub.start()
    wait_until(lambda: set(partial_of(hub)) == {1, 5}, "what it lacks now")
    hub.stop()
    nodes[1].rows.update(kept)
    found = differences(hub, nodes)
    assert not found, found


def test_what_comes_while_the_file_is_locked(server):
    """Somebody else writes to HISTORY.parts for longer than a hub waits: nothing counts as taken that was not written."""
    hub, nodes = begun(server, "window.timeout=1h")
    with locked(hub.parts_path):
        for node in nodes:
            node.play(2)
        wait_until(lambda: "fleet_parts_trouble" in hub.log_text(), "that the hub waits no more")
    wait_merged(hub, nodes)
    assert not partial_lasts(hub)


def test_what_the_history_has_no_room_for_is_merged_again(server):
    hub = Hub(server, "hub", "window.timeout=1h", "ingest.budget=4MiB", "ingest.max_message=4MiB")
    nodes = nodes_of(server, 2, heads=64)
    with locked(hub.history_path):
        for node in nodes:
            node.play(20)
        wait_until(lambda: "history_queue_full" in hub.log_text(), "that the hub's history takes no more")
    wait_merged(hub, nodes)


def test_what_the_history_could_not_write_is_merged_again(server):
    hub = Hub(server, "hub", "window.timeout=1h")
    nodes = nodes_of(server, 2)
    with locked(hub.history_path):
        for node in nodes:
            node.play(2)
        wait_until(lambda: "history_trouble" in hub.log_text(), "that it waits no more")
    play_merged(hub, nodes)


def test_a_hub_killed_while_its_history_cannot_be_written(server):
    hub = Hub(server, "hub", "window.timeout=1h")
    nodes = nodes_of(server, 2)
    with locked(hub.history_path):
        for node in nodes:
            node.play(2)
        wait_until(lambda: "history_trouble" in hub.log_text(), "that it waits no more")
        for node in nodes:
            node.play(2)
        hub.says(lambda answer: answer["merged"] == 4, "all windows")
        hub.stop()
    with contextlib.closing(sqlite3.connect(hub.parts_path)) as parts:  # the last minute before the newest is merged again
        assert [row for row in parts.execute("SELECT part FROM merged ORDER BY part")] == [(0,), (1,)]
    hub.start()
    wait_merged(hub, nodes)


def test_a_stream_that_never_rests(server):
    """Other nodes send all the time; what is lacking of one is asked for meanwhile."""
    hub, nodes = begun(server, "window.timeout=1h")
    lost = nodes[0].close_part(1)
    nodes[0].play(1)

    def asked():
        nodes[1].play(1)
        return any(ask["from"] <= lost[0] <= ask["to"] for ask in nodes[0].asked)
    wait_until(asked, "somebody who asks for what is lacking")
    nodes[0].play(nodes[1].next_part - nodes[0].next_part)
    wait_merged(hub, nodes)


def test_what_the_stream_lost_is_asked_for(server):
    """Rows that a server took and no hub got: a node sends them again, or says that they are gone."""
    hub = Hub(server, "hub", "window.timeout=1h")
    nodes = nodes_of(server, 2)
    nodes[0].answering = False
    play_merged(hub, nodes)
    lost = [nodes[0].close_part(part) for part in (1, 2)]
    nodes[0].play(1)
    nodes[1].play(3)
    first, last = lost[0][0], lost[1][-1]

    def asked():
        return set(range(first, last + 1)) <= {seq for ask in nodes[0].asked if ask["from"]
                                               for seq in range(ask["from"], ask["to"] + 1)}
    wait_until(asked, f"a question for {first} to {last} ({nodes[0].asked})")
    assert all(ask["instance"] == nodes[0].instance and ask["hub"] == "hub" and ask["refused"] == "" for ask in nodes[0].asked)
    nodes[0].send(*lost[0], time_=1)
    nodes[0].gone(lost[1][0], last)
    for seq in lost[1]:
        del nodes[0].rows[seq]
    wait_merged(hub, nodes)
    wait_until(lambda: {last: set(missing) for last, missing in partial_of(hub).items()} == {5: {"node-0"}}, "who is missing")
    wait_until(lambda: hub.fleet()["gone"] == len(lost[1]) and hub.node("node-0")["lacking"] == 0, "what is gone")
    nodes[0].asked.clear()
    play_merged(hub, nodes)
    assert not [ask for ask in nodes[0].asked if ask["from"]]


def test_hubs_that_lost_everything_are_rebuilt(server):
    """One of them has its history still. The stream is empty, too: they ask the nodes."""
    hubs = [Hub(server, name) for name in ("all", "parts")]
    nodes = nodes_of(server, 2)
    for node in nodes:
        node.play(4)
    for hub in hubs:
        wait_merged(hub, nodes)
        hub.stop(signal.SIGKILL)
        hub.lose_everything(history=hub.name == "all")
    nodes[0].nats.stream("PURGE")
    for hub in hubs:
        hub.start()
    for hub in hubs:
        hub.says(lambda answer: [one["lacking"] for one in answer["nodes"]] == [0, 0], "all rows")
        wait_merged(hub, nodes)
    assert all(node.asked for node in nodes)
    for node in nodes:
        node.play(1)
    for hub in hubs:
        wait_merged(hub, nodes)
        assert not partial_lasts(hub)


def test_hubs_killed_at_named_points(server, monkeypatch):
    """Each at another one."""
    hubs = []
    for point in ("hub_taken", "hub_committed", "hub_acknowledged", "hub_merged", "merged_published"):
        monkeypatch.setenv("ATTND_CRASH_AT", f"{point}:3")
        hubs.append(Hub(server, point))
        monkeypatch.delenv("ATTND_CRASH_AT")
    nodes = nodes_of(server, 2)
    for node in nodes:
        node.play(5)
    for hub in hubs:
        assert hub.process.wait(PATIENCE_S) == -9, hub.name
        hub.start()
    for node in nodes:
        node.play(2)
        node.end()
    for hub in hubs:
        wait_merged(hub, nodes)
        assert not partial_lasts(hub)


def test_a_history_that_lost_its_last_commits_with_the_power(server, tmp_path):
    """What it had merged by its file of parts is merged again, however much later it starts."""
    hub = Hub(server, "hub", "window.timeout=1h")
    with contextlib.closing(sqlite3.connect(hub.history_path)) as history, contextlib.closing(sqlite3.connect(tmp_path / "old")) as old:
        history.backup(old)
    nodes = nodes_of(server, 2)
    for node in nodes:
        node.play(3)
    hub.says(lambda answer: answer["merged"] == 3, "three windows")
    hub.stop()
    for ending in ("-wal", "-shm"):
        pathlib.Path(hub.history_path + ending).unlink(missing_ok=True)
    os.replace(tmp_path / "old", hub.history_path)
    assert merging.windows_of(hub.history_path) == {}
    with contextlib.closing(sqlite3.connect(hub.parts_path)) as parts, parts:
        assert parts.execute("UPDATE merged SET stored = stored - 120").rowcount == 3
    hub.start()
    wait_merged(hub, nodes)


def test_a_hub_that_the_servers_have_no_consumer_for_says_so(server):
    server.stop()
    one = Server("accounts { a { jetstream: { max_consumers: 1 }, users: [ { user: a, password: a } ] } }\nno_auth_user: a")
    hubs = [Hub(one, "first"), Hub(one, "second")]
    nodes = nodes_of(one, 2)
    for node in nodes:
        node.play(1)
    wait_until(lambda: any("the consumer of the stream attnd-parts cannot be made" in (hub.fleet()["error"] or "") for hub in hubs),
               "which of them has none")
    wait_until(lambda: any(hub.fleet()["merged"] == 1 for hub in hubs), "that the other goes on")
    client = Nats(one)
    refused = client.ask("$JS.API.INFO")["api"]["errors"]
    wait_until(lambda: client.ask("$JS.API.INFO")["api"]["errors"] >= refused + 3, "further tries")
    client.close()
    assert max(hub.log_text().count("fleet_trouble") for hub in hubs) == 1


def test_two_hubs_have_the_same_bytes(server):
    """Whatever order each of them has got. One of them is killed: it acknowledges what it has committed; what it took twice is
    there once."""
    hubs = [Hub(server, name) for name in ("one", "two")]
    nodes = nodes_of(server, 3, layers=4)
    for _ in range(2):
        for node in random.sample(nodes, 3):
            node.play(2)
        hubs[1].again()
    for node in nodes:
        node.end()
    for hub in hubs:
        wait_merged(hub, nodes)
        wait_until(lambda hub=hub: hub.call("runs", job="job")["runs"][0]["state"] == ENDED, "the end of the run")
        assert not partial_lasts(hub), hub.name
    assert merging.same_bytes(*(hub.history_path for hub in hubs)) == []


def test_trainers_of_a_merged_run_are_not_taken(server):
    hub = Hub(server, "hub")
    nodes = nodes_of(server, 1)
    nodes[0].play(1)
    wait_merged(hub, nodes)
    trainer = Trainer(hub, "job", run=RUN)
    trainer.event("hello")
    wait_until(lambda: hub.stats()["dropped"].get("hub"), "a refusal")
    own = Trainer(hub, "own")
    own.event("hello")
    wait_until(lambda: hub.call("runs", job="own")["runs"], "a run of its own")


def test_merged_windows_are_in_the_order_of_steps(server):
    """Also where parts of later windows come first."""
    hub = Hub(server, "hub", "window.timeout=1h")
    nodes = nodes_of(server, 2)
    reader = Reader(hub, "summary/")
    nodes[0].play(6)
    rows = [nodes[1].close_part(part) for part in range(6)]
    for seqs in reversed(rows):
        nodes[1].send(*seqs)
    wait_merged(hub, nodes)
    for layer in range(2):
        assert merging.merged_all(map(merging.read_state, parts_of(nodes)[layer, 1])).messages == 4
    lasts = [last_of(summary) for _, summary in (reader.next() for _ in range(12))]
    assert lasts == sorted(lasts)


def test_ids_are_random_and_kept(server):
    hub = Hub(server, "hub")
    first = hub.fleet()["id"]
    hub.again()
    assert hub.fleet()["id"] == first and len(bytes.fromhex(first)) == 8
    assert Hub(server, "other").fleet()["id"] != first


def test_a_module_and_settings_come_through(server):
    hub = Hub(server, "hub")
    node = FakeNode(server, "node", RUN, layers=1)
    settings = msgpack.packb({"lr": 0.1, "model": "small"})
    node.send(node.number(node.run_body(settings=settings, points=[["loss", 0, 1, 10**18, 2.5]])))
    node.send(node.number(node.part(0, 0, node.states(0, 0), module="h.0.attn")), node.number(node.closed(0, 1)))
    node.next_part = 1
    wait_merged(hub, [node])
    wait_until(lambda: hub.call("runs", job="job")["runs"][0]["settings"] == {"lr": 0.1, "model": "small"}, "settings")
    assert hub.call("windows", job="job")["layers"][0]["module"] == "h.0.attn"
    wait_until(lambda: "loss" in str(hub.call("log", job="job")), "what was logged")


def test_a_loss_that_is_not_finite_is_the_hubs_alert_with_the_steps_that_a_node_logged(server):
    """The other node logs one of its own, which is not followed; and what comes twice counts once."""
    hub, nodes = Hub(server, "hub"), nodes_of(server, 2)
    for step, loss in ((10, 2.5), (20, None), (20, None), (30, 2.25)):
        nodes[0].send(nodes[0].number(nodes[0].run_body(points=[["loss", 0, step, 10**18 + step, loss]])))
        nodes[1].send(nodes[1].number(nodes[1].run_body(points=[["loss", 0, step - 5, 10**18 + step, 9.0]])))
    wait_until(lambda: "2.25" in str(hub.call("log", job="job")), "what was logged")
    alert, = hub.call("alerts", job="job")["firing"]
    assert (alert["rule"], alert["since"], alert["value"]) == ("loss_invalid", [10, 20], pytest.approx(1 / 3))
    assert alert["message"].startswith("loss is NaN or infinite now and then, since step 20, at step 10 it was finite: 33 %")


def test_node_names_may_be_alike(server):
    """Ids are what counts: two nodes with one name are two."""
    hub = Hub(server, "hub")
    nodes = [FakeNode(server, "same", RUN, ranks=(i,), world=2, node_id=os.urandom(8).hex()) for i in range(2)]
    play_merged(hub, nodes, 2)
    hub.says(lambda answer: len({one["id"] for one in answer["nodes"]}) == 2, "two nodes")


def test_a_parts_file_that_breaks_is_begun_anew(server):
    """The disk gives other bytes than it was given: the hub notices, and asks its nodes for all of it. Nobody has to start it."""
    hub = Hub(server, "hub", "window.timeout=1h")
    nodes = nodes_of(server, 2)
    play_merged(hub, nodes, 3)
    first = hub.fleet()["id"]
    with contextlib.closing(sqlite3.connect(hub.parts_path)) as other:
        wait_until(lambda: other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0, "all is in one file")
        size = other.execute("PRAGMA page_size").fetchone()[0]
        with open(hub.parts_path, "r+b") as file:
            file.seek(2 * size)
            file.write(b"\xff" * (os.path.getsize(hub.parts_path) - 2 * size))
        other.execute("PRAGMA application_id = 1")  # so that the hub reads again
    play_merged(hub, nodes, 2)
    assert hub.fleet()["id"] == first and all(node.asked for node in nodes)
    assert "fleet_parts_begun_anew" in hub.log_text() and not partial_lasts(hub)


def wakeups(hub):
    """How often threads of the hub have gone to sleep."""
    found = 0
    for task in os.listdir(f"/proc/{hub.process.pid}/task"):
        with open(f"/proc/{hub.process.pid}/task/{task}/status") as status:
            lines = dict(line.split(":", 1) for line in status)
        found += int(lines["voluntary_ctxt_switches"]) if lines["Name"].strip() == "attnd-hub" else 0
    return found


def wakeups_per_second(hub):
    before, began = wakeups(hub), time.monotonic()
    time.sleep(4)
    return (wakeups(hub) - before) / (time.monotonic() - began)


def test_a_hub_without_nodes_sleeps(server):
    """Once a second, which is five waits; a loop that does not wait has hundreds. A disk and servers that others load add
    some, so the quietest of eight spans counts."""
    hub = Hub(server, "hub")
    hub.says(lambda answer: answer["connected"], "a connection")
    spans = []
    while len(spans) < 8 and min(spans, default=20) >= 20:
        spans.append(wakeups_per_second(hub))
    assert min(spans) < 20, spans


def test_sketches_stay_on_their_nodes(server):
    """Windows are merged as without them; a sketch that the hub itself gets of such a run is refused, and counted."""
    hub, nodes = Hub(server, "hub"), [Node(server, f"node-{i}") for i in range(2)]
    training = Training(nodes)
    for step in range(6):
        for trainer in training.trainers:
            trainer.sketch(wq=np.full((training.heads, 64), step, np.float32), step=step)
        training.one_step()
    training.finish(hub)
    whole(hub, nodes)
    for node in nodes:
        wait_until(lambda node=node: len(node.call("sketches", job="job")["sketches"]) == 6, "the captures of a node")
    assert hub.call("sketches", job="job")["sketches"] == []
    Trainer(hub, "job", run=training.run).sketch(wq=np.ones((training.heads, 64), np.float32), step=9)
    wait_until(lambda: hub.stats()["dropped"].get("hub") == 1, "the refusal")
    for attnd in (hub, *nodes):
        stats = attnd.stats()
        assert stats["received"] == stats["processed"] + sum(stats["dropped"].values())

# SPDX-License-Identifier: MIT
"""Nodes that say what none should: set aside, refused, counted, and the rest goes on."""
import contextlib
import os
import sqlite3
import struct

import merging
import msgpack
import pytest
from fake_node import FakeNode, play_merged, wait_merged
from fleet import Hub
from harness import wait_until
from test_hub import RUN, begun, nodes_of, partial_lasts, partial_of


def changed(body, **keys):
    return msgpack.packb({**msgpack.unpackb(body), **keys})


def poison(node):
    """{name: (data, headers)}: messages that no hub can take."""
    good = node.rows[1]
    state = msgpack.unpackb(good)["state"]
    later = msgpack.packb({**msgpack.unpackb(state), "v": 3})
    return {
        "no map": (b"\x01", {}), "nothing": (b"", {}), "rubbish": (os.urandom(500), {}), "cut": (good[:-7], {}),
        "more": (good + b"\0", {}), "later version": (changed(good, v=2), {}), "later state": (changed(good, state=later), {}),
        "no state": (changed(good, state=b""), {}), "state cut": (changed(good, state=state[:-1]), {}),
        "other kind": (changed(good, kind="sum"), {}), "other unit": (changed(good, unit="second"), {}),
        "no length": (changed(good, length=0), {}), "every too large": (changed(good, every=2**40), {}),
        "negative part": (changed(good, part=-1), {}), "run too short": (changed(good, run=b"short"), {}),
        "other run": (changed(good, run=os.urandom(16)), {}), "odd job": (changed(good, job="a/b"), {}),
        "layer too large": (changed(good, layer=1 << 20), {}), "deep": (b"\x91" * 20, {}),
        "huge array": (b"\xdd" + struct.pack(">I", 2**32 - 1), {}), "huge bin": (b"\xc6" + struct.pack(">I", 2**32 - 1), {}),
        "no seq": (good, {"Attnd_Seq": None}), "odd seq": (good, {"Attnd_Seq": "x"}), "seq 0": (good, {"Attnd_Seq": 0}),
        "seq too large": (good, {"Attnd_Seq": 2**70}), "no instance": (good, {"Attnd_Instance": None}),
        "odd instance": (good, {"Attnd_Instance": "no"}), "piece 3 of 2": (good, {"Attnd_Piece": "3/2"}),
        "piece 0": (good, {"Attnd_Piece": "0/2"}), "too many pieces": (good, {"Attnd_Piece": "1/4000000000"}),
        "odd piece": (good, {"Attnd_Piece": "one"}), "gone backwards": (b"", {"Attnd_Gone": "9-3"}),
        "gone odd": (b"", {"Attnd_Gone": "all"}), "gone everything": (b"", {"Attnd_Gone": f"1-{2**64}"}),
    }


def test_poison_is_set_aside(server):
    hub, nodes = begun(server)
    bad = poison(nodes[0])
    for i, (data, headers) in enumerate(bad.values()):
        before = nodes[0].number({})  # a number of its own
        nodes[0].rows[before] = b""
        nodes[0].send(before, data=data, **headers)
        if i % 8 == 0:
            nodes[1].send(1, time_=i + 1)
    nodes[0].rows = {seq: data for seq, data in nodes[0].rows.items() if data}
    play_merged(hub, nodes, 2)
    hub.says(lambda answer: answer["poisoned"] >= len(bad) - 2, f"{len(bad)} are counted")
    assert hub.process.poll() is None and not partial_lasts(hub)
    nodes[0].nats.publish("attnd.part.nobody.norun", b"x", {})
    nodes[0].nats.publish(f"attnd.part.{'0' * 16}.{'z' * 32}", nodes[0].rows[1], nodes[0].headers(1))
    for data in (b"", b"\x01", os.urandom(100), msgpack.packb({"v": 1}), msgpack.packb({"v": 2, "instance": b""}), b"\x91" * 9999):
        nodes[0].nats.publish(f"attnd.node.{nodes[0].id}", data)
        nodes[0].nats.publish("attnd.node.x", data)
    nodes[0].nats.publish(f"attnd.part.{'ab' * 8}.{RUN.hex()}", b"x", nodes[0].headers(1))
    play_merged(hub, nodes)
    assert sorted(node["name"] for node in hub.fleet()["nodes"]) == ["node-0", "node-1"]  # not whoever sent only that


def test_other_buckets_are_refused(server):
    """The first node of a run says how many; the other one is missing in each window, and is told why."""
    hub = Hub(server, "hub")
    first, other = nodes_of(server, 2)
    first.play(1)
    wait_until(lambda: hub.fleet()["nodes"] and hub.node("node-0"), "the first node")
    other.play(2, buckets=96)
    first.play(1)
    wait_until(lambda: any("buckets" in ask["refused"] for ask in other.asked), f"a refusal ({other.asked})")
    wait_merged(hub, [first])
    wait_until(lambda: hub.node("node-1")["state"] == "refused" and "buckets" in hub.node("node-1")["refused"], "its state")
    wait_until(lambda: 3 in partial_of(hub), "a partial window")
    assert set(partial_of(hub)[3]) == {"node-1"} and "buckets" in partial_of(hub)[3]["node-1"]
    assert not any(ask["refused"] for ask in first.asked)
    assert not any(ask["pause"] for ask in other.asked), "it is about one run"


def test_other_window_rules_are_counted(server):
    hub = Hub(server, "hub")
    nodes = nodes_of(server, 2)
    other = FakeNode(server, "other", RUN, ranks=(0,), world=2, rule=("step", 3, 3))
    other.play(2)
    says = "has windows of 3 steps every 3, this hub has none: set window.unit, window.length and window.every, or window.also"
    hub.says(lambda answer: answer["windows_unknown"] >= 2 and says in answer["unknown"], "parts of a rule that it does not have")
    unheard = FakeNode(server, "unheard", RUN, ranks=(0,), world=2, rule=("step", 3, 3), nats=other.nats)
    unheard.play(1)
    hub.says(lambda answer: answer["unknown"].startswith(f"{unheard.id} {says}"), "whose they are, before a sign of life")
    unheard.end()
    other.end()
    play_merged(hub, nodes, 2)


def test_wrong_clocks_change_nothing(server):
    hub = Hub(server, "hub")
    nodes = nodes_of(server, 3)
    nodes[1].clock_s, nodes[2].clock_s = -86400 * 365, 86400
    play_merged(hub, nodes, 3)
    assert not partial_lasts(hub)
    wait_until(lambda: all(abs(hub.node(node.name)["clock_s"] - node.clock_s) < 5 for node in nodes), "how far clocks are off")


def test_a_hub_whose_clock_was_two_years_slow(server):
    """It is right again at its next start: what it took before is no older for that."""
    hub = Hub(server, "hub", "window.timeout=1h")
    nodes = nodes_of(server, 2)
    for node in nodes:
        node.play(1)
    nodes[0].play(2)
    hub.says(lambda answer: answer["merged"] == 1 and answer["rows"] == 8, "one window, and parts of two that wait")
    hub.stop()
    with contextlib.closing(sqlite3.connect(hub.parts_path)) as parts, parts:
        for change in ("parts SET stored = stored", "closed SET stored = stored", "merged SET stored = stored", "runs SET heard = heard"):
            assert parts.execute(f"UPDATE {change} - 2 * 365 * 86400").rowcount > 0
    hub.start()
    nodes[1].play(2)
    wait_merged(hub, nodes)
    assert hub.fleet()["windows_lost"] == 0 and "fleet_run_forgotten" not in hub.log_text()


def test_a_second_attnd_with_the_same_id_is_refused(server):
    """A copied history, such as in an image of a machine. The first one is not disturbed; when it is silent, the second is
    taken."""
    hub = Hub(server, "hub", "window.timeout=20s")
    first = FakeNode(server, "first", RUN)
    play_merged(hub, [first], 2)
    second = FakeNode(server, "second", RUN, node_id=first.id)
    second.play(1, seed=9)
    wait_until(lambda: any(ask["refused"] and ask["instance"] == second.instance for ask in second.asked), "a refusal")
    assert next(ask["refused"] for ask in second.asked if ask["refused"]) == (
        "another attnd with the id of this node lives, first on fake: remove the copied history")
    play_merged(hub, [first])
    assert not any(ask["refused"] for ask in first.asked if ask["instance"] == first.instance)
    first.alive = False
    heard = len(second.asked)
    second.seq = 2**20
    wait_until(lambda: hub.node("second")["state"] == "ok", "the second instead of the first")
    rows = second.close_part(3, seed=9)
    second.send(*rows)
    wait_until(lambda: 7 in lasts(hub), "its window")
    assert heard <= len(second.asked)


def test_rows_of_a_start_that_nobody_heard_of(server):
    """The hub was away while the node was started twice: the start that lives is asked for them, and nothing waits behind them."""
    hub = Hub(server, "hub", "window.timeout=1h")
    node = FakeNode(server, "node", RUN)
    play_merged(hub, [node])
    node.send(*node.close_part(1), Attnd_Instance=os.urandom(8).hex())
    wait_merged(hub, [node])
    consumer = f"$JS.API.CONSUMER.INFO.attnd-parts.attnd-hub-{hub.fleet()['id']}"
    wait_until(lambda: node.nats.ask(consumer)["num_ack_pending"] == 0, "the server offers them no more")


def test_more_layers_than_the_hub_takes(server):
    """The layers beyond are left out, and do not hold the run up."""
    hub = Hub(server, "hub", "limits.layers=1")
    FakeNode(server, "node", RUN).play(2)
    wait_until(lambda: lasts(hub) == {1, 3}, "the windows of one layer")


def lasts(hub):
    """The last steps of its windows."""
    return {key[8] for key in merging.windows_of(hub.history_path)}


def test_a_world_that_grows(server):
    """Nodes that join a run later are waited for from then on."""
    hub = Hub(server, "hub", "window.timeout=1h")
    nodes = [FakeNode(server, "node-0", RUN, ranks=(0,), world=1)]
    nodes[0].play(2)
    wait_merged(hub, nodes)
    for node in nodes:
        node.world = 2
    nodes.append(FakeNode(server, "node-1", RUN, ranks=(1,), world=2))
    nodes[1].next_part = 2
    wait_until(lambda: hub.node("node-1"), "the second node")
    play_merged(hub, nodes[::-1])
    play_merged(hub, nodes[::-1], 2)
    assert not partial_lasts(hub)
    assert hub.call("runs", job="job")["runs"][0]["world"] == 2


def test_epochs_that_disagree_are_counted(server):
    """Windows of steps whose steps are in different epochs on two nodes are no steps of one training."""
    hub, nodes = begun(server)
    nodes[0].play(1)
    nodes[1].send(*[nodes[1].number(nodes[1].part(1, layer, nodes[1].states(1, layer, epoch=5))) for layer in range(2)],
                  nodes[1].number(nodes[1].closed(1, 2, epoch=5)))
    wait_merged(hub, nodes)
    hub.says(lambda answer: answer["steps_disagree"] == 1, "that one window disagrees")


def test_other_layers_and_heads(server):
    """A layer that one node has only, and one of which it has other heads: the latter cannot be merged."""
    hub = Hub(server, "hub")
    nodes = nodes_of(server, 2)
    nodes[1].layers = 3
    play_merged(hub, nodes, 2)
    odd = FakeNode(server, "odd", RUN, ranks=(2,), world=3, heads=5)
    odd.next_part = 2
    odd.play(1)
    for node in nodes:
        node.play(2)
    hub.says(lambda answer: answer["poisoned"] == 2, "that they cannot be merged")
    odd.end()
    wait_merged(hub, nodes)


def run_of(hub, run):
    return [one for one in hub.fleet()["runs"] if one["run"] == run.hex()][0]  # an IndexError: not yet


@pytest.mark.parametrize("limit, sentence", [("limits.jobs=1", "as many active jobs"), ("limits.runs=1", "as many active runs"),
                                             ("limits.ranks=1", "more ranks than")])
def test_a_run_beyond_the_limits_of_the_hub(server, limit, sentence):
    """The method fleet says why nothing of it is shown; the other runs go on; when there is room it is shown."""
    hub = Hub(server, "hub", limit, "window.timeout=1h")
    first = FakeNode(server, "first", RUN)
    play_merged(hub, [first])
    more = {"job": "job" if "runs" in limit else "other", "ranks": (0, 1) if "ranks" in limit else (0,), "world": 1}
    other = FakeNode(server, "other", bytes(reversed(RUN)), **more)
    other.send(other.number(other.run_body(points=[["loss", 0, 1, 10**18, 2.5]])))
    other.play(1)
    wait_until(lambda: sentence in (run_of(hub, other.run)["refused"] or ""), f"why it is not shown: {hub.fleet()}")
    assert limit.split("=")[0] in run_of(hub, other.run)["refused"] and run_of(hub, RUN)["refused"] is None
    first.send(first.number(first.run_body(points=[["loss", 0, 1, 10**18, 2.5]])))
    play_merged(hub, [first], 2)
    wait_until(lambda: "loss" in str(hub.call("log", job="job")), "what the first one logs")
    if "ranks" not in limit:
        first.end()
        wait_merged(hub, [other])
        wait_until(lambda: run_of(hub, other.run)["refused"] is None, "nothing against it any more")


def test_a_run_whose_nodes_died_is_idle(server):
    """As with trainers that are gone: after limits.idle. When the node is back, it goes on."""
    hub = Hub(server, "hub", "limits.idle=2s")
    node = FakeNode(server, "node", RUN)
    play_merged(hub, [node])
    assert run_of(hub, RUN)["state"] == "active"
    node.alive = False
    wait_until(lambda: run_of(hub, RUN)["state"] == "idle", "that nothing is heard of the run")
    wait_until(lambda: hub.call("runs", job="job")["runs"][0]["state"] == "idle", "the idle run in its history")
    node.alive = True
    play_merged(hub, [node])
    wait_until(lambda: run_of(hub, RUN)["state"] == "active", "that it goes on")


def memory_of(hub):
    with open(f"/proc/{hub.process.pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_parts_far_ahead_harm_their_own_run_only(server):
    """No window is made up in between, no memory is taken, and of the run itself the true windows are there in the end."""
    hub = Hub(server, "hub", "window.timeout=1h")
    nodes = nodes_of(server, 2)
    harmed = [FakeNode(server, f"harmed-{i}", bytes(reversed(RUN)), job="harmed", ranks=(i,), world=2) for i in range(2)]
    for node in nodes + harmed:
        node.play(2)
    wait_merged(hub, nodes)
    wait_merged(hub, harmed)
    before, merged = memory_of(hub), hub.fleet()["merged"]
    odd = FakeNode(server, "odd", harmed[0].run, job="harmed", ranks=(5,), world=2)
    last = 2**62 // 10**6
    odd.send(*[odd.number(odd.closed(last - i * 10**9, 0)) for i in range(5)])
    for _ in range(5):
        for node in nodes + harmed:
            node.play(1)
    wait_merged(hub, nodes)
    wait_merged(hub, harmed)
    hub.says(lambda answer: run_of(hub, harmed[0].run)["partial_windows"] == 4, "those far ahead are partial, and no other")
    assert run_of(hub, RUN)["partial_windows"] == 0 and lasts(hub) == {1, 3, 5, 7, 9, 11, 13}
    assert hub.fleet()["merged"] - merged < 25 and memory_of(hub) - before < 16 << 20

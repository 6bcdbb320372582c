# SPDX-License-Identifier: MIT
"""Starting, stopping, overload, and the control socket."""
import os
import re
import signal
import socket
import subprocess
import time

import msgpack
import numpy as np
import pytest
import zmq
from harness import ATTND, PATIENCE_S, SANITIZED, Attnd, Trainer, elsewhere, observed, softmax_maps, wait_log, wait_until

memory_is_known = pytest.mark.skipif(SANITIZED, reason="a sanitizer keeps freed memory back on purpose")
EIGENVALUES = ("workers.threads=1", "metrics.spectrum_budget=0", "metrics.spectrum_effort=eigenvalues")
HEAVY = (*EIGENVALUES, "metrics.spectrum_max_size=4096")  # a map of 1200 queries and keys takes seconds


def run_attnd(*arguments):
    return subprocess.run([ATTND, *arguments], capture_output=True, text=True, timeout=60)


def ipc_settings(directory):
    return [part for name in ("ingest", "publish", "control", "tap")
            for part in ("--set", f"{name}.endpoint=ipc://{directory}/{name}")] + ["--set", "http.enabled=false"]


def tcp_settings(name, endpoint):
    return ["--set", f"{name}.endpoint={endpoint}", "--set", "insecure=true"]


def test_a_taken_port_is_one_clear_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        result = run_attnd(*tcp_settings("publish", endpoint))
    assert result.returncode == 1
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"attnd: publish.endpoint: cannot bind {endpoint}: Address already in use")


def test_the_ipc_socket_of_a_running_daemon_is_not_stolen(attnd):
    result = run_attnd(*ipc_settings(attnd.directory))
    assert result.returncode == 1 and "Address already in use" in result.stderr


def test_a_missing_directory_and_a_privileged_path(tmp_path):
    result = run_attnd(*ipc_settings(tmp_path / "missing"))
    assert result.returncode == 1 and "No such file or directory" in result.stderr
    result = run_attnd(*tcp_settings("ingest", "tcp://192.0.2.1:5570"))
    assert result.returncode == 1 and len(result.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_an_unwritable_directory_is_one_clear_line(tmp_path):
    directory = tmp_path / "closed"
    directory.mkdir(mode=0o755)
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", ATTND, *ipc_settings(directory)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "failed to execute" in result.stderr:
        pytest.skip("the build folder is closed to other users")
    assert result.returncode == 1
    assert "Permission denied; choose an endpoint this user may bind" in result.stderr


def test_the_instruction_set_can_be_forced():
    assert "isa: scalar" in run_attnd("--isa", "scalar", "--print-config").stdout
    result = run_attnd("--isa", "sse9", "--print-config")
    assert result.returncode == 2 and "workers.isa: 'sse9'" in result.stderr and "avx512" in result.stderr
    attnd = Attnd("workers.isa=portable")
    wait_log(attnd, "isa=portable")


def test_usage_errors_exit_2():
    assert run_attnd("--frobnicate").returncode == 2
    result = run_attnd("--set", "window.unit=epochs")
    assert result.returncode == 2 and "window.unit" in result.stderr and "epoch, step, second" in result.stderr


def attnd_at_work(rng, *settings):
    """It has eigenvalues to compute for ten seconds and more."""
    attnd = Attnd(*HEAVY, *settings)
    trainer, weights = Trainer(attnd, "job"), softmax_maps(rng, 1, 1, 1200, 1200)
    for step in range(12):
        trainer.attention(weights, step=step)
    wait_until(lambda: attnd.stats()["in_flight"] > 0, "the heavy messages")
    return attnd


def test_a_second_sigterm_ends_at_once(rng):
    attnd = attnd_at_work(rng, "shutdown.timeout=600s")
    attnd.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "event=stopping" in attnd.log_text(), "the first signal")
    assert attnd.stop() == 1  # of its own accord it would end with 0


def test_a_stop_does_not_wait_longer_than_its_timeout(rng):
    attnd = attnd_at_work(rng, "shutdown.timeout=200ms")
    assert attnd.stop() == 0
    assert "stop_timed_out" in attnd.log_text()


def test_over_the_budget_messages_are_dropped_counted_and_not_lost_as_well(rng):
    """Events still come through, the job and its summary say what was dropped, and the next epoch is as ever."""
    attnd, reader, trainer = observed("ingest.budget=8MiB", "ingest.max_message=4MiB", "workers.threads=1",
                                      "metrics.spectrum_budget=0")
    weights = softmax_maps(rng, 1, 4, 256, 256)
    for step in range(40):
        trainer.attention(weights, step=step)
    trainer.event("epoch_end", epoch=0)
    stats = attnd.settled(41)
    dropped = stats["dropped"]["over_budget"]
    assert stats["dropped"] == {"over_budget": dropped} and 0 < dropped < 40 and stats["lost"] == 0
    assert stats["processed"] == 41 - dropped
    job, = attnd.call("jobs")
    assert (job["received"], job["processed"], job["lost"], job["dropped"]) == (
        41, 41 - dropped, 0, {"over_budget": dropped})
    trainer.attention(weights, epoch=1)
    trainer.event("epoch_end", epoch=1)
    summaries = [reader.next()[1] for _ in range(2)]
    assert sum(summary["messages"] for summary in summaries) == 41 - dropped
    assert sum(summary["dropped"].get("over_budget", 0) for summary in summaries) == dropped
    assert [summary["lost"] for summary in summaries] == [0, 0]


@memory_is_known
def test_what_waits_behind_a_heavy_message_is_bounded(rng):
    """The numbers of dropped messages wait for their turn, as far as the reserve goes."""
    attnd = Attnd("ingest.budget=64MiB", "ingest.max_message=16MiB", *HEAVY)
    trainer = Trainer(attnd, "job")
    trainer.attention(softmax_maps(rng, 1, 1, 1200, 1200), layer=1)
    weights = softmax_maps(rng, 1, 1, 4, 4)
    sent, full = 1, 84 << 20  # what one job may have of the budget and of the reserve: 8/9 of 64 and of 32 MiB
    while attnd.stats()["in_flight_bytes"] < full:
        assert sent < 60000, "the reserve is never used up"
        for _ in range(1000):
            trainer.attention(weights, step=sent)
            sent += 1
    for _ in range(5000):  # for which there is no room at all
        trainer.attention(weights, step=sent)
        sent += 1
    stats = attnd.settled(sent)
    assert stats["dropped"]["over_budget"] > 8000
    assert attnd.rss_kb() < 256 * 1024


@memory_is_known
def test_the_reserve_is_there_however_far_the_last_message_exceeds_the_budget(rng):
    """A large message of another job is admitted while the budget is not used up. Beyond it events count, and numbers
    are known."""
    attnd = Attnd("ingest.budget=64MiB", "ingest.max_message=64MiB", *EIGENVALUES, "metrics.spectrum_max_size=1500")
    trainer = Trainer(attnd, "job")
    first, second = softmax_maps(rng, 1, 1, 1500, 1500), np.full((1, 1, 3000, 4700), 1 / 4700, "f4")
    trainer.attention(first, layer=1)  # 45 MiB with its scratch, for a second
    elsewhere(attnd, lambda attnd: Trainer(attnd, "other").attention(second))
    wait_until(lambda: attnd.stats()["in_flight"] == 2, "both at work")
    small = softmax_maps(rng, 1, 1, 4, 4)
    for step in range(20):
        trainer.attention(small, step=step)
    trainer.event("epoch_end")
    assert wait_until(lambda: attnd.stats()["in_flight_bytes"] > 97 << 20, "more than the budget and the reserve")
    stats = attnd.settled(23)
    assert stats["dropped"] == {"over_budget": 20} and stats["events"] == 1
    trainer.attention(small, step=20)
    assert attnd.settled(24)["lost"] == 0


def memory_group(limit):
    """The directory of a new control group with a memory limit in bytes, of version 1 or 2."""
    for parent, file in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = f"{parent}/attnd-test-{os.getpid()}"
        try:
            os.mkdir(group)
        except OSError:
            continue
        try:
            with open(f"{group}/{file}", "w") as into:
                into.write(str(limit))
            return group
        except OSError:
            os.rmdir(group)
    pytest.skip("this user can make no control group")


def test_budgets_fit_what_they_may_have_together():
    attnd = Attnd("limits.memory=1GiB", "publish.budget=1GiB")
    wait_log(attnd, "event=budgets_lowered", "to=1073741824", "by=limits.memory")
    config = attnd.call("config")
    assert not config["publish.budget"].endswith("GiB") and config["ingest.memory"] == "2GiB"
    attnd.close()


@pytest.mark.skipif(SANITIZED, reason="a sanitizer has memory of its own")
def test_budgets_fit_the_memory_of_the_control_group():
    group = memory_group(512 << 20)

    def join():
        with open(f"{group}/cgroup.procs", "w") as into:
            into.write("0")

    try:
        attnd = Attnd("publish.budget=1GiB", preexec_fn=join)
        wait_log(attnd, "event=budgets_lowered", "to=402653184", 'by="the control group"')
        config = attnd.call("config")
        assert not config["publish.budget"].endswith("GiB") and not config["limits.state_memory"].endswith("GiB")
        assert config["ingest.memory"] == "2GiB"  # is the trainers'
        attnd.close()
    finally:
        os.rmdir(group)


def test_an_oversized_message_is_refused(rng):
    attnd = Attnd("ingest.max_message=64KiB")
    trainer = Trainer(attnd, "job")
    trainer.attention(softmax_maps(rng, 1, 3, 72, 72, dtype="f2"))  # 31104 bytes: fits
    frames = trainer.attention_frames(softmax_maps(rng, 1, 1, 120, 120, dtype="f4"))
    trainer.send(*frames, frames[2])  # each frame fits, the whole does not
    assert attnd.settled(2)["dropped"] == {"too_large": 1}


def test_an_oversized_message_of_too_many_heads_announces_no_layer(rng):
    """limits.heads holds for what is too large by its bytes as well."""
    attnd = Attnd("ingest.max_message=64KiB")
    trainer = Trainer(attnd, "job")
    trainer.attention(softmax_maps(rng, 1, 1, 120, 160, dtype="f4"), heads_total=4096)
    trainer.event("epoch_end")
    assert attnd.settled(2)["dropped"] == {"heads_limit": 1}
    job, = attnd.call("jobs")
    assert job["layers"] == []


def test_the_queue_of_the_pool_may_be_full_without_loss(rng):
    attnd = Attnd("workers.queue=64", "workers.threads=1", "workers.block_entries=1024")
    trainer = Trainer(attnd, "job")
    for step in range(30):
        trainer.attention(softmax_maps(rng, 1, 32, 32, 32), step=step)
    stats = attnd.settled(30)
    assert stats["processed"] == 30 and stats["pool"]["queued_max"] <= 64


def test_control_errors_have_codes(attnd):
    for method, params, code in [("dance", {}, "method_unknown"), ("summary", {"job": "none"}, "job_unknown"),
                                 ("summary", {}, "argument"), ("flush", {"job": "none"}, "job_unknown")]:
        with pytest.raises(RuntimeError, match=code):
            attnd.call(method, **params)


def test_a_req_socket_is_served_too(attnd):
    req = attnd.connected(zmq.REQ, "control")
    req.send(msgpack.packb([0, 9, "ping", {}]))
    assert req.poll(60000)
    assert msgpack.unpackb(req.recv())[:3] == [1, 9, None]


def test_garbage_requests_are_answered_with_an_error(attnd):
    dealer = attnd.connected(zmq.DEALER, "control")
    for garbage in (b"", b"\xc1", b"\x91" * 100, msgpack.packb([5]), msgpack.packb([0, 1, 2, 3])):
        dealer.send(garbage)
        assert dealer.poll(60000)
        assert msgpack.unpackb(dealer.recv())[2]["code"] == "request"
    assert attnd.call("ping")


def test_config_call_shows_what_is_in_force(attnd):
    config = attnd.call("config")
    assert config["ingest.endpoint"] == attnd.endpoint("ingest")
    assert config["window.unit"] == "epoch"


def test_summary_call_filters(attnd, rng):
    trainer = Trainer(attnd, "job")
    for layer in range(3):
        trainer.attention(softmax_maps(rng, 1, 1, 4, 4), layer=layer)
        trainer.attention(softmax_maps(rng, 1, 1, 4, 5), layer=layer, site="cross")
    trainer.event("epoch_end", epoch=0)
    attnd.settled(7)
    assert len(attnd.call("summary", job="job")) == 6
    assert len(attnd.call("summary", job="job", site="cross")) == 3
    (one,) = attnd.call("summary", job="job", layer=2, site="self", stack="decoder")
    assert (one["layer"], one["site"], one["kind"]) == (2, "self", "summary")


@pytest.mark.skipif(SANITIZED, reason="a sanitizer has memory and threads of its own")
def test_an_idle_daemon_is_small_and_sleeps(attnd):
    def switches():
        total = 0
        for task in os.listdir(f"/proc/{attnd.process.pid}/task"):
            with open(f"/proc/{attnd.process.pid}/task/{task}/status") as status:
                total += sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)
        return total

    assert attnd.rss_kb() <= 30 * 1024
    for client in list(attnd.context._sockets or ()):
        client.close()
    time.sleep(0.5)  # lets the last control connection go
    before = switches()
    time.sleep(3)
    assert switches() - before <= 3 * len(os.listdir(f"/proc/{attnd.process.pid}/task"))


def terminated(process):
    """Whether a process has ended upon SIGTERM. ThreadSanitizer may hold a signal back until the next one comes."""
    process.terminate()
    try:
        return process.wait(PATIENCE_S if not SANITIZED else 2) is not None
    except subprocess.TimeoutExpired:
        return False


def test_a_free_port_is_told_where_one_asks(tmp_path):
    settings = [*ipc_settings(tmp_path), *tcp_settings("ingest", "tcp://127.0.0.1:*"), "--set", "http.enabled=true", "--set",
                "http.endpoint=tcp://127.0.0.1:*"]
    with subprocess.Popen([ATTND, *settings], stderr=subprocess.PIPE, text=True) as process:
        started = next(line for line in process.stderr if "event=started" in line)
        wait_until(lambda: terminated(process), "attnd ends")
    assert "ingest=tcp://127.0.0.1:" in started and "http=tcp://127.0.0.1:" in started and "*" not in started
    assert started.rstrip().endswith(" page=" + re.search(r"http=tcp(://127\.0\.0\.1:\d+)", started).expand(r"http\1/"))


@pytest.mark.parametrize("timeout", ["0s", "5ms", "100ms"])
def test_a_stop_under_load_that_times_out_is_clean(rng, timeout):
    attnd = Attnd(f"shutdown.timeout={timeout}", "workers.threads=2")
    trainer = Trainer(attnd, "job")
    for step in range(400):
        trainer.attention(softmax_maps(rng, 1, 4, 24, 24), step=step)
    wait_until(lambda: attnd.stats()["received"] >= 1, "the first message")
    assert attnd.stop() == 0, attnd.log_text()


@memory_is_known
def test_the_budget_holds_for_small_messages_of_many_heads(rng):
    attnd = Attnd("ingest.budget=64MiB", "ingest.max_message=64MiB", "metrics.spectrum=false")
    trainer = Trainer(attnd, "job")
    weights = softmax_maps(rng, 1, 1024, 2, 2)
    for step in range(1000):
        trainer.attention(weights, step=step)
    attnd.settled(1000)
    assert attnd.rss_kb() < 200 * 1024


def test_repeated_subscriptions_are_answered_together(attnd, rng):
    trainer = Trainer(attnd, "job")
    for layer in range(20):
        trainer.attention(softmax_maps(rng, 1, 2, 4, 4), layer=layer)
    attnd.settled(20)
    reader = attnd.connected(zmq.XSUB, "publish")
    for _ in range(500):
        reader.send(b"\x00live/")
        reader.send(b"\x01live/")
    wait_until(lambda: attnd.stats()["subscriptions"] >= 1, "the subscriptions")
    time.sleep(0.5)  # two rounds of snapshots
    assert attnd.stats()["snapshots"] <= 20 * 50


def test_who_asks_many_things_at_once_is_answered_all():
    attnd = Attnd("workers.threads=1")
    asking = attnd.connected(zmq.DEALER, "control")
    for turn in range(50):
        ids = range(9 * turn, 9 * turn + 9)
        for number in ids:
            asking.send(msgpack.packb([0, number, ("stats", "alerts")[number % 2], {}]))
        got = set()
        while len(got) < len(ids):
            assert asking.poll(1000 * PATIENCE_S), f"no answer to {set(ids) - got}"
            got.add(msgpack.unpackb(asking.recv())[1])
        assert got == set(ids)


def test_a_long_list_of_jobs_is_made_between_other_answers():
    attnd = Attnd("limits.runs=40")
    layers = [dict(stack="decoder", layer=layer, site="self", heads=1) for layer in range(1000)]
    runs = {os.urandom(16) for _ in range(40)}
    for run in runs:
        Trainer(attnd, "job", run=run).event("hello", layers=layers)
    attnd.settled(40)
    asker = attnd.connected(zmq.DEALER, "control")

    def answer():
        assert asker.poll(int(1000 * PATIENCE_S))
        return msgpack.unpackb(asker.recv())[1:]
    for number in range(8):
        asker.send(msgpack.packb([0, number, "jobs", {}]))
    asker.send(msgpack.packb([0, 8, "ping", {}]))
    answers = [answer() for _ in range(9)]
    assert answers[-1][0] == 7, "a question waited for all lists"
    for number, error, jobs in answers:
        assert error is None
        if number < 8:
            assert {bytes.fromhex(job["run"]) for job in jobs} == runs
            assert all([layer["layer"] for layer in job["layers"]] == list(range(1000)) for job in jobs)

    many, poller = {attnd.connected(zmq.DEALER, "control"): number for number in range(100)}, zmq.Poller()
    for one in many:
        poller.register(one, zmq.POLLIN)

    def ask():
        for one, number in many.items():
            one.send(msgpack.packb([0, number, "jobs", {}]))

    def all_answered():
        ready = poller.poll(int(1000 * PATIENCE_S / 8))
        if not ready:  # a machine too busy to read for half a second: these were cut off
            assert attnd.stats()["subscribers_cut"] > 0
            ask()
        for one, _ in ready:
            _, answered, error, jobs = msgpack.unpackb(one.recv())
            assert (answered, error, len(jobs)) == (many.pop(one), None, 40)
            poller.unregister(one)
            one.close()
        return not many
    ask()  # they share lists
    wait_until(all_answered, "all lists", 4 * PATIENCE_S)

    for number in range(100):
        asker.send(msgpack.packb([0, number, "jobs", {}]))
    while not (error := answer()[1]):
        pass
    assert error["code"] == "again"

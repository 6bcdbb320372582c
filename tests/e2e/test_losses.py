# SPDX-License-Identifier: MIT
"""Nothing is lost in silence, what is lost is counted once, and a forged message ends nothing."""
import os
import subprocess

import numpy as np
from harness import Attnd, Reader, Trainer, attnctl, observed, softmax_maps, wait_log, wait_until

import attnd as package

PUBLISH = os.environ.get("ATTN_PUBLISH_ARRAYS", "build/tests/e2e/publish_arrays")
FAR = 2**61


def maps(rng):
    return softmax_maps(rng, 1, 2, 4, 4)


def job(attnd, name="job"):
    return wait_until(lambda: [job for job in attnd.call("jobs") if job["job"] == name], "the job")[0]


def summary_of(attnd, name):
    done = attnctl(attnd, "summary", name)
    return done.returncode, done.stderr


def hellos(attnd, first, *names):
    """Trainers that say hello and go, one after the other; `first` messages have come with the first of them."""
    for sent, name in enumerate(names, first):
        forger = Trainer(attnd, name)
        forger.event("hello")
        forger.close()
        wait_until(lambda sent=sent: attnd.stats()["received"] == sent, "the hello")


def test_a_forged_bye_does_not_end_a_run_that_goes_on(rng):
    attnd, reader, trainer = observed()
    trainer.attention(maps(rng))
    attnd.settled(1)
    forger = Trainer(attnd, "job", run=trainer.run)
    forger.event("bye")
    wait_until(lambda: job(attnd)["state"] == "ended", "the forged end")
    reader.next()
    for epoch in (1, 2):
        trainer.attention(maps(rng), epoch=epoch)
        trainer.event("epoch_end", epoch=epoch, seq=epoch)
    stats = attnd.settled(6)
    assert stats["dropped"] == {} and stats["lost"] == 0
    assert job(attnd)["state"] == "active"
    assert [reader.next()[1]["window"]["last"] for _ in range(2)] == [1, 2]


def test_a_jump_to_a_number_without_end_is_no_loss(rng):
    attnd, reader, trainer = observed()
    trainer.attention(maps(rng))
    attnd.settled(1)
    forger = Trainer(attnd, "job", run=trainer.run)
    for seq in (FAR, FAR + 1):
        forger.attention(maps(rng), seq=seq, dropped=FAR)
    attnd.settled(3)
    for _ in range(5):
        trainer.attention(maps(rng))
    trainer.event("epoch_end")
    stats = attnd.settled(9)
    assert stats["dropped"] == {"seq_order": 1} and stats["lost"] == stats["source_dropped"] == 0
    summary = reader.next()[1]
    assert summary["lost"] == 0 and summary["messages"] == 7
    assert job(attnd)["lost"] == 0


def test_empty_hellos_do_not_fill_the_job_table(rng):
    attnd = Attnd("limits.jobs=4", "limits.runs=2", "limits.idle=1s")
    real = [Trainer(attnd, name) for name in ("real1", "real2")]
    for trainer in real:
        trainer.attention(maps(rng))
    attnd.settled(2)
    hellos(attnd, 3, *(f"forged{i}" for i in range(64)))
    late = Trainer(attnd, "late")
    late.attention(maps(rng))
    hellos(attnd, 68, *["late"] * 16)  # the same with the runs of one job
    for trainer in (*real, late):
        trainer.attention(maps(rng))
    stats = attnd.settled(86)
    assert stats["dropped"] == {} and stats["lost"] == 0 and stats["jobs"] == 4
    assert {"real1", "real2", "late"} <= {job["job"] for job in attnd.call("jobs")}


def test_captures_that_are_all_dropped_at_the_source_show_everywhere():
    attnd, reader, trainer = observed("window.unit=step", topic="alert/")
    trainer.event("hello", dropped_total=1)  # nothing may be wrong yet: a window may still come
    assert attnd.settled(1)["alerts"] == 0
    trainer.event("hello", step=50, dropped_total=1)
    alert = reader.next()[1]
    assert (alert["rule"], alert["state"]) == ("losses", "firing")
    trainer.event("epoch_end", step=60, dropped_total=45)
    trainer.event("bye", step=60, dropped_total=48)
    attnd.settled(4)
    assert job(attnd)["dropped"] == {"source": 48}
    assert attnd.stats()["source_dropped"] == 48


def test_a_total_and_the_counts_of_topics_add_up_to_one_truth(rng):
    attnd, reader, trainer = observed()
    trainer.event("hello")
    trainer.attention(maps(rng), dropped=2)
    trainer.event("hello", dropped_total=7)  # two are of layer 0, and told
    attnd.settled(3)
    assert job(attnd)["dropped"] == {"source": 7}
    trainer.attention(maps(rng), layer=1, dropped=5)
    trainer.attention(maps(rng), dropped=3)  # one is newer than the total
    trainer.event("epoch_end", dropped_total=8)
    attnd.settled(6)
    assert job(attnd)["dropped"] == {"source": 8} and attnd.stats()["source_dropped"] == 8
    assert sorted(reader.next()[1]["dropped"]["source"] for _ in range(2)) == [3, 5]


def test_totals_survive_a_restart(attnd, rng):
    trainer = Trainer(attnd, "job")
    trainer.event("hello")
    trainer.attention(maps(rng), dropped=1)
    trainer.event("hello", dropped_total=5)
    attnd.settled(3)
    attnd.restart(trainer)
    trainer.attention(maps(rng), dropped=4)
    trainer.event("hello", dropped_total=6)
    attnd.settled(2)
    assert job(attnd)["dropped"] == {"source": 6}
    assert attnd.stats()["source_dropped"] == 1, "of this start"


def test_a_message_larger_than_the_limit_is_counted_and_is_no_gap(rng):
    """As a trainer sends it that was not told the limit: eight heads, so long that one frame exceeds it."""
    attnd, reader, trainer = observed("ingest.max_message=256KiB")
    trainer.attention(softmax_maps(rng, 1, 8, 4, 4))
    for _ in range(3):
        trainer.attention(np.full((1, 8, 100, 100), 0.01, np.float32))
    trainer.attention(softmax_maps(rng, 1, 8, 4, 4))
    trainer.event("epoch_end")
    stats = attnd.settled(6)
    assert stats["dropped"] == {"too_large": 3} and stats["lost"] == 0
    assert reader.next()[1]["dropped"] == {"too_large": 3}
    wait_log(attnd, "reason=too_large")


def test_a_client_refuses_what_is_too_large_and_everybody_hears_of_it(caplog):
    """The eight heads of 3000 tokens that were lost in silence, 1/1000 of them."""
    attnd = Attnd("ingest.max_message=256KiB")
    reader = Reader(attnd, "alert/")
    with package.Publisher("job", attnd.endpoint("ingest")) as publisher:
        assert publisher.wait_for_subscriber(20)
        publisher.hello([("decoder", 0, "self", 8)])
        for step in range(5):
            assert not publisher.publish_attention(np.full((1, 8, 95, 95), 1 / 95, np.float32), step=step,
                                                   stack="decoder", layer=0)
        wait_until(lambda: job(attnd)["dropped"], "the total in an event")
    assert "attnctl plan set job rows=512" in caplog.text and len(caplog.records) == 1
    wait_until(lambda: job(attnd)["state"] == "ended", "the end")
    assert job(attnd)["dropped"] == {"source": 5} and attnd.stats()["source_dropped"] == 5
    alert = reader.next()[1]
    assert (alert["rule"], alert["state"]) == ("losses", "firing")


def test_captures_that_all_find_the_queue_full_show_too(attnd, caplog):
    with package.Publisher("job", attnd.endpoint("ingest"), queue_bytes=100) as publisher:
        assert publisher.wait_for_subscriber(20)
        for step in range(3):
            assert not publisher.publish_attention(np.full((1, 2, 8, 8), 1 / 8, np.float32), step=step, stack="decoder",
                                                   layer=0)
    assert "the queue of 100 bytes is full" in caplog.text and "attnctl plan set job rows=512" in caplog.text
    wait_until(lambda: job(attnd)["state"] == "ended", "the end")
    assert job(attnd)["dropped"] == {"source": 3}
    assert "captured nothing: the job dropped all 3 captures itself" in summary_of(attnd, "job")[1]


def test_a_client_in_c_refuses_what_is_too_large(tmp_path):
    attnd = Attnd("ingest.max_message=64KiB")
    (tmp_path / "weights").write_bytes(np.full((1, 8, 50, 50), 0.02, np.float32).tobytes())
    done = subprocess.run([PUBLISH, attnd.endpoint("ingest"), "c", "attention", f"weights=@{tmp_path}/weights", "batch=1",
                           "heads=8", "queries=50", "keys=50"], timeout=60, capture_output=True, text=True)
    assert done.returncode != 0 and "larger than the daemon takes" in done.stderr
    wait_until(lambda: job(attnd, "c")["state"] == "ended", "the end")
    assert job(attnd, "c")["dropped"] == {"source": 1}


def test_the_summary_of_a_job_that_captured_nothing_says_why(rng):
    attnd = Attnd("plan.layers=encoder.*", config="jobs: {off: {plan.every: 0}}")
    announced = [dict(stack="decoder", layer=0, site="self", heads=2)]
    for name, keys in (("off", {}), ("all", dict(dropped_total=7)), ("unmatched", dict(layers=announced)), ("bare", {})):
        trainer = Trainer(attnd, name)
        trainer.event("hello", **keys)
        if name == "all":
            wait_until(lambda: any(run["job"] == "all" for run in attnd.call("jobs")), "the job")
            assert summary_of(attnd, "all")[1].startswith("attnctl: nothing is captured so far: the job dropped all 7")
        trainer.event("bye", **({"dropped_total": 7} if name == "all" else {}))
    refused = Trainer(attnd, "refused")
    refused.event("hello")
    refused.attention(maps(rng), epoch="three")
    refused.event("bye")
    attnd.settled(11)
    why = {name: summary_of(attnd, name) for name in ("off", "all", "unmatched", "bare", "refused")}
    begins = "attnctl: the run has ended and captured nothing: "
    assert why == {
        "off": (1, f"{begins}its plan captures no step (every=0)\n"),
        "all": (1, f"{begins}the job dropped all 7 captures itself, because they are larger than attnd takes or come "
                   "faster; its own log says which. Remedy: attnctl plan set all rows=512 (or still fewer), fewer "
                   "samples, a fused kernel\n"),
        "unmatched": (1, f"{begins}its plan takes none of its layers (layers=encoder.*)\n"),
        "bare": (1, f"{begins}it sent no attention\n"),
        "refused": (1, f"{begins}attnd refused what came: 1 key_type\n"),
    }


def test_what_comes_late_after_a_reconnect_is_counted_once(rng):
    """The old connection is read out when messages of the new one are there already."""
    attnd, reader, old = observed()
    new = Trainer(attnd, "job", run=old.run)
    for sent, (trainer, seq) in enumerate([(old, 0), (new, 3), (old, 1), (new, 4), (old, 2), (new, 5), (new, 7)], 1):
        trainer.attention(maps(rng), seq=seq, step=seq)
        attnd.settled(sent)
    new.event("epoch_end")
    stats = attnd.settled(8)
    assert stats["dropped"] == {} and (stats["lost"], stats["found"]) == (1, 2)
    summary = reader.next()[1]
    assert summary["messages"] == 7 and summary["lost"] == 1
    assert job(attnd)["lost"] == 1 and np.sum(list(job(attnd)["dropped"].values())) == 0

# SPDX-License-Identifier: MIT
"""Windows of epochs, steps and seconds; closing, rolling, flushing."""
import signal

import numpy as np
import pytest
from harness import Attnd, Reader, Trainer, attnctl, observed, ranks_of, softmax_maps, wait_until
from test_record import Recorder

MAP = np.full((1, 1, 4, 4), 0.25, np.float32)


def epochs(trainer, count):
    for epoch in range(count):
        trainer.one_epoch(MAP, epoch)


def captures(trainer, count, every, first=0):
    for step in range(first * every, (first + count) * every, every):
        trainer.attention(MAP, step=step)


def windows(reader, count):
    return [reader.next()[1] for _ in range(count)]


def units(summaries):
    return [(one["window"]["unit"], one["window"]["last"], one["messages"]) for one in summaries]


def whole(reader):
    """The summaries that come, but for partial ones."""
    return (one for one in iter(lambda: reader.next()[1], None) if not one["window"]["partial"])


@pytest.mark.parametrize("settings, send, expected", [
    pytest.param(("window.length=4", "window.every=2"), lambda trainer: epochs(trainer, 8),
                 [(0, 1, 2, True), (0, 3, 4, False), (2, 5, 4, False), (4, 7, 4, False)], id="four every two"),
    pytest.param(("window.unit=step", "window.length=10", "window.every=10"), lambda trainer: captures(trainer, 6, 7),
                 [(0, 9, 2, False), (10, 19, 1, False), (20, 29, 2, False)], id="steps that are not sampled")])
def test_windows_roll(settings, send, expected):
    _, reader, trainer = observed(*settings)
    send(trainer)
    assert [(w["window"]["first"], w["window"]["last"], w["messages"], w["window"]["partial"])
            for w in windows(reader, len(expected))] == expected


def test_a_summary_every_third_epoch():
    attnd, reader, trainer = observed("window.length=3", "window.every=3")
    epochs(trainer, 4)
    assert windows(reader, 1)[0]["messages"] == 3
    attnd.settled(8)
    assert reader.silent()
    trainer.event("bye", epoch=3)
    last = windows(reader, 1)[0]
    assert last["messages"] == 1 and last["window"]["partial"] and last["window"]["last"] == 5
    wait_until(lambda: attnd.call("jobs")[0]["state"] == "ended", "the end")


def test_without_a_unit_windows_have_16_captures_and_epochs_stand_beside_them():
    attnd, reader, trainer = observed("window.unit=auto", "window.rank_grace=0")
    trainer.event("hello", own_every=3)
    captures(trainer, 20, 3)
    trainer.event("epoch_end", epoch=0)
    captures(trainer, 20, 3, first=20)
    (first, epoch, second) = windows(reader, 3)
    assert units([first, epoch, second]) == [("step", 47, 16), ("epoch", 0, 20), ("step", 95, 16)]
    assert "track" not in first and epoch["track"] == 1, "rules judge the first"
    assert units(attnd.call("summary", job="job")) == [("step", 95, 16)]
    assert units(attnd.call("summary", job="job", window=1)) == units(attnd.call("summary", job="job", window="1 epoch")) == [("epoch", 0, 20)]


def test_windows_stay_as_they_are_cut_when_the_plan_changes_and_over_a_restart():
    attnd = Attnd("window.unit=auto", "window.rank_grace=0", "plan.every=2", "history.checkpoint=100ms")
    trainer = Trainer(attnd, "job")
    captures(trainer, 24, 2)  # which say nothing of how often they come
    attnd.call("plan.set", job="job", every=5)
    attnd.settled(24)
    attnd.stop()
    trainer.wait_forgotten()
    attnd.settings = (*attnd.settings, "plan.every=7")
    attnd.start()
    trainer.wait_subscribed()
    reader = Reader(attnd, "summary/")
    captures(trainer, 10, 5, first=10)
    later = whole(reader)
    assert units([next(later)]) == [("step", 63, 8 + 3)]
    captures(Trainer(attnd, "next"), 17, 7)
    assert units([next(later)]) == [("step", 111, 16)]
    wait_until(lambda: attnd.call("windows", job="job")["layers"][0]["tracks"][0]["windows"] == 2, "both in the history")
    history = attnd.call("history", job="job")
    assert (history["unit"], history["length"], history["windows"]["last"]) == ("step", 32, [31, 63])


def test_windows_of_seconds_close_by_the_clock():
    _, reader, trainer = observed("window.unit=second", "window.length=1", "window.every=1")
    trainer.attention(MAP)
    summary = windows(reader, 1)[0]
    assert summary["window"]["unit"] == "second" and summary["messages"] == 1
    assert not summary["window"]["partial"]


def test_late_data_is_counted_not_mixed_in():
    attnd, reader, trainer = observed()
    epochs(trainer, 2)
    windows(reader, 2)
    trainer.attention(MAP, epoch=0)
    stats = attnd.settled(5)
    assert stats["dropped"] == {"late": 1}
    trainer.attention(MAP, epoch=2)
    trainer.attention(MAP, epoch=0)
    trainer.event("epoch_end", epoch=2)
    summary = windows(reader, 1)[0]
    assert summary["messages"] == 1 and summary["dropped"] == {"late": 1}


def test_the_first_window_waits_for_ranks_not_heard_of():
    attnd = Attnd("window.rank_grace=60s")
    reader = Reader(attnd, "summary/")
    ranks = ranks_of(attnd, 2)
    epochs(ranks[0], 1)
    attnd.settled(2)
    assert reader.silent()
    epochs(ranks[1], 1)
    assert windows(reader, 1)[0]["ranks"] == 2


def test_a_slow_trainer_is_shown_but_loses_nothing():
    _, reader, trainer = observed("window.timeout=300ms")
    trainer.attention(MAP, step=0)
    shown = windows(reader, 1)[0]
    assert shown["window"]["partial"] and shown["messages"] == 1
    trainer.attention(MAP, step=1)
    trainer.event("epoch_end", epoch=0)
    assert next(whole(reader))["messages"] == 2  # partial ones come while the end of the epoch is on its way


def test_flush_shows_everything_received_before_it(rng):
    attnd, reader, trainer = observed()
    for step in range(10):
        trainer.attention(softmax_maps(rng, 1, 8, 64, 64), step=step)
    wait_until(lambda: attnd.stats()["received"] == 10, "the messages")
    assert attnd.call("flush") == {"windows": 1}
    summary = windows(reader, 1)[0]
    assert summary["messages"] == 10 and summary["window"]["partial"]
    assert attnd.call("flush", job="job") == {"windows": 1}


def test_shutdown_drains_and_shows_open_windows_as_partial(rng):
    attnd, reader, trainer = observed()
    for step in range(50):
        trainer.attention(softmax_maps(rng, 1, 4, 32, 32), step=step)
    wait_until(lambda: attnd.stats()["received"] >= 1, "the first message")
    assert attnd.stop() == 0
    summary = windows(reader, 1)[0]
    assert summary["window"]["partial"] and summary["messages"] == 50
    assert "processed=50" in attnd.log_text()


def test_lost_messages_show_as_gaps():
    attnd, reader, trainer = observed()
    for seq, time_ns in ((0, 10**18), (1, 1), (5, 2**62), (6, 10**18)):  # the publisher's clock changes nothing
        trainer.attention(MAP, seq=seq, dropped=2 if seq == 6 else 0, time_ns=time_ns)
    trainer.event("epoch_end", epoch=0)
    summary = windows(reader, 1)[0]
    assert (summary["messages"], summary["time_ns"]) == (4, 10**18)
    assert summary["lost"] == 3 and summary["dropped"] == {"source": 2}
    stats = attnd.settled(5)
    assert stats["lost"] == 3 and stats["source_dropped"] == 2


def test_message_metrics_pool_messages_and_last_is_the_newest(rng):
    _, reader, trainer = observed("metrics.spectrum_budget=0")
    maps = [softmax_maps(rng, 1, 2, 8, 8, dtype=np.float64) for _ in range(7)]
    for step, weights in enumerate(maps):
        trainer.attention(weights, step=step)
    trainer.event("epoch_end", epoch=0)
    summary = windows(reader, 1)[0]
    variance = np.array([[w[0, h].var(ddof=1) for h in range(2)] for w in maps])
    np.testing.assert_allclose(summary["heads"]["variance"]["mean"], variance.mean(0), rtol=1e-5)
    np.testing.assert_allclose(summary["heads"]["variance"]["last"], variance[-1], rtol=1e-5)
    assert summary["heads"]["variance"]["count"] == [7, 7]
    singular = np.array([[np.linalg.svd(w[0, h], compute_uv=False) for h in range(2)] for w in maps])
    np.testing.assert_allclose(np.array(summary["spectrum"]["singular_values"]["mean"], float)[:, :8],
                               singular.mean(0), rtol=1e-9)


def test_a_late_subscriber_gets_the_newest_summary_of_every_window_rule():
    attnd = Attnd("window.also=[2 epochs, 4 epochs every 2]")
    trainer = Trainer(attnd, "job")
    epochs(trainer, 4)
    attnd.settled(8)
    got = windows(Reader(attnd, "summary/"), 3)
    assert sorted((w["window"]["length"], w["window"]["last"], w["messages"]) for w in got) == [
        (1, 3, 1), (2, 3, 2), (4, 3, 4)]
    assert all(w["snapshot"] for w in got)
    assert [w["window"]["length"] for w in attnd.call("summary", job="job")] == [1], "the primary one"
    assert Reader(attnd, "job/").next()[1]["layers"] == [dict(stack="decoder", layer=0, site="self", heads=1)]


def test_two_runs_of_one_name_at_once_do_not_mix(attnd):
    reader = Reader(attnd, "summary/")
    runs = [Trainer(attnd, "job", run=name * 16) for name in (b"a", b"b")]
    for epoch in range(2):
        for count, trainer in enumerate(runs, 1):
            for step in range(count):
                trainer.attention(MAP, epoch=epoch, step=step)
        for trainer in runs:
            trainer.event("epoch_end", epoch=epoch)
    got = windows(reader, 4)
    assert len(attnd.call("jobs")) == 2
    assert sorted((w["run"], w["window"]["last"], w["messages"]) for w in got) == [
        (b"a".hex() * 16, 0, 1), (b"a".hex() * 16, 1, 1), (b"b".hex() * 16, 0, 2), (b"b".hex() * 16, 1, 2)]


def test_the_same_messages_give_the_same_summaries_with_any_number_of_workers(rng):
    """Byte for byte but for the publisher's time."""
    maps = [softmax_maps(rng, 2, 3, 16, 16) for _ in range(60)]

    def summaries(threads):
        attnd = Attnd(f"workers.threads={threads}", "workers.block_entries=1024", "metrics.spectrum_budget=0",
                      "window.unit=step", "window.length=5", "window.every=5", "window.also=[20 steps every 10]")
        reader = Reader(attnd, "summary/")
        ranks = ranks_of(attnd, 2)
        frames = [ranks[i % 2].attention_frames(weights, step=i // 2, layer=i % 3, time_ns=1)
                  for i, weights in enumerate(maps)]
        for i, message in enumerate(frames):  # one after the other: two connections have no order
            ranks[i % 2].send(*message)
            wait_until(lambda sent=i + 1: attnd.stats()["received"] == sent, "the message")
        attnd.settled(len(frames))
        for rank, trainer in enumerate(ranks):
            trainer.event("bye")
            wait_until(lambda sent=len(frames) + rank + 1: attnd.stats()["received"] == sent, "the bye")
        wait_until(lambda: attnd.call("jobs")[0]["state"] == "ended", "the end")
        count = attnd.stats()["summaries"]
        got = [reader.socket.recv_multipart() for _ in range(count)]
        attnd.close()
        return got

    one, many = summaries(1), summaries(8)
    assert len(one) > 20 and one == many


def test_a_job_may_say_its_windows_for_its_own_run_alone():
    attnd = Attnd("window.unit=auto", "window.rank_grace=0", "plan.every=1")
    reader = Reader(attnd, "summary/")
    for job, own in (("steps", {"unit": "step", "length": 20}), ("epochs", {"unit": "epoch", "length": 1}), ("silent", None)):
        trainer = Trainer(attnd, job)
        trainer.event("hello", **({"own_window": own} if own else {}))
        captures(trainer, 41, 1)
        trainer.event("epoch_end", epoch=0)
        trainer.event("bye")
    wait_until(lambda: all(job["state"] == "ended" for job in attnd.call("jobs")), "the ends")
    got = reader.everything()
    whole = [one for _, one in got if not one["window"]["partial"] and "track" not in one]
    assert units(one for one in whole if one["job"] == "steps") == [("step", 19, 20), ("step", 39, 20)]
    assert units(one for one in whole if one["job"] == "epochs") == [("epoch", 0, 41)]
    assert units(one for one in whole if one["job"] == "silent") == [("step", 15, 16), ("step", 31, 16)]
    tracks = {(one["job"], one.get("track", 0), one["window"]["unit"]) for _, one in got}
    assert tracks == {("steps", 0, "step"), ("steps", 1, "epoch"), ("epochs", 0, "epoch"), ("silent", 0, "step"),
                      ("silent", 1, "epoch")}
    assert units(attnd.call("summary", job="steps", window="20 steps")) == units(attnd.call("summary", job="steps"))
    for job, unit, length in (("steps", "step", 20), ("epochs", "epoch", 1), ("silent", "step", 16)):
        wait_until(lambda: attnd.stats()["history"]["waiting"] == 0, "the history")
        history = attnd.call("history", job=job)
        assert (history["unit"], history["length"]) == (unit, length)


def test_the_first_hello_of_a_run_decides_and_one_that_differs_is_refused():
    attnd = Attnd("window.rank_grace=0")
    reader = Reader(attnd, "summary/")
    ranks = ranks_of(attnd, 3)
    for trainer, own in zip(ranks, (dict(unit="step", length=8), dict(unit="step", length=4), None)):
        trainer.event("hello", **({"own_window": own} if own else {}))
        wait_until(lambda: attnd.stats()["received"] == trainer.rank + 1, "the hello")
    assert attnd.settled(3)["dropped"] == {"own_window": 1}
    assert "its run has other windows than this hello asks for" in attnd.log_text()
    for step in range(9):
        for trainer in ranks:
            trainer.attention(MAP, step=step)
    summary = windows(reader, 1)[0]
    assert units([summary]) == [("step", 7, 24)] and summary["ranks"] == 3


def test_windows_that_a_job_says_are_those_of_its_recording(tmp_path):
    attnd = Attnd("window.unit=auto", "window.rank_grace=0")
    for name, own in (("steps", {"unit": "step", "length": 20}), ("seconds", {"unit": "second", "length": 1})):
        recorder = Recorder(attnd, name, tmp_path / name)
        trainer = Trainer(attnd, name)
        trainer.event("hello", own_window=own)
        captures(trainer, 40, 1)
        trainer.event("bye")
        wait_until(lambda: [job["state"] for job in attnd.call("jobs") if job["job"] == name] == ["ended"], "the end")
        assert recorder.end(signal.SIGINT)[0] == 0
    fresh = Attnd("window.unit=auto", "window.rank_grace=0")
    assert attnctl(fresh, "replay", tmp_path / "steps").returncode == 0
    assert units(fresh.call("summary", job="steps")) == [("step", 39, 20)]
    judged = attnctl(None, "check", tmp_path / "steps")
    assert (judged.returncode, "0 alerts in 40 captures of 42 messages" in judged.stdout) == (0, True), judged.stdout
    judged = attnctl(None, "check", tmp_path / "seconds")
    assert "not used: own_window 1" in judged.stdout

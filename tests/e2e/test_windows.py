# SPDX-License-Identifier: MIT
"""Windows of epochs, steps and seconds; closing, rolling, flushing."""
import signal

import numpy as np
from harness import Attnd, Reader, Trainer, softmax_maps, wait_until
from test_record import Recorder, attnctl


def epochs(trainer, rng, count, first=0):
    for epoch in range(first, first + count):
        trainer.attention(softmax_maps(rng, 1, 1, 4, 4), epoch=epoch, step=epoch)
        trainer.event("epoch_end", epoch=epoch)


def windows(reader, count):
    return [reader.next()[1] for _ in range(count)]


def test_rolling_windows_of_four_every_two(rng):
    attnd = Attnd("window.length=4", "window.every=2")
    reader = Reader(attnd, "summary/")
    trainer = Trainer(attnd, "job")
    epochs(trainer, rng, 8)
    got = windows(reader, 4)
    assert [(w["window"]["first"], w["window"]["last"], w["messages"]) for w in got] == [
        (0, 1, 2), (0, 3, 4), (2, 5, 4), (4, 7, 4)]
    assert [w["window"]["partial"] for w in got] == [True, False, False, False]
    attnd.close()


def test_a_summary_every_third_epoch(rng):
    attnd = Attnd("window.length=3", "window.every=3")
    reader = Reader(attnd, "summary/")
    trainer = Trainer(attnd, "job")
    epochs(trainer, rng, 4)
    assert windows(reader, 1)[0]["messages"] == 3
    attnd.settled(8)
    assert reader.silent()
    trainer.event("bye", epoch=3)
    last = windows(reader, 1)[0]
    assert last["messages"] == 1 and last["window"]["partial"] and last["window"]["last"] == 5
    wait_until(lambda: attnd.call("jobs")[0]["state"] == "ended", "the end")
    attnd.close()


def test_windows_of_steps_skip_unsampled_steps(rng):
    attnd = Attnd("window.unit=step", "window.length=10", "window.every=10")
    reader = Reader(attnd, "summary/")
    trainer = Trainer(attnd, "job")
    for step in range(0, 36, 7):
        trainer.attention(softmax_maps(rng, 1, 1, 4, 4), step=step)
    got = windows(reader, 3)
    assert [(w["window"]["last"], w["messages"]) for w in got] == [(9, 2), (19, 1), (29, 2)]
    attnd.close()


def captures(trainer, rng, count, every, first=0):
    for step in range(first * every, (first + count) * every, every):
        trainer.attention(softmax_maps(rng, 1, 1, 4, 4), step=step)


def units(summaries):
    return [(one["window"]["unit"], one["window"]["last"], one["messages"]) for one in summaries]


def test_without_a_unit_windows_have_16_captures_and_epochs_stand_beside_them(rng):
    attnd = Attnd("window.unit=auto", "window.rank_grace=0")
    reader = Reader(attnd, "summary/")
    trainer = Trainer(attnd, "job")
    trainer.event("hello", own_every=3)
    captures(trainer, rng, 20, 3)
    trainer.event("epoch_end", epoch=0)
    captures(trainer, rng, 20, 3, first=20)
    (first, epoch, second) = windows(reader, 3)
    assert units([first, epoch, second]) == [("step", 47, 16), ("epoch", 0, 20), ("step", 95, 16)]
    assert "track" not in first and epoch["track"] == 1, "rules judge the first"
    assert units(attnd.call("summary", job="job")) == [("step", 95, 16)]
    assert units(attnd.call("summary", job="job", window=1)) == units(attnd.call("summary", job="job", window="1 epoch")) == [("epoch", 0, 20)]
    attnd.close()


def test_windows_stay_as_they_are_cut_when_the_plan_changes_and_over_a_restart(rng):
    attnd = Attnd("window.unit=auto", "window.rank_grace=0", "plan.every=2", "history.checkpoint=100ms")
    trainer = Trainer(attnd, "job")
    captures(trainer, rng, 24, 2)  # which say nothing of how often they come
    attnd.call("plan.set", job="job", every=5)
    attnd.settled(24)
    attnd.stop()
    trainer.wait_forgotten()
    attnd.settings = (*attnd.settings, "plan.every=7")
    attnd.start()
    trainer.wait_subscribed()
    reader = Reader(attnd, "summary/")
    captures(trainer, rng, 10, 5, first=10)
    whole = (one for one in iter(lambda: reader.next()[1], None) if not one["window"]["partial"])
    assert units([next(whole)]) == [("step", 63, 8 + 3)]
    captures(Trainer(attnd, "next"), rng, 17, 7)
    assert units([next(whole)]) == [("step", 111, 16)]
    wait_until(lambda: attnd.call("windows", job="job")["layers"][0]["tracks"][0]["windows"] == 2, "both in the history")
    history = attnd.call("history", job="job")
    assert (history["unit"], history["length"], history["windows"]["last"]) == ("step", 32, [31, 63])
    attnd.close()


def test_windows_of_seconds_close_by_the_clock(rng):
    attnd = Attnd("window.unit=second", "window.length=1", "window.every=1")
    reader = Reader(attnd, "summary/")
    trainer = Trainer(attnd, "job")
    trainer.attention(softmax_maps(rng, 1, 1, 4, 4))
    summary = windows(reader, 1)[0]
    assert summary["window"]["unit"] == "second" and summary["messages"] == 1
    assert not summary["window"]["partial"]
    attnd.close()


def test_late_data_is_counted_not_mixed_in(attnd, rng):
    reader = Reader(attnd, "summary/")
    trainer = Trainer(attnd, "job")
    epochs(trainer, rng, 2)
    windows(reader, 2)
    trainer.attention(softmax_maps(rng, 1, 1, 4, 4), epoch=0)
    stats = attnd.settled(5)
    assert stats["dropped"] == {"late": 1}
    trainer.attention(softmax_maps(rng, 1, 1, 4, 4), epoch=2)
    trainer.attention(softmax_maps(rng, 1, 1, 4, 4), epoch=0)
    trainer.event("epoch_end", epoch=2)
    summary = windows(reader, 1)[0]
    assert summary["messages"] == 1 and summary["dropped"] == {"late": 1}


def test_a_straggling_rank_holds_a_window_up_no_longer_than_the_timeout(rng):
    attnd = Attnd("window.timeout=500ms")
    reader = Reader(attnd, "summary/")
    ranks = [Trainer(attnd, "job", rank, world=2, run=b"r" * 16) for rank in range(2)]
    for trainer in ranks:
        trainer.event("hello")
    ranks[0].attention(softmax_maps(rng, 1, 1, 4, 4), epoch=0)
    ranks[0].event("epoch_end", epoch=0)
    summary = windows(reader, 1)[0]
    assert summary["window"]["partial"] and summary["ranks"] == 1
    ranks[1].attention(softmax_maps(rng, 1, 1, 4, 4), epoch=0)
    wait_until(lambda: attnd.stats()["dropped"] == {"late": 1}, "the late message")
    attnd.close()


def test_the_first_window_waits_for_ranks_not_heard_of(rng):
    attnd = Attnd("window.rank_grace=60s")
    reader = Reader(attnd, "summary/")
    ranks = [Trainer(attnd, "job", rank, world=2, run=b"r" * 16) for rank in range(2)]
    epochs(ranks[0], rng, 1)
    attnd.settled(2)
    assert reader.silent()
    epochs(ranks[1], rng, 1)
    assert windows(reader, 1)[0]["ranks"] == 2
    attnd.close()


def test_a_slow_trainer_is_shown_but_loses_nothing(rng):
    attnd = Attnd("window.timeout=300ms")
    reader = Reader(attnd, "summary/")
    trainer = Trainer(attnd, "job")
    trainer.attention(softmax_maps(rng, 1, 1, 4, 4), step=0)
    shown = windows(reader, 1)[0]
    assert shown["window"]["partial"] and shown["messages"] == 1
    trainer.attention(softmax_maps(rng, 1, 1, 4, 4), step=1)
    trainer.event("epoch_end", epoch=0)
    full = shown
    while full["window"]["partial"]:  # also what was shown while the end of the epoch was on its way
        full = windows(reader, 1)[0]
    assert full["messages"] == 2
    attnd.close()


def test_flush_shows_everything_received_before_it(attnd, rng):
    reader = Reader(attnd, "summary/")
    trainer = Trainer(attnd, "job")
    for step in range(10):
        trainer.attention(softmax_maps(rng, 1, 8, 64, 64), step=step)
    wait_until(lambda: attnd.stats()["received"] == 10, "the messages")
    assert attnd.call("flush") == {"windows": 1}
    summary = windows(reader, 1)[0]
    assert summary["messages"] == 10 and summary["window"]["partial"]
    assert attnd.call("flush", job="job") == {"windows": 1}


def test_shutdown_drains_and_shows_open_windows_as_partial(rng):
    attnd = Attnd()
    reader = Reader(attnd, "summary/")
    trainer = Trainer(attnd, "job")
    for step in range(50):
        trainer.attention(softmax_maps(rng, 1, 4, 32, 32), step=step)
    wait_until(lambda: attnd.stats()["received"] >= 1, "the first message")
    assert attnd.stop() == 0
    summary = windows(reader, 1)[0]
    assert summary["window"]["partial"] and summary["messages"] == 50
    assert "processed=50" in attnd.log_text()


def test_lost_messages_show_as_gaps(attnd, rng):
    reader = Reader(attnd, "summary/")
    trainer = Trainer(attnd, "job")
    for seq in (0, 1, 5, 6):
        trainer.attention(softmax_maps(rng, 1, 1, 4, 4), seq=seq, dropped=2 if seq == 6 else 0)
    trainer.event("epoch_end", epoch=0)
    summary = windows(reader, 1)[0]
    assert summary["lost"] == 3 and summary["dropped"] == {"source": 2}
    stats = attnd.settled(5)
    assert stats["lost"] == 3 and stats["source_dropped"] == 2


def test_message_metrics_pool_messages_and_last_is_the_newest(rng):
    attnd = Attnd("metrics.spectrum_budget=0")
    reader = Reader(attnd, "summary/")
    trainer = Trainer(attnd, "job")
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


def test_a_late_subscriber_gets_the_newest_summary_of_every_window_rule(rng):
    attnd = Attnd("window.also=[2 epochs, 4 epochs every 2]")
    trainer = Trainer(attnd, "job")
    epochs(trainer, rng, 4)
    attnd.settled(8)
    got = windows(Reader(attnd, "summary/"), 3)
    assert sorted((w["window"]["length"], w["window"]["last"], w["messages"]) for w in got) == [
        (1, 3, 1), (2, 3, 2), (4, 3, 4)]
    assert all(w["snapshot"] for w in got)
    assert [w["window"]["length"] for w in attnd.call("summary", job="job")] == [1], "the primary one"
    attnd.close()


def test_steps_that_go_backwards_are_late_once_their_window_is_closed(rng):
    attnd = Attnd("window.unit=step", "window.length=10", "window.every=10", "window.also=[1 epochs]")
    reader = Reader(attnd, "summary/")
    trainer = Trainer(attnd, "job")
    for step in (3, 12, 4, 11, 20):
        trainer.attention(softmax_maps(rng, 1, 1, 4, 4), step=step)
    first, second = windows(reader, 2)
    assert (first["messages"], first["dropped"]) == (1, {})
    assert (second["messages"], second["dropped"]) == (2, {"late": 1})
    trainer.event("epoch_end", epoch=0)
    epoch = windows(reader, 1)[0]
    assert (epoch["messages"], epoch["dropped"]) == (5, {}), "it was in time for the epoch"
    assert attnd.stats()["dropped"] == {}
    attnd.close()


def test_a_publisher_whose_clock_jumps_changes_nothing(attnd, rng):
    reader = Reader(attnd, "summary/")
    trainer = Trainer(attnd, "job")
    for step, time_ns in enumerate((10**18, 1, 2**62, 10**18)):
        trainer.attention(softmax_maps(rng, 1, 1, 4, 4), step=step, time_ns=time_ns)
    trainer.event("epoch_end", epoch=0)
    summary = windows(reader, 1)[0]
    assert (summary["messages"], summary["time_ns"]) == (4, 10**18)


def test_two_runs_of_one_name_at_once_do_not_mix(attnd, rng):
    reader = Reader(attnd, "summary/")
    runs = [Trainer(attnd, "job", run=name * 16) for name in (b"a", b"b")]
    for epoch in range(2):
        for count, trainer in enumerate(runs, 1):
            for step in range(count):
                trainer.attention(softmax_maps(rng, 1, 1, 4, 4), epoch=epoch, step=step)
        for trainer in runs:
            trainer.event("epoch_end", epoch=epoch)
    got = windows(reader, 4)
    assert sorted((w["run"], w["window"]["last"], w["messages"]) for w in got) == [
        (b"a".hex() * 16, 0, 1), (b"a".hex() * 16, 1, 1), (b"b".hex() * 16, 0, 2), (b"b".hex() * 16, 1, 2)]


def test_a_run_id_that_has_said_bye_is_refused(attnd, rng):
    trainer = Trainer(attnd, "job", run=b"r" * 16)
    epochs(trainer, rng, 1)
    trainer.event("bye")
    attnd.settled(3)
    again = Trainer(attnd, "job", run=b"r" * 16)
    again.attention(softmax_maps(rng, 1, 1, 4, 4), epoch=5)
    assert attnd.settled(4)["dropped"] == {"ended": 1}
    assert attnd.call("jobs")[0]["state"] == "ended"


def test_the_same_messages_give_the_same_summaries_with_any_number_of_workers(rng):
    """Byte for byte but for the publisher's time."""
    maps = [softmax_maps(rng, 2, 3, 16, 16) for _ in range(60)]

    def summaries(threads):
        attnd = Attnd(f"workers.threads={threads}", "workers.block_entries=1024", "metrics.spectrum_budget=0",
                      "window.unit=step", "window.length=5", "window.every=5", "window.also=[20 steps every 10]")
        reader = Reader(attnd, "summary/")
        ranks = [Trainer(attnd, "job", rank, world=2, run=b"r" * 16) for rank in range(2)]
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


def test_a_job_may_say_its_windows_for_its_own_run_alone(rng):
    attnd = Attnd("window.unit=auto", "window.rank_grace=0", "plan.every=1")
    reader = Reader(attnd, "summary/")
    for job, own in (("steps", {"unit": "step", "length": 20}), ("epochs", {"unit": "epoch", "length": 1}), ("silent", None)):
        trainer = Trainer(attnd, job)
        trainer.event("hello", **({"own_window": own} if own else {}))
        captures(trainer, rng, 41, 1)
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
    attnd.close()


def test_the_first_hello_of_a_run_decides_and_one_that_differs_is_refused(rng):
    attnd = Attnd("window.rank_grace=0")
    reader = Reader(attnd, "summary/")
    ranks = [Trainer(attnd, "job", rank, world=3, run=b"r" * 16) for rank in range(3)]
    for trainer, own in zip(ranks, (dict(unit="step", length=8), dict(unit="step", length=4), None)):
        trainer.event("hello", **({"own_window": own} if own else {}))
        wait_until(lambda: attnd.stats()["received"] == trainer.rank + 1, "the hello")
    assert attnd.settled(3)["dropped"] == {"own_window": 1}
    assert "its run has other windows than this hello asks for" in attnd.log_text()
    for step in range(9):
        for trainer in ranks:
            trainer.attention(softmax_maps(rng, 1, 1, 4, 4), step=step)
    summary = windows(reader, 1)[0]
    assert units([summary]) == [("step", 7, 24)] and summary["ranks"] == 3
    attnd.close()


def test_windows_that_a_job_says_stay_over_a_restart(rng):
    attnd = Attnd("window.unit=auto", "window.rank_grace=0", "history.checkpoint=100ms")
    hello = {"own_window": {"unit": "step", "length": 20}}
    trainer = Trainer(attnd, "job")
    trainer.event("hello", **hello)
    captures(trainer, rng, 30, 1)
    attnd.settled(31)
    attnd.stop()
    trainer.wait_forgotten()
    attnd.start()
    trainer.wait_subscribed()
    reader = Reader(attnd, "summary/")
    trainer.event("hello", **hello)
    captures(trainer, rng, 11, 1, first=30)
    whole = (one for one in iter(lambda: reader.next()[1], None) if not one["window"]["partial"])
    assert units([next(whole)]) == [("step", 39, 20)]
    trainer.event("hello", own_window={"unit": "step", "length": 40})
    wait_until(lambda: attnd.stats()["dropped"] == {"own_window": 1}, "the refusal")
    wait_until(lambda: attnd.call("history", job="job")["windows"]["last"] == [19, 39], "both in the history")
    attnd.close()


def test_windows_that_a_job_says_are_those_of_its_recording(rng, tmp_path):
    attnd = Attnd("window.unit=auto", "window.rank_grace=0")
    for name, own in (("steps", {"unit": "step", "length": 20}), ("seconds", {"unit": "second", "length": 1})):
        recorder = Recorder(attnd, name, tmp_path / name)
        trainer = Trainer(attnd, name)
        trainer.event("hello", own_window=own)
        captures(trainer, rng, 40, 1)
        trainer.event("bye")
        wait_until(lambda: [job["state"] for job in attnd.call("jobs") if job["job"] == name] == ["ended"], "the end")
        assert recorder.end(signal.SIGINT)[0] == 0
    fresh = Attnd("window.unit=auto", "window.rank_grace=0")
    assert attnctl("replay", tmp_path / "steps", attnd=fresh).returncode == 0
    assert units(fresh.call("summary", job="steps")) == [("step", 39, 20)]
    judged = attnctl("check", tmp_path / "steps")
    assert (judged.returncode, "0 alerts in 2 windows of 42 messages" in judged.stdout) == (0, True), judged.stdout
    judged = attnctl("check", tmp_path / "seconds")
    assert "not used: own_window 1" in judged.stdout
    attnd.close()
    fresh.close()

# SPDX-License-Identifier: MIT
"""Windows of epochs, steps and seconds; closing, rolling, flushing."""
import numpy as np
from harness import Attnd, Reader, Trainer, softmax_maps, wait_until


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
    full = windows(reader, 1)[0]
    assert not full["window"]["partial"] and full["messages"] == 2
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

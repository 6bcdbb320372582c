# SPDX-License-Identifier: MIT
"""What capturing costs a training is measured, by a clock that the test winds."""
import logging

import pytest

torch = pytest.importorskip("torch")

import attnd
from attnd.capture import cost
from attnd.capture.cost import BLOCK_STEPS, CAPTURES_MIN, STEPS_UNSETTLED, Cost, milliseconds, percent


class Training:
    """Steps of some seconds, of which each `every`-th is captured, at some seconds more."""

    def __init__(self, monkeypatch, every, device=False):
        self.now, self.step, self.every, self.device = 100.0, 0, every, device
        self.cost = Cost()
        monkeypatch.setattr(cost.time, "perf_counter", lambda: self.now)

    def run(self, steps, step_seconds=0.1, capture_seconds=0.05):
        """Trains; the steps after which there may be news."""
        telling = []
        for _ in range(steps):
            captured = self.step % self.every == 0
            if captured:
                self.cost.spent(self.step, capture_seconds, device=self.device)
            self.now += step_seconds + (capture_seconds if captured and not self.device else 0)
            if self.cost.step_ends(self.step):
                telling.append(self.step)
            self.step += 1
        return telling


@pytest.mark.parametrize("device", [False, True])
@pytest.mark.parametrize("every", [1, 2, 50])
def test_a_step_and_a_capture_are_told_apart(monkeypatch, every, device):
    training = Training(monkeypatch, every, device)
    training.run(5 * every + BLOCK_STEPS + STEPS_UNSETTLED + 1)
    assert training.cost.measured() == pytest.approx((0.1, 0.05))
    assert training.cost.measured().ratio == pytest.approx(0.5)


def test_nothing_is_known_before_some_captures_beside_the_first_and_some_steps(monkeypatch):
    training = Training(monkeypatch, 50)
    training.run(CAPTURES_MIN * 50)
    assert training.cost.measured() is None
    training.run(1)
    assert training.cost.measured() is not None


@pytest.mark.parametrize("device", [False, True])
def test_one_capture_that_compiles_is_not_the_cost(monkeypatch, device):
    training = Training(monkeypatch, 50, device)
    training.run(1, capture_seconds=5.0)
    training.run(50, capture_seconds=3.0)  # up to the second one
    for _ in range(4):
        training.run(50, capture_seconds=0.01)
        measured = training.cost.measured()
        assert measured is None or measured == pytest.approx((0.1, 0.01))
    assert measured is not None


@pytest.mark.parametrize("every, runs", [
    (10, [(STEPS_UNSETTLED, 30, 20), (50,)]), (4, [(60,), (1, 60, 60), (20,)])],
    ids=["the first steps and the first capture", "a pause of the machine"])
def test_what_counts_for_nothing(monkeypatch, every, runs):
    training = Training(monkeypatch, every)
    for run in runs:
        training.run(*run)
    assert training.cost.measured() == pytest.approx((0.1, 0.05))


def test_steps_that_wait_for_the_device_now_and_then_tell_their_mean(monkeypatch):
    training = Training(monkeypatch, 50)
    for _ in range(40):
        training.run(BLOCK_STEPS - 1, step_seconds=0.01)
        training.run(1, step_seconds=0.73)
    assert training.cost.measured().step_seconds == pytest.approx(0.1)


def test_what_the_device_may_still_do_is_not_told(monkeypatch):
    training = Training(monkeypatch, 5, device=True)
    training.run(50)
    training.cost.spent(training.step, 1e-6)  # of the thread; the device reports later
    assert training.cost.measured() == pytest.approx((0.1, 0.05))


def test_the_processor_time_of_the_sender_counts_for_the_step_that_it_is_about(monkeypatch):
    training, clock = Training(monkeypatch, 5), iter([1.0, 1.25, 2.0, 2.25, 3.0, 3.25])
    monkeypatch.setattr(cost.time, "thread_time", lambda: next(clock))
    training.run(14)
    assert [training.cost.of_sender(step, lambda: 7) for step in (0, 5)] == [7, 7]
    with pytest.raises(ZeroDivisionError):
        training.cost.of_sender(10, lambda: 1 / 0)
    training.run(20)
    assert [training.cost._captures[step] for step in (0, 5, 10)] == 3 * [[0.05, 0.25]]


def test_news_are_told_once_and_again_when_they_differ_by_much(monkeypatch):
    training = Training(monkeypatch, 5)
    training.run(60)
    assert training.cost.news() == pytest.approx((0.1, 0.05)) and training.cost.news() is None
    training.run(200, capture_seconds=0.055)
    assert training.cost.news() is None
    training.run(200, capture_seconds=0.08)
    assert training.cost.news() == pytest.approx((0.1, 0.08))
    training.run(200, step_seconds=0.2, capture_seconds=0.08)
    assert training.cost.news() == pytest.approx((0.2, 0.08))


def test_next_to_nothing_is_no_news(monkeypatch):
    training = Training(monkeypatch, 2)
    training.run(60, capture_seconds=1e-6)
    assert training.cost.news() is not None
    training.run(200, capture_seconds=4e-6)
    assert training.cost.news() is None


def test_there_may_be_news_after_each_block(monkeypatch):
    training = Training(monkeypatch, 50)
    first = STEPS_UNSETTLED + BLOCK_STEPS
    assert training.run(3 * BLOCK_STEPS + STEPS_UNSETTLED + 1) == [first, first + BLOCK_STEPS, first + 2 * BLOCK_STEPS]


@pytest.mark.parametrize("read, number, text", [
    (percent, 0.003, "0.3 %"), (percent, 0.0004, "less than 0.1 %"), (percent, 0.012, "1.2 %"), (percent, 0.123, "12 %"),
    (percent, 2.5, "250 %"), (milliseconds, 1.75, "1750 ms"), (milliseconds, 0.1234, "123 ms"),
    (milliseconds, 0.01234, "12.3 ms"), (milliseconds, 0.000123, "0.123 ms"), (milliseconds, 4200.0, "4200000 ms"), (milliseconds, 0.09999, "100 ms")])
def test_a_part_of_step_time_and_a_time_read(read, number, text):
    assert read(number) == text


def test_a_probe_is_no_cost_of_a_step(publisher):
    model, x = torch.nn.MultiheadAttention(8, 2, batch_first=True), torch.rand(1, 4, 8)
    with attnd.watch(model, "job", publisher=publisher, every=2, steps="manual", wait=0, weights_every=0) as watch:
        for _ in range(6):
            model(x, x, x)[0].sum().backward()
            watch.step()
            watch.probe(x, x, x)
    assert sorted(watch.cost._captures) == [0, 2, 4]


@pytest.mark.parametrize("options, own_every", [({}, None), ({"every": 2}, 2)])
def test_attnd_is_told_after_a_few_captures_and_the_user_once(daemon, publisher, caplog, options, own_every):
    model, x = torch.nn.MultiheadAttention(8, 2, batch_first=True), torch.rand(1, 4, 8)
    with caplog.at_level(logging.INFO, logger="attnd"), \
            attnd.watch(model, "job", publisher=publisher, steps="manual", wait=0, weights_every=0, **options) as watch:
        for _ in range(STEPS_UNSETTLED + BLOCK_STEPS + 1):
            model(x, x, x)[0].sum().backward()
            watch.step()
        while "step_seconds" not in (hello := daemon.next()[1]):
            pass
        stated = watch.cost.measured()
    assert hello.get("own_every") == own_every
    assert 0 < hello["capture_seconds"] and 0 < hello["step_seconds"] and stated.step_seconds > 0
    said, = caplog.messages
    assert said.startswith("job job: capture: ") and f"% of step time (every {own_every or 1}: " in said

# SPDX-License-Identifier: MIT
"""What watch does between captured steps is next to nothing, and in captured ones in proportion to the model.

Counted, not timed: tests/bench/capture.py has the times.
"""
import gc
import pathlib
import statistics
import sys
import tracemalloc

import pytest

torch = pytest.importorskip("torch")

import attnd
from attnd.base.plan import Folds, Plan
from attnd.capture import calls
from attnd.model import hooks
from attnd.sending import devices
from conftest import free_endpoint, identity_holds, wait_until

PACKAGE = str(pathlib.Path(attnd.__file__).parent)
CALLS_PER_STEP = 25  # of our Python functions when nothing is captured: an optimizer's step and a forward


class Decoder(torch.nn.Module):
    """`layers` attentions in a row."""

    def __init__(self, layers):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(layers))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x, x, x, need_weights=False)[0]
        return x


class Training:
    """A watched training of a small decoder, step by step."""

    def __init__(self, layers, endpoint, queue_bytes=1 << 20, **options):
        self.model = Decoder(layers)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.x = torch.rand(2, 4, 8)
        self.publisher = attnd.Publisher("job", endpoint, queue_bytes=queue_bytes, linger=0.1)
        self.watch = attnd.watch(self.model, job="job", publisher=self.publisher, wait=0, **options)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.watch.close()
        self.publisher.close()

    def begins(self, daemon):
        """The daemon is there, and step 0 is to be captured."""
        daemon.attach(self.publisher)
        self.watch.rearm()

    def step(self):
        self.model(self.x).sum().backward()
        self.optimizer.step()
        if hooks.register_optimizer_hook is None:  # torch 1
            self.watch.step()

    def calls(self):
        """How many Python functions of attnd one step calls in this thread: of five the median, as now and then a step
        looks at the clock or tells its cost as well."""
        return statistics.median(self.calls_of_one() for _ in range(5))

    def calls_of_one(self):
        count = 0

        def see(frame, event, argument):
            nonlocal count
            count += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

        sys.setprofile(see)
        try:
            self.step()
        finally:
            sys.setprofile(None)
        return count


def nothing_is_in_the_way(model):
    hooks = sys.modules["torch.nn.modules.module"]
    modules = [module for module in model.modules() if module is not model]
    return not any(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module) for module in modules) \
        and not hooks._global_forward_hooks and not hooks._global_forward_pre_hooks \
        and torch._C._len_torch_function_stack() == 0


def test_without_a_subscriber_a_step_costs_a_few_calls_whatever_the_model():
    found = []
    for layers in (1, 10):
        with Training(layers, free_endpoint()) as training:
            for _ in range(3):
                training.step()
                assert nothing_is_in_the_way(training.model)
            found.append(training.calls())
    assert 0 < found[0] == found[1] <= CALLS_PER_STEP


@pytest.mark.parametrize("options", [{}, {"values": True, "gradients": True}])
def test_so_it_is_between_captured_steps(daemon, options):
    with Training(10, daemon.endpoint, every=1000, **options) as training:
        training.begins(daemon)
        assert not nothing_is_in_the_way(training.model)  # step 0 is captured
        training.step()
        assert training.watch.stats()["published"] > 10
        for _ in range(3):
            training.step()
            assert nothing_is_in_the_way(training.model)
        assert 0 < training.calls() <= CALLS_PER_STEP


def test_a_captured_step_costs_in_proportion_to_the_layers(daemon):
    found = []
    for layers in (4, 8, 16):
        with Training(layers, daemon.endpoint, every=1) as training:
            daemon.attach(training.publisher)
            for _ in range(3):
                training.step()
            found.append(training.calls())
            assert training.publisher.drain(60)
    # Not exactly: waking the sender takes a call when it is not awake.
    assert found[0] < found[1] and found[2] - found[1] <= 2.2 * (found[1] - found[0])


@pytest.mark.parametrize("queue_bytes, wakes", [(1 << 20, 1), (6 << 10, 10)])
def test_the_sender_wakes_after_a_captured_forward_not_in_it(daemon, monkeypatch, queue_bytes, wakes):
    """Unless the queue gets full: the ten messages of 256 or 512 bytes fill more than a quarter of the smaller one."""
    with Training(10, daemon.endpoint, every=1, queue_bytes=queue_bytes) as training:
        training.begins(daemon)
        training.step()  # names the layers
        assert training.publisher.drain(60)
        woken = []
        # A sender that wakes by itself may have made room: then another forward is looked at.
        for _ in range(10 if wakes > 1 else 1):
            woken.clear()
            with monkeypatch.context() as patched:
                patched.setattr(training.publisher._outbox, "_ring_once", lambda: woken.append(0))
                training.model(training.x)
            assert training.publisher.drain(60) and training.publisher.stats()["dropped"] == 0
            if len(woken) > 1:
                break
        assert len(woken) == 1 if wakes == 1 else 1 < len(woken) <= wakes


def test_the_first_captured_forward_holds_no_more_than_the_queue(daemon, monkeypatch):
    """Maps without a name yet are copied as well: ten copies of 512 bytes, or 288 in torch 1. The queue has a little room beside them."""
    with Training(10, daemon.endpoint, queue_bytes=2300) as training:
        training.begins(daemon)
        held, ends = [], training.watch.forwards.ends

        def look(unseen):
            held.extend(part.nbytes for _, part in training.watch.forwards._pending if part.copy() is not calls.NOTHING)
            ends(unseen)

        monkeypatch.setattr(training.watch.forwards, "ends", look)
        training.model(training.x)
        assert training.publisher.drain(60)
        stats = training.publisher.stats()
        assert 1 < len(held) < 10 and (2 << 10) - held[0] < sum(held) <= 2 << 10
        assert stats["dropped"] == 10 - len(held) and identity_holds(stats)


@pytest.mark.parametrize("count", [1, 4])
def test_without_room_nothing_is_copied(daemon, monkeypatch, count):
    with Training(3, daemon.endpoint, every=1) as training:
        training.begins(daemon)
        training.step()
        assert training.publisher.drain(60)
        monkeypatch.setattr(training.publisher._outbox, "_bytes_max", 100)
        monkeypatch.setattr(calls, "HostCopy", lambda *_: 1 / 0)
        before = training.watch.stats()["dropped"]
        for _ in range(count):
            training.step()
        assert training.watch.stats()["dropped"] == before + 3 * count and not training.watch._notices.has_failed


def test_a_copy_that_fails_is_counted(daemon, monkeypatch):
    with Training(3, daemon.endpoint, every=1) as training:
        training.begins(daemon)
        for copies_fail in (True, False, True):  # without a name, and with one
            with monkeypatch.context() as patch:
                if copies_fail:
                    patch.setattr(calls, "HostCopy", lambda *_: 1 / 0)
                training.step()
        assert training.publisher.drain(60)
        stats = training.publisher.stats()
        assert stats["dropped"] == 6 and training.watch._notices.has_failed and identity_holds(stats)


MASK = torch.zeros(3, 1, 6, 5)


@pytest.mark.parametrize("plan", [{}, {"samples": 2}, {"rows": 4}, {"heads": ((1, 2),)}, {"heads": ((0, 0), (3, 3))},
                                  {"heads": ((2, 3),), "rows": 4, "samples": 1}])
@pytest.mark.parametrize("seen", [
    calls.Queries(torch.rand(3, 4, 6, 8), torch.rand(3, 4, 5, 8)),
    calls.Queries(torch.rand(3, 4, 6, 8), torch.rand(1, 2, 5, 8).bfloat16(), MASK),
    calls.Queries(torch.rand(3, 4, 6, 8), torch.rand(3, 2, 5, 8), torch.ones(6, 5, dtype=torch.bool)),
    calls.Queries(torch.rand(1, 4, 6, 8), torch.rand(3, 2, 5, 8)),
    calls.Queries(torch.rand(3, 4, 6, 8), torch.rand(3, 2, 5, 8), v=torch.rand(1, 2, 5, 3)),
    calls.Queries(torch.rand(3, 4, 6, 8), torch.rand(3, 1, 5, 8), v=torch.rand(3, 2, 5, 8)),
    calls.Queries(torch.rand(1, 4, 6, 8), torch.rand(1, 2, 6, 8), documents=(torch.zeros(1, 6), torch.zeros(1, 6))),
    calls.Queries(torch.rand(3, 4, 6, 8), torch.rand(3, 2, 5, 8),
                  late_mask=lambda part: torch.ones(3, 1, 6, 5, dtype=torch.bool)[part[0], :, part[2]]),
    calls.Weights(torch.rand(3, 4, 6, 5), torch.rand(3, 4, 6, 5)),
    calls.Weights(torch.rand(3, 4, 6, 5), torch.rand(3, 4, 6, 5), True)])
def test_what_is_reserved_is_what_the_copies_take(seen, plan):
    batch = calls.queries_of(seen)[0]
    context = calls.Context(samples=Plan(**plan).take(("run", 1, 0), batch, Folds(), 0))
    for share in (calls.Share(), calls.Share(1, 2)):
        parts = calls.parts(seen, Plan(**plan), 1, share, context)
        copies = [part.copy() for part in parts]
        assert [part.nbytes for part in parts] == [copy.nbytes for copy in copies]
        together = [part.copy() for part in calls.parts(seen, Plan(**plan), 1, share, context)]
        assert [copy.nbytes for copy in copies] == [copy.nbytes for copy in together]


def test_many_steps_leave_nothing_behind():
    """Now and then a thread that looks for a daemon holds a little, which goes again; what steps leave would only grow."""
    ours = tracemalloc.Filter(True, PACKAGE + "/*")
    with Training(2, free_endpoint()) as training:
        for _ in range(20):
            training.step()
        tracemalloc.start()
        try:
            before = tracemalloc.take_snapshot().filter_traces([ours])
            for _ in range(10):
                for _ in range(200):
                    training.step()
                gc.collect()
                after = tracemalloc.take_snapshot().filter_traces([ours])
                left = sum(line.size_diff for line in after.compare_to(before, "filename"))
                if left < 2048:
                    break
        finally:
            tracemalloc.stop()
        assert left < 2048


def test_nothing_is_kept_for_a_daemon_that_has_gone(daemon):
    with Training(2, daemon.endpoint, every=1) as training:
        daemon.attach(training.publisher)
        training.step()
        training.step()
        assert training.publisher.stats()["published"] > 2
        daemon.close()
        wait_until(lambda: not training.publisher.listened_to, "its going is noticed")
        training.step()
        assert training.publisher.drain(60)
        published = training.publisher.stats()["published"]
        for _ in range(5):
            training.step()
            assert nothing_is_in_the_way(training.model)
        stats = training.publisher.stats()
        assert stats["published"] == published and stats["queued"] == stats["queued_bytes"] == 0


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_a_copy_is_of_its_own_and_of_the_dtype_that_is_asked_for(dtype):
    tensor = torch.rand(2, 3, 4, requires_grad=True).transpose(0, 1)
    expected = tensor.detach().to(dtype or tensor.dtype).float().numpy().copy()
    copy = devices.HostCopy(tensor, dtype)
    with torch.no_grad():
        tensor.zero_()
    assert copy.dtype == (dtype or torch.float32) and copy.nbytes == 24 * copy.numpy().itemsize
    assert copy.numpy().flags.c_contiguous and (copy.floats() == expected).all()

# SPDX-License-Identifier: MIT
"""watch knows when a step ends, captures those that are to be captured, and counts what it spares."""
import pytest

torch = pytest.importorskip("torch")

import attnd
from attnd.capture import watch as watches
from conftest import FakeDaemon, identity_holds
from watching import TORCH_2, D, H, Model, Recorder, X, needs_step_hooks, next_tensors, steps_of


def sgd(*parameters):
    return torch.optim.SGD(parameters, 1e-3)


@pytest.mark.parametrize("train,every,captured", [(True, 1, [0, 1, 2, 3, 4, 5]), (True, 3, [0, 3]), (False, 1, [])])
def test_only_sampled_training_steps_are_captured(daemon, watched, train, every, captured):
    model = Model().train(train)
    model.attn.forward = recorder = Recorder(model.attn)
    it = watched(model, every=every)
    with torch.set_grad_enabled(train):
        for _ in range(6):
            model(X, X, X, need_weights=False)
            it.step()
    assert steps_of(daemon.captured(it)) == captured
    assert [asked for _, *asked in recorder.calls] == [[False, True]] * 6  # whether it is captured or not


def test_a_stalled_daemon_spares_the_capture_and_counts(watched, monkeypatch):
    model = Model()
    it = watched(model)
    model(X, X, X)
    monkeypatch.setattr(it.publisher._sender, "_judge_stall", lambda blocked: None)  # it takes everything, in truth
    it.publisher._sender.stalled = True
    it.step()
    published = it.stats()["published"]
    model(X, X, X)
    stats = it.stats()
    assert stats["dropped"] == 1 and stats["published"] == published and identity_holds(stats)


def test_a_stalled_daemon_costs_what_would_have_been_captured_once_a_step(monkeypatch):
    fake = FakeDaemon(topics=(b"tensor/job/", b"event/", b"plan/0/*/every=1;layers=encoder.1.self"))
    model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(D, H, 16, batch_first=True), 3)
    with fake.publisher() as publisher, attnd.watch(model, job="job", publisher=publisher, steps="manual") as it:
        model(torch.rand(2, 5, D))
        assert len(it.layers) == 3
        monkeypatch.setattr(publisher._sender, "_judge_stall", lambda blocked: None)  # it takes everything, in truth
        publisher._sender.stalled = True
        for _ in range(3):
            it.step()
            it.rearm()  # as after each microbatch
        assert it.stats()["dropped_by_topic"] == {"tensor/job/encoder/1/self/": 3}


def test_explicit_steps_and_epochs(daemon, watched):
    model = Model()
    it = watched(model, steps="manual", weights_every=0)
    for _ in range(2):  # epochs
        for _ in range(2):  # steps
            for _ in range(2):  # microbatches
                model(X, X, X)
            it.step()
        it.epoch_end()
    it.close()
    it.publisher.close()
    got = [(h["epoch"], h["step"], h.get("microbatch", 0), h.get("event", "")) for _, h, _ in daemon.until_bye()
           if h.get("event") != "hello"]
    assert got == [(0, 0, 0, ""), (0, 0, 1, ""), (0, 1, 0, ""), (0, 1, 1, ""), (0, 2, 0, "epoch_end"),
                   (1, 2, 0, ""), (1, 2, 1, ""), (1, 3, 0, ""), (1, 3, 1, ""), (1, 4, 0, "epoch_end"), (1, 3, 0, "bye")]


@needs_step_hooks
@pytest.mark.parametrize("given, steps, told", [(set, 2, ""), (lambda parameters: None, 0, "ended a step could not be told")])
def test_groups_of_another_kind_do_not_fail_the_training(watched, caplog, given, steps, told):
    model = Model()
    optimizer = sgd(*model.parameters())
    it = watched(model)
    for _ in range(2):
        model(X, X, X)[0].sum().backward()
        optimizer.param_groups[0]["params"] = given(model.parameters())
        optimizer.step = torch.optim.Optimizer.profile_hook_step(lambda self: None).__get__(optimizer)
        optimizer.step()
    assert it.current_step == steps and told in caplog.text and bool(told) == bool(caplog.records)


@needs_step_hooks
def test_steps_are_those_of_the_optimizer_of_the_model(daemon, watched):
    model, other = Model(), Model()
    optimizer, of_other = sgd(*model.parameters()), sgd(*other.parameters())
    it = watched(model, every=2)
    for _ in range(3):
        for _ in range(2):  # microbatches
            model(X, X, X)[0].sum().backward()
            of_other.step()
        optimizer.step()
    assert it.current_step == 3
    assert [(h["step"], h.get("microbatch", 0)) for _, h, _ in daemon.captured(it)] == [(0, 0), (0, 1), (2, 0), (2, 1)]
    optimizer.step()
    assert it.current_step == 3


def test_who_tells_of_steps_is_not_counted_twice(daemon, watched):
    model = Model()
    optimizer, it = sgd(*model.parameters()), watched(model)
    for step in range(3):
        model(X, X, X)[0].sum().backward()
        optimizer.step()
        it.step()
        assert it.current_step == step + 1
    assert steps_of(daemon.captured(it)) == [0, 1, 2]


def test_without_anybody_who_tells_forwards_are_steps(daemon, watched, monkeypatch, caplog):
    monkeypatch.setattr(watches, "FORWARDS_PER_STEP", 2)
    model = Model()
    it = watched(model)
    for _ in range(5):
        model(X, X, X)
    assert steps_of(daemon.captured(it)) == ([0, 0, 0, 1, 2] if TORCH_2 else [0, 1, 2, 3, 4])
    assert len(caplog.messages) == TORCH_2 and all("step()" in message for message in caplog.messages)


def trains(model, *optimizers, forward=True):
    """A forward and a backward, then each of these steps."""
    if forward:
        model(X, X, X)[0].sum().backward()
    for optimizer in optimizers:
        optimizer.step()


def pair(model):
    """Two optimizers, which share the parameters of a model."""
    return sgd(model.attn.in_proj_weight), torch.optim.Adam([model.attn.out_proj.weight], 1e-3)


@needs_step_hooks
def test_an_optimizer_that_takes_over_ends_steps_as_the_first_did(daemon, watched, caplog):
    model = Model()
    (first, second), it = pair(model), watched(model)
    for optimizer in [first] * 3 + [second] * 3:
        trains(model, optimizer)
    trains(model, sgd(*model.parameters()))  # made late
    assert it.current_step == 7 and not caplog.messages
    assert [(h["step"], h.get("microbatch", 0)) for _, h, _ in daemon.captured(it)] == [(step, 0) for step in range(7)]


@needs_step_hooks
@pytest.mark.parametrize("order", [["ab", "ab", "ab"], ["ab", "ba", "ab"], ["a", "ab", "b", "ba"], ["aa", "abab", "bb"]])
def test_optimizers_that_step_after_one_forward_make_one_step(watched, caplog, order):
    model = Model()
    of, it = dict(zip("ab", pair(model))), watched(model)
    for names in order:
        trains(model, *map(of.get, names))
    assert it.current_step == len(order) and not caplog.messages


@needs_step_hooks
@pytest.mark.parametrize("forwards, told", [(3, 0), (9, 1)])
def test_optimizers_in_turn_end_a_step_each_which_is_said_once(watched, caplog, forwards, told):
    model = Model()
    optimizers, it = pair(model), watched(model)
    for number in range(forwards):
        trains(model, optimizers[number % 2])
    assert it.current_step == forwards
    assert [message for message in caplog.messages if "step in turn" in message] == caplog.messages and len(caplog.messages) == told


@needs_step_hooks
def test_an_optimizer_per_parameter_that_steps_in_backward_makes_one_step(watched):
    model = Model()
    of = {parameter: sgd(parameter) for parameter in model.parameters()}
    for parameter in of:
        parameter.register_post_accumulate_grad_hook(lambda one: of[one].step())
    it = watched(model)
    for step in range(3):
        trains(model)
        assert it.current_step == step + 1


@needs_step_hooks
def test_parameters_that_an_optimizer_is_given_late_are_known_to_the_step(watched):
    model, other = Model(), torch.nn.Linear(2, 2)
    optimizer, it = sgd(*other.parameters()), watched(model)
    trains(model, optimizer)
    optimizer.add_param_group({"params": list(model.parameters())})
    trains(model, optimizer)
    assert it.current_step == 1
    trains(model, optimizer)
    assert it.current_step == 2


@needs_step_hooks
def test_the_forwards_of_a_closure_are_of_one_step(daemon, watched):
    model = Model()
    optimizers, it = [sgd(*model.parameters()), torch.optim.LBFGS(model.parameters(), max_iter=5)], watched(model)

    def closure():
        model.zero_grad()
        loss = model(X, X, X)[0].square().sum()
        loss.backward()
        return loss

    for optimizer in optimizers:
        for _ in range(2):
            optimizer.step(closure)
    steps = steps_of(daemon.captured(it))
    assert it.current_step == 4 and sorted(set(steps)) == [0, 1, 2, 3] and steps.count(2) > 1


@needs_step_hooks
def test_a_step_without_a_forward_ends_none(watched):
    model = Model()
    optimizer, it = sgd(*model.parameters()), watched(model)
    trains(model, optimizer, optimizer, forward=False)  # for a scheduler
    assert it.current_step == 0
    for _ in range(3):
        trains(model, optimizer)
        with torch.no_grad():
            model(X, X, X)
        trains(model, optimizer, forward=False)
    assert it.current_step == 3


@needs_step_hooks
def test_a_step_that_a_scaler_leaves_out_ends_none(daemon, watched):
    model = Model()
    optimizer, it = sgd(*model.parameters()), watched(model)
    for scale in (1.0, float("inf"), 1.0):
        scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
        scaler.scale(model(X, X, X)[0].sum() * scale).backward()
        scaler.step(optimizer)
        optimizer.zero_grad()
    assert it.current_step == 2 and steps_of(daemon.captured(it)) == [0, 1, 1]


@needs_step_hooks
@pytest.mark.parametrize("every", [1, 4])
def test_forwards_that_are_not_seen_are_counted_by_their_gradients(watched, every):
    model = Model()
    optimizers, it = pair(model), watched(model, every=every)
    for step in range(6):  # a part is called, not the model
        model.attn(X, X, X)[0].sum().backward()
        trains(model, *optimizers, forward=False)
        assert it.current_step == step + 1
        model.zero_grad(set_to_none=step % 2 == 0)


@needs_step_hooks
def test_an_optimizer_takes_over_in_a_compiled_model_too(watched):
    model = Model()
    compiled, optimizers = torch.compile(model, backend="eager"), pair(model)
    it = watched(compiled, every=3)
    for step in range(8):
        compiled(X, X, X)[0].sum().backward()
        trains(model, optimizers[step > 3], forward=False)
        assert it.current_step == step + 1


@needs_step_hooks
def test_replayed_graphs_whose_gradients_are_always_the_same_are_steps(watched, monkeypatch):
    model = Model()
    optimizer, it = sgd(*model.parameters()), watched(model)
    trains(model, optimizer)
    monkeypatch.setattr(watches.torch_state, "is_graph_captured", lambda: True)
    trains(model)
    monkeypatch.undo()
    for _ in range(3):
        trains(model, optimizer, forward=False)
    assert it.current_step == 4


@needs_step_hooks
def test_a_training_that_ends_no_step_any_more_is_told(watched, caplog):
    model = Model()
    optimizer, it = sgd(*model.parameters()), watched(model, every=0)
    for _ in range(3):
        for _ in range(40):
            trains(model)
        optimizer.step()
    model.eval()
    for _ in range(200):
        model(X, X, X)  # a validation that forgot no_grad()
    assert it.current_step == 3 and not caplog.messages
    for _ in range(200):
        trains(model.train())
    assert len(caplog.messages) == 1 and "after step 2: all are of one step; call step()" in caplog.text


@needs_step_hooks
def test_a_stage_whose_optimizer_is_not_seen_is_told_at_the_end_too(watched, caplog):
    model = Model()
    optimizer, it = sgd(*model.parameters()), watched(model, every=0)
    for _ in range(3):
        trains(model)
        optimizer.step()
    for _ in range(40):
        trains(model)
    it.close()
    assert len(caplog.messages) == 1 and "in 40 forwards, after step 2: all are of one step" in caplog.text


@needs_step_hooks
def test_a_training_that_ends_amid_its_accumulation_is_not_told(watched, caplog):
    model = Model()
    optimizer, it = sgd(*model.parameters()), watched(model, every=0)
    for count in (16, 16, 15):
        for _ in range(count):
            trains(model)
        if count == 16:
            optimizer.step()
    it.close()
    assert not caplog.messages


class OwnOptimizer:
    """None of torch's: fastai's is like this."""

    def __init__(self, parameters):
        self.parameters = list(parameters)

    def step(self):
        for parameter in self.parameters:
            parameter.data.sub_(parameter.grad, alpha=1e-3)


@needs_step_hooks
@pytest.mark.parametrize("forwards, told", [(1, []), (5, ["5 forwards, so all are of one step; call step()"]),
                                            (70, ["64 forwards, so each counts as a step; call step()"])])
def test_an_optimizer_that_is_none_of_torchs_is_told_at_the_end_at_the_latest(watched, caplog, forwards, told):
    model = Model()
    optimizer, it = OwnOptimizer(model.parameters()), watched(model, every=0)
    for _ in range(forwards):
        trains(model, optimizer)
    it.close()
    assert len(caplog.messages) == len(told) and all(text in caplog.text for text in told)


@needs_step_hooks
def test_who_says_when_a_step_ends_is_told_nothing_of_optimizers(watched, caplog):
    model = Model()
    optimizer, it = OwnOptimizer(model.parameters()), watched(model, every=0)
    for step in range(5):
        trains(model, optimizer)
        it.step()
        assert it.current_step == step + 1
    it.close()
    assert not caplog.messages


@needs_step_hooks
def test_parameters_that_were_replaced_after_watch_are_known_to_the_step(watched):
    model = Model()
    it = watched(model)
    model.attn.in_proj_weight = torch.nn.Parameter(model.attn.in_proj_weight.detach().clone())
    optimizer = sgd(model.attn.in_proj_weight)  # as of a model that was sharded meanwhile
    for step in range(3):
        model(X, X, X)[0].sum().backward()
        optimizer.step()
        assert it.current_step == step + 1


@needs_step_hooks
def test_while_nobody_tells_of_steps_few_forwards_are_captured(daemon, watched):
    model = Model()
    optimizer, it = sgd(*model.parameters()), watched(model)
    for _ in range(2):
        for _ in range(10):
            model(X, X, X)[0].sum().backward()
        optimizer.step()
    assert steps_of(daemon.captured(it)) == [0] * watches.FORWARDS_UNTOLD + [1] * 10


def test_forwards_without_gradients_are_steps(daemon, watched):
    model = Model()
    it = watched(model, evaluation=True)
    with torch.no_grad():
        for _ in range(10):
            model(X, X, X)
    assert steps_of(daemon.captured(it)) == list(range(10))


def test_a_resumed_training_goes_on_where_it_was(daemon, watched):
    model = Model()
    it = watched(model, first_step=100, first_epoch=3, steps="manual")
    model(X, X, X)
    it.step()
    assert (next_tensors(daemon)[1]["step"], it.current_step, it.epoch) == (100, 101, 3)


def test_a_rollout_of_a_model_that_trains_is_no_training(daemon, watched):
    model = Model().train()
    it = watched(model, steps="manual")
    for _ in range(2):
        with torch.no_grad():
            for _ in range(24):
                model(X, X, X)
        model(X, X, X)[0].sum().backward()
        it.step()
    assert [(h["step"], h.get("microbatch", 0)) for _, h, _ in daemon.captured(it)] == [(0, 0), (1, 0)]


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_publishes_once(daemon, watched, reentrant):
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(Model):
        def forward(self, x):
            return checkpoint(lambda y: self.attn(y, y, y, need_weights=False)[0], x, use_reentrant=reentrant)

    model = Checkpointed()
    it = watched(model)
    model(torch.rand(3, 5, D, requires_grad=True)).sum().backward()
    assert len(daemon.captured(it)) == 1

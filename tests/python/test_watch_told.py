# SPDX-License-Identifier: MIT
"""What watch says once about what it cannot capture, and what it calls the layers that it captures."""
import pytest

torch = pytest.importorskip("torch")

from attnd.base import torch_state
from attnd.capture import forwards
from attnd.model import notices
from watching import MHA, TORCH_2, D, H, Model, X, steps_of


class Parts(torch.nn.Module):
    """Has no forward of its own: its parts are run one by one."""

    def __init__(self):
        super().__init__()
        self.embed, self.attn = torch.nn.Embedding(50, D), MHA(D, H, batch_first=True)

    def training_step(self, attends=True):
        x = self.embed(torch.ones(1, 4, dtype=torch.long))
        return self.attn(x, x, x)[0] if attends else x


@pytest.mark.skipif(not TORCH_2, reason="torch 1.13 follows no parts that are run alone")
@pytest.mark.parametrize("attends", [True, False])
def test_whether_any_attention_is_seen_is_judged_by_the_step(watched, caplog, attends):
    model = Parts()
    it = watched(model, steps="manual")
    for _ in range(2):
        model.training_step(attends)
        assert attends or it.current_step or not caplog.records
        it.step()
    assert [message.partition(":")[2][:23] for message in caplog.messages] == [" no attention was seen "] * (not attends)


@pytest.mark.parametrize("shape", [(6, 5, 5), (2, 2, 3, 5, 5)])
def test_where_no_attention_is_seen_the_softmaxes_are_told(watched, caplog, shape):
    class Block(torch.nn.Linear):
        def forward(self, x):
            return super().forward(torch.rand(shape).softmax(-1).log().mean() + x)

    model = torch.nn.Sequential(Block(D, D))
    it = watched(model, steps="manual")
    model(X).sum().backward()
    it.step()
    told, = caplog.messages
    assert f"no attention was seen in a forward of the model, but softmaxes over {list(shape)} in 0 (Block); attnd.publish_qk" in told


def test_a_failure_says_what_and_why_and_that_the_rest_goes_on(watched, caplog, monkeypatch):
    model = Model()
    it = watched(model, steps="manual")

    def fail(*_):
        raise ValueError("of two matrices")

    monkeypatch.setattr(it.forwards.notices, "step_ends", fail)
    for _ in range(2):
        model(X, X, X)
        it.step()
    told, = caplog.messages
    assert told == "job job: a step could not be watched: ValueError: of two matrices. The training goes on, and so does the capture " \
        "of all else; further failures are not logged"


def uncalled(caplog):
    return [message for message in caplog.messages if "is not called itself" in message]


@pytest.mark.parametrize("called", [False, True])
def test_a_model_that_is_never_called_itself_is_told_once(watched, caplog, called):
    model = torch.nn.ParameterDict({"q": torch.nn.Parameter(torch.ones(D, D))}) if not called else Model()
    it = watched(model, steps="manual")
    for _ in range(3 * notices.STEPS_UNCALLED):
        if called:
            model(X, X, X)
        else:
            x = torch.ones(1, H, 4, D) @ model["q"]
            torch.softmax(x @ x.transpose(2, 3), -1)
        assert called or it.current_step >= notices.STEPS_UNCALLED or not caplog.records
        it.step()
    assert len(uncalled(caplog)) == (not called)
    assert called or "the watched ParameterDict is not called itself" in caplog.text


@pytest.mark.parametrize("unseen", [False, True])
def test_that_compiled_code_is_unseen_before_torch_2_6_is_told(watched, caplog, monkeypatch, unseen):
    monkeypatch.setattr(torch_state, "compiled_is_unseen", unseen)
    it = watched(Model(), steps="manual")
    for _ in range(notices.STEPS_UNCALLED):  # as where the model runs compiled, and its hooks do not
        it.step()
    assert len(uncalled(caplog)) == 1
    assert (", or it is compiled: then this needs torch 2.6 or newer. Watch the" in caplog.text) == unseen


@pytest.mark.skipif(TORCH_2, reason="torch 2 follows parts that are run alone")
def test_parts_that_run_alone_are_told_where_they_cannot_be_followed(watched, caplog):
    model = Parts()
    watched(model)
    with torch.no_grad():  # a validation says nothing
        for _ in range(notices.PARTS_UNCALLED):
            model.training_step()
    assert not caplog.records
    for _ in range(notices.PARTS_UNCALLED):
        model.training_step()
    assert len(uncalled(caplog)) == 1 and "before torch 2 its parts cannot be followed alone" in caplog.text


@pytest.mark.parametrize("trained", [False, True])
def test_a_model_that_is_only_evaluated_is_told_at_the_end(watched, caplog, trained):
    model = Model()
    it = watched(model)
    model.eval()
    with torch.no_grad():
        for _ in range(3):
            model(X, X, X)
    if trained:
        model.train()(X, X, X)
    assert not caplog.records
    it.close()
    assert ("the model ran only without gradients" in caplog.text) == (not trained)


def test_a_validation_after_steps_that_are_not_captured_is_no_evaluation_alone(watched, caplog):
    model = Model()
    it = watched(model, every=50, first_step=1, steps="manual")
    for _ in range(49):
        model.train()(X, X, X)
        it.step()
    with torch.no_grad():
        model.eval()(X, X, X)
    it.close()
    assert it.current_step == 50 and not caplog.records


class Explicit(torch.nn.Module):
    """Attention by an explicit softmax, of which `breaks` makes something first."""

    def __init__(self, breaks=lambda weights: None):
        super().__init__()
        self.in_attention, self.breaks = torch.nn.Linear(D, D), breaks

    def forward(self, x):
        q = self.in_attention(x).view(len(x), -1, H, D // H).transpose(1, 2)
        weights = torch.softmax(q @ q.transpose(2, 3), -1)
        self.breaks(weights)
        return weights @ q


def test_what_a_forward_that_raises_did_not_show_is_not_said_to_be_missing(watched, caplog):
    class OwnAttention(Explicit):
        def forward(self, x):
            raise KeyError("of the model")

    model = torch.nn.Sequential(OwnAttention())
    it = watched(model, steps="manual")
    for _ in range(2):
        with pytest.raises(KeyError, match="of the model"):
            model(X)
        it.step()
    it.close()
    assert not caplog.records


def test_weights_that_the_model_writes_to_are_captured_from_the_second_forward_on(daemon, watched, caplog):
    model = Explicit(lambda weights: weights.detach().mul_(0.5))
    it = watched(model, steps="manual", evaluation=True)
    for _ in range(3):
        with torch.no_grad():
            model(X)
        it.step()
    assert steps_of(daemon.captured(it)) == [1, 2]
    assert not caplog.records


def of_fake_tensors(model, x):
    from torch._subclasses.fake_tensor import FakeTensorMode
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return model(mode.from_tensor(x))


NOT_READ = {
    "vmap": (lambda model, x: torch.func.vmap(lambda one: model(one[None]))(x), "transform of torch.func"),
    "gradients of samples": (lambda model, x: torch.func.vmap(torch.func.grad(lambda one: model(one[None]).sum()))(x),
                             "transform of torch.func"),
    "gradients": (lambda model, x: torch.func.grad(lambda given: model(given).sum())(x), "transform of torch.func"),
    "meta": (lambda model, x: model.to("meta")(x.to("meta")), "meta tensors"),
    "a subclass": (lambda model, x: model(x.as_subclass(type("Tagged", (torch.Tensor,), {}))), "Tagged"),
    "fake tensors": (of_fake_tensors, "FakeTensor")}


@pytest.mark.skipif(not hasattr(torch, "func"), reason="needs torch 2")
@pytest.mark.parametrize("run, said", NOT_READ.values(), ids=NOT_READ)
def test_what_has_no_numbers_of_its_own_is_not_captured_and_told_once(daemon, watched, caplog, run, said):
    model = Explicit()
    it = watched(model)
    assert len(run(model, torch.rand(2, 5, D))) == 2
    assert it.publisher.drain(60) and it.stats()["dropped"] == 0
    assert daemon.captured(it) == []
    assert len(caplog.records) == 1 and said in caplog.text and "Traceback" not in caplog.text


# ------------------------------------------------------------------------------------------- names of layers

def attend(attention, x):
    return attention(x, x, x)[0]


def test_a_given_name_is_free_for_whom_it_was_given(watched, caplog):
    """Though another, which runs before, would be called so by its path."""
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(MHA(D, H, batch_first=True) for _ in range(2))

        def forward(self, x, last):
            x = attend(self.layers[0], x)
            return attend(self.layers[1], x) if last else x

    model = Two()
    with watched(model, layers={"layers.1": ("encoder", 0, "self")}, steps="manual") as it:
        for last in (False, True):
            model(X, last)
            it.step()
        assert it.layers == [("encoder", 1, "self"), ("encoder", 0, "self")] and not caplog.records


@pytest.mark.parametrize("other", ["crossattention", "attn2"])
def test_a_name_given_to_a_module_is_that_of_the_attention_in_it(watched, caplog, other):
    """Of two in it the first one's; the other is called by its path, or by what it reads."""
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = MHA(D, H, batch_first=True)
            setattr(self, other, MHA(D, H, batch_first=True))

        def forward(self, x):
            x, context = attend(self.attn, x), x[:, :3]
            return getattr(self, other)(x, context, context)[0]

    model = torch.nn.Sequential(Block(), Block())
    with watched(model, layers={str(n): ("decoder", 6 + n, "self") for n in range(2)}, steps="manual") as it:
        model(X)
        it.step()
        assert it.layers == [("decoder", 6, "self"), ("decoder", 0, "cross"), ("decoder", 7, "self"), ("decoder", 1, "cross")]
        assert [layer.module for layer in it.layers][::2] == ["0.attn", "1.attn"] and not caplog.records


def test_the_name_of_an_attention_is_not_that_of_one_within_it(watched):
    class Nested(MHA):
        def __init__(self):
            super().__init__(D, H, batch_first=True)
            self.inner = MHA(D, H, batch_first=True)

        def forward(self, x):
            return super().forward(*[attend(self.inner, x)] * 3)[0]

    model = torch.nn.Sequential(Nested())
    with watched(model, layers={"0": ("decoder", 6, "self")}, steps="manual") as it:
        model(X)
        it.step()
        assert {layer.module: layer[1] for layer in it.layers} == {"0.inner": 0, "0": 6}


class Towers(torch.nn.Module):
    """Two encoders beside each other, as CLIP has them: by number alone they cannot be told apart."""

    def __init__(self):
        super().__init__()
        for tower in ("text_model", "vision_model"):
            self.add_module(tower, torch.nn.ModuleDict({"encoder": torch.nn.ModuleList(
                MHA(D, H, batch_first=True) for _ in range(2))}))

    def forward(self, x):
        for tower in (self.text_model, self.vision_model):
            for layer in tower["encoder"]:
                x = attend(layer, x)
        return x


TOWERS = [f"{tower}.encoder.{layer}" for tower in ("text_model", "vision_model") for layer in range(2)]


def test_layers_say_which_module_they_are(daemon, watched):
    with watched(Towers(), steps="manual") as it:
        for _ in range(2):
            it._root(X)
            it.step()
        assert it.layers == [("encoder", number, "self") for number in range(4)]
        assert [layer.module for layer in it.layers] == TOWERS
        hello = daemon.next()[1]
        assert hello["event"] == "hello" and [layer["module"] for layer in hello["layers"]] == TOWERS
        assert [daemon.next()[1]["module"] for _ in range(8)] == 2 * TOWERS


class Recurrent(torch.nn.Module):
    """One attention, as often as is asked for."""

    def __init__(self, times):
        super().__init__()
        self.attn = MHA(D, H, batch_first=True)
        self.attn.forward = self.attend
        self.times = times

    def attend(self, x):
        for _ in range(self.times):
            torch.softmax(x, -1)
        return x

    def forward(self, x):
        return self.attn(x)


def test_each_call_of_a_module_is_told_apart(daemon, watched):
    model = Recurrent(2)
    it = watched(model, steps="manual")
    model(torch.rand(1, H, 5, 5))
    it.step()
    assert daemon.next()[1]["event"] == "hello"
    assert [daemon.next()[1]["module"] for _ in range(2)] == ["attn", "attn#1"] == [x.module for x in it.layers]


def test_a_module_attends_a_bounded_number_of_times(watched, caplog):
    model = Recurrent(forwards.CALLS_PER_FORWARD + 50)
    it = watched(model, steps="manual")
    for _ in range(2):
        model(torch.rand(1, H, 5, 5))
        it.step()
    assert len(it.layers) == forwards.CALLS_PER_FORWARD and len(caplog.records) == 1 and "attends more" in caplog.text

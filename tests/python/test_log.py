# SPDX-License-Identifier: MIT
"""What a training reports itself travels, and never stands in its way."""
import enum
import logging
import threading
import types

import numpy as np
import pytest

import attnd
from attnd.sending import scalars
from conftest import identity_holds, limited, wait_until

torch = pytest.importorskip("torch")


@pytest.fixture
def publisher():
    with limited(b"header=10") as (fake, made):
        made.fake = fake
        yield made
    assert identity_holds(made.stats())


def logged(publisher):
    """The header of the next log."""
    header = publisher.fake.next()[1]
    assert header["event"] == "log"
    return header


def test_names_may_be_keywords(publisher):
    assert publisher.log(loss=2.5, step=41) and publisher.log({"a/b": 1}, lr=0.5, step=42)
    assert [logged(publisher)["values"] for _ in range(2)] == [{"loss": 2.5}, {"a/b": 1.0, "lr": 0.5}]


@pytest.mark.filterwarnings("error")
def test_numbers_of_every_kind_arrive(publisher):
    assert publisher.log({"loss": 2.5, "lr": np.float32(0.5), "n": 7, "on": torch.tensor(True), "array": np.array([3.0]),
                          "tensor": torch.tensor([[1.5]], dtype=torch.bfloat16, requires_grad=True)}, 3, 40)
    header = logged(publisher)
    assert header["values"] == {"loss": 2.5, "lr": 0.5, "n": 7.0, "on": 1.0, "array": 3.0, "tensor": 1.5}
    assert (header["epoch"], header["step"], header["type"]) == (3, 40, "event")


def test_what_is_not_finite_is_said_as_none(publisher):
    publisher.log({"loss": float("nan"), "norm": torch.tensor(float("inf")), "low": -np.inf})
    assert logged(publisher)["values"] == {"loss": None, "norm": None, "low": None}


def test_what_is_no_number_is_told_once_and_the_rest_arrives(publisher, caplog):
    class Broken:
        def __float__(self):
            raise RuntimeError("not mine")

    for _ in range(3):
        publisher.log({"text": "1.0", "list": [1], "none": None, "many": torch.zeros(2), "broken": Broken(), "": 1,
                       "n" * 65: 1, "a\x1b[2J": 1, 7: 1, "huge": 10**400, "complex": 1j, "loss": 1.0})
        assert logged(publisher)["values"] == {"loss": 1.0}
    told, = caplog.messages
    assert "'text' is not reported" in told


@pytest.mark.parametrize("values", [7, None, "loss", [1.0]])
def test_what_is_no_mapping_is_told_and_nothing_is_raised(publisher, values, caplog):
    publisher.log(values)
    publisher.log({"loss": 1.0})
    assert logged(publisher)["values"] == {"loss": 1.0}
    assert f"{type(values).__name__} is no mapping" in caplog.text


def test_more_than_32_values_are_several_messages(publisher):
    publisher.log({f"n{i}": i for i in range(70)}, step=4)
    parts = [logged(publisher)["values"] for _ in range(3)]
    assert [len(part) for part in parts] == [32, 32, 6]
    assert {name: value for part in parts for name, value in part.items()} == {f"n{i}": i for i in range(70)}


def on_device(value):
    """A tensor that is not on the CPU, as far as one can tell; its reading is what would wait."""
    return types.SimpleNamespace(value=value, device=torch.device("cuda"), detach=None, numel=lambda: 1)


def test_a_number_on_a_device_is_copied_now_and_read_by_the_sender_thread(publisher, monkeypatch):
    readers = []

    class Copy:
        def __init__(self, tensor):
            self.value = tensor.value

        def floats(self):
            readers.append(threading.current_thread().name)
            if self.value == "broken":
                raise RuntimeError("device lost")
            return np.array([self.value])

    monkeypatch.setattr("attnd.sending.devices.HostCopy", Copy)
    loss = on_device(2.0)
    publisher.log({"loss": loss, "lr": 0.5, "broken": on_device("broken")})
    loss.value = 9.0  # as an in-place operation would
    assert logged(publisher)["values"] == {"loss": 2.0, "lr": 0.5}
    assert set(readers) == {"attnd-sender"}
    publisher.log({"broken": on_device("broken")})
    wait_until(lambda: publisher.stats()["dropped"] == 1, "the one that could not be read is counted")


def test_logs_do_not_fill_the_memory_while_the_daemon_takes_nothing(publisher, monkeypatch):
    monkeypatch.setattr(publisher._sender, "_send", lambda message, queued: False)
    monkeypatch.setattr(publisher._outbox, "_bytes_max", 3 * scalars.LOG_BYTES)
    assert [publisher.log({"loss": i}) for i in range(5)] == [True] * 3 + [False] * 2
    assert publisher.stats()["dropped"] == 2
    monkeypatch.undo()
    assert [logged(publisher)["values"]["loss"] for _ in range(3)] == [0, 1, 2]


def test_the_position_of_the_training_is_not_that_of_a_log(publisher):
    publisher.log({"loss": 1.0}, 9, 10**9)
    logged(publisher)
    publisher.close()
    bye = publisher.fake.next()[1]
    assert (bye["event"], bye["epoch"], bye["step"]) == ("bye", 0, 0)


def test_a_watch_logs_at_its_step_in_both_forms_and_never_raises(publisher, caplog):
    model = torch.nn.Linear(2, 2)
    watch = attnd.watch(model, job="job", publisher=publisher, steps="manual", first_step=40, first_epoch=2)
    assert publisher.fake.next()[1]["event"] == "hello"
    watch.log(loss=1.0)
    watch.log({"loss": 2.0}, lr=0.5)
    watch.log({"loss": 3.0}, step=7)
    seen = [logged(publisher) for _ in range(3)]
    assert [header["step"] for header in seen] == [40, 40, 7] and seen[0]["epoch"] == 2
    assert seen[1]["values"] == {"loss": 2.0, "lr": 0.5}
    watch.log(7)
    watch.log(loss=1.0, step="x")
    watch.log()
    assert [record.levelno >= logging.WARNING for record in caplog.records].count(True) == 1
    watch.close()
    watch.log(loss=4.0)
    assert [message[1]["event"] for message in publisher.fake.rest()] == []


def test_settings_are_said_with_every_hello(publisher):
    scheduler = enum.Enum("Scheduler", {"COSINE": "cosine"}).COSINE
    given = {"lr": 3e-4, "steps": 100, "fp16": True, "name": "gpt", "type": torch.float16, "scheduler": scheduler,
             "none": None, "nan": float("nan"), "huge": 10**400, 3: "a\x1b[2J", "long": "é" * 300, "n" * 70: 1}
    watch = attnd.watch(torch.nn.Linear(2, 2), job="job", publisher=publisher, settings=given)
    said = publisher.fake.next()[1]["settings"]
    assert said == {"lr": 3e-4, "steps": 100, "fp16": True, "name": "gpt", "type": "torch.float16",
                    "scheduler": "cosine", "nan": "nan", "huge": said["huge"], "3": "a?[2J", "long": "é" * 128,
                    "n" * 64: 1}
    assert len(said["huge"]) <= 256
    watch.close()
    with pytest.raises(ValueError, match="settings of type list: must be a mapping"):
        attnd.watch(torch.nn.Linear(2, 2), job="job", publisher=publisher, settings=[1])


def test_settings_may_be_numbers_of_numpy_and_torch_and_anything():
    class Broken:
        shape = ()

        def __str__(self):
            raise RuntimeError("not mine")

    said = scalars.settings({"seed": np.int64(3), "lr": np.float32(0.5), "on": np.bool_(True), Broken(): Broken(),
                             "tensor": torch.tensor(0.25), "meta": torch.zeros((), device="meta")})
    assert said == {"seed": 3, "lr": 0.5, "on": True, "Broken": "Broken", "tensor": 0.25, "meta": "Tensor"}
    assert [type(value) for value in said.values()] == [int, float, bool, str, float, str]
    assert len(scalars.settings({f"s{i}": i for i in range(100)})) == 64

# SPDX-License-Identifier: MIT
"""TensorBoard's own reader finds what the bridge wrote: every window once, at its step, with the numbers that follow from the
weights that were sent."""
import io
import signal

import numpy as np
import pytest

pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
pytest.importorskip("PIL", reason="Pillow is not installed")
pytest.importorskip("torch", reason="torch is not installed")

from bridged import HEADS, JOB, LAYERS, Training, daemon, ended, interrupted_run, ledger_has, start, wait_until  # noqa: E402
from PIL import Image  # noqa: E402
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402


def read(directory):
    accumulator = EventAccumulator(str(directory), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def points(accumulator):
    """[(step, value)] of a name."""
    return lambda name: [(event.step, event.value) for event in accumulator.Scalars(name)]


def written_to(directory):
    return lambda training, epoch: ledger_has(directory / JOB / training.run[:8] / "attnd-bridge.json", epoch)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(training, what TensorBoard finds of it)"""
    folder = tmp_path_factory.mktemp("tensorboard")
    training = interrupted_run("tensorboard", folder, written=written_to(folder), cwd=folder)
    return training, read(folder / JOB / training.run[:8])


def test_every_window_once_across_a_restart_of_the_bridge(written):
    training, found = written
    training.check(points(found))
    for step, mean in points(found)("attn/decoder.0.self/entropy/heads_mean"):
        assert mean == pytest.approx(training.expected[0, step].mean(), abs=1e-5)
    assert not any("p90" in name for name in found.Tags()["scalars"])


def test_pictures_and_alerts(written):
    training, found = written
    images = found.Images("attn/heatmap/entropy_normalized")
    assert [event.step for event in images] == training.steps()
    picture = Image.open(io.BytesIO(images[-1].encoded_image_string))
    assert picture.size == (images[-1].width, images[-1].height) and picture.size[0] > HEADS * 20
    assert len(picture.convert("RGB").getcolors(1 << 20)) > HEADS * LAYERS
    text = found.Tensors("attn/alerts/flat/text_summary")
    assert {event.step for event in text} == {0, training.steps()[-1]}
    assert b"firing: entropy_normalized" in text[0].tensor_proto.string_val[0]
    assert b"when the run ended" in text[-1].tensor_proto.string_val[0]


def test_nothing_twice_after_a_kill(tmp_path):
    attnd = daemon()
    training = Training(attnd)
    first = start(attnd, "tensorboard", tmp_path)
    training.epochs(0, 3)
    wait_until(lambda: written_to(tmp_path)(training, 2), "the ledger", 120)
    first.kill()
    first.communicate()
    second = start(attnd, "tensorboard", tmp_path)
    training.epochs(3, 1)
    wait_until(lambda: written_to(tmp_path)(training, 3), "the ledger", 120)
    ended(second, signal.SIGTERM)
    training.check(points(read(tmp_path / JOB / training.run[:8])))
    attnd.close()


def test_a_thread_beside_the_training_writes_to_a_writer_of_ones_own(tmp_path):
    from attnd.bridge import Bridge, Selection, TensorBoardSink
    from torch.utils.tensorboard import SummaryWriter

    attnd = daemon()
    writer = SummaryWriter(str(tmp_path))
    selection = Selection(metrics="entropy", statistics=("mean", "p90"), images=(), layers="decoder.1.*")
    with Bridge(TensorBoardSink(writer=writer), attnd.endpoint("publish"), control=attnd.endpoint("control"), jobs=[JOB],
                selection=selection) as bridge:
        training = Training(attnd)
        training.epochs(0, 2)
        training.end()
        assert bridge.wait(60), bridge.stats()
    writer.add_scalar("loss", 1.0, 0)  # it is still open
    writer.close()
    found = read(tmp_path)
    assert {name.split("/")[1] for name in found.Tags()["scalars"] if name != "loss"} == {"decoder.1.self"}
    mean, p90 = (points(found)(f"attn/decoder.1.self/{name}/head_00") for name in ("entropy", "entropy.p90"))
    np.testing.assert_allclose([value for _, value in mean], training.values(1, 0), atol=1e-5)
    assert [step for step, _ in mean] == [step for step, _ in p90] == training.steps() and found.Tags()["images"] == []
    attnd.close()

# SPDX-License-Identifier: MIT
"""A real notebook, executed by nbclient, follows a real job; and the same without a notebook."""
import base64
import io
import threading
import time

import pytest

for module in ("matplotlib", "nbclient", "nbformat", "ipykernel"):
    pytest.importorskip(module, reason=f"{module} is not installed")

import nbclient  # noqa: E402
import nbformat  # noqa: E402
import numpy as np  # noqa: E402
from bridged import JOB, PACKAGE, Training, daemon, wait_until  # noqa: E402
from harness import Attnd, Trainer, softmax_maps  # noqa: E402

import attnd as client  # noqa: E402
from attnd.notebook.live import LivePlot  # noqa: E402


def in_background(work):
    """Runs `work` in a thread; join() raises what it raised."""
    failures = []

    def guarded():
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()

    def join():
        thread.join(120)
        assert not thread.is_alive() and not failures, failures

    return join


def train_when_somebody_listens(attnd, looks=lambda: True):
    wait_until(lambda: attnd.stats()["subscriptions"] >= 2 and looks(), "the notebook's subscriptions", 120)
    training = Training(attnd)
    training.epochs(0, 6)
    training.end()
    training.trainer.socket.close()


class Recorder(nbclient.NotebookClient):
    """Keeps every picture that the cell shows, not only the last."""

    def __init__(self, *arguments, of="image/png", **named):
        super().__init__(*arguments, **named)
        self.pictures, self.of = [], of

    def process_message(self, message, cell, index):
        if message["msg_type"] in ("display_data", "update_display_data"):
            self.pictures.append((message["msg_type"], message["content"]["data"].get(self.of)))
        return super().process_message(message, cell, index)


def test_a_notebook_cell_follows_a_run_until_it_ends(monkeypatch):
    from PIL import Image

    monkeypatch.setenv("PYTHONPATH", str(PACKAGE))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    attnd = daemon()
    notebook = nbformat.v4.new_notebook()
    source = (f"import attnd\nfigure = attnd.live_plot({JOB!r}, endpoint={attnd.endpoint('publish')!r}, seconds=120)\n"
              "print(figure.texts[0].get_text() if figure.texts else figure.get_suptitle())")
    notebook.cells = [nbformat.v4.new_code_cell(source)]
    session = Recorder(notebook, timeout=240, kernel_name="python3")
    join = in_background(lambda: train_when_somebody_listens(attnd, lambda: session.pictures))
    session.execute()
    join()
    outputs = notebook.cells[0].outputs
    shown = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(shown) == 1  # in place
    assert session.pictures[0][0] == "display_data" and len(session.pictures) >= 2
    assert {kind for kind, _ in session.pictures[1:]} == {"update_display_data"}
    pictures = {base64.b64decode(data) for _, data in session.pictures}
    assert len(pictures) >= 2
    width, height = Image.open(io.BytesIO(base64.b64decode(shown[0]["data"]["image/png"]))).size
    assert width > 600 and height > 200
    text = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert f"entropy_normalized of {JOB}" in text and "step 17" in text and "ended" in text
    attnd.close()


def test_a_view_follows_a_job_until_it_ends(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    attnd, rng = Attnd("maps.every=0s"), np.random.default_rng(1)
    source = ("import attnd\n"
              f"attnd.notebook.follow({JOB!r}, every=0.2, control=attnd.Control({attnd.endpoint('control')!r}))")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    session = Recorder(notebook, timeout=240, kernel_name="python3", of="text/html")
    done = in_background(session.execute)
    wait_until(lambda: f"job {JOB} has not begun: waiting for it" in str(notebook.cells[0].get("outputs")), "the job is waited for", 120)
    trainer = Trainer(attnd, JOB)
    trainer.attention(softmax_maps(rng, 1, 2, 6, 6), step=1)
    wait_until(lambda: session.pictures, "the first view", 120)
    trainer.attention(softmax_maps(rng, 1, 2, 6, 6), step=2)
    trainer.event("bye", step=2)
    done()
    kinds = [kind for kind, _ in session.pictures]
    assert kinds[0] == "display_data" and set(kinds[1:]) == {"update_display_data"}
    first, last = session.pictures[0][1], session.pictures[-1][1]
    assert "step 1." in first and "step 2." in last and first.startswith('<iframe sandbox="allow-scripts')


def test_without_a_notebook_it_is_a_figure():
    import matplotlib

    matplotlib.use("Agg")
    attnd = daemon()
    join = in_background(lambda: train_when_somebody_listens(attnd))
    figure = client.live_plot(JOB, "entropy", layer=1, endpoint=attnd.endpoint("publish"), seconds=120)
    join()
    now, course = figure.axes[:2]
    assert len(course.get_lines()) == 12 and list(course.get_lines()[0].get_xdata()) == [2, 5, 8, 11, 14, 17]
    assert now.images[0].get_array().shape == (1, 12)
    attnd.close()


def test_it_says_what_there_is_and_ends_after_a_while():
    import matplotlib.pyplot

    matplotlib.use("Agg")
    attnd = daemon()
    training = Training(attnd)
    training.epochs(0, 1)
    plot = LivePlot(JOB, "entropie", "mean", None, matplotlib.pyplot.figure())
    plot.draw()
    assert "nothing has come of gpt-small yet" in plot.figure.texts[-1].get_text()
    with client.Subscriber(attnd.endpoint("publish"), f"summary/{JOB}/") as subscriber:
        assert not plot.take(subscriber.next(60))
    plot.draw()
    assert "there is no entropie; there are" in plot.figure.texts[-1].get_text()
    began = time.monotonic()
    client.live_plot(JOB, endpoint=attnd.endpoint("publish"), seconds=0.5)
    assert time.monotonic() - began < 30
    training.trainer.close()
    attnd.close()

# SPDX-License-Identifier: MIT
"""Weights & Biases in its offline mode: its files, read with its own protocol, hold every window once."""
import json
import struct

import pytest

pytest.importorskip("wandb", reason="wandb is not installed")

from bridged import interrupted_run, ledger_has  # noqa: E402
from wandb.proto import wandb_internal_pb2 as protocol  # noqa: E402

BLOCK, FILE_HEADER, RECORD_HEADER = 32768, 7, 7
FULL, LAST = 1, 4


def pieces(data):
    """(type, bytes) of the pieces that records are cut into, so that none crosses a block."""
    at = FILE_HEADER
    while at + RECORD_HEADER <= len(data):
        if BLOCK - at % BLOCK < RECORD_HEADER:  # the rest of a block, zeros
            at += BLOCK - at % BLOCK
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        yield kind, data[at + RECORD_HEADER:at + RECORD_HEADER + size]
        at += RECORD_HEADER + size


def records(path):
    whole = b""
    for kind, piece in pieces(path.read_bytes()):
        whole += piece
        if kind in (FULL, LAST):
            record = protocol.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def lines(path):
    """The rows of the history, as dicts, each with its number."""
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            yield record.history.step.num, row


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(training, [its files])"""
    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_DIR", str(folder))
        training = interrupted_run("wandb", "--project", "heads", cwd=folder, written=lambda training, epoch: ledger_has(
            folder / "wandb" / f"attnd-heads-{training.run}.json", epoch))
    return training, sorted(folder.glob("wandb/offline-run-*/*.wandb"))


def test_every_window_once_in_one_wandb_run(written):
    training, files = written
    assert len(files) == 2 and {file.name for file in files} == {f"run-{training.run}.wandb"}
    rows = [row for file in files for row in lines(file)]
    numbers = [number for number, _ in rows]
    assert numbers == list(range(len(rows)))  # the second part goes on where the first ended
    training.check(lambda name: [(row["attnd/step"], row[name]) for _, row in rows if name in row])
    path = "attn/heatmap/entropy_normalized/path"
    assert [row["attnd/step"] for _, row in rows if path in row] == training.steps()
    assert all((file.parent / "files" / row[path]).is_file() for file in files for _, row in lines(file) if path in row)
    texts = [row["attn/alerts/flat"] for _, row in rows if "attn/alerts/flat" in row]
    assert texts and "firing: entropy_normalized" in texts[0]


def test_the_runs_own_step_is_the_axis(written):
    training, files = written
    told = list(records(files[0]))
    run = next(record.run for record in told if record.WhichOneof("record_type") == "run")
    assert (run.run_id, run.project, run.display_name) == (training.run, "heads", f"gpt-small-{training.run[:8]}")
    axes = {record.metric.glob_name: record.metric.step_metric for record in told
            if record.WhichOneof("record_type") == "metric"}
    assert axes["attn/*"] == "attnd/step"
    assert any(record.WhichOneof("record_type") == "alert" for record in told)

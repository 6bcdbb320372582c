# SPDX-License-Identifier: MIT
"""Projection matrices that FSDP2 shares out over the ranks of a job: attnd puts together what each sends, without a
collective call, and its numbers are those of the whole matrices in float64."""
import pytest

torch = pytest.importorskip("torch", minversion="2.6")
pytest.importorskip("torch.distributed.fsdp", reason="no FSDP in this torch")
import ranks  # noqa: E402
import shards_worker  # noqa: E402
from session import Attnd, wait_until  # noqa: E402
from sketched import expected  # noqa: E402
from zoo import HEADS  # noqa: E402
from zoo_projections import errors  # noqa: E402

LAYERS = 3
TOLERANCE = 1e-9  # of what KERNELS.md promises; matrices this small are decomposed in float64


@pytest.fixture(scope="module")
def daemon():
    started = Attnd("history.enabled=false", "alerts.enabled=false")
    Attnd.all.remove(started)
    yield started
    started.close()


def run_ranks(daemon, job, tmp_path, world=2, how="all", dtype="float32", **options):
    """(losses, weights, counters) of every rank."""
    return ranks.run(shards_worker.__file__, tmp_path / job, world, how=how, dtype=dtype, job=job,
                     endpoint=daemon.endpoint("ingest"), **options)[0]


def ended(daemon, job):
    """The job's map, once its run is over."""
    return wait_until(lambda: next((each for each in daemon.call("jobs") if (each["job"], each["state"]) == (job, "ended")),
                                   None), f"the end of {job}; {daemon.describe()}")


def assert_whole(daemon, job, state):
    """The newest numbers of all layers are those of these weights."""
    found = {live["layer"]: live for live in daemon.call("live", job=job, tier="weights")}
    assert sorted(found) == list(range(LAYERS))
    for layer, matrices in enumerate(shards_worker.matrices(state)):
        assert set(found[layer]["weights"]) == {*matrices, "wq_wk", "wv_wo"}
        wrong = {key: error for key, error in errors(matrices, found[layer]["weights"]).items() if not error <= TOLERANCE}
        assert wrong == {}, layer


@pytest.mark.parametrize("world, how, dtype", [(2, "all", "float64"), (3, "all", "float32"), (3, "all", "bfloat16"),
                                               (2, "some", "float64"), (4, "twice", "float32")])
def test_shards_make_the_numbers_of_the_whole_model(daemon, tmp_path, world, how, dtype):
    job = f"{how}-{world}-{dtype}"
    results = run_ranks(daemon, job, tmp_path, world, how, dtype)
    job_map = ended(daemon, job)
    assert (job_map["dropped"], job_map["lost"]) == ({}, 0) and job_map["received"] == job_map["processed"]
    assert_whole(daemon, job, results[0][1])
    for _, _, stats in results:
        assert stats["dropped"] == 0 and stats["sent"] == stats["published"]


def hashed(values):
    """PROTOCOL.md, `sketch` in `live`."""
    found = 0x9e3779b97f4a7c15
    for word in values.astype("<f4").view("<u8").tolist():
        found = (found ^ word) * 0xbf58476d1ce4e5b9 % 2**64
        found ^= found >> 32
    return f"{found:016x}"


@pytest.mark.parametrize("world, how", [(2, "all"), (3, "all"), (2, "some"), (4, "twice")])
def test_shards_have_the_sketch_of_the_whole_model(daemon, tmp_path, world, how):
    job = f"sketch-{how}-{world}"
    state = run_ranks(daemon, job, tmp_path, world, how)[0][1]
    assert ended(daemon, job)["dropped"] == {}
    found = {live["layer"]: live["sketch"] for live in daemon.call("live", job=job, tier="sketch")}
    assert sorted(found) == list(range(LAYERS))
    for layer, matrices in enumerate(shards_worker.matrices(state)):
        assert found[layer]["stored"] == ["f32"] * 4 and found[layer]["step"] == shards_worker.STEPS - 1
        for name, matrix in matrices.items():
            heads = 1 if layer == 1 and name in ("wk", "wv") else HEADS
            if how == "some" and (layer, name) == (0, "wo"):  # each rank has all of it, and nobody averages its gradients
                assert found[layer][name]["flags"] == [16] * heads
                continue
            values = expected(f"blocks.{layer}", name, torch.from_numpy(matrix), heads, stored=layer < 2)
            assert found[layer][name]["hash"] == [hashed(one) for one in values], (layer, name)
            assert found[layer][name]["flags"] == [0] * heads and all(one > 0 for one in found[layer][name]["moved"])


def test_a_matrix_whose_shards_have_an_adapter_is_left_out(daemon, tmp_path):
    results = run_ranks(daemon, "lora", tmp_path, 2, how="lora")
    job_map = ended(daemon, "lora")
    assert job_map["dropped"] == {} and [stats["dropped"] for _, _, stats in results] == [0, 0]
    sent = {live["layer"]: "wo" in live["weights"] for live in daemon.call("live", job="lora", tier="weights")}
    assert sent == {0: False, 1: True, 2: True}


def test_losses_and_weights_are_the_same_bits_without_attnd(daemon, tmp_path):
    watched = run_ranks(daemon, "watched", tmp_path, 2)
    alone = run_ranks(daemon, "alone", tmp_path, 2, weights_every="-,-")
    for (losses, state, _), (losses_alone, state_alone, _) in zip(watched, alone):
        assert losses == losses_alone
        assert state.keys() == state_alone.keys() and all(torch.equal(state[name], state_alone[name]) for name in state)


def test_a_rank_with_another_plan_costs_the_matrices_of_those_epochs_only(daemon, tmp_path):
    results = run_ranks(daemon, "plans", tmp_path, 2, epochs=2, weights_every="1,2")
    job_map = ended(daemon, "plans")
    assert job_map["dropped"] == {"incomplete": LAYERS}
    assert job_map["received"] == job_map["processed"] + LAYERS and job_map["lost"] == 0
    assert_whole(daemon, "plans", results[0][1])


def test_a_rank_that_sends_nothing_stops_nobody(daemon, tmp_path):
    results = run_ranks(daemon, "unwatched", tmp_path, 2, weights_every="1,-")
    assert len(results[1][0]) == shards_worker.STEPS
    job_map = ended(daemon, "unwatched")
    assert job_map["dropped"] == {"incomplete": LAYERS}
    assert job_map["received"] == job_map["processed"] + LAYERS
    with pytest.raises(RuntimeError, match="no_summary"):
        daemon.call("live", job="unwatched", tier="weights")


def test_each_rank_sends_a_layer_at_the_end_of_the_same_step(daemon, tmp_path):
    # a quarter of the queue takes one layer: the others follow at the ends of the next two steps
    results = run_ranks(daemon, "steps", tmp_path, 2, epochs=2, queue_bytes=1 << 13)
    job_map = ended(daemon, "steps")
    assert job_map["dropped"] == {} and job_map["received"] == job_map["processed"]
    assert [stats["dropped"] for _, _, stats in results] == [0, 0]
    found = {live["layer"]: live["step"] for live in daemon.call("live", job="steps", tier="weights")}
    last = shards_worker.STEPS - 1
    assert found == {0: last + shards_worker.STEPS, 1: last + 1, 2: last + 2}

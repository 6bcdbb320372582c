# SPDX-License-Identifier: MIT
"""What `attnd.watch` captures of further architectures of transformers while they train: layers, heads and every row
metric equal those of eager float64 weights."""
import pytest

transformers = pytest.importorskip("transformers")
import torch  # noqa: E402
from session import Session, assert_right, expected_of, train  # noqa: E402
from zoo_architectures import architecture_kinds  # noqa: E402

pytest_plugins = ("one_daemon",)


@pytest.mark.parametrize("tier", ["raw", "state"])
@pytest.mark.parametrize("kind", architecture_kinds(), ids=lambda kind: kind.name)
def test_layers_heads_and_numbers_of_an_architecture_are_right(stepwise, caplog, kind, tier):
    model = kind.build()
    with Session(stepwise) as session:
        session.watch(model, tier=tier)
        trained = list(train(model, kind, 2))
    tiers = ("state",) if tier == "state" else kind.tiers
    assert_right(f"{kind.name}, {tier}", session.summaries(), expected_of(kind, trained), tiers)
    assert not [record for record in caplog.records if record.name == "attnd"]


SMALL = {"vocab_size": 80, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32,
         "max_position_embeddings": 80}
IN_PARTS = {"Longformer": ({"attention_window": 8}, "24 queries and 9 columns", None),
            "Longformer with global tokens": ({"attention_window": 8}, "values of 1 of its 10 columns", 1),
            "BigBird": ({"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1}, "another softmax of this module has 5 axes", None),
            "Nystromformer": ({"segment_means_seq_len": 64, "num_landmarks": 8}, "multiplied with nothing but what is made of it", None)}


@pytest.mark.parametrize("include", [None, "encoder.layer.*.attention.self"])
@pytest.mark.parametrize("name", IN_PARTS)
def test_attention_in_parts_is_refused_as_a_whole_with_the_reason(stepwise, caplog, name, include):
    options, reason, seen_by_all = IN_PARTS[name]
    config = getattr(transformers, name.split()[0] + "Config")(**SMALL, **options)
    model = getattr(transformers, name.split()[0] + "Model")(config).train()
    tokens = torch.randint(80, (2, 24 if "Longformer" in name else 64))
    given = {} if seen_by_all is None else {"global_attention_mask": torch.arange(24).expand(2, -1) < seen_by_all}
    with Session(stepwise) as session:
        watch = session.watch(model, include=include, steps="manual")
        for _ in range(2):
            model(tokens, **given)[0].sum().backward()
            watch.step()
        assert watch.layers == []
    said = [record.getMessage() for record in caplog.records if record.name == "attnd" and "is a part of an attention" in record.getMessage()]
    assert len(said) == 1 and "encoder.layer.0.attention.self" in said[0] and reason in said[0] and "include=" not in said[0]

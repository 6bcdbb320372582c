# SPDX-License-Identifier: MIT
"""metrics: the metrics of proto/metric.def, in its order.

Written by `ATTND_UPDATE_DOCS=1 meson test -C build protocol`.
"""

# One value per attention row.
ROW_METRICS = (
    "entropy",
    "entropy_normalized",
    "effective_keys",
    "confidence",
    "diagonal",
    "local_mass",
    "mean_distance",
    "mean_distance_normalized",
    "previous_token",
    "next_token",
    "first_token",
    "entropy_sans_first",
    "tail_mass",
    "induction",
    "duplicate_token",
    "sink_deficit",
    "max_logit",
)
# One value per message, of each head.
MESSAGE_METRICS = (
    "mean",
    "min",
    "max",
    "std",
    "variance",
    "locality",
    "max_abs_logit",
    "mean_logit",
    "std_logit",
    "qk_cosine",
    "qk_cosine_max",
    "q_norm",
    "k_norm",
    "output_norm",
    "norm_weighted_entropy",
    "write_norm",
    "residual_share",
    "importance",
    "importance_gradient",
)
# In 0 to 1.
SHARES = frozenset((
    "entropy_normalized",
    "confidence",
    "diagonal",
    "local_mass",
    "mean_distance_normalized",
    "previous_token",
    "next_token",
    "first_token",
    "entropy_sans_first",
    "tail_mass",
    "induction",
    "duplicate_token",
    "sink_deficit",
    "mean",
    "min",
    "max",
    "locality",
    "importance",
    "importance_gradient",
))
# Units other than 1.
UNITS = {
    "entropy": "nats",
    "effective_keys": "keys",
    "mean_distance": "tokens",
    "norm_weighted_entropy": "nats",
    "condition_number": "log10",
    "qk_condition_number": "log10",
    "wq_wk.condition_number": "log10",
    "wv_wo.condition_number": "log10",
    "wq.condition_number": "log10",
    "wk.condition_number": "log10",
    "wv.condition_number": "log10",
    "wo.condition_number": "log10",
}

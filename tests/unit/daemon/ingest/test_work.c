/* SPDX-License-Identifier: MIT */
/* The price of a message: of parts, and of what they are joined in. */
#include "tests/unit/unit.h"

#include "daemon/ingest/work.h"
#include "workers/measure.h"

/* Rows of a W_q of [64, 64] entries. */
static struct header part_of(uint64_t rows, enum dtype dtype)
{
    struct header header = {.type = MESSAGE_WEIGHTS,
                            .heads = 4,
                            .kv_heads = 4,
                            .head_dim = 16,
                            .heads_total = 4,
                            .in_parts = true,
                            .matrix[PROJECTION_Q] = {64, 64, 0, 0},
                            .tensor_count = 1};
    header.tensors[0] = (struct tensor){.role = TENSOR_WQ,
                                        .dtype = dtype,
                                        .rank = 2,
                                        .shape = {rows, 64},
                                        .bytes = rows * 64 * dtype_size(dtype)};
    return header;
}

TEST(parts_cost_together_what_their_matrices_cost)
{
    static const enum dtype dtypes[] = {DTYPE_F16, DTYPE_F32, DTYPE_F64};
    OWNED(config_clear) struct config config;
    struct machine machine;
    config_defaults(&config);
    assert_int_equal(machine_init(&machine, &config), 0);
    struct header whole = part_of(64, DTYPE_F32);
    struct weights shape = message_weights(&whole, NULL);
    uint64_t scratch, all = measure_weights_cost(&shape);
    whole.in_parts = false;
    uint64_t work = work_cost(&whole, &config, &machine, &scratch) - all; /* of any message */
    for (size_t i = 0; i < 3; i++) {
        struct header quarter = part_of(16, dtypes[i]);
        uint64_t joined = 64 * 64 * dtype_size(dtypes[i]);
        config.ingest_budget = all + 2 * joined; /* the parts, and what they are joined in */
        uint64_t cost = work_cost(&quarter, &config, &machine, &scratch) - work;
        assert_in_range(cost, (all + joined) / 4 - 1, (all + joined) / 4);
        config.ingest_budget--;
        assert_true(work_cost(&quarter, &config, &machine, &scratch) > config.ingest_budget);
    }
}

/* SPDX-License-Identifier: MIT */
/* Any bytes as the tensors of a message of type rows. Whatever comes, both paths have one verdict,
 * every valid row is counted once, and numbers that are shown are finite where their rows are.
 *
 * A few bytes say what the message is; those after them are its places, its lengths of keys and
 * sinks, and its sums, which are 0 beyond the input. */
#include "tests/fuzz/fuzz.h"

#include "workers/rows/row_sums.h"

#include "proto/err.h"

#include <math.h>
#include <string.h>

enum { BATCH = 2, HEADS = 4, KV = 2, ROWS = 20, KEYS = 24 };

static float sums[ROW_SUM_COUNT * BATCH * HEADS * ROWS], lengths[BATCH * KV * KEYS], sinks[HEADS];
static int32_t places[ROW_PLACE_COUNT * BATCH * ROWS], k_len[BATCH];

static void fuzz_rows_fill(struct fuzz_input *input, void *numbers, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = fuzz_take(input, 4);
        memcpy((char *)numbers + i * sizeof bits, &bits, sizeof bits);
    }
}

static struct sent_sums fuzz_rows_take(struct fuzz_input *input)
{
    uint32_t flags = fuzz_take(input, 2), shape = fuzz_take(input, 2);
    uint32_t missing = fuzz_take(input, 4) & (UINT32_MAX >> (32 - ROW_SUM_COUNT));
    struct sent_sums rows = {.sums = sums,
                             .places = places,
                             .places_shared = flags & 1,
                             .batch = 1 + shape % BATCH,
                             .heads = 2 * (1 + shape / 2 % (HEADS / 2)),
                             .rows = 1 + shape / 4 % ROWS,
                             .keys = 1 + shape / 128 % KEYS,
                             .kv_heads = 1 + (flags >> 1 & 1),
                             .self = flags & 4,
                             .of_weights = flags & 8,
                             .dropout = flags & 16,
                             .learned_sink = flags & 32,
                             .dtype = flags & 64 ? DTYPE_BF16 : DTYPE_F32,
                             .key_lengths = flags & 128 ? lengths : NULL,
                             .sinks = flags & 256 ? sinks : NULL,
                             .k_len = flags & 512 ? k_len : NULL,
                             .local_window = flags >> 12};
    rows.queries = rows.rows + (flags >> 10 & 1);
    for (int s = 0; s < ROW_SUM_COUNT; s++) {
        bool has = row_sum_needed((enum row_sum)s) || (missing >> s & 1) == 0;
        rows.column[s] = has ? (uint8_t)(s + 1) : 0;
    }
    for (uint32_t b = 0; b < BATCH; b++) {
        k_len[b] = (int32_t)(fuzz_take(input, 1) % (rows.keys + 1));
    }
    size_t all = (size_t)rows.batch * rows.heads * rows.rows;
    fuzz_rows_fill(input, places, (size_t)ROW_PLACE_COUNT * rows.batch * rows.rows);
    fuzz_rows_fill(input, lengths, (size_t)rows.batch * rows.kv_heads * rows.keys);
    fuzz_rows_fill(input, sinks, rows.heads);
    fuzz_rows_fill(input, sums, ROW_SUM_COUNT * all);
    return rows;
}

static uint64_t fuzz_rows_valid(const struct sent_sums *rows)
{
    size_t samples = rows->places_shared ? 1 : rows->batch;
    const int32_t *valid = places + ROW_PLACE_VALID * samples * rows->rows;
    uint64_t count = 0;
    for (size_t i = 0; i < samples * rows->rows; i++) {
        count += valid[i] != 0;
    }
    return count * rows->heads * (rows->batch / samples);
}

static int fuzz_rows_compute(const struct sent_sums *rows, enum isa isa, struct block *block)
{
    const struct attention shape = {
        .batch = rows->batch, .heads = rows->heads, .queries = rows->rows, .keys = rows->keys};
    struct block_plan plan = {.group = {[METRIC_GROUP_CORE] = true},
                              .local_window = rows->local_window};
    struct scratch scratch = {0};
    plan.group[METRIC_GROUP_IMPORTANCE] = row_sums_weigh(rows);
    REQUIRE(block_init(block, &shape, &plan) == 0);
    int rc = row_sums_compute(block, rows, 0, rows->rows, isa, &scratch);
    scratch_clear(&scratch);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct fuzz_input input = {data, len};
    struct sent_sums rows = fuzz_rows_take(&input);
    struct block want, got;
    int rc = fuzz_rows_compute(&rows, ISA_SCALAR, &want);

    REQUIRE(rc == 0 || rc == ERR_ROWS);
    REQUIRE(fuzz_rows_compute(&rows, isa_best(), &got) == rc);
    if (rc == 0) {
        REQUIRE(want.rows + want.invalid_rows == fuzz_rows_valid(&rows));
        REQUIRE(got.rows == want.rows && got.invalid_rows == want.invalid_rows);
        for (uint32_t h = 0; h < rows.heads; h++) {
            for (int m = 0; m < METRIC_ROW_COUNT; m++) {
                const struct moments *one = &got.head[h].row[m].moments;
                const struct moments *other = &want.head[h].row[m].moments;
                REQUIRE(one->n <= got.rows && one->n == other->n);
                REQUIRE(isfinite(one->mean));
                REQUIRE(fabs(one->mean - other->mean) <= 1e-3 * fmax(1, fabs(other->mean)));
            }
        }
    }
    block_clear(&want);
    block_clear(&got);
    return 0;
}

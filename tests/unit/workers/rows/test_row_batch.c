/* SPDX-License-Identifier: MIT */
/* Rows whose metrics are known, through the columns of every instruction set; and the kernels that
 * count against the histogram's own keys. */
#include "tests/unit/unit.h"
#include "proto/err.h"
#include "tests/unit/heap.h"
#include "tests/unit/workers/hist_bound.h"
#include "workers/rows/row_batch.h"

#define HEADS 3
#define ROWS  5000 /* more than are kept at once */

static const struct row_kernels *kernels_at(int isa)
{
    const struct kernels *kernels = kernels_of((enum isa)isa);
    return kernels ? kernels->row : NULL;
}

/* A uniform row of n keys at position n - 1, key 0 among them. */
static void put_uniform(struct row_batch *b, uint32_t n)
{
    uint32_t s = b->used++;
    float a = 1.0f / (float)n;
    b->sound[s] = 1;
    b->keys[s] = (float)n;
    b->rest_keys[s] = (float)(n - 1);
    b->rest_sum[s] = b->unit_sum[s] = 1 - a;
    b->rest_plogp[s] = b->unit_plogp[s] = (1 - a) * logf(a);
    b->first[s] = b->min[s] = b->max[s] = a;
    b->squares[s] = 0;
    b->top[s] = n < 8 ? 1 : 8 * a;
    b->distance[s] = (float)(n - 1) / 2;
    b->largest_distance[s] = (float)(n - 1);
    b->local_mass[s] = b->top[s];
    b->first_token[s] = n > 1 ? a : NAN;
    b->diagonal[s] = a;
    b->previous[s] = n > 1 ? a : NAN;
    b->next[s] = b->induction[s] = b->duplicate[s] = b->max_logit[s] = NAN;
}

static void free_heads(struct head_block *head)
{
    for (uint32_t h = 0; h < HEADS; h++) {
        for (uint32_t m = 0; m < METRIC_ROW_COUNT; m++) {
            dist_clear(&head[h].row[m]);
        }
    }
    memset(head, 0, HEADS * sizeof *head);
}

static void *take_memory(void)
{
    return aligned_alloc(64, (row_values_bytes(HEADS) + 63) & ~(size_t)63);
}

/* Row k belongs to head k % HEADS and is uniform over 2 + head keys. */
static int row_batch_add_rows(struct row_values *values, uint32_t rows, struct head_block *head)
{
    struct row_batch batch = {0};
    for (uint32_t k = 0; k < rows; k++) {
        put_uniform(&batch, 2 + k % HEADS);
        int rc =
            batch.used == ROW_BATCH || k + 1 == rows ? row_values_add(values, &batch, head) : 0;
        if (rc < 0) {
            return rc;
        }
    }
    return row_values_flush(values, head);
}

static void row_batch_check_head(const struct head_block *head, uint32_t n, uint64_t rows)
{
    double a = 1.0 / n;
    assert_int_equal(head->row[METRIC_ENTROPY].moments.n, rows);
    assert_close(head->row[METRIC_ENTROPY].moments.mean, log(n), 1e-6);
    assert_close(head->row[METRIC_ENTROPY_NORMALIZED].moments.max, 1, 1e-6);
    assert_close(head->row[METRIC_EFFECTIVE_KEYS].moments.min, n, 1e-5);
    assert_close(head->row[METRIC_MEAN_DISTANCE_NORMALIZED].moments.mean, 0.5, 1e-6);
    assert_close(head->row[METRIC_CONFIDENCE].moments.mean, a, 1e-7);
    assert_close(head->row[METRIC_TAIL_MASS].moments.mean, 0, 1e-6);
    assert_int_equal(head->row[METRIC_ENTROPY_SANS_FIRST].moments.n, n >= 3 ? rows : 0);
    assert_int_equal(head->row[METRIC_NEXT_TOKEN].moments.n, 0);
    assert_int_equal(head->entries.n, rows * n);
    assert_close(head->entries.mean, a, 1e-7);
    assert_close(moments_std(&head->entries), 0, 1e-7);
    assert_int_equal(head->neighbour_count, rows);
    assert_close(head->neighbour_sum, (double)rows * a, 1e-6 * (double)rows);
}

TEST(rows_reach_their_heads_over_flushes)
{
    for (int isa = ISA_PORTABLE; isa < ISA_COUNT; isa++) {
        if (!kernels_at(isa)) {
            continue;
        }
        struct head_block head[HEADS] = {0};
        struct row_values values;
        void *memory = take_memory();
        row_values_begin(&values, memory, HEADS, kernels_at(isa));
        assert_int_equal(row_batch_add_rows(&values, ROWS, head), 0);
        for (uint32_t h = 0; h < HEADS; h++) {
            row_batch_check_head(&head[h], 2 + h, ROWS / HEADS + (h < ROWS % HEADS));
        }
        free_heads(head);
        free(memory);
    }
}

TEST(unsound_rows_leave_nothing)
{
    struct head_block head[HEADS] = {0};
    struct row_values values;
    struct row_batch batch = {0};
    void *memory = take_memory();
    row_values_begin(&values, memory, HEADS, kernels_of(ISA_PORTABLE)->row);
    put_uniform(&batch, 4);
    put_uniform(&batch, 4);
    batch.sound[0] = 0;
    batch.rest_plogp[0] = NAN;
    assert_int_equal(row_values_add(&values, &batch, head), 0);
    assert_int_equal(row_values_flush(&values, head), 0);
    assert_int_equal(head[0].row[METRIC_ENTROPY].moments.n, 0);
    assert_int_equal(head[0].entries.n, 0);
    assert_int_equal(head[1].row[METRIC_ENTROPY].moments.n, 1);
    free_heads(head);
    free(memory);
}

TEST(a_certain_row_has_no_entropy)
{
    for (int isa = ISA_PORTABLE; isa < ISA_COUNT; isa++) {
        if (!kernels_at(isa)) {
            continue;
        }
        struct row_batch batch = {0};
        float column[METRIC_ROW_COUNT][ROW_BATCH], *value[METRIC_ROW_COUNT];
        for (uint32_t m = 0; m < METRIC_ROW_COUNT; m++) {
            value[m] = column[m];
        }
        put_uniform(&batch, 1);
        kernels_at(isa)->finish(&batch, value);
        assert_true(column[METRIC_ENTROPY][0] >= 0 && column[METRIC_ENTROPY][0] <= 0);
        assert_close((double)column[METRIC_EFFECTIVE_KEYS][0], 1, 1e-7);
        assert_nan((double)column[METRIC_ENTROPY_NORMALIZED][0]);
        assert_nan((double)column[METRIC_MEAN_DISTANCE_NORMALIZED][0]);
    }
}

TEST(out_of_memory_is_told)
{
    struct head_block head[HEADS] = {0};
    struct row_values values;
    void *memory = take_memory();
    row_values_begin(&values, memory, HEADS, kernels_of(ISA_PORTABLE)->row);
    heap_fail_at(5);
    assert_int_equal(row_batch_add_rows(&values, 40, head), ERR_MEMORY);
    heap_fail_at(0);
    free_heads(head);
    free(memory);
}

/* Numbers of all sizes, at the bounds of the buckets and next to them. */
static size_t fill_hard(float *x)
{
    size_t n = 0;
    for (int32_t key = -HIST_KEY_MAX; key <= HIST_KEY_MAX; key++) {
        float bound = (float)hist_bound_of(key);
        x[n++] = bound;
        x[n++] = nextafterf(bound, INFINITY);
        x[n++] = nextafterf(bound, -INFINITY);
        x[n++] = (float)hist_middle(key, 0);
    }
    const float others[] = {0, -0.0f, 0x1p-149f, -0x1p-126f, 3e38f, -3e38f, 0x1p-40f, 0x1p40f};
    memcpy(x + n, others, sizeof others);
    return n + sizeof others / sizeof others[0];
}

TEST(kernels_count_as_the_histogram_does)
{
    static float x[4 * HIST_KEYS + 8 + ROW_PAD];
    static struct dist_counts counts;
    size_t all = fill_hard(x);
    for (int isa = ISA_PORTABLE; isa < ISA_COUNT; isa++) {
        for (size_t n = 1; kernels_at(isa) != NULL && n <= all; n = n < 40 ? n + 1 : n * 3) {
            size_t from = n < 40 ? 97 * n : 0, take = n * 3 > all ? all - from : n;
            OWNED(dist_clear) struct dist fast = {0}, slow = {0};
            kernels_at(isa)->count(x + from, take, &counts);
            assert_int_equal(dist_add_counts(&fast, &counts), 0);
            for (size_t k = 0; k < take; k++) {
                assert_int_equal(dist_add(&slow, (double)x[from + k]), 0);
            }
            assert_int_equal(fast.hist.used, slow.hist.used);
            assert_memory_equal(fast.hist.buckets, slow.hist.buckets,
                                slow.hist.used * sizeof *slow.hist.buckets);
            assert_true(fast.moments.n == slow.moments.n && fast.moments.min <= slow.moments.min &&
                        fast.moments.max >= slow.moments.max);
            double most = fmax(fabs(slow.moments.min), fabs(slow.moments.max));
            assert_true(fabs(fast.moments.mean - slow.moments.mean) <= 1e-12 * most);
            assert_true(fabs(fast.moments.m2 - slow.moments.m2) <= 1e-7 * slow.moments.m2);
        }
    }
}

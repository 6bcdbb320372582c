/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"
#include "proto/err.h"
#include "tests/unit/heap.h"
#include "tests/unit/workers/map_of.h"
#include "workers/across/similarity.h"

#define LN2 0.693147180559945309

static struct similarity test_similarity_compute(const struct attention *a, enum isa isa)
{
    struct similarity s;
    OWNED(scratch_clear) struct scratch scratch = {0};
    assert_int_equal(similarity_init(&s, a->heads), 0);
    assert_int_equal(similarity_compute(&s, a, 0, a->queries, isa, &scratch), 0);
    return s;
}

/* Cosine and js of heads 0 and 1, by every instruction set that is here. */
static void expect_pair(const struct attention *a, double cosine, double js, uint64_t rows)
{
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        if (!isa_available((enum isa)isa)) {
            continue;
        }
        double got[4];
        double tolerance = isa == ISA_SCALAR ? 1e-14 : 1e-6;
        struct similarity s = test_similarity_compute(a, (enum isa)isa);
        similarity_cosine(&s, got);
        assert_close(got[1], cosine, tolerance);
        assert_true(got[1] == got[2] && got[0] == 1 && got[3] == 1);
        similarity_js(&s, got);
        assert_close(got[1], js, tolerance);
        assert_true(got[1] == got[2] && got[0] == 0 && got[3] == 0);
        assert_int_equal(s.rows[1], rows);
        similarity_clear(&s);
    }
}

TEST(identical_heads_are_exactly_alike)
{
    double x[2][3][7];
    uint64_t random = 3;
    for (uint32_t i = 0; i < 3; i++) {
        double sum = 0;
        for (uint32_t j = 0; j < 7; j++) {
            x[0][i][j] = random_unit(&random);
            sum += x[0][i][j];
        }
        for (uint32_t j = 0; j < 7; j++) {
            x[0][i][j] /= sum;
        }
    }
    memcpy(x[1], x[0], sizeof x[0]);
    struct attention a = map_of(x, DTYPE_F64, 2, 3, 7);
    struct similarity s = test_similarity_compute(&a, isa_best());
    double js[4];
    similarity_js(&s, js);
    assert_true(js[1] == 0);
    similarity_clear(&s);
    expect_pair(&a, 1, 0, 3);
}

TEST(heads_without_a_common_key_are_as_far_as_can_be)
{
    const double x[2][2][2] = {{{1, 0}, {0, 1}}, {{0, 1}, {1, 0}}};
    struct attention a = map_of(x, DTYPE_F64, 2, 2, 2);
    expect_pair(&a, 0, LN2, 2);
}

TEST(focused_against_uniform)
{
    const double x[2][1][2] = {{{1, 0}}, {{0.5, 0.5}}};
    struct attention a = map_of(x, DTYPE_F64, 2, 1, 2);
    expect_pair(&a, sqrt(0.5), 0.75 * log(4.0 / 3), 1);
}

/* The second row is no distribution in head 1, and the first differs: only it counts. */
TEST(only_rows_sound_in_both_count)
{
    const double x[2][2][2] = {{{1, 0}, {1, 0}}, {{0.5, 0.5}, {3, 0}}};
    struct attention a = map_of(x, DTYPE_F64, 2, 2, 2);
    expect_pair(&a, sqrt(0.5), 0.75 * log(4.0 / 3), 1);
}

TEST(excluded_keys_are_not_read)
{
    const double x[2][2][2] = {{{1, NAN}, {1, 0}}, {{1, 7}, {0.5, 0.5}}};
    struct attention a = map_of(x, DTYPE_F64, 2, 2, 2);
    a.causal = true;
    expect_pair(&a, 1.5 / (sqrt(2) * sqrt(1.5)), 0.75 * log(4.0 / 3) / 2, 2);
}

/* Dropout divides what it keeps: the divergence is of what the rows say, not of their sums. */
TEST(dropout_rows_are_compared_as_distributions)
{
    const double x[2][1][2] = {{{2, 0}}, {{0.75, 0.75}}};
    struct attention a = map_of(x, DTYPE_F64, 2, 1, 2);
    a.dropout = true;
    expect_pair(&a, sqrt(0.5), 0.75 * log(4.0 / 3), 1);
}

/* A sink's share says nothing about the keys; a row that it took whole has no divergence. */
TEST(rows_beside_a_learned_sink_are_compared_as_distributions)
{
    const double x[2][2][2] = {{{0.02, 0}, {0, 0}}, {{0.25, 0.25}, {0.5, 0}}};
    struct attention a = map_of(x, DTYPE_F64, 2, 2, 2);
    a.learned_sink = true;
    expect_pair(&a, 0.005 / (0.02 * sqrt(0.375)), 0.75 * log(4.0 / 3), 1);
}

TEST(a_row_that_dropout_emptied_has_no_divergence)
{
    const double x[2][2][2] = {{{0, 0}, {1, 0}}, {{0.5, 0.5}, {0.5, 0.5}}};
    struct attention a = map_of(x, DTYPE_F64, 2, 2, 2);
    a.dropout = true;
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        if (isa_available((enum isa)isa)) {
            struct similarity s = test_similarity_compute(&a, (enum isa)isa);
            double js[4];
            similarity_js(&s, js);
            assert_close(js[1], 0.75 * log(4.0 / 3), 1e-6);
            assert_int_equal(s.rows[1], 1);
            similarity_clear(&s);
        }
    }
}

TEST(without_a_sound_row_nothing_exists)
{
    const double x[2][1][2] = {{{1, 0}}, {{3, 0}}};
    struct attention a = map_of(x, DTYPE_F64, 2, 1, 2);
    OWNED(similarity_clear) struct similarity s = test_similarity_compute(&a, ISA_SCALAR);
    double cosine[4], js[4];
    similarity_cosine(&s, cosine);
    similarity_js(&s, js);
    assert_true(cosine[0] == 1 && js[0] == 0);
    for (int i = 1; i < 4; i++) {
        assert_nan(cosine[i]);
        assert_nan(js[i]);
    }
    assert_int_equal(similarity_redundant(&s, 1, 0, NULL), 0);
}

TEST(one_head)
{
    const double x[] = {1};
    struct attention a = map_of(x, DTYPE_F64, 1, 1, 1);
    OWNED(similarity_clear) struct similarity s = test_similarity_compute(&a, isa_best());
    double cosine, js;
    similarity_cosine(&s, &cosine);
    similarity_js(&s, &js);
    assert_true(cosine == 1 && js == 0);
    assert_int_equal(similarity_redundant(&s, 1, 0, NULL), 0);
}

#define HEADS 5
#define ROWS  40
#define KEYS  1500

static void test_similarity_fill(float *x, uint64_t *random)
{
    for (uint32_t row = 0; row < HEADS * ROWS; row++) {
        double sum = 0;
        for (uint32_t j = 0; j < KEYS; j++) {
            x[row * KEYS + j] = (float)(random_unit(random) * random_unit(random));
            sum += (double)x[row * KEYS + j];
        }
        for (uint32_t j = 0; j < KEYS; j++) {
            x[row * KEYS + j] = (float)((double)x[row * KEYS + j] / sum);
        }
    }
}

/* Rows longer than the stretch the fast path cuts them into. */
TEST(similarity_every_instruction_set_agrees_with_the_reference)
{
    float *x = malloc(sizeof(float) * HEADS * ROWS * KEYS);
    assert_non_null(x);
    uint64_t random = 7;
    test_similarity_fill(x, &random);
    struct attention a = map_of(x, DTYPE_F64, HEADS, ROWS, KEYS);
    a.dtype = DTYPE_F32;
    struct similarity want = test_similarity_compute(&a, ISA_SCALAR);
    for (int isa = ISA_PORTABLE; isa < ISA_COUNT; isa++) {
        if (!isa_available((enum isa)isa)) {
            continue;
        }
        struct similarity got = test_similarity_compute(&a, (enum isa)isa);
        for (uint32_t i = 0; i < HEADS * HEADS; i++) {
            assert_int_equal(got.rows[i], want.rows[i]);
            assert_close(got.js[i], want.js[i], 1e-5 * ROWS);
            assert_close(got.dot[i], want.dot[i], 1e-5 * want.dot[i]);
            assert_close(got.square[i], want.square[i], 1e-5 * want.square[i]);
        }
        similarity_clear(&got);
    }
    similarity_clear(&want);
    free(x);
}

TEST(similarity_blocks_merge_to_the_whole)
{
    const double x[2][3][2] = {{{1, 0}, {0.5, 0.5}, {0.25, 0.75}},
                               {{0, 1}, {0.5, 0.5}, {0.75, 0.25}}};
    struct attention a = map_of(x, DTYPE_F64, 2, 3, 2);
    struct similarity whole = test_similarity_compute(&a, ISA_SCALAR), parts[2];
    OWNED(scratch_clear) struct scratch scratch = {0};
    for (uint32_t p = 0; p < 2; p++) {
        assert_int_equal(similarity_init(&parts[p], 2), 0);
        int rc = similarity_compute(&parts[p], &a, p, p == 0 ? 1 : 3, ISA_SCALAR, &scratch);
        assert_int_equal(rc, 0);
    }
    similarity_merge(&parts[0], &parts[1]);
    for (uint32_t i = 0; i < 4; i++) {
        assert_close(parts[0].dot[i], whole.dot[i], 1e-15);
        assert_close(parts[0].square[i], whole.square[i], 1e-15);
        assert_close(parts[0].js[i], whole.js[i], 1e-15);
        assert_int_equal(parts[0].rows[i], whole.rows[i]);
    }
    similarity_clear(&whole);
    similarity_clear(&parts[0]);
    similarity_clear(&parts[1]);
}

/* Heads 0, 1 and 3 are one head, 2 is another. */
TEST(redundant_pairs_come_in_order)
{
    const double x[4][1][2] = {{{1, 0}}, {{1, 0}}, {{0.9, 0.1}}, {{1, 0}}};
    struct attention a = map_of(x, DTYPE_F64, 4, 1, 2);
    OWNED(similarity_clear) struct similarity s = test_similarity_compute(&a, ISA_SCALAR);
    struct redundant_pair pairs[4] = {{0}};
    assert_int_equal(similarity_redundant(&s, 1, 4, pairs), 6);
    const uint32_t want[4][2] = {{0, 1}, {0, 3}, {1, 3}, {0, 2}};
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(pairs[i].g, want[i][0]);
        assert_int_equal(pairs[i].h, want[i][1]);
    }
    assert_true(pairs[2].js == 0 && pairs[3].js > 0);
    assert_int_equal(similarity_redundant(&s, 1e-3, 4, pairs), 3);
    assert_int_equal(similarity_redundant(&s, 0, 4, pairs), 0);
}

TEST(similarity_out_of_memory_is_reported)
{
    struct similarity s;
    for (unsigned nth = 1; nth <= 4; nth++) {
        heap_fail_at(nth);
        assert_int_equal(similarity_init(&s, 3), ERR_MEMORY);
        assert_null(s.dot);
    }
    heap_fail_at(0);
    const double x[] = {1};
    struct attention a = map_of(x, DTYPE_F64, 1, 1, 1);
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        struct scratch scratch = {0};
        assert_int_equal(similarity_init(&s, 1), 0);
        heap_fail_at(1);
        assert_int_equal(similarity_compute(&s, &a, 0, 1, (enum isa)isa, &scratch), ERR_MEMORY);
        heap_fail_at(0);
        similarity_clear(&s);
    }
}

TEST(bytes_are_what_is_allocated)
{
    assert_int_equal(similarity_bytes(3), 9 * 32);
    assert_int_equal(similarity_bytes(100000), 10000000000u * 32);
}

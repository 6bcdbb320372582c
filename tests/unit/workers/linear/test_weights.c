/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"
#include "proto/err.h"
#include "tests/unit/heap.h"
#include "workers/linear/weights.h"

#define DIM 4 /* two heads of two, two kv heads unless said */

static struct projection_matrix weights_matrix_of(const double *data, uint32_t out, uint32_t in)
{
    return (struct projection_matrix){.data = data, .dtype = DTYPE_F64, .out = out, .in = in};
}

static struct weights two_heads(void)
{
    return (struct weights){.heads = 2, .kv_heads = 2, .head_dim = 2};
}

static struct weights_result test_weights_compute(const struct weights *w)
{
    OWNED(scratch_clear) struct scratch scratch = {0};
    struct weights_result result;
    assert_int_equal(weights_check(w), 0);
    assert_int_equal(weights_compute(w, &scratch, &result), 0);
    return result;
}

/* diag(4, 3, 2, 1) */
static const double graded[DIM * DIM] = {4, 0, 0, 0, 0, 3, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1};

TEST(a_diagonal_matrix_says_what_it_is)
{
    struct weights w = two_heads();
    w.matrix[PROJECTION_Q] = weights_matrix_of(graded, DIM, DIM);
    OWNED(weights_result_clear) struct weights_result r = test_weights_compute(&w);
    const struct projection_result *q = &r.projection[PROJECTION_Q];
    assert_true(q->present && q->heads == 2 && !r.projection[PROJECTION_K].present);
    assert_close(q->whole.spectral_norm, 4, 1e-9);
    assert_close(q->whole.condition_number, log10(4), 1e-9);
    assert_close(q->head[0].spectral_norm, 4, 1e-9);
    assert_close(q->head[1].spectral_norm, 2, 1e-9);
    assert_close(q->eigenvalue_max, 4, 1e-12);
    assert_close(q->eigenvalue_min, 1, 1e-12);
    assert_close(q->correlation_mean, 0, 1e-15);
    assert_null(r.circuit[CIRCUIT_QK]);
    assert_null(r.circuit[CIRCUIT_OV]);
}

/* A rotation has no real eigenvalue; the moduli are 1. */
TEST(complex_eigenvalues_count_by_modulus)
{
    const double turn[] = {0, -1, 1, 0};
    struct weights w = {.heads = 1, .kv_heads = 1, .head_dim = 2};
    w.matrix[PROJECTION_O] = weights_matrix_of(turn, 2, 2);
    OWNED(weights_result_clear) struct weights_result r = test_weights_compute(&w);
    assert_close(r.projection[PROJECTION_O].eigenvalue_min, 1, 1e-14);
    assert_close(r.projection[PROJECTION_O].eigenvalue_max, 1, 1e-14);
    assert_nan(r.projection[PROJECTION_O].correlation_mean); /* one head: no pairs */
    assert_true(r.projection[PROJECTION_O].correlation[0] == 1);
}

TEST(large_matrices_may_go_without_eigenvalues)
{
    struct weights w = two_heads();
    w.matrix[PROJECTION_Q] = weights_matrix_of(graded, DIM, DIM);
    for (w.eigenvalue_max_size = DIM - 1; w.eigenvalue_max_size <= DIM; w.eigenvalue_max_size++) {
        OWNED(weights_result_clear) struct weights_result r = test_weights_compute(&w);
        const struct projection_result *q = &r.projection[PROJECTION_Q];
        assert_true(isnan(q->eigenvalue_max) == (w.eigenvalue_max_size < DIM));
        assert_true(isnan(q->eigenvalue_min) == (w.eigenvalue_max_size < DIM));
        assert_close(q->whole.spectral_norm, 4, 1e-9);
    }
}

/* Head 1 is minus head 0: rows for W_q, columns for W_o. */
TEST(correlation_is_of_the_flattened_slices)
{
    const double rows[] = {1, 2, 3, 4, -1, -2, -3, -4}, columns[] = {1, 2, -1, -2, 3, 4, -3, -4};
    struct weights w = two_heads();
    w.matrix[PROJECTION_Q] = weights_matrix_of(rows, 4, 2);
    w.matrix[PROJECTION_O] = weights_matrix_of(columns, 2, 4);
    OWNED(weights_result_clear) struct weights_result r = test_weights_compute(&w);
    const enum projection both[] = {PROJECTION_Q, PROJECTION_O};
    for (int i = 0; i < 2; i++) {
        const struct projection_result *p = &r.projection[both[i]];
        assert_close(p->correlation[1], -1, 1e-15);
        assert_true(p->correlation[2] == p->correlation[1] && p->correlation[3] == 1);
        assert_close(p->correlation_mean, -1, 1e-15);
        assert_nan(p->eigenvalue_max);
        assert_close(p->head[0].spectral_norm, p->head[1].spectral_norm, 1e-9);
    }
}

/* With W_k = I the circuit is W_q's slice, transposed, on the head's own columns. */
TEST(the_circuit_is_the_product)
{
    const double identity[] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1};
    struct weights w = two_heads();
    w.matrix[PROJECTION_Q] = weights_matrix_of(graded, DIM, DIM);
    w.matrix[PROJECTION_K] = w.matrix[PROJECTION_V] = weights_matrix_of(identity, DIM, DIM);
    w.matrix[PROJECTION_O] = weights_matrix_of(graded, DIM, DIM);
    OWNED(weights_result_clear) struct weights_result r = test_weights_compute(&w);
    for (uint32_t c = 0; c < CIRCUIT_COUNT; c++) {
        const double want[2][2] = {{4, 3}, {2, 1}};
        for (uint32_t h = 0; h < 2; h++) {
            assert_close(r.circuit[c][h].singular_values[0], want[h][0], 1e-9);
            assert_close(r.circuit[c][h].singular_values[1], want[h][1], 1e-9);
            assert_nan(r.circuit[c][h].singular_values[2]);
            assert_true(r.circuit[c][h].rank == 2);
        }
    }
}

/* Four heads read two kv heads, of norms 1 and 5. */
TEST(heads_share_kv_heads_in_groups)
{
    const double q[] = {1, 1, 1, 1}, k[] = {1, 5};
    struct weights w = {.heads = 4, .kv_heads = 2, .head_dim = 1};
    w.matrix[PROJECTION_Q] = weights_matrix_of(q, 4, 1);
    w.matrix[PROJECTION_K] = weights_matrix_of(k, 2, 1);
    OWNED(weights_result_clear) struct weights_result r = test_weights_compute(&w);
    const double want[] = {1, 1, 5, 5};
    for (uint32_t h = 0; h < 4; h++) {
        assert_close(r.circuit[CIRCUIT_QK][h].spectral_norm, want[h], 1e-9);
    }
    assert_int_equal(r.projection[PROJECTION_K].heads, 2);
}

TEST(a_matrix_that_is_not_finite_has_no_numbers)
{
    double bad[DIM * DIM];
    memcpy(bad, graded, sizeof bad);
    bad[5] = INFINITY;
    struct weights w = two_heads();
    w.matrix[PROJECTION_Q] = weights_matrix_of(bad, DIM, DIM);
    w.matrix[PROJECTION_K] = weights_matrix_of(graded, DIM, DIM);
    OWNED(weights_result_clear) struct weights_result r = test_weights_compute(&w);
    const struct projection_result *q = &r.projection[PROJECTION_Q];
    assert_true(q->present);
    assert_nan(q->whole.spectral_norm);
    assert_nan(q->head[1].spectral_norm);
    assert_nan(q->correlation[0]);
    assert_nan(q->correlation_mean);
    assert_nan(q->eigenvalue_max);
    assert_nan(r.circuit[CIRCUIT_QK][0].spectral_norm);
    assert_close(r.projection[PROJECTION_K].whole.spectral_norm, 4, 1e-9);
}

TEST(a_head_of_zeros_correlates_with_none)
{
    const double rows[] = {1, 2, 3, 4, 0, 0, 0, 0};
    struct weights w = two_heads();
    w.matrix[PROJECTION_Q] = weights_matrix_of(rows, 4, 2);
    OWNED(weights_result_clear) struct weights_result r = test_weights_compute(&w);
    const struct projection_result *q = &r.projection[PROJECTION_Q];
    assert_true(q->correlation[0] == 1);
    assert_nan(q->correlation[1]);
    assert_nan(q->correlation[3]);
    assert_nan(q->correlation_mean);
}

/* f16 at an odd address. */
TEST(narrow_parameters_load_exactly)
{
    const uint16_t half[] = {0x3c00, 0, 0, 0x3800}; /* 1, 0, 0, 0.5 */
    unsigned char memory[sizeof half + 1];
    memcpy(memory + 1, half, sizeof half);
    struct weights w = {.heads = 1, .kv_heads = 1, .head_dim = 2};
    w.matrix[PROJECTION_V] =
        (struct projection_matrix){.data = memory + 1, .dtype = DTYPE_F16, .out = 2, .in = 2};
    OWNED(weights_result_clear) struct weights_result r = test_weights_compute(&w);
    const struct spectrum *s = &r.projection[PROJECTION_V].whole;
    assert_close(s->singular_values[0], 1, 1e-9);
    assert_close(s->singular_values[1], 0.5, 1e-9);
    assert_true(s->rank == 2);
}

static void weights_refuse(struct weights w, enum projection p, uint32_t out, uint32_t in)
{
    w.matrix[p] = weights_matrix_of(graded, out, in);
    assert_int_equal(weights_check(&w), ERR_SHAPE);
}

TEST(shapes_that_do_not_fit_are_refused)
{
    struct weights none = two_heads(), odd = two_heads(), grouped = two_heads();
    assert_int_equal(weights_check(&none), ERR_SHAPE);
    weights_refuse(two_heads(), PROJECTION_Q, 5, 4);
    weights_refuse(two_heads(), PROJECTION_O, 4, 5);
    weights_refuse(two_heads(), PROJECTION_V, 4, 0);
    odd.kv_heads = 3;
    weights_refuse(odd, PROJECTION_Q, 4, 4);
    grouped.kv_heads = 1;
    weights_refuse(grouped, PROJECTION_K, 4, 4);
    struct weights apart = two_heads();
    apart.matrix[PROJECTION_K] = weights_matrix_of(graded, 4, 4);
    weights_refuse(apart, PROJECTION_V, 4, 3);
    /* 2^17 heads of 2^15 would be 0 rows in 32 bits. */
    struct weights wraps = {.heads = 1u << 17, .kv_heads = 1, .head_dim = 1u << 15};
    weights_refuse(wraps, PROJECTION_Q, 1, 1);
}

/* Queries of a cross-attention come from states of another width. */
TEST(queries_may_be_wider_than_keys)
{
    struct weights w = two_heads();
    w.matrix[PROJECTION_Q] = weights_matrix_of(graded, 4, 4);
    w.matrix[PROJECTION_K] = weights_matrix_of(graded, 4, 1);
    OWNED(weights_result_clear) struct weights_result r = test_weights_compute(&w);
    assert_close(r.circuit[CIRCUIT_QK][0].spectral_norm, 16, 1e-7);
    assert_nan(r.circuit[CIRCUIT_QK][0].singular_values[1]);
}

TEST(out_of_memory_leaves_nothing)
{
    struct weights w = two_heads();
    for (uint32_t p = 0; p < PROJECTION_COUNT; p++) {
        w.matrix[p] = weights_matrix_of(graded, DIM, DIM);
    }
    unsigned nth = 0;
    int rc = ERR_MEMORY;
    while (rc == ERR_MEMORY) {
        struct scratch scratch = {0};
        struct weights_result r;
        heap_fail_at(++nth);
        rc = weights_compute(&w, &scratch, &r);
        heap_fail_at(0);
        scratch_clear(&scratch);
        if (rc == 0) {
            weights_result_clear(&r);
        } else {
            assert_null(r.projection[PROJECTION_Q].head);
        }
        assert_true(nth < 1000);
    }
    assert_int_equal(rc, 0);
    assert_true(nth > 20);
}

TEST(weights_too_large_for_lapack_is_out_of_memory)
{
    struct weights w = {.heads = 1, .kv_heads = 1, .head_dim = 1u << 30};
    w.matrix[PROJECTION_Q] = weights_matrix_of(graded, 1u << 30, 1);
    struct scratch scratch = {0};
    struct weights_result r;
    assert_int_equal(weights_check(&w), 0);
    assert_int_equal(weights_compute(&w, &scratch, &r), ERR_MEMORY);
}

static int weights_start(void **state)
{
    (void)state;
    spectrum_global_init();
    return 0;
}

int main(void)
{
    return unit_run(weights_start, NULL);
}

/* SPDX-License-Identifier: MIT */
#include "unit.h"
#include "err.h"
#include "heap.h"
#include "spectrum.h"

#include <pthread.h>
#include <string.h>

#define SIZE_MAX_TEST 40

static struct attention map_of(const void *weights, enum dtype dtype, uint32_t queries,
                               uint32_t keys)
{
    return (struct attention){.weights = weights,
                              .dtype = dtype,
                              .batch = 1,
                              .heads = 1,
                              .queries = queries,
                              .keys = keys};
}

static struct spectrum spectrum_of(const struct attention *a, uint32_t head)
{
    struct scratch scratch = {0};
    struct spectrum s;
    assert_int_equal(spectrum_compute_ref(a, 0, head, &scratch, &s), 0);
    scratch_clear(&scratch);
    return s;
}

static void assert_no_numbers(const struct spectrum *s)
{
    assert_nan(s->spectral_norm);
    assert_nan(s->condition_number);
    assert_nan(s->rank);
    assert_nan(s->effective_rank);
    assert_nan(s->singular_values[0]);
}

static void test_identity_has_ones(void **state)
{
    (void)state;
    static double x[SIZE_MAX_TEST * SIZE_MAX_TEST];
    for (uint32_t i = 0; i < SIZE_MAX_TEST; i++) {
        x[i * SIZE_MAX_TEST + i] = 1;
    }
    struct attention a = map_of(x, DTYPE_F64, SIZE_MAX_TEST, SIZE_MAX_TEST);
    struct spectrum s = spectrum_of(&a, 0);
    for (uint32_t i = 0; i < SINGULAR_VALUES_MAX; i++) {
        assert_close(s.singular_values[i], 1, 1e-14);
    }
    assert_close(s.condition_number, 0, 1e-14);
    assert_true(s.rank == SIZE_MAX_TEST && s.effective_rank == SIZE_MAX_TEST);
}

/* Uniform attention of T rows: one singular value, 1. */
static void test_uniform_has_rank_one(void **state)
{
    (void)state;
    static float x[32 * 32];
    for (uint32_t i = 0; i < 32 * 32; i++) {
        x[i] = 1.0f / 32;
    }
    struct attention a = map_of(x, DTYPE_F32, 32, 32);
    struct spectrum s = spectrum_of(&a, 0);
    assert_close(s.spectral_norm, 1, 1e-14);
    assert_true(s.rank == 1 && s.effective_rank == 1);
    assert_nan(s.condition_number); /* infinite */
}

static void test_first_token_attention_has_the_largest_norm(void **state)
{
    (void)state;
    static float x[16 * 16];
    for (uint32_t i = 0; i < 16; i++) {
        x[i * 16] = 1;
    }
    struct attention a = map_of(x, DTYPE_F32, 16, 16);
    assert_close(spectrum_of(&a, 0).spectral_norm, 4, 1e-14); /* sqrt(T) */
}

static void test_diagonal_gives_its_sorted_magnitudes(void **state)
{
    (void)state;
    const double x[] = {0.25, 0, 0, 0, 0, -1, 0, 0, 0, 0, 0.002, 0, 0, 0, 0, 0.5};
    struct attention a = map_of(x, DTYPE_F64, 4, 4);
    struct spectrum s = spectrum_of(&a, 0);
    const double want[] = {1, 0.5, 0.25, 0.002};
    for (uint32_t i = 0; i < 4; i++) {
        assert_close(s.singular_values[i], want[i], 1e-15);
    }
    assert_nan(s.singular_values[4]);
    assert_close(s.condition_number, log10(500), 1e-12);
    assert_true(s.rank == 4 && s.effective_rank == 3);
}

/* What counts as zero depends on how exactly the weights could be sent. */
static void test_rank_uses_the_eps_of_the_dtype(void **state)
{
    (void)state;
    const double twice[] = {1, 0, 0, 0x1p-30};
    const float single[] = {1, 0, 0, 0x1p-30f};
    struct attention a = map_of(twice, DTYPE_F64, 2, 2), b = map_of(single, DTYPE_F32, 2, 2);
    assert_true(spectrum_of(&a, 0).rank == 2);
    assert_true(spectrum_of(&b, 0).rank == 1);
    const uint16_t half[] = {0x3c00, 0, 0, 0x1400};  /* f16: 1, 2^-10 */
    const uint16_t brain[] = {0x3f80, 0, 0, 0x3c80}; /* bf16: 1, 2^-6 */
    struct attention c = map_of(half, DTYPE_F16, 2, 2), d = map_of(brain, DTYPE_BF16, 2, 2);
    assert_true(spectrum_of(&c, 0).rank == 1);
    assert_true(spectrum_of(&d, 0).rank == 1);
}

static void test_wide_and_tall_agree(void **state)
{
    (void)state;
    double wide[3 * 7], tall[7 * 3];
    uint64_t random = 5;
    for (uint32_t i = 0; i < 3; i++) {
        for (uint32_t j = 0; j < 7; j++) {
            wide[i * 7 + j] = tall[j * 3 + i] = random_unit(&random);
        }
    }
    struct attention a = map_of(wide, DTYPE_F64, 3, 7), b = map_of(tall, DTYPE_F64, 7, 3);
    struct spectrum s = spectrum_of(&a, 0), t = spectrum_of(&b, 0);
    for (uint32_t i = 0; i < 3; i++) {
        assert_close(s.singular_values[i], t.singular_values[i], 1e-14);
    }
    assert_nan(s.singular_values[3]);
    assert_true(s.rank == 3 && t.rank == 3);
}

/* Padding may hold anything, NaN too. */
static void test_only_the_valid_rectangle_counts(void **state)
{
    (void)state;
    const float x[] = {0, 3, NAN, 2, 0, NAN, NAN, NAN, NAN};
    const int32_t len[] = {2};
    struct attention a = map_of(x, DTYPE_F32, 3, 3);
    a.q_len = a.k_len = len;
    struct spectrum s = spectrum_of(&a, 0);
    assert_close(s.singular_values[0], 3, 1e-14);
    assert_close(s.singular_values[1], 2, 1e-14);
    assert_nan(s.singular_values[2]);
}

static void test_heads_are_told_apart(void **state)
{
    (void)state;
    const float x[] = {1, 0, 0, 1, 0, 5, 5, 0};
    struct attention a = map_of(x, DTYPE_F32, 2, 2);
    a.heads = 2;
    assert_close(spectrum_of(&a, 1).spectral_norm, 5, 1e-14);
}

static void test_not_finite_has_no_spectrum(void **state)
{
    (void)state;
    const double bad[] = {NAN, INFINITY};
    for (int i = 0; i < 2; i++) {
        double x[] = {1, 0, bad[i], 1};
        struct attention a = map_of(x, DTYPE_F64, 2, 2);
        struct spectrum s = spectrum_of(&a, 0);
        assert_no_numbers(&s);
    }
}

static void test_empty_has_no_spectrum(void **state)
{
    (void)state;
    const float x[] = {1};
    const int32_t none[] = {0};
    struct attention a = map_of(x, DTYPE_F32, 1, 1);
    a.k_len = none;
    struct spectrum s = spectrum_of(&a, 0);
    assert_no_numbers(&s);
}

static void test_all_zero_has_rank_zero(void **state)
{
    (void)state;
    const float x[4] = {0};
    struct attention a = map_of(x, DTYPE_F32, 2, 2);
    struct spectrum s = spectrum_of(&a, 0);
    assert_true(s.spectral_norm == 0 && s.rank == 0 && s.effective_rank == 0);
    assert_nan(s.condition_number);
}

static void test_one_by_one(void **state)
{
    (void)state;
    const float x[] = {1};
    struct attention a = map_of(x, DTYPE_F32, 1, 1);
    struct spectrum s = spectrum_of(&a, 0);
    assert_true(s.spectral_norm == 1 && s.rank == 1 && s.effective_rank == 1 &&
                s.condition_number == 0);
}

static void test_out_of_memory_is_reported(void **state)
{
    (void)state;
    const float x[] = {1, 0, 0, 1};
    struct attention a = map_of(x, DTYPE_F32, 2, 2);
    struct scratch scratch = {0};
    struct spectrum s = {.rank = 77};
    heap_fail_at(1);
    assert_int_equal(spectrum_compute_ref(&a, 0, 0, &scratch, &s), ERR_MEMORY);
    heap_fail_at(0);
    assert_true(s.rank == 77);
    assert_int_equal(spectrum_compute_ref(&a, 0, 0, &scratch, &s), 0);
    scratch_clear(&scratch);
}

#define THREADS 4
#define ROUNDS  5

struct worker {
    pthread_t thread;
    struct attention a;
    struct spectrum alone, together;
};

static void *compute_repeatedly(void *argument)
{
    struct worker *w = argument;
    struct scratch scratch = {0};
    for (int i = 0; i < ROUNDS && spectrum_compute_ref(&w->a, 0, 0, &scratch, &w->together) == 0;
         i++) {
    }
    scratch_clear(&scratch);
    return NULL;
}

/* LAPACK and its library are shared; the numbers are not. */
static void test_threads_do_not_disturb_each_other(void **state)
{
    (void)state;
    static double x[THREADS][96 * 96];
    struct worker w[THREADS];
    uint64_t random = 9;
    for (uint32_t t = 0; t < THREADS; t++) {
        for (uint32_t i = 0; i < 96 * 96; i++) {
            x[t][i] = random_unit(&random);
        }
        w[t].a = map_of(x[t], DTYPE_F64, 96, 96);
        w[t].alone = spectrum_of(&w[t].a, 0);
    }
    for (uint32_t t = 0; t < THREADS; t++) {
        assert_int_equal(pthread_create(&w[t].thread, NULL, compute_repeatedly, &w[t]), 0);
    }
    for (uint32_t t = 0; t < THREADS; t++) {
        assert_int_equal(pthread_join(w[t].thread, NULL), 0);
        assert_memory_equal(&w[t].alone, &w[t].together, sizeof w[t].alone);
    }
}

/* Refused before anything is read: the weights are not there. */
static void test_too_large_for_lapack_is_out_of_memory(void **state)
{
    (void)state;
    const uint32_t sizes[][2] = {
        {1, UINT32_MAX}, {UINT32_MAX, 1}, {INT32_MAX, INT32_MAX}, {1u << 27, 1u << 27}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct attention a = map_of(NULL, DTYPE_F32, sizes[i][0], sizes[i][1]);
        struct scratch scratch = {0};
        struct spectrum s;
        heap_fail_at(1);
        assert_int_equal(spectrum_compute_ref(&a, 0, 0, &scratch, &s), ERR_MEMORY);
        heap_fail_at(0);
    }
}

static int start(void **state)
{
    (void)state;
    spectrum_global_init();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_identity_has_ones),
        cmocka_unit_test(test_uniform_has_rank_one),
        cmocka_unit_test(test_first_token_attention_has_the_largest_norm),
        cmocka_unit_test(test_diagonal_gives_its_sorted_magnitudes),
        cmocka_unit_test(test_rank_uses_the_eps_of_the_dtype),
        cmocka_unit_test(test_wide_and_tall_agree),
        cmocka_unit_test(test_only_the_valid_rectangle_counts),
        cmocka_unit_test(test_heads_are_told_apart),
        cmocka_unit_test(test_not_finite_has_no_spectrum),
        cmocka_unit_test(test_empty_has_no_spectrum),
        cmocka_unit_test(test_all_zero_has_rank_zero),
        cmocka_unit_test(test_one_by_one),
        cmocka_unit_test(test_out_of_memory_is_reported),
        cmocka_unit_test(test_threads_do_not_disturb_each_other),
        cmocka_unit_test(test_too_large_for_lapack_is_out_of_memory),
    };
    return cmocka_run_group_tests_name("spectrum", tests, start, NULL);
}

/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"
#include "proto/err.h"
#include "tests/unit/heap.h"
#include "tests/unit/workers/map_of.h"
#include "workers/linear/spectrum.h"
#include "workers/linear/spectrum_kernel.h"

#include <pthread.h>

#define SIZE_MAX_TEST 40

static struct spectrum spectrum_of(const struct attention *a, uint32_t head)
{
    OWNED(scratch_clear) struct scratch scratch = {0};
    struct spectrum s;
    assert_int_equal(spectrum_compute_ref(a, 0, head, &scratch, &s), 0);
    return s;
}

static void assert_no_numbers(const struct spectrum *s)
{
    double all[sizeof *s / sizeof(double)];
    memcpy(all, s, sizeof all);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        assert_nan(all[i]);
    }
}

TEST(identity_has_ones)
{
    static double x[SIZE_MAX_TEST * SIZE_MAX_TEST];
    for (uint32_t i = 0; i < SIZE_MAX_TEST; i++) {
        x[i * SIZE_MAX_TEST + i] = 1;
    }
    struct attention a = map_of(x, DTYPE_F64, 1, SIZE_MAX_TEST, SIZE_MAX_TEST);
    struct spectrum s = spectrum_of(&a, 0);
    for (uint32_t i = 0; i < SINGULAR_VALUES_MAX; i++) {
        assert_close(s.singular_values[i], 1, 1e-14);
    }
    assert_close(s.condition_number, 0, 1e-14);
    assert_true(s.rank == SIZE_MAX_TEST && s.effective_rank == SIZE_MAX_TEST);
    assert_close(s.stable_rank, SIZE_MAX_TEST, 1e-12);
    assert_close(s.effective_rank_entropy, SIZE_MAX_TEST, 1e-12);
    assert_close(s.nuclear_norm, SIZE_MAX_TEST, 1e-12);
    assert_close(s.low_rank_error[1], sqrt(1 - 2.0 / SIZE_MAX_TEST), 1e-14);
    assert_close(s.eigenvalue_2, 1, 1e-14);
}

/* Uniform attention of T rows: one singular value, 1. */
TEST(uniform_has_rank_one)
{
    static float x[32 * 32];
    for (uint32_t i = 0; i < 32 * 32; i++) {
        x[i] = 1.0f / 32;
    }
    struct attention a = map_of(x, DTYPE_F32, 1, 32, 32);
    struct spectrum s = spectrum_of(&a, 0);
    assert_close(s.spectral_norm, 1, 1e-14);
    assert_true(s.rank == 1 && s.effective_rank == 1);
    assert_nan(s.condition_number); /* infinite */
    assert_close(s.stable_rank, 1, 1e-12);
    assert_close(s.effective_rank_entropy, 1, 1e-12);
    assert_close(s.low_rank_error[0], 0, 1e-14);
    assert_close(s.eigenvalue_2, 0, 1e-14);
}

TEST(first_token_attention_has_the_largest_norm)
{
    static float x[16 * 16];
    for (uint32_t i = 0; i < 16; i++) {
        x[i * 16] = 1;
    }
    struct attention a = map_of(x, DTYPE_F32, 1, 16, 16);
    assert_close(spectrum_of(&a, 0).spectral_norm, 4, 1e-14); /* sqrt(T) */
}

TEST(diagonal_gives_its_sorted_magnitudes)
{
    const double x[] = {0.25, 0, 0, 0, 0, -1, 0, 0, 0, 0, 0.002, 0, 0, 0, 0, 0.5};
    struct attention a = map_of(x, DTYPE_F64, 1, 4, 4);
    struct spectrum s = spectrum_of(&a, 0);
    const double want[] = {1, 0.5, 0.25, 0.002};
    for (uint32_t i = 0; i < 4; i++) {
        assert_close(s.singular_values[i], want[i], 1e-15);
    }
    assert_nan(s.singular_values[4]);
    assert_close(s.condition_number, log10(500), 1e-12);
    assert_true(s.rank == 4 && s.effective_rank == 3);
    assert_close(s.nuclear_norm, 1.752, 1e-14);
    assert_close(s.stable_rank, 1.312504, 1e-14);
    assert_close(s.low_rank_error[0], sqrt(0.312504 / 1.312504), 1e-14);
    assert_close(s.low_rank_error[1], sqrt(0.062504 / 1.312504), 1e-14);
    assert_true(s.low_rank_error[2] == 0 && s.low_rank_error[4] == 0);
    assert_close(s.eigenvalue_2, 0.5, 1e-15);
}

/* The bound of zero depends on whether more than f32 was sent. */
TEST(rank_uses_the_eps_of_the_dtype)
{
    const double twice[] = {1, 0, 0, 0x1p-30};
    const float single[] = {1, 0, 0, 0x1p-30f};
    struct attention a = map_of(twice, DTYPE_F64, 1, 2, 2), b = map_of(single, DTYPE_F32, 1, 2, 2);
    assert_true(spectrum_of(&a, 0).rank == 2);
    assert_true(spectrum_of(&b, 0).rank == 1);
    const uint16_t half[] = {0x3c00, 0, 0, 1};       /* f16: 1, 2^-24 */
    const uint16_t brain[] = {0x3f80, 0, 0, 0x3080}; /* bf16: 1, 2^-30 */
    struct attention c = map_of(half, DTYPE_F16, 1, 2, 2), d = map_of(brain, DTYPE_BF16, 1, 2, 2);
    assert_true(spectrum_of(&c, 0).rank == 1);
    assert_true(spectrum_of(&d, 0).rank == 1);
}

TEST(wide_and_tall_agree)
{
    double wide[3 * 7], tall[7 * 3];
    uint64_t random = 5;
    for (uint32_t i = 0; i < 3; i++) {
        for (uint32_t j = 0; j < 7; j++) {
            wide[i * 7 + j] = tall[j * 3 + i] = random_unit(&random);
        }
    }
    struct attention a = map_of(wide, DTYPE_F64, 1, 3, 7), b = map_of(tall, DTYPE_F64, 1, 7, 3);
    struct spectrum s = spectrum_of(&a, 0), t = spectrum_of(&b, 0);
    for (uint32_t i = 0; i < 3; i++) {
        assert_close(s.singular_values[i], t.singular_values[i], 1e-14);
    }
    assert_nan(s.singular_values[3]);
    assert_true(s.rank == 3 && t.rank == 3);
}

/* Padding may hold anything, NaN too. */
TEST(only_the_valid_rectangle_counts)
{
    const float x[] = {0, 3, NAN, 2, 0, NAN, NAN, NAN, NAN};
    const int32_t len[] = {2};
    struct attention a = map_of(x, DTYPE_F32, 1, 3, 3);
    a.q_len = a.k_len = len;
    struct spectrum s = spectrum_of(&a, 0);
    assert_close(s.singular_values[0], 3, 1e-14);
    assert_close(s.singular_values[1], 2, 1e-14);
    assert_nan(s.singular_values[2]);
}

TEST(heads_are_told_apart)
{
    const float x[] = {1, 0, 0, 1, 0, 5, 5, 0};
    struct attention a = map_of(x, DTYPE_F32, 1, 2, 2);
    a.heads = 2;
    assert_close(spectrum_of(&a, 1).spectral_norm, 5, 1e-14);
}

TEST(not_finite_has_no_spectrum)
{
    const double bad[] = {NAN, INFINITY};
    for (int i = 0; i < 2; i++) {
        double x[] = {1, 0, bad[i], 1};
        struct attention a = map_of(x, DTYPE_F64, 1, 2, 2);
        struct spectrum s = spectrum_of(&a, 0);
        assert_no_numbers(&s);
    }
}

TEST(empty_has_no_spectrum)
{
    const float x[] = {1};
    const int32_t none[] = {0};
    struct attention a = map_of(x, DTYPE_F32, 1, 1, 1);
    a.k_len = none;
    struct spectrum s = spectrum_of(&a, 0);
    assert_no_numbers(&s);
}

TEST(all_zero_has_rank_zero)
{
    const float x[4] = {0};
    struct attention a = map_of(x, DTYPE_F32, 1, 2, 2);
    struct spectrum s = spectrum_of(&a, 0);
    assert_true(s.spectral_norm == 0 && s.rank == 0 && s.effective_rank == 0);
    assert_true(s.nuclear_norm == 0 && s.singular_values[1] == 0 && s.eigenvalue_2 == 0);
    assert_nan(s.condition_number);
    assert_nan(s.stable_rank);
    assert_nan(s.effective_rank_entropy);
    assert_nan(s.low_rank_error[0]);
}

TEST(one_by_one)
{
    const float x[] = {1};
    struct attention a = map_of(x, DTYPE_F32, 1, 1, 1);
    struct spectrum s = spectrum_of(&a, 0);
    assert_true(s.spectral_norm == 1 && s.rank == 1 && s.effective_rank == 1 &&
                s.condition_number == 0);
    assert_true(s.stable_rank == 1 && s.nuclear_norm == 1 && s.low_rank_error[0] == 0);
    assert_nan(s.eigenvalue_2); /* there is one */
}

/* A turn by 1 radian, half as long, beside 0.1: a complex pair of modulus 0.5. */
TEST(eigenvalue_2_may_be_one_of_a_pair)
{
    const double c = 0.5 * cos(1), s = 0.5 * sin(1);
    const double x[] = {c, -s, 0, s, c, 0, 0, 0, 0.1};
    struct attention a = map_of(x, DTYPE_F64, 1, 3, 3);
    OWNED(scratch_clear) struct scratch scratch = {0};
    struct spectrum fast;
    assert_int_equal(spectrum_compute(&a, 0, 0, SPECTRUM_FULL, isa_best(), &scratch, &fast), 0);
    assert_close(fast.eigenvalue_2, 0.5, 1e-14);
    assert_close(spectrum_of(&a, 0).eigenvalue_2, 0.5, 1e-14);
}

TEST(eigenvalue_2_needs_a_square)
{
    const float x[] = {1, 0, 0, 1, 0, 0};
    struct attention a = map_of(x, DTYPE_F32, 1, 2, 3);
    assert_nan(spectrum_of(&a, 0).eigenvalue_2);
}

/* Maps of N x N on which one method or another has a hard time, each beyond the size that goes to
 * LAPACK at once. */
enum { N = 150 };
static float cells[N * N];
static const struct attention square = {
    .weights = cells, .dtype = DTYPE_F32, .batch = 1, .heads = 1, .queries = N, .keys = N};

static void fill_softmax(float *x, double sigma, uint64_t random)
{
    for (uint32_t i = 0; i < N; i++) {
        double row[N], sum = 0;
        for (uint32_t j = 0; j < N; j++) {
            sum += row[j] = exp(sigma * (random_unit(&random) - 0.5));
        }
        for (uint32_t j = 0; j < N; j++) {
            x[i * N + j] = (float)(row[j] / sum);
        }
    }
}

static void fill_mild(void)
{
    fill_softmax(cells, 3, 1);
}

static void fill_sharp(void)
{
    fill_softmax(cells, 40, 2);
}

static void fill_flat(void)
{
    fill_softmax(cells, 0.1, 3);
}

static void fill_uniform(void)
{
    fill_softmax(cells, 0, 4);
}

static void fill_zero(void)
{
    memset(cells, 0, N * N * sizeof *cells);
}

static void fill_identity(void)
{
    fill_zero();
    for (uint32_t i = 0; i < N; i++) {
        cells[i * N + i] = 1;
    }
}

/* 7 and N have no common divisor. */
static void fill_permutation(void)
{
    fill_zero();
    for (uint32_t i = 0; i < N; i++) {
        cells[i * N + i * 7 % N] = 1;
    }
}

static void fill_one_key(void)
{
    fill_zero();
    for (uint32_t i = 0; i < N; i++) {
        cells[i * N + 5] = 1;
    }
}

/* Makes every row sum to 1. */
static void normalise_rows(void)
{
    for (uint32_t i = 0; i < N; i++) {
        float sum = 0;
        for (uint32_t j = 0; j < N; j++) {
            sum += cells[i * N + j];
        }
        for (uint32_t j = 0; j < N; j++) {
            cells[i * N + j] /= sum;
        }
    }
}

static void fill_causal(void)
{
    fill_softmax(cells, 5, 6);
    for (uint32_t i = 0; i < N; i++) {
        memset(cells + i * N + i + 1, 0, (N - i - 1) * sizeof *cells);
    }
    normalise_rows();
}

/* Three equal documents: every value three times. */
static void fill_documents(void)
{
    static float block[N * N];
    fill_softmax(block, 6, 7);
    fill_zero();
    for (uint32_t i = 0; i < N; i++) {
        for (uint32_t j = 0; j < N / 3; j++) {
            cells[i * N + i / (N / 3) * (N / 3) + j] = block[i % (N / 3) * N + j];
        }
    }
    normalise_rows();
}

/* A sink: nearly everything on key 0, and a bulk far below. */
static void fill_sink(void)
{
    fill_softmax(cells, 3, 8);
    for (uint32_t i = 0; i < N; i++) {
        for (uint32_t j = 0; j < N; j++) {
            cells[i * N + j] *= 0.02f;
        }
        cells[i * N] += 0.98f;
    }
}

/* Values that fall by 1.6 from one to the next: soon below what f32 can tell apart in A^T A. */
static void fill_steep(void)
{
    for (uint32_t i = 0; i < N; i++) {
        for (uint32_t j = 0; j < N; j++) {
            double distance = ((double)i - (double)j) / 60;
            cells[i * N + j] = (float)exp(-distance * distance);
        }
    }
}

/* 2 larger than the others, where a spectrum_start along the sums does not see it. */
static void fill_hidden(void)
{
    fill_identity();
    cells[0] = cells[N + 1] = 1.25f;
    cells[1] = cells[N] = -0.25f;
}

static const struct {
    const char *name;
    void (*fill)(void);
} hard[] = {
    {"mild", fill_mild},       {"sharp", fill_sharp},
    {"flat", fill_flat},       {"uniform", fill_uniform},
    {"zero", fill_zero},       {"identity", fill_identity},
    {"one key", fill_one_key}, {"permutation", fill_permutation},
    {"causal", fill_causal},   {"documents", fill_documents},
    {"sink", fill_sink},       {"steep", fill_steep},
    {"hidden", fill_hidden},
};
enum { HARD_COUNT = sizeof hard / sizeof hard[0] };

static struct spectrum test_spectrum_compute(const struct attention *a, enum spectrum_effort effort)
{
    OWNED(scratch_clear) struct scratch scratch = {0};
    struct spectrum s;
    assert_int_equal(spectrum_compute(a, 0, 0, effort, isa_best(), &scratch, &s), 0);
    return s;
}

static void near(const char *map, const char *what, double got, double want, double tolerance)
{
    if (isnan(want) ? !isnan(got) : !(fabs(got - want) <= tolerance)) {
        fail_msg("%s: %s: got %.17g, want %.17g, tolerance %g", map, what, got, want, tolerance);
    }
}

TEST(norm_agrees_with_the_reference)
{
    for (int i = 0; i < HARD_COUNT; i++) {
        hard[i].fill();
        struct spectrum want = spectrum_of(&square, 0),
                        got = test_spectrum_compute(&square, SPECTRUM_NORM);
        double s1 = want.spectral_norm, stable = want.stable_rank;
        near(hard[i].name, "spectral_norm", got.spectral_norm, s1, 1e-4 * s1);
        near(hard[i].name, "stable_rank", got.stable_rank, stable, 2e-4 * fabs(stable));
        assert_nan(got.singular_values[0]);
        assert_nan(got.nuclear_norm);
    }
}

TEST(leading_values_agree_with_the_reference)
{
    for (int i = 0; i < HARD_COUNT; i++) {
        hard[i].fill();
        struct spectrum want = spectrum_of(&square, 0),
                        got = test_spectrum_compute(&square, SPECTRUM_LEADING);
        for (uint32_t k = 0; k < SINGULAR_VALUES_MAX; k++) {
            double s = want.singular_values[k];
            near(hard[i].name, "value", got.singular_values[k], s,
                 fmax(1e-3 * s, 5e-5 * want.spectral_norm));
        }
        for (uint32_t k = 0; k < LOW_RANK_COUNT; k++) {
            near(hard[i].name, "low_rank_error", got.low_rank_error[k], want.low_rank_error[k],
                 3e-3);
        }
        assert_nan(got.rank);
    }
}

TEST(all_values_agree_with_the_reference)
{
    for (int i = 0; i < HARD_COUNT; i++) {
        const char *name = hard[i].name;
        hard[i].fill();
        struct spectrum want = spectrum_of(&square, 0),
                        got = test_spectrum_compute(&square, SPECTRUM_EIGENVALUES);
        double error = (double)N * 0x1p-24 * want.spectral_norm;
        for (uint32_t k = 0; k < SINGULAR_VALUES_MAX; k++) {
            near(name, "value", got.singular_values[k], want.singular_values[k], error);
        }
        near(name, "nuclear_norm", got.nuclear_norm, want.nuclear_norm, (double)N * error);
        near(name, "rank", got.rank, want.rank, 0);
        near(name, "effective_rank", got.effective_rank, want.effective_rank, 0);
        near(name, "condition_number", got.condition_number, want.condition_number, 1e-3);
        near(name, "entropy", got.effective_rank_entropy, want.effective_rank_entropy,
             1e-3 * want.effective_rank_entropy);
        near(name, "eigenvalue_2", got.eigenvalue_2, want.eigenvalue_2, 1e-12);
    }
}

TEST(every_dtype_gives_the_same_numbers)
{
    static double wide[N * N];
    static uint16_t brain[N * N];
    fill_mild();
    for (uint32_t i = 0; i < N * N; i++) {
        uint32_t bits;
        memcpy(&bits, &cells[i], sizeof bits);
        brain[i] = (uint16_t)(bits >> 16);
        bits &= 0xffff0000;
        memcpy(&cells[i], &bits, sizeof bits);
        wide[i] = (double)cells[i];
    }
    struct attention f64 = map_of(wide, DTYPE_F64, 1, N, N),
                     bf16 = map_of(brain, DTYPE_BF16, 1, N, N);
    struct spectrum want = test_spectrum_compute(&square, SPECTRUM_LEADING);
    struct spectrum a = test_spectrum_compute(&f64, SPECTRUM_LEADING),
                    b = test_spectrum_compute(&bf16, SPECTRUM_LEADING);
    assert_memory_equal(&a, &want, sizeof want);
    assert_memory_equal(&b, &want, sizeof want);
    assert_close(test_spectrum_compute(&bf16, SPECTRUM_FULL).nuclear_norm,
                 spectrum_of(&f64, 0).nuclear_norm, 1e-3);
}

TEST(wide_and_tall_maps_agree_at_every_effort)
{
    static float wide[140 * 200], tall[200 * 140];
    uint64_t random = 12;
    for (uint32_t i = 0; i < 140; i++) {
        for (uint32_t j = 0; j < 200; j++) {
            wide[i * 200 + j] = tall[j * 140 + i] = (float)random_unit(&random);
        }
    }
    struct attention a = map_of(wide, DTYPE_F32, 1, 140, 200),
                     b = map_of(tall, DTYPE_F32, 1, 200, 140);
    struct spectrum want = spectrum_of(&a, 0);
    for (enum spectrum_effort effort = SPECTRUM_NORM; effort <= SPECTRUM_EIGENVALUES; effort++) {
        struct spectrum s = test_spectrum_compute(&a, effort),
                        t = test_spectrum_compute(&b, effort);
        assert_close(s.spectral_norm, want.spectral_norm, 1e-4 * want.spectral_norm);
        assert_close(t.stable_rank, want.stable_rank, 2e-4 * want.stable_rank);
    }
}

TEST(only_the_valid_rectangle_counts_at_every_effort)
{
    static float padded[(N + 3) * (N + 5)];
    const int32_t rows[] = {N}, columns[] = {N};
    fill_mild();
    for (uint32_t i = 0; i < (N + 3) * (N + 5); i++) {
        padded[i] = NAN;
    }
    for (uint32_t i = 0; i < N; i++) {
        memcpy(padded + i * (N + 5), cells + i * N, N * sizeof *cells);
    }
    struct attention b = map_of(padded, DTYPE_F32, 1, N + 3, N + 5);
    b.q_len = rows;
    b.k_len = columns;
    for (enum spectrum_effort effort = SPECTRUM_NORM; effort <= SPECTRUM_EIGENVALUES; effort++) {
        struct spectrum s = test_spectrum_compute(&square, effort),
                        t = test_spectrum_compute(&b, effort);
        assert_memory_equal(&s, &t, sizeof s);
    }
}

TEST(not_finite_has_no_spectrum_at_any_effort)
{
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        fill_mild();
        cells[N * N - 2] = bad[i];
        for (enum spectrum_effort effort = SPECTRUM_NORM; effort <= SPECTRUM_EIGENVALUES;
             effort++) {
            struct spectrum s = test_spectrum_compute(&square, effort);
            assert_no_numbers(&s);
        }
    }
}

/* A power of two changes nothing but the unit, over the whole range of f64. */
TEST(scale_is_exact)
{
    static double scaled[N * N];
    const int exponents[] = {-1060, -1000, -200, 100, 1020};
    fill_mild();
    struct attention b = map_of(scaled, DTYPE_F64, 1, N, N);
    struct spectrum want = test_spectrum_compute(&square, SPECTRUM_LEADING);
    for (int e = 0; e < 5; e++) {
        for (uint32_t i = 0; i < N * N; i++) {
            scaled[i] = ldexp((double)cells[i], exponents[e]);
        }
        struct spectrum got = test_spectrum_compute(&b, SPECTRUM_LEADING);
        assert_close(ldexp(got.spectral_norm, -exponents[e]), want.spectral_norm, 1e-3);
        assert_close(got.stable_rank, want.stable_rank, 2e-3);
        assert_close(got.low_rank_error[2], want.low_rank_error[2], 2e-3);
    }
}

TEST(row_stochastic_maps_have_a_norm_from_1_to_sqrt_n)
{
    void (*const fill[])(void) = {fill_mild, fill_sharp,  fill_uniform,  fill_one_key,
                                  fill_sink, fill_causal, fill_documents};
    for (int i = 0; i < 7; i++) {
        fill[i]();
        double s1 = test_spectrum_compute(&square, SPECTRUM_NORM).spectral_norm;
        assert_true(s1 >= 1 - 1e-4 && s1 <= sqrt(N) * (1 + 1e-4));
    }
}

TEST(eigenvalues_of_a_causal_map_are_its_diagonal)
{
    fill_causal();
    double second = 0;
    for (uint32_t i = 1; i < N; i++) { /* the first row is 1 */
        second = fmax(second, (double)cells[i * N + i]);
    }
    assert_true(test_spectrum_compute(&square, SPECTRUM_FULL).eigenvalue_2 == second);
}

static void fill_random(uint64_t seed)
{
    for (uint32_t i = 0; i < N * N; i++) {
        cells[i] = (float)random_unit(&seed);
    }
}

/* Everything but what would take most of the time. */
TEST(full_leaves_slow_eigenvalues_out)
{
    fill_random(5);
    struct spectrum full = test_spectrum_compute(&square, SPECTRUM_FULL),
                    all = test_spectrum_compute(&square, SPECTRUM_EIGENVALUES);
    assert_nan(full.eigenvalue_2);
    assert_true(all.eigenvalue_2 > 0);
    full.eigenvalue_2 = all.eigenvalue_2;
    assert_memory_equal(&full, &all, sizeof full);
}

static struct spectrum spectrum_by(const struct attention *a, enum isa isa)
{
    OWNED(scratch_clear) struct scratch scratch = {0};
    struct spectrum s;
    assert_int_equal(spectrum_compute(a, 0, 0, SPECTRUM_FULL, isa, &scratch, &s), 0);
    return s;
}

/* The portable passes round twice where the others fuse: the same in all bits is the same passes.
 */
TEST(the_instruction_set_is_the_callers_choice)
{
    fill_random(6);
    struct spectrum truth = spectrum_of(&square, 0), portable = spectrum_by(&square, ISA_PORTABLE);
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        if (isa_available((enum isa)isa)) {
            struct spectrum s = spectrum_by(&square, (enum isa)isa);
            assert_close(s.nuclear_norm / truth.nuclear_norm, 1, 1e-5);
            bool same =
                memcmp(s.singular_values, portable.singular_values, sizeof s.singular_values) == 0;
            assert_int_equal(same, isa <= ISA_PORTABLE);
        }
    }
}

TEST(a_matrix_has_no_eigenvalue_2)
{
    const double x[] = {3, 0, 9, 0, 4, 9};
    struct matrix m = {x, DTYPE_F64, 2, 2, 3};
    OWNED(scratch_clear) struct scratch scratch = {0};
    struct spectrum s;
    assert_int_equal(
        spectrum_of_matrix(&m, spectrum_eps(DTYPE_F64), SPECTRUM_FULL, isa_best(), &scratch, &s),
        0);
    assert_close(s.spectral_norm, 4, 1e-15);
    assert_close(s.nuclear_norm, 7, 1e-15);
    assert_nan(s.eigenvalue_2);
}

TEST(out_of_memory_is_reported_at_every_effort)
{
    fill_steep(); /* leading values take a second method */
    for (enum spectrum_effort effort = SPECTRUM_NORM; effort <= SPECTRUM_EIGENVALUES; effort++) {
        struct spectrum s = {.rank = 77};
        int rc = ERR_MEMORY;
        for (unsigned nth = 1; rc == ERR_MEMORY; nth++) {
            OWNED(scratch_clear) struct scratch scratch = {0};
            heap_fail_at(nth);
            rc = spectrum_compute(&square, 0, 0, effort, isa_best(), &scratch, &s);
            assert_true(rc == 0 || (rc == ERR_MEMORY && s.rank == 77));
            assert_true(rc == 0 || heap_has_failed());
            heap_fail_at(0);
        }
        assert_int_equal(rc, 0);
    }
}

#define KERNEL_LENGTH 48
#define KERNEL_COUNT  11

struct kernel_data {
    _Alignas(64) float a[KERNEL_COUNT * KERNEL_LENGTH];
    _Alignas(64) float u[KERNEL_LENGTH], old_u[KERNEL_LENGTH], old_x[KERNEL_LENGTH];
    _Alignas(64) float w[KERNEL_LENGTH], y[KERNEL_COUNT], v[KERNEL_COUNT];
};

static void fill_kernel_data(struct kernel_data *d, uint32_t step)
{
    uint64_t random = 3;
    for (uint32_t i = 0; i < KERNEL_COUNT * KERNEL_LENGTH; i++) {
        d->a[i] = (float)random_unit(&random) - 0.5f;
    }
    for (uint32_t i = 0; i < KERNEL_LENGTH; i++) {
        bool below = i >= step;
        d->u[i] = below ? (float)random_unit(&random) - 0.5f : 0;
        d->old_u[i] = below ? (float)random_unit(&random) - 0.5f : 0;
        d->old_x[i] = below ? (float)random_unit(&random) - 0.5f : 0;
    }
    for (uint32_t j = 0; j < KERNEL_COUNT; j++) {
        d->y[j] = (float)random_unit(&random) - 0.5f;
        d->v[j] = (float)random_unit(&random) - 0.5f;
    }
}

/* The formulas of spectrum_kernel.h, entry by entry. */
static void step_plainly(struct kernel_data *d, uint32_t step, float tau)
{
    memset(d->w, 0, sizeof d->w);
    for (uint32_t j = step + 1; j < KERNEL_COUNT; j++) {
        float *a = d->a + j * KERNEL_LENGTH, product = 0;
        for (uint32_t i = step; i < KERNEL_LENGTH; i++) {
            a[i] -= d->y[j] * d->old_u[i] + d->v[j] * d->old_x[i];
            product += a[i] * d->u[i];
        }
        d->y[j] = tau * product;
        d->v[j] = a[step] - d->y[j];
        for (uint32_t i = step; i < KERNEL_LENGTH; i++) {
            d->w[i] += d->v[j] * a[i];
        }
    }
}

static void assert_arrays_close(const float *got, const float *want, uint32_t from, uint32_t n)
{
    for (uint32_t i = from; i < n; i++) {
        assert_close((double)got[i], (double)want[i], 1e-5);
    }
}

static void check_step(const struct spectrum_kernels *kernel, uint32_t step)
{
    static struct kernel_data got, want;
    fill_kernel_data(&got, step);
    fill_kernel_data(&want, step);
    struct spectrum_vectors a = {got.a, KERNEL_LENGTH, KERNEL_LENGTH, KERNEL_COUNT};
    kernel->step(&a, &(struct spectrum_step){.step = step,
                                             .tau = 1.5f,
                                             .old_u = got.old_u,
                                             .old_x = got.old_x,
                                             .old_y = got.y,
                                             .old_v = got.v,
                                             .u = got.u,
                                             .ret_y = got.y,
                                             .ret_row = got.v,
                                             .ret_w = got.w});
    step_plainly(&want, step, 1.5f);
    assert_arrays_close(got.y, want.y, step + 1, KERNEL_COUNT);
    assert_arrays_close(got.v, want.v, step + 1, KERNEL_COUNT);
    assert_arrays_close(got.w, want.w, step, KERNEL_LENGTH);
    assert_arrays_close(got.a, want.a, 0, KERNEL_COUNT * KERNEL_LENGTH);
}

static void check_gram(const struct spectrum_kernels *kernel, uint32_t count)
{
    static struct kernel_data d;
    _Alignas(64) float z[KERNEL_LENGTH], want[KERNEL_LENGTH] = {0};
    fill_kernel_data(&d, 0);
    struct spectrum_vectors a = {d.a, KERNEL_LENGTH, KERNEL_LENGTH, count};
    kernel->gram(&a, d.u, z);
    for (uint32_t i = 0; i < count; i++) {
        float product = 0;
        for (uint32_t j = 0; j < KERNEL_LENGTH; j++) {
            product += d.a[i * KERNEL_LENGTH + j] * d.u[j];
        }
        for (uint32_t j = 0; j < KERNEL_LENGTH; j++) {
            want[j] += product * d.a[i * KERNEL_LENGTH + j];
        }
    }
    assert_arrays_close(z, want, 0, KERNEL_LENGTH);
}

TEST(every_instruction_set_follows_the_formulas)
{
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        const struct spectrum_kernels *kernel = kernels_or_portable((enum isa)isa)->spectrum;
        for (uint32_t n = 0; n < KERNEL_COUNT; n++) {
            check_step(kernel, n);
            check_gram(kernel, n + 1);
        }
    }
}

TEST(spectrum_out_of_memory_is_reported)
{
    const float x[] = {1, 0, 0, 1};
    struct attention a = map_of(x, DTYPE_F32, 1, 2, 2);
    OWNED(scratch_clear) struct scratch scratch = {0};
    struct spectrum s = {.rank = 77};
    heap_fail_at(1);
    assert_int_equal(spectrum_compute_ref(&a, 0, 0, &scratch, &s), ERR_MEMORY);
    heap_fail_at(0);
    assert_true(s.rank == 77);
    assert_int_equal(spectrum_compute_ref(&a, 0, 0, &scratch, &s), 0);
}

#define THREADS 4
#define ROUNDS  5

struct worker {
    pthread_t thread;
    struct attention a;
    enum spectrum_effort effort;
    struct spectrum alone, together;
};

static void *compute_repeatedly(void *argument)
{
    struct worker *w = argument;
    struct scratch scratch = {0};
    for (int i = 0; i < ROUNDS; i++) {
        if (spectrum_compute(&w->a, 0, 0, w->effort, isa_best(), &scratch, &w->together) < 0) {
            break;
        }
    }
    scratch_clear(&scratch);
    return NULL;
}

/* LAPACK and its library are shared; the numbers are not. */
TEST(threads_do_not_disturb_each_other)
{
    static double x[THREADS][N * N];
    static float y[THREADS][N * N];
    struct worker w[THREADS];
    uint64_t random = 9;
    for (uint32_t t = 0; t < THREADS; t++) {
        for (uint32_t i = 0; i < N * N; i++) {
            x[t][i] = random_unit(&random);
            y[t][i] = (float)x[t][i];
        }
        w[t].a = t == 0 ? map_of(x[t], DTYPE_F64, 1, N, N) : map_of(y[t], DTYPE_F32, 1, N, N);
        w[t].effort = t < 2 ? SPECTRUM_FULL : t == 2 ? SPECTRUM_LEADING : SPECTRUM_NORM;
        w[t].alone = test_spectrum_compute(&w[t].a, w[t].effort);
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
TEST(spectrum_too_large_for_lapack_is_out_of_memory)
{
    const uint32_t sizes[][2] = {
        {1, UINT32_MAX}, {UINT32_MAX, 1}, {INT32_MAX, INT32_MAX}, {1u << 27, 1u << 27}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const float nothing = 0; /* never read */
        struct attention a = map_of(&nothing, DTYPE_F32, 1, sizes[i][0], sizes[i][1]);
        struct scratch scratch = {0};
        struct spectrum s;
        heap_fail_at(1);
        assert_int_equal(spectrum_compute_ref(&a, 0, 0, &scratch, &s), ERR_MEMORY);
        heap_fail_at(1);
        assert_int_equal(spectrum_compute(&a, 0, 0, SPECTRUM_FULL, isa_best(), &scratch, &s),
                         ERR_MEMORY);
        heap_fail_at(1);
        assert_int_equal(spectrum_compute(&a, 0, 0, SPECTRUM_NORM, isa_best(), &scratch, &s),
                         ERR_MEMORY);
        heap_fail_at(0);
    }
}

static int spectrum_start(void **state)
{
    (void)state;
    spectrum_global_init();
    return 0;
}

int main(void)
{
    return unit_run(spectrum_start, NULL);
}

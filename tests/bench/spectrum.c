/* SPDX-License-Identifier: MIT */
/* How fast spectra are, against LAPACK's sgesdd without vectors on the same matrix.
 *
 * Softmax maps of [n][n] f32, one thread. Both run in pairs, one after the other; a line has the
 * median time, the median of the pairs' ratios, and the largest relative error against dgesdd: of
 * spectral_norm, stable_rank and the leading values, with "full" also of every value above 0.01 s1.
 *
 *   spectrum [PAIRS [N...]] */
#include "tests/bench/bench.h"
#include "workers/linear/spectrum.h"
#include "workers/linear/spectrum_internal.h"

#include <lapacke.h>
#include <math.h>
#include <string.h>

enum { PAIRS_MAX = 99 };

/* Standard deviation of the logits, and how far their keys are masked. */
static const struct map_kind {
    const char *name;
    double sigma;
    bool causal;
} kinds[] = {{"softmax", 1, false}, {"sharp", 4, false}, {"flat", 0.2, false}, {"causal", 1, true}};

static const struct {
    const char *name;
    enum spectrum_effort effort;
} efforts[] = {{"norm", SPECTRUM_NORM}, {"leading", SPECTRUM_LEADING}, {"full", SPECTRUM_FULL}};

static double spectrum_random_normal(uint32_t *random)
{
    double sum = -6;
    for (int i = 0; i < 12; i++) {
        *random = *random * 1664525u + 1013904223u;
        sum += (*random >> 8) * 0x1p-24;
    }
    return sum;
}

static void spectrum_fill(float *map, uint32_t n, const struct map_kind *kind)
{
    uint32_t random = 1;
    for (size_t i = 0; i < n; i++) {
        size_t keys = kind->causal ? i + 1 : n;
        double sum = 0;
        memset(map + i * n, 0, n * sizeof *map);
        for (size_t j = 0; j < keys; j++) {
            map[i * n + j] = (float)exp(kind->sigma * spectrum_random_normal(&random));
            sum += (double)map[i * n + j];
        }
        for (size_t j = 0; j < keys; j++) {
            map[i * n + j] = (float)((double)map[i * n + j] / sum);
        }
    }
}

struct bench {
    uint32_t n;
    float *map, *copy, *values;
    struct spectrum truth;
    double *all; /* [n] true values */
    struct scratch scratch;
    double ours[PAIRS_MAX], theirs[PAIRS_MAX], ratio[PAIRS_MAX];
};

static double time_sgesdd(struct bench *b)
{
    lapack_int n = (lapack_int)b->n;
    float unused;
    memcpy(b->copy, b->map, (size_t)b->n * b->n * sizeof *b->map);
    double start = bench_seconds(CLOCK_MONOTONIC);
    LAPACKE_sgesdd(LAPACK_COL_MAJOR, 'N', n, n, b->copy, n, b->values, &unused, 1, &unused, 1);
    return bench_seconds(CLOCK_MONOTONIC) - start;
}

static struct matrix spectrum_matrix_of(const struct bench *b)
{
    return (struct matrix){b->map, DTYPE_F32, b->n, b->n, b->n};
}

static double time_ours(struct bench *b, enum spectrum_effort effort, struct spectrum *ret)
{
    struct matrix m = spectrum_matrix_of(b);
    double start = bench_seconds(CLOCK_MONOTONIC);
    bench_must(
        spectrum_of_matrix(&m, spectrum_eps(DTYPE_F32), effort, isa_best(), &b->scratch, ret) == 0,
        "out of memory");
    return bench_seconds(CLOCK_MONOTONIC) - start;
}

/* The larger one of this error and `error`; NaN, once it is NaN. */
static double larger_error(double error, double got, double want)
{
    double relative = fabs(got / want - 1);
    return isnan(error) || error >= relative ? error : relative;
}

static double largest_error(const struct spectrum *got, const struct spectrum *want,
                            enum spectrum_effort effort)
{
    double error = larger_error(0, got->spectral_norm, want->spectral_norm);
    error = larger_error(error, got->stable_rank, want->stable_rank);
    for (uint32_t i = 0; effort != SPECTRUM_NORM && i < SINGULAR_VALUES_MAX; i++) {
        error = larger_error(error, got->singular_values[i], want->singular_values[i]);
    }
    return error;
}

/* This error, or that of a value above 0.01 s1 of the method behind SPECTRUM_FULL. */
static double largest_error_of_all(struct bench *b, double error)
{
    struct matrix m = spectrum_matrix_of(b);
    struct singular_values v = {0};
    int rc = bidiagonal_values(&m, kernels_or_portable(isa_best())->spectrum, &b->scratch, &v);
    bench_must(rc == 0 && v.value, "out of memory");
    for (uint32_t i = 0; i < v.count && b->all[i] > 0.01 * b->all[0]; i++) {
        error = larger_error(error, v.value[i] * v.unit, b->all[i]);
    }
    return error;
}

static void find_truth(struct bench *b)
{
    struct matrix m = spectrum_matrix_of(b);
    struct singular_values v = {0};
    int rc = lapack_values(&m, &b->scratch, &v);
    bench_must(rc == 0 && v.value, "out of memory");
    memcpy(b->all, v.value, b->n * sizeof *b->all);
    struct attention a = {.weights = b->map, .dtype = DTYPE_F32, .batch = 1, .heads = 1};
    a.queries = a.keys = b->n;
    bench_must(spectrum_compute_ref(&a, 0, 0, &b->scratch, &b->truth) == 0, "out of memory");
}

static void spectrum_run(struct bench *b, const struct map_kind *kind, int pairs)
{
    for (size_t e = 0; e < sizeof efforts / sizeof efforts[0]; e++) {
        struct spectrum got;
        for (int i = 0; i < pairs; i++) {
            b->ours[i] = time_ours(b, efforts[e].effort, &got);
            b->theirs[i] = time_sgesdd(b);
            b->ratio[i] = b->theirs[i] / b->ours[i];
        }
        double error = largest_error(&got, &b->truth, efforts[e].effort);
        if (efforts[e].effort == SPECTRUM_FULL) {
            error = largest_error_of_all(b, error);
        }
        printf("{\"bench\":\"spectrum\",\"map\":\"%s\",\"n\":%u,\"effort\":\"%s\",\"ms\":%.3f,"
               "\"sgesdd_ms\":%.3f,\"ratio\":%.2f,\"error\":%.1e}\n",
               kind->name, b->n, efforts[e].name, 1e3 * bench_median(b->ours, (size_t)pairs),
               1e3 * bench_median(b->theirs, (size_t)pairs), bench_median(b->ratio, (size_t)pairs),
               error);
        fflush(stdout);
    }
}

static void bench_size(uint32_t n, int pairs)
{
    struct bench b = {.n = n};
    size_t bytes = (size_t)n * n * sizeof(float);
    b.map = bench_have(malloc(bytes));
    b.copy = bench_have(malloc(bytes));
    b.values = bench_have(malloc(n * sizeof(float)));
    b.all = bench_have(malloc(n * sizeof(double)));
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        spectrum_fill(b.map, n, &kinds[k]);
        find_truth(&b);
        spectrum_run(&b, &kinds[k], pairs);
    }
    free(b.map);
    free(b.copy);
    free(b.values);
    free(b.all);
    scratch_clear(&b.scratch);
}

int main(int argc, char **argv)
{
    int pairs = argc > 1 ? atoi(argv[1]) : 7;
    if (pairs < 1 || pairs > PAIRS_MAX) {
        fprintf(stderr, "usage: spectrum [PAIRS [N...]]\n");
        return 1;
    }
    spectrum_global_init();
    for (int i = 2; i < argc; i++) {
        bench_size((uint32_t)atoi(argv[i]), pairs);
    }
    if (argc <= 2) {
        bench_size(512, pairs);
        bench_size(1024, pairs);
    }
    return 0;
}

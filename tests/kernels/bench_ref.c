/* SPDX-License-Identifier: MIT */
/* bench_ref: single-thread time of the scalar reference on [1, 12, 512, 512] f32, all groups and
 * each, full and causal; and of one spectrum at n = 512. Best of five. */
#include "tests/bench/bench.h"
#include "workers/rows/block.h"
#include "workers/linear/spectrum.h"

#define HEADS  12
#define LENGTH 512
#define RUNS   5

/* Random weights in (0, 1), each row divided by the sum over its visible keys. */
static void bench_ref_fill(float *weights, bool causal)
{
    uint64_t state = 1;
    for (size_t row = 0; row < (size_t)HEADS * LENGTH; row++) {
        float *w = weights + row * LENGTH;
        size_t visible = causal ? row % LENGTH + 1 : LENGTH;
        float sum = 0;
        for (size_t j = 0; j < LENGTH; j++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            float x = (float)(state >> 40) * 0x1p-24f;
            w[j] = j < visible ? x * x * x + 1e-6f : 0;
            sum += w[j];
        }
        for (size_t j = 0; j < visible; j++) {
            w[j] /= sum;
        }
    }
}

static double time_block(const struct attention *a, const struct block_plan *plan)
{
    double best = 1e300;
    struct scratch scratch = {0};
    for (int run = 0; run < RUNS; run++) {
        struct block block;
        double begin = 1e3 * bench_seconds(CLOCK_MONOTONIC);
        bench_must(block_init(&block, a, plan) == 0 &&
                       block_compute_ref(&block, a, 0, a->queries, &scratch) == 0,
                   "out of memory");
        double ms = 1e3 * bench_seconds(CLOCK_MONOTONIC) - begin;
        best = ms < best ? ms : best;
        block_clear(&block);
    }
    scratch_clear(&scratch);
    return best;
}

static double time_spectrum(const struct attention *a)
{
    double best = 1e300;
    struct scratch scratch = {0};
    for (int run = 0; run < RUNS; run++) {
        struct spectrum s;
        double begin = 1e3 * bench_seconds(CLOCK_MONOTONIC);
        bench_must(spectrum_compute_ref(a, 0, 0, &scratch, &s) == 0, "out of memory");
        double ms = 1e3 * bench_seconds(CLOCK_MONOTONIC) - begin;
        best = ms < best ? ms : best;
    }
    scratch_clear(&scratch);
    return best;
}

static void bench_ref_report(const char *name, const struct attention *a, bool core,
                             bool importance, bool pairs)
{
    struct block_plan plan = {.maps = core, .top_pairs = 10, .local_window = 8};
    plan.group[METRIC_GROUP_CORE] = core;
    plan.group[METRIC_GROUP_IMPORTANCE] = importance;
    plan.group[METRIC_GROUP_PAIRS] = pairs;
    double ms = time_block(a, &plan);
    printf("%-8s %-12s %8.2f ms %8.2f ns/entry\n", a->causal ? "causal" : "full", name, ms,
           ms * 1e6 / ((double)HEADS * LENGTH * LENGTH));
}

static void bench_ref_bench(float *weights, bool causal)
{
    bench_ref_fill(weights, causal);
    struct attention a = {.weights = weights,
                          .dtype = DTYPE_F32,
                          .batch = 1,
                          .heads = HEADS,
                          .queries = LENGTH,
                          .keys = LENGTH,
                          .self = true,
                          .causal = causal};
    bench_ref_report("all", &a, true, true, true);
    bench_ref_report("rows only", &a, false, false, false);
    bench_ref_report("core", &a, true, false, false);
    bench_ref_report("importance", &a, false, true, false);
    bench_ref_report("pairs", &a, false, false, true);
    printf("%-8s %-12s %8.2f ms per head\n", causal ? "causal" : "full", "spectrum",
           time_spectrum(&a));
}

int main(void)
{
    spectrum_global_init();
    float *weights = bench_have(malloc((size_t)HEADS * LENGTH * LENGTH * sizeof *weights));
    bench_ref_bench(weights, false);
    bench_ref_bench(weights, true);
    free(weights);
    return 0;
}

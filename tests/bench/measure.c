/* SPDX-License-Identifier: MIT */
/* bench measure: what a whole message costs: its weights; these with the maps of their heads to
 * look at; its queries and keys; and these with the map made of them as well.
 *
 *     measure [SIZE...]        default 512 1024
 *
 * One thread, causal, [1,12,SIZE,64] f32, every group that is on by default, spectra for 20 ms.
 * All alternate; prints a JSON line per size with the medians of processor time, without spectra
 * where the maps of heads are compared, and of the last one's share that is spectra. */
#include "tests/bench/bench.h"
#include "workers/measure.h"

#include <math.h>

enum { HEADS = 12, DIM = 64, RUNS = 15, FORMS = 6 };
#define SPECTRUM_BUDGET_NS 20000000u

/* Uniform in -1.7 .. 1.7: variance 1. */
static float *random_vectors(size_t n, uint64_t seed)
{
    float *vectors = bench_have(malloc(n * sizeof *vectors));
    for (size_t i = 0; i < n; i++) {
        vectors[i] = (float)((bench_random(&seed) - 0.5) * 3.4641);
    }
    return vectors;
}

static struct attention queries_and_keys(uint32_t size)
{
    size_t n = (size_t)HEADS * size * DIM;
    return (struct attention){.batch = 1,
                              .heads = HEADS,
                              .queries = size,
                              .keys = size,
                              .self = true,
                              .causal = true,
                              .qk = {.q = random_vectors(n, 1),
                                     .k = random_vectors(n, 2),
                                     .q_dtype = DTYPE_F32,
                                     .k_dtype = DTYPE_F32,
                                     .kv_heads = HEADS,
                                     .head_dim = DIM,
                                     .scale = 1 / sqrt(DIM)}};
}

static struct attention weights_of(const struct attention *qk, struct scratch *scratch)
{
    size_t entries = (size_t)HEADS * qk->queries * qk->keys;
    float *weights = bench_have(malloc(entries * sizeof *weights));
    bench_must(qk_weights(qk, 0, qk->queries, weights, isa_best(), scratch) == 0, "out of memory");
    struct attention a = *qk;
    a.weights = weights;
    a.dtype = DTYPE_F32;
    return a;
}

/* The daemon's defaults. */
static struct measure_plan measure_plan_of(uint32_t maps_max_size, bool spectra)
{
    return (struct measure_plan){
        .group = {[METRIC_GROUP_CORE] = true,
                  [METRIC_GROUP_IMPORTANCE] = true,
                  [METRIC_GROUP_PAIRS] = true,
                  [METRIC_GROUP_SPECTRUM] = spectra},
        .threads = 1,
        .whole = true,
        .pooled_map = true,
        .top_pairs = 10,
        .local_window = 8,
        .spectrum_max_size = 512,
        .spectrum_effort = SPECTRUM_FULL,
        .spectrum_budget_ns = SPECTRUM_BUDGET_NS,
        .qk_maps_max_size = maps_max_size,
        .block_entries = 1048576,
        .isa = isa_best(),
    };
}

static double time_message(const struct attention *a, const struct measure_plan *plan,
                           struct scratch *scratch)
{
    struct measure *m = NULL;
    double begin = bench_cpu_seconds();
    bench_must(measure_new(a, plan, &m) == 0, "out of memory");
    for (uint32_t i = 0; i < measure_jobs(m); i++) {
        measure_run(m, i, scratch);
    }
    bench_must(measure_finish(m, scratch) == 0, "out of memory");
    double seconds = bench_cpu_seconds() - begin;
    measure_free(&m);
    return seconds;
}

static void measure_bench(uint32_t size)
{
    struct scratch scratch = {0};
    struct attention qk = queries_and_keys(size), weights = weights_of(&qk, &scratch);
    const struct attention *message[FORMS] = {&weights, &qk, &qk, &qk, &weights, &weights};
    struct measure_plan plan[FORMS] = {measure_plan_of(0, true),    measure_plan_of(0, true),
                                       measure_plan_of(size, true), measure_plan_of(size, false),
                                       measure_plan_of(0, false),   measure_plan_of(0, false)};
    plan[5].head_maps_size = 128;
    static double seconds[FORMS][RUNS];
    for (int r = 0; r < RUNS; r++) {
        for (int f = 0; f < FORMS; f++) {
            seconds[f][r] = time_message(message[f], &plan[f], &scratch);
        }
    }
    double maps = bench_median(seconds[2], RUNS);
    printf("{\"bench\":\"measure\",\"shape\":[1,%d,%u,%d],\"runs\":%d,\"weights_ms\":%.1f,"
           "\"qk_ms\":%.1f,\"qk_with_map_ms\":%.1f,\"of_it_spectra_ms\":%.1f,"
           "\"weights_rows_ms\":%.2f,\"with_head_maps_ms\":%.2f}\n",
           HEADS, size, DIM, RUNS, 1e3 * bench_median(seconds[0], RUNS),
           1e3 * bench_median(seconds[1], RUNS), 1e3 * maps,
           1e3 * (maps - bench_median(seconds[3], RUNS)), 1e3 * bench_median(seconds[4], RUNS),
           1e3 * bench_median(seconds[5], RUNS));
    free((void *)(uintptr_t)weights.weights);
    free((void *)(uintptr_t)qk.qk.q);
    free((void *)(uintptr_t)qk.qk.k);
    scratch_clear(&scratch);
}

int main(int argc, char **argv)
{
    spectrum_global_init();
    for (int i = 1; i < argc; i++) {
        uint32_t size = (uint32_t)strtoul(argv[i], NULL, 10);
        bench_must(size >= 1 && size <= 8192, "a size: 1 to 8192");
        measure_bench(size);
    }
    if (argc < 2) {
        measure_bench(512);
        measure_bench(1024);
    }
    return 0;
}

/* SPDX-License-Identifier: MIT */
/* bench odd: what a message with NaN or infinities costs against the same without, as of a run that
 * diverges. All default groups but spectra, one thread, processor time.
 *
 *     odd [heads=8] [size=1024] [runs=5] [map=0]
 *
 * map=1: with the map to look at, as the first message of a layer in a window has it.
 * Prints a JSON line for each tier, dtype, mask and kind: medians of the seconds, and of the ratio
 * pair by pair. Kinds: `nan`, `inf` everywhere (of tier qk: in all queries); `spot` one NaN in each
 * row (query); `channel` -infinity in one element of every eighth key; `sign` of either sign. */
#include "tests/bench/bench.h"
#include "workers/measure.h"
#include "proto/tensor.h"

#include <math.h>
#include <string.h>

#define RUNS_MAX 31
#define DIM      64

enum kind { KIND_NONE, KIND_NAN, KIND_INF, KIND_SPOT, KIND_CHANNEL, KIND_SIGN, KIND_COUNT };
static const char *const kind_text[] = {"none", "nan", "inf", "spot", "channel", "sign"};

static void put_element(void *tensor, enum dtype dtype, size_t at, float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint16_t half = (uint16_t)(bits >> 16);
    memcpy((unsigned char *)tensor + at * dtype_size(dtype),
           dtype == DTYPE_F32 ? (void *)&bits : (void *)&half, dtype_size(dtype));
}

/* Rows [rows, keys] that are a softmax, and spoilt. */
static void *odd_weights(const struct attention *a, enum kind kind)
{
    size_t rows = (size_t)a->heads * a->queries;
    uint64_t state = 88172645463325252u;
    void *weights = bench_have(malloc(rows * a->keys * dtype_size(a->dtype)));
    float *row = bench_have(malloc(a->keys * sizeof *row));
    for (size_t r = 0; r < rows; r++) {
        uint32_t i = (uint32_t)(r % a->queries), n = a->causal ? i + 1 : a->keys;
        float sum = 0;
        for (uint32_t j = 0; j < n; j++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            row[j] = expf(4 * (float)(state >> 40) * 0x1p-24f);
            sum += row[j];
        }
        for (uint32_t j = 0; j < a->keys; j++) {
            bool spoilt = j < n && (kind == KIND_SPOT ? j == i / 2 : kind != KIND_NONE);
            float odd = kind == KIND_INF ? INFINITY : NAN;
            put_element(weights, a->dtype, r * a->keys + j,
                        spoilt  ? odd
                        : j < n ? row[j] / sum
                                : 0);
        }
    }
    free(row);
    return weights;
}

static void *odd_vectors(const struct attention *a, bool keys, enum kind kind)
{
    enum dtype dtype = a->qk.q_dtype;
    size_t n = (size_t)a->heads * a->keys * DIM;
    uint64_t state = keys ? 2 : 1;
    void *tensor = bench_have(malloc(n * dtype_size(dtype)));
    for (size_t k = 0; k < n; k++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        float x = ((float)(state >> 40) * 0x1p-24f - 0.5f) * 3.4641f;
        size_t vector = k / DIM, element = k % DIM;
        bool channel = keys && element == 3 && vector % 8 == 5;
        if (!keys && (kind == KIND_NAN || (kind == KIND_SPOT && element == vector % DIM))) {
            x = NAN;
        } else if (!keys && kind == KIND_INF) {
            x = x < 0 ? -INFINITY : INFINITY;
        } else if (channel && kind == KIND_CHANNEL) {
            x = -INFINITY;
        } else if (channel && kind == KIND_SIGN) {
            x = x < 0 ? -INFINITY : INFINITY;
        } else if (!keys && kind == KIND_CHANNEL && element == 3) {
            x = fabsf(x); /* so that each logit there is -infinity, and rows are sound */
        }
        put_element(tensor, dtype, k, x);
    }
    return tensor;
}

static double odd_run(const struct attention *a, bool map, uint64_t *ret_invalid)
{
    struct measure_plan plan = {.threads = 1,
                                .whole = true,
                                .pooled_map = map,
                                .top_pairs = 10,
                                .local_window = 8,
                                .block_entries = 1 << 20,
                                .isa = isa_best()};
    plan.group[METRIC_GROUP_CORE] = plan.group[METRIC_GROUP_IMPORTANCE] = true;
    plan.group[METRIC_GROUP_PAIRS] = true;
    struct measure *measure = NULL;
    struct scratch scratch = {0};
    double begin = bench_cpu_seconds();
    int rc = measure_new(a, &plan, &measure);
    for (uint32_t job = 0; rc == 0 && job < measure_jobs(measure); job++) {
        measure_run(measure, job, &scratch);
    }
    bench_must(rc == 0 && measure_finish(measure, &scratch) == 0, "out of memory");
    double seconds = bench_cpu_seconds() - begin;
    *ret_invalid = measure_result(measure)->invalid_rows;
    measure_free(&measure);
    scratch_clear(&scratch);
    return seconds;
}

static struct attention odd_message(bool qk, enum dtype dtype, bool causal, uint32_t heads,
                                    uint32_t size, enum kind kind)
{
    struct attention a = {.batch = 1,
                          .heads = heads,
                          .queries = size,
                          .keys = size,
                          .self = true,
                          .causal = causal,
                          .dtype = dtype};
    if (qk) {
        a.qk = (struct qk){
            .q_dtype = dtype, .k_dtype = dtype, .kv_heads = heads, .head_dim = DIM, .scale = 0.125};
        a.qk.q = odd_vectors(&a, false, kind);
        a.qk.k = odd_vectors(&a, true, kind);
    } else {
        a.weights = odd_weights(&a, kind);
    }
    return a;
}

static void odd_release(struct attention *a)
{
    free((void *)(uintptr_t)a->weights);
    free((void *)(uintptr_t)a->qk.q);
    free((void *)(uintptr_t)a->qk.k);
}

static void odd_bench(bool qk, enum dtype dtype, bool causal, const uint32_t option[4])
{
    struct attention usual = odd_message(qk, dtype, causal, option[0], option[1], KIND_NONE);
    for (enum kind kind = KIND_NAN; kind < (qk ? KIND_COUNT : KIND_CHANNEL); kind++) {
        struct attention odd = odd_message(qk, dtype, causal, option[0], option[1], kind);
        double seconds[2][RUNS_MAX], ratio[RUNS_MAX];
        uint64_t none, invalid;
        for (uint32_t r = 0; r < option[2]; r++) {
            seconds[0][r] = odd_run(&usual, option[3], &none);
            seconds[1][r] = odd_run(&odd, option[3], &invalid);
            ratio[r] = seconds[1][r] / seconds[0][r];
        }
        printf("{\"bench\":\"odd\",\"tier\":\"%s\",\"dtype\":\"%s\",\"shape\":[1,%u,%u,%u],"
               "\"causal\":%s,\"kind\":\"%s\",\"invalid_rows\":%llu,\"usual_seconds\":%.5f,"
               "\"seconds\":%.5f,\"ratio\":%.2f}\n",
               qk ? "qk" : "attention", dtype == DTYPE_F32 ? "f32" : "bf16", option[0], option[1],
               option[1], causal ? "true" : "false", kind_text[kind], (unsigned long long)invalid,
               bench_median(seconds[0], option[2]), bench_median(seconds[1], option[2]),
               bench_median(ratio, option[2]));
        fflush(stdout);
        odd_release(&odd);
    }
    odd_release(&usual);
}

int main(int argc, char **argv)
{
    uint32_t option[] = {8, 1024, 5, 0};
    static const char *const name[] = {"heads=", "size=", "runs=", "map="};
    for (int k = 1; k < argc; k++) {
        size_t o = 0;
        while (o < 4 && strncmp(argv[k], name[o], strlen(name[o])) != 0) {
            o++;
        }
        option[o < 4 ? o : 0] = o < 4 ? (uint32_t)strtoul(argv[k] + strlen(name[o]), NULL, 10) : 0;
    }
    if (option[0] < 1 || option[1] < 1 || option[2] < 1 || option[2] > RUNS_MAX) {
        fprintf(stderr, "usage: odd [heads=8] [size=1024] [runs=5] [map=0]\n");
        return 2;
    }
    for (int k = 0; k < 8; k++) {
        odd_bench(k >= 4, k % 2 ? DTYPE_BF16 : DTYPE_F32, k / 2 % 2, option);
    }
    return 0;
}

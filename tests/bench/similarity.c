/* SPDX-License-Identifier: MIT */
/* similarity: the passes of their own against plain streaming reads of the same buffer, one thread.
 * One JSON line per pass, dtype and shape: seconds of the median pair and the ratio of the reads'
 * time to the pass's (1 = as fast as reading).
 *
 *     similarity [PAIRS] [ISA] */
#include "tests/bench/bench.h"
#include "workers/across/across.h"
#include "workers/across/similarity.h"

#include <string.h>

#define PAIRS_MAX 101
#define TOP       10

struct input {
    struct attention a;
    size_t bytes;
    double *weight; /* [heads] */
};

/* Reads everything once; the caller looks at the sum, so that the compiler cannot leave it out. */
static uint64_t similarity_read_all(const struct input *in)
{
    const uint64_t *p = in->a.weights;
    uint64_t sum[8] = {0};
    for (size_t i = 0; i + 8 <= in->bytes / sizeof *p; i += 8) {
        for (size_t l = 0; l < 8; l++) {
            sum[l] ^= p[i + l];
        }
    }
    return sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
}

/* Softmax-like rows over the visible keys. */
static void similarity_fill(struct input *in)
{
    uint64_t state = 1;
    const struct attention *a = &in->a;
    float *row = bench_have(malloc(a->keys * sizeof *row));
    unsigned char *to = (unsigned char *)(uintptr_t)a->weights;
    size_t width = a->dtype == DTYPE_F32 ? 4 : 2;
    for (size_t r = 0; r < (size_t)a->batch * a->heads * a->queries; r++) {
        size_t seen = a->causal ? r % a->queries + 1 : a->keys;
        float sum = 0;
        for (size_t j = 0; j < a->keys; j++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            float x = (float)(state >> 40) * 0x1p-24f;
            row[j] = j < seen ? x * x * x + 1e-6f : 0;
            sum += row[j];
        }
        for (size_t j = 0; j < a->keys; j++) {
            float x = row[j] / sum;
            uint32_t bits;
            memcpy(&bits, &x, sizeof bits);
            uint16_t half = (uint16_t)((bits + 0x8000) >> 16);
            memcpy(to + (r * a->keys + j) * width, width == 4 ? (void *)&x : (void *)&half, width);
        }
    }
    free(row);
}

static struct input new_input(enum dtype dtype, uint32_t heads, uint32_t length, bool causal)
{
    struct input in = {.a = {.dtype = dtype,
                             .grad_dtype = dtype,
                             .batch = 1,
                             .heads = heads,
                             .queries = length,
                             .keys = length,
                             .self = true,
                             .causal = causal}};
    in.bytes = (size_t)heads * length * length * (dtype == DTYPE_F32 ? 4 : 2);
    in.a.weights = bench_have(malloc(in.bytes));
    in.a.grad = in.a.weights;
    similarity_fill(&in);
    in.weight = bench_have(malloc(heads * sizeof *in.weight));
    for (uint32_t h = 0; h < heads; h++) {
        in.weight[h] = 1.0 / (h + 1);
    }
    return in;
}

static int pass_similarity(const struct input *in, enum isa isa, struct scratch *scratch)
{
    struct similarity s;
    int rc = similarity_init(&s, in->a.heads);
    if (rc == 0) {
        rc = similarity_compute(&s, &in->a, 0, in->a.queries, isa, scratch);
        similarity_clear(&s);
    }
    return rc;
}

static int pass_map(const struct input *in, enum isa isa, struct scratch *scratch)
{
    struct moments map = {0};
    return across_weighted_map(&map, &in->a, in->weight, 0, in->a.queries, isa, scratch);
}

static int pass_pairs(const struct input *in, enum isa isa, struct scratch *scratch)
{
    struct pair *pairs = bench_have(calloc((size_t)in->a.heads * TOP, sizeof *pairs));
    uint32_t *count = bench_have(calloc(in->a.heads, sizeof *count));
    int rc = across_head_pairs(pairs, count, TOP, &in->a, 0, in->a.queries, isa, scratch);
    free(pairs);
    free(count);
    return rc;
}

/* The gradient is the weights themselves: every byte is read twice, once from memory. */
static int pass_gradient(const struct input *in, enum isa isa, struct scratch *scratch)
{
    double *score = bench_have(calloc(in->a.heads, sizeof *score));
    int rc = across_gradient(score, &in->a, 0, in->a.queries, isa, scratch);
    free(score);
    return rc;
}

typedef int pass_fn(const struct input *in, enum isa isa, struct scratch *scratch);

/* `sum` collects what the reads found, for the report. */
static void similarity_bench(const char *name, pass_fn *pass, const struct input *in, enum isa isa,
                             int pairs, uint64_t *sum)
{
    double ratio[PAIRS_MAX], seconds[PAIRS_MAX];
    struct scratch scratch = {0};
    for (int i = -1; i < pairs; i++) { /* the first one warms up */
        double begin = bench_seconds(CLOCK_MONOTONIC);
        *sum ^= similarity_read_all(in);
        double read = bench_seconds(CLOCK_MONOTONIC);
        bench_must(pass(in, isa, &scratch) == 0, "out of memory");
        double end = bench_seconds(CLOCK_MONOTONIC);
        if (i >= 0) {
            ratio[i] = (read - begin) / (end - read);
            seconds[i] = end - read;
        }
    }
    scratch_clear(&scratch);
    double median = bench_median(seconds, (size_t)pairs);
    printf("{\"bench\":\"%s\",\"isa\":\"%s\",\"dtype\":\"%s\",\"heads\":%u,\"length\":%u,"
           "\"causal\":%s,\"seconds\":%.6f,\"of_reads\":%.3f,\"ns_per_entry\":%.4f}\n",
           name, isa_name[isa], in->a.dtype == DTYPE_F32 ? "f32" : "bf16", in->a.heads, in->a.keys,
           in->a.causal ? "true" : "false", median, bench_median(ratio, (size_t)pairs),
           median * 1e9 / ((double)in->a.heads * in->a.queries * in->a.keys));
    fflush(stdout);
}

static void similarity_bench_shape(enum dtype dtype, uint32_t heads, uint32_t length, bool causal,
                                   enum isa isa, int pairs, uint64_t *sum)
{
    struct input in = new_input(dtype, heads, length, causal);
    similarity_bench("weighted_map", pass_map, &in, isa, pairs, sum);
    similarity_bench("head_pairs", pass_pairs, &in, isa, pairs, sum);
    similarity_bench("gradient", pass_gradient, &in, isa, pairs, sum);
    similarity_bench("similarity", pass_similarity, &in, isa, pairs, sum);
    free((void *)(uintptr_t)in.a.weights);
    free(in.weight);
}

int main(int argc, char **argv)
{
    int pairs = argc > 1 ? atoi(argv[1]) : 7;
    enum isa isa = isa_best();
    uint64_t sum = 0;
    if (pairs < 1 || pairs > PAIRS_MAX ||
        (argc > 2 && isa_parse(argv[2], strlen(argv[2]), &isa) < 0)) {
        fprintf(stderr, "usage: similarity [PAIRS, 1..%d] [ISA]\n", PAIRS_MAX);
        return 2;
    }
    similarity_bench_shape(DTYPE_F32, 12, 512, false, isa, pairs, &sum);
    similarity_bench_shape(DTYPE_F32, 16, 2048, false, isa, pairs, &sum);
    similarity_bench_shape(DTYPE_F32, 16, 2048, true, isa, pairs, &sum);
    similarity_bench_shape(DTYPE_BF16, 16, 2048, false, isa, pairs, &sum);
    printf("{\"bench\":\"reads\",\"checksum\":%llu}\n", (unsigned long long)sum);
    return 0;
}

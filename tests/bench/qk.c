/* SPDX-License-Identifier: MIT */
/* bench qk: how fast tier `qk` is, and how much of its time is the matrix product.
 *
 *     qk [isa=auto] [heads=16] [keys=2048] [dim=64] [dtype=f32] [values=0] [tokens=0]
 *        [window=0] [dout=0] [written=0] [runs=9]
 *     qk memory=16384 [...]
 *
 * One thread, causal, [1, heads, keys, dim]; tokens: how many different ones. The first form
 * alternates between qk_compute and the same sequence of sgemm calls alone, and prints a JSON line
 * with the medians of both and of their ratio, pair by pair; with dout=1 (dO is there) or written=R
 * (R_h of R rows), which need values=1, also of the ratio to the message without these, in the same
 * runs. The second prints how much the process grew at most while one head was computed. */
#include "tests/bench/bench.h"
#include "proto/err.h"
#include "workers/base/isa.h"
#include "workers/qk/internal.h"

#include <cblas.h>
#include <math.h>
#include <string.h>
#include <sys/resource.h>

#define RUNS_MAX 101

struct options {
    const char *isa, *dtype;
    uint32_t heads, keys, dim, runs, memory, values, tokens, window, dout, written;
};

static void qk_parse(int argc, char **argv, struct options *o)
{
    struct {
        const char *key;
        uint32_t *number;
        const char **text;
    } table[] = {{"isa=", NULL, &o->isa},       {"dtype=", NULL, &o->dtype},
                 {"heads=", &o->heads, NULL},   {"keys=", &o->keys, NULL},
                 {"dim=", &o->dim, NULL},       {"runs=", &o->runs, NULL},
                 {"memory=", &o->memory, NULL}, {"values=", &o->values, NULL},
                 {"tokens=", &o->tokens, NULL}, {"window=", &o->window, NULL},
                 {"dout=", &o->dout, NULL},     {"written=", &o->written, NULL}};
    for (int i = 1; i < argc; i++) {
        bool known = false;
        for (size_t k = 0; k < sizeof table / sizeof table[0]; k++) {
            size_t length = strlen(table[k].key);
            if (strncmp(argv[i], table[k].key, length) == 0) {
                known = true;
                if (table[k].number) {
                    *table[k].number = (uint32_t)strtoul(argv[i] + length, NULL, 10);
                } else {
                    *table[k].text = argv[i] + length;
                }
            }
        }
        bench_must(known, "unknown option");
    }
    bench_must(o->runs >= 1 && o->runs <= RUNS_MAX && o->heads >= 1 && o->keys >= 1 &&
                   o->dim >= 1 && o->written <= o->dim &&
                   (o->values != 0 || o->dout + o->written == 0),
               "out of range");
}

/* Uniform in -1.7 .. 1.7: variance 1. */
static double qk_next_random(uint64_t *state)
{
    return (bench_random(state) - 0.5) * 3.4641;
}

/* `dtype` is one that can be made of an f32 by cutting it: f32, bf16; or f64. */
static void *random_tensor(size_t n, enum dtype dtype, uint64_t seed)
{
    unsigned char *memory = bench_have(malloc(n * dtype_size(dtype)));
    for (size_t k = 0; k < n; k++) {
        double x = qk_next_random(&seed);
        float f = (float)x;
        uint32_t bits;
        memcpy(&bits, &f, sizeof bits);
        uint16_t half = (uint16_t)(bits >> 16);
        const void *from = dtype == DTYPE_F64    ? (const void *)&x
                           : dtype == DTYPE_BF16 ? (const void *)&half
                                                 : (const void *)&f;
        memcpy(memory + k * dtype_size(dtype), from, dtype_size(dtype));
    }
    return memory;
}

static struct attention qk_message(const struct options *o, enum dtype dtype)
{
    size_t n = (size_t)o->heads * o->keys * o->dim;
    struct attention a = {.batch = 1,
                          .heads = o->heads,
                          .queries = o->keys,
                          .keys = o->keys,
                          .self = true,
                          .causal = true,
                          .window = o->window,
                          .qk = {.q_dtype = dtype,
                                 .k_dtype = dtype,
                                 .v_dtype = dtype,
                                 .dout_dtype = dtype,
                                 .kv_heads = o->heads,
                                 .head_dim = o->dim,
                                 .value_dim = o->dim,
                                 .written_dim = o->written,
                                 .scale = 1 / sqrt(o->dim)}};
    a.qk.q = random_tensor(n, dtype, 1);
    a.qk.k = random_tensor(n, dtype, 2);
    a.qk.v = o->values != 0 ? random_tensor(n, dtype, 3) : NULL;
    a.qk.dout = o->dout != 0 ? random_tensor(n, dtype, 5) : NULL;
    n = (size_t)o->heads * o->written * o->dim;
    a.qk.wo_r = o->written != 0 ? random_tensor(n, DTYPE_F32, 6) : NULL;
    if (o->tokens != 0) {
        int32_t *tokens = bench_have(malloc(o->keys * sizeof *tokens));
        uint64_t seed = 4;
        for (uint32_t j = 0; j < o->keys; j++) {
            tokens[j] = (int32_t)(qk_next_random(&seed) * o->tokens);
        }
        a.tokens = tokens;
    }
    return a;
}

static void qk_release(struct attention *a)
{
    free((void *)(uintptr_t)a->qk.q);
    free((void *)(uintptr_t)a->qk.k);
    free((void *)(uintptr_t)a->qk.v);
    free((void *)(uintptr_t)a->qk.dout);
    free((void *)(uintptr_t)a->qk.wo_r);
    free((void *)(uintptr_t)a->tokens);
}

static double time_compute(const struct attention *a, enum isa isa, struct scratch *scratch)
{
    const struct block_plan plan = {
        .group = {[METRIC_GROUP_CORE] = true}, .gradient = a->qk.dout, .local_window = 8};
    struct block block;
    double begin = bench_cpu_seconds();
    bench_must(block_init(&block, a, &plan) == 0 &&
                   qk_compute(&block, a, 0, a->queries, isa, scratch) == 0,
               "out of memory");
    double seconds = bench_cpu_seconds() - begin;
    bench_must(block.invalid_rows == 0, "rows were lost");
    block_clear(&block);
    return seconds;
}

/* The products that qk_compute takes, by the same tiles, and nothing else. */
static double time_products(const struct attention *a, const float *q, const float *k, float *tile)
{
    const uint32_t rows = QK_TILE_ROWS, columns = QK_TILE_KEYS;
    int d = (int)a->qk.head_dim;
    double begin = bench_cpu_seconds();
    for (uint32_t h = 0; h < a->heads; h++) {
        size_t first = (size_t)h * a->keys;
        for (uint32_t i = 0; i < a->queries; i += rows) {
            uint32_t m = a->queries - i < rows ? a->queries - i : rows;
            for (uint32_t j = 0; j < i + m; j += columns) {
                uint32_t n = i + m - j < columns ? i + m - j : columns;
                cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)m, (int)n, d, 1,
                            q + (first + i) * a->qk.head_dim, d, k + (first + j) * a->qk.head_dim,
                            d, 0, tile, QK_TILE_STRIDE);
            }
        }
    }
    return bench_cpu_seconds() - begin;
}

static void qk_bench(const struct options *o, enum dtype dtype, enum isa isa)
{
    struct attention a = qk_message(o, dtype), plain = a;
    plain.qk.dout = plain.qk.wo_r = NULL;
    size_t n = (size_t)o->heads * o->keys * o->dim;
    float *q = random_tensor(n, DTYPE_F32, 1), *k = random_tensor(n, DTYPE_F32, 2);
    float *tile = bench_have(aligned_alloc(64, QK_TILE_ROWS * QK_TILE_STRIDE * sizeof *tile));
    struct scratch scratch = {0};
    double all[RUNS_MAX], product[RUNS_MAX], share[RUNS_MAX], ratio[RUNS_MAX];
    time_compute(&a, isa, &scratch);
    for (uint32_t r = 0; r < o->runs; r++) {
        all[r] = time_compute(&a, isa, &scratch);
        product[r] = time_products(&a, q, k, tile);
        share[r] = product[r] / all[r];
        bool more = a.qk.dout || a.qk.wo_r;
        ratio[r] = more ? all[r] / time_compute(&plain, isa, &scratch) : 1;
    }
    printf("{\"bench\":\"qk\",\"isa\":\"%s\",\"dtype\":\"%s\",\"shape\":[1,%u,%u,%u],"
           "\"values\":%s,\"dout\":%s,\"written\":%u,\"tokens\":%u,\"window\":%u,\"runs\":%u,"
           "\"seconds\":%.5f,\"ratio_to_plain\":%.3f,"
           "\"product_seconds\":%.5f,\"product_share\":%.3f}\n",
           isa_name[isa], dtype_name(dtype), o->heads, o->keys, o->dim,
           o->values != 0 ? "true" : "false", o->dout != 0 ? "true" : "false", o->written,
           o->tokens, o->window, o->runs, bench_median(all, o->runs), bench_median(ratio, o->runs),
           bench_median(product, o->runs), bench_median(share, o->runs));
    qk_release(&a);
    free(q);
    free(k);
    free(tile);
    scratch_clear(&scratch);
}

static double peak_mib(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_maxrss / 1024;
}

/* OpenBLAS sets up its own buffers at its first call: a small one comes before. */
static void memory(const struct options *o, enum dtype dtype, enum isa isa)
{
    struct options small = *o, large = *o;
    struct scratch scratch = {0};
    small.heads = large.heads = 1;
    small.keys = 64;
    large.keys = o->memory;
    struct attention a = qk_message(&large, dtype), warm = qk_message(&small, dtype);
    double before = peak_mib();
    time_compute(&warm, isa, &scratch);
    double blas = peak_mib();
    double seconds = time_compute(&a, isa, &scratch);
    printf("{\"bench\":\"qk_memory\",\"isa\":\"%s\",\"dtype\":\"%s\",\"shape\":[1,1,%u,%u],"
           "\"values\":%s,\"seconds\":%.3f,\"extra_mib\":%.2f,\"extra_with_blas_mib\":%.2f,"
           "\"scratch_mib\":%.2f}\n",
           isa_name[isa], dtype_name(dtype), o->memory, o->dim, o->values != 0 ? "true" : "false",
           seconds, peak_mib() - blas, peak_mib() - before, (double)scratch.bytes / 0x1p20);
    qk_release(&a);
    qk_release(&warm);
    scratch_clear(&scratch);
}

int main(int argc, char **argv)
{
    struct options o = {
        .isa = "auto", .dtype = "f32", .heads = 16, .keys = 2048, .dim = 64, .runs = 9};
    enum isa isa;
    enum dtype dtype;
    qk_parse(argc, argv, &o);
    bench_must(isa_parse(o.isa, strlen(o.isa), &isa) == 0 &&
                   dtype_parse(o.dtype, strlen(o.dtype), &dtype) == 0 && dtype != DTYPE_F16,
               "unknown instruction set, or a dtype that is none of f32, bf16, f64");
    spectrum_global_init();
    if (o.memory > 0) {
        memory(&o, dtype, isa);
    } else {
        qk_bench(&o, dtype, isa);
    }
    return 0;
}

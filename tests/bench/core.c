/* SPDX-License-Identifier: MIT */
/* core: the core group and the sum, mean and max maps, against plain reads of the same buffer.
 *
 *     core [--isa NAME] [--pairs N] [--shape B,H,Tq,Tk]... [--causal] [--cpu-time]
 *         [--dtype NAME] [--map]
 *
 * One JSON line per shape, dtype, instruction set and number of threads: `ratio` is the median over
 * pairs, measured in turns, of the speed of the kernels over that of the reads, which run on as
 * many threads. `speedup` is two threads over one, `against_f32` rows per second over those of f32.
 * --cpu-time counts the time of one thread, without what others take from it, on a machine that is
 * not idle; caches and memory are then shared still. --map: the reads give way to the same kernels
 * with a pooled map as well, and `ratio` is what is left of the speed with it. */
#include "tests/bench/bench.h"
#include "workers/rows/block.h"
#include "workers/base/pool.h"

#include <math.h>
#include <semaphore.h>
#include <string.h>

#define PAIRS       7
#define THREADS_MAX 2
#define SHAPES_MAX  8
/* As measure cuts a message by default. */
#define ENTRIES_A_JOB  (1 << 20)
#define ENTRIES_A_TIME 40e6
#define JOBS_MAX       32

static const char *const dtype_text[] = {"f32", "f16", "bf16", "f64"};

static uint16_t half_of(enum dtype dtype, float x)
{
    uint32_t bits;
    if (dtype == DTYPE_F16) {
        x *= 0x1p-112f; /* the exponent's bias; rounds denormals */
    }
    memcpy(&bits, &x, sizeof bits);
    unsigned shift = dtype == DTYPE_F16 ? 13 : 16;
    return (uint16_t)((bits + (1u << (shift - 1))) >> shift);
}

/* A softmax of normal logits, of standard deviation 1 to 3 by head. */
static void core_fill(const struct attention *a, unsigned char *at)
{
    uint64_t state = 88172645463325252u;
    float *row = malloc(a->keys * sizeof *row);
    size_t rows = (size_t)a->batch * a->heads * a->queries;
    for (size_t r = 0; row && r < rows; r++) {
        uint32_t i = (uint32_t)(r % a->queries), n = a->causal && i + 1 < a->keys ? i + 1 : a->keys;
        float sum = 0, spread = 1 + 2 * (float)(r / a->queries % a->heads) / (float)a->heads;
        for (uint32_t j = 0; j < a->keys; j++) {
            float normal = 0;
            for (int k = 0; k < 4; k++) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                normal += (float)(state >> 40) * 0x1p-24f - 0.5f;
            }
            row[j] = j < n ? expf(spread * 1.7f * normal) : 0;
            sum += row[j];
        }
        for (uint32_t j = 0; j < a->keys; j++) {
            float x = row[j] / sum;
            uint16_t code = half_of(a->dtype, x);
            if (a->dtype == DTYPE_F32) {
                memcpy(at, &x, sizeof x);
            } else {
                memcpy(at, &code, sizeof code);
            }
            at += dtype_size(a->dtype);
        }
    }
    free(row);
}

/* The reads: sixteen sums of 8 bytes each, which the compiler makes vectors of. */
static uint64_t core_read_all(const unsigned char *p, size_t bytes)
{
    uint64_t sum[16] = {0}, x[16], total = 0;
    for (size_t at = 0; at + sizeof x <= bytes; at += sizeof x) {
        memcpy(x, p + at, sizeof x);
        for (size_t k = 0; k < 16; k++) {
            sum[k] += x[k];
        }
    }
    for (size_t k = 0; k < 16; k++) {
        total += sum[k];
    }
    return total;
}

struct part {
    struct pool_job job; /* first */
    sem_t *done;
    const struct attention *a;
    struct scratch scratch;
    enum isa isa;
    uint32_t begin, end;
    unsigned passes; /* over its rows: what waking a thread takes is not what is measured */
    bool reading, map;
    uint64_t sum;
    int rc;
};

static void core_run_once(struct part *p, struct scratch *scratch)
{
    const struct attention *a = p->a;
    if (p->reading && !p->map) {
        size_t row = (size_t)a->batch * a->heads * a->keys * dtype_size(a->dtype);
        p->sum += core_read_all((const unsigned char *)a->weights + p->begin * row,
                                (p->end - p->begin) * row);
        return;
    }
    struct block_plan plan = {.maps = true, .local_window = 8};
    plan.group[METRIC_GROUP_CORE] = true;
    double entries = (double)a->batch * a->heads * a->queries * a->keys;
    uint32_t jobs = (uint32_t)fmin(ceil(entries / ENTRIES_A_JOB), JOBS_MAX);
    uint32_t rows = (a->queries + jobs - 1) / jobs;
    for (uint32_t i = p->begin; p->rc == 0 && i < p->end; i += rows) {
        struct block block;
        struct map_pool pool = {0};
        uint32_t end = i + rows < p->end ? i + rows : p->end;
        p->rc = block_init(&block, a, &plan);
        if (p->rc == 0 && p->reading) {
            p->rc = map_pool_init(&pool, a, i, end);
            block.pool = &pool;
        }
        p->rc = p->rc == 0 ? block_compute(&block, a, i, end, p->isa, scratch) : p->rc;
        p->sum += block.rows;
        block_clear(&block);
        map_pool_clear(&pool);
    }
}

static void core_run_part(struct part *p, struct scratch *scratch)
{
    for (unsigned k = 0; k < p->passes; k++) {
        core_run_once(p, scratch);
    }
}

static void run_on_worker(struct pool_job *job, struct scratch *scratch)
{
    struct part *p = (struct part *)job;
    core_run_part(p, scratch);
    sem_post(p->done);
}

/* The first part on this thread, the others on workers that are there already, as in the daemon. */
static double timed(struct part *parts, unsigned threads, struct pool *pool, bool reading,
                    clockid_t clock)
{
    double start = bench_seconds(clock);
    for (unsigned t = 0; t < threads; t++) {
        parts[t].reading = reading;
        if (t > 0 && pool_submit(pool, NULL, &parts[t].job, 1) != 0) {
            exit(1);
        }
    }
    core_run_part(&parts[0], &parts[0].scratch);
    for (unsigned t = 1; t < threads; t++) {
        sem_wait(parts[0].done);
    }
    return (bench_seconds(clock) - start) / parts[0].passes;
}

/* Returns the median time. `one_thread` and `f32` are those to compare with, or 0. */
static double core_bench(const struct attention *a, enum isa isa, unsigned threads, unsigned pairs,
                         double one_thread, double f32, clockid_t clock, bool map)
{
    struct part parts[THREADS_MAX] = {0};
    double ratio[64], kernels[64], reads[64];
    uint32_t whole = a->queries;
    double entries = (double)a->batch * a->heads * a->queries * a->keys;
    unsigned passes = (unsigned)fmax(1, ENTRIES_A_TIME / entries);
    struct pool *pool = NULL;
    sem_t done;
    sem_init(&done, 0, 0);
    if (threads > 1 && pool_new(threads - 1, threads, &pool) != 0) {
        exit(1);
    }
    for (unsigned t = 0; t < threads; t++) {
        parts[t].job.run = run_on_worker;
        parts[t].done = &done;
        parts[t].a = a;
        parts[t].passes = passes;
        parts[t].isa = isa;
        parts[t].map = map;
        parts[t].begin = whole * t / threads;
        parts[t].end = whole * (t + 1) / threads;
    }
    timed(parts, threads, pool, false, clock);
    for (unsigned k = 0; k < pairs; k++) {
        reads[k] = timed(parts, threads, pool, true, clock);
        kernels[k] = timed(parts, threads, pool, false, clock);
        ratio[k] = map ? kernels[k] / reads[k] : reads[k] / kernels[k];
    }
    double rows = (double)a->batch * a->heads * a->queries;
    double bytes = rows * a->keys * (double)dtype_size(a->dtype);
    double time = bench_median(kernels, pairs);
    printf(
        "{\"bench\":\"core\",\"shape\":[%u,%u,%u,%u],\"dtype\":\"%s\",\"causal\":%s,\"isa\":\"%s\","
        "\"threads\":%u,\"gb_s\":%.2f,\"read_gb_s\":%.2f,\"ratio\":%.3f,\"rows_s\":%.0f",
        a->batch, a->heads, a->queries, a->keys, dtype_text[a->dtype], a->causal ? "true" : "false",
        isa_name[isa], threads, bytes / time * 1e-9, bytes / bench_median(reads, pairs) * 1e-9,
        bench_median(ratio, pairs), rows / time);
    if (one_thread > 0) {
        printf(",\"speedup\":%.2f", one_thread / time);
    } else if (f32 > 0) {
        printf(",\"against_f32\":%.2f", f32 / time);
    }
    printf("}\n");
    fflush(stdout);
    scratch_clear(&parts[0].scratch);
    pool_free(&pool);
    sem_destroy(&done);
    return time;
}

static void core_bench_shape(const uint32_t shape[4], bool causal, enum isa isa, unsigned pairs,
                             clockid_t clock, const char *only, bool map)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    double f32 = 0;
    for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++) {
        if (only && strcmp(only, dtype_text[dtypes[d]]) != 0) {
            continue;
        }
        struct attention a = {.dtype = dtypes[d],
                              .batch = shape[0],
                              .heads = shape[1],
                              .queries = shape[2],
                              .keys = shape[3],
                              .self = shape[2] == shape[3],
                              .causal = causal};
        size_t bytes = (size_t)a.batch * a.heads * a.queries * a.keys * dtype_size(a.dtype);
        unsigned char *weights = aligned_alloc(4096, (bytes + 4095) & ~(size_t)4095);
        if (!weights) {
            exit(1);
        }
        core_fill(&a, weights);
        a.weights = weights;
        double one = core_bench(&a, isa, 1, pairs, 0, f32, clock, map);
        if (clock == CLOCK_MONOTONIC) {
            core_bench(&a, isa, 2, pairs, one, 0, clock, map);
        }
        f32 = dtypes[d] == DTYPE_F32 ? one : f32;
        free(weights);
    }
}

int main(int argc, char **argv)
{
    uint32_t shape[SHAPES_MAX][4] = {{1, 12, 512, 512}, {1, 16, 2048, 2048}};
    unsigned shapes = 0, pairs = PAIRS;
    enum isa isa = isa_best();
    bool causal = false, map = false;
    const char *only = NULL;
    clockid_t clock = CLOCK_MONOTONIC;
    for (int k = 1; k < argc; k++) {
        const char *value = k + 1 < argc ? argv[k + 1] : "";
        if (strcmp(argv[k], "--causal") == 0) {
            causal = true;
            continue;
        }
        if (strcmp(argv[k], "--map") == 0) {
            map = true;
            continue;
        }
        if (strcmp(argv[k], "--cpu-time") == 0) {
            clock = CLOCK_THREAD_CPUTIME_ID;
            continue;
        }
        k++;
        if (strcmp(argv[k - 1], "--isa") == 0 && isa_parse(value, strlen(value), &isa) == 0) {
            continue;
        }
        if (strcmp(argv[k - 1], "--dtype") == 0) {
            only = value;
            continue;
        }
        if (strcmp(argv[k - 1], "--pairs") == 0 && sscanf(value, "%u", &pairs) == 1 && pairs > 0 &&
            pairs <= 64) {
            continue;
        }
        uint32_t *s = shape[shapes < SHAPES_MAX ? shapes : 0];
        if (strcmp(argv[k - 1], "--shape") == 0 && shapes++ < SHAPES_MAX &&
            sscanf(value, "%u,%u,%u,%u", &s[0], &s[1], &s[2], &s[3]) == 4) {
            continue;
        }
        fprintf(stderr, "usage: core [--isa NAME] [--pairs N] [--shape B,H,Tq,Tk]... [--causal] "
                        "[--cpu-time] [--dtype NAME] [--map]\n");
        return 2;
    }
    for (unsigned k = 0; k < (shapes > 0 ? shapes : 2); k++) {
        core_bench_shape(shape[k], causal, isa, pairs, clock, only, map);
    }
    return 0;
}

/* SPDX-License-Identifier: MIT */
/* How long a page of /metrics takes, and what a result costs that it is made of.
 *
 * Usage: metrics_page [jobs] [layers] [heads] [repeats]        default: 32 98 32 21
 * One JSON object per line. The default is 100,352 head streams in 3,136 layers, all of them on the
 * page. A page is the time from the answer of the loop thread to the text; the transport is not in
 * it. `live` and `latency` are per result and per addition. */
#include "daemon/base/clock.h"
#include "daemon/http/metrics/metrics.h"
#include "proto/result.h"
#include "tests/bench/bench.h"

#include <string.h>

struct bench {
    uint32_t jobs, layers, heads, repeats;
    struct config config;
    struct stats stats;
    struct metrics *metrics;
};

static void name_job(uint32_t job, char name[32])
{
    snprintf(name, 32, "training-job-%u", job);
}

/* All metrics of a message of queries and keys, with spectra. */
static struct published *make_live(const struct bench *bench, uint32_t job, uint32_t layer)
{
    static const uint8_t run[RUN_BYTES] = {1};
    char name[32];
    double *values = bench_have(malloc(bench->heads * sizeof *values));
    struct mpk_writer writer;
    name_job(job, name);
    for (uint32_t h = 0; h < bench->heads; h++) {
        values[h] = 0.001234567 * (h + 1) + 0.01 * layer;
    }
    struct live_result live = {
        .common = {.job = name, .run = run, .time_ns = clock_wall_ns()},
        .layer = {.id = {STACK_DECODER, layer, SITE_SELF},
                  .shape = {1, bench->heads, 512, 512},
                  .rows = 512 * bench->heads,
                  .row_sum_error = 1e-6},
        .numbers = {.heads = bench->heads, .sink_rate = 0.25},
    };
    for (int metric = 0; metric < METRIC_COUNT; metric++) {
        live.numbers.value[metric] = values;
    }
    mpk_writer_init(&writer);
    live_encode(&live, &writer);
    struct published *published = bench_have(malloc(sizeof *published + writer.buffer.size));
    bench_must(mpk_writer_ok(&writer), "out of memory");
    topic_layer("live", name, live.layer.id, published->topic);
    published->size = writer.buffer.size;
    memcpy(published->map, writer.buffer.data, writer.buffer.size);
    mpk_writer_clear(&writer);
    free(values);
    return published;
}

static void metrics_page_put_all(struct bench *bench)
{
    uint64_t spent_ns = 0, bytes = 0, count = (uint64_t)bench->jobs * bench->layers;
    for (int round = 0; round < 2; round++) {
        spent_ns = 0;
        for (uint32_t i = 0; i < count; i++) {
            struct published *live = make_live(bench, i / bench->layers, i % bench->layers);
            uint64_t begin = clock_monotonic_ns();
            metrics_put(bench->metrics, live, begin);
            spent_ns += clock_monotonic_ns() - begin;
            bytes = live->size;
            free(live);
        }
    }
    printf("{\"bench\": \"metrics_page\", \"what\": \"live\", \"heads\": %u, \"bytes\": %llu, "
           "\"us\": %.2f}\n",
           bench->heads, (unsigned long long)bytes, (double)spent_ns / 1e3 / (double)count);
}

static void metrics_page_put_jobs(const struct bench *bench, struct mpk_writer *writer)
{
    mpk_put_map(writer, 2);
    mpk_pair_map(writer, "stats", 0);
    mpk_pair_array(writer, "jobs", bench->jobs);
    for (uint32_t job = 0; job < bench->jobs; job++) {
        char name[32];
        name_job(job, name);
        mpk_put_map(writer, 3);
        mpk_pair_str(writer, "job", name);
        mpk_pair_str(writer, "run", "01000000000000000000000000000000");
        mpk_pair_str(writer, "state", "active");
    }
}

static void measure_pages(struct bench *bench, bool openmetrics)
{
    double *ms = bench_have(malloc(bench->repeats * sizeof *ms));
    size_t bytes = 0;
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    metrics_page_put_jobs(bench, &writer);
    for (uint32_t i = 0; i < bench->repeats; i++) {
        struct mpk_doc doc;
        uint64_t begin = clock_monotonic_ns();
        bench_must(mpk_parse(writer.buffer.data, writer.buffer.size, &mpk_result_limits, &doc) == 0,
                   "cannot parse");
        struct metrics_view view = {.monitor = doc.root, .jobs = "*", .openmetrics = openmetrics};
        char *page = metrics_render(bench->metrics, &view);
        bench_must(page, "out of memory");
        ms[i] = (double)(clock_monotonic_ns() - begin) / 1e6;
        bytes = strlen(page);
        free(page);
        mpk_doc_clear(&doc);
    }
    double median = bench_median(ms, bench->repeats);
    printf("{\"bench\": \"metrics_page\", \"what\": \"%s\", \"heads\": %u, \"layers\": %u, "
           "\"bytes\": %zu, \"median_ms\": %.2f, \"slowest_ms\": %.2f}\n",
           openmetrics ? "openmetrics" : "text", bench->jobs * bench->layers * bench->heads,
           bench->jobs * bench->layers, bytes, median, ms[bench->repeats - 1]);
    mpk_writer_clear(&writer);
    free(ms);
}

static void measure_latency(struct bench *bench)
{
    const uint32_t count = 10000000;
    uint64_t begin = clock_monotonic_ns();
    for (uint32_t i = 0; i < count; i++) {
        latency_add(&bench->stats.latency[0], i);
    }
    printf("{\"bench\": \"metrics_page\", \"what\": \"latency\", \"ns\": %.1f}\n",
           (double)(clock_monotonic_ns() - begin) / count);
}

int main(int argc, char **argv)
{
    struct bench *bench = bench_have(calloc(1, sizeof *bench));
    bench->jobs = argc > 1 ? (uint32_t)atoi(argv[1]) : 32;
    bench->layers = argc > 2 ? (uint32_t)atoi(argv[2]) : 98;
    bench->heads = argc > 3 ? (uint32_t)atoi(argv[3]) : 32;
    bench->repeats = argc > 4 ? (uint32_t)atoi(argv[4]) : 21;
    config_defaults(&bench->config);
    bench->config.http_metrics_layers = bench->jobs * bench->layers;
    bench->metrics = metrics_new(&bench->config, &bench->stats);
    bench_must(bench->metrics, "out of memory");
    metrics_page_put_all(bench);
    measure_pages(bench, false);
    measure_pages(bench, true);
    measure_latency(bench);
    metrics_free(&bench->metrics);
    free(bench);
    return EXIT_SUCCESS;
}

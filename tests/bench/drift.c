/* SPDX-License-Identifier: MIT */
/* drift: what comparing a window with its baseline takes, for one layer of 32 heads with the
 * default metrics of tier attention on maps of 512 x 512.
 *
 * One JSON line: memory per head, without and with the numbers of the last window; time per window
 * of the baseline and afterwards (medians, of the layer); time and size of a checkpoint. */
#include "daemon/state/drift.h"
#include "tests/bench/bench.h"
#include "tests/unit/daemon/state/measured.h"

#define HEADS   32
#define LEARNED 5
#define WINDOWS 25
#define BUCKETS 48 /* window.buckets */

static struct layer_state *drift_state_of(uint64_t seed)
{
    struct measured_options options = {
        .batch = 1, .heads = HEADS, .size = 512, .sharpness = 3, .seed = seed};
    struct measured_message *message = measured_message_new(&options, seed);
    struct layer_state *state = layer_state_new(HEADS, BUCKETS);
    bench_must(message && state &&
                   layer_state_add(state, &message->message, measure_result(message->measure)) == 0,
               "out of memory");
    measured_message_free(&message);
    return state;
}

static double window(struct drift *drift, uint64_t at)
{
    struct layer_state *state = drift_state_of(at);
    double start = bench_cpu_seconds();
    bench_must(drift_window(drift, state, at, true) == 0, "out of memory");
    double time = bench_cpu_seconds() - start;
    layer_state_free(&state);
    return time;
}

static unsigned metrics_of(const struct drift *drift)
{
    unsigned metrics = 0;
    for (int m = 0; m < METRIC_COUNT; m++) {
        metrics += drift_result(drift, m) != NULL;
    }
    return metrics;
}

int main(void)
{
    const struct drift_rule rule = {LEARNED, 0.5, 10, BUCKETS};
    struct drift *drift = drift_new(&rule, HEADS);
    double learning[LEARNED], after[WINDOWS - LEARNED];
    struct mpk_writer writer;
    bench_must(drift, "out of memory");
    for (unsigned w = 0; w < WINDOWS; w++) {
        *(w < LEARNED ? &learning[w] : &after[w - LEARNED]) = window(drift, w + 1);
    }
    unsigned metrics = metrics_of(drift);
    uint64_t with = drift_bytes(drift);
    drift_result_clear(drift);
    uint64_t without = drift_bytes(drift);
    mpk_writer_init(&writer);
    double start = bench_cpu_seconds();
    bench_must(drift_pack(drift, &writer) == 0, "out of memory");
    double packing = bench_cpu_seconds() - start;
    printf("{\"bench\":\"drift\",\"heads\":%d,\"metrics\":%u,\"bytes_per_head\":%.0f,"
           "\"with_results\":%.0f,\"learn_us\":%.0f,\"compare_us\":%.0f,\"pack_us\":%.0f,"
           "\"packed_bytes_per_head\":%.0f}\n",
           HEADS, metrics, (double)without / HEADS, (double)with / HEADS,
           1e6 * bench_median(learning, LEARNED), 1e6 * bench_median(after, WINDOWS - LEARNED),
           1e6 * packing, (double)writer.buffer.size / HEADS);
    mpk_writer_clear(&writer);
    drift_free(&drift);
    return 0;
}

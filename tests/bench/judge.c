/* SPDX-License-Identifier: MIT */
/* judge: what the default rules take to judge a window, of models of 24 x 16 and 80 x 64 heads and
 * of layers with 128.
 *
 * A JSON line per model: milliseconds of a window (median of processor time), the same per 128
 * heads, and the memory per head that rules keep. Numbers differ from head to head and
 * from window to window; in each window a head of the first layer saturates, or is as before. */
#include "daemon/alerts/alerts.h"
#include "tests/bench/bench.h"

#include <malloc.h>
#include <string.h>

enum { WINDOWS = 40, HEADS_MAX = 128 };

static struct result_stat judged_stat[METRIC_COUNT][HEADS_MAX];
static struct result_drift judged_drift[METRIC_COUNT][HEADS_MAX];

static void ignore_alert(void *data, const struct alert_result *event)
{
    (void)data;
    (void)event;
}

static void ignore_overflow(void *data, uint32_t events)
{
    (void)data;
    (void)events;
}

static const struct alert_sink ignoring = {.event = ignore_alert, .overflow = ignore_overflow};

static void judge_fill(unsigned window, unsigned layer)
{
    for (int m = 0; m < METRIC_COUNT; m++) {
        for (unsigned h = 0; h < HEADS_MAX; h++) {
            double x = 0.3 + 0.01 * ((7 * window + 5 * layer + 3 * h) % 23);
            judged_stat[m][h] = (struct result_stat){.mean = x, .max = x, .count = 16};
        }
    }
    if (layer == 0 && window % 8 < 4) {
        judged_stat[METRIC_ENTROPY_SANS_FIRST][1].mean = 0.01;
        judged_stat[METRIC_STD_LOGIT][1].mean = 50;
    }
}

/* One window of all layers: its processor time, in milliseconds. */
static double judge_window(struct alerts *alerts, unsigned window, unsigned layers, unsigned heads)
{
    static const uint8_t run[RUN_BYTES] = {1};
    struct alert_run end = {.common = {"judge", run, 0, window, 0}, .processed = layers};
    double time = 0;
    for (unsigned layer = 0; layer < layers; layer++) {
        struct summary_result summary = {.common = end.common, .heads = heads};
        judge_fill(window, layer);
        summary.layer.id = (struct layer_id){STACK_DECODER, layer, SITE_SELF};
        summary.layer.rows = 100;
        summary.layer.causal = true;
        for (int m = 0; m < METRIC_COUNT; m++) {
            summary.stat[m] = judged_stat[m];
            summary.drift[m] = judged_drift[m];
        }
        double start = bench_cpu_seconds();
        bench_must(alerts_layer(alerts, &summary, ALERTS_OF_ALL, &ignoring) == 0, "out of memory");
        time += bench_cpu_seconds() - start;
    }
    double start = bench_cpu_seconds();
    bench_must(alerts_run(alerts, &end, &ignoring) == 0, "out of memory");
    return 1e3 * (time + bench_cpu_seconds() - start);
}

static void judge_model(const struct config *config, unsigned layers, unsigned heads)
{
    double times[WINDOWS];
    size_t before = mallinfo2().uordblks;
    struct alerts *alerts = alerts_new(config, "judge");
    bench_must(alerts, "out of memory");
    for (unsigned w = 0; w < WINDOWS; w++) {
        times[w] = judge_window(alerts, w, layers, heads);
    }
    size_t bytes = mallinfo2().uordblks - before;
    double median = bench_median(times, WINDOWS);
    printf("{\"bench\":\"judge\",\"layers\":%u,\"heads\":%u,\"window_ms\":%.2f,"
           "\"ms_per_128_heads\":%.3f,\"bytes_per_head\":%.0f}\n",
           layers, heads, median, median * 128 / (layers * heads),
           (double)bytes / (layers * heads));
    alerts_free(&alerts);
}

int main(void)
{
    static struct config config;
    config_defaults(&config);
    judge_model(&config, 24, 16);
    judge_model(&config, 80, 64);
    judge_model(&config, 40, 128);
    config_clear(&config);
    return 0;
}

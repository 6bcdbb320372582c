/* SPDX-License-Identifier: MIT */
/* judge: what the default rules take to judge a window, of models of 24 x 16 and 80 x 64 heads and
 * of layers with 128.
 *
 * A JSON line per model: milliseconds of a window (median of processor time), the same per 128
 * heads, and the memory per head that rules keep. Numbers differ from head to head and
 * from window to window; in each window a head of the first layer saturates, or is as before. */
#include "daemon/alerts/alerts.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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

static double judge_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static int judge_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

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

/* One window of all layers: its processor time. */
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
        double start = judge_now();
        if (alerts_layer(alerts, &summary, &ignoring) != 0) {
            exit(1);
        }
        time += judge_now() - start;
    }
    double start = judge_now();
    if (alerts_run(alerts, &end, &ignoring) != 0) {
        exit(1);
    }
    return time + judge_now() - start;
}

static void judge_model(const struct config *config, unsigned layers, unsigned heads)
{
    double times[WINDOWS];
    size_t before = mallinfo2().uordblks;
    struct alerts *alerts = alerts_new(config, "judge");
    if (!alerts) {
        exit(1);
    }
    for (unsigned w = 0; w < WINDOWS; w++) {
        times[w] = judge_window(alerts, w, layers, heads);
    }
    size_t bytes = mallinfo2().uordblks - before;
    qsort(times, WINDOWS, sizeof *times, judge_compare);
    printf("{\"bench\":\"judge\",\"layers\":%u,\"heads\":%u,\"window_ms\":%.2f,"
           "\"ms_per_128_heads\":%.3f,\"bytes_per_head\":%.0f}\n",
           layers, heads, times[WINDOWS / 2], times[WINDOWS / 2] * 128 / (layers * heads),
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

/* SPDX-License-Identifier: MIT */
/* judge_losses: judges loss curves by the default rules, for losses.py. Each comes on stdin as a
 * count, u64, and that many f64; of each a line says the step (the number of the value) at which
 * loss_rises was told first, and between which steps it began; -1 -1 -1: it was not told. */
#include "daemon/alerts/alerts.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

struct judged {
    int64_t step, after, since;
};

static void judge_losses_on_event(void *data, const struct alert_result *event)
{
    struct judged *judged = data;
    if (judged->step < 0 && strcmp(event->rule, "loss_rises") == 0) {
        *judged = (struct judged){(int64_t)event->common.step, (int64_t)event->since_after,
                                  (int64_t)event->since_step};
    }
}

static void judge_losses_on_overflow(void *data, uint32_t events)
{
    (void)data, (void)events;
}

/* Returns whether the curve was whole. */
static bool judge_losses_curve(struct alerts *alerts, uint64_t count, struct judged *ret_judged)
{
    static const uint8_t run[RUN_BYTES] = {1};
    struct alert_sink sink = {judge_losses_on_event, judge_losses_on_overflow, ret_judged};
    struct named_value loss = {.name = "loss"};
    const struct named_values values = {.list = &loss, .count = 1};
    for (uint64_t step = 0; step < count; step++) {
        const struct log_result log = {{"job", run, 0, step, step + 1}, &values};
        bool taken;
        if (fread(&loss.number, sizeof loss.number, 1, stdin) != 1) {
            return false;
        }
        loss.kind = isfinite(loss.number) ? NAMED_NUMBER : NAMED_NONE;
        if (alerts_log(alerts, &log, 0, &sink, &taken) != 0) {
            return false;
        }
    }
    return true;
}

int main(void)
{
    struct config config;
    uint64_t count;
    bool whole = true;
    config_defaults(&config);
    while (whole && fread(&count, sizeof count, 1, stdin) == 1) {
        struct alerts *alerts = alerts_new(&config, "job");
        struct judged judged = {-1, -1, -1};
        whole = alerts && judge_losses_curve(alerts, count, &judged);
        printf("%" PRId64 " %" PRId64 " %" PRId64 "\n", judged.step, judged.after, judged.since);
        if (alerts) {
            alerts_free(&alerts);
        }
    }
    config_clear(&config);
    return whole ? 0 : 1;
}

/* SPDX-License-Identifier: MIT */
/* An alert: what a rule says about a head, a layer or a run. */
#include "proto/result_internal.h"

const char *alert_state_name(enum alert_state state)
{
    static const char *const names[] = {[ALERT_FIRING] = "firing",
                                        [ALERT_RESOLVED] = "resolved",
                                        [ALERT_FIRING_AT_END] = "firing_at_end"};
    return names[state];
}

const char *alert_severity_name(enum alert_severity severity)
{
    static const char *const names[] = {
        [ALERT_INFO] = "info", [ALERT_WARNING] = "warning", [ALERT_CRITICAL] = "critical"};
    return names[severity];
}

void alert_encode(const struct alert_result *alert, struct mpk_writer *writer)
{
    struct mpk_open map = mpk_open(writer, NULL);
    part_common(writer, "alert", &alert->common);
    mpk_pair_str(writer, "rule", alert->rule);
    mpk_pair_str(writer, "severity", alert_severity_name(alert->severity));
    mpk_pair_str(writer, "state", alert_state_name(alert->state));
    mpk_pair_str(writer, "metric", alert->metric);
    /* Nil where the alert is about something larger. */
    static const char *const keys[] = {"stack", "layer", "site"};
    if (alert->has_layer) {
        part_layer_id(writer, alert->layer);
        part_module(writer, alert->module);
    }
    for (int i = 0; i < 3 && !alert->has_layer; i++) {
        mpk_pair_nil(writer, keys[i]);
    }
    mpk_pair_u64_or_nil(writer, "head", alert->head >= 0, (uint64_t)alert->head);
    mpk_pair_f64(writer, "value", alert->value);
    mpk_pair_f64(writer, "bound", alert->bound);
    mpk_pair_map(writer, "since", 2);
    mpk_pair_u64(writer, "epoch", alert->since_epoch);
    mpk_pair_u64(writer, "step", alert->since_step);
    mpk_pair_str(writer, "message", alert->message);
    if (alert->why) {
        mpk_pair_str(writer, "why", alert->why);
    }
    if (alert->advice) {
        mpk_pair_str(writer, "advice", alert->advice);
    }
    mpk_pair_bool(writer, "snapshot", false);
    mpk_close_map(writer, &map);
}

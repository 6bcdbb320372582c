/* SPDX-License-Identifier: MIT */
/* The numbers that a monitoring system asks for every few seconds, in one answer that does not grow
 * with the layers: the counters, of each job the run that its name means and how many alerts fire,
 * by rule, and the fleet. */
#include "daemon/control/internal.h"

#include "config/rules.h"
#include "daemon/run/judging.h"

#include <string.h>

struct firing_rule {
    const char *rule; /* of the config */
    enum alert_severity severity;
    enum alert_state state;
    uint32_t count;
};

/* A rule has one severity and two states that count. */
#define FIRING_MAX (2 * RULES_MAX)

/* Runs come job by job; a job is written when the next one begins. */
struct jobs_visit {
    struct mpk_writer *result;
    const struct plans *plans;
    const struct run
        *meant; /* by the name of the job at hand, or `wanted`; NULL before the first */
    const struct run *asked;  /* whose alerts are visited now */
    const struct run *wanted; /* stands for its job; NULL = none is asked for */
    uint32_t runs;
    struct firing_rule firing[FIRING_MAX];
    uint32_t firing_count;
};

static void count_alert(void *data, const struct alert_result *alert)
{
    struct jobs_visit *visit = data;
    uint32_t i = 0;
    if (alert->state == ALERT_FIRING_AT_END && visit->asked != visit->meant) {
        return;
    }
    while (i < visit->firing_count && (visit->firing[i].severity != alert->severity ||
                                       visit->firing[i].state != alert->state ||
                                       strcmp(visit->firing[i].rule, alert->rule) != 0)) {
        i++;
    }
    if (i == FIRING_MAX) {
        return;
    }
    if (i == visit->firing_count) {
        visit->firing[visit->firing_count++] = (struct firing_rule){
            .rule = alert->rule, .severity = alert->severity, .state = alert->state};
    }
    visit->firing[i].count++;
}

static void control_monitor_put_firing(const struct jobs_visit *visit)
{
    struct mpk_writer *result = visit->result;
    mpk_pair_array(result, "firing", visit->firing_count);
    for (uint32_t i = 0; i < visit->firing_count; i++) {
        mpk_put_map(result, 4);
        mpk_pair_str(result, "rule", visit->firing[i].rule);
        mpk_pair_str(result, "severity", alert_severity_name(visit->firing[i].severity));
        mpk_pair_str(result, "state", alert_state_name(visit->firing[i].state));
        mpk_pair_u64(result, "count", visit->firing[i].count);
    }
}

static void control_monitor_put_job(const struct jobs_visit *visit)
{
    const struct run *run = visit->meant;
    struct mpk_writer *result = visit->result;
    char hex[2 * RUN_BYTES + 1];
    run_hex(run->id, hex);
    mpk_put_map(result, 16 + run_state_keys(run));
    mpk_pair_str(result, "job", run->job);
    mpk_pair_str(result, "run", hex);
    mpk_pair_u64(result, "runs", visit->runs);
    run_put_state(run, result);
    mpk_pair_u64(result, "epoch", run->epoch);
    mpk_pair_u64(result, "step", run->step);
    mpk_pair_u64(result, "heard_ns", run->last_ns + run->sink->wall_offset_ns);
    mpk_pair_u64(result, "world", run->tracks[0].window.world);
    mpk_pair_u64(result, "ranks", run->tracks[0].window.rank_count);
    mpk_pair_u64(result, "layers", HASH_COUNT(run->streams));
    mpk_pair_u64(result, "unmeasured",
                 judging_unmeasured(run, plans_for(visit->plans, run->job), NULL, NULL));
    struct reason_count dropped[TALLY_REASONS_MAX];
    struct counts counts = run_counts(run);
    uint32_t reasons = tally_reasons(&counts.tally, dropped);
    mpk_pair_u64(result, "received", counts.received + run->queued);
    mpk_pair_u64(result, "processed", counts.processed);
    mpk_pair_u64(result, "lost", counts.tally.lost);
    mpk_pair_u64(result, "gaps", counts.tally.lost + run->found);
    mpk_pair_map(result, "dropped", reasons);
    for (uint32_t i = 0; i < reasons; i++) {
        mpk_pair_u64(result, dropped[i].reason, dropped[i].count);
    }
    control_monitor_put_firing(visit);
}

int method_monitor(struct control_request *request)
{
    const struct registry *registry = request->view->registry;
    struct jobs_visit visit = {.result = request->result, .plans = request->view->plans};
    char job[JOB_NAME_MAX + 1], digits[2 * RUN_BYTES + 1];
    if (!string_param(request, "job", "", job, sizeof job) ||
        !string_param(request, "run", "", digits, sizeof digits)) {
        return ERR_ARGUMENT;
    }
    if (*digits) {
        struct run *run;
        int code = request_find_run(request, job, digits, &run);
        if (code) {
            return code;
        }
        visit.wanted = run;
    }
    mpk_put_map(request->result, 3);
    mpk_put_str(request->result, "stats");
    method_stats(request);
    mpk_put_str(request->result, "fleet");
    method_fleet(request);
    mpk_pair_array(request->result, "jobs", registry_jobs(registry));
    for (struct run *run = NULL; (run = registry_next(registry, run));) {
        struct alert_sink sink = {.event = count_alert, .data = &visit};
        if (!visit.meant || strcmp(visit.meant->job, run->job) != 0) {
            if (visit.meant) {
                control_monitor_put_job(&visit);
            }
            bool asked = visit.wanted && strcmp(visit.wanted->job, run->job) == 0;
            visit.meant = asked ? visit.wanted : registry_find(registry, run->job, "");
            visit.runs = visit.firing_count = 0;
        }
        visit.runs++;
        visit.asked = run;
        if (run->alerts && (visit.meant != visit.wanted || run == visit.wanted)) {
            if (alerts_each(run->alerts, &sink) != 0) {
                visit.result->failed = true;
            }
        }
    }
    if (visit.meant) {
        control_monitor_put_job(&visit);
    }
    return 0;
}

/* SPDX-License-Identifier: MIT */
/* verdict: what fires in a run, or did when it ended, and how many rules had something to judge. A
 * run that is not in memory (any more) is answered by the history, which does not know the latter.
 */
#include "daemon/control/internal.h"

#include "daemon/history/params.h"
#include "daemon/ingest/plan.h"

/* An answer in the making. */
struct verdict_answer {
    const struct run *run;
    const struct plan *plan;
    uint64_t limit, count; /* of alerts: listed at most; that there are */
    struct mpk_writer *result, unjudged, unmeasured;
    uint32_t unjudged_count, unmeasured_count;
};

static void verdict_on_alert(void *data, const struct alert_result *alert)
{
    struct verdict_answer *answer = data;
    if (answer->count++ < answer->limit) {
        const struct alert_result named = run_with_module(answer->run, alert);
        alert_encode(&named, answer->result);
    }
}

static void verdict_on_unjudged(void *data, const struct rule *rule)
{
    struct verdict_answer *answer = data;
    mpk_put_str(&answer->unjudged, rule->name);
    answer->unjudged_count++;
}

static void verdict_on_unmeasured(void *data, struct layer_id layer)
{
    struct verdict_answer *answer = data;
    char name[LAYER_NAME_MAX];
    if (layers_take(answer->plan->what.layers.text, layer)) {
        mpk_put_str(&answer->unmeasured, layers_name(layer, name));
        answer->unmeasured_count++;
    }
}

static int verdict_put(struct verdict_answer *answer)
{
    const struct run *run = answer->run;
    struct mpk_writer *result = answer->result;
    struct alert_sink sink = {.event = verdict_on_alert, .data = answer};
    uint64_t epoch = 0, step = 0;
    char hex[2 * RUN_BYTES + 1];
    uint32_t judged = 0;
    bool any = false;
    if (run->alerts) {
        judged = alerts_unjudged(run->alerts, verdict_on_unjudged, answer);
        alerts_unmeasured(run->alerts, verdict_on_unmeasured, answer);
        any = alerts_judged_to(run->alerts, &epoch, &step);
    }
    run_hex(run->id, hex);
    mpk_put_map(result, 8);
    mpk_pair_str(result, "job", run->job);
    mpk_pair_str(result, "run", hex);
    mpk_pair_str(result, "state", job_state_name(run->state));
    mpk_pair_u64_or_nil(result, "epoch", any, epoch);
    mpk_pair_u64_or_nil(result, "step", any, step);
    struct mpk_open alerts = mpk_open(result, "alerts");
    if (run->alerts && alerts_each(run->alerts, &sink) != 0) {
        result->failed = true;
    }
    mpk_close_array(result, &alerts);
    mpk_pair_bool(result, "more", answer->count > answer->limit);
    mpk_pair_map(result, "checks", 3);
    mpk_pair_u64(result, "judged", judged);
    mpk_pair_array(result, "unjudged", answer->unjudged_count);
    mpk_put_raw(result, answer->unjudged.buffer.data, answer->unjudged.buffer.size);
    mpk_pair_array(result, "unmeasured", answer->unmeasured_count);
    mpk_put_raw(result, answer->unmeasured.buffer.data, answer->unmeasured.buffer.size);
    return mpk_writer_ok(&answer->unjudged) && mpk_writer_ok(&answer->unmeasured) ? 0 : ERR_MEMORY;
}

static bool verdict_read_limit(struct control_request *request, uint64_t *ret_limit)
{
    *ret_limit = HISTORY_LIMIT;
    if (number_param(request, "limit", HISTORY_LIMIT_MAX, ret_limit) && *ret_limit > 0) {
        return true;
    }
    snprintf(request->detail, CONTROL_DETAIL_MAX, "limit is not accepted (valid: 1 to %d)",
             HISTORY_LIMIT_MAX);
    return false;
}

int method_verdict(struct control_request *request)
{
    struct verdict_answer answer = {.result = request->result};
    char job[JOB_NAME_MAX + 1], run[2 * RUN_BYTES + 1];
    if (!string_param(request, "job", NULL, job, sizeof job) ||
        !string_param(request, "run", "", run, sizeof run) ||
        !verdict_read_limit(request, &answer.limit)) {
        return ERR_ARGUMENT;
    }
    answer.run = registry_find(request->view->registry, job, run);
    if (!answer.run) {
        return method_history(request);
    }
    answer.plan = plans_for(request->view->plans, answer.run->job);
    mpk_writer_init(&answer.unjudged);
    mpk_writer_init(&answer.unmeasured);
    int code = verdict_put(&answer);
    mpk_writer_clear(&answer.unmeasured);
    mpk_writer_clear(&answer.unjudged);
    return code;
}

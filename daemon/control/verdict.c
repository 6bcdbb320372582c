/* SPDX-License-Identifier: MIT */
/* verdict: what fires in a run, or did when it ended, and how many rules had something to judge. A
 * run that is not in memory (any more) is answered by the history, which does not know the latter.
 */
#include "daemon/control/internal.h"

#include "daemon/history/params.h"
#include "daemon/run/judging.h"

/* An answer in the making. */
struct verdict_answer {
    const struct run *run;
    const struct plan *plan;
    uint64_t limit, count; /* of alerts: listed at most; that there are */
    struct mpk_writer *result;
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
    mpk_put_str(answer->result, rule->name);
}

static void verdict_put_checks(struct verdict_answer *answer)
{
    const struct run *run = answer->run;
    struct mpk_writer *result = answer->result;
    uint32_t judged = 0;
    mpk_pair_map(result, "checks", 3);
    struct mpk_open unjudged = mpk_open(result, "unjudged");
    if (run->alerts) {
        judged = alerts_unjudged(run->alerts, verdict_on_unjudged, answer);
    }
    mpk_close_array(result, &unjudged);
    mpk_pair_u64(result, "judged", judged);
    struct mpk_open unmeasured = mpk_open(result, "unmeasured");
    judging_unmeasured(run, answer->plan, layers_on_unmeasured, result);
    mpk_close_array(result, &unmeasured);
}

static void verdict_put(struct verdict_answer *answer)
{
    const struct run *run = answer->run;
    struct mpk_writer *result = answer->result;
    struct alert_sink sink = {.event = verdict_on_alert, .data = answer};
    uint64_t epoch = 0, step = 0;
    char hex[2 * RUN_BYTES + 1];
    bool any = run->alerts && alerts_judged_to(run->alerts, &epoch, &step);
    run_hex(run->id, hex);
    mpk_put_map(result, 7 + run_state_keys(run));
    mpk_pair_str(result, "job", run->job);
    mpk_pair_str(result, "run", hex);
    run_put_state(run, result);
    mpk_pair_u64_or_nil(result, "epoch", any, epoch);
    mpk_pair_u64_or_nil(result, "step", any, step);
    struct mpk_open alerts = mpk_open(result, "alerts");
    if (run->alerts && alerts_each(run->alerts, &sink) != 0) {
        result->failed = true;
    }
    mpk_close_array(result, &alerts);
    mpk_pair_bool(result, "more", answer->count > answer->limit);
    verdict_put_checks(answer);
}

int method_verdict(struct control_request *request)
{
    struct verdict_answer answer = {.result = request->result, .limit = HISTORY_LIMIT};
    char job[JOB_NAME_MAX + 1], run[2 * RUN_BYTES + 1];
    if (!string_param(request, "job", NULL, job, sizeof job) ||
        !string_param(request, "run", "", run, sizeof run) ||
        !number_param(request, "limit", 1, HISTORY_LIMIT_MAX, &answer.limit)) {
        return ERR_ARGUMENT;
    }
    answer.run = registry_find(request->view->registry, job, run);
    if (!answer.run) {
        return method_history(request);
    }
    answer.plan = plans_for(request->view->plans, answer.run->job);
    verdict_put(&answer);
    return 0;
}

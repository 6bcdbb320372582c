/* SPDX-License-Identifier: MIT */
/* plan.get, plan.set, plan.reset: what trainers are asked to capture. A value may be a number or
 * its text: both go through the reader of the config, so that the words of a refusal are its. */
#include "daemon/control/internal.h"

#include "config/config.h"
#include "daemon/history/params.h"
#include "daemon/ingest/plan.h"
#include "daemon/run/cost.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define SENTENCE_MAX 256

/* The cost of capturing the job under its plan; nil as long as the job has not told. */
static void control_plan_put_cost(const struct control_request *request, const char *job,
                                  const struct plan *plan)
{
    struct mpk_writer *result = request->result;
    const struct run *run = job ? registry_find(request->view->registry, job, "") : NULL;
    const struct capture_cost *cost =
        run && run->state != JOB_ENDED ? costs_largest(&run->costs) : NULL;
    bool chosen = plan->from == PLAN_FROM_CONFIG || plan->from == PLAN_FROM_SET;
    bool own = run && run->own_every > 0 && !chosen;
    uint64_t every = own ? run->own_every : plan->what.every;
    mpk_put_str(result, "cost");
    if (!cost || every == 0) {
        mpk_put_nil(result);
        return;
    }
    char sentence[SENTENCE_MAX];
    uint64_t instead_of =
        plan->from == PLAN_FROM_COST && !own ? plans_default(request->view->plans)->what.every : 0;
    double part = cost_ratio(cost) / (double)every;
    double most = config_for_job(request->view->plan_config, job)->plan_cost_max;
    /* The sentence for people. `part` of step time is captured for, `every` is in force instead of
     * `instead_of`, unless that is 0. */
    bool asked = own || chosen;
    int used = part < 0.001 ? snprintf(sentence, SENTENCE_MAX, "capture: less than 0.1 %%")
                            : snprintf(sentence, SENTENCE_MAX, "capture: %.*f %%", part < 0.0995,
                                       100 * part);
    size_t left = SENTENCE_MAX - (size_t)used;
    if (instead_of > 0) {
        snprintf(sentence + used, left,
                 " of step time: every %" PRIu64 " instead of %" PRIu64
                 ", so that it costs at most %g %%",
                 every, instead_of, 100 * most);
    } else if (asked && most > 0 && part > most) {
        snprintf(sentence + used, left,
                 " of step time, more than %g %% (plan.cost_max): every %" PRIu64 " was asked for",
                 100 * most, every);
    } else {
        snprintf(sentence + used, left, " of step time");
    }
    mpk_put_map(result, 7);
    mpk_pair_f64(result, "part", part);
    mpk_pair_f64(result, "max", most);
    mpk_pair_u64(result, "every", every);
    mpk_pair_u64_or_nil(result, "instead_of", instead_of > 0, instead_of);
    mpk_pair_f64(result, "step_seconds", cost->step_seconds);
    mpk_pair_f64(result, "capture_seconds", cost->capture_seconds);
    mpk_pair_str(result, "message", sentence);
}

/* The least head of "4-7,2". */
static unsigned long control_plan_first_head(const char *heads)
{
    unsigned long first = ULONG_MAX;
    for (const char *at = heads; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        unsigned long head = strtoul(at, NULL, 10);
        first = head < first ? head : first;
    }
    return first;
}

/* Why the plan takes nothing of an active job, by what is known of its layers; else nil. */
static void control_plan_put_note(const struct control_request *request, const char *job,
                                  const struct plan *plan)
{
    const struct run *run = job ? registry_find(request->view->registry, job, "") : NULL;
    const struct stream *first = run && run->state == JOB_ACTIVE ? run->streams : NULL;
    const char *wanted = plan->what.heads.text;
    char sentence[SENTENCE_MAX] = "";
    bool taken = false;
    uint32_t heads = 0;
    for (const struct stream *stream = first; stream; stream = stream->hh.next) {
        if (plan_takes(plan, stream->id)) {
            taken = true;
            heads = stream->heads > heads ? stream->heads : heads;
        }
    }
    if (first && !taken) {
        snprintf(sentence, SENTENCE_MAX, "nothing is captured: the job has none of layers=%.100s",
                 plan->what.layers.text);
    } else if (heads > 0 && *wanted != '*' && control_plan_first_head(wanted) >= heads) {
        snprintf(sentence, SENTENCE_MAX,
                 "nothing is captured: the layers have %" PRIu32 " head%s, none of heads=%.100s",
                 heads, heads == 1 ? "" : "s", wanted);
    }
    mpk_pair_str(request->result, "note", *sentence ? sentence : NULL);
}

/* `job` as it was asked for; NULL in the list of all. */
static void control_plan_put_plan(const struct control_request *request, const char *job,
                                  const struct plan *plan)
{
    struct mpk_writer *result = request->result;
    mpk_put_map(result, 11);
    mpk_pair_str(result, "job", job);
    mpk_pair_str(result, "pattern", plan->pattern);
    mpk_pair_str(result, "from", plan_from_name(plan->from));
    mpk_pair_u64(result, "every", plan->what.every);
    mpk_pair_str(result, "layers", plan->what.layers.text);
    mpk_pair_str(result, "heads", plan->what.heads.text);
    mpk_pair_u64(result, "samples", plan->what.samples);
    mpk_pair_u64(result, "rows", plan->what.rows);
    mpk_pair_str(result, "tier", config_tier_name(plan->what.tier));
    control_plan_put_note(request, job, plan);
    control_plan_put_cost(request, plan->from == PLAN_FROM_COST ? plan->pattern : job, plan);
}

/* Plans of all jobs are everybody's. */
static bool control_plan_lists(const struct control_request *request, const struct plan *plan)
{
    return strcmp(plan->pattern, "*") == 0 || request_lists(request, plan->pattern);
}

static int control_plan_refuse(struct control_request *request, const char *what)
{
    snprintf(request->detail, CONTROL_DETAIL_MAX, "%.*s", CONTROL_DETAIL_MAX - 1, what);
    return ERR_ARGUMENT;
}

/* "job: not the name of one: a list of 2 (valid: ...)". */
static int control_plan_refuse_value(struct control_request *request, const char *key,
                                     const char *what, const char *valid)
{
    char shown[HISTORY_SHOWN_MAX];
    snprintf(request->detail, CONTROL_DETAIL_MAX, "%s: %s: %s%s", key, what,
             history_show_value(request_param(request, key), shown), valid);
    return ERR_ARGUMENT;
}

int method_plan_get(struct control_request *request)
{
    const struct plans *plans = request->view->plans;
    char name[JOB_NAME_MAX + 1], jobs[ACCESS_JOBS_MAX];
    if (!string_param(request, "jobs", "", jobs, sizeof jobs)) {
        return ERR_ARGUMENT;
    }
    const char *job = string_param(request, "job", "", name, sizeof name);
    if (job && !*job) {
        uint32_t count = 0;
        for (uint32_t i = 0; i < plans_count(plans); i++) {
            count += control_plan_lists(request, plans_at(plans, i));
        }
        mpk_put_array(request->result, count);
        for (uint32_t i = 0; i < plans_count(plans); i++) {
            if (control_plan_lists(request, plans_at(plans, i))) {
                control_plan_put_plan(request, NULL, plans_at(plans, i));
            }
        }
    } else if (job && job_name_valid(job, strlen(job))) {
        control_plan_put_plan(request, job, plans_for(plans, job));
    } else {
        return control_plan_refuse_value(
            request, "job", "not the name of one",
            " (valid: 1 to 128 of A-Z a-z 0-9 . _ -; without it all plans are listed)");
    }
    return 0;
}

/* The name or pattern that a method is about; NULL, and why, when it is none. */
static const char *control_plan_read_pattern(struct control_request *request, char *buffer,
                                             size_t size)
{
    const char *pattern = string_param(request, "job", "", buffer, size);
    if (pattern && config_is_pattern(pattern)) {
        return pattern;
    }
    control_plan_refuse_value(request, "job", "not a name or pattern",
                              " (valid: 1 to 128 of A-Z a-z 0-9 . _ - and * ? [ ] !)");
    return NULL;
}

/* The value of a key as text; NULL when it is neither text nor a whole number. */
static const char *value_text(const struct control_request *request, const char *key, char *buffer,
                              size_t size)
{
    const msgpack_object *value = mpk_find(request->params, key);
    if (value->type == MSGPACK_OBJECT_POSITIVE_INTEGER) {
        snprintf(buffer, size, "%" PRIu64, value->via.u64);
    } else if (value->type == MSGPACK_OBJECT_NEGATIVE_INTEGER) {
        snprintf(buffer, size, "%" PRId64, value->via.i64);
    } else {
        return string_param(request, key, NULL, buffer, size);
    }
    return buffer;
}

static int control_plan_read_value(struct control_request *request, const char *key,
                                   struct config_plan *plan)
{
    char text[CONFIG_ERROR_MAX], error[CONFIG_ERROR_MAX];
    if (!request_param(request, key)) {
        return 0;
    }
    if (!value_text(request, key, text, sizeof text)) {
        char shown[HISTORY_SHOWN_MAX];
        snprintf(request->detail, CONTROL_DETAIL_MAX,
                 "plan.%s: neither a whole number nor a text of at most %d characters: %s", key,
                 CONFIG_ERROR_MAX - 1, history_show_value(request_param(request, key), shown));
        return ERR_ARGUMENT;
    }
    return config_plan_set(plan, key, text, error) == 0 ? 0 : control_plan_refuse(request, error);
}

int method_plan_set(struct control_request *request)
{
    static const char *const keys[] = {"every", "layers", "heads", "samples", "rows", "tier"};
    const struct control_view *view = request->view;
    char buffer[JOB_NAME_MAX + 1];
    const char *pattern = control_plan_read_pattern(request, buffer, sizeof buffer);
    if (!pattern) {
        return ERR_ARGUMENT;
    }
    const struct plan *before = plans_before(view->plans, pattern);
    before = before->from == PLAN_FROM_COST ? plans_default(view->plans) : before;
    struct config_plan what = before->what;
    const struct run *run = registry_find(view->registry, pattern, "");
    if (run && run->own_every > 0 && before == plans_default(view->plans)) {
        what.every = run->own_every; /* it goes before the default */
    }
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (control_plan_read_value(request, keys[i], &what) != 0) {
            return ERR_ARGUMENT;
        }
    }
    if (plans_set(view->plans, pattern, &what) != 0) {
        return control_plan_refuse(request, "64 plans are set already; plan.reset forgets one");
    }
    control_plan_put_plan(request, pattern, plans_at(view->plans, 0));
    return view->plans_changed(view->data);
}

int method_plan_reset(struct control_request *request)
{
    const struct control_view *view = request->view;
    char buffer[JOB_NAME_MAX + 1];
    const char *pattern = control_plan_read_pattern(request, buffer, sizeof buffer);
    if (!pattern) {
        return ERR_ARGUMENT;
    }
    if (plans_reset(view->plans, pattern) != 0) {
        snprintf(request->detail, CONTROL_DETAIL_MAX, "no plan was set for '%s'", pattern);
        return ERR_ARGUMENT;
    }
    control_plan_put_plan(request, pattern, plans_before(view->plans, pattern));
    return view->plans_changed(view->data);
}

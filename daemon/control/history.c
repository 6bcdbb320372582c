/* SPDX-License-Identifier: MIT */
/* Methods about the past: passed on to the history, whose answer is the answer, with two additions.
 * A job that attnd knows and the history does not is not unknown: it has no history yet. And
 * `alerts` begins with what is firing or not measured now, which is known here, also without a
 * history. And a run that is deleted is forgotten here, too. */
#include "daemon/control/internal.h"

#include "daemon/base/log.h"
#include "daemon/history/history.h"
#include "daemon/history/params.h"
#include "daemon/run/judging.h"

#include <stdlib.h>
#include <string.h>

/* A question that is on its way. */
struct history_asked {
    struct pending *pending;
    const struct control_view *view;
    struct mpk_writer firing, unmeasured; /* of `alerts`: lists */
    uint32_t older;                       /* of it, the last ones */
    bool alerts;
    bool changes, deletes; /* the run; deletes: for good */
    char job[JOB_NAME_MAX + 1];
    char run[2 * RUN_BYTES + 1]; /* of what changes */
};

static void asked_free(struct history_asked *asked)
{
    mpk_writer_clear(&asked->firing);
    mpk_writer_clear(&asked->unmeasured);
    free(asked);
}

/* `past`: the history's map of two keys, or NULL when it has none of the job, or is off. */
static void answer_alerts(struct history_asked *asked, const struct mpk_writer *past, bool off)
{
    struct mpk_writer result;
    mpk_writer_init(&result);
    mpk_put_map(&result, 5);
    mpk_pair_u64(&result, "older", asked->older);
    mpk_put_str(&result, "firing");
    mpk_put_raw(&result, asked->firing.buffer.data, asked->firing.buffer.size);
    mpk_put_str(&result, "unmeasured");
    mpk_put_raw(&result, asked->unmeasured.buffer.data, asked->unmeasured.buffer.size);
    if (past) {
        mpk_put_raw(&result, past->buffer.data + 1, past->buffer.size - 1);
    } else {
        if (off) {
            mpk_pair_nil(&result, "alerts");
        } else {
            mpk_pair_array(&result, "alerts", 0);
        }
        mpk_pair_bool(&result, "more", false);
    }
    int code =
        mpk_writer_ok(&result) && mpk_writer_ok(&asked->firing) && mpk_writer_ok(&asked->unmeasured)
            ? 0
            : ERR_MEMORY;
    pending_answer(&asked->pending, code, NULL, &result);
    mpk_writer_clear(&result);
}

/* A run that is to be deleted may not come back with its next message. */
static bool control_history_goes_on(const struct run *run)
{
    enum job_state state = run_shown(run);
    return state == JOB_ACTIVE || state == JOB_IDLE || run_busy(run);
}

static void control_history_on_answered(void *data, int code, const char *detail,
                                        const struct mpk_writer *result)
{
    struct history_asked *asked = data;
    struct registry *registry = asked->view->registry;
    struct run *run = asked->changes ? registry_find(registry, asked->job, asked->run) : NULL;
    char text[CONTROL_DETAIL_MAX];
    if (code == ERR_RUN_UNKNOWN && run) {
        code = ERR_NO_HISTORY;
        detail = "the run is not in the history yet: try again in a few seconds";
    } else if (code == ERR_JOB_UNKNOWN && registry_knows(registry, asked->job)) {
        code = ERR_NO_HISTORY; /* which the history cannot know */
        snprintf(text, sizeof text,
                 "%s has no window in the history yet: it comes soon after the first one closes",
                 asked->job);
        detail = text;
    }
    if (asked->deletes && run) {
        run->deleting = false;
    }
    if (asked->deletes && !code) {
        log_event(LOG_INFO, "run_deleted", LOG_STR("job", asked->job), LOG_STR("run", asked->run));
        if (run && !control_history_goes_on(run)) {
            registry_drop_run(registry, run);
        }
    }
    if (asked->alerts && (code == 0 || code == ERR_NO_HISTORY || code == ERR_HISTORY_OFF)) {
        answer_alerts(asked, code ? NULL : result, code == ERR_HISTORY_OFF);
    } else {
        pending_answer(&asked->pending, code, detail, result);
    }
    asked_free(asked);
}

/* Firing alerts */

struct firing {
    const struct control_request *request;
    struct history_params wanted;
    bool older; /* those of runs that are over, and that the job's name does not mean; or others */
    uint32_t older_count;
    struct mpk_writer *list, *unmeasured;
    const struct run *asked; /* whose alerts are visited now */
    const struct run *meant; /* by the name of its job */
    bool listed;             /* this job is asked for */
};

static void visit_alert(void *data, const struct alert_result *alert)
{
    struct firing *firing = data;
    const struct history_params *wanted = &firing->wanted;
    if (*wanted->rule && strcmp(wanted->rule, alert->rule) != 0) {
        return;
    }
    if (*wanted->severity && strcmp(wanted->severity, alert_severity_name(alert->severity)) != 0) {
        return;
    }
    const struct alert_result named = run_with_module(firing->asked, alert);
    alert_encode(&named, firing->list);
    firing->older_count += firing->older;
}

/* Adds a run that is not older, unless all is measured. */
static void control_history_put_unmeasured(struct firing *firing, const struct run *run)
{
    const struct plan *plan = plans_for(firing->request->view->plans, run->job);
    char hex[2 * RUN_BYTES + 1];
    if (judging_unmeasured(run, plan, NULL, NULL) == 0) {
        return;
    }
    run_hex(run->id, hex);
    mpk_put_map(firing->unmeasured, 3);
    mpk_pair_str(firing->unmeasured, "job", run->job);
    mpk_pair_str(firing->unmeasured, "run", hex);
    struct mpk_open layers = mpk_open(firing->unmeasured, "layers");
    judging_unmeasured(run, plan, layers_on_unmeasured, firing->unmeasured);
    mpk_close_array(firing->unmeasured, &layers);
}

static void control_history_visit_run(struct firing *firing, struct run *run)
{
    struct alert_sink sink = {.event = visit_alert, .data = firing};
    const struct history_params *wanted = &firing->wanted;
    char hex[2 * RUN_BYTES + 1];
    run_hex(run->id, hex);
    if (!firing->meant || strcmp(firing->meant->job, run->job) != 0) {
        firing->meant = registry_find(firing->request->view->registry, run->job, "");
        firing->listed = request_lists(firing->request, run->job);
    }
    bool older = !*wanted->run && run != firing->meant && run_shown(run) != JOB_ACTIVE;
    if ((*wanted->job && strcmp(wanted->job, run->job) != 0) || !firing->listed ||
        strncmp(wanted->run, hex, strlen(wanted->run)) != 0 || !run->alerts ||
        older != firing->older) {
        return;
    }
    if (!older) {
        control_history_put_unmeasured(firing, run);
    }
    firing->asked = run;
    if (alerts_each(run->alerts, &sink) != 0) {
        firing->list->failed = true;
    }
}

/* Asking */

/* The answer is pending from here on, whatever happens. */
static int ask_or_answer(struct control_request *request, struct history_asked *asked)
{
    asked->view = request->view;
    string_param(request, "job", "", asked->job, sizeof asked->job);
    asked->pending = request_defer(request);
    if (!asked->pending) {
        asked_free(asked);
        return ERR_MEMORY;
    }
    struct mpk_writer params;
    mpk_writer_init(&params);
    if (msgpack_pack_object(&params.packer, *request->params) != 0) {
        params.failed = true;
    }
    int code = mpk_writer_ok(&params)
                   ? history_ask(request->view->history, request->asker, request->method,
                                 params.buffer.data, params.buffer.size,
                                 control_history_on_answered, asked)
                   : ERR_MEMORY;
    mpk_writer_clear(&params);
    if (code) {
        control_history_on_answered(asked, code, NULL, NULL);
    }
    return CONTROL_WAIT;
}

static struct history_asked *asked_new(void)
{
    struct history_asked *asked = calloc(1, sizeof *asked);
    if (asked) {
        mpk_writer_init(&asked->firing);
        mpk_writer_init(&asked->unmeasured);
    }
    return asked;
}

int method_history(struct control_request *request)
{
    struct history_asked *asked = asked_new();
    return asked ? ask_or_answer(request, asked) : ERR_MEMORY;
}

/* Refuses to delete a run by what is known of it here; else the history is asked. */
static int control_history_change(struct control_request *request, bool deletes)
{
    struct history_params params;
    if (history_params_read(request->params, request->takes, &params, request->detail,
                            CONTROL_DETAIL_MAX) != 0) {
        return ERR_ARGUMENT;
    }
    if (strlen(params.run) != 2 * RUN_BYTES) {
        return request_refuse(request, "run", "all 32 hexadecimal digits of a run");
    }
    struct run *run = registry_find(request->view->registry, params.job, params.run);
    if (deletes && request->view->config->fleet_role == CONFIG_ROLE_HUB) {
        snprintf(request->detail, CONTROL_DETAIL_MAX,
                 "this attnd is a hub, and the nodes would bring the run back: it goes with "
                 "history.max_age; until then it can be archived");
        return ERR_HUB;
    }
    if (deletes && run && control_history_goes_on(run)) {
        snprintf(request->detail, CONTROL_DETAIL_MAX,
                 "its training goes on: it can be deleted when it has ended, or when there was no "
                 "news of it for limits.no_news");
        return ERR_RUNNING;
    }
    struct history_asked *asked = asked_new();
    if (!asked) {
        return ERR_MEMORY;
    }
    asked->changes = true;
    asked->deletes = deletes && !params.dry;
    strcpy(asked->run, params.run);
    if (run) {
        run->deleting = asked->deletes;
    }
    int code = ask_or_answer(request, asked);
    if (code != CONTROL_WAIT && run) { /* nobody answers it */
        run->deleting = false;
    }
    return code;
}

int method_run_set(struct control_request *request)
{
    return control_history_change(request, false);
}

int method_run_delete(struct control_request *request)
{
    return control_history_change(request, true);
}

int method_alerts(struct control_request *request)
{
    struct firing firing = {.request = request};
    if (history_params_read(request->params, request->takes, &firing.wanted, request->detail,
                            CONTROL_DETAIL_MAX) != 0) {
        return ERR_ARGUMENT;
    }
    struct history_asked *asked = asked_new();
    if (!asked) {
        return ERR_MEMORY;
    }
    asked->alerts = true;
    struct mpk_open open = mpk_open(&asked->firing, NULL),
                    unmeasured = mpk_open(&asked->unmeasured, NULL);
    firing.list = &asked->firing;
    firing.unmeasured = &asked->unmeasured;
    for (int older = 0; older < 2; older++) {
        firing.older = older;
        firing.meant = NULL;
        for (struct run *run = NULL; (run = registry_next(request->view->registry, run));) {
            control_history_visit_run(&firing, run);
        }
    }
    mpk_close_array(&asked->firing, &open);
    mpk_close_array(&asked->unmeasured, &unmeasured);
    asked->older = firing.older_count;
    return ask_or_answer(request, asked);
}

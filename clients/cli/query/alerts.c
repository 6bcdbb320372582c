/* SPDX-License-Identifier: MIT */
/* alerts: the alerts that fire now, or fired when their run ended, worst first, and with --all
 * those before, each once, by what was said of it last. An alert that fires, or did at the end, is
 * bad news: exit status 1, the latter as long as the name of its job means that run. */
#include "clients/cli/base/cli.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/out.h"
#include "clients/cli/base/system.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define JOB_WIDTH 20

/* How many fire that are not over with a run that the name of its job does not mean: those come
 * first. */
static uint32_t alerts_current(const msgpack_object *result)
{
    uint32_t all = mpk_items(mpk_find(result, "firing"));
    uint64_t older = mpk_find_u64(result, "older");
    return older < all ? all - (uint32_t)older : 0;
}

/* Alerts in the order in which they are shown. */
struct alerts_list {
    const msgpack_object **alert;
    uint32_t count;
};

/* Adds those from `from` to `to`, of one severity unless it is NULL, that are not in the list. */
static void alerts_list_add(struct alerts_list *list, const msgpack_object *alerts, uint32_t from,
                            uint32_t to, const char *severity)
{
    for (uint32_t i = from; i < to; i++) {
        const msgpack_object *alert = field_at(alerts, i);
        bool known = severity && !mpk_is_str(mpk_find(alert, "severity"), severity);
        for (uint32_t l = 0; l < list->count && !known; l++) {
            /* An alert may fire, fire at the end and be resolved: it is the same while it fires
             * since then. */
            const msgpack_object *one = list->alert[l];
            static const char *const keys[] = {"since", "rule", "head", "layer",
                                               "stack", "site", "run"};
            known = true;
            for (size_t j = 0; j < sizeof keys / sizeof keys[0] && known; j++) {
                const msgpack_object *a = mpk_find(one, keys[j]), *b = mpk_find(alert, keys[j]);
                known = a && b ? msgpack_object_equal(*a, *b) : a == b;
            }
        }
        if (!known) {
            list->alert[list->count++] = alert;
        }
    }
}

static void alerts_print_unmeasured(struct cli *cli, const msgpack_object *runs, bool with_job)
{
    for (uint32_t i = 0; i < mpk_items(runs); i++) {
        const msgpack_object *run = field_at(runs, i);
        char whose[JOB_NAME_MAX + 24];
        snprintf(whose, sizeof whose, "%s%srun %.8s: ", with_job ? FIELD_TEXT(run, "job") : "",
                 with_job ? ", " : "", FIELD_TEXT(run, "run"));
        verdict_print_unmeasured(cli, whose, mpk_find(run, "layers"));
    }
}

/* The list of `past` is nil when there is no history. */
int show_alerts(struct cli *cli, const msgpack_object *result)
{
    static const char *const severities[] = {"critical", "warning", "info"};
    const msgpack_object *firing = mpk_find(result, "firing");
    const msgpack_object *past = mpk_find(result, "alerts");
    uint32_t current = alerts_current(result);
    uint32_t older = mpk_items(firing) - current;
    bool all = cli->args->given & ARGS_ALL;
    bool with_job = cli->args->word_count < 2;
    const char *hint = all ? "" : "; attnctl alerts --all shows earlier ones";
    struct alerts_list list = {
        .alert = memory_new((size_t)mpk_items(firing) + mpk_items(past) + 1, sizeof *list.alert)};
    for (int i = 0; i < 3; i++) {
        alerts_list_add(&list, firing, 0, current, severities[i]);
    }
    current = list.count;
    if (all) {
        alerts_list_add(&list, past, 0, mpk_items(past), NULL);
        alerts_list_add(&list, firing, mpk_items(firing) - older, mpk_items(firing), NULL);
    }
    if (current == 0) {
        fprintf(cli->out, "nothing is firing%s\n", hint);
        if (!with_job) {
            verdict_print(cli, false);
        }
    }
    if (list.count > 0) {
        struct out_table table;
        out_begin(&table, with_job ? "SEVERITY|JOB|RUN|RULE|WHERE|STATE|VALUE|BOUND|SINCE"
                                   : "SEVERITY|RUN|RULE|WHERE|STATE|VALUE|BOUND|SINCE");
        for (uint32_t i = 0; i < list.count; i++) {
            const msgpack_object *alert = list.alert[i];
            out_text(&table, alert, "severity", 0);
            if (with_job) {
                out_text(&table, alert, "job", JOB_WIDTH);
            }
            const char *place = FIELD_PLACE(alert);
            out_cell(&table, "%.8s", FIELD_TEXT(alert, "run"));
            out_text(&table, alert, "rule", 0);
            out_cell(&table, "%s", strcmp(place, "-") == 0 ? "the run" : place);
            out_cell(&table, "%s", FIELD_STATE(alert));
            out_number(&table, mpk_find(alert, "value"));
            out_number(&table, mpk_find(alert, "bound"));
            out_cell(&table, "%s", FIELD_SINCE(alert));
        }
        out_print(&table, cli->width, true, cli->out);
    }
    for (uint32_t i = 0; i < current; i++) {
        char job[JOB_WIDTH + 8] = "";
        if (with_job) {
            field_text(list.alert[i], "job", job, sizeof job);
            out_shorten(job, JOB_WIDTH);
        }
        fprintf(cli->out, "%s%s%s%s\n", i == 0 ? "\n" : "", job, with_job ? ": " : "",
                FIELD_TEXT(list.alert[i], "message"));
    }
    free(list.alert);
    if (with_job || current > 0) { /* else the verdict has said it */
        alerts_print_unmeasured(cli, mpk_find(result, "unmeasured"), with_job);
    }
    if (!all && older > 0) {
        fprintf(cli->out,
                "%" PRIu32
                " fired at the end of runs of a job of which another goes on or ended later\n",
                older);
    }
    if (all && past && past->type == MSGPACK_OBJECT_NIL) {
        fputs("there is no history of resolved alerts\n", cli->out);
    }
    if (all && field_bool(result, "more")) {
        fputs("there are earlier ones: --count shows more\n", cli->out);
    }
    runs_print_history(cli);
    return CLI_OK;
}

int judge_alerts(struct cli *cli, const msgpack_object *result)
{
    (void)cli;
    return alerts_current(result) > 0 ? CLI_FINDING : CLI_OK;
}

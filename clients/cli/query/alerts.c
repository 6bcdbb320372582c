/* SPDX-License-Identifier: MIT */
/* alerts: the alerts that fire now, or fired when their run ended, and with --all everything that
 * was told before. An alert that fires, or did at the end, is bad news: exit status 1, until its
 * job has a newer run. */
#include "clients/cli/base/cli.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/out.h"

#include <inttypes.h>
#include <string.h>

#define EVENTS_DEFAULT 50
#define JOB_WIDTH      20

static void alerts_add_alert(struct out_table *table, const msgpack_object *alert, bool with_job)
{
    out_text(table, alert, "severity", 0);
    if (with_job) {
        out_text(table, alert, "job", JOB_WIDTH);
    }
    char run[9], place[LAYER_TEXT_MAX], state[FIELD_STATE_MAX];
    field_text(alert, "run", run, sizeof run);
    out_cell(table, "%s", run);
    out_text(table, alert, "rule", 0);
    field_place(alert, place);
    field_alert_state(alert, state);
    out_cell(table, "%s", strcmp(place, "-") == 0 ? "the run" : place);
    out_cell(table, "%s", state);
    out_number(table, mpk_find(alert, "value"));
    out_number(table, mpk_find(alert, "bound"));
    out_cell(table, "step %" PRIu64, mpk_find_u64(mpk_find(alert, "since"), "step"));
}

/* How many fire that are not over with their run, whose job has a newer one: those come first. */
static uint32_t alerts_current(const msgpack_object *result)
{
    uint32_t all = mpk_items(mpk_find(result, "firing"));
    uint64_t older = mpk_find_u64(result, "older");
    return older < all ? all - (uint32_t)older : 0;
}

/* The list of `past` is nil when there is no history. */
static int show_alerts(struct cli *cli, const msgpack_object *result)
{
    const msgpack_object *firing = mpk_find(result, "firing");
    const msgpack_object *past = mpk_find(result, "alerts");
    uint32_t current = alerts_current(result);
    uint32_t older = mpk_items(firing) - current;
    bool all = cli->args->given & ARGS_ALL;
    const char *hint = all ? "" : "; attnctl alerts --all shows earlier ones";
    if (current == 0) {
        fprintf(cli->out, "nothing is firing%s\n", hint);
    }
    if (current > 0 || (all && mpk_items(past) > 0)) {
        bool with_job = cli->args->word_count < 2;
        struct out_table table;
        out_begin(&table, with_job ? "SEVERITY|JOB|RUN|RULE|WHERE|STATE|VALUE|BOUND|SINCE"
                                   : "SEVERITY|RUN|RULE|WHERE|STATE|VALUE|BOUND|SINCE");
        for (uint32_t i = 0; i < current; i++) {
            alerts_add_alert(&table, &firing->via.array.ptr[i], with_job);
        }
        for (uint32_t i = 0; all && i < mpk_items(past); i++) {
            alerts_add_alert(&table, &past->via.array.ptr[i], with_job);
        }
        out_print(&table, cli->width, true, cli->out);
    }
    for (uint32_t i = 0; i < current; i++) {
        char message[512];
        field_text(&firing->via.array.ptr[i], "message", message, sizeof message);
        fprintf(cli->out, "%s%s\n", i == 0 ? "\n" : "", message);
    }
    if (!all && older > 0) {
        fprintf(cli->out,
                "%" PRIu32 " fired at the end of runs that a newer run of their job followed\n",
                older);
    }
    if (all && past && past->type == MSGPACK_OBJECT_NIL) {
        fputs("there is no history of resolved alerts\n", cli->out);
    }
    if (all && field_bool(result, "more")) {
        fputs("there are earlier ones: --count shows more\n", cli->out);
    }
    return CLI_OK;
}

static int alerts_answer(struct cli *cli, const msgpack_object *result)
{
    bool json = cli->args->given & ARGS_JSON;
    int code = (json ? cli_print_json : show_alerts)(cli, result);
    return code == CLI_OK && alerts_current(result) > 0 ? CLI_FINDING : code;
}

int cmd_alerts(struct cli *cli)
{
    struct ask ask;
    ask_past(&ask, cli->args);
    ask_range(&ask, cli->args);
    ask_limit(&ask, cli->args, EVENTS_DEFAULT);
    return ask_read(cli, "alerts", &ask, alerts_answer);
}

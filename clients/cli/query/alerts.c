/* SPDX-License-Identifier: MIT */
/* alerts: the alerts that are firing now, and with --all those that fired and were resolved before.
 * Something that fires is bad news: exit status 1. */
#include "clients/cli/base/cli.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/out.h"

#include "proto/header.h"

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
    out_text(table, alert, "rule", 0);
    /* "decoder.3.self.h2", "decoder.3.self", "the run". */
    const msgpack_object *head = mpk_find(alert, "head");
    char layer[LAYER_TEXT_MAX];
    field_layer(alert, layer);
    if (strcmp(layer, "-") == 0) {
        out_cell(table, "the run");
    } else if (head && head->type == MSGPACK_OBJECT_POSITIVE_INTEGER) {
        out_cell(table, "%s.h%" PRIu64, layer, head->via.u64);
    } else {
        out_cell(table, "%s", layer);
    }
    out_number(table, mpk_find(alert, "value"));
    out_number(table, mpk_find(alert, "bound"));
    out_cell(table, "step %" PRIu64, field_u64(mpk_find(alert, "since"), "step"));
    out_text(table, alert, "state", 0);
}

static const msgpack_object *alerts_item(const msgpack_object *list, uint32_t index)
{
    return &list->via.array.ptr[index];
}

static uint32_t alerts_length_of(const msgpack_object *list)
{
    return list && list->type == MSGPACK_OBJECT_ARRAY ? list->via.array.size : 0;
}

/* The list of `past` is nil when there is no history. */
static int show_alerts(struct cli *cli, const msgpack_object *result)
{
    const msgpack_object *firing = mpk_find(result, "firing");
    const msgpack_object *past = mpk_find(result, "alerts");
    bool all = cli->args->given & ARGS_ALL;
    const char *hint = all ? "" : "; attnctl alerts --all shows resolved ones";
    if (alerts_length_of(firing) == 0) {
        fprintf(cli->out, "nothing is firing%s\n", hint);
    }
    if (alerts_length_of(firing) > 0 || (all && alerts_length_of(past) > 0)) {
        const msgpack_object *table_past = all ? past : NULL;
        bool with_job = cli->args->word_count < 2;
        struct out_table table;
        out_begin(&table, with_job ? "SEVERITY|JOB|RULE|WHERE|VALUE|BOUND|SINCE|STATE"
                                   : "SEVERITY|RULE|WHERE|VALUE|BOUND|SINCE|STATE");
        for (uint32_t i = 0; i < alerts_length_of(firing); i++) {
            alerts_add_alert(&table, alerts_item(firing, i), with_job);
        }
        for (uint32_t i = 0; i < alerts_length_of(table_past); i++) {
            alerts_add_alert(&table, alerts_item(table_past, i), with_job);
        }
        out_print(&table, cli->width, true, cli->out);
    }
    for (uint32_t i = 0; i < alerts_length_of(firing); i++) {
        char message[512];
        field_text(alerts_item(firing, i), "message", message, sizeof message);
        fprintf(cli->out, "%s%s\n", i == 0 ? "\n" : "", message);
    }
    if (all && past && past->type == MSGPACK_OBJECT_NIL) {
        fputs("there is no history of resolved alerts\n", cli->out);
    }
    if (all && field_bool(result, "more")) {
        fputs("there are earlier ones: --count shows more\n", cli->out);
    }
    return alerts_length_of(firing) > 0 ? CLI_FINDING : CLI_OK;
}

static int alerts_answer(struct cli *cli, const msgpack_object *result)
{
    bool firing = alerts_length_of(mpk_find(result, "firing")) > 0;
    bool json = cli->args->given & ARGS_JSON;
    int code = (json ? cli_print_json : show_alerts)(cli, result);
    return code == CLI_OK && firing ? CLI_FINDING : code;
}

int cmd_alerts(struct cli *cli)
{
    struct ask ask;
    ask_past(&ask, cli->args);
    ask_range(&ask, cli->args);
    ask_limit(&ask, cli->args, EVENTS_DEFAULT);
    return ask_read(cli, "alerts", &ask, alerts_answer);
}

/* SPDX-License-Identifier: MIT */
/* alerts: the alerts that are firing now, and with --all those that fired and were resolved before.
 * Something that fires is bad news: exit status 1. */
#include "clients/cli/base/ask.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/out.h"

#include "proto/header.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define EVENTS_DEFAULT 50
#define EVENTS_MAX     200000
#define JOB_WIDTH      20

static void alerts_add_number(struct out_table *table, double number)
{
    if (isnan(number)) {
        out_cell(table, "-");
    } else {
        out_cell(table, "%.4g", number);
    }
}

static void alerts_add_alert(struct out_table *table, const msgpack_object *alert, bool with_job)
{
    const msgpack_object *since = mpk_find(alert, "since");
    char text[OUT_CELL_MAX];
    field_text(alert, "severity", text, sizeof text);
    out_cell(table, "%s", text);
    if (with_job) {
        field_text(alert, "job", text, sizeof text);
        out_shorten(text, JOB_WIDTH);
        out_cell(table, "%s", text);
    }
    field_text(alert, "rule", text, sizeof text);
    out_cell(table, "%s", text);
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
    alerts_add_number(table, field_number(mpk_find(alert, "value")));
    alerts_add_number(table, field_number(mpk_find(alert, "bound")));
    out_cell(table, "step %" PRIu64, field_u64(since, "step"));
    field_text(alert, "state", text, sizeof text);
    out_cell(table, "%s", text);
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
        out_init(&table, 7 + with_job);
        out_cell(&table, "SEVERITY");
        if (with_job) {
            out_cell(&table, "JOB");
        }
        for (int i = 0; i < 6; i++) {
            out_cell(&table, "%s",
                     ((const char *[]){"RULE", "WHERE", "VALUE", "BOUND", "SINCE", "STATE"})[i]);
        }
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

int cmd_alerts(struct cli *cli)
{
    const struct args *args = cli->args;
    struct rpc_reply reply;
    struct ask ask;
    uint64_t count = args->count ? args->count : EVENTS_DEFAULT;
    int code = ask_patiently(cli);
    if (code != CLI_OK) {
        return code;
    }
    ask_init(&ask);
    ask_text(&ask, "job", args->word_count > 1 ? args->words[1] : NULL);
    ask_text(&ask, "run", args->run);
    if (args->given & ARGS_FROM) {
        ask_number(&ask, "from", args->from);
    }
    if (args->given & ARGS_TO) {
        ask_number(&ask, "to", args->to);
    }
    ask_number(&ask, "limit", count < EVENTS_MAX ? count : EVENTS_MAX);
    code = ask_call(cli, "alerts", &ask, &reply);
    if (code != CLI_OK) {
        return code;
    }
    bool firing = alerts_length_of(mpk_find(reply.result, "firing")) > 0;
    if (args->given & ARGS_JSON) {
        code = cli_print_json(cli, reply.result);
    } else {
        code = show_alerts(cli, reply.result);
    }
    rpc_reply_clear(&reply);
    return code == CLI_OK && firing ? CLI_FINDING : code;
}

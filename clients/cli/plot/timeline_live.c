/* SPDX-License-Identifier: MIT */
/* The history of a running attnd: which layers there are, then layer by layer what is asked for,
 * page by page; and its alerts. */
#include "clients/cli/plot/timeline.h"

#include "clients/cli/base/ask.h"
#include "clients/cli/base/series.h"
#include "clients/cli/base/unknown.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define PAGE       2000
#define ALERTS_MAX 10000

struct asking {
    struct plot *plot;
    struct timeline *timeline;
    const char *job;
    char run[40];
    struct layer_id id; /* of the layer that is asked for */
};

static struct layer_id id_of(const msgpack_object *map)
{
    char stack[16], site[16];
    field_text(map, "stack", stack, sizeof(stack));
    field_text(map, "site", site, sizeof(site));
    return (struct layer_id){strcmp(stack, stack_name(STACK_ENCODER)) == 0 ? STACK_ENCODER
                                                                           : STACK_DECODER,
                             (uint32_t)field_u64(map, "layer"),
                             strcmp(site, site_name(SITE_SELF)) == 0 ? SITE_SELF : SITE_CROSS};
}

/* -1 when the number is the layer's. */
static int32_t head_of(const msgpack_object *map)
{
    const msgpack_object *head = mpk_find(map, "head");
    bool is = head && head->type == MSGPACK_OBJECT_POSITIVE_INTEGER && head->via.u64 <= INT32_MAX;
    return is ? (int32_t)head->via.u64 : -1;
}

/* Windows --------------------------------------------------------------------------------------
 */

static int take_head(struct asking *asking, const struct series *series, uint32_t index)
{
    const msgpack_object *heads = mpk_find(series->map, "heads");
    int32_t head = head_of(&heads->via.array.ptr[index]);
    if (!timeline_wants(asking->plot, asking->id, head))
        return CLI_OK;
    for (uint32_t window = 0; window < series->windows; window++) {
        struct timeline_record record = {.row = {asking->id, head},
                                         .step = series_window(series, "step", window),
                                         .mean = series_value(series, "mean", index, window),
                                         .std = series_value(series, "std", index, window),
                                         .p10 = series_value(series, "p10", index, window),
                                         .p90 = series_value(series, "p90", index, window)};
        if (timeline_add(asking->timeline, &record) != 0)
            return plot_fail_memory(asking->plot);
    }
    return CLI_OK;
}

/* Windows from one on, as far as --to says; NULL: whatever --from and --to say. */
static int ask_page(struct asking *asking, const uint64_t *from, uint64_t limit,
                    struct rpc_reply *ret_reply, bool *ret_any)
{
    const struct args *args = asking->plot->cli->args;
    struct ask ask;
    ask_init(&ask);
    ask_text(&ask, "job", asking->job);
    ask_text(&ask, "run", asking->run);
    ask_text(&ask, "stack", stack_name(asking->id.stack));
    ask_number(&ask, "layer", asking->id.layer);
    ask_text(&ask, "site", site_name(asking->id.site));
    ask_text(&ask, "metric", asking->timeline->metric);
    ask_text(&ask, "window", args->window);
    if (from)
        ask_number(&ask, "from", *from);
    if (from && args->given & ARGS_TO)
        ask_number(&ask, "to", args->to);
    ask_number(&ask, "limit", limit);
    return ask_for_any(asking->plot->cli, "history", &ask, ret_reply, ret_any);
}

static int load_layer(struct asking *asking)
{
    const struct args *args = asking->plot->cli->args;
    uint64_t from = args->given & ARGS_FROM ? args->from : 0;
    bool more = true;
    while (more) {
        struct rpc_reply reply;
        int code = ask_page(asking, &from, PAGE, &reply, &more);
        if (code != CLI_OK || !more)
            return code;
        struct series series = series_of(reply.result);
        for (uint32_t i = 0; i < series.heads && code == CLI_OK; i++)
            code = take_head(asking, &series, i);
        more = series.windows > 0 && field_bool(reply.result, "more");
        if (series.windows > 0)
            from = series_window(&series, "last", series.windows - 1) + 1;
        rpc_reply_clear(&reply);
        if (code != CLI_OK)
            return code;
    }
    return CLI_OK;
}

static bool is_same_track(const msgpack_object *a, const msgpack_object *b)
{
    char unit_a[16], unit_b[16];
    field_text(a, "unit", unit_a, sizeof(unit_a));
    field_text(b, "unit", unit_b, sizeof(unit_b));
    return strcmp(unit_a, unit_b) == 0 && field_u64(a, "length") == field_u64(b, "length") &&
           field_u64(a, "every") == field_u64(b, "every");
}

static bool has_metric(const msgpack_object *layer, const char *metric)
{
    const msgpack_object *metrics = mpk_find(layer, "metrics");
    char name[FIELD_NAME_MAX];
    for (uint32_t i = 0; i < field_length(metrics); i++) {
        field_show(&metrics->via.array.ptr[i], name, sizeof(name));
        if (strcmp(name, metric) == 0)
            return true;
    }
    return false;
}

/* What there is of a layer when --from and --to have left nothing: a window without them says of
 * which length those are that were meant, and the layer from where to where these are. */
static int note_range(struct asking *asking, const msgpack_object *layer)
{
    const msgpack_object *tracks = mpk_find(layer, "tracks");
    struct rpc_reply reply;
    bool any;
    int code = ask_page(asking, NULL, 1, &reply, &any);
    if (code != CLI_OK || !any)
        return code;
    for (uint32_t i = 0; i < field_length(tracks); i++) {
        const msgpack_object *track = &tracks->via.array.ptr[i];
        if (!is_same_track(track, reply.result))
            continue;
        timeline_leave_out(asking->timeline,
                           field_u64(track, "first") + field_u64(track, "length") - 1);
        timeline_leave_out(asking->timeline, field_u64(track, "last"));
    }
    rpc_reply_clear(&reply);
    return CLI_OK;
}

static int load_layers(struct asking *asking, const msgpack_object *result)
{
    const msgpack_object *layers = mpk_find(result, "layers");
    char unknown[UNKNOWN_TEXT_MAX];
    int code = CLI_OK;
    field_text(result, "run", asking->run, sizeof(asking->run));
    if (field_length(layers) > 0 &&
        unknown_in_layers(layers, asking->timeline->metric, asking->job, unknown))
        return plot_fail(asking->plot, CLI_USAGE, "--metric: '%.80s': not in run %.8s of %.80s%s",
                         asking->timeline->metric, asking->run, asking->job, unknown);
    for (uint32_t i = 0; i < field_length(layers) && code == CLI_OK; i++) {
        const msgpack_object *layer = &layers->via.array.ptr[i];
        int32_t head = asking->plot->options.has_head ? (int32_t)asking->plot->options.head : -1;
        asking->id = id_of(layer);
        if (!timeline_wants(asking->plot, asking->id, head) ||
            !has_metric(layer, asking->timeline->metric))
            continue;
        code = load_layer(asking);
        if (code == CLI_OK && asking->timeline->record_count == 0)
            code = note_range(asking, layer);
    }
    return code;
}

/* Alerts ---------------------------------------------------------------------------------------
 */

/* Of the metric, and of a layer that is drawn or of the whole run. */
static bool is_about(const struct asking *asking, const msgpack_object *alert)
{
    char metric[FIELD_NAME_MAX];
    bool has_layer = field_length(alert) > 0 && mpk_find(alert, "stack") != NULL &&
                     mpk_find(alert, "stack")->type == MSGPACK_OBJECT_STR;
    field_text(alert, "metric", metric, sizeof(metric));
    if (strcmp(metric, asking->timeline->metric) != 0)
        return false;
    int32_t head = asking->plot->options.has_head ? head_of(alert) : -1;
    return !has_layer || timeline_wants(asking->plot, id_of(alert), head);
}

static void take_alerts(struct asking *asking, const msgpack_object *list)
{
    struct timeline *timeline = asking->timeline;
    for (uint32_t i = 0; i < field_length(list) && list->type == MSGPACK_OBJECT_ARRAY; i++) {
        const msgpack_object *alert = &list->via.array.ptr[i];
        char state[16];
        if (!is_about(asking, alert) || timeline->alert_count == ALERTS_MAX)
            continue;
        field_text(alert, "state", state, sizeof(state));
        timeline->alerts[timeline->alert_count++] =
            (struct timeline_alert){field_u64(alert, "step"), strcmp(state, "resolved") == 0};
    }
}

static int load_alerts(struct asking *asking)
{
    struct rpc_reply reply;
    struct ask ask;
    asking->timeline->alerts = calloc(ALERTS_MAX, sizeof(*asking->timeline->alerts));
    if (!asking->timeline->alerts)
        return plot_fail_memory(asking->plot);
    ask_init(&ask);
    ask_text(&ask, "job", asking->job);
    ask_text(&ask, "run", asking->run);
    ask_number(&ask, "limit", ALERTS_MAX);
    int code = ask_call(asking->plot->cli, "alerts", &ask, &reply);
    if (code != CLI_OK)
        return code;
    take_alerts(asking, mpk_find(reply.result, "alerts"));
    rpc_reply_clear(&reply);
    return CLI_OK;
}

static int ask_all(struct asking *asking)
{
    struct rpc_reply reply;
    struct ask ask;
    int code = ask_patiently(asking->plot->cli);
    if (code != CLI_OK)
        return code;
    ask_init(&ask);
    ask_text(&ask, "job", asking->job);
    ask_text(&ask, "run", asking->plot->options.args.run);
    code = ask_call(asking->plot->cli, "windows", &ask, &reply);
    if (code != CLI_OK)
        return code;
    code = load_layers(asking, reply.result);
    rpc_reply_clear(&reply);
    return code == CLI_OK ? load_alerts(asking) : code;
}

int timeline_load_live(struct plot *plot, const char *job, struct timeline *timeline)
{
    struct asking asking = {.plot = plot, .timeline = timeline, .job = job};
    struct rpc rpc;
    int code = cli_connect(plot->cli, &rpc);
    if (code != CLI_OK)
        return code;
    plot->cli->rpc = &rpc;
    snprintf(timeline->job, sizeof(timeline->job), "%s", job);
    code = ask_all(&asking);
    plot->cli->rpc = NULL;
    rpc_close(&rpc);
    return code;
}

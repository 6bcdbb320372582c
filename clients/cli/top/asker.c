/* SPDX-License-Identifier: MIT */
#include "clients/cli/top/internal.h"

#include "clients/cli/base/ask.h"
#include "proto/err.h"

#include <stdio.h>
#include <string.h>

/* Answers about the past may take their time (history.query_time). */
#define PAST_PATIENCE_MS 60000
/* Summaries are large: as many as this are taken in one interval, the others in the next ones. */
#define SUMMARY_BYTES (1u << 20)

void asker_init(struct asker *asker, struct rpc *rpc, int64_t now_ms)
{
    *asker = (struct asker){.rpc = rpc, .heard_ms = now_ms};
}

/* Asking */

/* Whether it is on its way: what could not be sent is still needed. */
static bool send_ask(struct asker *asker, enum asker_kind kind, const char *method, struct ask *ask,
                     const struct model *model, int64_t now_ms)
{
    struct mpk_writer params;
    uint64_t id;
    ask_write(ask, &params);
    bool sent = asker->rpc->socket && rpc_send(asker->rpc, method, &params, &id) == RPC_OK;
    if (sent) {
        asker->asked[kind].id = id;
        asker->asked[kind].generation = model->generation;
        asker->asked[kind].sent_ms = now_ms;
    }
    mpk_writer_clear(&params);
    return sent;
}

static bool is_free(const struct asker *asker, enum asker_kind kind)
{
    return asker->asked[kind].id == 0;
}

static bool ask_plain(struct asker *asker, enum asker_kind kind, const char *method,
                      const struct model *model, int64_t now_ms)
{
    struct ask ask;
    ask_init(&ask);
    return send_ask(asker, kind, method, &ask, model, now_ms);
}

static void asker_put_layer(struct ask *ask, const char *stack, uint32_t layer, const char *site)
{
    ask_text(ask, "stack", stack);
    ask_number(ask, "layer", layer);
    ask_text(ask, "site", site);
}

/* Trends over the run, in as many points as are kept. */
static void asker_put_grid(struct ask *ask, const struct model *model, const char *metric)
{
    ask_text(ask, "job", model->job);
    if (model->entry.run[0] != '\0') {
        ask_text(ask, "run", model->entry.run);
    }
    ask_text(ask, "metric", metric);
    ask_number(ask, "points", MODEL_PAST_MAX);
    ask_flag(ask, "packed", true);
}

static bool ask_job(struct asker *asker, enum asker_kind kind, const char *method,
                    const struct model *model, int64_t now_ms)
{
    struct ask ask;
    ask_init(&ask);
    ask_text(&ask, "job", model->job);
    if (kind == ASKER_ALERTS) {
        ask_number(&ask, "limit", MODEL_ALERTS_ASKED);
    }
    return send_ask(asker, kind, method, &ask, model, now_ms);
}

static void ask_grid(struct asker *asker, struct model *model, int64_t now_ms)
{
    struct ask ask;
    ask_init(&ask);
    asker_put_grid(&ask, model, model->metric);
    if (!send_ask(asker, ASKER_GRID, "grid", &ask, model, now_ms)) {
        return;
    }
    model->needs.grid = false;
    model->needs.grid_ms = now_ms;
}

static bool ask_detail_layer(struct asker *asker, enum asker_kind kind, const char *method,
                             const struct model *model, int64_t now_ms)
{
    const struct detail *detail = &model->detail;
    struct ask ask;
    ask_init(&ask);
    ask_text(&ask, "job", model->job);
    asker_put_layer(&ask, detail->stack, detail->layer, detail->site);
    return send_ask(asker, kind, method, &ask, model, now_ms);
}

/* The trend of one metric after the other, beginning with the chosen one. */
static void ask_series(struct asker *asker, struct model *model, int64_t now_ms)
{
    const struct detail *detail = &model->detail;
    struct needs *needs = &model->needs;
    if (needs->series_next >= detail->count) {
        needs->series = false;
        needs->series_next = 0;
        needs->series_ms = now_ms;
        return;
    }
    uint32_t at = (model->ui.metrics.at + needs->series_next) % detail->count;
    struct ask ask;
    ask_init(&ask);
    asker_put_grid(&ask, model, detail->metrics[at].name);
    asker_put_layer(&ask, detail->stack, detail->layer, detail->site);
    needs->series_next += send_ask(asker, ASKER_DETAIL_GRID, "grid", &ask, model, now_ms);
}

static void ask_needs(struct asker *asker, struct model *model, int64_t now_ms)
{
    struct needs *needs = &model->needs;
    if (needs->config && is_free(asker, ASKER_CONFIG)) {
        needs->config = !ask_plain(asker, ASKER_CONFIG, "config", model, now_ms);
    }
    if (!model->job_known || model->ui.page == PAGE_JOBS) {
        return;
    }
    if (needs->alerts && is_free(asker, ASKER_ALERTS)) {
        needs->alerts = !ask_job(asker, ASKER_ALERTS, "alerts", model, now_ms);
    }
    if (model->ui.page == PAGE_HEAD) {
        if (needs->detail && is_free(asker, ASKER_DETAIL_LIVE)) {
            needs->detail = !ask_detail_layer(asker, ASKER_DETAIL_LIVE, "live", model, now_ms);
        }
        if (needs->detail_window && is_free(asker, ASKER_DETAIL_SUMMARY)) {
            needs->detail_window =
                !ask_detail_layer(asker, ASKER_DETAIL_SUMMARY, "summary", model, now_ms);
        }
        if (needs->series && model->detail.count > 0 && is_free(asker, ASKER_DETAIL_GRID)) {
            ask_series(asker, model, now_ms);
        }
    } else {
        if (needs->live && is_free(asker, ASKER_LIVE)) {
            needs->live = !ask_job(asker, ASKER_LIVE, "live", model, now_ms);
        }
        /* A job that has sent nothing since attnd was started has only windows. */
        if (model->layer_count == 0 && needs->summary_next == 0 && is_free(asker, ASKER_SUMMARY) &&
            ask_job(asker, ASKER_SUMMARY, "summary", model, now_ms)) {
            needs->summary_next = UINT32_MAX;
        }
        if (needs->grid && model->metric[0] != '\0' && is_free(asker, ASKER_GRID)) {
            ask_grid(asker, model, now_ms);
        }
        if (needs->summary_next < model->layer_count && is_free(asker, ASKER_SUMMARY) &&
            asker->taken < SUMMARY_BYTES) {
            /* One layer after the other. */
            const struct layer *layer = &model->layers[model->needs.summary_next];
            struct ask ask;
            ask_init(&ask);
            ask_text(&ask, "job", model->job);
            asker_put_layer(&ask, layer->stack, layer->layer, layer->site);
            model->needs.summary_next +=
                send_ask(asker, ASKER_SUMMARY, "summary", &ask, model, now_ms);
        }
    }
}

/* Silence */

/* Questions that will not be answered must be asked again. */
static void asker_give_up(struct asker *asker, struct model *model, enum asker_kind kind)
{
    struct needs *needs = &model->needs;
    asker->asked[kind].id = 0;
    needs->config = needs->config || kind == ASKER_CONFIG;
    needs->live = needs->live || kind == ASKER_LIVE;
    needs->grid = needs->grid || kind == ASKER_GRID;
    needs->alerts = needs->alerts || kind == ASKER_ALERTS;
    needs->detail = needs->detail || kind == ASKER_DETAIL_LIVE;
    needs->detail_window = needs->detail_window || kind == ASKER_DETAIL_SUMMARY;
    if (kind == ASKER_SUMMARY) {
        needs->summary_next = 0;
    }
    if (kind == ASKER_DETAIL_GRID) {
        needs->series = true;
        needs->series_next = 0;
    }
}

static bool is_of_past(enum asker_kind kind)
{
    return kind == ASKER_GRID || kind == ASKER_ALERTS || kind == ASKER_DETAIL_GRID;
}

int64_t asker_late_ms(const struct asker *asker)
{
    if (is_free(asker, ASKER_MONITOR)) {
        return INT64_MAX;
    }
    return asker->asked[ASKER_MONITOR].sent_ms + asker->rpc->timeout_ms;
}

void asker_tick(struct asker *asker, struct model *model, int64_t now_ms)
{
    bool late = now_ms >= asker_late_ms(asker);
    asker->taken = 0;
    if (late && model->silent_since_ms < 0) {
        model->silent_since_ms = asker->heard_ms;
    }
    if (late || !asker->rpc->socket) {
        struct rpc *rpc = asker->rpc, fresh;
        rpc_close(rpc); /* without a socket it is tried again at the next tick */
        if (rpc_open(rpc->found ? NULL : rpc->endpoint, NULL, rpc->timeout_ms, &fresh) == RPC_OK) {
            fresh.last_id = rpc->last_id;
            *rpc = fresh;
        }
        for (enum asker_kind kind = ASKER_MONITOR; kind < ASKER_KINDS; kind++) {
            if (!is_free(asker, kind)) {
                asker_give_up(asker, model, kind);
            }
        }
    }
    for (enum asker_kind kind = ASKER_CONFIG; kind < ASKER_KINDS; kind++) {
        int64_t patience = is_of_past(kind) ? PAST_PATIENCE_MS : asker->rpc->timeout_ms;
        if (!is_free(asker, kind) && now_ms - asker->asked[kind].sent_ms >= patience) {
            asker_give_up(asker, model, kind);
        }
    }
    if (is_free(asker, ASKER_MONITOR)) {
        ask_plain(asker, ASKER_MONITOR, "monitor", model, now_ms);
    }
}

/* Answers */

static void read_reply(struct model *model, enum asker_kind kind, const msgpack_object *result,
                       int64_t now_ms)
{
    static void (*const readers[ASKER_KINDS])(struct model * model,
                                              const msgpack_object *result) = {
        [ASKER_CONFIG] = read_config,
        [ASKER_LIVE] = read_live,
        [ASKER_SUMMARY] = read_summary,
        [ASKER_GRID] = read_grid,
        [ASKER_ALERTS] = read_alerts,
        [ASKER_DETAIL_LIVE] = read_detail_live,
        [ASKER_DETAIL_SUMMARY] = read_detail_summary,
        [ASKER_DETAIL_GRID] = read_detail_grid,
    };
    if (kind == ASKER_MONITOR) {
        read_monitor(model, result, now_ms);
    } else {
        readers[kind](model, result);
    }
}

/* Takes one answer; false = none has come. */
static bool asker_take(struct asker *asker, struct model *model, int64_t now_ms)
{
    struct rpc_reply reply;
    uint64_t id = 0;
    enum rpc_status status = rpc_take(asker->rpc, &reply, &id);
    if (status != RPC_OK && status != RPC_REFUSED) {
        return status == RPC_BROKEN;
    }
    /* The question that an answer is to; ASKER_KINDS: one that was given up. */
    enum asker_kind kind = ASKER_MONITOR;
    while (kind < ASKER_KINDS && asker->asked[kind].id != id) {
        kind++;
    }
    bool current = kind < ASKER_KINDS &&
                   (kind <= ASKER_CONFIG || asker->asked[kind].generation == model->generation);
    asker->heard_ms = now_ms;
    model->silent_since_ms = -1;
    if (kind == ASKER_GRID) {
        model->grid_took_ms = now_ms - asker->asked[kind].sent_ms;
    }
    if (kind < ASKER_KINDS) {
        asker->asked[kind].id = 0;
    }
    if (current && status == RPC_REFUSED) {
        bool nothing = strcmp(reply.code, err_slug(ERR_NO_HISTORY)) == 0 ||
                       strcmp(reply.code, err_slug(ERR_RUN_UNKNOWN)) == 0;
        if (kind == ASKER_GRID || kind == ASKER_DETAIL_GRID) {
            snprintf(model->refusal, sizeof model->refusal, "%s", nothing ? "" : reply.message);
        }
    }
    if (current && status == RPC_OK) {
        read_reply(model, kind, reply.result, now_ms);
    }
    if (status == RPC_OK) {
        asker->taken += kind == ASKER_SUMMARY ? zmq_msg_size(&reply.frame) : 0;
        rpc_reply_clear(&reply);
    }
    return true;
}

bool asker_turn(struct asker *asker, struct model *model, int64_t now_ms)
{
    bool came = false;
    /* A few at a time, so that keys are not kept waiting. */
    for (int i = 0; i < 8 && asker->rpc->socket && asker_take(asker, model, now_ms); i++) {
        came = true;
    }
    if (!model->ui.paused) {
        ask_needs(asker, model, now_ms);
    }
    if (came) {
        model_arrange(model);
    }
    return came;
}

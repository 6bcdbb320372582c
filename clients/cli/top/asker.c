/* SPDX-License-Identifier: MIT */
#include "clients/cli/top/internal.h"

#include "clients/cli/base/cli.h"
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

/* The questions: their methods, what reads the answers, and what of the model's needs they fill. */
static const struct asker_question {
    const char *method;
    void (*read)(struct model *model, const msgpack_object *result);
    bool has_need;
    size_t need; /* of struct needs: a bool */
    bool past;
} questions[ASKER_KINDS] = {
    /* read_monitor wants the time, too */
    [ASKER_MONITOR] = {"monitor", NULL, false, 0, false},
    [ASKER_CONFIG] = {"config", read_config, true, offsetof(struct needs, config), false},
    [ASKER_LIVE] = {"live", read_live, true, offsetof(struct needs, live), false},
    [ASKER_SUMMARY] = {"summary", read_summary, false, 0, false},
    [ASKER_GRID] = {"grid", read_grid, true, offsetof(struct needs, grid), true},
    [ASKER_ALERTS] = {"alerts", read_alerts, true, offsetof(struct needs, alerts), true},
    [ASKER_VERDICT] = {"verdict", read_verdict, true, offsetof(struct needs, verdict), false},
    [ASKER_DETAIL_LIVE] = {"live", read_detail_live, true, offsetof(struct needs, detail), false},
    [ASKER_DETAIL_SUMMARY] = {"summary", read_detail_summary, true,
                              offsetof(struct needs, detail_window), false},
    [ASKER_DETAIL_GRID] = {"grid", read_detail_grid, true, offsetof(struct needs, series), true},
};

static bool *need_of(struct model *model, enum asker_kind kind)
{
    return (bool *)((char *)&model->needs + questions[kind].need);
}

static bool is_free(const struct asker *asker, enum asker_kind kind)
{
    return asker->asked[kind].id == 0;
}

/* Asking */

/* The subject of a question; NULL = not about that. */
struct about {
    const char *metric;
    const struct layer_place *place;
};

/* Whether it is on its way: what could not be sent is still needed. */
static bool asker_send(struct asker *asker, enum asker_kind kind, const struct about *about,
                       const struct model *model, int64_t now_ms)
{
    struct mpk_writer params;
    struct ask ask;
    uint64_t id;
    ask_init(&ask);
    if (kind > ASKER_CONFIG || (kind == ASKER_MONITOR && model->run)) {
        ask_text(&ask, "job", model->job);
        ask_text(&ask, "run", model->run);
    }
    if (kind == ASKER_ALERTS) {
        ask_number(&ask, "limit", MODEL_ALERTS_ASKED);
    }
    if (about->metric) { /* trends over the run, in as many points as are kept */
        ask_text(&ask, "run", !model->run && model->entry.run[0] ? model->entry.run : NULL);
        ask_text(&ask, "metric", about->metric);
        ask_number(&ask, "points", MODEL_PAST_MAX);
        ask_flag(&ask, "packed", true);
    }
    if (about->place) {
        ask_text(&ask, "stack", about->place->stack);
        ask_number(&ask, "layer", about->place->layer);
        ask_text(&ask, "site", about->place->site);
    }
    ask_write(&ask, &params);
    bool sent =
        asker->rpc->socket && rpc_send(asker->rpc, questions[kind].method, &params, &id) == RPC_OK;
    if (sent) {
        asker->asked[kind].id = id;
        asker->asked[kind].generation = model->generation;
        asker->asked[kind].sent_ms = now_ms;
    }
    mpk_writer_clear(&params);
    return sent;
}

/* Whether a need was there and is on its way now. */
static bool ask_need(struct asker *asker, enum asker_kind kind, const struct about *about,
                     struct model *model, int64_t now_ms)
{
    bool *need = need_of(model, kind);
    bool asked = *need && is_free(asker, kind) && asker_send(asker, kind, about, model, now_ms);
    *need = *need && !asked;
    return asked;
}

/* The trend of one metric after the other, beginning with the chosen one. */
static void ask_series(struct asker *asker, struct about about, struct model *model, int64_t now_ms)
{
    const struct head_detail *detail = &model->detail;
    struct needs *needs = &model->needs;
    if (needs->series_next >= detail->count) {
        needs->series = false;
        needs->series_next = 0;
        needs->series_ms = now_ms;
        return;
    }
    about.metric =
        detail->metrics[(model->ui.metrics.at + needs->series_next) % detail->count].name;
    needs->series_next += asker_send(asker, ASKER_DETAIL_GRID, &about, model, now_ms);
}

static void ask_needs(struct asker *asker, struct model *model, int64_t now_ms)
{
    struct needs *needs = &model->needs;
    const struct head_detail *detail = &model->detail;
    const struct about all = {.metric = NULL}, trend = {.metric = model->metric};
    ask_need(asker, ASKER_CONFIG, &all, model, now_ms);
    if (!model->job_known || model->ui.page == PAGE_JOBS) {
        return;
    }
    ask_need(asker, ASKER_ALERTS, &all, model, now_ms);
    ask_need(asker, ASKER_VERDICT, &all, model, now_ms);
    if (model->ui.page == PAGE_HEAD) {
        const struct about layer = {NULL, &detail->place};
        ask_need(asker, ASKER_DETAIL_LIVE, &layer, model, now_ms);
        ask_need(asker, ASKER_DETAIL_SUMMARY, &layer, model, now_ms);
        if (needs->series && detail->count > 0 && is_free(asker, ASKER_DETAIL_GRID)) {
            ask_series(asker, layer, model, now_ms);
        }
        return;
    }
    ask_need(asker, ASKER_LIVE, &all, model, now_ms);
    /* A job that has sent nothing since attnd was started has only windows. */
    if (model->layer_count == 0 && needs->summary_next == 0 && is_free(asker, ASKER_SUMMARY) &&
        asker_send(asker, ASKER_SUMMARY, &all, model, now_ms)) {
        needs->summary_next = UINT32_MAX;
    }
    if (model->metric[0] != '\0' && ask_need(asker, ASKER_GRID, &trend, model, now_ms)) {
        needs->grid_ms = now_ms;
    }
    if (needs->summary_next < model->layer_count && is_free(asker, ASKER_SUMMARY) &&
        asker->taken < SUMMARY_BYTES) { /* one layer after the other */
        const struct about layer = {NULL, &model->layers[needs->summary_next].place};
        needs->summary_next += asker_send(asker, ASKER_SUMMARY, &layer, model, now_ms);
    }
}

/* Silence */

/* Questions that will not be answered must be asked again. */
static void asker_give_up(struct asker *asker, struct model *model, enum asker_kind kind)
{
    asker->asked[kind].id = 0;
    if (questions[kind].has_need) {
        *need_of(model, kind) = true;
    }
    if (kind == ASKER_SUMMARY) {
        model->needs.summary_next = 0;
    }
    if (kind == ASKER_DETAIL_GRID) {
        model->needs.series_next = 0;
    }
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
        int64_t patience = questions[kind].past ? PAST_PATIENCE_MS : asker->rpc->timeout_ms;
        if (!is_free(asker, kind) && now_ms - asker->asked[kind].sent_ms >= patience) {
            asker_give_up(asker, model, kind);
        }
    }
    if (is_free(asker, ASKER_MONITOR)) {
        asker_send(asker, ASKER_MONITOR, &(struct about){.metric = NULL}, model, now_ms);
    }
}

/* Answers */

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
        bool gone = strcmp(reply.code, err_slug(ERR_RUN_UNKNOWN)) == 0;
        bool nothing = gone || strcmp(reply.code, err_slug(ERR_NO_HISTORY)) == 0;
        if (kind == ASKER_GRID || kind == ASKER_DETAIL_GRID) {
            snprintf(model->refusal, sizeof model->refusal, "%s", nothing ? "" : reply.message);
        } else if (kind == ASKER_MONITOR && gone) {
            model->gone = model->run;
            model->run = NULL;
        } else if (kind == ASKER_MONITOR) {
            snprintf(model->refused, sizeof model->refused, "%s", reply.message);
        }
    }
    if (status == RPC_OK) {
        if (current && kind == ASKER_MONITOR) {
            read_monitor(model, reply.result, now_ms);
        } else if (current) {
            questions[kind].read(model, reply.result);
        }
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

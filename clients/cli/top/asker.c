/* SPDX-License-Identifier: MIT */
#include "clients/cli/top/internal.h"

#include "clients/cli/base/cli.h"
#include "proto/err.h"

#include <stdio.h>
#include <string.h>

/* Answers about the past may take their time (history.query_time). */
#define PAST_PATIENCE_MS 60000
/* The past of the opened run is asked for this far apart at least, and that of a row. */
#define PAST_EVERY_MS 2000
#define ROW_EVERY_MS  5000
#define LOSS_POINTS   40 /* of a row */

void asker_init(struct asker *asker, struct rpc *rpc, int64_t now_ms)
{
    *asker = (struct asker){.rpc = rpc, .heard_ms = now_ms, .past_ms = INT64_MIN / 2};
}

static bool is_free(const struct asker *asker, enum asker_kind kind)
{
    return asker->asked[kind].id == 0;
}

/* Asking */

static const char *const methods[ASKER_KINDS] = {
    [ASKER_MONITOR] = "monitor", [ASKER_ROW_VERDICT] = "verdict",
    [ASKER_ROW_LOG] = "log",     [ASKER_VERDICT] = "verdict",
    [ASKER_LOG] = "log",         [ASKER_LIVE] = "live",
    [ASKER_GRID] = "grid",
};

/* `row`: the run that a question about a row is about. Whether it is on its way. */
static bool asker_send(struct asker *asker, enum asker_kind kind, const struct run_row *row,
                       const struct model *model, int64_t now_ms)
{
    const struct opened *opened = &model->opened;
    struct ask ask;
    uint64_t id;
    ask_init(&ask);
    if (row) {
        ask_text(&ask, "job", row->job);
        ask_text(&ask, "run", row->run);
    } else if (kind != ASKER_MONITOR || opened->run) {
        ask_text(&ask, "job", opened->job);
        ask_text(&ask, "run",
                 kind != ASKER_MONITOR && opened->row.run[0] ? opened->row.run : opened->run);
    }
    if (kind == ASKER_VERDICT || kind == ASKER_ROW_VERDICT) {
        ask_number(&ask, "limit", row ? TOP_ROW_ALERTS : TOP_ALERTS_MAX);
    } else if (kind == ASKER_LOG || kind == ASKER_ROW_LOG) {
        ask_number(&ask, "points", row ? LOSS_POINTS : LINE_MAX_POINTS);
    } else if (kind == ASKER_GRID) {
        ask_text(&ask, "metric", model->metric);
        ask_number(&ask, "points", LINE_MAX_POINTS);
        mpk_pair_bool(&ask.params, "packed", true);
    } else if (kind == ASKER_LIVE) {
        ask_text(&ask, "metrics", model->metric);
    }
    bool sent = ask_send(asker->rpc, methods[kind], &ask, &id) == RPC_OK;
    if (sent) {
        asker->asked[kind].id = id;
        asker->asked[kind].generation = model->generation;
        asker->asked[kind].sent_ms = now_ms;
    }
    return sent;
}

/* A row in view of which little is known, or that has changed since it was asked about. */
static struct run_row *stale_row(struct model *model, int64_t now_ms)
{
    const struct list *list = &model->lists[PAGE_RUNS];
    struct run_row *found = NULL; /* the one that waits for longest */
    for (uint32_t i = list->top; i < model->shown_count && i < list->top + model->list_rows; i++) {
        struct run_row *row = &model->rows[model->shown[i]];
        bool other = row->firing != row->asked_firing;
        bool moved = row->step != row->asked_step || row->loss.count == 0 || !row->known;
        bool stale =
            row->asked_ms == 0 || other || (moved && now_ms - row->asked_ms >= ROW_EVERY_MS);
        if (stale && (!found || row->asked_ms < found->asked_ms)) {
            found = row;
        }
    }
    return found;
}

/* Silence */

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
    }
    for (enum asker_kind kind = ASKER_MONITOR; kind < ASKER_KINDS; kind++) {
        int64_t waited = now_ms - asker->asked[kind].sent_ms;
        if (!is_free(asker, kind) && (late || waited >= PAST_PATIENCE_MS)) {
            asker->asked[kind].id = 0;
            asker->owes_past[kind] = kind >= ASKER_VERDICT;
            model->moved = model->moved || kind == ASKER_LIVE;
        }
    }
    if (is_free(asker, ASKER_MONITOR)) {
        asker_send(asker, ASKER_MONITOR, NULL, model, now_ms);
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
    enum asker_kind kind = ASKER_MONITOR; /* ASKER_KINDS: a question that was given up */
    while (kind < ASKER_KINDS && asker->asked[kind].id != id) {
        kind++;
    }
    asker->heard_ms = now_ms;
    model->silent_since_ms = -1;
    bool current = kind < ASKER_VERDICT ||
                   (kind < ASKER_KINDS && asker->asked[kind].generation == model->generation);
    if (kind < ASKER_KINDS) {
        asker->asked[kind].id = 0;
    }
    if (current && status == RPC_REFUSED) {
        if (kind == ASKER_MONITOR && strcmp(reply.code, err_slug(ERR_RUN_UNKNOWN)) == 0) {
            model->opened.gone = true;
            model->opened.run = NULL;
        } else if (kind == ASKER_MONITOR) {
            snprintf(model->refused, sizeof model->refused, "%s", reply.message);
        }
    }
    if (status == RPC_OK) {
        if (current) {
            struct run_row *row = model_row(model, asker->row_job);
            row = row && strcmp(row->run, asker->row_run) == 0 ? row : NULL;
            if (kind == ASKER_MONITOR) {
                read_monitor(model, reply.result, now_ms);
            } else if (kind == ASKER_ROW_VERDICT && row) {
                read_row_verdict(row, reply.result);
            } else if (kind == ASKER_ROW_LOG && row) {
                read_log(&row->loss, reply.result);
            } else if (kind == ASKER_VERDICT) {
                read_verdict(&model->opened, reply.result);
            } else if (kind == ASKER_LOG) {
                read_log(&model->opened.loss, reply.result);
            } else if (kind == ASKER_LIVE) {
                read_live(model, reply.result);
            } else if (kind == ASKER_GRID) {
                read_grid(model, reply.result);
            }
        }
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
    if (!model->paused && model->page == PAGE_RUNS) {
        struct run_row *row = is_free(asker, ASKER_ROW_VERDICT) && is_free(asker, ASKER_ROW_LOG)
                                  ? stale_row(model, now_ms)
                                  : NULL;
        if (row && asker_send(asker, ASKER_ROW_VERDICT, row, model, now_ms)) {
            asker_send(asker, ASKER_ROW_LOG, row, model, now_ms);
            strcpy(asker->row_job, row->job);
            strcpy(asker->row_run, row->run);
            row->asked_ms = now_ms > 0 ? now_ms : 1;
            row->asked_step = row->step;
            row->asked_firing = row->firing;
        }
    } else if (!model->paused && model->opened.known) {
        bool other = model->generation != asker->generation;
        if (other || (now_ms < model->fresh_until_ms && now_ms - asker->past_ms >= PAST_EVERY_MS)) {
            asker->past_ms = now_ms;
            asker->generation = model->generation;
            model->moved = model->moved || other;
            asker->owes_past[ASKER_VERDICT] = asker->owes_past[ASKER_LOG] =
                asker->owes_past[ASKER_GRID] = true;
        }
        for (enum asker_kind kind = ASKER_VERDICT; kind < ASKER_KINDS; kind++) {
            bool *owes = kind == ASKER_LIVE ? &model->moved : &asker->owes_past[kind];
            if (*owes && is_free(asker, kind)) {
                *owes = !asker_send(asker, kind, NULL, model, now_ms);
            }
        }
    }
    return came;
}

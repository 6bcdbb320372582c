/* SPDX-License-Identifier: MIT */
#include "daemon/run/past.h"

#include "daemon/run/checkpoint.h"
#include "daemon/run/restore.h"
#include "daemon/base/log.h"

#include <stdlib.h>
#include <string.h>

static void past_clear(struct past_run *past)
{
    run_free(&past->run);
    past->job[0] = '\0';
}

void past_forget_all(struct pasts *pasts)
{
    for (uint32_t i = 0; i < PASTS_MAX; i++) {
        past_clear(&pasts->of[i]);
    }
}

/* NULL: the history was not asked for it. */
static struct past_run *past_find(struct pasts *pasts, const struct header *header)
{
    for (struct past_run *past = pasts->of; past < pasts->of + PASTS_MAX; past++) {
        if (strcmp(past->job, header->job) == 0 && memcmp(past->id, header->run, RUN_BYTES) == 0) {
            return past;
        }
    }
    return NULL;
}

/* One that never used the reliable lane begins anew: it is on its way out of the history, or the
 * limits left it out at the start. */
static bool past_adopt(void *data, struct run *run)
{
    struct past_run *past = data;
    if (run->reliable) {
        past->run = run;
    }
    return run->reliable;
}

int past_look(struct pasts *pasts, const struct header *header, const struct config *config,
              const struct result_sink *sink, struct state_budget *budget, uint64_t now_ns,
              struct run **ret_run)
{
    const struct store_run record = {.job = header->job, .run = header->run};
    uint64_t losses = checkpoint_losses(sink);
    if (pasts->losses != losses) {
        past_forget_all(pasts); /* what was read before it was written may never have been */
        pasts->losses = losses;
    }
    struct past_run *past = past_find(pasts, header);
    if (past || !sink->store) {
        *ret_run = past ? past->run : NULL;
        return 0;
    }
    past = &pasts->of[pasts->next];
    past_clear(past);
    struct restore restore = {.config = config,
                              .sink = sink,
                              .budget = budget,
                              .adopt = past_adopt,
                              .data = past,
                              .now_ns = now_ns,
                              .of_forgotten = true};
    int code = store_each_kept_of(sink->store, &record, restore_value, &restore);
    if (!code && restore.is_short) {
        code = ERR_MEMORY;
    }
    restore_finish(&restore);
    if (code) {
        past_clear(past); /* a part of it */
        return code;
    }
    strcpy(past->job, header->job);
    memcpy(past->id, header->run, RUN_BYTES);
    pasts->next = (pasts->next + 1) % PASTS_MAX;
    *ret_run = past->run;
    return 0;
}

struct run *past_take(struct pasts *pasts, const struct header *header)
{
    struct past_run *past = past_find(pasts, header);
    struct run *run = past ? past->run : NULL;
    if (past) {
        past->run = NULL;
        past_clear(past);
    }
    return run;
}

/* A restart of attnd loses what is only in memory. Runs, ended ones too, come back with their
 * states, positions, counts and alerts (restore.c); this brings back what `summary` answers, and
 * with it all readers of last values. A summary is made as closing.c made it: from the window's
 * state in the history, and the baseline. That of a run that has ended is not in memory, and is
 * read for this alone. `live` values and the maps of single heads are of one message and stay lost
 * until the next one: nothing keeps them, and the history has the windows they went into. */

/* The layer's baseline, which has learned from the newest window, or from none that was kept; NULL:
 * it cannot be read. Owned. */
static struct drift *recall_drift(const struct run *run, const struct track *track,
                                  const struct stream *stream, uint32_t heads)
{
    const struct store_run record = {.job = run->job, .run = run->id};
    struct drift_rule rule = run_drift_rule(run->config);
    struct store_bytes value;
    struct drift *drift = NULL;
    char key[CHECKPOINT_KEY_MAX];
    checkpoint_drift_key(track, stream, key);
    if (store_find_kept(run->sink->store, &record, key, &value) != 0) {
        return drift_new(&rule, heads);
    }
    drift_unpack(&rule, value.data, value.size, &drift);
    free(value.data);
    return drift;
}

static bool recall_layer(struct run *run, const struct track *track, const struct stream *stream)
{
    const struct window_rule *rule = &track->window.rule;
    const struct store_run record = {.job = run->job, .run = run->id};
    struct result_window window = {
        .unit = rule->unit, .length = rule->length, .every = rule->every};
    struct store_bytes packed;
    struct layer_state *state = NULL;
    bool room = true;
    int code = store_find_newest(run->sink->store, &record, stream->id, &window, &packed);
    if (code == ERR_NO_HISTORY) {
        return true;
    }
    if (!code) {
        code = layer_state_unpack(packed.data, packed.size, &state);
        free(packed.data);
    }
    if (code) {
        log_event(LOG_WARNING, "summary_not_recalled", LOG_STR("job", run->job),
                  LOG_NUM("layer", stream->id.layer), LOG_STR("reason", err_text(code)));
        return true;
    }
    struct drift *drift = recall_drift(run, track, stream, state->heads);
    struct summary_view view = {.stats = NULL};
    struct mpk_writer writer;
    char topic[TOPIC_MAX];
    mpk_writer_init(&writer);
    if (summary_view_init(&view, state, stream->id, run->job, run->id, &window) == 0) {
        view.result.layer.module = stream->module;
        view.result.track = track->index;
        if (drift && drift_heads(drift) == state->heads &&
            drift_window_again(drift, state, window.last) == 0) {
            for (int m = 0; m < METRIC_COUNT; m++) {
                view.result.drift[m] = drift_result(drift, m);
            }
        }
        summary_encode(&view.result, &writer);
        topic_layer("summary", run->job, stream->id, topic);
        room = run->sink->recall(run->sink->data, run, topic, track->index, &writer);
    }
    summary_view_clear(&view);
    drift_free(&drift);
    mpk_writer_clear(&writer);
    layer_state_free(&state);
    return room;
}

bool recall_run(struct run *run)
{
    bool room = true;
    for (uint32_t t = 0; t < run->track_count; t++) {
        for (struct stream *stream = run->streams; stream && room; stream = stream->hh.next) {
            room = recall_layer(run, &run->tracks[t], stream);
        }
    }
    return room;
}

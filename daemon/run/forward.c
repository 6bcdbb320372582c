/* SPDX-License-Identifier: MIT */
/* A window of one part is packed once: closing.c hands the bytes of its record over, and the layer
 * is marked until the part is through. A part that is put off, for want of memory, closes again,
 * with new rows: a hub keeps the later ones.
 *
 * Batches that the store took and could not write are lost with their rows, which have no numbers
 * yet: nobody would miss them. So when the store has lost anything since the part before, all parts
 * below are said not to have been seen. */
#include "daemon/run/forward.h"

#include "daemon/base/log.h"
#include "daemon/run/checkpoint.h"
#include "proto/fleet.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool forward_is_on(const struct run *run)
{
    return run->config->fleet_role == CONFIG_ROLE_NODE && run->sink->store;
}

static bool forward_has(const struct run *run, const struct track *track)
{
    return forward_is_on(run) && track->window.rule.unit != WINDOW_SECOND;
}

static struct fleet_body forward_body(const struct run *run, enum fleet_kind kind)
{
    return (struct fleet_body){.kind = kind,
                               .job = run->job,
                               .job_size = strlen(run->job),
                               .run = run->id,
                               .own_window = run_own_window(run)};
}

static void forward_set_part(struct fleet_body *body, const struct track *track,
                             const struct window_part *part)
{
    const struct window_rule *rule = &track->window.rule;
    body->rule = (struct fleet_rule){rule->unit, rule->length, rule->every};
    body->part = part->index;
}

static int forward_put(const struct fleet_body *body, struct store_batch *batch)
{
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    fleet_body_encode(body, &writer);
    int code = mpk_writer_ok(&writer) ? batch_out(batch, writer.buffer.data, writer.buffer.size)
                                      : ERR_MEMORY;
    mpk_writer_clear(&writer);
    return code;
}

/* Adds the run so far to the body, and puts it into the batch; the body is spent then. Returns 0 or
 * ERR_MEMORY. */
static int forward_put_progress(const struct run *run, struct fleet_body *body,
                                struct store_batch *batch)
{
    const struct window *window = &run->tracks[0].window;
    struct reason_count dropped[TALLY_REASONS_MAX];
    struct counts counts = run_counts(run);
    uint32_t *ranks = calloc(window->rank_count + 1, sizeof *ranks);
    if (!ranks) {
        return ERR_MEMORY;
    }
    body->state_of_run = run->state;
    body->failure = run->failure;
    body->world = window->world;
    body->epoch = run->epoch;
    body->step = run->step;
    body->time_ns = run->time_ns;
    body->received = counts.received;
    body->processed = counts.processed;
    body->lost = counts.tally.lost;
    body->dropped = dropped;
    body->dropped_count = tally_reasons(&counts.tally, dropped);
    body->ranks = ranks;
    body->rank_count = window->rank_count;
    for (uint32_t i = 0; i < window->rank_count; i++) {
        ranks[i] = window->ranks[i].rank;
    }
    int code = forward_put(body, batch);
    free(ranks);
    return code;
}

/* Parts */

void forward_begin(struct run *run, struct track *track)
{
    for (struct stream *stream = run->streams; stream; stream = stream->hh.next) {
        stream->tracks[track->index].forwarded = false;
    }
}

int forward_packed(struct run *run, struct track *track, const struct window_part *part,
                   struct stream *stream, const void *state, size_t size, struct store_batch *batch)
{
    if (!forward_has(run, track)) {
        return 0;
    }
    struct fleet_body body = forward_body(run, FLEET_PART);
    forward_set_part(&body, track, part);
    body.layer = stream->id;
    body.module = stream->module;
    body.module_size = stream->module ? strlen(stream->module) : 0;
    body.state = state;
    body.state_size = size;
    int code = forward_put(&body, batch);
    stream->tracks[track->index].forwarded = !code;
    return code;
}

int forward_layer(struct run *run, struct track *track, const struct window_part *part,
                  struct stream *stream, struct store_batch *batch)
{
    const struct layer_state *state = track_part_state(part, stream);
    struct mpk_writer writer;
    if (!forward_has(run, track) || !batch || !state || stream->tracks[track->index].forwarded) {
        return 0;
    }
    mpk_writer_init(&writer);
    int code = layer_state_pack(state, &writer);
    if (!code) {
        code =
            forward_packed(run, track, part, stream, writer.buffer.data, writer.buffer.size, batch);
    }
    mpk_writer_clear(&writer);
    return code;
}

int forward_closed(struct run *run, struct track *track, const struct window_part *part,
                   struct store_batch *batch)
{
    if (!forward_has(run, track) || !batch) {
        return 0;
    }
    struct fleet_body body = forward_body(run, FLEET_CLOSED);
    for (struct stream *stream = run->streams; stream; stream = stream->hh.next) {
        body.layers += stream->tracks[track->index].forwarded;
    }
    forward_set_part(&body, track, part);
    body.next_before = track->next_before;
    uint64_t from = track->window.complete_from;
    if (track->knows_losses && checkpoint_losses(run->sink) != track->losses) {
        track->unseen_before = part->index;
    }
    body.complete_from = from > track->unseen_before ? from : track->unseen_before;
    body.cut = part->cut;
    return forward_put_progress(run, &body, batch);
}

void forward_done(const struct run *run, struct track *track)
{
    track->next_before = track->window.next_index;
    track->losses = checkpoint_losses(run->sink);
    track->knows_losses = true;
}

/* Runs */

int forward_settings(const struct run *run, const void *settings, size_t size,
                     struct store_batch *batch)
{
    struct fleet_body body = forward_body(run, FLEET_RUN);
    body.settings = settings;
    body.settings_size = size;
    return forward_is_on(run) ? forward_put_progress(run, &body, batch) : 0;
}

int forward_log(const struct run *run, const struct header *header, struct store_batch *batch)
{
    struct fleet_body body = forward_body(run, FLEET_RUN);
    if (!forward_is_on(run)) {
        return 0;
    }
    const struct named_values *values = &header->values;
    struct fleet_point *points = calloc(values->count + 1, sizeof *points);
    for (uint32_t i = 0; points && i < values->count; i++) {
        const struct named_value *value = &values->list[i];
        points[i] = (struct fleet_point){
            .name = value->name,
            .name_size = strlen(value->name),
            .epoch = header->epoch,
            .step = header->step,
            .time_ns = header->time_ns,
            .value = value->kind == NAMED_NUMBER ? value->number : NAN,
        };
    }
    body.points = points;
    body.point_count = values->count;
    int code = points ? forward_put_progress(run, &body, batch) : ERR_MEMORY;
    free(points);
    return code;
}

int forward_state(const struct run *run, struct store_batch *batch)
{
    struct fleet_body body = forward_body(run, FLEET_RUN);
    return forward_is_on(run) && batch ? forward_put_progress(run, &body, batch) : 0;
}

void forward_new_state(const struct run *run)
{
    struct store_batch *batch = forward_is_on(run) ? checkpoint_begin(run) : NULL;
    int code = batch ? forward_state(run, batch) : 0;
    if (code) {
        log_event(LOG_ERROR, "state_not_sent", LOG_STR("job", run->job),
                  LOG_STR("reason", err_slug(code)));
        store_count_lost(run->sink->store, batch);
    } else if (batch) {
        store_submit(run->sink->store, &batch);
    }
    batch_free(&batch);
}

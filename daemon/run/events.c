/* SPDX-License-Identifier: MIT */
#include "daemon/run/events.h"

#include "daemon/base/log.h"
#include "daemon/run/checkpoint.h"
#include "daemon/run/forward.h"
#include "daemon/run/judging.h"

#include <math.h>
#include <string.h>

/* Everything of a batch goes to the history, or nothing: it is counted there. Returns the code. */
static int events_submit(struct run *run, struct store_batch **batch, int code)
{
    if (code) {
        log_event(LOG_WARNING, "event_not_kept", LOG_STR("job", run->job),
                  LOG_STR("reason", err_slug(code)));
        store_count_lost(run->sink->store, *batch);
        batch_free(batch);
    } else {
        store_submit(run->sink->store, batch);
    }
    return code;
}

/* Returns 0, or ERR_MEMORY. */
static int events_keep_settings(struct run *run, const struct named_values *settings)
{
    struct store_batch *batch = checkpoint_begin(run);
    struct mpk_writer writer;
    if (!batch) {
        return run->sink->store ? ERR_MEMORY : 0;
    }
    mpk_writer_init(&writer);
    named_put(settings, &writer);
    int code = mpk_writer_ok(&writer)
                   ? batch_settings(batch, writer.buffer.data, writer.buffer.size)
                   : ERR_MEMORY;
    if (!code) {
        code = forward_settings(run, writer.buffer.data, writer.buffer.size, batch);
    }
    mpk_writer_clear(&writer);
    return events_submit(run, &batch, code);
}

/* Publishes what the training reports, and hands it to the history. The position is its own: it
 * need not be that of the captures. Returns 0, or ERR_MEMORY: the history has not got it. */
static int events_log(struct run *run, const struct header *header)
{
    struct log_result log = {
        .common = {run->job, run->id, header->epoch, header->step, header->time_ns},
        .values = &header->values,
    };
    struct store_batch *batch = checkpoint_begin(run);
    int code = batch || !run->sink->store ? 0 : ERR_MEMORY;
    for (uint32_t i = 0; batch && i < header->values.count && !code; i++) {
        const struct named_value *value = &header->values.list[i];
        const struct store_point point = {
            .name = value->name,
            .epoch = header->epoch,
            .step = header->step,
            .time_ns = header->time_ns,
            .value = value->kind == NAMED_NUMBER ? value->number : NAN,
        };
        code = batch_point(batch, &point);
    }
    if (batch && !code) {
        code = forward_log(run, header, batch);
    }
    judging_of_log(run, &log, header->rank, batch);
    if (batch) {
        code = events_submit(run, &batch, code);
    }
    run_publish_log(run, &log);
    return code;
}

/* Whether it comes too late for that: the run's first message has decided. */
static bool events_asks_other_windows(const struct run *run, const struct header *header)
{
    const struct own_window *own = &header->own_window;
    const struct window_rule *rule = &run->tracks[0].window.rule;
    return own->length > 0 &&
           (own->unit != rule->unit || own->length != rule->length || own->length != rule->every);
}

/* One rank fails first, and its end makes others fail: the first that is heard of counts. A later
 * `bye` of its rank takes its word back. */
static void events_take_failure(struct run *run, const struct header *header)
{
    bool said = run->failure.type[0], same = said && run->failure.rank == header->rank;
    if (header->failure && (!said || same)) {
        run->failure = *header->failure;
        run->dirty = true;
        forward_new_state(run);
    } else if (same) {
        run->failure = (struct failure){.step = 0};
        run->dirty = true;
    }
}

int events_take(struct run *run, struct message *message)
{
    const struct header *header = &message->header;
    uint64_t dropped = 0;
    int code = run_next_in_sequence(run, message);
    bool told = header->event != EVENT_LOG || header->dropped_total > 0 || header->seq == 0;
    if (!code && told &&
        !message->losses.found) { /* a late one tells an older total than is known */
        code = drop_totals_event(&run->drop_totals, message->rank_index, header->dropped_total,
                                 header->seq == 0, &dropped);
    }
    if (code) {
        return code;
    }
    message->losses.source += dropped;
    tally_losses(&run->counts.tally, &message->losses);
    run->found += message->losses.found;
    run->dirty = run->dirty || dropped > 0;
    for (uint32_t i = 0; header->event == EVENT_HELLO && i < header->layer_count && !code; i++) {
        const struct layer_info *layer = &header->layers[i];
        struct stream *stream;
        code = layer->heads > run->config->limits_heads
                   ? ERR_HEADS_LIMIT
                   : run_stream(run, layer->id, layer->heads, message->received_ns, &stream);
        if (!code && layer->module) {
            run->dirty |= stream_set_module(stream, layer->module, strlen(layer->module));
        }
    }
    if (header->event == EVENT_LOG) {
        code = events_log(run, header);
        run->counts.processed += !code;
        return code;
    }
    if (header->event == EVENT_HELLO && !code) {
        run->own_every = header->own_every;
        code = costs_take(&run->costs, message->rank_index, header);
    }
    if (header->event == EVENT_HELLO && !code && events_asks_other_windows(run, header)) {
        code = ERR_OWN_WINDOW;
    }
    if (header->event == EVENT_HELLO && header->settings.count > 0) {
        int kept = events_keep_settings(run, &header->settings);
        code = code ? code : kept;
    }
    if (run->judge_losses && run_counts(run).tally.source > run->judged.tally.source) {
        judging_of_losses(run);
    }
    run->judge_losses = true;
    if (header->event == EVENT_BYE) {
        events_take_failure(run, header);
    }
    for (uint32_t t = 0; t < run->track_count; t++) {
        struct window *window = &run->tracks[t].window;
        if (header->event == EVENT_EPOCH_END) {
            window_epoch_end(window, message->rank_index, header->epoch);
        } else if (header->event == EVENT_BYE) {
            window_bye(window, message->rank_index, header->step, message->received_ns);
        }
    }
    if (!code) {
        run->counts.processed++;
    }
    return code;
}

int events_heed_bye(struct run *run, const struct message *message)
{
    static const struct sequences none;
    const struct header *header = &message->header;
    const struct window_rank *rank = &run->tracks[0].window.ranks[message->rank_index];
    if (!rank->bye && !rank->bye_ns) {
        return 0;
    }
    const struct sequences *found = run_sequences(run, header);
    const struct sequences *sequences = found ? found : &none;
    if (rank->bye && sequences_passed(sequences, message->rank_index, header->seq)) {
        return ERR_ENDED;
    }
    if (sequences_goes_on(sequences, message->rank_index, header->seq)) {
        for (uint32_t t = 0; t < run->track_count; t++) {
            window_take_bye_back(&run->tracks[t].window, message->rank_index, message->received_ns);
        }
    }
    return 0;
}

/* SPDX-License-Identifier: MIT */
/* The story of a message here: run_arrive checks its sequence, finds its layer and opens its part
 * of the window; the caller has it computed; run_complete adds the numbers to the layer's state in
 * that part. Only then can the part close, because it counts what is in flight. An epoch_end
 * arrives behind every message that was received before it, so a part never closes over their
 * heads.
 *
 * What was lost or refused waits in the layer's `pending` for its next message, and is counted in
 * that one's window: a refused message itself may belong to a window that is long closed. */
#include "run.h"

#include "live.h"
#include "log.h"

#include <stdlib.h>
#include <string.h>

/* One run may use this part of limits.state_memory, so that it cannot take it all. */
#define RUN_SHARE 4

struct run *run_new(const struct header *header, const struct config *config,
                    const struct result_sink *sink, struct state_budget *budget, uint64_t now_ns)
{
    struct window_rule rule = {
        .unit = (enum window_unit)config->window_unit,
        .length = config->window_length,
        .every = config->window_every,
        .part = config_window_part(config->window_length, config->window_every),
        .timeout_ns = config->window_timeout,
        .rank_grace_ns = config->window_rank_grace,
    };
    struct run *run = calloc(1, sizeof *run);
    if (!run)
        return NULL;
    memcpy(run->id, header->run, RUN_BYTES);
    strcpy(run->job, header->job);
    run->config = config;
    config_for_job(config, run->job, &run->job_config);
    run->sink = sink;
    run->budget = (struct state_budget){.limit = budget->limit / RUN_SHARE, .parent = budget};
    run->last_ns = now_ns;
    window_init(&run->window, &rule, now_ns);
    return run;
}

static void free_part(struct window_part *part)
{
    struct state_table *table = part->data;
    state_table_free(&table);
    free(part);
}

void run_free_windows(struct run *run)
{
    struct window_part *part;
    while ((part = window_take_any(&run->window)))
        free_part(part);
}

void run_free(struct run **run_p)
{
    struct run *run = *run_p;
    struct stream *stream, *next;
    if (!run)
        return;
    run_free_windows(run);
    window_fini(&run->window);
    HASH_ITER(hh, run->streams, stream, next)
    {
        HASH_DEL(run->streams, stream);
        sequences_clear(&stream->sequences);
        free(stream->spectrum_next);
        free(stream);
    }
    sequences_clear(&run->events);
    free(run);
    *run_p = NULL;
}

/* Streams */

static uint32_t pack(struct layer_id id)
{
    return id.layer << 2 | (uint32_t)id.stack << 1 | (uint32_t)id.site;
}

static int add_stream(struct run *run, struct layer_id id, uint32_t heads,
                      struct stream **ret_stream)
{
    if (run->stream_count >= run->config->limits_layers)
        return ERR_STREAM_LIMIT;
    struct stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return ERR_MEMORY;
    *stream =
        (struct stream){.key = pack(id), .id = id, .heads = heads, .index = run->stream_count};
    HASH_ADD(hh, run->streams, key, sizeof stream->key, stream);
    if (!stream->hh.tbl) {
        free(stream);
        return ERR_MEMORY;
    }
    run->stream_count++;
    run->dirty = true;
    *ret_stream = stream;
    return 0;
}

static int find_stream(struct run *run, struct layer_id id, uint32_t heads,
                       struct stream **ret_stream)
{
    uint32_t key = pack(id);
    struct stream *stream = NULL;
    HASH_FIND(hh, run->streams, &key, sizeof key, stream);
    if (!stream)
        return add_stream(run, id, heads, ret_stream);
    *ret_stream = stream;
    return 0;
}

/* What a tensor message says about the heads counts, and must not change; a hello only announces.
 */
static int settle_heads(struct run *run, struct stream *stream, uint32_t heads)
{
    if (stream->measured && stream->heads != heads)
        return ERR_HEADS_CHANGED;
    run->dirty = run->dirty || stream->heads != heads;
    stream->heads = heads;
    stream->measured = true;
    return 0;
}

/* The state of a layer in a part, made on first use. Returns 0, ERR_STATE_LIMIT or ERR_MEMORY. */
static int get_state(struct run *run, struct window_part *part, const struct stream *stream,
                     struct layer_state **ret_state)
{
    if (!part->data)
        part->data = state_table_new(&run->budget, (uint32_t)run->config->window_buckets);
    if (!part->data)
        return ERR_MEMORY;
    return state_table_get(part->data, stream->index, stream->heads, ret_state);
}

/* Arrivals */

/* Places a numbered message in its window. The window sees it first, even if there is no memory
 * left to keep its numbers: a rank that moves on lets older parts close, which gives memory back.
 */
static int place(struct run *run, struct message *message, uint64_t now_ns)
{
    const struct header *header = &message->header;
    uint64_t unit = window_unit_of(&run->window, header->epoch, header->step, now_ns);
    struct layer_state *state;
    int code = window_arrive(&run->window, message->rank_index, unit, now_ns, &message->part);
    if (code)
        return code;
    if (message->losses.joined_late)
        window_joined_late(&run->window, message->part);
    code = state_budget_full(&run->budget) ? ERR_STATE_LIMIT
                                           : get_state(run, message->part, message->stream, &state);
    if (code) {
        window_done(message->part);
        return code;
    }
    tally_merge(&state->tally, &message->stream->pending);
    message->stream->pending = (struct tally){0};
    return 0;
}

/* Numbers first, so that a message that is refused for what it says is not taken for a lost one as
 * well. */
static int take_in(struct run *run, struct message *message, uint64_t now_ns)
{
    const struct header *header = &message->header;
    struct stream *stream = message->stream;
    int code = sequences_next(&stream->sequences, message->rank_index, header->seq, header->dropped,
                              &message->losses);
    if (code)
        return code;
    tally_losses(&run->tally, &message->losses);
    tally_losses(&stream->pending, &message->losses);
    code = settle_heads(run, stream, header->heads_total);
    return code ? code : place(run, message, now_ns);
}

static int arrive_tensors(struct run *run, struct message *message, uint64_t now_ns)
{
    const struct header *header = &message->header;
    int code = find_stream(run, header->layer, header->heads_total, &message->stream);
    if (code)
        return code;
    code = take_in(run, message, now_ns);
    if (code) {
        tally_drop(&message->stream->pending, code);
        return code;
    }
    message->run = run;
    run->in_flight++;
    return RUN_COMPUTE;
}

static int handle_hello(struct run *run, const struct header *header)
{
    struct stream *stream;
    int code = 0;
    for (uint32_t i = 0; i < header->layer_count && !code; i++)
        code = header->layers[i].heads > run->config->limits_heads
                   ? ERR_HEADS_LIMIT
                   : find_stream(run, header->layers[i].id, header->layers[i].heads, &stream);
    return code;
}

static int arrive_event(struct run *run, struct message *message)
{
    const struct header *header = &message->header;
    int code = sequences_next(&run->events, message->rank_index, header->seq, header->dropped,
                              &message->losses);
    if (code)
        return code;
    tally_losses(&run->tally, &message->losses);
    if (header->event == EVENT_HELLO)
        code = handle_hello(run, header);
    else if (header->event == EVENT_EPOCH_END)
        window_epoch_end(&run->window, message->rank_index, header->epoch);
    else
        window_bye(&run->window, message->rank_index);
    if (code)
        return code;
    run->processed++;
    return RUN_HANDLED;
}

static void note_position(struct run *run, const struct header *header, uint64_t now_ns)
{
    run->last_ns = now_ns;
    run->epoch = header->epoch;
    run->step = header->step;
    run->time_ns = header->time_ns;
    if (run->state != JOB_ACTIVE) {
        run->state = JOB_ACTIVE;
        run->dirty = true;
    }
}

int run_arrive(struct run *run, struct message *message, uint64_t now_ns)
{
    const struct header *header = &message->header;
    uint32_t ranks = run->window.rank_count;
    run->received++;
    int code = window_rank(&run->window, header->rank, header->world, run->config->limits_ranks,
                           now_ns, &message->rank_index);
    if (code)
        return code;
    if (run->window.ranks[message->rank_index].bye)
        return ERR_ENDED;
    run->dirty = run->dirty || run->window.rank_count != ranks;
    note_position(run, header, now_ns);
    if (header->type == MESSAGE_EVENT)
        return arrive_event(run, message);
    return arrive_tensors(run, message, now_ns);
}

void run_refused(struct run *run, int code)
{
    tally_drop(&run->tally, code);
}

/* Completions */

static void account(struct run *run, struct message *message)
{
    window_done(message->part);
    run->in_flight--;
    if (run->flush_left > 0 && message->arrival <= run->flush_arrival && --run->flush_left == 0)
        run_show(run);
}

static void publish_live(struct run *run, const struct message *message,
                         const struct measured *measured)
{
    char topic[TOPIC_MAX];
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    topic_layer("live", run->job, message->header.layer, topic);
    if (live_write(message, measured, &writer) == 0)
        run->sink->put(run->sink->data, topic, &writer, /* is_summary= */ false);
    mpk_writer_clear(&writer);
}

uint32_t run_spectrum_turn(const struct message *message)
{
    const uint32_t *next = message->stream->spectrum_next;
    return next ? next[message->header.head_offset] : 0;
}

/* Without memory turns begin with the first head: no harm. */
static void end_spectrum_turn(const struct message *message, uint32_t next)
{
    struct stream *stream = message->stream;
    if (!stream->spectrum_next)
        stream->spectrum_next = calloc(stream->heads, sizeof *stream->spectrum_next);
    if (stream->spectrum_next)
        stream->spectrum_next[message->header.head_offset] = next;
}

int run_complete(struct run *run, struct message *message, const struct measured *measured)
{
    struct layer_state *state;
    int code = get_state(run, message->part, message->stream, &state);
    if (!code)
        code = layer_state_add(state, message, measured);
    if (code) {
        run_abandon(run, message, code);
        return code;
    }
    state_table_grown(message->part->data, message->stream->index);
    run->processed++;
    if (measured->has_spectra)
        end_spectrum_turn(message, measured->spectrum_next);
    publish_live(run, message, measured);
    account(run, message);
    return 0;
}

void run_abandon(struct run *run, struct message *message, int code)
{
    tally_drop(&message->stream->pending, code);
    run_refused(run, code);
    account(run, message);
}

/* Publishing */

static void publish_job(struct run *run)
{
    char topic[TOPIC_MAX];
    struct mpk_writer writer;
    run->dirty = false;
    mpk_writer_init(&writer);
    run_encode(run, &writer);
    topic_job("job", run->job, topic);
    run->sink->put(run->sink->data, topic, &writer, /* is_summary= */ false);
    mpk_writer_clear(&writer);
}

/* Says so; returns the state there is not. */
static const struct layer_state *summary_lost(const struct run *run, const struct stream *stream,
                                              int code)
{
    char topic[TOPIC_MAX];
    topic_layer("summary", run->job, stream->id, topic);
    log_event(LOG_ERROR, "summary_lost", LOG_STR("topic", topic),
              LOG_STR("reason", err_slug(code)));
    return NULL;
}

static void publish_summary(struct run *run, const struct stream *stream,
                            const struct layer_state *state, const struct result_window *window)
{
    char topic[TOPIC_MAX];
    struct mpk_writer writer;
    struct summary_view view;
    mpk_writer_init(&writer);
    int code = summary_view_init(&view, state, stream->id, run->job, run->id, window);
    if (!code) {
        summary_encode(&view.result, &writer);
        code = mpk_writer_ok(&writer) ? 0 : ERR_MEMORY;
        summary_view_clear(&view);
    }
    topic_layer("summary", run->job, stream->id, topic);
    if (code)
        summary_lost(run, stream, code);
    else
        run->sink->put(run->sink->data, topic, &writer, /* is_summary= */ true);
    mpk_writer_clear(&writer);
}

/* The parts of one window, collected for merging. */
struct part_list {
    struct window_part *parts[CONFIG_WINDOW_PARTS_MAX];
    uint32_t count;
};

static void collect(void *data, struct window_part *part)
{
    struct part_list *list = data;
    if (part->data && list->count < CONFIG_WINDOW_PARTS_MAX)
        list->parts[list->count++] = part;
}

/* The state of one layer over a whole window: borrowed when one part has it all, else merged into
 * *ret_merged, which the caller frees. NULL when the layer has no messages there, or when no memory
 * is left, which is logged. */
static const struct layer_state *merge_parts(const struct run *run, const struct part_list *list,
                                             const struct stream *stream,
                                             struct layer_state **ret_merged)
{
    const struct layer_state *only = NULL;
    for (uint32_t i = 0; i < list->count; i++) {
        const struct layer_state *state = state_table_find(list->parts[i]->data, stream->index);
        if (!state || !state->messages)
            continue;
        if (only && !*ret_merged) {
            *ret_merged = layer_state_new(stream->heads, (uint32_t)run->config->window_buckets);
            if (!*ret_merged || layer_state_merge(*ret_merged, only) != 0)
                return summary_lost(run, stream, ERR_MEMORY);
        }
        if (*ret_merged && layer_state_merge(*ret_merged, state) != 0)
            return summary_lost(run, stream, ERR_MEMORY);
        only = *ret_merged ? *ret_merged : state;
    }
    return only;
}

/* Publishes the window that ends with `last`, a summary per layer. Returns how many. */
static uint32_t publish_window(struct run *run, const struct window_part *last)
{
    struct result_window window = window_describe(&run->window, last);
    struct part_list list = {.count = 0};
    uint32_t published = 0;
    window_each(&run->window, last, collect, &list);
    for (struct stream *stream = run->streams; stream; stream = stream->hh.next) {
        struct layer_state *merged = NULL;
        const struct layer_state *state = merge_parts(run, &list, stream, &merged);
        if (state) {
            publish_summary(run, stream, state, &window);
            published++;
        }
        layer_state_free(&merged);
    }
    if (published)
        publish_job(run);
    log_event(LOG_DEBUG, "window_published", LOG_STR("job", run->job), LOG_NUM("last", window.last),
              LOG_NUM("layers", published), LOG_NUM("partial", window.partial));
    return published;
}

uint32_t run_show(struct run *run)
{
    uint32_t published = 0;
    for (struct window_part *part = run->window.open; part; part = part->next)
        if (window_due(&run->window, part))
            published += publish_window(run, part);
    return published;
}

bool run_flush(struct run *run, uint64_t arrival)
{
    run->flush_arrival = arrival;
    run->flush_left = run->in_flight;
    if (run->flush_left == 0)
        run_show(run);
    return run->flush_left > 0;
}

/* Time */

static void end_if_all_bye(struct run *run)
{
    if (run->state == JOB_ENDED || !window_all_bye(&run->window) || run->window.open ||
        run->in_flight)
        return;
    run->state = JOB_ENDED;
    run_free_windows(run);
    publish_job(run);
    log_event(LOG_INFO, "run_ended", LOG_STR("job", run->job), LOG_NUM("processed", run->processed),
              LOG_NUM("lost", run->tally.lost));
}

void run_settle(struct run *run, uint64_t now_ns)
{
    struct window_part *part;
    while ((part = window_close_next(&run->window, now_ns))) {
        if (window_due(&run->window, part))
            publish_window(run, part);
        while ((part = window_forget(&run->window)))
            free_part(part);
    }
    end_if_all_bye(run);
}

static void go_idle(struct run *run)
{
    run->state = JOB_IDLE;
    run_show(run);
    run_free_windows(run);
    publish_job(run);
    log_event(LOG_INFO, "run_idle", LOG_STR("job", run->job));
}

void run_tick(struct run *run, uint64_t now_ns)
{
    struct window_part *quiet;
    run_settle(run, now_ns);
    while ((quiet = window_quiet(&run->window, now_ns)))
        publish_window(run, window_boundary(&run->window, quiet));
    if (run->state == JOB_ACTIVE && !run->in_flight &&
        now_ns - run->last_ns >= run->config->limits_idle)
        go_idle(run);
    if (run->dirty)
        publish_job(run);
}

/* The job map */

void run_encode(const struct run *run, struct mpk_writer *writer)
{
    struct reason_count dropped[TALLY_REASONS_MAX];
    struct layer_info *layers = calloc(run->stream_count + 1, sizeof *layers);
    uint32_t count = 0;
    if (!layers) {
        writer->failed = true;
        return;
    }
    for (struct stream *stream = run->streams; stream; stream = stream->hh.next)
        layers[count++] = (struct layer_info){.id = stream->id, .heads = stream->heads};
    struct job_result result = {
        .common = {run->job, run->id, run->epoch, run->step, run->time_ns},
        .state = run->state,
        .world = run->window.world,
        .ranks = run->window.rank_count,
        .layers = layers,
        .layer_count = count,
        .received = run->received,
        .processed = run->processed,
        .lost = run->tally.lost,
        .dropped = dropped,
        .dropped_count = tally_reasons(&run->tally, dropped),
    };
    job_encode(&result, writer);
    free(layers);
}

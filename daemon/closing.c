/* SPDX-License-Identifier: MIT */
#include "closing.h"

#include "log.h"

void closing_publish_job(struct run *run)
{
    char topic[TOPIC_MAX];
    struct mpk_writer writer;
    run->dirty = false;
    mpk_writer_init(&writer);
    run_encode(run, &writer);
    topic_job("job", run->job, topic);
    run->sink->put(run->sink->data, topic, 0, &writer, RESULT_OTHER);
    mpk_writer_clear(&writer);
}

static void log_summary_lost(const char *topic, int code)
{
    log_event(LOG_ERROR, "summary_lost", LOG_STR("topic", topic),
              LOG_STR("reason", err_slug(code)));
}

static void publish_summary(struct run *run, const struct track *track, const struct stream *stream,
                            const struct layer_state *state, const struct result_window *window)
{
    char topic[TOPIC_MAX];
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    struct summary_view view;
    int code = summary_view_init(&view, state, stream->id, run->job, run->id, window);
    if (!code) {
        summary_encode(&view.result, &writer);
        code = mpk_writer_ok(&writer) ? 0 : ERR_MEMORY;
        summary_view_clear(&view);
    }
    topic_layer("summary", run->job, stream->id, topic);
    if (code)
        log_summary_lost(topic, code);
    else
        run->sink->put(run->sink->data, topic, track->index, &writer, RESULT_SUMMARY);
    mpk_writer_clear(&writer);
}

/* Publishes the window that ends with `last`, a summary per layer. Returns how many. */
static uint32_t publish_window(struct run *run, struct track *track, const struct window_part *last)
{
    struct result_window window = window_describe(&track->window, last);
    struct part_list list;
    uint32_t published = 0;
    track_parts(track, last, &list);
    for (struct stream *stream = run->streams; stream; stream = stream->hh.next) {
        struct layer_state *merged = NULL;
        const struct layer_state *state;
        if (track_merge(track, &list, stream, &state, &merged) == 0 && state) {
            publish_summary(run, track, stream, state, &window);
            published++;
        }
        layer_state_free(&merged);
    }
    if (published)
        closing_publish_job(run);
    log_event(LOG_DEBUG, "window_published", LOG_STR("job", run->job),
              LOG_STR("track", track->name), LOG_NUM("last", window.last),
              LOG_NUM("layers", published), LOG_NUM("partial", window.partial));
    return published;
}

static uint32_t show_track(struct run *run, struct track *track)
{
    uint32_t published = 0;
    for (struct window_part *part = track->window.open; part; part = part->next)
        if (window_due(&track->window, part))
            published += publish_window(run, track, part);
    return published;
}

uint32_t closing_show(struct run *run)
{
    uint32_t published = 0;
    for (uint32_t t = 0; t < run->track_count; t++)
        published += show_track(run, &run->tracks[t]);
    return published;
}

void closing_show_quiet(struct run *run, uint64_t now_ns)
{
    for (uint32_t t = 0; t < run->track_count; t++) {
        struct track *track = &run->tracks[t];
        struct window_part *quiet;
        while ((quiet = window_quiet(&track->window, now_ns)))
            publish_window(run, track, window_boundary(&track->window, quiet));
    }
}

static void settle_track(struct run *run, struct track *track, uint64_t now_ns)
{
    struct window_part *part;
    while ((part = window_close_next(&track->window, now_ns))) {
        if (window_due(&track->window, part))
            publish_window(run, track, part);
        while ((part = window_forget(&track->window)))
            track_free_part(part);
    }
}

static bool has_ended(const struct run *run)
{
    bool open = false;
    for (uint32_t t = 0; t < run->track_count; t++)
        open = open || run->tracks[t].window.open;
    return !open && !run->queue && window_all_bye(&run->tracks[0].window);
}

static void end_run(struct run *run)
{
    struct counts counts = run_counts(run);
    run->state = JOB_ENDED;
    for (uint32_t t = 0; t < run->track_count; t++)
        track_free_parts(&run->tracks[t]);
    closing_publish_job(run);
    log_event(LOG_INFO, "run_ended", LOG_STR("job", run->job),
              LOG_NUM("processed", counts.processed), LOG_NUM("lost", counts.tally.lost));
}

void closing_settle(struct run *run, uint64_t now_ns)
{
    for (uint32_t t = 0; t < run->track_count; t++)
        settle_track(run, &run->tracks[t], now_ns);
    if (run->state != JOB_ENDED && has_ended(run))
        end_run(run);
}

/* SPDX-License-Identifier: MIT */
#include "daemon/run/judging.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/run/checkpoint.h"
#include "daemon/state/odd_ranks.h"

/* Captures after which a metric that has not come is not only late. */
#define CAPTURES_JUDGED 16

/* Handles an event that alerts.h finds: it is published on alert/<job>/, passed on to a command or
 * a webhook, kept in the history, counted and logged. */
static void judging_on_event(void *data, const struct alert_result *found)
{
    struct closing *closing = data;
    struct run *run = closing->run;
    const struct alert_result with_module = run_with_module(run, found), *event = &with_module;
    bool calm = event->state != ALERT_FIRING || event->severity == ALERT_INFO;
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    alert_encode(event, &writer);
    run_put(run, "alert", &writer, RESULT_ALERT);
    if (closing->batch && batch_alert(closing->batch, event) != 0) {
        log_event(LOG_ERROR, "alert_not_kept", LOG_STR("rule", event->rule));
    }
    stats_add(run->sink->stats, COUNT_ALERTS, 1);
    closing->events++;
    log_event(calm ? LOG_INFO : LOG_WARNING, "alert", LOG_STR("job", run->job),
              LOG_STR("rule", event->rule), LOG_STR("state", alert_state_name(event->state)),
              LOG_STR("severity", alert_severity_name(event->severity)),
              LOG_STR("message", event->message));
}

static void judging_on_overflow(void *data, uint32_t events)
{
    struct run *run = ((struct closing *)data)->run;
    stats_add(run->sink->stats, COUNT_ALERTS_DROPPED, events);
    log_event(LOG_WARNING, "alerts_dropped", LOG_STR("job", run->job), LOG_NUM("count", events));
}

static struct alert_sink judging_sink(struct closing *closing)
{
    return (struct alert_sink){judging_on_event, judging_on_overflow, closing};
}

/* Leaves out what came again on the reliable lane, which is nobody's loss. */
static uint64_t judging_dropped(const struct counts *counts)
{
    const struct tally *tally = &counts->tally;
    uint64_t dropped = tally->source;
    for (int i = 0; i < ERR_COUNT; i++) {
        dropped += tally->dropped[i];
    }
    return dropped - tally->dropped[err_index(ERR_REPEATED)];
}

/* A rule that is not attnd's own. That one has no baseline yet is no news. */
static void judging_on_unjudged(void *data, const struct rule *rule)
{
    const struct run *run = data;
    const char *metric = rule_metric_name(rule->metric);
    const char *needs = rule_needs(rule->name, metric);
    if (!rule_why(rule->name, metric) && rule->statistic < RULE_DELTA) {
        log_event(LOG_WARNING, "rule_not_measured", LOG_STR("job", run->job),
                  LOG_STR("rule", rule->name), LOG_STR("metric", metric),
                  LOG_STR("layer", rule->layer),
                  LOG_STR("reason", needs ? needs : "no layer that matches has sent the metric"));
    }
}

/* The log names once the rules that had nothing to judge: after CAPTURES_JUDGED captures, or when
 * the run is over. */
static void judging_tell_unjudged(struct run *run)
{
    if (run->told_unjudged) {
        return;
    }
    uint64_t most = 0, epoch, step, ranks = run->tracks[0].window.rank_count;
    for (const struct stream *stream = run->streams; stream; stream = stream->hh.next) {
        most = stream->counts.processed > most ? stream->counts.processed : most;
    }
    if (alerts_judged_to(run->alerts, &epoch, &step) &&
        (run->state == JOB_ENDED || most >= CAPTURES_JUDGED * ranks)) {
        run->told_unjudged = true;
        alerts_unjudged(run->alerts, judging_on_unjudged, run);
    }
}

void judging_of_run(struct closing *closing)
{
    struct run *run = closing->run;
    struct counts counts = run_counts(run);
    uint64_t lost = counts.tally.lost, judged = run->judged.tally.lost;
    const int other_heads = err_index(ERR_HEADS_CHANGED);
    struct alert_run said = {
        .common = run_common(run),
        .by = run->captures ? ALERTS_OF_WINDOWS : ALERTS_OF_ALL,
        .processed = counts.processed - run->judged.processed,
        .lost = lost > judged ? lost - judged : 0, /* less when late messages came */
        .dropped = judging_dropped(&counts) - judging_dropped(&run->judged),
        .other_heads = counts.tally.dropped[other_heads] - run->judged.tally.dropped[other_heads],
    };
    struct alert_sink sink = judging_sink(closing);
    run->alerts_unsaved = true;
    run->judged = counts;
    if (alerts_run(run->alerts, &said, &sink) != 0) {
        log_event(LOG_ERROR, "run_not_judged", LOG_STR("job", run->job));
    }
    judging_tell_unjudged(run);
}

void judging_submit(struct closing *closing)
{
    if (closing->batch && closing->events > 0) {
        store_submit(closing->run->sink->store, &closing->batch);
    }
    batch_free(&closing->batch);
}

void judging_of_losses(struct run *run)
{
    struct closing closing = {.run = run};
    if (!run->alerts) {
        return;
    }
    closing.batch = checkpoint_begin(run);
    judging_of_run(&closing);
    judging_submit(&closing);
}

/* Its events make a batch of their own, with the alerts as they are then: after a kill they are not
 * told again. */
static void judging_of_capture(struct run *run, struct capture *capture)
{
    struct closing closing = {.run = run, .batch = checkpoint_begin(run)};
    struct alert_sink sink = judging_sink(&closing);
    const struct result_common common = {run->job, run->id, capture->key.epoch, capture->key.step,
                                         capture->time_ns};
    run->unsaved = run->alerts_unsaved = true;
    if (alerts_capture(run->alerts, &common, capture, &sink) != 0) {
        log_event(LOG_ERROR, "capture_not_judged", LOG_STR("job", run->job));
    }
    captures_judged(run->captures, capture);
    stats_add(run->sink->stats, COUNT_CAPTURES, 1);
    stats_add(run->sink->stats, COUNT_CAPTURES_CUT, capture->cut);
    if (closing.batch && closing.events > 0) {
        checkpoint_alerts(run, closing.batch);
    }
    judging_submit(&closing);
}

void judging_of_sketch(struct run *run, const struct stream *stream,
                       const struct sketch_judged *sketch)
{
    const struct sketch_capture *capture = &stream->sketch->capture;
    const struct result_common common = {run->job, run->id, capture->epoch, capture->step,
                                         capture->time_ns};
    struct closing closing = {.run = run, .batch = checkpoint_begin(run)};
    struct alert_sink sink = judging_sink(&closing);
    run->unsaved = run->alerts_unsaved = true;
    if (alerts_sketch(run->alerts, &common, stream->id, sketch, &sink) != 0) {
        log_event(LOG_ERROR, "sketch_not_judged", LOG_STR("job", run->job));
    }
    if (closing.batch && closing.events > 0) {
        checkpoint_alerts(run, closing.batch);
    }
    judging_submit(&closing);
}

void judging_hear(struct run *run, const struct message *message, bool overtakes)
{
    const struct header *header = &message->header;
    bool moves = header->type != MESSAGE_EVENT && !overtakes;
    if (!run->captures || captures_hear(run->captures, message->rank_index, header, moves) != 0) {
        return;
    }
    if (header->type == MESSAGE_EVENT && header->event == EVENT_HELLO) {
        captures_announce(run->captures, message->rank_index, header->layer_count);
    }
}

void judging_of_message(struct run *run, const struct stream *stream, const struct message *message)
{
    if (!run->captures || message_has_matrices(message) ||
        message->rank_index >= run->captures->rank_count) {
        return;
    }
    if (captures_take(run->captures, message->rank_index, stream->index, message,
                      message->measured) == ERR_MEMORY) { /* a full budget cuts the capture */
        log_event(LOG_ERROR, "capture_lacks_message", LOG_STR("job", run->job),
                  LOG_STR("reason", err_slug(ERR_MEMORY)));
    }
}

void judging_settle(struct run *run)
{
    struct capture *capture;
    if (!run->captures) {
        return;
    }
    for (uint32_t i = 0; i < run->tracks[0].window.rank_count; i++) {
        captures_bye(run->captures, i, run->tracks[0].window.ranks[i].bye);
    }
    while ((capture = captures_due(run->captures))) {
        judging_of_capture(run, capture);
    }
}

void judging_rest(struct run *run)
{
    struct capture *capture;
    while (run->captures && (capture = captures_oldest_open(run->captures))) {
        judging_of_capture(run, capture);
    }
}

void judging_of_log(struct run *run, const struct log_result *log, uint32_t rank,
                    struct store_batch *batch)
{
    struct closing closing = {.run = run, .batch = batch};
    struct alert_sink sink = judging_sink(&closing);
    bool taken = false;
    if (run->alerts && alerts_log(run->alerts, log, rank, &sink, &taken) != 0) {
        log_event(LOG_ERROR, "loss_not_judged", LOG_STR("job", run->job));
    }
    run->unsaved = run->unsaved || taken;
    run->alerts_unsaved = run->alerts_unsaved || taken;
    if (batch && closing.events > 0) {
        checkpoint_alerts(run, batch); /* after a kill they are not told again */
    }
}

void judging_of_silence(struct run *run, uint64_t now_ns)
{
    struct closing closing = {.run = run};
    struct alert_sink sink = judging_sink(&closing);
    struct result_common common = run_common(run);
    double silent_s = (double)clock_since_ns(run->last_ns, now_ns) / 1e9;
    if (!run->alerts || run->state == JOB_ENDED) {
        return;
    }
    closing.batch = checkpoint_begin(run);
    alerts_silence(run->alerts, &common, silent_s, &sink);
    run->alerts_unsaved = run->alerts_unsaved || closing.events > 0;
    run->unsaved = run->unsaved || closing.events > 0;
    judging_submit(&closing);
}

void judging_end(struct closing *closing)
{
    struct run *run = closing->run;
    struct alert_sink sink = judging_sink(closing);
    struct result_common common = run_common(run);
    run->alerts_unsaved = true;
    if (run->alerts) {
        alerts_end(run->alerts, &common, run->state == JOB_ENDED, &sink);
        judging_tell_unjudged(run);
    }
}

uint32_t judging_unmeasured(const struct run *run, const struct plan *plan,
                            void (*visit)(void *data, const char *layer), void *data)
{
    uint32_t count = 0;
    for (const struct stream *stream = run->streams; run->alerts && stream;
         stream = stream->hh.next) {
        char name[LAYER_NAME_MAX];
        if (!alerts_measured(run->alerts, stream->id, run->state == JOB_ENDED) &&
            plan_takes(plan, stream->id)) {
            count++;
            if (visit) {
                visit(data, layer_name(stream->id, name));
            }
        }
    }
    return count;
}

void judging_of_layer(struct closing *closing, const struct layer_state *state,
                      struct summary_result *summary)
{
    struct run *run = closing->run;
    struct alert_sink sink = judging_sink(closing);
    if (!run->alerts || closing->track->index > 0 || !closing->closed || closing->again) {
        return;
    }
    run->alerts_unsaved = true;
    struct rank_entropy entropy = {.count = 0};
    int code = layer_state_ranks_entropy(state, state->heads, &entropy);
    if (!code) {
        code =
            odd_ranks_farthest(&entropy, state->heads, &summary->rank_distance, &summary->odd_rank);
    }
    rank_entropy_clear(&entropy);
    if (!code) {
        code = alerts_layer(run->alerts, summary, run->captures ? ALERTS_OF_WINDOWS : ALERTS_OF_ALL,
                            &sink);
    }
    if (code) {
        log_event(LOG_ERROR, "layer_not_judged", LOG_STR("job", run->job),
                  LOG_STR("reason", err_slug(code)));
    }
}

/* SPDX-License-Identifier: MIT */
/* The recording goes through a daemon apart (internal.h), as fast as it computes, on one thread
 * with the loop. Its alerts are kept as they will be printed. Runs that do not end in the recording
 * are ended after it, so that their last window is judged too. How long nothing came says nothing
 * at this speed: alerts about silence are left out. */
#include "daemon/judge.h"

#include "daemon/base/clock.h"
#include "daemon/internal.h"
#include "daemon/run/judging.h"
#include "proto/err.h"
#include "proto/header.h"
#include "proto/mpk.h"
#include "proto/playback.h"
#include "proto/ranks.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* How long the last windows may take to close beside window.rank_grace, when nothing comes. */
#define OPEN_NS UINT64_C(30000000000)

enum { JUDGE_OK = 0, JUDGE_FINDING = 1, JUDGE_USAGE = 2 };

struct judge {
    bool json;
    struct daemon *daemon;
    FILE *alerts; /* those that count, as they are printed */
    uint64_t count;
    uint32_t unmeasured; /* layers of the run at hand */
    struct playback playback;
    struct ranks ranks;
    bool detached; /* the message that was given last is of those that others overtake */
};

/* Alerts */

/* Prints control characters as '?'. */
static void judge_put_text(const char *text, size_t size, FILE *to)
{
    for (size_t i = 0; i < size; i++) {
        putc((unsigned char)text[i] < ' ' || text[i] == 0x7f ? '?' : text[i], to);
    }
}

static void judge_complain(const char *sentence)
{
    fprintf(stderr, "%s: ", program_invocation_short_name);
    judge_put_text(sentence, strlen(sentence), stderr);
    putc('\n', stderr);
}

/* Its threads are busy with what nobody waits for any more: leaves without them. */
static _Noreturn void judge_leave(int status, const char *sentence)
{
    judge_complain(sentence);
    _exit(status);
}

/* The sink of all runs. */
static void judge_put_result(void *data, const struct run *run, const char *topic, uint32_t track,
                             struct mpk_writer *writer, enum result_kind kind)
{
    struct judge *judge = data;
    struct mpk_doc doc;
    (void)run, (void)topic, (void)track;
    if (kind != RESULT_ALERT) {
        return;
    }
    if (mpk_parse(writer->buffer.data, writer->buffer.size, &mpk_result_limits, &doc) != 0) {
        judge_leave(JUDGE_FINDING, err_text(ERR_MEMORY));
    }
    if (!mpk_is_str(mpk_find(doc.root, "state"), "firing") ||
        mpk_is_str(mpk_find(doc.root, "metric"), "silence")) {
        mpk_doc_clear(&doc);
        return;
    }
    const char *separator = judge->count++ > 0 ? ",\n" : "";
    if (judge->json) {
        char *text = mpk_to_json(doc.root, 0);
        if (!text) {
            judge_leave(JUDGE_FINDING, err_text(ERR_MEMORY));
        }
        fprintf(judge->alerts, "%s%s", separator, text);
        free(text);
    } else { /* the message names metric, layer and head */
        const msgpack_object *since = mpk_find(doc.root, "since")->via.array.ptr;
        const msgpack_object_str *severity = &mpk_find(doc.root, "severity")->via.str;
        const msgpack_object_str *rule = &mpk_find(doc.root, "rule")->via.str;
        const msgpack_object_str *message = &mpk_find(doc.root, "message")->via.str;
        fprintf(judge->alerts, "%-8.*s %.*s ", (int)severity->size, severity->ptr, (int)rule->size,
                rule->ptr);
        if (since[0].type == MSGPACK_OBJECT_NIL) {
            fputs("from the start: ", judge->alerts);
        } else {
            fprintf(judge->alerts, "between steps %" PRIu64 " and %" PRIu64 ": ", since[0].via.u64,
                    since[1].via.u64);
        }
        judge_put_text(message->ptr, message->size, judge->alerts);
        putc('\n', judge->alerts);
    }
    mpk_doc_clear(&doc);
}

/* The recording */

static bool judge_is_busy(struct judge *judge)
{
    struct stats *stats = &judge->daemon->stats;
    return inbox_depth(&judge->daemon->inbox) > 0 || judge->daemon->ready ||
           stats_get(stats, COUNT_RECEIVED) > stats_get(stats, COUNT_PROCESSED) +
                                                  stats_dropped_total(stats) +
                                                  registry_waiting(judge->daemon->registry);
}

/* One message as if it had been received, once there is room for it. Nothing overtakes, so that
 * what windows know when they close does not depend on the machine. */
static void judge_give(struct judge *judge, const struct recording_frame *frames, uint32_t count)
{
    struct daemon *daemon = judge->daemon;
    struct message *message;
    uv_run(&daemon->loop, UV_RUN_NOWAIT);
    while (!daemon->stopping &&
           (!ingest_is_open(daemon->ingest) || (judge->detached && judge_is_busy(judge)))) {
        uv_run(&daemon->loop, UV_RUN_ONCE);
    }
    if (daemon->stopping) {
        char sentence[64];
        snprintf(sentence, sizeof sentence, "interrupted after %" PRIu64 " message%s",
                 judge->playback.messages, judge->playback.messages == 1 ? "" : "s");
        judge_leave(JUDGE_FINDING, sentence);
    }
    if (message_copy(frames, count, &message) != 0) {
        judge_leave(JUDGE_FINDING, err_text(ERR_MEMORY));
    }
    /* A message that was posted stays until the loop runs again. */
    judge->detached =
        ingest_take(daemon->ingest, message) == 0 && message->header.type == MESSAGE_WEIGHTS;
}

static void judge_end_rank(struct judge *judge, const struct recorded_rank *rank)
{
    char topic[TOPIC_MAX];
    struct mpk_writer writer;
    struct header header = {
        .type = MESSAGE_EVENT,
        .event = EVENT_BYE,
        .rank = rank->rank,
        .world = rank->world,
        .seq = rank->event_seq,
        .dropped = rank->event_dropped,
        .reliable = rank->reliable,
        .time_ns = rank->time_ns,
        .epoch = rank->epoch,
        .step = rank->step,
    };
    strcpy(header.job, rank->job);
    memcpy(header.run, rank->run, RUN_BYTES);
    mpk_writer_init(&writer);
    if (header_encode(&header, &writer) != 0) {
        judge_leave(JUDGE_FINDING, "a run could not be ended");
    }
    struct recording_frame frames[] = {{topic, topic_job("event", rank->job, topic)},
                                       {writer.buffer.data, writer.buffer.size}};
    judge_give(judge, frames, 2);
    mpk_writer_clear(&writer);
}

static void judge_play(struct judge *judge)
{
    struct recorded recorded;
    enum playback_status status;
    char error[PLAYBACK_ERROR_MAX];
    while ((status = playback_next(&judge->playback, &recorded, error)) == PLAYBACK_MESSAGE) {
        judge_give(judge, recorded.frames, recorded.frame_count);
        if (ranks_note(&judge->ranks, recorded.frames, recorded.frame_count) != 0) {
            judge_leave(JUDGE_FINDING, err_text(ERR_MEMORY));
        }
    }
    if (status == PLAYBACK_CUT) {
        judge_complain(error);
    } else if (status != PLAYBACK_END) {
        judge_leave(JUDGE_USAGE, error);
    }
    for (size_t i = 0; i < judge->ranks.count; i++) {
        if (!judge->ranks.items[i].bye) {
            judge_end_rank(judge, &judge->ranks.items[i]);
        }
    }
}

/* The verdict */

static void judge_print_count(const char *before, uint64_t count, const char *what)
{
    printf("%s%" PRIu64 " %s%s", before, count, what, count == 1 ? "" : "s");
}

static void judge_print_dropped(struct stats *stats, bool json)
{
    const char *separator = "";
    for (int i = 0; i < ERR_COUNT; i++) {
        uint64_t count = stats_dropped(stats, i);
        if (count > 0) {
            printf(json ? "%s\"%s\": %" PRIu64 : "%s%s %" PRIu64, separator, err_slug(ERR_BASE - i),
                   count);
            separator = ", ";
        }
    }
}

static void judge_on_unmeasured(void *data, const char *layer)
{
    struct judge *judge = data;
    const char *separator = judge->unmeasured++ > 0 ? "," : "";
    printf(judge->json ? "%s\"%s\"" : "%s %s", separator, layer);
}

/* All runs have ended. */
static void judge_print_unmeasured(struct judge *judge)
{
    struct daemon *daemon = judge->daemon;
    const char *separator = "";
    for (struct run *run = NULL; (run = registry_next(daemon->registry, run));) {
        const struct plan *plan = plans_for(daemon->plans, run->job);
        char hex[2 * RUN_BYTES + 1];
        if (judging_unmeasured(run, plan, NULL, NULL) > 0) {
            run_hex(run->id, hex);
            printf(judge->json ? "%s{\"job\":\"%s\",\"run\":\"%s\",\"layers\":["
                               : "%s%s, run %.8s: no numbers came in the last captures of",
                   separator, run->job, hex);
            judge->unmeasured = 0;
            judging_unmeasured(run, plan, judge_on_unmeasured, judge);
            fputs(judge->json ? "]}" : "\n", stdout);
            separator = judge->json ? "," : "";
        }
    }
}

static void judge_print(struct judge *judge, const char *alerts)
{
    struct stats *stats = &judge->daemon->stats;
    uint64_t captures = stats_get(stats, COUNT_CAPTURES), dropped = stats_dropped_total(stats);
    if (judge->json) {
        printf("{\"alerts\":[\n%s%s],\"captures\":%" PRIu64 ",\"messages\":%" PRIu64
               ",\"dropped\":{",
               alerts, judge->count > 0 ? "\n" : "", captures, judge->playback.messages);
        judge_print_dropped(stats, true);
        fputs("},\"unmeasured\":[", stdout);
        judge_print_unmeasured(judge);
        puts("]}");
        return;
    }
    printf("%s%s", alerts, judge->playback.path);
    judge_print_count(": ", judge->count, "alert");
    judge_print_count(" in ", captures, "capture");
    judge_print_count(" of ", judge->playback.messages, "message");
    if (dropped > 0) {
        judge_print_count("\n", dropped, "message");
        printf(" not used: ");
        judge_print_dropped(stats, false);
    }
    putchar('\n');
    judge_print_unmeasured(judge);
}

/* A reader who has gone needs no explanation. */
static int judge_verdict(struct judge *judge, const char *alerts)
{
    if (stats_get(&judge->daemon->stats, COUNT_CAPTURES) == 0) {
        judge_complain("the recording has no capture to judge");
        return JUDGE_USAGE;
    }
    judge_print(judge, alerts);
    if (fflush(stdout) != 0 && errno != EPIPE) {
        judge_complain("cannot write the output");
        return JUDGE_FINDING;
    }
    return judge->count > 0 ? JUDGE_FINDING : JUDGE_OK;
}

int judge_recording(const char *path, bool json, const struct config *config)
{
    char error[CONFIG_ERROR_MAX], *alerts = NULL;
    size_t size;
    struct judge judge = {.json = json};
    if (playback_open(path, &judge.playback, error) != 0) {
        judge_complain(error);
        return JUDGE_USAGE;
    }
    if (daemon_new_apart(config, &judge.daemon, error) != 0) {
        judge_leave(JUDGE_FINDING, error);
    }
    judge.daemon->sink.put = judge_put_result;
    judge.daemon->sink.learning = NULL;
    judge.daemon->sink.pause = NULL; /* windows are out when a message is taken */
    judge.daemon->sink.is_replay = true;
    judge.daemon->sink.data = &judge;
    judge.alerts = open_memstream(&alerts, &size);
    if (judge.alerts) {
        judge_play(&judge);
        /* Until all runs have ended. The timer of ticks makes the loop turn while a window waits
         * for ranks that are late. */
        struct daemon *daemon = judge.daemon;
        uint64_t patience_ns = OPEN_NS + daemon->config.window_rank_grace, deadline = UINT64_MAX;
        while (judge_is_busy(&judge) || registry_tick(daemon->registry, clock_monotonic_ns())) {
            uint64_t now = clock_monotonic_ns();
            deadline =
                judge_is_busy(&judge) || deadline == UINT64_MAX ? now + patience_ns : deadline;
            if (now > deadline) {
                judge_leave(JUDGE_FINDING, "windows stay open: no verdict");
            }
            uv_run(&daemon->loop, UV_RUN_ONCE);
            if (daemon->stopping) {
                judge_leave(JUDGE_FINDING, "interrupted");
            }
        }
    }
    if (!judge.alerts || fclose(judge.alerts) != 0) {
        judge_leave(JUDGE_FINDING, err_text(ERR_MEMORY));
    }
    int status = judge_verdict(&judge, alerts);
    daemon_free(&judge.daemon);
    playback_close(&judge.playback);
    ranks_clear(&judge.ranks);
    free(alerts);
    return status;
}

/* SPDX-License-Identifier: MIT */
/* check: judges a recording by alert rules, for the CI of training runs.
 *
 * The recording is replayed to an attnd within this process (judge.h), and its alerts are read.
 * Runs that do not end in the recording are ended after it, so that their last window is judged
 * too. How long nothing came says nothing at this speed: alerts about silence are left out. */
#include "clients/cli/base/cli.h"
#include "clients/cli/recording/feed.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/interrupt.h"
#include "clients/cli/recording/judge.h"
#include "clients/cli/base/out.h"
#include "clients/cli/base/sockopt.h"

#include "proto/err.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

/* How long our own attnd may take to answer: its loop computes nothing. */
#define ANSWER_MS 30000
/* How long the last windows may take to close beside window.rank_grace, in looks of LOOK_MS. */
#define LOOK_MS 20
#define LOOKS   1500

/* An alert's map, encoded. */
struct fired {
    void *data;
    size_t size;
};

struct checking {
    struct cli *cli;
    const struct args *asked; /* the command line; cli->args says where our own attnd is */
    struct judge judge;
    struct rpc rpc;
    void *alerts; /* SUB */
    struct playback playback;
    struct sender sender;
    struct ranks ranks;
    struct feed_counts counts;
    struct fired *fired; /* owned; the alerts that began to fire */
    size_t fired_count, fired_capacity;
    uint64_t events; /* alerts read, of any state */
};

static bool is_json(const struct checking *checking)
{
    return checking->asked->given & ARGS_JSON;
}

/* Alerts ---------------------------------------------------------------------------------------
 */

static int check_keep(struct checking *checking, const void *data, size_t size)
{
    if (checking->fired_count == checking->fired_capacity) {
        size_t capacity = checking->fired_capacity ? 2 * checking->fired_capacity : 16;
        void *fired = realloc(checking->fired, capacity * sizeof *checking->fired);
        if (!fired) {
            return ERR_MEMORY;
        }
        checking->fired = fired;
        checking->fired_capacity = capacity;
    }
    void *copy = malloc(size);
    if (!copy) {
        return ERR_MEMORY;
    }
    memcpy(copy, data, size);
    checking->fired[checking->fired_count++] = (struct fired){copy, size};
    return 0;
}

static bool counts(const msgpack_object *map)
{
    return mpk_is_str(mpk_find(map, "state"), "firing") &&
           !mpk_is_str(mpk_find(map, "metric"), "silence") && !field_bool(map, "snapshot");
}

static int take_alert(struct checking *checking, zmq_msg_t *frame)
{
    struct mpk_doc doc;
    int code = mpk_parse(zmq_msg_data(frame), zmq_msg_size(frame), &mpk_result_limits, &doc);
    if (code) {
        return code;
    }
    checking->events++;
    if (counts(doc.root)) {
        code = check_keep(checking, zmq_msg_data(frame), zmq_msg_size(frame));
    }
    mpk_doc_clear(&doc);
    return code;
}

/* All that are there: topic, map. */
static int take_alerts(struct checking *checking)
{
    int code = 0;
    while (code == 0) {
        zmq_msg_t frame;
        zmq_msg_init(&frame);
        if (zmq_msg_recv(&frame, checking->alerts, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(&frame);
            return 0;
        }
        if (!zmq_msg_more(&frame)) {
            code = take_alert(checking, &frame);
        }
        zmq_msg_close(&frame);
    }
    return code;
}

static int check_subscribe(struct checking *checking)
{
    void *socket = zmq_socket(checking->rpc.context, ZMQ_SUB);
    if (!socket) {
        return cli_fail(checking->cli, CLI_FINDING, zmq_strerror(errno));
    }
    checking->alerts = socket;
    sockopt_int(socket, ZMQ_RCVHWM, 0);
    sockopt_int(socket, ZMQ_LINGER, 0);
    sockopt_frame_max(socket, mpk_result_limits.bytes);
    if (zmq_setsockopt(socket, ZMQ_SUBSCRIBE, "alert/", strlen("alert/")) == 0 &&
        zmq_connect(socket, checking->judge.config.publish_endpoint.text) == 0) {
        return CLI_OK;
    }
    return cli_fail(checking->cli, CLI_FINDING, zmq_strerror(errno));
}

/* Ending ---------------------------------------------------------------------------------------
 */

static int send_bye(struct checking *checking, const struct recorded_rank *rank)
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
        .time_ns = rank->time_ns,
        .epoch = rank->epoch,
        .step = rank->step,
    };
    strcpy(header.job, rank->job);
    memcpy(header.run, rank->run, RUN_BYTES);
    mpk_writer_init(&writer);
    enum sender_status status = SENDER_MEMORY;
    if (header_encode(&header, &writer) == 0) {
        struct recording_frame frames[] = {{topic, topic_job("event", rank->job, topic)},
                                           {writer.buffer.data, writer.buffer.size}};
        status = sender_send(&checking->sender, frames, 2);
    }
    mpk_writer_clear(&writer);
    return status == SENDER_OK ? CLI_OK
                               : cli_fail(checking->cli, CLI_FINDING, "a run could not be ended");
}

static int end_runs(struct checking *checking)
{
    int code = CLI_OK;
    for (size_t i = 0; i < checking->ranks.count && code == CLI_OK; i++) {
        if (!checking->ranks.items[i].bye) {
            code = send_bye(checking, &checking->ranks.items[i]);
        }
    }
    return code;
}

/* Whether every run has ended: then its windows are closed. */
static int ask_ended(struct checking *checking, bool *ret_ended)
{
    struct rpc_reply reply;
    int code = cli_call(checking->cli, "jobs", NULL, &reply);
    if (code != CLI_OK) {
        return code;
    }
    *ret_ended = true;
    for (uint32_t i = 0; i < field_length(reply.result); i++) {
        if (mpk_is_str(mpk_find(&reply.result->via.array.ptr[i], "state"), "active")) {
            *ret_ended = false;
        }
    }
    rpc_reply_clear(&reply);
    return CLI_OK;
}

/* One look; whether there is nothing more to come. */
static int check_look(struct checking *checking, bool *ret_done)
{
    struct feed_counts now;
    int code = ask_ended(checking, ret_done);
    if (code == CLI_OK) {
        code = feed_count(checking->cli, &now);
    }
    if (code != CLI_OK) {
        return code;
    }
    if (take_alerts(checking) != 0) {
        return cli_fail(checking->cli, CLI_FINDING, err_text(ERR_MEMORY));
    }
    *ret_done = *ret_done && checking->events >= now.alerts;
    checking->counts.summaries = now.summaries;
    return CLI_OK;
}

static int await_verdict(struct checking *checking)
{
    uint64_t grace_ms = checking->judge.config.window_rank_grace / 1000000;
    bool done = false;
    for (uint64_t looks = 0; looks < LOOKS + grace_ms / LOOK_MS; looks++) {
        int code = check_look(checking, &done);
        if (code != CLI_OK || done) {
            return code;
        }
        if (interrupt_came()) {
            return cli_fail(checking->cli, CLI_FINDING, "interrupted");
        }
        poll(NULL, 0, LOOK_MS);
    }
    return cli_fail(checking->cli, CLI_FINDING, "windows stay open: no verdict");
}

static int check_feed(struct checking *checking)
{
    struct feed_counts before = {0};
    struct cli *cli = checking->cli;
    int code = feed_open(cli, checking->rpc.context, checking->judge.config.ingest_endpoint.text,
                         &checking->sender);
    if (code == CLI_OK) {
        code = feed_send(cli, &checking->playback, &checking->sender, 0, &checking->ranks);
    }
    if (code == CLI_OK) {
        code = end_runs(checking);
    }
    if (code == CLI_OK) {
        code = feed_settle(cli, &before, checking->sender.sent, &checking->counts);
    }
    return code == CLI_OK ? await_verdict(checking) : code;
}

/* The verdict -----------------------------------------------------------------------------------
 */

/* The message names metric, layer and head. */
static void check_print_alert(struct cli *cli, const msgpack_object *map)
{
    char severity[32], rule[80], message[512];
    const msgpack_object *since = mpk_find(map, "since");
    field_text(map, "severity", severity, sizeof severity);
    field_text(map, "rule", rule, sizeof rule);
    field_text(map, "message", message, sizeof message);
    fprintf(cli->out, "%-8s %s since epoch %" PRIu64 " step %" PRIu64 ": %s\n", severity, rule,
            field_u64(since, "epoch"), field_u64(since, "step"), message);
}

/* Returns CLI_OK, or CLI_FINDING when out of memory. */
static int print_fired(struct checking *checking, const struct fired *fired, bool last)
{
    struct mpk_doc doc;
    struct cli *cli = checking->cli;
    char *text = NULL;
    if (mpk_parse(fired->data, fired->size, &mpk_result_limits, &doc) != 0) {
        return cli_fail(cli, CLI_FINDING, err_text(ERR_MEMORY));
    }
    if (!is_json(checking)) {
        check_print_alert(cli, doc.root);
    } else if ((text = mpk_to_json(doc.root, 0)) != NULL) {
        fprintf(cli->out, "%s%s\n", text, last ? "" : ",");
    }
    mpk_doc_clear(&doc);
    if (is_json(checking) && !text) {
        return cli_fail(cli, CLI_FINDING, err_text(ERR_MEMORY));
    }
    free(text);
    return CLI_OK;
}

static void print_end(struct checking *checking)
{
    FILE *out = checking->cli->out;
    const struct feed_counts *counts = &checking->counts;
    uint64_t messages = checking->playback.messages, alerts = checking->fired_count;
    if (is_json(checking)) {
        fprintf(out, "],\"windows\":%" PRIu64 ",\"messages\":%" PRIu64 ",\"dropped\":{",
                counts->summaries, messages);
        feed_print_dropped(counts, true, out);
        fputs("}}\n", out);
        return;
    }
    fprintf(out, "%s: %" PRIu64 " alert%s in %" PRIu64 " window%s of %" PRIu64 " message%s\n",
            checking->asked->words[1], alerts, out_plural(alerts), counts->summaries,
            out_plural(counts->summaries), messages, out_plural(messages));
    if (counts->dropped == 0) {
        return;
    }
    fprintf(out, "%" PRIu64 " message%s not used: ", counts->dropped, out_plural(counts->dropped));
    feed_print_dropped(counts, false, out);
    putc('\n', out);
}

static int print_verdict(struct checking *checking)
{
    int code = CLI_OK;
    if (checking->counts.summaries == 0) {
        return cli_fail(checking->cli, CLI_USAGE,
                        "the recording has no window to judge: it is empty, or ends too early");
    }
    if (is_json(checking)) {
        fputs("{\"alerts\":[\n", checking->cli->out);
    }
    for (size_t i = 0; i < checking->fired_count && code == CLI_OK; i++) {
        code = print_fired(checking, &checking->fired[i], i + 1 == checking->fired_count);
    }
    if (code == CLI_OK) {
        print_end(checking);
    }
    return checking->fired_count > 0 ? CLI_FINDING : code;
}

/* Everything in order ---------------------------------------------------------------------------
 */

static int judge_recording(struct checking *checking)
{
    struct args args = {.endpoint = checking->judge.config.control_endpoint.text,
                        .timeout_ms = ANSWER_MS};
    struct cli *cli = checking->cli;
    cli->args = &args;
    int code = cli_connect(cli, &checking->rpc);
    if (code == CLI_OK) {
        cli->rpc = &checking->rpc;
        code = check_subscribe(checking);
        if (code == CLI_OK) {
            code = check_feed(checking);
        }
        sender_close(&checking->sender);
        if (checking->alerts) {
            zmq_close(checking->alerts);
        }
        rpc_close(&checking->rpc);
    }
    cli->args = checking->asked;
    cli->rpc = NULL;
    return code;
}

static int start_judge(struct checking *checking)
{
    struct config config;
    char error[CONFIG_ERROR_MAX];
    if (judge_configure(checking->asked->rules, &config, error) != 0) {
        return cli_fail(checking->cli, CLI_USAGE, error);
    }
    if (judge_start(&config, &checking->judge, error) != 0) {
        return cli_fail(checking->cli, CLI_FINDING, error);
    }
    interrupt_catch();
    return CLI_OK;
}

static int recording_check(struct checking *checking)
{
    char error[PLAYBACK_ERROR_MAX];
    if (playback_open(checking->asked->words[1], &checking->playback, error) != 0) {
        return cli_fail(checking->cli, CLI_USAGE, error);
    }
    int code = start_judge(checking);
    if (code == CLI_OK) {
        code = judge_recording(checking);
        judge_stop(&checking->judge);
    }
    if (code == CLI_OK) {
        code = print_verdict(checking);
    }
    playback_close(&checking->playback);
    ranks_clear(&checking->ranks);
    for (size_t i = 0; i < checking->fired_count; i++) {
        free(checking->fired[i].data);
    }
    free(checking->fired);
    return code;
}

int cmd_check(struct cli *cli)
{
    struct checking checking = {.cli = cli, .asked = cli->args};
    return recording_check(&checking);
}

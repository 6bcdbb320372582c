/* SPDX-License-Identifier: MIT */
/* replay: sends a recording to attnd byte for byte, in its order, over one connection. attnd then
 * sees what it saw: of the same runs with the same sequence numbers. An attnd that still knows a
 * run refuses messages that it has had, which is reported at the end. */
#include "clients/cli/recording/internal.h"

#include "clients/c/src/prefixes.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/system.h"
#include "clients/cli/base/out.h"
#include "proto/header.h"
#include "proto/playback.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <string.h>
#include <zmq.h>

/* sender: gives recorded messages to attnd as a training job does, but waits for room instead of
 * dropping. Gives way to Ctrl-C (system.h).
 *
 * The socket has the settings of PROTOCOL.md, but sends block: with ZMQ_XPUB_NODROP a full pipe
 * makes a message wait, and a time-out makes it look for Ctrl-C now and then. An XPUB drops what
 * nobody has subscribed to, so when a subscription ends, how much came through is not known: that
 * is the end. */
/* Messages that wait in ZeroMQ; each is a copy. */
#define SEND_QUEUE 16
/* How often a wait looks for Ctrl-C. */
#define LOOK_MS 100
/* Subscriptions are taken for complete when none has come for this long. */
#define SETTLE_MS 50
/* attnd that takes nothing for this long hangs. A message may take it a minute. */
#define STALL_S 600
/* Larger than any subscription attnd makes: a plan has 1024 bytes. */
#define NOTICE_BYTES_MAX 4096

struct sender {
    struct cli *cli; /* failures are explained there; functions return an exit code */
    void *socket;
    struct prefixes wanted;
    uint64_t sent, bytes;
    uint64_t unwanted; /* attnd has not subscribed to their topics: not sent */
};

/* Whoever had subscribed went away, or takes nothing for STALL_S. */
static int sender_fail_gone(const struct sender *sender)
{
    return cli_fail(sender->cli, CLI_UNREACHABLE, "attnd went away after %" PRIu64 " message%s",
                    sender->sent, out_plural(sender->sent));
}

static int sender_fail_interrupted(const struct sender *sender)
{
    return cli_fail(sender->cli, CLI_FINDING, "interrupted after %" PRIu64 " message%s",
                    sender->sent, out_plural(sender->sent));
}

/* Takes one notice within the time; whether there was one, and whether it ended a subscription. */
static bool sender_take_notice(struct sender *sender, int64_t wait_ms, bool *ret_ended)
{
    char notice[NOTICE_BYTES_MAX];
    zmq_pollitem_t item = {.socket = sender->socket, .events = ZMQ_POLLIN};
    if (wait_ms > 0 && zmq_poll(&item, 1, (long)wait_ms) <= 0) {
        return false;
    }
    int length = zmq_recv(sender->socket, notice, sizeof notice, ZMQ_DONTWAIT);
    if (length < 1 || (size_t)length > sizeof notice) {
        return false;
    }
    prefixes_apply(&sender->wanted, notice, (size_t)length);
    *ret_ended = *ret_ended || notice[0] == 0;
    return true;
}

static int await_subscriptions(struct sender *sender, const char *endpoint)
{
    int timeout_ms = sender->cli->args->timeout_ms;
    uint64_t deadline = now_ns() + (uint64_t)timeout_ms * 1000000;
    bool ended = false;
    while (!sender_take_notice(sender, LOOK_MS, &ended)) {
        if (interrupt_came()) {
            return sender_fail_interrupted(sender);
        }
        if (now_ns() >= deadline) {
            return cli_fail(sender->cli, CLI_UNREACHABLE,
                            "attnd does not subscribe at %s, its ingest.endpoint, within %g s",
                            endpoint, timeout_ms / 1000.0);
        }
    }
    while (sender_take_notice(sender, SETTLE_MS, &ended)) {
    }
    return ended ? sender_fail_gone(sender) : CLI_OK;
}

/* Messages still under way are thrown away: see first that attnd has them. */
static void sender_close(struct sender *sender)
{
    if (sender->socket) {
        zmq_close(sender->socket);
    }
    prefixes_clear(&sender->wanted);
}

/* Connects, and waits until attnd has subscribed; sender_close afterwards, on failure too. */
static int sender_open(struct sender *sender, const char *endpoint)
{
    static const struct socket_option options[] = {
        {ZMQ_IMMEDIATE, 1},        {ZMQ_XPUB_NODROP, 1},      {ZMQ_SNDHWM, SEND_QUEUE},
        {ZMQ_SNDTIMEO, LOOK_MS},   {ZMQ_HEARTBEAT_IVL, 1000}, {ZMQ_HEARTBEAT_TIMEOUT, 3000},
        {ZMQ_HANDSHAKE_IVL, 5000},
    };
    struct cli *cli = sender->cli;
    sender->socket = rpc_connect(cli->rpc, ZMQ_XPUB, options, sizeof options / sizeof options[0],
                                 NOTICE_BYTES_MAX, endpoint);
    return sender->socket
               ? await_subscriptions(sender, endpoint)
               : cli_usage(cli, "'%.200s': not an endpoint (valid: tcp://host:port, ipc://path)",
                           endpoint);
}

/* One frame, waiting for room. */
static int sender_send_frame(const struct sender *sender, struct recording_frame frame, int flags)
{
    uint64_t deadline = now_ns() + STALL_S * UINT64_C(1000000000);
    while (zmq_send(sender->socket, frame.data, frame.size, flags) < 0) {
        if (errno == ENOMEM) {
            return cli_fail(sender->cli, CLI_FINDING, "out of memory");
        }
        if (interrupt_came()) {
            return sender_fail_interrupted(sender);
        }
        if ((errno != EAGAIN && errno != EINTR) || now_ns() >= deadline) {
            return sender_fail_gone(sender);
        }
    }
    return CLI_OK;
}

/* Topics that no subscription can name are not wanted either. */
static bool sender_is_wanted(const struct sender *sender, struct recording_frame topic)
{
    char text[TOPIC_MAX];
    if (topic.size >= sizeof text) {
        return false;
    }
    memcpy(text, topic.data, topic.size);
    text[topic.size] = '\0';
    return prefixes_match(&sender->wanted, text);
}

/* One message, as it is. After anything but CLI_OK the rest must not be sent. */
static int sender_send(struct sender *sender, const struct recording_frame *frames, uint32_t count)
{
    /* Somebody who had subscribed may have gone. */
    bool ended = false;
    while (sender_take_notice(sender, 0, &ended)) {
    }
    if (ended) {
        return sender_fail_gone(sender);
    }
    if (!sender_is_wanted(sender, frames[0])) {
        sender->unwanted++;
        return CLI_OK;
    }
    for (uint32_t i = 0; i < count; i++) {
        int code = sender_send_frame(sender, frames[i], i + 1 < count ? ZMQ_SNDMORE : 0);
        if (code != CLI_OK) {
            return code;
        }
        sender->bytes += frames[i].size;
    }
    sender->sent++;
    return CLI_OK;
}

/* Waits, and notices when attnd goes away meanwhile. */
static int sender_pause(struct sender *sender, uint64_t ns)
{
    uint64_t until = now_ns() + ns;
    bool ended = false;
    for (uint64_t now = now_ns(); now < until && !ended; now = now_ns()) {
        uint64_t left_ms = (until - now + 999999) / 1000000;
        sender_take_notice(sender, left_ms < LOOK_MS ? (int64_t)left_ms : LOOK_MS, &ended);
        if (interrupt_came()) {
            return sender_fail_interrupted(sender);
        }
    }
    return ended ? sender_fail_gone(sender) : CLI_OK;
}

/* How often attnd is asked how far it is: soon at first. */
#define ASK_FIRST_MS 1
#define ASK_LAST_MS  20
/* attnd whose counters do not change for this long has not got everything, or hangs: a message may
 * take it a minute. */
#define STALL_NS UINT64_C(120000000000)
/* The same when it has nothing in flight. */
#define IDLE_NS UINT64_C(5000000000)
/* More than an event counts against the budget, beside its bytes. */
#define EVENT_COST 8192
/* Shapes of messages whose cost is kept. */
#define SHAPES 4096

/* Counting ------------------------------------------------------------------------------------ */

/* The counters of attnd. */
struct replay_counts {
    uint64_t received, processed, in_flight;
    uint64_t in_flight_bytes, admitted_bytes;
    uint64_t budget_bytes; /* 0: attnd is of a version that stops reading instead of dropping */
};

static struct replay_counts replay_counts_of(const msgpack_object *stats)
{
    return (struct replay_counts){
        .received = mpk_find_u64(stats, "received"),
        .processed = mpk_find_u64(stats, "processed"),
        .in_flight = mpk_find_u64(stats, "in_flight"),
        .in_flight_bytes = mpk_find_u64(stats, "in_flight_bytes"),
        .admitted_bytes = mpk_find_u64(stats, "admitted_bytes"),
        .budget_bytes = mpk_find_u64(stats, "budget_bytes"),
    };
}

void replay_print_dropped(const msgpack_object *before, const msgpack_object *now, bool json,
                          FILE *out)
{
    const char *separator = "";
    for (uint32_t i = 0; i < mpk_pairs(now); i++) {
        char name[FIELD_NAME_MAX];
        field_show(&now->via.map.ptr[i].key, name, sizeof name);
        uint64_t count = mpk_find_u64(now, name) - mpk_find_u64(before, name);
        if (count > 0) {
            field_unquote(name);
            fprintf(out, json ? "%s\"%s\": %" PRIu64 : "%s%s %" PRIu64, separator, name, count);
            separator = ", ";
        }
    }
}

/* Waiting ------------------------------------------------------------------------------------- */

/* Until attnd has received as many as were sent more than `before`, and less than `bytes` are in
 * flight; its counters are the caller's to clear then. Gives up when nothing changes for long. */
static int replay_await(const struct sender *sender, const struct replay_counts *before,
                        uint64_t bytes, struct replay_counts *ret_now, struct rpc_reply *ret_stats)
{
    struct cli *cli = sender->cli;
    struct replay_counts last = {0}, *now = ret_now;
    uint64_t changed_ns = now_ns();
    for (int wait_ms = ASK_FIRST_MS;; wait_ms *= wait_ms < ASK_LAST_MS ? 2 : 1) {
        int code = cli_call(cli, "stats", NULL, ret_stats);
        if (code != CLI_OK) {
            return code;
        }
        *now = replay_counts_of(ret_stats->result);
        if (now->received - before->received >= sender->sent && now->in_flight_bytes < bytes) {
            return CLI_OK;
        }
        rpc_reply_clear(ret_stats);
        if (interrupt_came()) {
            return sender_fail_interrupted(sender);
        }
        if (last.received != now->received || last.processed != now->processed ||
            last.in_flight != now->in_flight) {
            changed_ns = now_ns();
        } else if (now_ns() - changed_ns > (now->in_flight ? STALL_NS : IDLE_NS)) {
            return cli_fail(cli, CLI_FINDING,
                            "attnd has received %" PRIu64 " of %" PRIu64
                            " messages, and is computing %" PRIu64 "; nothing moves any more",
                            now->received - before->received, sender->sent, now->in_flight);
        }
        last = *now;
        poll(NULL, 0, wait_ms);
    }
}

/* Pacing -------------------------------------------------------------------------------------- */

/* A message's cost against the budget depends on its shape and on attnd's settings. So the
 * first of each shape goes alone, when everything before it has arrived, and attnd's counter tells
 * its cost; others of the shape need no question as long as they fit what was free at the last one.
 * attnd admits a message of any cost while the budget is not used up: one alone is always safe. */
struct pace {
    struct replay_counts before, now;
    uint64_t credit; /* may still be sent without asking */
    struct replay_cost {
        uint64_t shape, cost;
    } known[SHAPES], *learning; /* NULL, or the one whose message was sent last */
};

/* One number for everything that the cost depends on; never 0. */
static uint64_t replay_shape_of(const struct header *header)
{
    uint64_t parts[10 + TENSORS_MAX] = {
        header->type,     header->batch,       header->heads,    header->queries,
        header->keys,     header->kv_heads,    header->head_dim, header->value_dim,
        header->q_stride, header->heads_total,
    };
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (uint32_t i = 0; i < header->tensor_count; i++) {
        parts[10 + i] = header->tensors[i].bytes << 16 | (uint64_t)header->tensors[i].role << 8 |
                        (uint64_t)header->tensors[i].dtype;
    }
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        hash = (hash ^ parts[i]) * UINT64_C(0x9e3779b97f4a7c15) + (hash >> 29);
    }
    for (const char *job = header->job; *job; job++) {
        hash = (hash ^ (unsigned char)*job) * UINT64_C(0x100000001b3);
    }
    return hash ? hash : 1;
}

/* Where the cost of a message is kept; `small` when it has none worth keeping: an event, or one
 * that is refused as it comes. */
static struct replay_cost *find_cost(struct pace *pace, const struct recorded *recorded,
                                     struct replay_cost *small)
{
    struct header header;
    const char *key;
    bool has_tensors =
        recorded->frame_count > 1 &&
        header_decode(recorded->frames[1].data, recorded->frames[1].size, &header, &key) == 0;
    *small = (struct replay_cost){.cost = EVENT_COST};
    for (uint32_t i = 0; i < recorded->frame_count; i++) {
        small->cost += recorded->frames[i].size;
    }
    if (!has_tensors) {
        return small;
    }
    uint64_t shape = header.type == MESSAGE_EVENT ? 0 : replay_shape_of(&header);
    header_clear(&header);
    if (shape == 0) {
        return small;
    }
    struct replay_cost *cost = &pace->known[shape % SHAPES];
    if (cost->shape != shape) {
        *cost = (struct replay_cost){.shape = shape};
    }
    return cost;
}

/* Until all that was sent is there and attnd has room. */
static int ask_room(struct pace *pace, const struct sender *sender)
{
    struct rpc_reply stats;
    uint64_t limit = pace->before.budget_bytes / 2, admitted = pace->now.admitted_bytes;
    int code = replay_await(sender, &pace->before, limit, &pace->now, &stats);
    if (code != CLI_OK) {
        return code;
    }
    rpc_reply_clear(&stats);
    if (pace->learning) {
        pace->learning->cost = pace->now.admitted_bytes - admitted;
    }
    pace->learning = NULL;
    pace->credit = limit - pace->now.in_flight_bytes;
    return CLI_OK;
}

/* Waits until the message may be sent. */
static int await_room(struct pace *pace, const struct sender *sender,
                      const struct recorded *recorded)
{
    struct replay_cost small;
    bool asked = pace->learning != NULL;
    if (pace->before.budget_bytes == 0) {
        return CLI_OK;
    }
    int code = asked ? ask_room(pace, sender) : CLI_OK;
    if (code != CLI_OK) {
        return code;
    }
    struct replay_cost *cost = find_cost(pace, recorded, &small);
    bool fits = cost->cost > 0 && cost->cost <= pace->credit;
    if (!fits && !asked) {
        code = ask_room(pace, sender);
    }
    pace->learning = cost->cost == 0 ? cost : NULL;
    fits = cost->cost > 0 && cost->cost <= pace->credit;
    pace->credit -= fits ? cost->cost : pace->credit;
    return code;
}

/* Sending ------------------------------------------------------------------------------------- */

/* Sends every message that can be read: --rhythm times as fast as recorded, or at once; but
 * never so fast that more than half of attnd's budget is in flight, beyond which it would drop. A
 * last record that is cut short is only mentioned on err. Returns CLI_OK, or the exit code after
 * explaining on err. */
static int replay_send(struct playback *playback, struct sender *sender,
                       const struct replay_counts *before)
{
    struct cli *cli = sender->cli;
    uint64_t started_ns = now_ns(), first_ns = UINT64_MAX; /* the first message is due now */
    struct pace pace = {.before = *before, .now = *before};
    struct recorded recorded;
    enum playback_status status;
    char error[PLAYBACK_ERROR_MAX];
    while ((status = playback_next(playback, &recorded, error)) == PLAYBACK_MESSAGE) {
        int code = await_room(&pace, sender, &recorded);
        first_ns = first_ns == UINT64_MAX ? recorded.received_ns : first_ns;
        if (code == CLI_OK && cli->args->rhythm > 0 && recorded.received_ns > first_ns) {
            double due_ns = (double)(recorded.received_ns - first_ns) / cli->args->rhythm;
            double left_ns = due_ns - (double)(now_ns() - started_ns);
            code = sender_pause(sender, (uint64_t)fmin(fmax(left_ns, 0), 1e18));
        }
        if (code == CLI_OK) {
            code = sender_send(sender, recorded.frames, recorded.frame_count);
        }
        if (code == CLI_OK && interrupt_came()) {
            code = sender_fail_interrupted(sender);
        }
        if (code != CLI_OK) {
            return code;
        }
    }
    if (status == PLAYBACK_END) {
        return CLI_OK;
    }
    return cli_fail(cli, status == PLAYBACK_CUT ? CLI_OK : CLI_USAGE, "%s", error);
}

/* The command ---------------------------------------------------------------------------------- */

/* Prints what has become of all that was sent between two answers of `stats`. */
static void replay_print(const struct sender *sender, const char *path,
                         const msgpack_object *before, const msgpack_object *now)
{
    struct cli *cli = sender->cli;
    const msgpack_object *was = mpk_find(before, "dropped"), *is = mpk_find(now, "dropped");
    uint64_t processed = mpk_find_u64(now, "processed") - mpk_find_u64(before, "processed");
    uint64_t dropped = field_sum(is) - field_sum(was);
    if (cli->args->given & ARGS_JSON) {
        fprintf(cli->out,
                "{\"sent\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"not_asked_for\": %" PRIu64
                ", \"processed\": %" PRIu64 ", \"dropped\": {",
                sender->sent, sender->bytes, sender->unwanted, processed);
        replay_print_dropped(was, is, true, cli->out);
        fputs("}}\n", cli->out);
    } else {
        static const char *const repeats[] = {"ended", "repeated", "seq_duplicate"};
        bool again = false;
        for (int i = 0; i < 3; i++) {
            again = again || mpk_find_u64(is, repeats[i]) > mpk_find_u64(was, repeats[i]);
        }
        fprintf(cli->out,
                "%s: %" PRIu64 " message%s sent, %s; attnd processed %" PRIu64 ", dropped %" PRIu64,
                path, sender->sent, out_plural(sender->sent), OUT_SIZE(sender->bytes), processed,
                dropped);
        fputs(dropped > 0 ? ": " : "", cli->out);
        replay_print_dropped(was, is, false, cli->out);
        putc('\n', cli->out);
        if (sender->unwanted > 0) {
            fprintf(cli->out, "%" PRIu64 " not sent: attnd does not ask for their topics\n",
                    sender->unwanted);
        }
        if (again) {
            fputs("attnd had these runs already: restart it, or replay to another one\n", cli->out);
        }
    }
}

/* Also of what was sent before a record that cannot be read. */
static int replay_file(struct playback *playback, struct sender *sender)
{
    struct rpc_reply first, last;
    struct replay_counts before, now;
    int code = cli_call(sender->cli, "stats", NULL, &first);
    if (code != CLI_OK) {
        return code;
    }
    before = replay_counts_of(first.result);
    int failure = replay_send(playback, sender, &before);
    code = failure == CLI_OK || failure == CLI_USAGE ? replay_await(sender, &before, 1, &now, &last)
                                                     : failure;
    if (code == CLI_OK) {
        uint64_t dropped = field_sum(mpk_find(last.result, "dropped"));
        replay_print(sender, playback->path, first.result, last.result);
        code = failure != CLI_OK                                        ? failure
               : dropped > field_sum(mpk_find(first.result, "dropped")) ? CLI_FINDING
                                                                        : CLI_OK;
        rpc_reply_clear(&last);
    }
    rpc_reply_clear(&first);
    return code;
}

int cmd_replay(struct cli *cli)
{
    char endpoint[ADDRESS_MAX], error[PLAYBACK_ERROR_MAX];
    struct playback playback;
    struct sender sender = {.cli = cli};
    if (playback_open(cli->args->words[1], &playback, error) != 0) {
        return cli_usage(cli, "%s", error);
    }
    int code = CLI_OK;
    if (cli->args->ingest) {
        snprintf(endpoint, sizeof endpoint, "%s", cli->args->ingest);
    } else {
        code = reach_endpoint(cli, ADDRESS_INGEST, endpoint);
    }
    interrupt_catch();
    if (code == CLI_OK) {
        code = sender_open(&sender, endpoint);
    }
    if (code == CLI_OK) {
        code = replay_file(&playback, &sender);
    }
    sender_close(&sender);
    playback_close(&playback);
    return code;
}

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
    void *socket;
    struct prefixes wanted;
    uint64_t sent, bytes;
    uint64_t unwanted; /* attnd has not subscribed to their topics: not sent */
};

enum sender_status {
    SENDER_OK,
    SENDER_ENDPOINT, /* it is not one */
    SENDER_NOBODY,   /* nobody subscribed in time */
    SENDER_GONE,     /* who had subscribed went away, or takes nothing for STALL_S */
    SENDER_INTERRUPTED,
    SENDER_MEMORY,
};

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

static enum sender_status await_subscriptions(struct sender *sender, int timeout_ms)
{
    uint64_t deadline = now_ns() + (uint64_t)timeout_ms * 1000000;
    bool ended = false;
    while (!sender_take_notice(sender, LOOK_MS, &ended)) {
        if (interrupt_came()) {
            return SENDER_INTERRUPTED;
        }
        if (now_ns() >= deadline) {
            return SENDER_NOBODY;
        }
    }
    while (sender_take_notice(sender, SETTLE_MS, &ended)) {
    }
    return ended ? SENDER_GONE : SENDER_OK;
}

/* Messages still under way are thrown away: see first that attnd has them. Accepts a closed one. */
static void sender_close(struct sender *sender)
{
    if (sender->socket) {
        zmq_close(sender->socket);
    }
    prefixes_clear(&sender->wanted);
    *sender = (struct sender){0};
}

/* Connects, and waits until attnd has subscribed. On failure nothing is left to close. */
static enum sender_status sender_open(const struct rpc *rpc, const char *endpoint, int timeout_ms,
                                      struct sender *ret_sender)
{
    static const struct socket_option options[] = {
        {ZMQ_IMMEDIATE, 1},        {ZMQ_XPUB_NODROP, 1},      {ZMQ_SNDHWM, SEND_QUEUE},
        {ZMQ_SNDTIMEO, LOOK_MS},   {ZMQ_HEARTBEAT_IVL, 1000}, {ZMQ_HEARTBEAT_TIMEOUT, 3000},
        {ZMQ_HANDSHAKE_IVL, 5000},
    };
    struct sender sender = {.socket = rpc_connect(rpc, ZMQ_XPUB, options,
                                                  sizeof options / sizeof options[0],
                                                  NOTICE_BYTES_MAX, endpoint)};
    if (!sender.socket) {
        return SENDER_ENDPOINT;
    }
    enum sender_status status = await_subscriptions(&sender, timeout_ms);
    if (status == SENDER_OK) {
        *ret_sender = sender;
    } else {
        sender_close(&sender);
    }
    return status;
}

/* One frame, waiting for room. */
static enum sender_status sender_send_frame(void *socket, struct recording_frame frame, int flags)
{
    uint64_t deadline = now_ns() + STALL_S * UINT64_C(1000000000);
    while (zmq_send(socket, frame.data, frame.size, flags) < 0) {
        if (errno == ENOMEM) {
            return SENDER_MEMORY;
        }
        if (interrupt_came()) {
            return SENDER_INTERRUPTED;
        }
        if ((errno != EAGAIN && errno != EINTR) || now_ns() >= deadline) {
            return SENDER_GONE;
        }
    }
    return SENDER_OK;
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

/* One message, as it is. After anything but SENDER_OK the rest must not be sent. */
static enum sender_status sender_send(struct sender *sender, const struct recording_frame *frames,
                                      uint32_t count)
{
    /* Somebody who had subscribed may have gone. */
    bool ended = false;
    while (sender_take_notice(sender, 0, &ended)) {
    }
    enum sender_status status = ended ? SENDER_GONE : SENDER_OK;
    if (status == SENDER_OK && !sender_is_wanted(sender, frames[0])) {
        sender->unwanted++;
        return SENDER_OK;
    }
    for (uint32_t i = 0; i < count && status == SENDER_OK; i++) {
        status = sender_send_frame(sender->socket, frames[i], i + 1 < count ? ZMQ_SNDMORE : 0);
    }
    if (status != SENDER_OK) {
        return status;
    }
    sender->sent++;
    for (uint32_t i = 0; i < count; i++) {
        sender->bytes += frames[i].size;
    }
    return SENDER_OK;
}

/* Waits, and notices when attnd goes away meanwhile. */
static enum sender_status sender_pause(struct sender *sender, uint64_t ns)
{
    uint64_t until = now_ns() + ns;
    bool ended = false;
    for (uint64_t now = now_ns(); now < until && !ended; now = now_ns()) {
        uint64_t left_ms = (until - now + 999999) / 1000000;
        sender_take_notice(sender, left_ms < LOOK_MS ? (int64_t)left_ms : LOOK_MS, &ended);
        if (interrupt_came()) {
            return SENDER_INTERRUPTED;
        }
    }
    return ended ? SENDER_GONE : SENDER_OK;
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

/* Asks for the counters; a failure is explained on err. Returns CLI_OK or the exit code. */
static int replay_count(struct cli *cli, struct replay_counts *ret_counts)
{
    struct rpc_reply reply;
    int code = cli_call(cli, "stats", NULL, &reply);
    if (code != CLI_OK) {
        return code;
    }
    *ret_counts = (struct replay_counts){
        .received = mpk_find_u64(reply.result, "received"),
        .processed = mpk_find_u64(reply.result, "processed"),
        .in_flight = mpk_find_u64(reply.result, "in_flight"),
        .in_flight_bytes = mpk_find_u64(reply.result, "in_flight_bytes"),
        .admitted_bytes = mpk_find_u64(reply.result, "admitted_bytes"),
        .budget_bytes = mpk_find_u64(reply.result, "budget_bytes"),
    };
    const msgpack_object *dropped = mpk_find(reply.result, "dropped");
    uint32_t count = dropped && dropped->type == MSGPACK_OBJECT_MAP ? dropped->via.map.size : 0;
    for (uint32_t i = 0; i < count && i < REPLAY_REASONS_MAX; i++) {
        const msgpack_object_kv *pair = &dropped->via.map.ptr[i];
        struct replay_reason *reason = &ret_counts->reasons[ret_counts->reason_count++];
        field_show(&pair->key, reason->name, sizeof reason->name);
        field_unquote(reason->name);
        if (mpk_get_u64(&pair->val, UINT64_MAX, &reason->count) != 0) {
            reason->count = 0;
        }
    }
    ret_counts->dropped = field_sum(dropped);
    rpc_reply_clear(&reply);
    return CLI_OK;
}

static uint64_t replay_dropped(const struct replay_counts *counts, const char *reason)
{
    for (uint32_t i = 0; i < counts->reason_count; i++) {
        if (strcmp(counts->reasons[i].name, reason) == 0) {
            return counts->reasons[i].count;
        }
    }
    return 0;
}

void replay_print_dropped(const struct replay_counts *counts, bool json, FILE *out)
{
    const char *separator = "";
    for (uint32_t i = 0; i < counts->reason_count; i++) {
        const struct replay_reason *reason = &counts->reasons[i];
        if (reason->count == 0) {
            continue;
        }
        fprintf(out, json ? "%s\"%s\": %" PRIu64 : "%s%s %" PRIu64, separator, reason->name,
                reason->count);
        separator = ", ";
    }
}

/* Explaining ---------------------------------------------------------------------------------- */

static int replay_explain(struct cli *cli, enum sender_status status, const char *endpoint,
                          uint64_t sent)
{
    switch (status) {
    case SENDER_ENDPOINT:
        return cli_usage(cli, "'%.200s': not an endpoint (valid: tcp://host:port, ipc://path)",
                         endpoint);
    case SENDER_NOBODY:
        return cli_fail(cli, CLI_UNREACHABLE,
                        "attnd does not subscribe at %s, its ingest.endpoint, within %g s",
                        endpoint, cli->args->timeout_ms / 1000.0);
    case SENDER_GONE:
        return cli_fail(cli, CLI_UNREACHABLE, "attnd went away after %" PRIu64 " message%s", sent,
                        out_plural(sent));
    case SENDER_INTERRUPTED:
        return cli_fail(cli, CLI_FINDING, "interrupted after %" PRIu64 " message%s", sent,
                        out_plural(sent));
    default:
        return cli_fail(cli, CLI_FINDING, "out of memory");
    }
}

/* Waiting ------------------------------------------------------------------------------------- */

/* Until attnd has received `messages` more than `before`, and less than `bytes` are in flight.
 * Gives up when nothing changes for long. */
static int replay_await(struct cli *cli, const struct replay_counts *before, uint64_t messages,
                        uint64_t bytes, struct replay_counts *ret_now)
{
    struct replay_counts last = {0}, *now = ret_now;
    uint64_t changed_ns = now_ns();
    for (int wait_ms = ASK_FIRST_MS;; wait_ms *= wait_ms < ASK_LAST_MS ? 2 : 1) {
        int code = replay_count(cli, now);
        if (code != CLI_OK) {
            return code;
        }
        if (now->received - before->received >= messages && now->in_flight_bytes < bytes) {
            return CLI_OK;
        }
        if (interrupt_came()) {
            return replay_explain(cli, SENDER_INTERRUPTED, "", messages);
        }
        if (last.received != now->received || last.processed != now->processed ||
            last.in_flight != now->in_flight) {
            changed_ns = now_ns();
        } else if (now_ns() - changed_ns > (now->in_flight ? STALL_NS : IDLE_NS)) {
            return cli_fail(cli, CLI_FINDING,
                            "attnd has received %" PRIu64 " of %" PRIu64
                            " messages, and is computing %" PRIu64 "; nothing moves any more",
                            now->received - before->received, messages, now->in_flight);
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
static int ask_room(struct cli *cli, struct pace *pace, const struct sender *sender)
{
    uint64_t limit = pace->before.budget_bytes / 2, admitted = pace->now.admitted_bytes;
    int code = replay_await(cli, &pace->before, sender->sent, limit, &pace->now);
    if (code != CLI_OK) {
        return code;
    }
    if (pace->learning) {
        pace->learning->cost = pace->now.admitted_bytes - admitted;
    }
    pace->learning = NULL;
    pace->credit = limit - pace->now.in_flight_bytes;
    return CLI_OK;
}

/* Waits until the message may be sent. */
static int await_room(struct cli *cli, struct pace *pace, const struct sender *sender,
                      const struct recorded *recorded)
{
    struct replay_cost small;
    bool asked = pace->learning != NULL;
    if (pace->before.budget_bytes == 0) {
        return CLI_OK;
    }
    int code = asked ? ask_room(cli, pace, sender) : CLI_OK;
    if (code != CLI_OK) {
        return code;
    }
    struct replay_cost *cost = find_cost(pace, recorded, &small);
    bool fits = cost->cost > 0 && cost->cost <= pace->credit;
    if (!fits && !asked) {
        code = ask_room(cli, pace, sender);
    }
    pace->learning = cost->cost == 0 ? cost : NULL;
    fits = cost->cost > 0 && cost->cost <= pace->credit;
    pace->credit -= fits ? cost->cost : pace->credit;
    return code;
}

/* Sending ------------------------------------------------------------------------------------- */

/* When messages are due: the first one now. */
struct rhythm {
    double factor; /* 0 = at once */
    uint64_t first_ns, started_ns;
};

static enum sender_status await_turn(struct sender *sender, struct rhythm *rhythm,
                                     uint64_t received_ns)
{
    uint64_t now = now_ns();
    if (rhythm->started_ns == 0) {
        rhythm->started_ns = now;
        rhythm->first_ns = received_ns;
    }
    if (rhythm->factor == 0 || received_ns <= rhythm->first_ns) {
        return SENDER_OK;
    }
    double due_ns = (double)(received_ns - rhythm->first_ns) / rhythm->factor;
    double left_ns = due_ns - (double)(now - rhythm->started_ns);
    return left_ns > 0 ? sender_pause(sender, left_ns < 1e18 ? (uint64_t)left_ns : UINT64_MAX / 2)
                       : SENDER_OK;
}

/* Sends every message that can be read: --rhythm times as fast as recorded, or at once; but
 * never so fast that more than half of attnd's budget is in flight, beyond which it would drop. A
 * last record that is cut short is only mentioned on err. Returns CLI_OK, or the exit code after
 * explaining on err. */
static int replay_send(struct cli *cli, struct playback *playback, struct sender *sender,
                       const struct replay_counts *before)
{
    struct rhythm rhythm = {.factor = cli->args->rhythm};
    struct pace pace = {.before = *before, .now = *before};
    struct recorded recorded;
    enum playback_status status;
    char error[PLAYBACK_ERROR_MAX];
    while ((status = playback_next(playback, &recorded, error)) == PLAYBACK_MESSAGE) {
        int code = await_room(cli, &pace, sender, &recorded);
        if (code != CLI_OK) {
            return code;
        }
        enum sender_status sent = await_turn(sender, &rhythm, recorded.received_ns);
        if (sent == SENDER_OK) {
            sent = sender_send(sender, recorded.frames, recorded.frame_count);
        }
        if (sent != SENDER_OK) {
            return replay_explain(cli, sent, "", sender->sent);
        }
        if (interrupt_came()) {
            return replay_explain(cli, SENDER_INTERRUPTED, "", sender->sent);
        }
    }
    if (status == PLAYBACK_END) {
        return CLI_OK;
    }
    return cli_fail(cli, status == PLAYBACK_CUT ? CLI_OK : CLI_USAGE, "%s", error);
}

/* The command ---------------------------------------------------------------------------------- */

/* Also of what was sent before a record that cannot be read. */
static int replay_file(struct cli *cli, struct playback *playback, struct sender *sender)
{
    struct replay_counts before, counts;
    int code = replay_count(cli, &before);
    if (code != CLI_OK) {
        return code;
    }
    int failure = replay_send(cli, playback, sender, &before);
    if (failure != CLI_OK && failure != CLI_USAGE) {
        return failure;
    }
    code = replay_await(cli, &before, sender->sent, 1, &counts);
    if (code != CLI_OK) {
        return code;
    }
    counts.processed -= before.processed;
    counts.dropped -= before.dropped;
    for (uint32_t i = 0; i < counts.reason_count; i++) {
        counts.reasons[i].count -= replay_dropped(&before, counts.reasons[i].name);
    }
    if (cli->args->given & ARGS_JSON) {
        fprintf(cli->out,
                "{\"sent\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"not_asked_for\": %" PRIu64
                ", \"processed\": %" PRIu64 ", \"dropped\": {",
                sender->sent, sender->bytes, sender->unwanted, counts.processed);
        replay_print_dropped(&counts, true, cli->out);
        fputs("}}\n", cli->out);
    } else {
        char size[OUT_SIZE_MAX];
        out_size(sender->bytes, size);
        fprintf(cli->out,
                "%s: %" PRIu64 " message%s sent, %s; attnd processed %" PRIu64 ", dropped %" PRIu64,
                playback->path, sender->sent, out_plural(sender->sent), size, counts.processed,
                counts.dropped);
        fputs(counts.dropped > 0 ? ": " : "", cli->out);
        replay_print_dropped(&counts, false, cli->out);
        putc('\n', cli->out);
        if (sender->unwanted > 0) {
            fprintf(cli->out, "%" PRIu64 " not sent: attnd does not ask for their topics\n",
                    sender->unwanted);
        }
        if (replay_dropped(&counts, "ended") > 0 || replay_dropped(&counts, "repeated") > 0 ||
            replay_dropped(&counts, "seq_duplicate") > 0) {
            fputs("attnd had these runs already: restart it, or replay to another one\n", cli->out);
        }
    }
    if (failure != CLI_OK) {
        return failure;
    }
    return counts.dropped > 0 ? CLI_FINDING : CLI_OK;
}

int cmd_replay(struct cli *cli)
{
    char endpoint[ENDPOINT_MAX], error[PLAYBACK_ERROR_MAX];
    struct playback playback;
    struct sender sender;
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
        enum sender_status status = sender_open(cli->rpc, endpoint, cli->args->timeout_ms, &sender);
        code = status == SENDER_OK ? CLI_OK : replay_explain(cli, status, endpoint, 0);
    }
    if (code == CLI_OK) {
        code = replay_file(cli, &playback, &sender);
        sender_close(&sender);
    }
    playback_close(&playback);
    return code;
}

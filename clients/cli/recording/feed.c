/* SPDX-License-Identifier: MIT */
#include "clients/cli/recording/feed.h"

#include "clients/cli/base/field.h"
#include "proto/header.h"
#include "clients/cli/base/interrupt.h"
#include "clients/cli/base/now.h"
#include "clients/cli/base/out.h"

#include <inttypes.h>
#include <poll.h>
#include <string.h>

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

/* Counting -------------------------------------------------------------------------------------
 */

int feed_count(struct cli *cli, struct feed_counts *ret_counts)
{
    struct rpc_reply reply;
    int code = cli_call(cli, "stats", NULL, &reply);
    if (code != CLI_OK) {
        return code;
    }
    *ret_counts = (struct feed_counts){
        .received = field_u64(reply.result, "received"),
        .processed = field_u64(reply.result, "processed"),
        .in_flight = field_u64(reply.result, "in_flight"),
        .in_flight_bytes = field_u64(reply.result, "in_flight_bytes"),
        .admitted_bytes = field_u64(reply.result, "admitted_bytes"),
        .budget_bytes = field_u64(reply.result, "budget_bytes"),
    };
    const msgpack_object *dropped = mpk_find(reply.result, "dropped");
    uint32_t count = dropped && dropped->type == MSGPACK_OBJECT_MAP ? dropped->via.map.size : 0;
    for (uint32_t i = 0; i < count && i < FEED_REASONS_MAX; i++) {
        const msgpack_object_kv *pair = &dropped->via.map.ptr[i];
        struct feed_reason *reason = &ret_counts->reasons[ret_counts->reason_count++];
        field_show(&pair->key, reason->name, sizeof reason->name);
        if (mpk_get_u64(&pair->val, UINT64_MAX, &reason->count) != 0) {
            reason->count = 0;
        }
    }
    ret_counts->dropped = field_sum(dropped);
    rpc_reply_clear(&reply);
    return CLI_OK;
}

uint64_t feed_dropped(const struct feed_counts *counts, const char *reason)
{
    for (uint32_t i = 0; i < counts->reason_count; i++) {
        if (strcmp(counts->reasons[i].name, reason) == 0) {
            return counts->reasons[i].count;
        }
    }
    return 0;
}

void feed_subtract(struct feed_counts *counts, const struct feed_counts *before)
{
    counts->received -= before->received;
    counts->processed -= before->processed;
    counts->dropped -= before->dropped;
    for (uint32_t i = 0; i < counts->reason_count; i++) {
        counts->reasons[i].count -= feed_dropped(before, counts->reasons[i].name);
    }
}

void feed_print_dropped(const struct feed_counts *counts, bool json, FILE *out)
{
    const char *separator = "";
    for (uint32_t i = 0; i < counts->reason_count; i++) {
        const struct feed_reason *reason = &counts->reasons[i];
        if (reason->count == 0) {
            continue;
        }
        fputs(separator, out);
        if (json) {
            /* The names are printable ASCII, but attnd's: not all of it is the same in JSON. */
            const char *name = reason->name;
            putc('"', out);
            for (; *name; name++) {
                if (*name == '"' || *name == '\\') {
                    putc('\\', out);
                }
                putc(*name, out);
            }
            putc('"', out);
        } else {
            fputs(reason->name, out);
        }
        fprintf(out, json ? ": %" PRIu64 : " %" PRIu64, reason->count);
        separator = ", ";
    }
}

/* Explaining -----------------------------------------------------------------------------------
 */

static int feed_explain(struct cli *cli, enum sender_status status, const char *endpoint,
                        uint64_t sent)
{
    switch (status) {
    case SENDER_ENDPOINT:
        return cli_usage(cli, "'%.200s': not an endpoint (valid: tcp://host:port, ipc://path)",
                         endpoint);
    case SENDER_NOBODY:
        fprintf(cli->err,
                "attnctl: attnd does not subscribe at %s, its ingest.endpoint, within %g s\n",
                endpoint, cli->args->timeout_ms / 1000.0);
        return CLI_UNREACHABLE;
    case SENDER_GONE:
        fprintf(cli->err, "attnctl: attnd went away after %" PRIu64 " message%s\n", sent,
                out_plural(sent));
        return CLI_UNREACHABLE;
    case SENDER_INTERRUPTED:
        fprintf(cli->err, "attnctl: interrupted after %" PRIu64 " message%s\n", sent,
                out_plural(sent));
        return CLI_FINDING;
    default:
        fputs("attnctl: out of memory\n", cli->err);
        return CLI_FINDING;
    }
}

/* Waiting --------------------------------------------------------------------------------------
 */

static bool feed_is_same(const struct feed_counts *a, const struct feed_counts *b)
{
    return a->received == b->received && a->processed == b->processed &&
           a->in_flight == b->in_flight;
}

/* Until attnd has received `messages` more than `before`, and less than `bytes` are in flight.
 * Gives up when nothing changes for long. */
static int feed_await(struct cli *cli, const struct feed_counts *before, uint64_t messages,
                      uint64_t bytes, struct feed_counts *ret_now)
{
    struct feed_counts last = {0}, *now = ret_now;
    uint64_t changed_ns = now_ns();
    for (int wait_ms = ASK_FIRST_MS;; wait_ms *= wait_ms < ASK_LAST_MS ? 2 : 1) {
        int code = feed_count(cli, now);
        if (code != CLI_OK) {
            return code;
        }
        if (now->received - before->received >= messages && now->in_flight_bytes < bytes) {
            return CLI_OK;
        }
        if (interrupt_came()) {
            return feed_explain(cli, SENDER_INTERRUPTED, "", messages);
        }
        if (!feed_is_same(&last, now)) {
            changed_ns = now_ns();
        } else if (now_ns() - changed_ns > (now->in_flight ? STALL_NS : IDLE_NS)) {
            fprintf(cli->err,
                    "attnctl: attnd has received %" PRIu64 " of %" PRIu64
                    " messages, and is computing %" PRIu64 "; nothing moves any more\n",
                    now->received - before->received, messages, now->in_flight);
            return CLI_FINDING;
        }
        last = *now;
        poll(NULL, 0, wait_ms);
    }
}

int feed_settle(struct cli *cli, const struct feed_counts *before, uint64_t messages,
                struct feed_counts *ret_since)
{
    int code = feed_await(cli, before, messages, 1, ret_since);
    if (code == CLI_OK) {
        feed_subtract(ret_since, before);
    }
    return code;
}

/* Pacing ---------------------------------------------------------------------------------------
 */

/* A message's cost against the budget depends on its shape and on attnd's settings. So the
 * first of each shape goes alone, when everything before it has arrived, and attnd's counter tells
 * its cost; others of the shape need no question as long as they fit what was free at the last one.
 * attnd admits a message of any cost while the budget is not used up: one alone is always safe. */
struct pace {
    struct feed_counts before, now;
    uint64_t credit; /* may still be sent without asking */
    struct feed_cost {
        uint64_t shape, cost;
    } known[SHAPES], *learning; /* NULL, or the one whose message was sent last */
};

/* One number for everything that the cost depends on; never 0. */
static uint64_t feed_shape_of(const struct header *header)
{
    uint64_t parts[10 + TENSORS_MAX] = {
        header->type,     header->batch,       header->heads,    header->queries,
        header->keys,     header->kv_heads,    header->head_dim, header->value_dim,
        header->q_offset, header->heads_total,
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
static struct feed_cost *find_cost(struct pace *pace, const struct recorded *recorded,
                                   struct feed_cost *small)
{
    struct header header;
    const char *key;
    bool has_tensors =
        recorded->frame_count > 1 &&
        header_decode(recorded->frames[1].data, recorded->frames[1].size, &header, &key) == 0;
    *small = (struct feed_cost){.cost = EVENT_COST};
    for (uint32_t i = 0; i < recorded->frame_count; i++) {
        small->cost += recorded->frames[i].size;
    }
    if (!has_tensors) {
        return small;
    }
    uint64_t shape = header.type == MESSAGE_EVENT ? 0 : feed_shape_of(&header);
    header_clear(&header);
    if (shape == 0) {
        return small;
    }
    struct feed_cost *cost = &pace->known[shape % SHAPES];
    if (cost->shape != shape) {
        *cost = (struct feed_cost){.shape = shape};
    }
    return cost;
}

/* Until all that was sent is there and attnd has room. */
static int ask_room(struct cli *cli, struct pace *pace, const struct sender *sender)
{
    uint64_t limit = pace->before.budget_bytes / 2, admitted = pace->now.admitted_bytes;
    int code = feed_await(cli, &pace->before, sender->sent, limit, &pace->now);
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
    struct feed_cost small;
    bool asked = pace->learning != NULL;
    if (pace->before.budget_bytes == 0) {
        return CLI_OK;
    }
    int code = asked ? ask_room(cli, pace, sender) : CLI_OK;
    if (code != CLI_OK) {
        return code;
    }
    struct feed_cost *cost = find_cost(pace, recorded, &small);
    bool fits = cost->cost > 0 && cost->cost <= pace->credit;
    if (!fits && !asked) {
        code = ask_room(cli, pace, sender);
    }
    pace->learning = cost->cost == 0 ? cost : NULL;
    fits = cost->cost > 0 && cost->cost <= pace->credit;
    pace->credit -= fits ? cost->cost : pace->credit;
    return code;
}

/* Sending --------------------------------------------------------------------------------------
 */

int feed_open(struct cli *cli, void *context, const char *endpoint, struct sender *ret_sender)
{
    enum sender_status status = sender_open(context, endpoint, cli->args->timeout_ms, ret_sender);
    return status == SENDER_OK ? CLI_OK : feed_explain(cli, status, endpoint, 0);
}

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

int feed_send(struct cli *cli, struct playback *playback, struct sender *sender, double factor)
{
    struct rhythm rhythm = {.factor = factor};
    struct pace pace = {.credit = 0};
    struct recorded recorded;
    enum playback_status status;
    char error[PLAYBACK_ERROR_MAX];
    int code = feed_count(cli, &pace.before);
    if (code != CLI_OK) {
        return code;
    }
    pace.now = pace.before;
    while ((status = playback_next(playback, &recorded, error)) == PLAYBACK_MESSAGE) {
        code = await_room(cli, &pace, sender, &recorded);
        if (code != CLI_OK) {
            return code;
        }
        enum sender_status sent = await_turn(sender, &rhythm, recorded.received_ns);
        if (sent == SENDER_OK) {
            sent = sender_send(sender, recorded.frames, recorded.frame_count);
        }
        if (sent != SENDER_OK) {
            return feed_explain(cli, sent, "", sender->sent);
        }
        if (interrupt_came()) {
            return feed_explain(cli, SENDER_INTERRUPTED, "", sender->sent);
        }
    }
    if (status == PLAYBACK_END) {
        return CLI_OK;
    }
    fprintf(cli->err, "attnctl: %s\n", error);
    return status == PLAYBACK_CUT ? CLI_OK : CLI_USAGE;
}

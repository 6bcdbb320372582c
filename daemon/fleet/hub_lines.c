/* SPDX-License-Identifier: MIT */
/* The connection of a hub's thread. */
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/fleet/hub_internal.h"

#include <stdio.h>
#include <string.h>

#define TEND_NS     UINT64_C(1000000000)
#define ACK_WAIT_NS INT64_C(30000000000)
#define ACK_PENDING 4096
/* Signs of life: of one, and how many are taken before rows have their turn. */
#define BEAT_BYTES_MAX 65536
#define BEATS_PER_TURN HUB_NODES_MAX
/* A node is asked again after ASK_NS, for the rows of HOLES_MAX holes at most. */
#define ASK_NS    UINT64_C(4000000000)
#define HOLES_MAX 16

void hub_lines_drop(struct hub_lines *lines)
{
    natsSubscription_Destroy(lines->rows);
    natsSubscription_Destroy(lines->beats);
    jsCtx_Destroy(lines->js);
    *lines = (struct hub_lines){.tend_ns = lines->tend_ns};
}

static void hub_name_consumer(const struct hub *hub, char ret_name[64])
{
    char digits[LINK_ID_DIGITS + 1];
    link_id_text(hub->id, digits);
    snprintf(ret_name, 64, "attnd-hub-%s", digits);
}

/* The consumer of this hub, which the servers keep. */
static bool hub_subscribe(struct hub_lines *lines, const struct hub *hub)
{
    char name[64];
    jsSubOptions options;
    jsErrCode code = 0;
    hub_name_consumer(hub, name);
    jsSubOptions_Init(&options);
    options.Stream = LINK_STREAM;
    options.ManualAck = true;
    options.Config.AckPolicy = js_AckExplicit;
    options.Config.AckWait = ACK_WAIT_NS;
    options.Config.MaxAckPending = ACK_PENDING;
    if (link_make_stream(hub->link, lines->js) != 0) {
        return false;
    }
    natsStatus status =
        js_PullSubscribe(&lines->rows, lines->js, LINK_PART_SUBJECTS, name, NULL, &options, &code);
    if (link_say(hub->link, "consumer of the stream", status, code) != 0) {
        return false;
    }
    link_set_trouble(hub->link, "");
    return true;
}

/* Looks after the consumer. Returns whether it has to be made: the servers lost their files; or
 * they lost messages and not the consumer, which is offered nothing until as many have come again.
 * That is looked at twice, and it goes. */
static bool hub_consumer_lost(struct hub_lines *lines, const struct hub *hub)
{
    jsConsumerInfo *consumer = NULL;
    jsStreamInfo *stream = NULL;
    jsErrCode code = 0;
    char name[64];
    hub_name_consumer(hub, name);
    natsStatus status = js_GetConsumerInfo(&consumer, lines->js, LINK_STREAM, name, NULL, &code);
    bool lost = status != NATS_OK && (code == JSConsumerNotFoundErr || code == JSStreamNotFoundErr);
    bool beyond = status == NATS_OK &&
                  js_GetStreamInfo(&stream, lines->js, LINK_STREAM, NULL, NULL) == NATS_OK &&
                  consumer->Delivered.Stream > stream->State.LastSeq;
    if (beyond && lines->beyond) {
        status = js_DeleteConsumer(lines->js, LINK_STREAM, name, NULL, &code);
        lost = link_say(hub->link, "new consumer of", status, code) == 0;
    }
    if (beyond && lost) {
        log_event(LOG_WARNING, "fleet_consumer_beyond", LOG_STR("consumer", name),
                  LOG_NUM("offered", consumer->Delivered.Stream),
                  LOG_NUM("newest", stream->State.LastSeq),
                  LOG_STR("detail", "the servers lost messages: it is made anew"));
    }
    lines->beyond = beyond && !lost;
    jsConsumerInfo_Destroy(consumer);
    jsStreamInfo_Destroy(stream);
    return lost;
}

void hub_lines_tend(struct hub_lines *lines, struct hub *hub)
{
    jsOptions options;
    if (hub->now_ns < lines->tend_ns) {
        return;
    }
    lines->tend_ns = hub->now_ns + TEND_NS;
    lines->connection = link_tend(hub->link);
    if (!lines->connection || !link_connected(hub->link)) {
        return;
    }
    jsOptions_Init(&options);
    options.Wait = LINK_WAIT_MS;
    if (!lines->js &&
        natsConnection_JetStream(&lines->js, lines->connection, &options) != NATS_OK) {
        lines->js = NULL;
        return;
    }
    if (lines->rows && hub->now_ns >= lines->check_ns) {
        lines->check_ns = hub->now_ns + 5 * TEND_NS;
        if (hub_consumer_lost(lines, hub)) {
            natsSubscription_Destroy(lines->rows);
            lines->rows = NULL;
        }
    }
    if (!lines->rows) {
        lines->rows = hub_subscribe(lines, hub) ? lines->rows : NULL;
        lines->drained_ns = hub->now_ns;
    }
    if (lines->rows && !lines->beats && /* the domain is known */
        natsConnection_SubscribeSync(&lines->beats, lines->connection, "attnd.node.*") != NATS_OK) {
        lines->beats = NULL;
    }
}

/* Nodes */

bool hub_read_digits(const char *text, uint8_t *ret_bytes, size_t size)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < size; i++) {
        const char *high = text[2 * i] ? strchr(digits, text[2 * i]) : NULL;
        const char *low = high && text[2 * i + 1] ? strchr(digits, text[2 * i + 1]) : NULL;
        if (!low) {
            return false;
        }
        ret_bytes[i] = (uint8_t)((high - digits) << 4 | (low - digits));
    }
    return true;
}

bool hub_read_node(const char *subject, const char *prefix, uint8_t *ret_node)
{
    size_t length = strlen(prefix);
    return strncmp(subject, prefix, length) == 0 &&
           hub_read_digits(subject + length, ret_node, FLEET_ID_BYTES);
}

static void hub_ask(struct hub_lines *lines, const uint8_t *node, const struct fleet_ask *ask)
{
    char digits[LINK_ID_DIGITS + 1], subject[64];
    struct mpk_writer writer;
    link_id_text(node, digits);
    snprintf(subject, sizeof subject, "attnd.ask.%s", digits);
    mpk_writer_init(&writer);
    fleet_ask_encode(ask, &writer);
    if (mpk_writer_ok(&writer)) {
        natsConnection_Publish(lines->connection, subject, writer.buffer.data,
                               (int)writer.buffer.size);
    }
    mpk_writer_clear(&writer);
}

static struct fleet_ask hub_new_ask(const struct hub *hub, const uint8_t *instance)
{
    struct fleet_ask ask = {.from = 0};
    strcpy(ask.hub, hub->name);
    memcpy(ask.instance, instance, FLEET_ID_BYTES);
    return ask;
}

/* Asks a node for rows that its servers have taken and nobody has any more. While the stream does
 * not rest, rows behind the first hole may be on their way. */
static void hub_ask_for_rows(struct hub_lines *lines, const struct hub *hub, struct hub_node *node)
{
    struct seen_range hole;
    if (!lines->rows || !seen_hole(&node->seen, 0, node->beat.taken, &hole)) {
        return;
    }
    if (hole.first != node->hole) {
        node->hole = hole.first;
        node->hole_ns = hub->now_ns;
    }
    bool drained = clock_since_ns(lines->drained_ns, hub->now_ns) >= HUB_DRAINED_NS;
    bool passed = lines->caught_ns > node->hole_ns + HUB_DRAINED_NS; /* a stream may never rest */
    if ((!drained && !passed) || clock_since_ns(node->asked_ns, hub->now_ns) < ASK_NS) {
        return;
    }
    node->asked_ns = hub->now_ns;
    if (log_is_round(node->asked++)) {
        log_event(LOG_INFO, "fleet_rows_asked_for", LOG_STR("node", node->name),
                  LOG_NUM("from", hole.first), LOG_NUM("to", hole.last),
                  LOG_NUM("count", node->asked));
    }
    int count = 0;
    do {
        struct fleet_ask ask = hub_new_ask(hub, node->instance);
        ask.from = hole.first;
        ask.to = hole.last;
        hub_ask(lines, node->id, &ask);
    } while (drained && ++count < HOLES_MAX &&
             seen_hole(&node->seen, hole.last, node->beat.taken, &hole));
}

static void hub_take_beat_message(struct hub_lines *lines, struct hub *hub, natsMsg *msg)
{
    struct mpk_doc doc;
    struct fleet_beat beat;
    uint8_t id[FLEET_ID_BYTES];
    if (!hub_read_node(natsMsg_GetSubject(msg), "attnd.node.", id) ||
        natsMsg_GetDataLength(msg) > BEAT_BYTES_MAX ||
        mpk_parse(natsMsg_GetData(msg), (size_t)natsMsg_GetDataLength(msg), &fleet_limits, &doc) !=
            0) {
        return;
    }
    if (fleet_beat_decode(doc.root, &beat) == 0 && link_takes_from(hub->link, beat.domain)) {
        const char *refused;
        parts_begin(&hub->parts);
        struct hub_node *node = hub_take_beat(hub, id, &beat, &refused);
        if (*refused) {
            struct fleet_ask ask = hub_new_ask(hub, beat.instance);
            snprintf(ask.refused, sizeof ask.refused, "%s", refused);
            ask.pause = !node;
            hub_ask(lines, id, &ask);
        }
        if (node) {
            hub_ask_for_rows(lines, hub, node);
        }
    }
    mpk_doc_clear(&doc);
}

void hub_lines_take_beats(struct hub_lines *lines, struct hub *hub)
{
    natsMsg *msg = NULL;
    for (int i = 0; i < BEATS_PER_TURN && lines->beats &&
                    natsSubscription_NextMsg(&msg, lines->beats, 0) == NATS_OK;
         i++) {
        hub_take_beat_message(lines, hub, msg);
        natsMsg_Destroy(msg);
        msg = NULL;
    }
}

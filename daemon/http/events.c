/* SPDX-License-Identifier: MIT */
#include "daemon/http/events.h"

#include "daemon/base/clock.h"
#include "daemon/base/hash.h"
#include "proto/mpk.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <utlist.h>

/* Bytes that a client may have to hear besides events: greeting, resync, heartbeats. */
#define NOTE_MAX 512
/* The size of the blocks that the server asks for. */
#define BLOCK_BYTES 16384
/* A layer that is silent for so long is forgotten here: its next value goes out at once. */
#define HELD_NS UINT64_C(60000000000)

struct held {
    char topic[TOPIC_MAX];
    uint64_t sent_ns;
    struct published *newest; /* not sent yet; NULL = none. Owned */
    UT_hash_handle hh;
};

struct event_client {
    struct events *events;
    struct MHD_Connection *connection;
    struct event_filter filter;
    uint64_t next;       /* number of the event it wants next */
    struct event *event; /* being sent, from `offset` on; NULL = none */
    size_t offset;
    char note[NOTE_MAX]; /* goes before the next event */
    size_t note_size, note_offset;
    bool suspended, gone;
    uint64_t heard_ns; /* when something was last handed to the server */
    struct event_client *following, *previous;
};

void events_init(struct events *events, struct stats *stats, const struct config *config)
{
    uint64_t share = config->publish_budget / CONFIG_EVENTS_SHARE;
    uint32_t boot = (uint32_t)time(NULL);
    if (getrandom(&boot, sizeof boot, GRND_NONBLOCK) != (ssize_t)sizeof boot) {
        boot ^= (uint32_t)clock(); /* it only has to differ from the last one */
    }
    *events = (struct events){.stats = stats,
                              .boot = boot,
                              .live_interval_ns = config->http_live_interval,
                              .heartbeat_ns = config->http_heartbeat,
                              .held_limit = share,
                              .client_limit = (uint32_t)(config->http_connections + 3) / 4};
    ring_init(&events->ring, share);
}

/* Drops the newest value held back for this layer. */
static void drop_newest(struct events *events, struct held *held)
{
    if (held->newest) {
        events->held_bytes -= sizeof *held->newest + held->newest->size;
    }
    free(held->newest);
    held->newest = NULL;
}

static void forget_held(struct events *events, struct held *held)
{
    HASH_DEL(events->held, held);
    drop_newest(events, held);
    free(held);
}

void events_clear(struct events *events)
{
    struct held *held, *next;
    HASH_ITER(hh, events->held, held, next)
    {
        forget_held(events, held);
    }
    ring_clear(&events->ring);
}

/* Rendering */

static char *events_render(const struct published *published)
{
    struct mpk_doc doc;
    if (mpk_parse(published->map, published->size, &mpk_result_limits, &doc) != 0) {
        return NULL;
    }
    char *json = mpk_to_json_base64(doc.root);
    mpk_doc_clear(&doc);
    return json;
}

static void events_append(struct events *events, const struct published *published)
{
    /* "live/<job>/..." */
    size_t word = strcspn(published->topic, "/");
    int kind = event_kind_find(published->topic, word);
    if (kind < 0) {
        return;
    }
    char job[JOB_NAME_MAX + 1];
    const char *from = published->topic[word] ? published->topic + word + 1 : "";
    snprintf(job, sizeof job, "%.*s", (int)strcspn(from, "/"), from);
    char *json = events->client_count > 0 ? events_render(published) : NULL;
    if (json) {
        ring_put(&events->ring, events->boot, (enum event_kind)kind, job, json);
        events->urgent |= kind != EVENT_LIVE || events->live_interval_ns == 0;
        stats_add(events->stats, COUNT_HTTP_EVENTS, 1);
    } else {
        ring_skip(&events->ring);
    }
    free(json);
}

/* Live values */

static struct held *events_find_held(struct events *events, const char *topic)
{
    struct held *held = NULL;
    HASH_FIND_STR(events->held, topic, held);
    if (held) {
        return held;
    }
    held = calloc(1, sizeof *held);
    if (!held) {
        return NULL;
    }
    snprintf(held->topic, sizeof held->topic, "%s", topic);
    HASH_ADD_STR(events->held, topic, held);
    if (!held->hh.tbl) {
        free(held);
        return NULL;
    }
    return held;
}

/* Returns false when there is no room, or no memory. */
static bool events_hold(struct events *events, struct held *held, const struct published *published)
{
    size_t size = sizeof *published + published->size;
    struct published *copied =
        events->held_bytes + size <= events->held_limit ? malloc(size) : NULL;
    if (!copied) {
        return false;
    }
    memcpy(copied, published, size);
    held->newest = copied;
    events->held_bytes += size;
    return true;
}

static void events_put_live(struct events *events, const struct published *published,
                            uint64_t now_ns)
{
    struct held *held =
        events->client_count > 0 ? events_find_held(events, published->topic) : NULL;
    if (!held) {
        events_append(events, published);
        return;
    }
    drop_newest(events, held);
    bool early = held->sent_ns != 0 && now_ns - held->sent_ns < events->live_interval_ns;
    if (early && events_hold(events, held, published)) {
        return;
    }
    held->sent_ns = now_ns;
    events_append(events, published);
}

bool events_send_held(struct events *events, uint64_t now_ns)
{
    struct held *held, *next;
    bool more = false;
    HASH_ITER(hh, events->held, held, next)
    {
        if (!held->newest) {
            continue;
        }
        if (now_ns - held->sent_ns < events->live_interval_ns) {
            more = true;
            continue;
        }
        held->sent_ns = now_ns;
        events_append(events, held->newest);
        drop_newest(events, held);
    }
    events_wake(events);
    return more;
}

void events_put(struct events *events, const struct published *published, uint64_t now_ns)
{
    if (strncmp(published->topic, "live/", 5) == 0) {
        events_put_live(events, published, now_ns);
    } else {
        events_append(events, published);
    }
}

/* Clients */

static void put_note(struct event_client *client, const char *text)
{
    size_t size = strlen(text);
    if (client->note_offset == client->note_size) {
        client->note_offset = client->note_size = 0;
    }
    if (client->note_size + size > NOTE_MAX) {
        return; /* it is told so already */
    }
    memcpy(client->note + client->note_size, text, size);
    client->note_size += size;
}

static void put_resync(struct event_client *client, const char *reason)
{
    char text[160];
    snprintf(text, sizeof text,
             "id: %08" PRIx32 "-%" PRIu64 "\nevent: resync\ndata: {\"reason\":\"%s\"}\n\n",
             client->events->boot, client->next - 1, reason);
    put_note(client, text);
    stats_add(client->events->stats, COUNT_HTTP_RESYNCS, 1);
}

/* The next piece of what the client is to hear, at most `max` bytes. */
static size_t events_take(const char *from, size_t size, size_t *offset, char *to, size_t max)
{
    size_t count = size - *offset < max ? size - *offset : max;
    memcpy(to, from + *offset, count);
    *offset += count;
    return count;
}

static void next_event(struct event_client *client)
{
    bool missed;
    client->event = ring_next(&client->events->ring, &client->filter, &client->next, &missed);
    client->offset = 0;
    if (missed) {
        put_resync(client, "too slow");
    }
}

static ssize_t read_events(void *data, uint64_t position, char *to, size_t max)
{
    struct event_client *client = data;
    (void)position;
    /* Fills `to`; an event is begun only when the one before is through, notes go between events.
     */
    size_t used = 0;
    while (used < max) {
        if (client->event) {
            used += events_take(client->event->text, client->event->size, &client->offset,
                                to + used, max - used);
            if (client->offset == client->event->size) {
                event_release(&client->event);
            }
        } else if (client->note_offset < client->note_size) {
            used += events_take(client->note, client->note_size, &client->note_offset, to + used,
                                max - used);
        } else {
            next_event(client);
            if (!client->event && client->note_offset == client->note_size) {
                break;
            }
        }
    }
    if (used > 0) {
        client->heard_ns = clock_monotonic_ns();
        return (ssize_t)used;
    }
    if (client->events->closing || client->gone) {
        return MHD_CONTENT_READER_END_OF_STREAM;
    }
    client->suspended = true;
    MHD_suspend_connection(client->connection);
    return 0;
}

static void client_free(void *data)
{
    struct event_client *client = data;
    struct events *events = client->events;
    DL_DELETE2(events->clients, client, previous, following);
    events->client_count--;
    event_release(&client->event);
    free(client);
}

bool events_parse_id(const char *text, uint32_t boot, uint64_t *ret_number)
{
    unsigned given;
    uint64_t number;
    int used = 0;
    if (strlen(text) > 40 || sscanf(text, "%8x-%" SCNu64 "%n", &given, &number, &used) != 2 ||
        text[used] != '\0' || given != boot) {
        return false;
    }
    *ret_number = number;
    return true;
}

struct MHD_Response *events_open(struct events *events, struct MHD_Connection *connection,
                                 const struct event_filter *filter, const char *last_id,
                                 uint64_t now_ns)
{
    if (events->closing || events->client_count >= events->client_limit) {
        return NULL;
    }
    struct event_client *client = calloc(1, sizeof *client);
    if (!client) {
        return NULL;
    }
    client->events = events;
    client->connection = connection;
    client->filter = *filter;
    client->next = events->ring.newest + 1;
    client->heard_ns = now_ns;
    DL_PREPEND2(events->clients, client, previous, following);
    events->client_count++;
    /* Where it left off, if that is known; when it has left the ring, the first read says so. */
    uint64_t number;
    bool known =
        last_id && events_parse_id(last_id, events->boot, &number) && number < client->next;
    if (known) {
        client->next = number + 1;
    }
    char text[200];
    snprintf(text, sizeof text,
             "retry: 1000\nid: %08" PRIx32 "-%" PRIu64
             "\nevent: hello\ndata: {\"version\":\"%s\",\"heartbeat_s\":%.3g}\n\n",
             client->events->boot, client->next - 1, ATTND_VERSION,
             (double)client->events->heartbeat_ns / 1e9);
    put_note(client, text);
    if (last_id && !known) {
        put_resync(client, "the last id is not known");
    }
    struct MHD_Response *response = MHD_create_response_from_callback(
        MHD_SIZE_UNKNOWN, BLOCK_BYTES, read_events, client, client_free);
    if (!response) {
        client_free(client);
    }
    return response;
}

/* Whether a suspended client has anything to hear: events that its filter leaves out do not wake
 * it. */
static bool has_more(struct event_client *client)
{
    if (!client->event && client->next <= client->events->ring.newest) {
        next_event(client);
    }
    return client->event || client->note_offset < client->note_size || client->events->closing ||
           client->gone;
}

void events_wake(struct events *events)
{
    events->urgent = false;
    for (struct event_client *client = events->clients; client; client = client->following) {
        if (!client->suspended || !has_more(client)) {
            continue;
        }
        client->suspended = false;
        MHD_resume_connection(client->connection);
    }
}

void events_lost(struct events *events)
{
    ring_skip(&events->ring);
    events_wake(events);
}

/* The server does not look at connections that are suspended: one that the client has closed would
 * stay until something is sent to it. */
static bool has_hung_up(struct event_client *client)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(client->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    char byte;
    return info && recv(info->connect_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

void events_tick(struct events *events, uint64_t now_ns)
{
    for (struct event_client *client = events->clients; client; client = client->following) {
        if (client->suspended) {
            client->gone = client->gone || has_hung_up(client);
            if (now_ns - client->heard_ns >= client->events->heartbeat_ns) {
                put_note(client, ":\n\n");
            }
        }
    }
    struct held *held, *next;
    HASH_ITER(hh, events->held, held, next)
    {
        if (!held->newest && now_ns - held->sent_ns > HELD_NS) {
            forget_held(events, held);
        }
    }
    events_wake(events);
}

/* An event that is chosen already is of a job that may not be seen any more, perhaps: it is chosen
 * anew, unless it has begun. */
void events_judge(struct events *events, const struct access *visitors)
{
    for (struct event_client *client = events->clients; client; client = client->following) {
        bool known = guard_judge(&client->filter.visitor, visitors);
        client->gone = client->gone || !known;
        if (client->event && client->offset == 0 &&
            !access_jobs_match(client->filter.visitor.jobs, client->event->job)) {
            event_release(&client->event);
        }
    }
}

void events_close(struct events *events)
{
    events->closing = true;
    events_wake(events);
}

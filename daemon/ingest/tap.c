/* SPDX-License-Identifier: MIT */
/* The frames that are sent share their bytes with the message that the workers read. ZeroMQ counts
 * messages, not bytes, and does not tell when one has gone out; so each frame is given to it with a
 * callback that lets go of a `parcel`, which holds references to the frames (zmq_msg_copy, which
 * copies no bytes) and gives its bytes back to the budget when the last frame is gone from the last
 * pipe. The callbacks run on ZeroMQ's threads, and the last ones after the tap is closed: the
 * budget is counted in a `flight` of its own, which lives until then.
 *
 * The high-water mark is out of reach: the budget is the only bound, and it is checked before the
 * first frame, so that a message goes out whole or not at all. Recorders share the budget: one that
 * stalls takes from the others, until tap_keep cuts it off.
 *
 * ZeroMQ reports every subscription and its end (ZMQ_XPUB_VERBOSER), so that each recorder is
 * greeted, and also the end of one that its sender never had: a prefix is kept with its connection,
 * and goes by what this one says, or when a connection ends. */
#include "daemon/ingest/tap.h"

#include "daemon/base/clock.h"
#include "daemon/base/endpoint.h"
#include "daemon/base/hash.h"
#include "daemon/base/log.h"
#include "proto/header.h"
#include "proto/mpk.h"
#include "daemon/base/stalled.h"
#include "daemon/base/zsock.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

/* A subscription is a topic and the byte that says whether it begins or ends. */
#define SUBSCRIPTION_BYTES_MAX (TOPIC_MAX + 1)
/* More messages than any budget has room for. */
#define SEND_QUEUE (1 << 30)
/* Jobs whose messages are numbered at once; those of further jobs are dropped. */
#define JOBS_MAX 4096
/* How long a stop may go on sending. */
#define LINGER_MS 1000
/* The number of prefixes that are distinguished, by connection; with more, every job counts as
 * listened to, until their connections have ended. */
#define PREFIXES_MAX 64
/* Events may go beyond the budget by one part in this. */
#define EVENT_SHARE 8
/* How long a recorder may let nothing arrive: longer than disks pause. */
#define RECORDER_NS UINT64_C(10000000000)
/* The memory of a message beside its bytes: a small frame is kept by keeping ZeroMQ's receive
 * buffer. */
#define PARCEL_OVERHEAD 8192

/* Bytes on their way; the tap and each parcel hold a reference. */
struct flight {
    _Atomic uint64_t bytes, arrived; /* arrived: parcels that all recorders have had */
    _Atomic uint64_t references;
};

/* One message on its way. */
struct tap_parcel {
    struct flight *flight;
    uint64_t cost;
    _Atomic uint32_t references; /* frames that ZeroMQ has */
    uint32_t frame_count;
    zmq_msg_t frames[];
};

struct tap_prefix {
    char text[TOPIC_MAX];
    int fd;         /* of its connection */
    uint32_t count; /* subscriptions */
};

struct tapped_job {
    char job[JOB_NAME_MAX + 1];
    uint64_t n;       /* messages seen since somebody listens */
    uint64_t dropped; /* of them */
    UT_hash_handle hh;
};

struct tap {
    struct zsock zsock;
    struct endpoint_file file;
    void *zmq;
    struct keyring *keys;
    struct config *config;
    struct stats *stats;
    struct flight *flight;
    struct stalled *stalled;
    uint64_t arrived;        /* of the flight, when recorders that stall were last looked for */
    struct tapped_job *jobs; /* listened to, and heard of since */
    struct tap_prefix prefixes[PREFIXES_MAX];
    uint32_t prefix_count;
    uint64_t others; /* prefixes beyond PREFIXES_MAX */
    bool listened;
};

static void release_flight(struct flight *flight)
{
    if (atomic_fetch_sub(&flight->references, 1) == 1) {
        free(flight);
    }
}

/* Parcels -------------------------------------------------------------------------------------- */

/* Any thread of ZeroMQ. */
static void on_frame_gone(void *data, void *hint)
{
    struct tap_parcel *parcel = hint;
    (void)data;
    if (atomic_fetch_sub(&parcel->references, 1) == 1) {
        for (uint32_t i = 0; i < parcel->frame_count; i++) {
            zmq_msg_close(&parcel->frames[i]);
        }
        atomic_fetch_sub(&parcel->flight->bytes, parcel->cost);
        atomic_fetch_add(&parcel->flight->arrived, 1);
        release_flight(parcel->flight);
        free(parcel);
    }
}

/* With one reference, the maker's. NULL when out of memory. */
static struct tap_parcel *make_parcel(struct flight *flight, struct message *message, uint64_t cost)
{
    struct tap_parcel *parcel =
        calloc(1, sizeof *parcel + message->frame_count * sizeof parcel->frames[0]);
    if (!parcel) {
        return NULL;
    }
    parcel->flight = flight;
    parcel->cost = cost;
    parcel->references = 1;
    atomic_fetch_add(&flight->references, 1);
    atomic_fetch_add(&flight->bytes, cost);
    for (uint32_t i = 0; i < message->frame_count; i++) {
        zmq_msg_init(&parcel->frames[i]);
        zmq_msg_copy(&parcel->frames[i], &message->frames[i]);
        parcel->frame_count++;
    }
    return parcel;
}

/* Sending -------------------------------------------------------------------------------------- */

static int send_bytes(void *socket, const void *data, size_t size, int flags)
{
    return zmq_send(socket, data, size, ZMQ_DONTWAIT | flags) < 0 ? -1 : 0;
}

/* A frame of the parcel, which shares its bytes. */
static int tap_send_frame(void *socket, struct tap_parcel *parcel, uint32_t index, int flags)
{
    zmq_msg_t frame;
    zmq_msg_t *from = &parcel->frames[index];
    atomic_fetch_add(&parcel->references, 1);
    if (zmq_msg_init_data(&frame, zmq_msg_data(from), zmq_msg_size(from), on_frame_gone, parcel)) {
        on_frame_gone(NULL, parcel);
        return -1;
    }
    int rc = zmq_msg_send(&frame, socket, ZMQ_DONTWAIT | flags) < 0 ? -1 : 0;
    zmq_msg_close(&frame);
    return rc;
}

/* The map as a frame. Returns 0 or -1. */
static int make_map(const struct tapped_job *job, uint64_t received_ns, zmq_msg_t *ret_frame)
{
    struct mpk_writer map;
    mpk_writer_init(&map);
    mpk_put_map(&map, 4);
    mpk_pair_u64(&map, "v", PROTO_VERSION);
    mpk_pair_u64(&map, "n", job->n);
    mpk_pair_u64(&map, "received_ns", received_ns);
    mpk_pair_u64(&map, "dropped", job->dropped);
    int rc = mpk_writer_ok(&map) ? zmq_msg_init_size(ret_frame, map.buffer.size) : -1;
    if (rc == 0) {
        memcpy(zmq_msg_data(ret_frame), map.buffer.data, map.buffer.size);
    }
    mpk_writer_clear(&map);
    return rc;
}

/* Topic and map, and then the parcel's frames, if there is one. The steps that can fail come
 * first. */
static int send_tapped(struct tap *tap, const struct tapped_job *job, uint64_t received_ns,
                       struct tap_parcel *parcel)
{
    void *socket = tap->zsock.socket;
    char topic[TOPIC_MAX];
    zmq_msg_t map;
    size_t length = topic_job("tap", job->job, topic);
    if (make_map(job, received_ns, &map) != 0) {
        return -1;
    }
    int rc = send_bytes(socket, topic, length, ZMQ_SNDMORE);
    if (rc == 0) {
        rc = zmq_msg_send(&map, socket, ZMQ_DONTWAIT | (parcel ? ZMQ_SNDMORE : 0)) < 0 ? -1 : 0;
    }
    zmq_msg_close(&map);
    /* The parcel's frames; once one is out the others must follow, even without what is in them. */
    uint32_t count = rc == 0 && parcel ? parcel->frame_count : 0;
    for (uint32_t i = 0; i < count; i++) {
        int flags = i + 1 < count ? ZMQ_SNDMORE : 0;
        if (tap_send_frame(socket, parcel, i, flags) != 0) {
            rc = -1;
            send_bytes(socket, "", 0, flags);
        }
    }
    return rc;
}

/* Jobs ----------------------------------------------------------------------------------------- */

static bool has_listeners(const struct tap *tap, const char *job)
{
    char topic[TOPIC_MAX];
    topic_job("tap", job, topic);
    for (uint32_t i = 0; i < tap->prefix_count; i++) {
        const char *prefix = tap->prefixes[i].text;
        if (strncmp(topic, prefix, strlen(prefix)) == 0) {
            return true;
        }
    }
    return tap->others > 0;
}

/* The job's numbers, or NULL when there are too many, or no memory. */
static struct tapped_job *tap_find_job(struct tap *tap, const char *name)
{
    struct tapped_job *job = NULL;
    HASH_FIND_STR(tap->jobs, name, job);
    if (job) {
        return job;
    }
    job = HASH_COUNT(tap->jobs) < JOBS_MAX ? calloc(1, sizeof *job) : NULL;
    if (!job) {
        return NULL;
    }
    strcpy(job->job, name);
    HASH_ADD_STR(tap->jobs, job, job);
    if (job->hh.tbl) {
        return job;
    }
    free(job);
    return NULL;
}

static void forget_jobs(struct tap *tap, bool all)
{
    struct tapped_job *job, *next;
    HASH_ITER(hh, tap->jobs, job, next)
    {
        if (!all && has_listeners(tap, job->job)) {
            continue;
        }
        HASH_DEL(tap->jobs, job);
        free(job);
    }
}

/* Messages ------------------------------------------------------------------------------------- */

/* When a message came, by the clock on the wall. */
static uint64_t received_since_1970(const struct message *message)
{
    return clock_wall_ns() - (clock_monotonic_ns() - message->received_ns);
}

/* Events have some more room: a recording without them neither closes its windows nor ends. */
static uint64_t budget_of(const struct tap *tap, const struct message *message)
{
    uint64_t budget = tap->config->publish_budget / CONFIG_PUBLISH_SHARE;
    return message->header.type == MESSAGE_EVENT ? budget + budget / EVENT_SHARE : budget;
}

static int tap_pass_on(struct tap *tap, const struct tapped_job *job, struct message *message)
{
    uint64_t cost = message->bytes + PARCEL_OVERHEAD;
    uint64_t in_flight = atomic_load(&tap->flight->bytes);
    /* A message that is larger than the budget goes when it is alone. */
    if (in_flight > 0 && in_flight + cost > budget_of(tap, message)) {
        return -1;
    }
    struct tap_parcel *parcel = make_parcel(tap->flight, message, cost);
    if (!parcel) {
        return -1;
    }
    int rc = send_tapped(tap, job, received_since_1970(message), parcel);
    on_frame_gone(NULL, parcel);
    return rc;
}

void tap_message(struct tap *tap, struct message *message)
{
    if (!tap || !tap->listened || !has_listeners(tap, message->header.job)) {
        return;
    }
    struct tapped_job *job = tap_find_job(tap, message->header.job);
    bool passed = job && tap_pass_on(tap, job, message) == 0;
    stats_add(tap->stats, passed ? COUNT_TAPPED : COUNT_TAP_DROPPED, 1);
    if (job) {
        job->n++;
        job->dropped += !passed;
    }
}

/* Subscriptions -------------------------------------------------------------------------------- */

/* That of a connection, or of any (-1); NULL: there is none. */
static struct tap_prefix *find_prefix(struct tap *tap, const char *text, int fd)
{
    for (uint32_t i = 0; i < tap->prefix_count; i++) {
        struct tap_prefix *prefix = &tap->prefixes[i];
        if ((fd < 0 || prefix->fd == fd) && strcmp(prefix->text, text) == 0) {
            return prefix;
        }
    }
    return NULL;
}

static void tap_add_prefix(struct tap *tap, const char *text, int fd)
{
    struct tap_prefix *prefix = find_prefix(tap, text, fd);
    if (!prefix && tap->prefix_count == PREFIXES_MAX) {
        tap->others++;
        return;
    }
    if (!prefix) {
        prefix = &tap->prefixes[tap->prefix_count++];
        strcpy(prefix->text, text);
        prefix->fd = fd;
        prefix->count = 0;
    }
    prefix->count++;
}

static void remove_prefix(struct tap *tap, const char *text, int fd)
{
    struct tap_prefix *prefix = find_prefix(tap, text, fd);
    if (prefix && --prefix->count == 0) {
        *prefix = tap->prefixes[--tap->prefix_count];
    } else if (!prefix && fd < 0 && tap->others > 0) {
        tap->others--;
    }
    forget_jobs(tap, false);
}

/* A subscriber to one job gets a confirmation, and the number of the message that comes next. */
static void tap_greet(struct tap *tap, const char *prefix)
{
    size_t word = strlen("tap/"), length = strlen(prefix);
    char name[JOB_NAME_MAX + 1] = "";
    if (length < word + 2 || memcmp(prefix, "tap/", word) != 0 || prefix[length - 1] != '/' ||
        !job_name_valid(prefix + word, length - word - 1)) {
        return;
    }
    memcpy(name, prefix + word, length - word - 1);
    struct tapped_job *job = tap_find_job(tap, name);
    if (job) {
        send_tapped(tap, job, clock_wall_ns(), NULL);
    }
}

static void tap_on_subscription(struct zsock *zsock)
{
    struct tap *tap = zsock->data;
    char frame[SUBSCRIPTION_BYTES_MAX + 1] = {0};
    int fd;
    int length = keys_receive(tap->keys, zsock->socket, frame, SUBSCRIPTION_BYTES_MAX, &fd);
    if (length < 1 || length >= SUBSCRIPTION_BYTES_MAX) {
        return;
    }
    if (frame[0] == 1) {
        tap_add_prefix(tap, frame + 1, fd);
    } else {
        remove_prefix(tap, frame + 1, fd);
    }
    tap->listened = tap->prefix_count > 0 || tap->others > 0;
    if (frame[0] == 1) {
        tap_greet(tap, frame + 1);
    }
}

/* Life ----------------------------------------------------------------------------------------- */

static void *tap_open_socket(struct tap *tap, bool again, char *reterr)
{
    struct endpoint_options options = {
        .key = "tap.endpoint",
        .endpoint = tap->config->tap_endpoint.text,
        .type = ZMQ_XPUB,
        .send_queue = SEND_QUEUE,
        .max_message = SUBSCRIPTION_BYTES_MAX,
        .linger_ms = LINGER_MS,
        .keys = tap->keys,
        .again = again,
        .ret_file = &tap->file,
    };
    void *socket = endpoint_bind(tap->zmq, &options, reterr);
    int verbose = 1;
    if (socket) {
        zmq_setsockopt(socket, ZMQ_XPUB_VERBOSER, &verbose, sizeof verbose);
    }
    return socket;
}

/* Nobody listens until recorders have come back. */
static void *tap_open_again(void *data)
{
    struct tap *tap = data;
    char error[CONFIG_ERROR_MAX] = "";
    void *socket = tap_open_socket(tap, true, error);
    tap->prefix_count = 0;
    tap->others = 0;
    tap->listened = false;
    forget_jobs(tap, true);
    if (!socket) {
        log_event(LOG_ERROR, "socket_lost", LOG_STR("reason", error));
    }
    return socket;
}

void tap_renew(struct tap *tap)
{
    if (endpoint_is_secured(tap->keys, tap->config->tap_endpoint.text)) {
        zsock_renew(&tap->zsock, tap_open_again);
    }
}

static struct tap *make_tap(void *zmq_context, struct keyring *keys, struct config *config,
                            struct stats *stats)
{
    struct tap *tap = calloc(1, sizeof *tap);
    struct flight *flight = calloc(1, sizeof *flight);
    if (!tap || !flight) {
        free(tap);
        free(flight);
        return NULL;
    }
    flight->references = 1;
    tap->zmq = zmq_context;
    tap->keys = keys;
    tap->config = config;
    tap->stats = stats;
    tap->flight = flight;
    return tap;
}

static void free_tap(struct tap *tap)
{
    forget_jobs(tap, true);
    stalled_clear(&tap->stalled);
    release_flight(tap->flight);
    free(tap);
}

int tap_new(uv_loop_t *loop, void *zmq_context, struct keyring *keys, struct config *config,
            struct stats *stats, struct tap **ret_tap, char *reterr)
{
    struct tap *tap = make_tap(zmq_context, keys, config, stats);
    if (!tap) {
        snprintf(reterr, CONFIG_ERROR_MAX, "tap.endpoint: %s", err_text(ERR_MEMORY));
        return -1;
    }
    void *socket = tap_open_socket(tap, false, reterr);
    if (!socket) {
        goto fail;
    }
    int rc = zsock_init(&tap->zsock, loop, socket, tap_on_subscription, tap);
    if (rc != 0) {
        snprintf(reterr, CONFIG_ERROR_MAX, "tap.endpoint: %s", uv_strerror(rc));
        goto fail_socket;
    }
    *ret_tap = tap;
    return 0;

fail_socket:
    zmq_close(socket);
fail:
    free_tap(tap);
    return -1;
}

/* A slow recorder has a full connection whenever one looks, too; but it lets messages arrive. One
 * that reads nothing holds all of the budget, so that the others catch up and wait. */
static void tap_cut_stalled(struct tap *tap)
{
    uint64_t waiting = atomic_load(&tap->flight->bytes);
    uint64_t arrived = atomic_load(&tap->flight->arrived), before = tap->arrived;
    char next[ENDPOINT_MAX] = "";
    tap->arrived = arrived;
    if (arrived != before || waiting <= tap->config->publish_budget / CONFIG_PUBLISH_SHARE / 2) {
        stalled_clear(&tap->stalled);
        return;
    }
    if (tap->keys) {
        keys_next_endpoint(tap->keys, "tap", next);
    }
    stalled_look(&tap->stalled, tap->config->tap_endpoint.text, next);
    unsigned count = stalled_cut(&tap->stalled, RECORDER_NS);
    if (count > 0) {
        stats_add(tap->stats, COUNT_SUBSCRIBERS_CUT, count);
        log_event(LOG_WARNING, "recorders_cut", LOG_NUM("count", count),
                  LOG_NUM("unread_bytes", waiting));
    }
}

void tap_keep(void *data)
{
    struct tap *tap = data;
    if (!tap->zsock.socket) {
        tap_renew(tap);
        return;
    }
    tap_cut_stalled(tap);
    endpoint_keep(tap->zsock.socket, tap->config->tap_endpoint.text, &tap->file);
}

static void tap_on_zsock_closed(struct zsock *zsock)
{
    free_tap(zsock->data);
}

void tap_close(struct tap **tap_p)
{
    struct tap *tap = *tap_p;
    if (!tap) {
        return;
    }
    tap->listened = false;
    zsock_close(&tap->zsock, tap_on_zsock_closed);
    *tap_p = NULL;
}

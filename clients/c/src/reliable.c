/* SPDX-License-Identifier: MIT */
#include "clients/c/src/reliable.h"

#include "clients/c/src/keys.h"
#include "clients/c/src/socket.h"
#include "proto/err.h"
#include "proto/mpk.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Beyond the bound, for events alone. */
#define EVENT_BYTES ((uint64_t)1 << 20)
/* Messages wait so long for the first answer, and then go as they would without the lane. */
#define JOIN_MS 5000
/* Since the last answer, messages wait so long for room. */
#define WAIT_MS 5000
/* Between the end of a connection and the next one. */
#define AGAIN_MS     100
#define AGAIN_MAX_MS 2000
/* Left by others, and looked at, at a time. */
#define LEFT_BYTES       ((uint64_t)16 << 20)
#define ANSWER_BYTES_MAX (16 << 20)
#define ANSWERS_AT_ONCE  1024
/* Days, as in link.c. */
#define RECONNECT_MS (1 << 29)
#define ID_BYTES     8

bool reliable_endpoint(const char *ingest, uint64_t port, char ret_endpoint[ADDRESS_MAX])
{
    const char *slash = strrchr(ingest, '/'), *colon = strrchr(ingest, ':');
    int length;

    if (strncmp(ingest, "ipc://", 6) == 0 && slash) {
        length =
            snprintf(ret_endpoint, ADDRESS_MAX, "%.*s/reliable", (int)(slash - ingest), ingest);
        return length > 0 && length < ADDRESS_MAX;
    }
    if (strncmp(ingest, "tcp://", 6) != 0 || port < 1 || port > UINT16_MAX) {
        return false;
    }
    length = snprintf(ret_endpoint, ADDRESS_MAX, "%.*s:%u", (int)(colon - ingest), ingest,
                      (unsigned)port);
    return length > 0 && length < ADDRESS_MAX;
}

/* ---- what is kept ---- */

static struct kept_list *list_of(struct reliable *lane, const struct kept *entry)
{
    return entry->topic ? &lane->own : &lane->left;
}

static void entry_append(struct reliable *lane, struct kept *entry)
{
    struct kept_list *list = list_of(lane, entry);

    entry->number = ++lane->number;
    entry->previous = list->last;
    *(list->last ? &list->last->next : &list->first) = entry;
    list->last = entry;
    if (!list->unsent) {
        list->unsent = entry;
    }
}

static struct kept **find_sent(struct reliable *lane, uint64_t number)
{
    struct kept **at = &lane->sent[number % KEPT_BUCKETS];

    while (*at && (*at)->number != number) {
        at = &(*at)->next_sent;
    }
    return at;
}

static void mark_sent(struct reliable *lane, struct kept *entry)
{
    struct kept **bucket = &lane->sent[entry->number % KEPT_BUCKETS];

    entry->sent = true;
    entry->next_sent = *bucket;
    *bucket = entry;
}

/* Takes it out of everything, but frees nothing. */
static void unlink_entry(struct reliable *lane, struct kept *entry)
{
    struct kept_list *list = list_of(lane, entry);

    if (entry->sent) {
        *find_sent(lane, entry->number) = entry->next_sent;
    }
    if (list->unsent == entry) {
        list->unsent = entry->next;
    }
    *(entry->previous ? &entry->previous->next : &list->first) = entry->next;
    *(entry->next ? &entry->next->previous : &list->last) = entry->previous;
    *(entry->topic ? &lane->bytes : &lane->left_bytes) -= entry->bytes;
    lane->unacknowledged -= entry->counted;
    lane->tensors -= entry->payload > 0;
    lane->in_memory -= !entry->spooled && entry->payload > 0;
    lane->spooled -= entry->spooled;
}

/* It is acknowledged, refused or lost. */
static void settle_entry(struct reliable *lane, struct kept *entry, bool lost)
{
    unlink_entry(lane, entry);
    if (entry->spooled && (entry->topic || !lost)) { /* what others left is not ours to lose */
        spool_release(lane->spool, &entry->place);
    }
    if (entry->topic) {
        lane->events.settled(lane->events.sender, entry, lost);
    }
    kept_free(entry);
}

/* All of it is to be sent, or sent again. */
static void rewind_lists(struct reliable *lane)
{
    memset(lane->sent, 0, sizeof lane->sent);
    lane->own.unsent = lane->own.first;
    lane->left.unsent = lane->left.first;
    for (struct kept *at = lane->own.first; at; at = at->next) {
        at->went = at->went || at->sent;
        at->sent = false;
    }
    for (struct kept *at = lane->left.first; at; at = at->next) {
        at->sent = false;
    }
}

static uint64_t wall_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static bool has_spool(struct reliable *lane)
{
    if (!lane->spool && lane->directory && spool_open(lane->directory, &lane->spool) != 0) {
        lane->spool_errors++;
        warner_say(lane->warner, WARNING_SPOOL_OPEN,
                   "the spool %s cannot be used (%s): messages are kept in memory, and lost if "
                   "this process is killed",
                   lane->directory,
                   errno == EPERM ? "it belongs to another user, or others can write to it: chmod "
                                    "700 it, or name a directory of your own"
                                  : strerror(errno));
    }
    return lane->spool;
}

/* Whether the frames are in a file now. */
static bool write_entry(struct reliable *lane, struct kept *entry, zmq_msg_t *const *frames,
                        uint32_t count)
{
    struct recording_frame written[SPOOL_FRAMES_MAX];

    if (!has_spool(lane)) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        written[i] = (struct recording_frame){zmq_msg_data(frames[i]), zmq_msg_size(frames[i])};
    }
    if (spool_append(lane->spool, wall_ns(), written, count, &entry->place) != 0) {
        lane->spool_errors++;
        warner_say(lane->warner, WARNING_SPOOL_WRITE,
                   "the spool %s cannot be written (%s): what cannot is kept in memory, and lost "
                   "if this process is killed",
                   lane->directory, strerror(errno));
        return false;
    }
    return true;
}

bool reliable_must_wait(struct reliable *lane, uint64_t bytes)
{
    lane->awaited = *lane->endpoint && lane->bytes + bytes > lane->bytes_max &&
                    bytes <= lane->bytes_max && socket_now_ms() < lane->answered_ms + WAIT_MS;
    return lane->awaited;
}

int reliable_keep(struct reliable *lane, struct wire_message *message, zmq_msg_t *topic,
                  zmq_msg_t *header, bool counted)
{
    uint32_t count = 2 + message->header.tensor_count;
    uint64_t bytes = zmq_msg_size(topic) + zmq_msg_size(header) + message->bytes;
    uint64_t max = lane->bytes_max + (message->header.type == MESSAGE_EVENT ? EVENT_BYTES : 0);
    zmq_msg_t *frames[SPOOL_FRAMES_MAX] = {topic, header};
    struct kept *entry;

    if (bytes > max) {
        warner_say(lane->warner, WARNING_LARGE,
                   "a message has %llu bytes, which is more than may ever wait for attnd "
                   "(reliable_bytes, %llu): it is dropped and counted, and so is all that follows "
                   "like it. Remedy: a larger reliable_bytes, fewer query rows or samples "
                   "(attn_plan), or tensors without acknowledgement (ATTN_RELIABLE_STATES)",
                   (unsigned long long)bytes, (unsigned long long)lane->bytes_max);
        return ATTN_E_DROPPED;
    }
    if (lane->bytes + bytes > max) {
        lane->full = true;
        warner_say(
            lane->warner, WARNING_FULL,
            "attnd has not acknowledged %llu bytes, which is as much as may wait for it "
            "(reliable_bytes): what follows is dropped and counted until it has. Remedy: a "
            "larger reliable_bytes, fewer query rows or samples (attn_plan), or tensors without "
            "acknowledgement (ATTN_RELIABLE_STATES)",
            (unsigned long long)lane->bytes);
        return ATTN_E_DROPPED;
    }
    for (uint32_t i = 2; i < count; i++) {
        frames[i] = &message->tensors[i - 2];
    }
    entry = calloc(1, sizeof *entry);
    if (!entry) {
        return ATTN_E_MEMORY;
    }
    entry->spooled = write_entry(lane, entry, frames, count);
    if (!entry->spooled && kept_hold(entry, frames, count) != 0) {
        kept_free(entry);
        return ATTN_E_MEMORY;
    }
    entry->topic = message->topic;
    entry->bytes = bytes;
    entry->payload = message->bytes;
    entry->counted = counted;
    entry_append(lane, entry);
    if (lane->bytes == 0) {
        lane->answered_ms = socket_now_ms();
    }
    lane->bytes += bytes;
    lane->unacknowledged += counted;
    lane->tensors += entry->payload > 0;
    lane->in_memory += !entry->spooled && entry->payload > 0;
    lane->spooled += entry->spooled;
    return 0;
}

/* ---- what others have left ---- */

static void tell_unreadable(struct reliable *lane, int error)
{
    warner_say(lane->warner, WARNING_SPOOL_READ, "the spool %s cannot be read (%s)",
               lane->directory,
               error == EPERM ? "a file in it belongs to another user, or others can write to it"
                              : strerror(error));
}

static void look_for_left(struct reliable *lane)
{
    if (has_spool(lane) && spool_look(lane->spool) != 0) {
        lane->spool_errors++;
        tell_unreadable(lane, errno);
    }
}

/* One that there is no memory for stays in its file, for whoever comes next. */
static void add_left(struct reliable *lane, const struct spool_message *message)
{
    struct kept *entry = calloc(1, sizeof *entry);

    if (!entry) {
        lane->spool_errors++;
        return;
    }
    entry->spooled = true;
    entry->place = *message;
    for (uint32_t i = 0; i < message->frame_count; i++) {
        entry->bytes += message->sizes[i];
    }
    entry_append(lane, entry);
    lane->left_bytes += entry->bytes;
    lane->spooled++;
}

/* Has the next file of those sent. Returns whether there may be more. */
static bool take_left(struct reliable *lane)
{
    struct spool_message *messages;
    bool damaged;
    size_t count;
    int rc, error;

    if (!lane->spool || lane->left_bytes >= LEFT_BYTES) {
        return false;
    }
    rc = spool_next(lane->spool, &messages, &count, &damaged);
    error = errno;
    lane->spool_errors += rc < 0 || damaged;
    if (rc < 0) {
        tell_unreadable(lane, error);
    }
    for (size_t i = 0; i < count; i++) {
        add_left(lane, &messages[i]);
    }
    if (count > 0 && lane->left.last) {
        char job[JOB_NAME_MAX + 1];

        kept_job(lane->left.last, job);
        warner_say_of(lane->warner, WARNING_SPOOL_TAKEN, job,
                      "messages of job %s, which another process left in %s, are sent now", job,
                      lane->directory);
    }
    free(messages);
    return rc > 0 || (rc < 0 && !spool_is_passing(error));
}

/* ---- the connection ---- */

static void reliable_disconnect(struct reliable *lane)
{
    const int none = 0;

    if (lane->socket) {
        zmq_socket_monitor(lane->socket, NULL, 0);
        zmq_setsockopt(lane->socket, ZMQ_LINGER, &none, sizeof none);
        zmq_close(lane->socket);
    }
    if (lane->monitor) {
        zmq_close(lane->monitor);
    }
    lane->socket = lane->monitor = NULL;
    lane->first_credit = lane->credit = 0;
    rewind_lists(lane);
}

static void reliable_retry(struct reliable *lane)
{
    reliable_disconnect(lane);
    lane->again_ms = socket_now_ms() + lane->pause_ms;
    lane->pause_ms = 2 * lane->pause_ms < AGAIN_MAX_MS ? 2 * lane->pause_ms : AGAIN_MAX_MS;
}

static int reliable_open(struct reliable *lane)
{
    static const struct socket_option options[] = {
        {ZMQ_SNDHWM, 0},
        {ZMQ_LINGER, 0},
        {ZMQ_HEARTBEAT_IVL, 1000},
        {ZMQ_HEARTBEAT_TIMEOUT, 3000},
        {ZMQ_RECONNECT_IVL, RECONNECT_MS},
    };
    static const uint8_t join[ID_BYTES];
    static _Atomic unsigned count; /* a name that was used lives on for a moment */
    char name[32];

    snprintf(name, sizeof name, "inproc://lane-%u", atomic_fetch_add(&count, 1));
    if (socket_open(lane->context, ZMQ_DEALER, options, sizeof options / sizeof options[0],
                    ANSWER_BYTES_MAX, &lane->socket) != 0 ||
        zmq_socket_monitor(lane->socket, name, ZMQ_EVENT_CLOSED | ZMQ_EVENT_DISCONNECTED) < 0) {
        return ATTN_E_TRANSPORT;
    }
    lane->monitor = zmq_socket(lane->context, ZMQ_PAIR);
    if (!lane->monitor || zmq_connect(lane->monitor, name) != 0 ||
        keys_connect(lane->socket, lane->keys, lane->endpoint) != 0 ||
        zmq_send(lane->socket, join, sizeof join, ZMQ_DONTWAIT) < 0) {
        return ATTN_E_TRANSPORT;
    }
    return 0;
}

static void reliable_connect(struct reliable *lane)
{
    lane->again_ms = 0;
    if (reliable_open(lane) != 0) {
        reliable_retry(lane);
    }
}

void reliable_announce(struct reliable *lane, const char *endpoint)
{
    if (strcmp(endpoint, lane->endpoint) == 0) {
        return;
    }
    reliable_disconnect(lane);
    strcpy(lane->endpoint, endpoint);
    lane->again_ms = 0;
    lane->pause_ms = AGAIN_MS;
    if (*endpoint) {
        lane->announced_ms = lane->answered_ms = socket_now_ms();
        reliable_connect(lane);
    }
}

bool reliable_is_joining(const struct reliable *lane)
{
    return !lane->joined && *lane->endpoint && socket_now_ms() < lane->announced_ms + JOIN_MS;
}

int reliable_items(const struct reliable *lane, zmq_pollitem_t ret_items[2])
{
    ret_items[0] = (zmq_pollitem_t){.socket = lane->socket, .events = ZMQ_POLLIN};
    ret_items[1] = (zmq_pollitem_t){.socket = lane->monitor, .events = ZMQ_POLLIN};
    return lane->socket ? 2 : 0;
}

/* ---- answers ---- */

static struct kept *find_number(struct reliable *lane, const msgpack_object *number)
{
    uint64_t value;

    return mpk_get_u64(number, UINT64_MAX, &value) == 0 ? *find_sent(lane, value) : NULL;
}

static void settle_answered(struct reliable *lane, struct kept *entry)
{
    lane->full = lane->awaited = false;
    lane->answered_ms = socket_now_ms();
    settle_entry(lane, entry, false);
}

/* Leaves all that a process has left where it is: attnd does not take this message of it from us.
 */
static void leave_owner(struct reliable *lane, const struct kept *refused, const char *reason)
{
    const struct spool_message place = refused->place;
    struct kept *entry, *next;

    reliable_tell_left(lane, refused, reason);
    for (entry = lane->left.first; entry; entry = next) {
        next = entry->next;
        if (spool_same_owner(&entry->place, &place)) {
            unlink_entry(lane, entry);
            kept_free(entry);
        }
    }
    spool_leave(lane->spool, &place);
}

/* [id, reason]. Returns false when it is to be sent again, over another connection. */
static bool take_refusal(struct reliable *lane, const msgpack_object *pair)
{
    const msgpack_object *text;
    char reason[64] = "?";
    struct kept *entry;

    if (pair->type != MSGPACK_OBJECT_ARRAY || pair->via.array.size != 2) {
        return true;
    }
    text = &pair->via.array.ptr[1];
    if (text->type == MSGPACK_OBJECT_STR && text->via.str.size < sizeof reason) {
        memcpy(reason, text->via.str.ptr, text->via.str.size);
        reason[text->via.str.size] = '\0';
    }
    entry = find_number(lane, &pair->via.array.ptr[0]);
    if (!entry) {
        return !reliable_setting(reason);
    }
    if (!entry->topic && (strcmp(reason, "key") == 0 || reliable_setting(reason))) {
        leave_owner(lane, entry, reason);
        return !reliable_setting(reason);
    }
    reliable_tell_refused(lane, reason);
    if (reliable_setting(reason)) {
        return false;
    }
    lane->refused++;
    settle_answered(lane, entry);
    return true;
}

/* attnd had a message with the number of this one: another process's, unless this one may have been
 * there before. Once another process has shown, all such count as its own: rather too many than one
 * that is lost and not counted. */
static void heed_repeated(struct reliable *lane, struct kept *entry)
{
    if (!entry || !entry->topic || entry->repeated) {
        return;
    }
    entry->repeated = true; /* it counts once, however often that is said */
    lane->in_doubt++;
    lane->shared = lane->shared || !entry->went;
    if (!lane->shared) {
        return;
    }
    lane->refused += lane->in_doubt;
    lane->in_doubt = 0;
    reliable_tell_repeated(lane);
}

/* The lists of an answer. Returns as take_refusal. */
static bool take_numbers(struct reliable *lane, const msgpack_object *acknowledged,
                         const msgpack_object *repeated, const msgpack_object *refused)
{
    bool is_list = repeated && repeated->type == MSGPACK_OBJECT_ARRAY, whole = true;

    for (uint32_t i = 0; is_list && i < repeated->via.array.size; i++) {
        heed_repeated(lane, find_number(lane, &repeated->via.array.ptr[i]));
    }
    is_list = acknowledged && acknowledged->type == MSGPACK_OBJECT_ARRAY;
    for (uint32_t i = 0; is_list && i < acknowledged->via.array.size; i++) {
        struct kept *entry = find_number(lane, &acknowledged->via.array.ptr[i]);

        if (entry) {
            settle_answered(lane, entry);
        }
    }
    is_list = refused && refused->type == MSGPACK_OBJECT_ARRAY;
    for (uint32_t i = 0; is_list && i < refused->via.array.size; i++) {
        whole = take_refusal(lane, &refused->via.array.ptr[i]) && whole;
    }
    return whole;
}

static void take_credit(struct reliable *lane, const msgpack_object *value)
{
    uint64_t credit;

    if (!value || mpk_get_u64(value, INT32_MAX, &credit) != 0 || credit == 0) {
        return;
    }
    lane->credit += (int64_t)credit;
    if (lane->first_credit == 0) {
        lane->first_credit = (int64_t)credit;
        lane->pause_ms = AGAIN_MS;
        lane->joined = true;
        lane->answered_ms = socket_now_ms(); /* what waits for room is owed as long anew */
        look_for_left(lane);
    }
}

/* Whatever is not as it should be is skipped. Returns false when there is no memory to read it, or
 * attnd had no memory, or no room, for a message. */
static bool take_answer(struct reliable *lane, const void *data, size_t size)
{
    static const char *const names[] = {"credit", "ack", "refused", "again", "waits", "repeated"};
    const msgpack_object *values[6];
    bool taken = true;
    const char *twice;
    struct mpk_doc doc;
    int rc = mpk_parse(data, size, &mpk_result_limits, &doc);

    if (rc) {
        return rc != ERR_MEMORY;
    }
    if (mpk_collect(doc.root, names, 6, values, &twice) == 0) {
        take_credit(lane, values[0]);
        taken = !values[3] || values[3]->type != MSGPACK_OBJECT_BOOLEAN || !values[3]->via.boolean;
        taken = take_numbers(lane, values[1], values[5], values[2]) && taken;
        reliable_tell_waits(lane, values[1], values[4]);
    }
    lane->pause_ms = taken ? lane->pause_ms : AGAIN_MAX_MS;
    mpk_doc_clear(&doc);
    return taken;
}

/* One of several frames is none. Returns false when one is lost: nobody says it again on this
 * connection. */
static bool take_answers(struct reliable *lane)
{
    zmq_msg_t frame;
    bool taken = true, within = false;

    zmq_msg_init(&frame);
    for (int i = 0;
         (within || i < ANSWERS_AT_ONCE) && zmq_msg_recv(&frame, lane->socket, ZMQ_DONTWAIT) >= 0;
         i++) {
        bool alone = !within && !zmq_msg_more(&frame);

        within = zmq_msg_more(&frame);
        if (alone && !take_answer(lane, zmq_msg_data(&frame), zmq_msg_size(&frame))) {
            taken = false;
        }
    }
    zmq_msg_close(&frame);
    return taken;
}

/* ---- sending ---- */

static void put_id(uint8_t bytes[ID_BYTES], uint64_t number)
{
    for (int i = 0; i < ID_BYTES; i++) {
        bytes[i] = (uint8_t)(number >> (8 * i));
    }
}

/* Returns 0; ATTN_E_MESSAGE when it cannot be read; or ATTN_E_TRANSPORT: the connection is of no
 * use any more, or it cannot be read now, and all is tried again a little later. */
static int send_entry(struct reliable *lane, struct kept *entry)
{
    uint32_t count, sent = 0;
    zmq_msg_t frames[SPOOL_FRAMES_MAX];
    uint8_t id[ID_BYTES];
    int rc = 0;

    if (kept_frames(entry, frames, &count) != 0) {
        return spool_is_passing(errno) ? ATTN_E_TRANSPORT : ATTN_E_MESSAGE;
    }
    put_id(id, entry->number);
    if (zmq_send(lane->socket, id, sizeof id, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0) {
        rc = ATTN_E_TRANSPORT;
    }
    for (; !rc && sent < count; sent++) {
        if (zmq_msg_send(&frames[sent], lane->socket,
                         ZMQ_DONTWAIT | (sent + 1 < count ? ZMQ_SNDMORE : 0)) < 0) {
            rc = ATTN_E_TRANSPORT;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        zmq_msg_close(&frames[i]); /* empty once sent */
    }
    return rc;
}

/* As much as attnd has room for; and one message, however large, when it has taken all that was
 * sent before. */
static void send_unsent(struct reliable *lane)
{
    while (lane->socket && lane->first_credit > 0) {
        struct kept_list *list = lane->own.unsent ? &lane->own : &lane->left;
        struct kept *entry = list->unsent;
        int64_t charge = 0;
        int rc;

        if (!entry) {
            if (take_left(lane)) {
                continue;
            }
            return;
        }
        charge = entry->bytes > CHARGE_MIN ? (int64_t)entry->bytes : CHARGE_MIN;
        if (charge > lane->credit && lane->credit < lane->first_credit) {
            return;
        }
        rc = send_entry(lane, entry);
        if (rc == ATTN_E_TRANSPORT) {
            reliable_retry(lane);
        } else if (rc) {
            tell_unreadable(lane, errno);
            lane->spool_errors++;
            settle_entry(lane, entry, true);
        } else {
            list->unsent = entry->next;
            mark_sent(lane, entry);
            lane->credit -= charge;
        }
    }
}

static bool has_ended(const struct reliable *lane)
{
    int events = 0;
    size_t size = sizeof events;

    zmq_getsockopt(lane->monitor, ZMQ_EVENTS, &events, &size);
    return events & ZMQ_POLLIN;
}

void reliable_tend(struct reliable *lane)
{
    if (lane->again_ms > 0 && socket_now_ms() >= lane->again_ms) {
        reliable_connect(lane);
    }
    if (!lane->socket) {
        return;
    }
    if (!take_answers(lane) || has_ended(lane)) {
        reliable_retry(lane);
    }
    send_unsent(lane);
}

void reliable_close(struct reliable *lane)
{
    struct kept *entry, *next;

    reliable_disconnect(lane);
    *lane->endpoint = '\0';
    for (entry = lane->own.first; entry; entry = next) {
        next = entry->next;
        kept_free(entry);
    }
    for (entry = lane->left.first; entry; entry = next) {
        next = entry->next;
        kept_free(entry);
    }
    lane->own = lane->left = (struct kept_list){NULL, NULL, NULL};
    if (lane->spool) {
        spool_close(lane->spool);
        lane->spool = NULL;
    }
    free(lane->directory);
    lane->directory = NULL;
}

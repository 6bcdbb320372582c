/* SPDX-License-Identifier: MIT */
/* One thread reads rows in the order of their numbers and publishes them asynchronously, at most
 * FLIGHT_ROWS or FLIGHT_BYTES at once. Threads of libnats bring the answers; a row whose pieces
 * were all acknowledged is marked in the outbox, some at a time. One that was refused or not
 * answered within LINK_WAIT_MS goes again with the same id, after a pause that doubles up to
 * PAUSE_MAX_NS; so does everything when attnd starts again, or when the mark could not be written.
 *
 * A row that a hub asks for becomes unsent again, with another id (its turn), as a server would
 * take the old one for a repetition, and comes up in its order: the cursor goes back.
 *
 * The history may be replaced while this runs. Then all that is in flight belongs to a node that
 * does not exist any more: it is forgotten, and answers for it are passed over.
 *
 * The thread's lock guards what others hand over; nothing of the store is called under it.
 *
 * crash_point: uplink_published (a row, before any answer), uplink_acknowledged (not marked yet).
 */
#include "daemon/base/grow.h"
#include "daemon/fleet/uplink_internal.h"

#include "daemon/base/clock.h"
#include "daemon/base/crash.h"
#include "daemon/base/log.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* How long the first mark waits for others. */
#define TAKEN_WAIT_NS UINT64_C(100000000)
/* Libnats gives an answer up after LINK_WAIT_MS by the wall clock: never, where that was set back.
 */
#define ANSWER_NS    (UINT64_C(5) * LINK_WAIT_MS / 2 * 1000000)
#define BEAT_NS      UINT64_C(2000000000)
#define TURN_NS      UINT64_C(500000000)
#define STOP_TURN_NS UINT64_C(20000000)
#define GOODBYE_MS   500

static void uplink_wake(void *data)
{
    struct uplink *uplink = data;
    pthread_mutex_lock(&uplink->lock);
    uplink->woken = true;
    pthread_cond_signal(&uplink->wake);
    pthread_mutex_unlock(&uplink->lock);
}

/* On threads of libnats */

static void uplink_on_answer(jsCtx *js, natsMsg *message, jsPubAck *ack, jsPubAckErr *error,
                             void *data)
{
    struct uplink *uplink = data;
    struct uplink_answer answer = {.taken = ack};
    const char *id = NULL;
    (void)js;
    bool ours = natsMsgHeader_Get(message, "Nats-Msg-Id", &id) == NATS_OK && id &&
                sscanf(id, "%16[0-9a-f]:%" SCNu64 ":%" SCNu32 ":%" SCNu64, answer.node, &answer.seq,
                       &answer.piece, &answer.turn) == 4;
    if (!ack && error) {
        char trouble[LINK_ERROR_MAX];
        answer.no_stream =
            error->Err == NATS_NO_RESPONDERS || error->ErrCode == JSStreamNotFoundErr;
        snprintf(trouble, sizeof trouble, "parts are not acknowledged: %.150s",
                 error->ErrText && *error->ErrText ? error->ErrText
                                                   : natsStatus_GetText(error->Err));
        link_set_trouble(uplink->link, trouble);
    }
    if (ours) {
        pthread_mutex_lock(&uplink->lock);
        if (grow(&uplink->answers, uplink->answer_count, &uplink->answer_capacity,
                 sizeof *uplink->answers)) {
            uplink->answers[uplink->answer_count++] = answer;
        }
        uplink->woken = true;
        pthread_cond_signal(&uplink->wake);
        pthread_mutex_unlock(&uplink->lock);
    }
    natsMsg_Destroy(message);
}

static void uplink_on_question(natsConnection *connection, natsSubscription *subscription,
                               natsMsg *message, void *data)
{
    struct uplink *uplink = data;
    struct mpk_doc doc;
    struct fleet_ask ask;
    (void)connection;
    (void)subscription;
    if (mpk_parse(natsMsg_GetData(message), (size_t)natsMsg_GetDataLength(message),
                  &mpk_header_limits, &doc) == 0) {
        bool meant = fleet_ask_decode(doc.root, &ask) == 0 &&
                     memcmp(ask.instance, uplink->beat.instance, FLEET_ID_BYTES) == 0;
        pthread_mutex_lock(&uplink->lock);
        if (meant && uplink->ask_count < ASKS_MAX) { /* else it comes again */
            uplink->asks[uplink->ask_count++] = ask;
            uplink->woken = true;
            pthread_cond_signal(&uplink->wake);
        }
        pthread_mutex_unlock(&uplink->lock);
        mpk_doc_clear(&doc);
    }
    natsMsg_Destroy(message);
}

/* The connection */

static void uplink_lose(void *data)
{
    struct uplink *uplink = data;
    natsSubscription_Destroy(uplink->questions);
    jsCtx_Destroy(uplink->js);
    uplink->questions = NULL;
    uplink->js = NULL;
    uplink->connection = NULL;
    flight_fail_before(&uplink->flight, UINT64_MAX); /* the connection has gone */
}

static bool uplink_prepare(struct uplink *uplink)
{
    jsOptions options;
    char subject[64];
    if (!uplink->js) {
        jsOptions_Init(&options);
        options.Wait = LINK_WAIT_MS;
        options.PublishAsync.AckHandler = uplink_on_answer;
        options.PublishAsync.AckHandlerClosure = uplink;
        if (natsConnection_JetStream(&uplink->js, uplink->connection, &options) != NATS_OK) {
            return false;
        }
        uplink->needs_stream = uplink->needs_skipped = true;
    }
    if (!uplink->questions) {
        snprintf(subject, sizeof subject, "attnd.ask.%s", uplink->node);
        if (natsConnection_Subscribe(&uplink->questions, uplink->connection, subject,
                                     uplink_on_question, uplink) != NATS_OK) {
            return false;
        }
    }
    return true;
}

/* Returns whether rows can be published. */
static bool uplink_connect(struct uplink *uplink, uint64_t now)
{
    if (uplink->ending && !link_connected(uplink->link)) {
        return false; /* nobody waits for a new connection */
    }
    uplink->connection = link_tend(uplink->link);
    if (!uplink->connection || !link_connected(uplink->link) || !uplink->outbox.opened ||
        !uplink_prepare(uplink)) {
        return false;
    }
    if (uplink->needs_stream && now >= uplink->paused_until_ns) {
        uplink->needs_stream = link_make_stream(uplink->link, uplink->js) != 0;
        if (uplink->needs_stream) {
            uplink_pause(uplink, clock_monotonic_ns());
        } else {
            link_set_trouble(uplink->link, "");
        }
    }
    if (uplink->needs_skipped && !uplink->needs_stream) {
        uplink_say_skipped(uplink);
        uplink->needs_skipped = false;
    }
    return !uplink->needs_stream;
}

/* The outbox as it is now; another one begins anew. */
static void uplink_look(struct uplink *uplink)
{
    struct outbox_status outbox = {.opened = 0};
    if (outbox_status(uplink->store, &outbox) != 0) {
        outbox = (struct outbox_status){.opened = 0};
    }
    if (outbox.opened != uplink->outbox.opened) {
        flight_clear(&uplink->flight);
        uplink->cursor = 0;
        uplink->taken_count = 0;
        uplink->asked = (struct outbox_range){1, 0};
        natsSubscription_Destroy(uplink->questions);
        uplink->questions = NULL;
        uplink->needs_skipped = true;
        link_id_text(outbox.node, uplink->node);
    }
    uplink->outbox = outbox;
    pthread_mutex_lock(&uplink->lock);
    uplink->status.outbox = outbox;
    uplink->status.sent = uplink->sent;
    uplink->status.resent = uplink->resent;
    memcpy(uplink->status.refused, uplink->refused, sizeof uplink->refused);
    pthread_mutex_unlock(&uplink->lock);
}

/* Answers */

static void uplink_take_answers(struct uplink *uplink, uint64_t now)
{
    struct uplink_answer *answers;
    bool failed = false, taken = false;
    pthread_mutex_lock(&uplink->lock);
    size_t count = uplink->answer_count;
    answers = uplink->answers;
    uplink->answers = NULL;
    uplink->answer_count = uplink->answer_capacity = 0;
    pthread_mutex_unlock(&uplink->lock);
    for (size_t i = 0; i < count; i++) {
        const struct uplink_answer *answer = &answers[i];
        if (strcmp(answer->node, uplink->node) != 0) {
            continue; /* of a history that was replaced */
        }
        failed = failed || !answer->taken;
        taken = taken || answer->taken;
        uplink->needs_stream = uplink->needs_stream || answer->no_stream;
        if (!flight_answer(&uplink->flight, answer->seq, answer->turn, answer->piece,
                           answer->taken)) {
            continue;
        }
        if (uplink->taken_count == TAKEN_MAX) {
            uplink_mark(uplink, now);
        }
        if (uplink->taken_count == 0) {
            uplink->taken_since_ns = now;
        }
        uplink->taken[uplink->taken_count++] = (struct outbox_taken){answer->seq, answer->turn};
    }
    free(answers);
    if (failed) {
        uplink_pause(uplink, now);
    } else if (taken) {
        uplink->pause_ns = 0;
        link_set_trouble(uplink->link, "");
    }
    flight_fail_before(&uplink->flight, now > ANSWER_NS ? now - ANSWER_NS : 0);
    if (uplink->taken_count > 0 && (uplink->ending || uplink->flight.count == 0 ||
                                    now >= uplink->taken_since_ns + TAKEN_WAIT_NS)) {
        uplink_mark(uplink, now);
    }
}

/* Signs of life */

static void uplink_beat(struct uplink *uplink, bool stopping)
{
    struct fleet_beat_run runs[FLEET_RUNS_MAX];
    struct fleet_beat beat = uplink->beat;
    const struct outbox_status *outbox = &uplink->outbox;
    struct mpk_writer writer;
    char subject[64];
    pthread_mutex_lock(&uplink->lock);
    beat.run_count = uplink->run_count;
    memcpy(runs, uplink->runs, uplink->run_count * sizeof *runs);
    pthread_mutex_unlock(&uplink->lock);
    beat.runs = runs;
    beat.newest = outbox->newest;
    beat.taken = outbox->taken;
    beat.rows = outbox->rows;
    beat.bytes = outbox->bytes;
    beat.unsent = outbox->unsent;
    beat.unsent_bytes = outbox->unsent_bytes;
    beat.outbox_lost = outbox->lost;
    beat.time_ns = clock_wall_ns();
    beat.stopping = stopping;
    strcpy(beat.domain, link_domain(uplink->link));
    if (outbox->trouble) {
        snprintf(beat.trouble, sizeof beat.trouble, "its history cannot be written: %s",
                 outbox->trouble);
    }
    mpk_writer_init(&writer);
    fleet_beat_encode(&beat, &writer);
    snprintf(subject, sizeof subject, "attnd.node.%s", uplink->node);
    if (mpk_writer_ok(&writer)) {
        natsConnection_Publish(uplink->connection, subject, writer.buffer.data,
                               (int)writer.buffer.size);
    }
    mpk_writer_clear(&writer);
}

/* The thread */

/* Stopping, and everything is sent, nobody is there to take it, or time is up. */
static bool uplink_is_through(struct uplink *uplink, bool connected, uint64_t now)
{
    pthread_mutex_lock(&uplink->lock);
    uint64_t stop_ns = uplink->stop_ns;
    uplink->ending = uplink->stopping;
    pthread_mutex_unlock(&uplink->lock);
    return uplink->ending && (now >= stop_ns || !connected ||
                              (uplink->outbox.unsent == 0 && uplink->flight.count == 0 &&
                               uplink->taken_count == 0 && store_waiting(uplink->store) == 0));
}

static uint64_t uplink_next_time(const struct uplink *uplink, uint64_t now)
{
    uint64_t next = now + (uplink->ending ? STOP_TURN_NS : TURN_NS);
    if (uplink->taken_count > 0 && uplink->taken_since_ns + TAKEN_WAIT_NS < next) {
        next = uplink->taken_since_ns + TAKEN_WAIT_NS;
    }
    if (uplink->paused_until_ns > now && uplink->paused_until_ns < next) {
        next = uplink->paused_until_ns;
    }
    return next;
}

static void uplink_wait(struct uplink *uplink, uint64_t until_ns)
{
    const struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000),
                                   .tv_nsec = (long)(until_ns % 1000000000)};
    pthread_mutex_lock(&uplink->lock);
    for (int rc = 0; !uplink->woken && rc == 0;) {
        rc = pthread_cond_timedwait(&uplink->wake, &uplink->lock, &until);
    }
    uplink->woken = false;
    pthread_mutex_unlock(&uplink->lock);
}

static void *uplink_main(void *data)
{
    struct uplink *uplink = data;
    bool more = false;
    pthread_setname_np(pthread_self(), "attnd-uplink");
    for (;;) {
        uint64_t now = clock_monotonic_ns();
        uplink_look(uplink);
        bool ready = uplink_connect(uplink, now);
        bool connected = uplink->outbox.opened && link_connected(uplink->link);
        now = clock_monotonic_ns();
        uplink_take_answers(uplink, now);
        if (uplink_is_through(uplink, connected, now)) {
            break;
        }
        if (now >= uplink->beat_ns) {
            if (connected && uplink->connection) {
                uplink_beat(uplink, false);
            }
            for (int slice = 0;
                 slice < SLICES_PER_TURN && outbox_prune(uplink->store, uplink->outbox.opened,
                                                         uplink->keep_s, uplink->outbox_bytes);
                 slice++) {
            }
            uplink->beat_ns = now + BEAT_NS;
        }
        more = ready && uplink_take_asks(uplink, now);
        more = (ready && uplink_send(uplink, now)) || more;
        if (!more) {
            uplink_wait(uplink, uplink_next_time(uplink, now));
        }
    }
    uplink_mark(uplink, clock_monotonic_ns());
    uplink_look(uplink);
    if (uplink->outbox.opened && uplink->connection && link_connected(uplink->link)) {
        uplink_beat(uplink, true);
        natsConnection_FlushTimeout(uplink->connection, GOODBYE_MS);
    }
    return NULL;
}

/* For others */

void uplink_tell_runs(struct uplink *uplink, const struct fleet_beat_run *runs, uint32_t count)
{
    count = count < FLEET_RUNS_MAX ? count : FLEET_RUNS_MAX;
    pthread_mutex_lock(&uplink->lock);
    if (count > 0) {
        memcpy(uplink->runs, runs, count * sizeof *runs);
    }
    uplink->run_count = count;
    pthread_mutex_unlock(&uplink->lock);
}

static void uplink_pair_text(struct mpk_writer *writer, const char *key, const char *text)
{
    mpk_pair_str(writer, key, *text ? text : NULL);
}

void uplink_encode(struct uplink *uplink, struct mpk_writer *writer)
{
    char error[LINK_ERROR_MAX], id[LINK_ID_DIGITS + 1] = "";
    pthread_mutex_lock(&uplink->lock);
    struct uplink_status status = uplink->status;
    pthread_mutex_unlock(&uplink->lock);
    const struct outbox_status *outbox = &status.outbox;
    link_error(uplink->link, error);
    if (outbox->opened) {
        link_id_text(outbox->node, id);
    } else {
        snprintf(error, sizeof error, "the history is not open, so there is no outbox");
    }
    mpk_put_map(writer, 15);
    mpk_pair_str(writer, "role", "node");
    mpk_pair_str(writer, "name", uplink->beat.name);
    mpk_pair_str(writer, "id", id);
    mpk_pair_str(writer, "url", link_url(uplink->link));
    mpk_pair_bool(writer, "connected", link_connected(uplink->link));
    uplink_pair_text(writer, "error", error);
    mpk_pair_u64(writer, "rows", outbox->rows);
    mpk_pair_u64(writer, "bytes", outbox->bytes);
    mpk_pair_u64(writer, "unsent", outbox->unsent);
    mpk_pair_u64(writer, "unsent_bytes", outbox->unsent_bytes);
    mpk_pair_u64(writer, "oldest_unsent_s", (uint64_t)outbox->oldest_unsent_s);
    mpk_pair_u64(writer, "outbox_lost", outbox->lost);
    mpk_pair_u64(writer, "sent", status.sent);
    mpk_pair_u64(writer, "resent", status.resent);
    uplink_pair_text(writer, "refused", status.refused);
}

/* Start and end */

int uplink_new(const struct config *config, struct store *store, struct uplink **ret_uplink,
               char *reterr)
{
    struct uplink *uplink = calloc(1, sizeof *uplink);
    sigset_t all, before;
    snprintf(reterr, CONFIG_ERROR_MAX, "cannot start the fleet: out of memory");
    if (!uplink) {
        return -1;
    }
    pthread_condattr_t attributes;
    struct fleet_beat *beat = &uplink->beat;
    uplink->store = store;
    uplink->keep_s = config->fleet_keep / 1000000000;
    uplink->outbox_bytes = config->fleet_outbox;
    uplink->asked = (struct outbox_range){1, 0};
    link_name(config, beat->name, sizeof beat->name);
    if (gethostname(beat->host, sizeof beat->host) != 0) {
        snprintf(beat->host, sizeof beat->host, "unknown");
    }
    beat->host[sizeof beat->host - 1] = '\0';
    snprintf(beat->version, sizeof beat->version, "%s", ATTND_VERSION);
    /* A hub knows by it a node that was started again from one whose history was copied. 0: it is
     * not known. */
    const char *reason, *path = store_path(store, &reason);
    char text[128] = "";
    struct stat about;
    uint64_t number = 0xcbf29ce484222325u; /* FNV-1a */
    FILE *boot = fopen("/proc/sys/kernel/random/boot_id", "r");
    bool known = boot && fgets(text, 64, boot) && path && stat(path, &about) == 0;
    if (boot) {
        fclose(boot);
    }
    if (known) {
        size_t length = strlen(text);
        snprintf(text + length, sizeof text - length, "%ju %ju", (uintmax_t)about.st_dev,
                 (uintmax_t)about.st_ino);
    }
    for (const char *at = text; *at; at++) {
        number = (number ^ (uint8_t)*at) * 0x100000001b3u;
    }
    beat->file = known ? number >> 2 : 0;
    if (getrandom(beat->instance, FLEET_ID_BYTES, 0) != FLEET_ID_BYTES) {
        uint64_t now = clock_wall_ns();
        memcpy(beat->instance, &now, FLEET_ID_BYTES);
    }
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&uplink->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&uplink->lock, NULL);
    const struct link_owner owner = {uplink_wake, uplink_lose, uplink};
    /* Threads of libnats begin with the first of these, and inherit the mask. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = link_new(config, &owner, &uplink->link, reterr);
    if (rc == 0) {
        outbox_set_wake(store, uplink_wake, uplink);
        rc = pthread_create(&uplink->thread, NULL, uplink_main, uplink);
        uplink->thread_runs = rc == 0;
        if (rc) {
            snprintf(reterr, CONFIG_ERROR_MAX, "cannot start the fleet: %s", strerror(rc));
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc) {
        uplink_free(&uplink, 0);
        return -1;
    }
    *ret_uplink = uplink;
    return 0;
}

void uplink_free(struct uplink **uplink_p, uint64_t patience_ns)
{
    struct uplink *uplink = *uplink_p;
    if (!uplink) {
        return;
    }
    pthread_mutex_lock(&uplink->lock);
    uplink->stop_ns = clock_monotonic_ns() + patience_ns;
    uplink->stopping = uplink->woken = true;
    pthread_cond_signal(&uplink->wake);
    pthread_mutex_unlock(&uplink->lock);
    if (uplink->thread_runs) {
        pthread_join(uplink->thread, NULL);
    }
    outbox_set_wake(uplink->store, NULL, NULL);
    link_free(&uplink->link);
    flight_clear(&uplink->flight);
    outbox_row_clear(&uplink->row);
    free(uplink->answers);
    pthread_cond_destroy(&uplink->wake);
    pthread_mutex_destroy(&uplink->lock);
    free(uplink);
    *uplink_p = NULL;
}

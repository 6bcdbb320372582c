/* SPDX-License-Identifier: MIT */
/* One thread does everything of a hub, so nothing of it needs a lock: it fetches rows one by one
 * (larger batches stall in libnats 3.4.1), commits them together, acknowledges them, then merges
 * one layer of a window that is due. The stream holds what comes meanwhile.
 *
 * When a transaction fails, as on a full disk, nothing of it is acknowledged: the hub reads its
 * file again and goes on with what the servers offer once more. */
#include "daemon/fleet/hub.h"

#include "daemon/base/clock.h"
#include "daemon/base/crash.h"
#include "daemon/base/log.h"
#include "daemon/fleet/hub_internal.h"
#include "daemon/store/outbox.h"
#include "proto/err.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include <utlist.h>

/* Rows of one transaction, and how long it may stay open. */
#define ROWS_MAX  64
#define COMMIT_NS UINT64_C(50000000)
/* The answer of `fleet` is made up so often, sooner after a change, and takes at most one part in
 * STATUS_PART of the thread's time. */
#define STATUS_NS   UINT64_C(500000000)
#define CHANGED_NS  UINT64_C(100000000)
#define STATUS_PART 20
#define LATER_MS    2000
#define LATER_MOST  5
#define TROUBLE_US  500000
#define REFUSED_US  50000 /* a fetch that fails at once, as when the stream has gone */
#define IDLE_MS     1000
struct hub_thread {
    struct hub *hub;
    struct hub_lines lines;
    natsMsg *pending[ROWS_MAX]; /* taken, and not committed */
    uint32_t pending_count;
    uint64_t status_ns, status_took_ns; /* when the answer of `fleet` was made up */
    bool in_trouble;                    /* the last transaction failed */
    bool unloaded;                      /* not all of the file is in memory */
};

static void hub_drop_lines(void *data)
{
    struct hub_thread *thread = data;
    for (uint32_t i = 0; i < thread->pending_count; i++) {
        natsMsg_Destroy(thread->pending[i]);
    }
    thread->pending_count = 0;
    hub_lines_drop(&thread->lines);
}

static void hub_on_wake(void *data)
{
    (void)data; /* the thread looks often */
}

/* Rows */

static bool hub_read_message(natsMsg *msg, struct hub_message *ret_message)
{
    struct hub_message message = {.piece = 1, .pieces = 1};
    const char *text = NULL;
    char after;
    message.data = natsMsg_GetData(msg);
    message.size = (size_t)natsMsg_GetDataLength(msg);
    if (!hub_read_node(natsMsg_GetSubject(msg), "attnd.part.", message.node) ||
        natsMsgHeader_Get(msg, "Attnd-Instance", &text) != NATS_OK ||
        !hub_read_digits(text, message.instance, FLEET_ID_BYTES)) {
        return false;
    }
    message.skipped = natsMsgHeader_Get(msg, "Attnd-Skipped", &text) == NATS_OK;
    if (message.skipped || natsMsgHeader_Get(msg, "Attnd-Gone", &text) == NATS_OK) {
        struct seen_range *gone = &message.gone;
        if (sscanf(text, "%" SCNu64 "-%" SCNu64 "%c", &gone->first, &gone->last, &after) != 2 ||
            gone->first < 1 || gone->first > gone->last || gone->last >= COUNT_MAX) {
            return false;
        }
    } else if (natsMsgHeader_Get(msg, "Attnd-Seq", &text) != NATS_OK ||
               sscanf(text, "%" SCNu64 "%c", &message.seq, &after) != 1 || message.seq < 1 ||
               message.seq >= COUNT_MAX) {
        return false;
    } else if (natsMsgHeader_Get(msg, "Attnd-Piece", &text) == NATS_OK &&
               (sscanf(text, "%u/%u%c", &message.piece, &message.pieces, &after) != 2 ||
                message.piece < 1 || message.piece > message.pieces ||
                message.pieces > HUB_PIECES_MAX)) {
        return false;
    }
    *ret_message = message;
    return true;
}

/* Fetches one row. Returns whether there was one. */
static bool hub_fetch(struct hub_thread *thread, int64_t wait_ms)
{
    struct hub *hub = thread->hub;
    natsMsgList list = {.Msgs = NULL};
    jsErrCode code = 0;
    natsStatus status = natsSubscription_Fetch(&list, thread->lines.rows, 1, wait_ms, &code);
    if (status != NATS_OK || list.Count < 1) {
        natsMsgList_Destroy(&list);
        if (status != NATS_TIMEOUT) {
            usleep(REFUSED_US);
        }
        return false;
    }
    natsMsg *msg = list.Msgs[0];
    list.Msgs[0] = NULL;
    natsMsgList_Destroy(&list);
    hub->now_ns = clock_monotonic_ns();
    thread->lines.drained_ns = hub->now_ns;
    struct hub_message message;
    if (!hub_read_message(msg, &message)) {
        if (log_is_round(hub->counts[HUB_POISONED]++)) {
            log_event(LOG_WARNING, "fleet_message_unreadable",
                      LOG_STR("subject", natsMsg_GetSubject(msg)));
        }
        natsMsg_Term(msg, NULL);
        natsMsg_Destroy(msg);
        return true;
    }
    enum hub_verdict verdict = hub_take(hub, &message);
    if (verdict == HUB_TAKE) {
        thread->pending[thread->pending_count++] = msg;
        return true;
    }
    if (verdict == HUB_AGAIN) {
        natsMsg_NakWithDelay(msg, LATER_MS, NULL);
    } else {
        /* A start of a node that this hub has never heard of may have left many rows, and is over:
         * they are not offered for ever, as nothing behind them would come. The start that lives is
         * asked for them. */
        jsMsgMetaData *about = NULL;
        bool often =
            natsMsg_GetMetaData(&about, msg) == NATS_OK && about->NumDelivered >= LATER_MOST;
        jsMsgMetaData_Destroy(about);
        if (often) {
            natsMsg_Ack(msg, NULL);
        } else {
            natsMsg_NakWithDelay(msg, LATER_MS, NULL);
        }
    }
    natsMsg_Destroy(msg);
    return true;
}

/* The memory from the file, until it is all there; nothing is taken before that. */
static void hub_reload(struct hub_thread *thread, int code)
{
    struct hub *hub = thread->hub;
    hub->started_ns = hub->now_ns;
    thread->unloaded = hub_load(hub, code) != 0;
    usleep(TROUBLE_US);
}

/* Commits, then acknowledges. */
static void hub_commit(struct hub_thread *thread)
{
    struct hub *hub = thread->hub;
    jsMsgMetaData *about = NULL;
    bool idle = !hub->parts.open && thread->pending_count == 0;
    if (!idle) {
        hub_take_save(hub);
    }
    crash_point("hub_taken");
    int code = parts_commit(&hub->parts);
    if (idle && !code) {
        return;
    }
    hub->changed = true;
    crash_point("hub_committed");
    if (thread->pending_count &&
        natsMsg_GetMetaData(&about, thread->pending[thread->pending_count - 1]) == NATS_OK) {
        hub->waiting = about->NumPending;
        thread->lines.caught_ns = hub->waiting ? thread->lines.caught_ns : hub->now_ns;
        jsMsgMetaData_Destroy(about);
    }
    for (uint32_t i = 0; i < thread->pending_count; i++) {
        if (!code) {
            natsMsg_Ack(thread->pending[i], NULL);
        } else {
            natsMsg_NakWithDelay(thread->pending[i], LATER_MS, NULL);
        }
        natsMsg_Destroy(thread->pending[i]);
    }
    thread->pending_count = 0;
    crash_point("hub_acknowledged");
    if (!code && thread->in_trouble) {
        log_event(LOG_INFO, "fleet_parts_recovered", LOG_STR("hub", hub->name));
    }
    if (code && !thread->in_trouble) {
        log_event(LOG_ERROR, "fleet_parts_trouble", LOG_STR("reason", sqlite3_errstr(code)));
    }
    thread->in_trouble = code;
    if (code) {
        hub_reload(thread, code);
    }
}

/* Rows, until enough are there to commit or nothing more comes; at once when there is a window to
 * merge, soon when the loop has one. */
static void hub_take_rows(struct hub_thread *thread, bool busy)
{
    struct hub *hub = thread->hub;
    int64_t wait_ms = busy ? 1 : hub->away ? 5 : IDLE_MS;
    if (!thread->lines.rows || !link_connected(hub->link)) {
        usleep((useconds_t)wait_ms * 1000);
        return;
    }
    uint64_t began_ns = 0;
    while (thread->pending_count < ROWS_MAX && hub_fetch(thread, wait_ms)) {
        began_ns = began_ns ? began_ns : hub->now_ns;
        if (hub->now_ns - began_ns >= COMMIT_NS) {
            break;
        }
        wait_ms = 1;
    }
}

/* The thread */

/* Notes the id of the history, and the number of this opening of it. */
static void hub_note_history(struct hub *hub)
{
    struct outbox_status history = {.opened = 0};
    outbox_status(hub->store, &history);
    memcpy(hub->history.id, history.node, FLEET_ID_BYTES);
    hub->history.opened = history.newest;
    hub->history_before = history.skipped.first - 1;
}

static void hub_publish_status(struct hub_thread *thread)
{
    struct hub *hub = thread->hub;
    struct mpk_writer writer;
    uint64_t begin_ns = clock_monotonic_ns(), wait_ns = hub->changed ? CHANGED_NS : STATUS_NS;
    uint64_t least_ns = STATUS_PART * thread->status_took_ns;
    if (clock_since_ns(thread->status_ns, begin_ns) < (wait_ns > least_ns ? wait_ns : least_ns)) {
        return;
    }
    hub->changed = false;
    mpk_writer_init(&writer);
    hub_status_encode(hub, &writer);
    if (mpk_writer_ok(&writer)) {
        pthread_mutex_lock(&hub->lock);
        free(hub->status);
        hub->status_size = writer.buffer.size;
        hub->status = msgpack_sbuffer_release(&writer.buffer);
        pthread_mutex_unlock(&hub->lock);
    }
    mpk_writer_clear(&writer);
    thread->status_ns = clock_monotonic_ns();
    thread->status_took_ns = thread->status_ns - begin_ns;
}

static void *hub_main(void *data)
{
    struct hub_thread *thread = data;
    struct hub *hub = thread->hub;
    bool busy = false;
    pthread_setname_np(pthread_self(), "attnd-hub");
    while (!atomic_load(&hub->stopping)) {
        hub->now_ns = clock_monotonic_ns();
        if (thread->unloaded) {
            hub_reload(thread, 0);
            continue;
        }
        hub_lines_tend(&thread->lines, hub);
        hub_lines_take_beats(&thread->lines, hub);
        hub_take_rows(thread, busy);
        hub->now_ns = clock_monotonic_ns();
        if (thread->lines.rows && hub->waiting &&
            clock_since_ns(thread->lines.drained_ns, hub->now_ns) >= HUB_DRAINED_NS) {
            hub->waiting = 0; /* the newest message may have been one that came again */
        }
        /* First the count: a window that was lost before is one that came back by now. */
        uint64_t lost = store_lost(hub->store);
        pthread_mutex_lock(&hub->lock);
        struct note *done = hub->done;
        hub->done = NULL;
        pthread_mutex_unlock(&hub->lock);
        while (done) {
            struct merged *merged = (struct merged *)done;
            done = done->next;
            hub_merge_done(hub, merged);
            merged_free(&merged);
        }
        hub_commit(thread);
        /* The history was begun anew, or could not be written for a while, as on a full disk: once
         * it can, its windows are merged once more, as far as parts are there. */
        if (lost != hub->lost && !store_trouble(hub->store)) {
            hub_note_history(hub);
            parts_begin(&hub->parts);
            parts_run(&hub->parts, PARTS_DROP_MERGED, NULL);
            int code = hub_put_meta(hub);
            hub->lost = code ? hub->lost : lost;
            hub_reload(thread, code);
        }
        if (thread->unloaded) {
            continue;
        }
        busy = hub_merge_step(hub);
        busy = hub_forget(hub) || busy;
        hub_publish_status(thread);
    }
    hub_commit(thread);
    hub_merge_stop(hub);
    hub_drop_lines(thread);
    link_free(&hub->link);
    free(thread);
    return NULL;
}

/* Start and end */

/* The hub's id, made once; windows count as merged only for the history that they are in, unless an
 * older state of it was restored. */
static int hub_read_meta(struct hub *hub, char *reterr)
{
    struct parts *parts = &hub->parts;
    parts_begin(parts);
    /* The clock of hub_now_s goes on. */
    int64_t newest_s = parts_run(&hub->parts, PARTS_NEWEST, NULL);
    hub->clock_s = newest_s > 0 ? newest_s : (int64_t)(clock_wall_ns() / UINT64_C(1000000000));
    sqlite3_stmt *row = parts_bind(parts, PARTS_GET_META, SQL(sql_text("hub")));
    bool known = parts_row(parts, row) && sqlite3_column_bytes(row, 0) == FLEET_ID_BYTES;
    if (known) {
        memcpy(hub->id, sqlite3_column_blob(row, 0), FLEET_ID_BYTES);
    } else if (getrandom(hub->id, sizeof hub->id, 0) != (ssize_t)sizeof hub->id) {
        snprintf(reterr, CONFIG_ERROR_MAX, "cannot start the hub: no random numbers");
        return -1;
    }
    sqlite3_reset(row);
    row = parts_bind(parts, PARTS_GET_META, SQL(sql_text("history")));
    struct hub_history last = hub->history;
    last.opened = hub->history_before;
    bool same = parts_row(parts, row) && sqlite3_column_bytes(row, 0) == (int)sizeof last &&
                memcmp(sqlite3_column_blob(row, 0), &last, sizeof last) == 0;
    sqlite3_reset(row);
    if (!same) {
        parts_run(parts, PARTS_DROP_MERGED, NULL);
    }
    int code = hub_put_meta(hub);
    if (code && !parts_is_damage(code)) {
        snprintf(reterr, CONFIG_ERROR_MAX, "cannot write HISTORY.parts: %s", sqlite3_errstr(code));
        return -1;
    }
    if (hub_load(hub, code) != 0) {
        snprintf(reterr, CONFIG_ERROR_MAX, "cannot start the hub: HISTORY.parts cannot be read");
        return -1;
    }
    return 0;
}

static int hub_start(struct hub *hub, char *reterr)
{
    struct hub_thread *thread = calloc(1, sizeof *thread);
    struct link_owner owner = {hub_on_wake, hub_drop_lines, thread};
    sigset_t all, before;
    if (!thread) {
        snprintf(reterr, CONFIG_ERROR_MAX, "cannot start the hub: %s", err_text(ERR_MEMORY));
        return -1;
    }
    thread->hub = hub;
    sigfillset(&all); /* threads of libnats inherit it */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (link_new(hub->config, &owner, &hub->link, reterr) != 0) {
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        free(thread);
        return -1;
    }
    hub_publish_status(thread);
    int rc = pthread_create(&hub->thread, NULL, hub_main, thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    hub->thread_runs = rc == 0;
    if (rc) {
        link_free(&hub->link);
        free(thread);
        snprintf(reterr, CONFIG_ERROR_MAX, "cannot start the hub: %s", strerror(rc));
    }
    return rc ? -1 : 0;
}

int hub_new(const struct config *config, struct store *store, struct inbox *inbox,
            struct hub **ret_hub, char *reterr)
{
    const char *reason = "", *path = store_path(store, &reason);
    struct hub *hub = calloc(1, sizeof *hub);
    if (!path || !hub) {
        snprintf(reterr, CONFIG_ERROR_MAX, "cannot start the hub: %.500s",
                 hub ? reason : err_text(ERR_MEMORY));
        free(hub);
        return -1;
    }
    hub->config = config;
    hub->store = store;
    hub->inbox = inbox;
    hub->lost = store_lost(store);
    hub->now_ns = hub->started_ns = hub->clock_ns = clock_monotonic_ns();
    pthread_mutex_init(&hub->lock, NULL);
    link_name(config, hub->name, sizeof hub->name);
    hub_note_history(hub);
    hub->history_path = strdup(path);
    if (!hub->history_path || parts_open(&hub->parts, path, reterr) != 0 ||
        hub_read_meta(hub, reterr) != 0 || hub_start(hub, reterr) != 0) {
        hub_free(&hub);
        return -1;
    }
    *ret_hub = hub;
    return 0;
}

void hub_merged(struct hub *hub, struct merged **merged)
{
    pthread_mutex_lock(&hub->lock);
    struct note *note = &(*merged)->note;
    LL_APPEND(hub->done, note);
    pthread_mutex_unlock(&hub->lock);
    *merged = NULL;
}

void hub_encode(struct hub *hub, struct mpk_writer *writer)
{
    pthread_mutex_lock(&hub->lock);
    if (hub->status) {
        mpk_put_raw(writer, hub->status, hub->status_size);
    } else {
        mpk_put_map(writer, 1);
        mpk_pair_str(writer, "role", "hub");
    }
    pthread_mutex_unlock(&hub->lock);
}

void hub_free(struct hub **hub_p)
{
    struct hub *hub = *hub_p;
    if (!hub) {
        return;
    }
    atomic_store(&hub->stopping, true);
    if (hub->thread_runs) {
        pthread_join(hub->thread, NULL);
    }
    while (hub->done) {
        struct merged *merged = (struct merged *)hub->done;
        hub->done = hub->done->next;
        merged_free(&merged);
    }
    hub_runs_free(hub);
    parts_close(&hub->parts);
    pthread_mutex_destroy(&hub->lock);
    free(hub->status);
    free(hub->history_path);
    free(hub);
    *hub_p = NULL;
}

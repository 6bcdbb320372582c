/* SPDX-License-Identifier: MIT */
/* The ways into the store from other threads: batches that its thread is to write, reading while it
 * does not, and word of damage that a reader met. */
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/store/store_internal.h"

const struct sql *store_begin_read(struct store *store)
{
    pthread_mutex_lock(&store->db_lock);
    return store->db.sql.db ? &store->db.sql : NULL;
}

void store_end_read(struct store *store)
{
    pthread_mutex_unlock(&store->db_lock);
}

/* Lock held. Checkpoints give way to what cannot be had again, and to promises alone. A batch that
 * alone is too large for the queue, of a run with very many layers, has to be alone. */
static bool submit_has_room(const struct store *store, const struct store_batch *batch)
{
    if (batch->held && (batch->precious || !batch->first)) {
        return true;
    }
    uint64_t limit = batch->precious ? store->queue_bytes : store->queue_bytes / 2;
    return store->held_bytes == 0 || store->held_bytes + batch->bytes <= limit;
}

bool store_submit(struct store *store, struct store_batch **batch_p)
{
    struct store_batch *batch = *batch_p;
    *batch_p = NULL;
    bool on = !store_is_off(store);
    pthread_mutex_lock(&store->lock);
    bool taken = on && submit_has_room(store, batch);
    if (taken) {
        /* Lock held. The thread waits for nothing, for its time or for enough to write: it is woken
         * when that changes. */
        bool was_empty = !store->queue.first, was_enough = store_is_enough(store);
        batch->next = NULL;
        batch->queued_ns = clock_monotonic_ns();
        *store->queue.last = batch;
        store->queue.last = &batch->next;
        store->queued_bytes += batch->bytes;
        store->held_bytes += batch->bytes;
        store->promised_bytes += batch->promises.bytes;
        store->changes += batch->is_change;
        if (was_empty || (!was_enough && store_is_enough(store))) {
            pthread_cond_signal(&store->wake);
        }
    }
    pthread_mutex_unlock(&store->lock);
    if (taken) {
        return true;
    }
    stats_add(store->stats, COUNT_STORE_DROPPED, batch->records);
    if (on && log_is_round(store->refused++)) {
        log_event(LOG_WARNING, "history_queue_full", LOG_NUM("refused", store->refused));
    }
    if (batch->promises.first) {
        *batch_p = batch;
    } else {
        batch_free(&batch);
    }
    return false;
}

void store_count_lost(struct store *store, const struct store_batch *batch)
{
    stats_add(store->stats, COUNT_STORE_DROPPED, batch ? batch->records : 1);
}

bool store_has_room(struct store *store, size_t bytes)
{
    struct store_batch checkpoint = {.bytes = bytes};
    bool on = !store_is_off(store);
    pthread_mutex_lock(&store->lock);
    bool room = on && submit_has_room(store, &checkpoint);
    pthread_mutex_unlock(&store->lock);
    return room;
}

bool store_is_busy(struct store *store)
{
    pthread_mutex_lock(&store->lock);
    bool busy = store->writing || store_is_enough(store);
    pthread_mutex_unlock(&store->lock);
    return busy;
}

uint64_t store_saving_ns(const struct store *store)
{
    return atomic_load(&store->saving_ns);
}

uint64_t store_waiting(struct store *store)
{
    pthread_mutex_lock(&store->lock);
    uint64_t bytes = store->held_bytes;
    pthread_mutex_unlock(&store->lock);
    return bytes;
}

void store_set_settle(struct store *store, void (*settle)(void *data, struct promises *promises),
                      void *data)
{
    store->settle = settle;
    store->settle_data = data;
}

void store_set_wait(struct store *store, void (*wait)(void *data, const char *why), void *data)
{
    store->wait = wait;
    store->wait_data = data;
}

bool store_is_full(struct store *store)
{
    return !store_is_off(store) && store_waiting(store) >= store->queue_bytes;
}

/* Trouble */

void store_ask(void *data)
{
    struct store *store = data;
    pthread_mutex_lock(&store->lock);
    pthread_cond_signal(&store->wake);
    pthread_mutex_unlock(&store->lock);
}

void store_note_damage(struct store *store)
{
    int none = DAMAGE_NONE;
    if (atomic_compare_exchange_strong(&store->damage, &none, DAMAGE_MET)) {
        log_event(LOG_ERROR, "history_damaged", LOG_STR("path", store->db.path),
                  LOG_STR("reason", "a part of it cannot be read"));
        store_ask(store);
    }
}

const char *store_damage(const struct store *store)
{
    switch (atomic_load(&store->damage)) {
    case DAMAGE_MET:
        return "the history is damaged: attnd copies what can be read into a new file; until then "
               "questions that meet the damage fail, and what is new waits";
    case DAMAGE_STAYS:
        return "the history is damaged: questions that meet the damage fail, others are answered, "
               "and new windows are kept; attnd's log says why it was not repaired: start attnd "
               "again, or put a copy back";
    default:
        return NULL;
    }
}

/* SPDX-License-Identifier: MIT */
/* Changes of runs by people. Each is a batch without records, behind all batches that were
 * submitted before it, so that none of them brings a deleted run back. The waiting thread owns the
 * change; when it gives up, it takes the change out of the queue. */
#include "daemon/store/store_internal.h"

#include "proto/err.h"

int change_write(const struct sql *sql, struct store_change *change)
{
    int64_t run_id = 0, unsent = 0;
    const struct sql_value run = sql_blob(change->run, RUN_BYTES);
    int code = sql_number(sql, STATEMENT_GET_RUN, SQL(sql_text(change->job), run), &run_id);
    change->code = code == SQLITE_DONE ? ERR_RUN_UNKNOWN : 0;
    if (code != SQLITE_OK) {
        return code == SQLITE_DONE ? SQLITE_OK : code;
    }
    if (!change->drop) {
        return sql_run(sql, STATEMENT_SET_CARD,
                       SQL(sql_if(change->name, sql_text(change->name)),
                           sql_if(change->notes, sql_text(change->notes)),
                           sql_if(change->tags, sql_text(change->tags)),
                           sql_if(change->star, sql_i64(change->star && *change->star)),
                           sql_if(change->archived, sql_i64(change->archived && *change->archived)),
                           sql_i64(run_id)));
    }
    code = sql_number(sql, STATEMENT_COUNT_UNSENT_OF, SQL(run), &unsent);
    if (code == SQLITE_OK && unsent > 0) {
        change->code = ERR_UNSENT;
        return SQLITE_OK;
    }
    return code ? code : sql_run(sql, STATEMENT_HIDE_RUN, SQL(sql_i64(run_id)));
}

void change_finish(struct store *store, const struct store_batch *batches, int code)
{
    for (const struct store_batch *batch = batches; batch; batch = batch->next) {
        struct store_change *change = batch->change;
        if (change) {
            change->code = code ? ERR_AGAIN : change->code;
            change->done = true;
            pthread_cond_broadcast(&store->changed);
        }
    }
}

/* Queue locked. Returns whether it was there: then it is nobody's. */
static bool change_take_back(struct store *store, const struct store_change *change)
{
    for (struct store_batch *batch = store->queue.first; batch; batch = batch->next) {
        if (batch->change == change) {
            batch->change = NULL;
            return true;
        }
    }
    return false;
}

int store_change(struct store *store, struct store_change *change, uint64_t deadline_ns)
{
    const struct store_run run = {.job = change->job, .run = change->run};
    const struct timespec until = {.tv_sec = (time_t)(deadline_ns / 1000000000),
                                   .tv_nsec = (long)(deadline_ns % 1000000000)};
    struct store_batch *batch = batch_new(&run);
    int rc = 0;
    if (!batch) {
        return ERR_MEMORY;
    }
    batch->is_change = batch->precious = true;
    batch->drops = change->drop;
    batch->change = change;
    change->done = false;
    if (!store_submit(store, &batch)) {
        return store_is_off(store) ? ERR_HISTORY_OFF : ERR_AGAIN;
    }
    pthread_mutex_lock(&store->lock);
    while (!change->done) {
        if (rc != 0 && change_take_back(store, change)) {
            change->code = ERR_AGAIN;
            change->done = true;
        } else if (rc != 0) { /* it is being written */
            pthread_cond_wait(&store->changed, &store->lock);
        } else {
            rc = pthread_cond_timedwait(&store->changed, &store->lock, &until);
        }
    }
    pthread_mutex_unlock(&store->lock);
    return change->code;
}

/* SPDX-License-Identifier: MIT */
/* store_write: one batch as rows. Store thread, inside a transaction. */
#ifndef DAEMON_STORE_WRITE_H
#define DAEMON_STORE_WRITE_H

#include "daemon/store/batch.h"
#include "daemon/store/chunk.h"
#include "daemon/store/sql.h"

struct store_writer {
    const struct sql *sql;
    int64_t now_s; /* since 1970 */
    /* Called for a layer and track that has enough windows for a chunk. */
    void (*full)(void *data, struct layer_track which);
    void *data;
};

/* Returns an SQLite code. */
int write_batch(const struct store_writer *writer, const struct store_batch *batch);

#endif

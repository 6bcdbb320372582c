/* SPDX-License-Identifier: MIT */
/* store_chunk: the states of a layer's windows become series, so that a question about one head
 * reads that head's numbers only; and states are thinned out. Store thread. */
#ifndef DAEMON_STORE_CHUNK_H
#define DAEMON_STORE_CHUNK_H

#include "daemon/store/series.h"
#include "daemon/store/sql.h"

/* One layer's windows of one track. */
struct store_place {
    int64_t layer_id, track_id;
};

/* Windows per chunk of a layer with `heads` heads: SERIES_WINDOWS_MAX, fewer for a wide layer,
 * whose numbers of all these windows would take too much memory. */
uint32_t chunk_windows(uint32_t heads);

/* The window of a row whose columns are its id, first, last, epoch, step, time_ns, messages, lost,
 * partial. */
struct series_window chunk_read_window(sqlite3_stmt *row);

struct chunk_made {
    uint32_t windows;    /* 0 = there were not enough */
    uint32_t unreadable; /* whose states could not be read: they have no numbers */
    bool more;           /* there are enough for another */
};

/* Makes one chunk of the oldest windows, in one transaction, if there are enough. Returns an SQLite
 * code; then everything is as it was. */
int chunk_make(const struct sql *sql, struct store_place which, struct chunk_made *ret_made);

/* Removes the states of the oldest chunk beyond the `keep` newest windows of the layer and track,
 * rounded up to whole chunks. *ret_thinned: whether there was one. Returns an SQLite code. */
int chunk_thin(const struct sql *sql, struct store_place which, uint64_t keep, bool *ret_thinned);
/* Removes the states of the oldest chunk of all that has any. */
int chunk_thin_oldest(const struct sql *sql, bool *ret_thinned);

#endif

/* SPDX-License-Identifier: MIT */
/* history_windows: the windows of one layer and track in a range, whether their numbers are in a
 * chunk or still in a state. Reader thread. */
#ifndef DAEMON_HISTORY_WINDOWS_H
#define DAEMON_HISTORY_WINDOWS_H

#include "daemon/history/find.h"
#include "daemon/state/layer_state.h"
#include "daemon/store/series.h"

struct window_row {
    struct series_window window;
    uint64_t chunk_id;  /* 0: in a state */
    uint64_t window_id; /* of the state; 0: in a chunk */
    uint32_t index;     /* in the chunk */
    uint32_t chunk_count;
};

/* Ascending by last unit. */
struct window_rows {
    struct window_row *row;
    uint32_t count, room;
    bool more; /* the range has others */
};

/* The windows that end in params.from..to, at most `limit`: the oldest when `from` was given, else
 * the newest. Returns 0 or an error; what is in *ret_rows is to be freed only after success. */
int windows_read(struct query *query, const struct found_layer *layer,
                 const struct found_track *track, uint32_t limit, struct window_rows *ret_rows);
void windows_free(struct window_rows *rows);

/* The layers of a run that have windows, of those that the parameters leave; at most 4096. Returns
 * 0 or an error; *ret_layers is to be freed with free() in any case. */
int layers_read(struct query *query, const struct found_run *run, struct found_layer **ret_layers,
                uint32_t *ret_count);

/* The state of a window, by two columns of `states`: bytes, data. `number`: the only one that will
 * be read of it; NULL: all. Returns 0 or an error. */
int state_read(sqlite3_stmt *statement, int bytes_column, const int *number,
               struct layer_state **ret_state);

/* The numbers (number.h) of the newest windows; NUMBER_COUNT entries. */
int windows_numbers(struct query *query, const struct found_layer *layer,
                    const struct found_track *track, bool *ret_has);

#endif

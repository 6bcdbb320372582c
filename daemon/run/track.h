/* SPDX-License-Identifier: MIT */
/* track: one window rule of a run (config_window), and the states of its layers per part. Loop
 * thread only. */
#ifndef DAEMON_RUN_TRACK_H
#define DAEMON_RUN_TRACK_H

#include "daemon/state/layer_state.h"
#include "daemon/state/state_table.h"
#include "daemon/run/stream.h"
#include "daemon/run/window.h"

#define TRACKS_MAX CONFIG_WINDOW_RULES_MAX
/* "second-1000000-1000000" */
#define TRACK_NAME_MAX 32

struct track {
    uint32_t index;            /* 0: the primary */
    char name[TRACK_NAME_MAX]; /* tells rules apart: "step-100-10" */
    struct window window;
    struct state_budget *budget;
    uint32_t buckets;     /* of a histogram, at most */
    bool joins_late;      /* the run was restored without it, or with less of a layer than others
                             have: its next window is not whole */
    uint64_t next_before; /* parts below were closed before the one that closes */
    uint64_t losses;      /* of the store, when a part was closed last (forward.h) */
    bool knows_losses;
    uint64_t unseen_before; /* rows of parts below may be among them */
};

/* The rule `index` of a run. `budget` outlives the track. */
void track_init(struct track *track, const struct config *config, uint32_t index,
                struct config_window window, struct state_budget *budget, uint64_t now_ns);
/* Another rule, before a part has been opened. */
void track_cut(struct track *track, const struct config *config, struct config_window window);
/* Frees the states of all parts. */
void track_free_parts(struct track *track);
void track_fini(struct track *track);

/* The state of a layer in a part, made on first use. Returns 0, ERR_STATE_LIMIT or ERR_MEMORY. */
int track_state(struct track *track, struct window_part *part, const struct stream *stream,
                struct layer_state **ret_state);
/* The state of a layer in a part; NULL when it has no messages there. */
const struct layer_state *track_part_state(const struct window_part *part,
                                           const struct stream *stream);
/* A part that window_forget gave. */
void track_free_part(struct window_part *part);

/* The state of a layer over the parts of the window that ends with `last`: borrowed from the one
 * part that has it all, else merged into *ret_merged, which the caller frees. *ret_state is NULL
 * when the layer has no messages there. Returns 0 or ERR_MEMORY. */
int track_merge(const struct track *track, const struct window_part *last,
                const struct stream *stream, const struct layer_state **ret_state,
                struct layer_state **ret_merged);

#endif

/* SPDX-License-Identifier: MIT */
/* capture: all messages of one captured step of a run, over layers and ranks: of each head the mean
 * of every metric. The newest captures of a run are kept in a ring; the oldest of them that was not
 * judged is due when nothing that belongs to it is to be expected any more.
 *
 *                  captures_due             captures_judged
 *      (none) -> OPEN ---------> the caller ---------> JUDGED -> (evicted)
 *               ^ captures_take    judges it             ^ captures_take: corrects the means alone
 *
 * Captures go by (epoch, step), ascending. A message for one that was judged corrects its numbers
 * while it is in the ring, and changes nothing later.
 *
 * Time comes in with messages (header.time_ns), so a recording gives the same captures. Loop
 * thread. */
#ifndef DAEMON_STATE_CAPTURE_H
#define DAEMON_STATE_CAPTURE_H

#include "daemon/state/capture_layer.h"
#include "daemon/state/state_table.h"
#include "proto/mpk.h"

/* The ring takes this much: 12 captures of 80 x 64 heads and 30 metrics. */
#define CAPTURE_RING_BYTES (UINT64_C(8) << 20)
/* Beyond it the oldest is judged as it is: its ranks are further apart than a reliable lane lets
 * them be. */
#define CAPTURES_OPEN_MAX 64

struct capture_key {
    uint64_t epoch, step;
};

/* The messages that a rank has sent of a capture, and of how many layers. */
struct capture_sent {
    uint32_t messages, layers;
};

struct capture {
    struct capture_key key;
    uint64_t time_ns; /* of its newest message */
    enum { CAPTURE_OPEN, CAPTURE_JUDGED } phase;
    bool cut; /* it was due without a rank or layer of the capture before, or lacks a message */
    struct capture_sent *sent; /* [rank_count], by the run's index; owned */
    uint32_t rank_count;
    struct capture_layer **layer; /* [layer_count], by the stream's index; NULL: never; owned */
    uint32_t layer_count;
};

struct capture_rank {
    bool known, seen, bye; /* seen: `newest` is meaningful */
    struct capture_key newest;
    uint64_t first_ns, newest_ns;  /* of its own clock: since the oldest open one is that */
    uint32_t announced;            /* layers, by its hello; 0: it did not say */
    struct capture_sent in_judged; /* what it sent of the newest one that was judged */
};

/* Fields are read-only outside of capture.c and capture_pack.c. */
struct captures {
    struct capture **of; /* ascending, open ones behind judged ones; owned */
    uint32_t count, open, room;
    struct state_budget *budget; /* NULL: none */
    uint64_t bytes, limit;       /* bytes: charged to it */
    uint64_t timeout_ns;
    bool any; /* was judged; the newest one: */
    struct capture_key judged;
    bool timed; /* ranks' first_ns are of this one: */
    struct capture_key timed_for;
    struct capture_rank *ranks; /* owned */
    uint32_t rank_count, known, world;
    uint64_t late; /* messages of captures that were judged */
    bool wants[METRIC_MATRIX_FIRST];
};

/* The budget outlives it; NULL: none. NULL when out of memory. */
struct captures *captures_new(uint64_t timeout_ns, struct state_budget *budget);
void captures_free(struct captures **captures);
/* Keeps the smallest and the largest value of this metric as well. Before the first message. */
void captures_want_extremes(struct captures *captures, enum metric metric);

/* Something of a rank was taken: before captures_take of the same message. `moves`: it is a tensor
 * that has not overtaken others of its rank, so the rank is done with earlier captures. Returns 0
 * or ERR_MEMORY. */
int captures_hear(struct captures *captures, uint32_t rank_index, const struct header *header,
                  bool moves);
/* Whether the rank has said bye, which it may take back. */
void captures_bye(struct captures *captures, uint32_t rank_index, bool bye);
/* The rank's hello lists so many layers: 0 is none. */
void captures_announce(struct captures *captures, uint32_t rank_index, uint32_t layers);
/* The numbers of a message with rows. Returns 0, ERR_STATE_LIMIT or ERR_MEMORY: its capture lacks
 * the message. Judged captures make room in the budget. */
int captures_take(struct captures *captures, uint32_t rank_index, uint32_t stream_index,
                  const struct message *message, const struct measured *measured);

/* The oldest open one, if it is due; NULL: none is. */
struct capture *captures_due(struct captures *captures);
/* The oldest open one, due or not; NULL: none is open. */
struct capture *captures_oldest_open(struct captures *captures);
/* The oldest open one was judged. Older ones may be evicted. */
void captures_judged(struct captures *captures, struct capture *capture);

/* Frees all captures of the ring: no messages are to come. */
void captures_forget(struct captures *captures);

/* The layer, if it is in the capture; else NULL. */
const struct capture_layer *capture_find_layer(const struct capture *capture,
                                               uint32_t stream_index);

/* For checkpoints (capture_pack.c): what is judged, with the ranks; and the open captures of a
 * layer, which is saved with it. Unpacking believes nothing, and takes
 * captures_unpack first: what was judged meanwhile is left out. Ranks come back where the newest
 * judged one was, because what they sent later may come again. Return 0, ERR_MEMORY or
 * ERR_STORE_FORMAT. */
int captures_pack(const struct captures *captures, struct mpk_writer *writer);
int captures_unpack(struct captures *captures, const void *data, size_t size);
int captures_pack_layer(const struct captures *captures, uint32_t stream_index,
                        struct mpk_writer *writer);
int captures_unpack_layer(struct captures *captures, struct layer_id id, uint32_t stream_index,
                          const void *data, size_t size);

#endif

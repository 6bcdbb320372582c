/* SPDX-License-Identifier: MIT */
/* maps: the newest maps of the heads of each layer, for people to look at. Kept in memory only,
 * maps.memory of them at most: the stalest layer makes room. Loop thread; maps themselves are made
 * by workers. */
#ifndef DAEMON_MAPS_H
#define DAEMON_MAPS_H

#include "head_maps.h"
#include "message.h"

struct map_shelf;

/* Of one layer. */
struct layer_maps {
    struct head_maps *maps; /* owned */
    enum message_type type; /* of the message */
    uint64_t epoch, step, time_ns;
    uint32_t q_offset;
    bool causal;
    double *importance; /* [heads]; owned, NULL = not measured */
    char *labels;       /* texts of the keys, each with its NUL; owned, NULL = none were sent */
    uint32_t label_count;
    uint64_t bytes;
    struct map_shelf *shelf;
    struct layer_maps **place; /* the pointer to this */
    struct layer_maps *newer, *staler;
};

/* All layer_maps of attnd, by age. */
struct map_shelf {
    struct layer_maps *newest, *stalest;
    uint64_t bytes, limit;
};

/* Copies the label texts of a message, NULL when it has none or there is no memory. On a worker. */
char *labels_copy(struct message *message, uint32_t *ret_count);

/* Puts the maps of a measured message, which it takes over (it may have none: nothing happens),
 * where `place` points, instead of those that are there. Without memory, or room, there are none.
 */
void maps_put(struct map_shelf *shelf, struct layer_maps **place, struct message *message);
/* Accepts what is empty. */
void maps_remove(struct layer_maps **place);

#endif

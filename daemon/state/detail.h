/* SPDX-License-Identifier: MIT */
/* detail: the part of a window that is kept of a layer's newest message only: lists and matrices
 * that are not pooled (top pairs, similarity of heads, the weights tier, the map to look at).
 *
 * Immutable and shared by counting references: parts of a rolling window merge without copying.
 * Loop thread only. */
#ifndef DAEMON_STATE_DETAIL_H
#define DAEMON_STATE_DETAIL_H

#include "workers/measure.h"
#include "daemon/ingest/message.h"
#include "proto/mpk.h"
#include "proto/result.h"

struct detail {
    uint32_t references;
    uint64_t bytes; /* of everything */
    struct result_pairs pairs;
    struct result_similarity similarity;
    struct weights_result *weights; /* owned; NULL but for tier weights */
    /* For detail_map_new alone, which has nothing else: the map, and the message it is of. */
    struct layer_map map;
    struct small_maps *small; /* of its heads; owned, NULL = none */
    uint64_t epoch, step, time_ns;
};

/* Copies what a measured message has; NULL when out of memory. One reference. */
struct detail *detail_new(const struct measured *measured);
/* Copies a map, and those of the message's heads; NULL when out of memory. One reference. Maps are
 * not packed: they have a place of their own in the history, and the next message brings another.
 */
struct detail *detail_map_new(const struct layer_map *map, const struct message *message);
/* Accepts NULL. */
struct detail *detail_reference(struct detail *detail);
void detail_release(struct detail **detail);

/* One map, or nil for NULL; `heads` are the layer's. */
void detail_pack(const struct detail *detail, uint32_t heads, struct mpk_writer *writer);
/* Returns 0 (with NULL for nil), ERR_MEMORY, or ERR_STORE_FORMAT for what is no such map of a layer
 * with `heads` heads. */
int detail_unpack(const msgpack_object *map, uint32_t heads, struct detail **ret_detail);

#endif

/* SPDX-License-Identifier: MIT */
/* capture_internal: how captures come to be, by messages and from checkpoints. Private to capture.
 */
#ifndef DAEMON_STATE_CAPTURE_INTERNAL_H
#define DAEMON_STATE_CAPTURE_INTERNAL_H

#include "daemon/state/capture.h"

/* Whether it was judged, or a later one. */
bool captures_is_past(const struct captures *captures, const struct capture_key *key);
/* The capture, made where there is none. NULL: it is past and no longer there, or there is no
 * memory. */
struct capture *captures_get(struct captures *captures, const struct capture_key *key);
/* The layer in it, with room for these metrics. NULL when out of memory. */
struct capture_layer *captures_layer(struct captures *captures, struct capture *capture,
                                     struct layer_id id, uint32_t stream_index, uint32_t heads,
                                     const bool on[METRIC_MATRIX_FIRST]);
/* From now on each head has counts of its own. Returns 0 or ERR_MEMORY. */
int captures_split(struct captures *captures, struct capture_layer *layer);
/* The rank has sent so many more messages of the layer. Returns 0 or ERR_MEMORY. */
int captures_count(struct captures *captures, struct capture *capture, struct capture_layer *layer,
                   uint32_t rank, uint32_t messages);
/* Made where it is not known. NULL when out of memory. */
struct capture_rank *captures_rank(struct captures *captures, uint32_t rank_index);

#endif

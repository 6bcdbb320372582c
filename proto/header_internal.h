/* SPDX-License-Identifier: MIT */
/* header_internal: the tensors that a header announces, whether they fit together, and what it says
 * about the other lane.
 * Private to proto/. Pure; any thread. */
#ifndef PROTO_HEADER_INTERNAL_H
#define PROTO_HEADER_INTERNAL_H

#include "proto/header.h"

/* Reads the list under `tensors` of a message of header->type, and from the shapes B, H, Tq, Tk and
 * the like. Returns 0 or an error of err.def. */
int header_read_tensors(const msgpack_object *value, struct header *header);

/* Reads the map under `parts`, after the list: the matrices whose blocks the tensors are. Returns 0
 * or an error of err.def. */
int header_read_parts(const msgpack_object *value, struct header *header);

/* Reads the list under `sums` of a message of type rows: which sum each column is. Returns 0 or an
 * error of err.def, here and below. */
int header_read_sums(const msgpack_object *value, struct header *header);
/* Reads `queries` and `keys`: of the call that rows are of. */
int header_read_queries(const msgpack_object *value, struct header *header);
int header_read_keys(const msgpack_object *value, struct header *header);
/* Reads `weights`: the dtype of the weights that the sums are of. */
int header_read_of_weights(const msgpack_object *value, struct header *header);
/* Says of the maps of rows, if there are any, what the other keys say already. */
void header_set_maps_of_rows(struct header *header);
/* Checks places and maps against the rows. Returns 0 or an error, with the key at fault. */
int header_check_rows(const struct header *header, const char **reterr_key);

/* Reads `stored` and `frozen` of type sketch: what each matrix that is there is kept as, and which
 * of them need no gradient. */
int header_read_stored(const msgpack_object *value, struct header *header);
int header_read_frozen(const msgpack_object *value, struct header *header);
/* Says how many heads a sketch without wq and wo is of: all, as its tensors cannot tell a slice. */
void header_set_heads_of_sketch(struct header *header);
/* Checks the rows against 64 places, `held` and the slice. Returns 0 or an error, with the key. */
int header_check_sketch(const struct header *header, const char **reterr_key);

/* Checks that need all keys: heads against key heads, matrices against heads * head_dim, documents
 * against positions. Returns 0 or an error, with the key at fault. */
int header_check_tensors(const struct header *header, const char **reterr_key);

/* Appends the three keys that name a layer. */
void header_put_layer(struct mpk_writer *writer, struct layer_id id);

/* NULL when the message has none of that role. */
const struct tensor *header_find_tensor(const struct header *header, enum tensor_role role);

#endif

/* SPDX-License-Identifier: MIT */
/* series: packed answers of `history` and `map` as arrays. */
#ifndef CLIENTS_C_SRC_SERIES_H
#define CLIENTS_C_SRC_SERIES_H

#include "clients/c/include/attn/attn.h"
#include "proto/mpk.h"

/* Return 0, ATTN_E_MESSAGE for what is no such answer, or ATTN_E_MEMORY. */
int series_new(const msgpack_object *answer, attn_series **ret_series);
int map_read(const msgpack_object *answer, attn_mean_map *ret_map);

#endif

/* SPDX-License-Identifier: MIT */
/* read_internal: shared by the parts of read. */
#ifndef CLIENTS_CLI_TOP_READ_INTERNAL_H
#define CLIENTS_CLI_TOP_READ_INTERNAL_H

#include "clients/cli/top/read.h"

/* The maps of an answer that is a list; 0 for anything else. */
uint32_t read_list(const msgpack_object *result, const msgpack_object **ret_maps);

/* Where a result belongs to. */
struct read_place {
    char stack[16], site[16];
    uint32_t layer;
};
/* False: it names no layer. */
bool read_place(const msgpack_object *map, struct read_place *ret_place);

/* Whether a result is of the run that is looked at. */
bool read_is_run(const struct model *model, const msgpack_object *map);

/* A head's number of what field_metric gave: of a number of the layer every head has the same. */
double read_column(const msgpack_object *values, uint32_t head);

/* Windows of a packed answer, at most MODEL_PAST_MAX. */
void read_windows(const msgpack_object *result, struct past *ret_past);
/* One number of packed values [heads][windows]; NaN when they are shorter. */
double read_packed(const msgpack_object *values, uint32_t windows, uint32_t head, uint32_t window);

#endif

/* SPDX-License-Identifier: MIT */
/* own_window: the windows that a job asks for in its `hello`: they follow one another. Pure; any
 * thread. */
#ifndef PROTO_OWN_WINDOW_H
#define PROTO_OWN_WINDOW_H

#include "proto/mpk.h"

#include <stdint.h>

enum window_unit { WINDOW_EPOCH, WINDOW_STEP, WINDOW_SECOND, WINDOW_UNIT_COUNT };

/* "epoch", "step", "second". */
const char *window_unit_name(enum window_unit unit);

/* Units in one of them, at most. */
#define OWN_WINDOW_MAX 1000000

struct own_window {
    enum window_unit unit;
    uint64_t length; /* 0 = none were asked for */
};

/* Reads {unit, length}; nothing is written on failure. Returns 0, ERR_KEY_TYPE, ERR_KEY_MISSING,
 * ERR_KEY_RANGE or ERR_KEY_DUPLICATE. */
int own_window_read(const msgpack_object *value, struct own_window *ret_window);
/* Appends the same map. */
void own_window_put(const struct own_window *window, struct mpk_writer *writer);

#endif

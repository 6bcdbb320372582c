/* SPDX-License-Identifier: MIT */
/* named: the small maps of an event, from names to plain values: what `log` reports, and the
 * settings of a `hello`. Pure; any thread. */
#ifndef PROTO_NAMED_H
#define PROTO_NAMED_H

#include "proto/mpk.h"

#define NAMED_NAME_MAX     64  /* bytes of a name */
#define NAMED_TEXT_MAX     256 /* bytes of a text */
#define LOG_VALUES_MAX     32
#define HELLO_SETTINGS_MAX 64

enum named_kind { NAMED_NUMBER, NAMED_NONE, NAMED_FLAG, NAMED_TEXT };

struct named_value {
    const char *name;
    enum named_kind kind;
    double number; /* finite; NAMED_NONE is a number that was not */
    bool flag;
    const char *text;
};

struct named_values {
    struct named_value *list; /* owned, as are the texts; NULL: none */
    uint32_t count;
    char *texts;
};

/* Reads at most LOG_VALUES_MAX numbers, at least one; nil is one that is not finite. On failure
 * *ret_values may hold something: named_clear. Returns 0, ERR_MEMORY, ERR_KEY_TYPE, ERR_KEY_RANGE
 * or ERR_KEY_DUPLICATE. */
int named_read_values(const msgpack_object *map, struct named_values *ret_values);
/* Reads at most HELLO_SETTINGS_MAX texts, numbers and booleans; the same errors. */
int named_read_settings(const msgpack_object *map, struct named_values *ret_values);
void named_clear(struct named_values *values);

/* Appends one map. Whole numbers are written as integers. */
void named_put(const struct named_values *values, struct mpk_writer *writer);

/* Whether `name` is 1..64 bytes of UTF-8 without control characters. */
bool named_name_valid(const char *name, size_t len);

#endif

/* SPDX-License-Identifier: MIT */
/* value: one typed setting, from text and back to text.
 *
 * The only place that knows how a size, a duration, a choice or an endpoint is written. Text
 * printed by value_print is accepted by value_parse and gives the same value. Pure; any thread. */
#ifndef CONFIG_VALUE_H
#define CONFIG_VALUE_H

#include <stdbool.h>
#include <stdint.h>

/* The type column of keys.def; the C types are CONFIG_TYPE_* of config.h. */
enum value_type {
    VALUE_ENDPOINT,
    VALUE_BYTES,
    VALUE_COUNT,
    VALUE_DURATION,
    VALUE_REAL,
    VALUE_NUMBERS,
    VALUE_TEXT,
    VALUE_WINDOWS,
    VALUE_LAYERS,
    VALUE_HEADS,
    VALUE_SERVERS,
    VALUE_DOMAINS,
    VALUE_BOOL,
    VALUE_UNIT,
    VALUE_LEVEL,
    VALUE_FORMAT,
    VALUE_EFFORT,
    VALUE_TIER,
    VALUE_ISA,
    VALUE_ROLE,
};

/* The type and bounds of a value; the bounds are inclusive and count only for BYTES, COUNT,
 * DURATION and REAL. */
struct value_rule {
    enum value_type type;
    uint64_t minimum, maximum;
};

#define VALUE_TEXT_MAX   8192 /* room for any printed value: the longest list */
#define VALUE_VALID_MAX  256  /* room for any value_valid */
#define VALUE_REASON_MAX 512  /* room for any reason */

/* Parses `text` into *ret_value, which has the type's C type. Returns 0, or -1 with a reason such
 * as "out of range (valid: 1MiB to 1TiB)"; *ret_value is then untouched. */
int value_parse(const struct value_rule *rule, const char *text, void *ret_value,
                char reterr_reason[VALUE_REASON_MAX]);

/* The value as text, in the largest unit that states it exactly. */
void value_print(const struct value_rule *rule, const void *value, char ret_text[VALUE_TEXT_MAX]);

/* The accepted values, for people: "1MiB to 1TiB", "epoch, step, second". */
void value_valid(const struct value_rule *rule, char ret_text[VALUE_VALID_MAX]);

/* One finite number in decimal, of either sign; false when the text is anything else. */
bool value_decimal(const char *text, double *ret_number);
/* The shortest text that reads back as the same number (10, not 1e+01); returns its length. */
#define VALUE_DECIMAL_MAX 32
int value_decimal_print(double number, char ret_text[VALUE_DECIMAL_MAX]);

/* The type's name, for people: "size", "duration", "choice". */
const char *value_type_name(enum value_type type);

#endif

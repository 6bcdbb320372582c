/* SPDX-License-Identifier: MIT */
/* mpk_text: MessagePack written as JSON, with ' for its quotes. */
#ifndef TESTS_UNIT_MPK_TEXT_H
#define TESTS_UNIT_MPK_TEXT_H

#include "tests/unit/unit.h"

#include "proto/mpk.h"

#include <jansson.h>

static inline void mpk_text_put(struct mpk_writer *writer, json_t *value)
{
    const char *key;
    json_t *item;
    size_t i;

    switch (json_typeof(value)) {
    case JSON_OBJECT:
        mpk_put_map(writer, (uint32_t)json_object_size(value));
        json_object_foreach(value, key, item)
        {
            mpk_put_str(writer, key);
            mpk_text_put(writer, item);
        }
        break;
    case JSON_ARRAY:
        mpk_put_array(writer, (uint32_t)json_array_size(value));
        json_array_foreach(value, i, item)
        {
            mpk_text_put(writer, item);
        }
        break;
    case JSON_STRING:
        mpk_put_str(writer, json_string_value(value));
        break;
    case JSON_INTEGER:
        mpk_put_u64(writer, (uint64_t)json_integer_value(value));
        break;
    case JSON_REAL:
        mpk_put_f64(writer, json_real_value(value));
        break;
    case JSON_NULL:
        mpk_put_nil(writer);
        break;
    default:
        mpk_put_bool(writer, json_is_true(value));
    }
}

/* One value; integers are not negative, and an apostrophe is \u0027. */
__attribute__((format(printf, 2, 3))) static inline void mpk_text(struct mpk_writer *writer,
                                                                  const char *format, ...)
{
    char text[8192];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    for (char *quote = text; (quote = strchr(quote, '\'')) != NULL;) {
        *quote = '"';
    }
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    if (!value) {
        fprintf(stderr, "no JSON: %s\n", text);
        abort();
    }
    mpk_text_put(writer, value);
    json_decref(value);
}

#endif

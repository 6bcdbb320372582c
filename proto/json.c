/* SPDX-License-Identifier: MIT */
/* MessagePack to JSON by way of jansson. A document must never fail as a whole because of one odd
 * value, so everything JSON cannot say has a stand-in (see mpk.h); only memory can run out. The
 * recursion is as deep as the document, and mpk_check bounds that. */
#include "proto/mpk.h"
#include "proto/utf8.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum mpk_bins { MPK_BINS_HEX, MPK_BINS_BASE64 };

static json_t *text_to_json(const char *text, size_t len)
{
    json_t *json = len > 0 && !memchr(text, '\0', len) ? json_stringn(text, len) : NULL;
    if (json) {
        return json;
    }
    /* A copy in which every byte that is not UTF-8 is replaced, and every NUL: JSON can say it, but
     * not every reader takes it (jansson itself refuses it in keys). */
    char *repaired = malloc(3 * len + 1), *out = repaired;
    while (repaired && len > 0) {
        uint32_t code;
        size_t taken = utf8_take(text, len, &code);
        out += utf8_put(code ? code : UTF8_REPLACEMENT, out);
        text += taken;
        len -= taken;
    }
    json = repaired ? json_stringn(repaired, (size_t)(out - repaired)) : NULL;
    free(repaired);
    return json;
}

/* Four characters for three bytes; what is missing of the last three is '='. */
static void put_base64(const unsigned char *data, size_t left, char *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned bits = (unsigned)data[0] << 16;
    bits |= left > 1 ? (unsigned)data[1] << 8 : 0;
    bits |= left > 2 ? data[2] : 0;
    out[0] = digits[bits >> 18];
    out[1] = digits[bits >> 12 & 63];
    out[2] = '=';
    out[3] = '=';
    if (left > 1) {
        out[2] = digits[bits >> 6 & 63];
    }
    if (left > 2) {
        out[3] = digits[bits & 63];
    }
}

static json_t *base64_to_json(const char *data, size_t len)
{
    size_t text_len = (len + 2) / 3 * 4;
    char *text = malloc(text_len + 1);
    if (!text) {
        return NULL;
    }
    for (size_t i = 0; i < len; i += 3) {
        put_base64((const unsigned char *)data + i, len - i, text + i / 3 * 4);
    }
    json_t *json = json_stringn_nocheck(text, text_len);
    free(text);
    return json;
}

static json_t *bin_to_json(const char *data, size_t len, enum mpk_bins bins)
{
    if (bins != MPK_BINS_HEX) {
        return base64_to_json(data, len);
    }
    static const char digits[] = "0123456789abcdef";
    char *hex = malloc(2 * len + 1);
    json_t *json;
    if (!hex) {
        return NULL;
    }
    for (size_t i = 0; i < len; i++) {
        hex[2 * i] = digits[(unsigned char)data[i] >> 4];
        hex[2 * i + 1] = digits[(unsigned char)data[i] & 15];
    }
    json = json_stringn(hex, 2 * len);
    free(hex);
    return json;
}

static json_t *key_to_json(const msgpack_object *key)
{
    char text[24] = "?";
    if (key->type == MSGPACK_OBJECT_STR) {
        return text_to_json(key->via.str.ptr, key->via.str.size);
    }
    if (key->type == MSGPACK_OBJECT_POSITIVE_INTEGER) {
        snprintf(text, sizeof text, "%" PRIu64, key->via.u64);
    }
    if (key->type == MSGPACK_OBJECT_NEGATIVE_INTEGER) {
        snprintf(text, sizeof text, "%" PRId64, key->via.i64);
    }
    return json_string(text);
}

static json_t *to_json(const msgpack_object *value, enum mpk_bins bins)
{
    json_t *json;
    switch (value->type) {
    case MSGPACK_OBJECT_BOOLEAN:
        return json_boolean(value->via.boolean);
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        return value->via.u64 <= INT64_MAX ? json_integer((json_int_t)value->via.u64)
                                           : json_real((double)value->via.u64);
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        return json_integer(value->via.i64);
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        return isfinite(value->via.f64) ? json_real(value->via.f64) : json_null();
    case MSGPACK_OBJECT_STR:
        return text_to_json(value->via.str.ptr, value->via.str.size);
    case MSGPACK_OBJECT_BIN:
        return bin_to_json(value->via.bin.ptr, value->via.bin.size, bins);
    case MSGPACK_OBJECT_ARRAY:
        json = json_array();
        for (uint32_t i = 0; json && i < value->via.array.size; i++) {
            if (json_array_append_new(json, to_json(&value->via.array.ptr[i], bins)) != 0) {
                json_decref(json);
                return NULL;
            }
        }
        return json;
    case MSGPACK_OBJECT_MAP:
        json = json_object();
        for (uint32_t i = 0; json && i < value->via.map.size; i++) {
            json_t *key = key_to_json(&value->via.map.ptr[i].key);
            int rc = -1;
            if (key) {
                rc = json_object_setn_new(json, json_string_value(key), json_string_length(key),
                                          to_json(&value->via.map.ptr[i].val, bins));
            }
            json_decref(key);
            if (rc != 0) {
                json_decref(json);
                return NULL;
            }
        }
        return json;
    default: /* nil; extension types never pass mpk_check */
        return json_null();
    }
}

/* Whether a character of U+0080 to U+009F is in it, which jansson leaves as it is. */
static bool has_controls(const char *text)
{
    while ((text = strchr(text, '\xc2')) && (unsigned char)text[1] > 0x9f) {
        text++;
    }
    return text;
}

/* By a stream in memory, which keeps a failure: jansson does not look at every result of a write.
 */
static char *json_write(const json_t *json, size_t flags)
{
    char *text = NULL;
    size_t size;
    FILE *stream = open_memstream(&text, &size);
    bool failed = !stream || json_dumpf(json, stream, flags) != 0 || ferror(stream);
    if (stream && (fclose(stream) != 0 || failed)) {
        free(text);
        text = NULL;
    }
    return text;
}

static char *dump(const msgpack_object *root, unsigned indent, enum mpk_bins bins)
{
    json_t *json = to_json(root, bins);
    size_t flags = JSON_ENCODE_ANY | (indent ? JSON_INDENT(indent) : (size_t)JSON_COMPACT);
    char *text = json ? json_write(json, flags) : NULL;
    if (text && has_controls(text)) {
        free(text);
        text = json_write(json, flags | JSON_ENSURE_ASCII);
    }
    json_decref(json);
    return text;
}

char *mpk_to_json(const msgpack_object *root, unsigned indent)
{
    return dump(root, indent, MPK_BINS_HEX);
}

char *mpk_to_json_base64(const msgpack_object *root)
{
    return dump(root, 0, MPK_BINS_BASE64);
}

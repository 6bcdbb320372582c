/* SPDX-License-Identifier: MIT */
/* mpk: bounded MessagePack documents: check, parse, look up, write.
 *
 * MessagePack-C has no limits: 155 bytes can make it reserve 63 GB, and it ignores trailing bytes.
 * Therefore a document is first walked by mpk_check, iteratively and without allocating, and only a
 * document that passed goes to msgpack_unpack_next. Pure; any thread; a document or writer belongs
 * to one thread at a time. */
#ifndef PROTO_MPK_H
#define PROTO_MPK_H

#include <msgpack.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mpk_limits {
    size_t bytes;      /* length of the whole document */
    uint32_t depth;    /* nested containers; the document's own map is 1 */
    uint32_t elements; /* values in total, keys included */
};

/* 64 KiB, 8 levels, 16384 elements: a header of either direction. */
extern const struct mpk_limits mpk_header_limits;
/* 64 MiB, 8 levels, 4 Mi elements: a result from the daemon, which a client trusts more. */
extern const struct mpk_limits mpk_result_limits;

/* Returns 0 when buf[0..len) is exactly one value within the limits, free of extension types and of
 * the reserved byte 0xc1, else ERR_HEADER_SIZE, _TRUNCATED, _MALFORMED, _DEPTH, _ELEMENTS or
 * _TRAILING. */
int mpk_check(const void *buf, size_t len, const struct mpk_limits *limits);

/* A parsed document. Strings and binaries point into the buffer given to mpk_parse, which must
 * outlive it. `root` points into the struct: it must not be copied or moved. */
struct mpk_doc {
    msgpack_unpacked unpacked;
    const msgpack_object *root;
};

/* Checks, then parses. Returns 0, a code of mpk_check, or ERR_MEMORY. On failure *ret_doc needs no
 * mpk_doc_clear. */
int mpk_parse(const void *buf, size_t len, const struct mpk_limits *limits,
              struct mpk_doc *ret_doc);
void mpk_doc_clear(struct mpk_doc *doc);

/* The value of a string key of a map; NULL when `map` is not a map or lacks the key. */
const msgpack_object *mpk_find(const msgpack_object *map, const char *key);

/* Walks a map once and files values under their names: ret_values[i] is the first value of
 * names[i], or NULL. Other keys are skipped. Fills ret_values also on failure. Returns 0,
 * ERR_KEY_TYPE when `map` is not a map or a key is not a string, or ERR_KEY_DUPLICATE with
 * *reterr_key = the name. */
int mpk_collect(const msgpack_object *map, const char *const *names, uint32_t count,
                const msgpack_object **ret_values, const char **reterr_key);

/* Typed readers of one value. Return 0, ERR_KEY_TYPE, or ERR_KEY_RANGE for numbers beyond `max`. */
int mpk_get_u64(const msgpack_object *value, uint64_t max, uint64_t *ret_number);
int mpk_get_bool(const msgpack_object *value, bool *ret_bool);
/* Integers are accepted where a real number is wanted; nil gives NaN. */
int mpk_get_f64(const msgpack_object *value, double *ret_number);
/* Sets an enumeration to the position of a text in a list of `count` words. Returns 0, ERR_KEY_TYPE
 * or ERR_KEY_RANGE: it is none of them. */
int mpk_get_word(const msgpack_object *value, const char *const *words, unsigned count,
                 void *ret_enum);
/* The number of a key; 0 when the key is missing or has no whole number. */
uint64_t mpk_find_u64(const msgpack_object *map, const char *key);
/* The text of a key, cut to fit, up to its first NUL; "" when the key is missing or has no text. */
void mpk_find_text(const msgpack_object *map, const char *key, char *ret_text, size_t size);
/* Elements of an array, pairs of a map; 0 for anything else, NULL included. */
uint32_t mpk_items(const msgpack_object *value);
uint32_t mpk_pairs(const msgpack_object *value);
/* A value as a number; NaN when it is NULL or no number. */
double mpk_number(const msgpack_object *value);
/* Whether the value is the given string; NULL is none. */
bool mpk_is_str(const msgpack_object *value, const char *text);

/* A growing output buffer. Failures are sticky: write on, and ask mpk_writer_ok once at the end.
 * The packer points to the writer: it must not be copied or moved after mpk_writer_init. */
struct mpk_writer {
    msgpack_sbuffer buffer; /* buffer.data, buffer.size: what was written */
    msgpack_packer packer;
    bool failed;
    uint32_t values; /* in the container that is open, without those in others within it */
    uint64_t owed;   /* that these still lack */
};

void mpk_writer_init(struct mpk_writer *writer);
void mpk_writer_clear(struct mpk_writer *writer);
bool mpk_writer_ok(const struct mpk_writer *writer);

void mpk_put_map(struct mpk_writer *writer, uint32_t pairs);
void mpk_put_array(struct mpk_writer *writer, uint32_t length);
/* NULL is nil. */
void mpk_put_str(struct mpk_writer *writer, const char *text);
void mpk_put_text(struct mpk_writer *writer, const char *text, size_t len);
void mpk_put_bin(struct mpk_writer *writer, const void *data, size_t len);
void mpk_put_u64(struct mpk_writer *writer, uint64_t number);
void mpk_put_bool(struct mpk_writer *writer, bool value);
void mpk_put_nil(struct mpk_writer *writer);
/* One value that is encoded already; several, or none, only where nothing is open (mpk_open). */
void mpk_put_raw(struct mpk_writer *writer, const void *encoded, size_t len);
/* NaN and infinities become nil: a number that does not exist is null. */
void mpk_put_f64(struct mpk_writer *writer, double number);

/* A map or an array whose length is known when it ends: all that is written between opening and
 * closing is in it. With a key, which may be NULL, it is the value of that. The bytes are those of
 * mpk_put_map and mpk_put_array. */
struct mpk_open {
    size_t before, at; /* in the buffer: where its key begins, and it itself */
    uint32_t values_before, values;
    uint64_t owed_before, owed; /* of the container around it, without and with it */
};
struct mpk_open mpk_open(struct mpk_writer *writer, const char *key);
void mpk_close_map(struct mpk_writer *writer, const struct mpk_open *open);
void mpk_close_array(struct mpk_writer *writer, const struct mpk_open *open);
/* The same, but one without pairs goes, and its key with it. */
void mpk_close_map_if_any(struct mpk_writer *writer, const struct mpk_open *open);

/* A key of a map, and its value, or how that begins. */
void mpk_pair_map(struct mpk_writer *writer, const char *key, uint32_t pairs);
void mpk_pair_array(struct mpk_writer *writer, const char *key, uint32_t length);
void mpk_pair_bin(struct mpk_writer *writer, const char *key, const void *data, size_t len);
void mpk_pair_nil(struct mpk_writer *writer, const char *key);
void mpk_pair_str(struct mpk_writer *writer, const char *key, const char *text);
void mpk_pair_u64(struct mpk_writer *writer, const char *key, uint64_t number);
void mpk_pair_u64_or_nil(struct mpk_writer *writer, const char *key, bool known, uint64_t number);
void mpk_pair_bool(struct mpk_writer *writer, const char *key, bool value);
void mpk_pair_f64(struct mpk_writer *writer, const char *key, double number);

/* The document as JSON text, `indent` 0 for one line; binaries as lower-case hex; NaN and
 * infinities as null; NUL and bytes that are not UTF-8 as U+FFFD; integers beyond INT64_MAX as
 * reals. Keys that are integers become text, other keys that are not strings "?". The last value of
 * a repeated key counts. Returns a malloc'ed string, or NULL when out of memory. */
char *mpk_to_json(const msgpack_object *root, unsigned indent);
/* The same on one line, with binaries as base64 (RFC 4648, padded). */
char *mpk_to_json_base64(const msgpack_object *root);

#endif

/* SPDX-License-Identifier: MIT */
/* headers: golden headers with one thing changed, and what the decoder says of them. */
#ifndef TESTS_UNIT_PROTO_HEADERS_H
#define TESTS_UNIT_PROTO_HEADERS_H

#include "tests/unit/proto/support.h"

#include "proto/header.h"

struct bytes headers_golden(const char *name);

/* Decodes; on failure checks that nothing is held. */
int headers_decode(const struct bytes *bytes, struct header *ret_header, const char **reterr_key);
/* A golden header that is sound, decoded; cleared with golden_clear. */
struct golden {
    struct bytes bytes;
    struct header header;
};
struct golden golden_decode(const char *name);
void golden_clear(struct golden *golden);
/* A test of what is in it. */
#define GOLDEN_TEST(name, golden_name)                                                             \
    static void read_##name(const struct header *header);                                          \
    TEST(name)                                                                                     \
    {                                                                                              \
        OWNED(golden_clear) struct golden golden = golden_decode(golden_name);                     \
        read_##name(&golden.header);                                                               \
    }                                                                                              \
    static void read_##name(const struct header *header)

/* The verdict on raw bytes. */
int headers_verdict(const void *data, size_t len);
/* The verdict on a golden header with one key changed; reterr_key may be NULL. */
int headers_change(const char *name, const char *key, const void *value, size_t len,
                   const char **reterr_key);

/* A golden header, a key and its new value in MessagePack, the verdict, and the key that it names;
 * NULL is any. */
struct header_case {
    const char *golden, *key, *value;
    size_t len;
    int rc;
    const char *fault;
};
void headers_judge(const struct header_case *cases, size_t count);
/* A test that is such cases alone: HEADERS(its name, {...}...); */
#define HEADERS(name, ...)                                                                         \
    TEST(name)                                                                                     \
    {                                                                                              \
        static const struct header_case cases[] = {__VA_ARGS__};                                   \
        headers_judge(cases, sizeof cases / sizeof cases[0]);                                      \
    }                                                                                              \
    struct header_case

/* The first byte of a text, by its length; a literal of its own, since a digit behind \x would
 * belong to the number. */
#define STR1 "\xa1"
#define STR3 "\xa3"
#define STR4 "\xa4"
#define STR5 "\xa5"
#define STR7 "\xa7"
#define STR9 "\xa9"

#endif

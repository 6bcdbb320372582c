/* SPDX-License-Identifier: MIT */
/* headers: golden headers with one thing changed, and what the decoder says of them. */
#ifndef TESTS_UNIT_PROTO_HEADERS_H
#define TESTS_UNIT_PROTO_HEADERS_H

#include "tests/unit/proto/support.h"

#include "proto/header.h"

struct bytes headers_golden(const char *name);

/* Decodes; on failure checks that nothing is held. */
int headers_decode(const struct bytes *bytes, struct header *ret_header, const char **reterr_key);
/* The verdict on raw bytes. */
int headers_verdict(const void *data, size_t len);
/* The verdict on a golden header with one key changed; reterr_key may be NULL. */
int headers_change(const char *name, const char *key, const void *value, size_t len,
                   const char **reterr_key);

#endif

/* SPDX-License-Identifier: MIT */
/* err: the one list of errors, as negative codes, slugs and sentences.
 *
 * Every function that can fail returns 0 or one of these negative codes. They start below
 * libuv's (-errno, down to about -4100), so that both fit one int. Any thread. */
#ifndef PROTO_ERR_H
#define PROTO_ERR_H

/* ERR_COUNT sizes tables of counters by number. */
enum {
#define ERR(number, symbol, slug, text) +1
    ERR_COUNT = 0
#include "proto/err.def"
#undef ERR
};

#define ERR_BASE (-5000)

enum err {
    ERR_OK = 0,
#define ERR(number, symbol, slug, text) ERR_##symbol = ERR_BASE - number,
#include "proto/err.def"
#undef ERR
};

/* The number of a code in err.def, or -1 when it is not one of ours. */
int err_index(int code);

/* The slug ("size_mismatch") and the sentence of a code; static; "unknown" for other codes. */
const char *err_slug(int code);
const char *err_text(int code);

#endif

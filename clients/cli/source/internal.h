/* SPDX-License-Identifier: MIT */
/* source/internal: shared by source.c and the kinds of sources. */
#ifndef CLIENTS_CLI_SOURCE_INTERNAL_H
#define CLIENTS_CLI_SOURCE_INTERNAL_H

#include "clients/cli/source/source.h"
#include "proto/mpk.h"
#include "workers/base/attention.h"

/* labels: the texts of tokens, as valid UTF-8: bytes that are not become U+FFFD. One thread. */

/* More are no text that somebody looks at; they are left out. */
#define LABELS_MAX 16777216

/* Adds a copy of each of a list of texts; what is none is left out. */
void labels_add_list(struct labels *labels, const msgpack_object *list);
/* Adds the words between blanks. */
void labels_add_words(struct labels *labels, const char *text);
/* Adds the lines of a file; an empty one is an empty text. Returns 0, or -1 with errno. */
int labels_add_file(struct labels *labels, const char *path);
/* NULL when there is none. */
const char *labels_get(const struct labels *labels, uint32_t index);
void labels_clear(struct labels *labels);

/* The receiver of the rows of a map. */
struct sink {
    source_visitor *visit;
    void *data;
};

struct source_ops {
    /* Sample, head and layer were checked. */
    int (*rows)(struct source *source, size_t layer, uint32_t sample, uint32_t head,
                const struct sink *sink, char *reterr);
    /* Leaves padding out, as source_choose; NULL = maps come without, or it is not known. */
    int (*trim)(struct source *source, size_t layer, uint32_t sample, char *reterr);
    void (*free)(void *own);
};

/* Each fills kind, layers, run, ops and own. On failure what is there is freed by source_free. */
int source_open_recording(const struct source_request *request, struct source *source,
                          char *reterr);
int source_open_daemon(const struct source_request *request, struct source *source, char *reterr);

/* Writes the sentence; returns `code`. */
int source_fail(char *reterr, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Gives the sink the map of one sample and head, made when there are queries and keys alone, as far
 * as source_choose has left it. */
void source_give(const struct attention *a, const struct source_layer *layer, uint32_t sample,
                 uint32_t head, const struct sink *sink);

#endif

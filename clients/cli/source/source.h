/* SPDX-License-Identifier: MIT */
/* source: attention maps from array files, a recording, or a running attnd.
 *
 *     source_open -> source_find_layer -> source_rows or source_map
 *
 * Opening reads names and shapes; a map is read when it is asked for, and little else: of a file of
 * arrays the layer that it is in. A recording is read one message at a time. Maps of
 * queries and keys are made by the engine (workers/qk/qk.h).
 *
 * Functions return CLI_OK, or the exit code and one sentence in reterr (SOURCE_ERROR_MAX bytes).
 * One thread per source. */
#ifndef CLIENTS_CLI_SOURCE_SOURCE_H
#define CLIENTS_CLI_SOURCE_SOURCE_H

#include "clients/cli/base/cli.h"
#include "proto/header.h"
#include "clients/cli/arrays/name.h"

#define SOURCE_ERROR_MAX 1024

enum source_kind { SOURCE_FILES, SOURCE_RECORDING, SOURCE_DAEMON };

/* Texts of tokens; see internal.h. */
struct labels {
    char **items; /* [count]; owned */
    uint32_t count, room;
};

/* One attention of the model. */
struct source_layer {
    struct layer_id id;
    char module[MODULE_MAX + 1]; /* path of the module that attends; "" = not known */
    enum message_type tier;      /* MESSAGE_ATTENTION: the map was there; MESSAGE_QK: it is made */
    uint32_t first_sample; /* samples are [first_sample, first_sample + batch): attnd keeps one */
    uint32_t whole_batch;  /* of how many it is, where attnd says so; else 0 */
    uint32_t batch, heads, queries, keys;
    /* The rows of a map as given: queries and keys, or fewer when attnd has pooled it (maps.size):
     * row r covers the queries from source_edge(r, queries, rows) on, a cell is the mean of its
     * finite entries, NaN without any. */
    uint32_t rows, columns;
    /* How many source_choose has left out, and of these those before the others. */
    uint32_t padding_queries, padding_keys, first_query, first_key;
    bool causal;
    uint32_t q_offset;    /* position of query 0 among the keys */
    uint64_t epoch, step; /* recording, daemon */
    double tolerance;     /* largest |sum - 1| of a row that is as it should be */
    struct labels labels; /* recording, daemon: of its keys; owned by the source */
};

/* Strings and pointers are borrowed until source_free. */
struct source_request {
    struct cli *cli;    /* whose args say where attnd is; used with `job` only */
    char *const *files; /* [file_count]: arrays, or one recording; NULL with `job` */
    int file_count;
    const char *job; /* of a running attnd */
    const char *run; /* recording, daemon: its first digits; NULL = the newest */
    bool at_step;    /* recording: `step`, and not the newest */
    uint64_t step;
    bool padding;         /* recording: maps have it */
    struct naming naming; /* files */
    /* files: facts that they lack */
    bool causal;
    uint32_t window;       /* keys a query may look back; 0 = all */
    double scale, softcap; /* of logits: scale 0 = 1 / sqrt(d), softcap 0 = none */
    const char *labels;    /* of keys: a file of one token per line, or NULL */
    const char *tokens;    /* ... or tokens with blanks between them, or NULL */
    const char *query_labels, *query_tokens; /* of the queries of cross-attention */
    /* Layers of several sites are looked at together: the queries of cross-attention are the keys
     * of its stack's self-attention. */
    bool together;
};

struct source {
    enum source_kind kind;
    char run[2 * RUN_BYTES + 1]; /* its digits; "" for files */
    /* [layer_count], one at least; owned; encoder before decoder, by layer, self before cross. A
     * daemon's layer may be of a later step, and pooled otherwise, after a map of it was read. */
    struct source_layer *layers;
    size_t layer_count;
    /* of source/ alone */
    struct labels given, given_queries; /* by the request */
    bool together, padding;             /* as the request says */
    const struct source_ops *ops;
    void *own; /* of the kind; owned; NULL before it was opened */
};

/* Whether a word of a command line is a file rather than a job: it is there, or ends as files do
 * that can be read; "-" is standard input, which arrays are read from. */
bool source_is_file(const char *word);

/* The value of --step, for a struct source_request; returns as option.h wants it. */
const char *source_set_step(void *to, const char *text);

/* On failure *ret_source is NULL. */
int source_open(const struct source_request *request, struct source **ret_source, char *reterr);
/* Accepts a pointer to NULL. */
void source_free(struct source **source);

/* The layer that a text means: "decoder.0.self", or a part that only one has, "decoder.0", "0";
 * NULL = the first. */
int source_find_layer(const struct source *source, const char *text, size_t *ret_layer,
                      char *reterr);
/* In the place of a head: the mean over all of them. */
#define HEAD_MEAN UINT32_MAX
/* Makes the layer's maps begin and end where the sample does, without its padding, unless the
 * request has `padding`: from then on maps are of this sample. The sample and the head exist, and
 * the labels of the request, if any, are as many as the layer's keys and queries, without or with
 * those that are left out, or no more where it is pooled; only those of cross-attention have
 * queries of their own. Else the sentence says what is wrong. */
int source_choose(struct source *source, size_t layer, uint32_t sample, uint32_t head,
                  char *reterr);

/* Row `row` of a map, [columns] numbers as they were sent, NaN where there is none. The pointer is
 * good until the visitor returns. */
typedef void source_visitor(void *data, uint32_t row, const float *weights);

/* Calls `visit` with all rows of one head's map of one sample, in order. */
int source_rows(struct source *source, size_t layer, uint32_t sample, uint32_t head,
                source_visitor *visit, void *data, char *reterr);
/* One head's map, or the mean over the heads, NaN where a head has none: ret_map[rows * columns].
 */
int source_map(struct source *source, size_t layer, uint32_t sample, uint32_t head, float *ret_map,
               char *reterr);

/* The text of a key's token, valid UTF-8 that may hold anything, control characters too; NULL when
 * there is none. Labels of the request are of every sample, those of a source of its first. */
const char *source_label(struct source *source, size_t layer, uint32_t sample, uint32_t key);
/* The label of a query: in self-attention that of the key at its position; in cross-attention that
 * of the request, or the source's own of the tokens that its stack attends to itself. */
const char *source_query_label(struct source *source, size_t layer, uint32_t sample,
                               uint32_t query);

/* The first of `length` queries or keys in cell `cell` of `cells`; of `cells` itself, `length`. */
static inline uint32_t source_edge(uint32_t cell, uint32_t length, uint32_t cells)
{
    return (uint32_t)((uint64_t)cell * length / cells);
}
/* The cell that entry `at` of `length` is in. */
uint32_t source_cell(uint32_t at, uint32_t length, uint32_t cells);

#endif

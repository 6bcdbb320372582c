/* SPDX-License-Identifier: MIT */
/* source: the common part of all kinds of sources: the request's labels, finding a layer, checking,
 * and maps from rows. */
#include "clients/cli/source/internal.h"

#include "clients/cli/base/system.h"
#include "proto/recording.h"
#include "clients/cli/analyze/input.h"
#include "workers/linear/spectrum.h"
#include "clients/cli/arrays/array.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Maps in array files, placed, checked and loaded as attnctl analyze does: those of one
 * layer are in memory at a time. */

struct files {
    struct options options;
    struct inputs inputs; /* one for each layer of the source */
    struct input *loaded; /* NULL = none */
};

static void free_files(void *own)
{
    struct files *files = own;
    if (files->loaded) {
        input_unload(files->loaded);
    }
    inputs_clear(&files->inputs);
    options_clear(&files->options);
    free(files);
}

static int files_rows(struct source *source, size_t layer, uint32_t sample, uint32_t head,
                      const struct sink *sink, char *reterr)
{
    struct files *files = source->own;
    struct input *input = &files->inputs.items[layer];
    if (files->loaded != input) {
        if (files->loaded) {
            input_unload(files->loaded);
        }
        int rc = input_load(input, reterr);
        files->loaded = rc == 0 ? input : NULL;
        if (rc != 0) {
            input_unload(input);
            return CLI_USAGE;
        }
    }
    source_give(&input->attention, &source->layers[layer], sample, head, sink);
    return CLI_OK;
}

/* Opening ------------------------------------------------------------------------------------- */

static int source_open_files(const struct source_request *request, struct source *source,
                             char *reterr)
{
    static const struct source_ops ops = {files_rows, NULL, free_files};
    struct files *files = memory_new(1, sizeof *files);
    struct options *options = &files->options;
    *options = (struct options){.naming = request->naming,
                                .causal = request->causal,
                                .window = request->window,
                                .q_offset = OPTIONS_LAST,
                                .softcap = request->softcap,
                                .scale = request->scale != 0 ? request->scale : NAN,
                                .files = request->files,
                                .file_count = request->file_count};
    source->kind = SOURCE_FILES;
    source->ops = &ops;
    source->own = files;
    spectrum_global_init();
    int rc = inputs_open(options, true, &files->inputs, reterr);
    if (rc != 0) {
        return CLI_USAGE;
    }
    source->layer_count = files->inputs.count;
    source->layers = memory_new(source->layer_count, sizeof *source->layers);
    for (size_t i = 0; i < source->layer_count; i++) {
        const struct input *input = &files->inputs.items[i];
        const struct attention *a = &input->attention;
        bool qk = input->tier == TIER_QK;
        source->layers[i] = (struct source_layer){
            .id = input->id,
            .tier = qk ? MESSAGE_QK : MESSAGE_ATTENTION,
            .batch = a->batch,
            .heads = a->heads,
            .queries = a->queries,
            .keys = a->keys,
            .rows = a->queries,
            .columns = a->keys,
            .causal = a->causal,
            .q_offset = a->q_offset,
            .tolerance = attention_tolerance(qk ? DTYPE_F32 : a->dtype),
        };
    }
    return CLI_OK;
}

/* Layers that a sentence names at most. */
#define NAMED_MAX 8

static bool source_ends_with(const char *word, const char *ending)
{
    size_t len = strlen(word), tail = strlen(ending);
    return len > tail && strcmp(word + len - tail, ending) == 0;
}

bool source_is_file(const char *word)
{
    return strcmp(word, "-") == 0 || source_ends_with(word, ".npy") ||
           source_ends_with(word, ".npz") || source_ends_with(word, ".safetensors") ||
           source_ends_with(word, ".rec") || access(word, F_OK) == 0;
}

const char *source_set_step(void *to, const char *text)
{
    struct source_request *request = to;
    request->at_step = true;
    return option_whole(text, UINT64_MAX, &request->step) ? NULL : "valid: a number from 0";
}

static bool is_recording(const char *path)
{
    uint8_t begin[RECORDING_MAGIC_BYTES];
    /* O_NONBLOCK: a pipe is no recording, and not waited for. */
    int fd = strcmp(path, "-") == 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t got = fd < 0 ? -1 : read(fd, begin, sizeof begin);
    if (fd >= 0) {
        close(fd);
    }
    return got == sizeof begin && recording_is(begin);
}

/* The values of a pair of options, of which one is given at most: --labels and --tokens behind
 * `of`. */
static int read_given(const char *file, const char *words, const char *of, struct labels *labels,
                      char *reterr)
{
    const char *option = file ? "labels" : "tokens";
    if (file && words) {
        return source_fail(reterr, CLI_USAGE, "%slabels and %stokens: give one of them", of, of);
    }
    labels_add_words(labels, words ? words : "");
    if (file && labels_add_file(labels, file) != 0) {
        return source_fail(reterr, CLI_USAGE, "%s%s: %.300s: %s", of, option, file,
                           strerror(errno));
    }
    if ((file || words) && labels->count == 0) {
        return source_fail(reterr, CLI_USAGE, "%s%s: there are no tokens in it", of, option);
    }
    return CLI_OK;
}

/* The options for files that the request gives for another kind of source, or that files do not
 * have; NULL = none. */
static const char *find_foreign(const struct source_request *request, bool arrays)
{
    if (arrays) {
        return request->at_step ? "step" : request->run ? "run" : NULL;
    }
    return request->naming.rule_count > 0     ? "name"
           : request->naming.ignore_count > 0 ? "ignore"
           : request->causal                  ? "causal"
           : request->window > 0              ? "window"
           : request->scale != 0              ? "scale"
           : request->softcap != 0            ? "softcap"
                                              : NULL;
}

static int open_kind(const struct source_request *request, struct source *source, char *reterr)
{
    int recordings = 0;
    for (int i = 0; request->files && i < request->file_count; i++) {
        recordings += is_recording(request->files[i]);
    }
    if (recordings > 0 && request->file_count > 1) {
        return source_fail(reterr, CLI_USAGE,
                           "a recording is looked at alone: give one file at a time");
    }
    bool arrays = request->files && recordings == 0;
    const char *foreign = find_foreign(request, arrays);
    if (foreign) {
        return source_fail(reterr, CLI_USAGE,
                           arrays ? "--%s: array files have no runs and steps"
                                  : "--%s: is about array files; recordings and attnd know it",
                           foreign);
    }
    return arrays           ? source_open_files(request, source, reterr)
           : recordings > 0 ? source_open_recording(request, source, reterr)
                            : source_open_daemon(request, source, reterr);
}

int source_open(const struct source_request *request, struct source **ret_source, char *reterr)
{
    struct source *source = memory_new(1, sizeof *source);
    *ret_source = NULL;
    source->together = request->together;
    source->padding = request->padding;
    int code = read_given(request->labels, request->tokens, "--", &source->given, reterr);
    if (code == CLI_OK) {
        code = read_given(request->query_labels, request->query_tokens, "--query-",
                          &source->given_queries, reterr);
    }
    if (code == CLI_OK) {
        code = open_kind(request, source, reterr);
    }
    if (code != CLI_OK) {
        source_free(&source);
    }
    *ret_source = source;
    return code;
}

void source_free(struct source **source_p)
{
    struct source *source = *source_p;
    *source_p = NULL;
    if (!source) {
        return;
    }
    if (source->own) {
        source->ops->free(source->own);
    }
    labels_clear(&source->given);
    labels_clear(&source->given_queries);
    for (size_t i = 0; i < source->layer_count; i++) {
        labels_clear(&source->layers[i].labels);
    }
    free(source->layers);
    free(source);
}

/* Layers -------------------------------------------------------------------------------------- */

/* Whether all words between the dots of `text` are, in their order, words of the name. */
static bool means(const char *text, struct layer_id id)
{
    char number[16];
    const char *words[] = {stack_name(id.stack), number, site_name(id.site)};
    snprintf(number, sizeof number, "%" PRIu32, id.layer);
    for (int i = 0; i < 3; i++) {
        size_t len = strlen(words[i]);
        if (strncmp(text, words[i], len) != 0 || (text[len] != '.' && text[len] != '\0')) {
            continue;
        }
        if (text[len] == '\0') {
            return true;
        }
        text += len + 1;
    }
    return false;
}

int source_find_layer(const struct source *source, const char *text, size_t *ret_layer,
                      char *reterr)
{
    char names[512] = "";
    size_t count = 0;
    *ret_layer = 0;
    if (!text) {
        return CLI_OK;
    }
    for (size_t i = source->layer_count; i-- > 0;) {
        if (means(text, source->layers[i].id)) {
            *ret_layer = i;
            count++;
        }
    }
    if (count == 1) {
        return CLI_OK;
    }
    /* "decoder.0.self, decoder.1.self, ... decoder.11.self": those that the text means, or all. */
    size_t names_count = count > 0 ? count : source->layer_count;
    size_t size = sizeof names;
    size_t used = 0, at = 0;
    for (size_t i = 0; i < source->layer_count && used < size; i++) {
        const char *name = PLACE_LAYER(source->layers[i].id);
        if (count > 0 && !means(text, source->layers[i].id)) {
            continue;
        }
        if (at < NAMED_MAX - 1 || at == names_count - 1 || names_count <= NAMED_MAX) {
            used += (size_t)snprintf(names + used, size - used, "%s%s", at ? ", " : "", name);
        } else if (at == NAMED_MAX - 1) {
            used += (size_t)snprintf(names + used, size - used, ", ...");
        }
        at++;
    }
    return source_fail(reterr, CLI_USAGE,
                       count > 0 ? "--layer: '%.80s' may be any of %s: say which"
                                 : "--layer: there is no '%.80s' (valid: %s)",
                       text, names);
}

/* Samples, heads, labels ---------------------------------------------------------------------- */

static int fail_range(const char *option, uint32_t number, uint32_t first, uint32_t count,
                      struct layer_id id, char *reterr)
{
    char valid[48];
    snprintf(valid, sizeof valid, count > 1 ? "%" PRIu32 " to %" PRIu32 : "%" PRIu32, first,
             first + count - 1);
    return source_fail(reterr, CLI_USAGE, "--%s: %s has no %s %" PRIu32 " (valid: %s)", option,
                       PLACE_LAYER(id), option, number, valid);
}

static int check_sample(const struct source *source, size_t layer, uint32_t sample, uint32_t head,
                        char *reterr)
{
    const struct source_layer *l = &source->layers[layer];
    if (sample < l->first_sample || sample - l->first_sample >= l->batch) {
        return fail_range("sample", sample, l->first_sample, l->batch, l->id, reterr);
    }
    return head < l->heads || head == HEAD_MEAN
               ? CLI_OK
               : fail_range("head", head, 0, l->heads, l->id, reterr);
}

/* The label of query or key `at` of those shown, the first of which is `first` of `all`: labels are
 * of the ones shown, or of all with their padding. */
static const char *label_shown(const struct labels *given, uint32_t at, uint32_t first,
                               uint32_t all)
{
    return labels_get(given, given->count == all ? first + at : at);
}

/* The request's labels for a layer's keys. */
static const struct labels *given_keys(const struct source *source, const struct source_layer *l)
{
    bool theirs = source->together && source->given_queries.count > 0 && l->id.site == SITE_SELF &&
                  l->id.stack == STACK_DECODER;
    return theirs ? &source->given_queries : &source->given;
}

/* Labels of the source are of its first sample. */
static const char *source_own_label(const struct source_layer *layer, uint32_t sample, uint32_t key)
{
    return sample == 0 ? labels_get(&layer->labels, key) : NULL;
}

const char *source_label(struct source *source, size_t layer, uint32_t sample, uint32_t key)
{
    const struct source_layer *l = &source->layers[layer];
    const struct labels *given = given_keys(source, l);
    if (given->count > 0) {
        return label_shown(given, key, l->first_key, l->keys + l->padding_keys);
    }
    return source_own_label(l, sample, l->first_key + key);
}

const char *source_query_label(struct source *source, size_t layer, uint32_t sample, uint32_t query)
{
    const struct source_layer *l = &source->layers[layer];
    uint64_t position = (uint64_t)l->q_offset + query;
    if (l->id.site == SITE_CROSS) {
        /* The queries of cross-attention are the tokens that its stack attends to itself, in the
         * same forward: what was given for the keys is not about them. */
        if (source->given_queries.count > 0) {
            return label_shown(&source->given_queries, query, l->first_query,
                               l->queries + l->padding_queries);
        }
        for (size_t i = 0; i < source->layer_count; i++) {
            const struct source_layer *own = &source->layers[i];
            if (own->id.stack == l->id.stack && own->id.site == SITE_SELF && own->step == l->step &&
                own->keys + own->padding_keys == l->queries + l->padding_queries &&
                l->q_offset == 0) {
                return source_own_label(own, sample, l->first_query + query);
            }
        }
        return NULL;
    }
    return position < l->keys ? source_label(source, layer, sample, (uint32_t)position) : NULL;
}

/* Fewer labels than tokens are most likely those of another text. A pooled map shows none. */
static int check_count(const struct labels *labels, const struct source_layer *l, bool keys,
                       char *reterr)
{
    uint32_t there = keys ? l->keys : l->queries;
    uint32_t all = there + (keys ? l->padding_keys : l->padding_queries);
    bool pooled = (keys ? l->columns : l->rows) < there;
    char more[48] = "";
    if (labels->count == 0 || labels->count == there || labels->count == all ||
        (pooled && labels->count < there)) {
        return CLI_OK;
    }
    if (all > there) {
        snprintf(more, sizeof more, ", %" PRIu32 " with padding", all);
    }
    return source_fail(
        reterr, CLI_USAGE, "%" PRIu32 " token%s given%s, but %s has %" PRIu32 " %s%s",
        labels->count, labels->count == 1 ? " was" : "s were", keys ? "" : " for queries",
        PLACE_LAYER(l->id), there,
        keys ? (there == 1 ? "key" : "keys") : (there == 1 ? "query" : "queries"), more);
}

int source_choose(struct source *source, size_t layer, uint32_t sample, uint32_t head, char *reterr)
{
    const struct source_layer *l = &source->layers[layer];
    bool cross = l->id.site == SITE_CROSS;
    int code = check_sample(source, layer, sample, head, reterr);
    if (code == CLI_OK && source->ops->trim && !source->padding) {
        code = source->ops->trim(source, layer, sample, reterr);
    }
    if (code != CLI_OK) {
        return code;
    }
    if (source->given_queries.count > 0 && !cross && !source->together) {
        return source_fail(reterr, CLI_USAGE,
                           "--query-tokens, --query-labels: in %s the queries are the keys: give "
                           "--tokens or --labels",
                           PLACE_LAYER(l->id));
    }
    code = check_count(given_keys(source, l), l, true, reterr);
    return code == CLI_OK && cross ? check_count(&source->given_queries, l, false, reterr) : code;
}

/* Maps ---------------------------------------------------------------------------------------- */

uint32_t source_cell(uint32_t at, uint32_t length, uint32_t cells)
{
    uint32_t cell = (uint32_t)((uint64_t)at * cells / length);
    while (source_edge(cell + 1, length, cells) <= at) {
        cell++;
    }
    return cell;
}

int source_rows(struct source *source, size_t layer, uint32_t sample, uint32_t head,
                source_visitor *visit, void *data, char *reterr)
{
    int code = check_sample(source, layer, sample, head, reterr);
    if (code != CLI_OK) {
        return code;
    }
    return source->ops->rows(source, layer, sample, head, &(struct sink){visit, data}, reterr);
}

/* Where rows go. */
struct map {
    float *values;
    uint32_t columns;
    bool add; /* to what is there */
};

static void map_row(void *data, uint32_t row, const float *weights)
{
    const struct map *map = data;
    float *to = map->values + (size_t)row * map->columns;
    for (uint32_t j = 0; j < map->columns; j++) {
        to[j] = map->add ? to[j] + weights[j] : weights[j];
    }
}

/* The mean in f32, head after head: good to heads * 2^-24, without a second map. */
int source_map(struct source *source, size_t layer, uint32_t sample, uint32_t head, float *ret_map,
               char *reterr)
{
    const struct source_layer *l = &source->layers[layer];
    bool mean = head == HEAD_MEAN;
    struct map map = {ret_map, l->columns, false};
    int code = source_rows(source, layer, sample, mean ? 0 : head, map_row, &map, reterr);
    map.add = true;
    for (uint32_t h = 1; mean && h < l->heads && code == CLI_OK; h++) {
        code = source_rows(source, layer, sample, h, map_row, &map, reterr);
    }
    for (size_t i = 0; mean && i < (size_t)l->rows * l->columns && code == CLI_OK; i++) {
        ret_map[i] /= (float)l->heads;
    }
    return code;
}

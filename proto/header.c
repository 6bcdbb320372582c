/* SPDX-License-Identifier: MIT */
/* Decoding runs over one table, KEYS. The map is walked once and each value is filed under its key;
 * then the keys are read in the table's order, so that a message with several faults is always
 * refused for the same one: first the version, then the type, then what the type needs.
 *
 * Lengths of arrays are known to be sound when they are reached here: mpk_check has counted the
 * elements, so an array is never longer than the header's bytes, and allocating from its size is
 * safe. */
#include "proto/header.h"

#include "proto/err.h"
#include "proto/header_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Messages of one lane overtake tensors of the other one. Their headers say which: a flat list of
 * [stack, layer, site, seq], so that many topics fit. */

enum { AFTER_STACK, AFTER_LAYER, AFTER_SITE, AFTER_SEQ, AFTER_NUMBERS };

static int header_read_position(const msgpack_object *numbers, struct topic_position *ret_position)
{
    static const uint64_t most[AFTER_NUMBERS] = {STACK_DECODER, LAYER_MAX, SITE_CROSS, COUNT_MAX};
    for (int i = 0; i < AFTER_NUMBERS; i++) {
        if (numbers[i].type != MSGPACK_OBJECT_POSITIVE_INTEGER) {
            return ERR_KEY_TYPE;
        }
        if (numbers[i].via.u64 > most[i]) {
            return ERR_KEY_RANGE;
        }
    }
    ret_position->layer.stack = (enum stack)numbers[AFTER_STACK].via.u64;
    ret_position->layer.layer = (uint32_t)numbers[AFTER_LAYER].via.u64;
    ret_position->layer.site = (enum site)numbers[AFTER_SITE].via.u64;
    ret_position->seq = numbers[AFTER_SEQ].via.u64;
    return 0;
}

/* Reads the list under `after`: four whole numbers a topic. Returns 0 or an error of
 * err.def. */
static int header_read_after(const msgpack_object *value, struct header *header)
{
    if (value->type != MSGPACK_OBJECT_ARRAY) {
        return ERR_KEY_TYPE;
    }
    uint32_t numbers = value->via.array.size, count = numbers / AFTER_NUMBERS;
    int rc = 0;
    if (numbers % AFTER_NUMBERS != 0 || count > AFTER_MAX) {
        return ERR_KEY_RANGE;
    }
    if (count == 0) {
        return 0;
    }
    header->after = calloc(count, sizeof *header->after);
    if (!header->after) {
        return ERR_MEMORY;
    }
    for (uint32_t i = 0; i < count && !rc; i++) {
        rc = header_read_position(value->via.array.ptr + (size_t)i * AFTER_NUMBERS,
                                  &header->after[i]);
    }
    header->after_count = count;
    return rc;
}

static const char *const types[] = {
    [MESSAGE_ATTENTION] = "attention", [MESSAGE_QK] = "qk",         [MESSAGE_WEIGHTS] = "weights",
    [MESSAGE_ROWS] = "rows",           [MESSAGE_SKETCH] = "sketch", [MESSAGE_EVENT] = "event",
};

static const char *const events[] = {
    [EVENT_HELLO] = "hello",
    [EVENT_EPOCH_END] = "epoch_end",
    [EVENT_BYE] = "bye",
    [EVENT_LOG] = "log",
};

const char *message_type_name(enum message_type type)
{
    return types[type];
}

const char *event_name(enum event_type event)
{
    return events[event];
}

/* The messages that a key belongs to: a bit for each type, and for three of the events. */
enum scope {
    OPTIONAL = 0,
    IN_ATTENTION = 1 << MESSAGE_ATTENTION,
    IN_QK = 1 << MESSAGE_QK,
    IN_MAPS = IN_ATTENTION | IN_QK,
    IN_WEIGHTS = 1 << MESSAGE_WEIGHTS,
    IN_ROWS = 1 << MESSAGE_ROWS,
    IN_MEASURED = IN_MAPS | IN_ROWS, /* whose rows are measured */
    IN_SKETCH = 1 << MESSAGE_SKETCH,
    IN_TENSORS = IN_MEASURED | IN_WEIGHTS | IN_SKETCH,
    IN_HEADS = IN_MEASURED | IN_SKETCH, /* whose tensors say how many heads they have */
    IN_EVENTS = 1 << MESSAGE_EVENT,
    IN_HELLO = IN_EVENTS << 1,
    IN_LOG = IN_EVENTS << 2,
    IN_BYE = IN_EVENTS << 3,
    IN_ALL = IN_TENSORS | IN_EVENTS | IN_HELLO | IN_LOG | IN_BYE
};
_Static_assert(IN_EVENTS > IN_TENSORS, "no type has the bits of the events");

/* How the value of a key is read into its field. */
enum header_kind {
    READ_VERSION,
    READ_TYPE,
    READ_EVENT,
    READ_JOB,
    READ_RUN,
    READ_U32,
    READ_POSITIVE,
    READ_HEADS,
    READ_U64,
    READ_BOOL,
    READ_SCALE,
    READ_POSITIVE_REAL,
    READ_NOT_NEGATIVE,
    READ_STACK,
    READ_SITE,
    READ_TENSORS,
    READ_PARTS,
    READ_SUMS,
    READ_QUERIES,
    READ_KEYS,
    READ_OF_WEIGHTS,
    READ_STORED,
    READ_FROZEN,
    READ_Q_LEN,
    READ_K_LEN,
    READ_LABELS,
    READ_MODULE,
    READ_LAYERS,
    READ_CLIENT,
    READ_SETTINGS,
    READ_OWN_WINDOW,
    READ_VALUES,
    READ_FAILURE,
    READ_AFTER,
};

struct header_rule {
    const char *key;
    unsigned needed, used; /* scopes in which the key must be, may be */
    enum header_kind kind;
    size_t offset; /* of the field */
    uint64_t max;  /* of a whole number */
};

/* Copies a text and ends it. */
static int read_text(const msgpack_object *value, bool (*valid)(const char *text, size_t length),
                     int err_invalid, char *field)
{
    if (value->type != MSGPACK_OBJECT_STR) {
        return ERR_KEY_TYPE;
    }
    if (!valid(value->via.str.ptr, value->via.str.size)) {
        return err_invalid;
    }
    if (value->via.str.size > 0) {
        memcpy(field, value->via.str.ptr, value->via.str.size);
    }
    field[value->via.str.size] = '\0';
    return 0;
}

static bool client_valid(const char *text, size_t length)
{
    bool valid = length <= CLIENT_NAME_MAX;
    for (size_t i = 0; i < length && valid; i++) {
        valid = text[i] >= ' ' && text[i] <= '~';
    }
    return valid;
}

static int header_read_run(const msgpack_object *value, uint8_t *run)
{
    if (value->type != MSGPACK_OBJECT_BIN) {
        return ERR_KEY_TYPE;
    }
    if (value->via.bin.size != RUN_BYTES) {
        return ERR_KEY_RANGE;
    }
    memcpy(run, value->via.bin.ptr, RUN_BYTES);
    return 0;
}

static int header_read_u32(const msgpack_object *value, uint64_t min, uint64_t max, uint32_t *field)
{
    uint64_t number;
    int rc = mpk_get_u64(value, max, &number);
    if (!rc) {
        *field = (uint32_t)number;
    }
    return !rc && number < min ? ERR_KEY_RANGE : rc;
}

/* A scale of 0 would leave nothing of the queries and keys. */
static int read_real(const msgpack_object *value, enum header_kind kind, double *field)
{
    int rc = value->type == MSGPACK_OBJECT_NIL ? ERR_KEY_TYPE : mpk_get_f64(value, field);
    if (rc) {
        return rc;
    }
    return isfinite(*field) && (*field > 0 || (kind == READ_SCALE && *field < 0) ||
                                (kind == READ_NOT_NEGATIVE && !(*field < 0)))
               ? 0
               : ERR_KEY_RANGE;
}

static int read_lengths(const msgpack_object *value, uint32_t batch, uint32_t max,
                        int32_t **ret_lengths)
{
    int rc = 0;
    if (value->type != MSGPACK_OBJECT_ARRAY) {
        return ERR_KEY_TYPE;
    }
    if (value->via.array.size != batch) {
        return ERR_LENGTHS;
    }
    *ret_lengths = calloc(batch, sizeof **ret_lengths);
    if (!*ret_lengths) {
        return ERR_MEMORY;
    }
    for (uint32_t i = 0; i < batch && !rc; i++) {
        uint64_t length = 0;
        rc = mpk_get_u64(&value->via.array.ptr[i], max, &length);
        (*ret_lengths)[i] = (int32_t)length;
    }
    return rc == ERR_KEY_RANGE ? ERR_LENGTHS : rc;
}

/* Token texts: only checked. Their users read the frame again. */
static int check_labels(const msgpack_object *value)
{
    if (value->type != MSGPACK_OBJECT_ARRAY) {
        return ERR_KEY_TYPE;
    }
    for (uint32_t i = 0; i < value->via.array.size; i++) {
        if (value->via.array.ptr[i].type != MSGPACK_OBJECT_STR) {
            return ERR_KEY_TYPE;
        }
    }
    return 0;
}

/* A module goes to *modules, which has room for it and moves on. */
static int read_layer_info(const msgpack_object *value, char **modules, struct layer_info *ret_info)
{
    static const char *const names[] = {"stack", "layer", "site", "heads", "module"};
    const msgpack_object *found[5];
    const char *duplicate;
    int rc = mpk_collect(value, names, 5, found, &duplicate);
    if (rc) {
        return rc;
    }
    if (!found[0] || !found[1] || !found[2] || !found[3]) {
        return ERR_KEY_MISSING;
    }
    if ((rc = mpk_get_word(found[0], stack_names, 2, &ret_info->id.stack)) != 0 ||
        (rc = header_read_u32(found[1], 0, LAYER_MAX, &ret_info->id.layer)) != 0 ||
        (rc = mpk_get_word(found[2], site_names, 2, &ret_info->id.site)) != 0 ||
        (rc = header_read_u32(found[3], 1, HEADS_TOTAL_MAX, &ret_info->heads)) != 0 || !found[4]) {
        return rc;
    }
    rc = read_text(found[4], module_path_valid, ERR_KEY_RANGE, *modules);
    if (!rc) {
        ret_info->module = *modules;
        *modules += strlen(*modules) + 1;
    }
    return rc;
}

static int header_read_layers(const msgpack_object *value, struct header *header)
{
    if (value->type != MSGPACK_OBJECT_ARRAY) {
        return ERR_KEY_TYPE;
    }
    uint32_t count = value->via.array.size;
    if (count > HELLO_LAYERS_MAX) {
        return ERR_KEY_RANGE;
    }
    if (count == 0) {
        return 0;
    }
    header->layers = calloc(count, sizeof *header->layers);
    /* Bytes of all modules in a list of layers, with a NUL each; at most what the header has. */
    size_t size = 0;
    for (uint32_t i = 0; i < count; i++) {
        const msgpack_object *module = mpk_find(&value->via.array.ptr[i], "module");
        size += module && module->type == MSGPACK_OBJECT_STR ? module->via.str.size + 1 : 0;
    }
    char *modules = header->layer_modules = malloc(size + 1);
    if (!header->layers || !modules) {
        return ERR_MEMORY;
    }
    int rc = 0;
    for (uint32_t i = 0; i < count && !rc; i++) {
        rc = read_layer_info(&value->via.array.ptr[i], &modules, &header->layers[i]);
    }
    header->layer_count = count;
    return rc;
}

static int header_read_failure(const msgpack_object *value, struct header *header)
{
    header->failure = calloc(1, sizeof *header->failure);
    if (!header->failure) {
        return ERR_MEMORY;
    }
    int rc = failure_read(value, header->failure);
    header->failure->step = header->step;
    header->failure->rank = header->rank;
    return rc;
}

static int header_read(const struct header_rule *rule, const msgpack_object *value,
                       struct header *header)
{
    void *field = (char *)header + rule->offset;
    uint64_t version = 0;
    int rc;
    switch (rule->kind) {
    case READ_VERSION:
        rc = mpk_get_u64(value, UINT64_MAX, &version);
        return rc || version != PROTO_VERSION ? ERR_VERSION : 0;
    case READ_TYPE:
        rc = mpk_get_word(value, types, sizeof types / sizeof types[0], field);
        return rc == ERR_KEY_RANGE ? ERR_TYPE_UNKNOWN : rc;
    case READ_EVENT:
        rc = mpk_get_word(value, events, sizeof events / sizeof events[0], field);
        return rc == ERR_KEY_RANGE ? ERR_EVENT_UNKNOWN : rc;
    case READ_JOB:
        return read_text(value, job_name_valid, ERR_JOB_NAME, field);
    case READ_RUN:
        return header_read_run(value, field);
    case READ_U32:
    case READ_POSITIVE:
        return header_read_u32(value, rule->kind == READ_POSITIVE, rule->max, field);
    case READ_HEADS: /* which no shape tells; what follows unless the keys to come say otherwise */
        rc = header_read_u32(value, 1, rule->max, field);
        header->kv_heads = header->heads_total = header->heads;
        return rc;
    case READ_U64:
        return mpk_get_u64(value, rule->max, field);
    case READ_BOOL:
        return mpk_get_bool(value, field);
    case READ_SCALE:
    case READ_POSITIVE_REAL:
    case READ_NOT_NEGATIVE:
        return read_real(value, rule->kind, field);
    case READ_STACK:
        return mpk_get_word(value, stack_names, 2, field);
    case READ_SITE:
        return mpk_get_word(value, site_names, 2, field);
    case READ_TENSORS:
        return header_read_tensors(value, header);
    case READ_PARTS:
        return header_read_parts(value, header);
    case READ_SUMS:
        return header_read_sums(value, header);
    case READ_QUERIES:
        return header_read_queries(value, header);
    case READ_KEYS:
        return header_read_keys(value, header);
    case READ_OF_WEIGHTS:
        return header_read_of_weights(value, header);
    case READ_STORED:
        return header_read_stored(value, header);
    case READ_FROZEN:
        return header_read_frozen(value, header);
    case READ_Q_LEN:
        return read_lengths(value, header->batch, header->queries, field);
    case READ_K_LEN:
        return read_lengths(value, header->batch, header->keys, field);
    case READ_LABELS:
        return check_labels(value);
    case READ_MODULE:
        return read_text(value, module_path_valid, ERR_KEY_RANGE, field);
    case READ_LAYERS:
        return header_read_layers(value, header);
    case READ_CLIENT:
        return read_text(value, client_valid, ERR_KEY_RANGE, field);
    case READ_SETTINGS:
        return named_read_settings(value, field);
    case READ_OWN_WINDOW:
        return own_window_read(value, field);
    case READ_VALUES:
        return named_read_values(value, field);
    case READ_FAILURE:
        return header_read_failure(value, header);
    case READ_AFTER:
        break;
    }
    return header_read_after(value, header);
}

/* KEY(name, needed in, used in, kind, field, largest number), in the order of checking. */
#define NO_FIELD         0, 0
#define FIELD(name, max) offsetof(struct header, name), max
#define KEYS(KEY)                                                                                  \
    KEY(v, IN_ALL, IN_ALL, READ_VERSION, NO_FIELD)                                                 \
    KEY(type, IN_ALL, IN_ALL, READ_TYPE, FIELD(type, 0))                                           \
    KEY(event, IN_EVENTS, IN_EVENTS, READ_EVENT, FIELD(event, 0))                                  \
    KEY(job, IN_ALL, IN_ALL, READ_JOB, FIELD(job, 0))                                              \
    KEY(run, IN_ALL, IN_ALL, READ_RUN, FIELD(run, 0))                                              \
    KEY(rank, IN_ALL, IN_ALL, READ_U32, FIELD(rank, WORLD_MAX - 1))                                \
    KEY(world, IN_ALL, IN_ALL, READ_U32, FIELD(world, WORLD_MAX))                                  \
    KEY(seq, IN_ALL, IN_ALL, READ_U64, FIELD(seq, COUNT_MAX))                                      \
    KEY(dropped, IN_ALL, IN_ALL, READ_U64, FIELD(dropped, COUNT_MAX))                              \
    KEY(time_ns, IN_ALL, IN_ALL, READ_U64, FIELD(time_ns, COUNT_MAX))                              \
    KEY(epoch, IN_ALL, IN_ALL, READ_U64, FIELD(epoch, COUNT_MAX))                                  \
    KEY(step, IN_ALL, IN_ALL, READ_U64, FIELD(step, COUNT_MAX))                                    \
    KEY(reliable, OPTIONAL, IN_ALL, READ_BOOL, FIELD(reliable, 0))                                 \
    KEY(stack, IN_TENSORS, IN_TENSORS, READ_STACK, FIELD(layer.stack, 0))                          \
    KEY(layer, IN_TENSORS, IN_TENSORS, READ_U32, FIELD(layer.layer, LAYER_MAX))                    \
    KEY(site, IN_TENSORS, IN_TENSORS, READ_SITE, FIELD(layer.site, 0))                             \
    KEY(tensors, IN_TENSORS, IN_TENSORS, READ_TENSORS, NO_FIELD)                                   \
    KEY(heads, IN_WEIGHTS, IN_WEIGHTS, READ_HEADS, FIELD(heads, HEADS_TOTAL_MAX))                  \
    KEY(kv_heads, OPTIONAL, IN_WEIGHTS, READ_POSITIVE, FIELD(kv_heads, HEADS_TOTAL_MAX))           \
    KEY(head_dim, IN_WEIGHTS, IN_WEIGHTS, READ_POSITIVE, FIELD(head_dim, INT32_MAX))               \
    KEY(parts, OPTIONAL, IN_WEIGHTS, READ_PARTS, NO_FIELD)                                         \
    KEY(sums, IN_ROWS, IN_ROWS, READ_SUMS, NO_FIELD)                                               \
    KEY(queries, IN_ROWS, IN_ROWS, READ_QUERIES, NO_FIELD)                                         \
    KEY(keys, IN_ROWS, IN_ROWS, READ_KEYS, NO_FIELD)                                               \
    KEY(weights, OPTIONAL, IN_ROWS, READ_OF_WEIGHTS, NO_FIELD)                                     \
    KEY(local_window, OPTIONAL, IN_ROWS, READ_U32, FIELD(local_window, INT32_MAX))                 \
    KEY(stored, IN_SKETCH, IN_SKETCH, READ_STORED, NO_FIELD)                                       \
    KEY(frozen, OPTIONAL, IN_SKETCH, READ_FROZEN, NO_FIELD)                                        \
    KEY(scale, IN_QK, IN_QK, READ_SCALE, FIELD(scale, 0))                                          \
    KEY(softcap, OPTIONAL, IN_QK, READ_NOT_NEGATIVE, FIELD(softcap, 0))                            \
    KEY(q_offset, OPTIONAL, IN_MEASURED, READ_U32, FIELD(q_offset, UINT32_MAX))                    \
    KEY(q_stride, OPTIONAL, IN_MAPS, READ_POSITIVE, FIELD(q_stride, UINT32_MAX))                   \
    KEY(causal, OPTIONAL, IN_MEASURED, READ_BOOL, FIELD(causal, 0))                                \
    KEY(window, OPTIONAL, IN_MAPS, READ_U32, FIELD(window, UINT32_MAX))                            \
    KEY(q_len, OPTIONAL, IN_MAPS, READ_Q_LEN, FIELD(q_len, 0))                                     \
    KEY(k_len, OPTIONAL, IN_MEASURED, READ_K_LEN, FIELD(k_len, 0))                                 \
    KEY(head_offset, OPTIONAL, IN_HEADS, READ_U32, FIELD(head_offset, HEADS_TOTAL_MAX))            \
    KEY(map_queries, OPTIONAL, IN_ROWS, READ_POSITIVE, FIELD(maps.queries, INT32_MAX))             \
    KEY(map_keys, OPTIONAL, IN_ROWS, READ_POSITIVE, FIELD(maps.keys, INT32_MAX))                   \
    KEY(first_query, OPTIONAL, IN_ROWS, READ_U32, FIELD(maps.first_query, INT32_MAX))              \
    KEY(first_key, OPTIONAL, IN_ROWS, READ_U32, FIELD(maps.first_key, INT32_MAX))                  \
    KEY(sample, OPTIONAL, IN_MEASURED, READ_U32, FIELD(maps.sample, INT32_MAX))                    \
    KEY(sample_stride, OPTIONAL, IN_MEASURED, READ_POSITIVE, FIELD(sample_stride, INT32_MAX))      \
    KEY(batch, OPTIONAL, IN_MEASURED, READ_POSITIVE, FIELD(whole_batch, INT32_MAX))                \
    KEY(heads_total, OPTIONAL, IN_TENSORS, READ_U32, FIELD(heads_total, HEADS_TOTAL_MAX))          \
    KEY(dropout, OPTIONAL, IN_MEASURED, READ_BOOL, FIELD(dropout, 0))                              \
    KEY(learned_sink, OPTIONAL, IN_MEASURED, READ_BOOL, FIELD(learned_sink, 0))                    \
    KEY(labels, OPTIONAL, IN_MEASURED, READ_LABELS, NO_FIELD)                                      \
    KEY(q_labels, OPTIONAL, IN_MEASURED, READ_LABELS, NO_FIELD)                                    \
    KEY(microbatch, OPTIONAL, IN_MEASURED, READ_U32, FIELD(microbatch, UINT32_MAX))                \
    KEY(module, OPTIONAL, IN_TENSORS, READ_MODULE, FIELD(module, 0))                               \
    KEY(dropped_total, OPTIONAL, IN_EVENTS, READ_U64, FIELD(dropped_total, COUNT_MAX))             \
    KEY(layers, OPTIONAL, IN_HELLO, READ_LAYERS, NO_FIELD)                                         \
    KEY(client, OPTIONAL, IN_HELLO, READ_CLIENT, FIELD(client, 0))                                 \
    KEY(settings, OPTIONAL, IN_HELLO, READ_SETTINGS, FIELD(settings, 0))                           \
    KEY(step_seconds, OPTIONAL, IN_HELLO, READ_POSITIVE_REAL, FIELD(step_seconds, 0))              \
    KEY(capture_seconds, OPTIONAL, IN_HELLO, READ_NOT_NEGATIVE, FIELD(capture_seconds, 0))         \
    KEY(alive, OPTIONAL, IN_HELLO, READ_BOOL, FIELD(alive, 0))                                     \
    KEY(own_every, OPTIONAL, IN_HELLO, READ_POSITIVE, FIELD(own_every, EVERY_MAX))                 \
    KEY(own_window, OPTIONAL, IN_HELLO, READ_OWN_WINDOW, FIELD(own_window, 0))                     \
    KEY(values, IN_LOG, IN_LOG, READ_VALUES, FIELD(values, 0))                                     \
    KEY(failure, OPTIONAL, IN_BYE, READ_FAILURE, NO_FIELD)                                         \
    KEY(after, OPTIONAL, IN_TENSORS | IN_EVENTS, READ_AFTER, NO_FIELD)

#define RULE(name, needed, used, kind, field)  {#name, needed, used, kind, field},
#define NAME(name, needed, used, kind, field)  #name,
#define INDEX(name, needed, used, kind, field) KEY_##name,

enum { KEYS(INDEX) KEY_COUNT };
static const struct header_rule rules[] = {KEYS(RULE)};
static const char *const key_names[] = {KEYS(NAME)};

const char *header_wanted(const char *key)
{
    unsigned i = 0;
    while (i < KEY_COUNT && strcmp(rules[i].key, key) != 0) {
        i++;
    }
    if (i == KEY_time_ns) {
        return "an integer of nanoseconds since 1970, no float";
    }
    switch (i < KEY_COUNT ? rules[i].kind : READ_VALUES) {
    case READ_RUN:
        return "a binary of 16 bytes";
    case READ_U32:
    case READ_POSITIVE:
    case READ_HEADS:
    case READ_QUERIES:
    case READ_KEYS:
    case READ_U64:
        return "an integer, no float";
    case READ_BOOL:
        return "true or false";
    case READ_SCALE:
    case READ_POSITIVE_REAL:
    case READ_NOT_NEGATIVE:
        return "a number";
    default:
        return NULL;
    }
}

static unsigned scope_of(const struct header *header)
{
    bool event = header->type == MESSAGE_EVENT;
    return 1u << header->type | (event && header->event == EVENT_HELLO ? (unsigned)IN_HELLO : 0) |
           (event && header->event == EVENT_LOG ? (unsigned)IN_LOG : 0) |
           (event && header->event == EVENT_BYE ? (unsigned)IN_BYE : 0);
}

/* Reads one key into its field. */
static int header_apply(const struct header_rule *rule, const msgpack_object *value,
                        struct header *header)
{
    unsigned scope = scope_of(header);
    if (!(rule->used & scope)) {
        return 0;
    }
    if (!value) {
        return rule->needed & scope ? ERR_KEY_MISSING : 0;
    }
    return header_read(rule, value, header);
}

static int decode_map(const msgpack_object *map, struct header *header, const char **reterr_key)
{
    const msgpack_object *values[KEY_COUNT];
    int rc_keys = mpk_collect(map, key_names, KEY_COUNT, values, reterr_key), rc = 0;
    const char *duplicate = *reterr_key;
    /* The job that a refusal is counted for, even one for the version. */
    if (values[KEY_job]) {
        read_text(values[KEY_job], job_name_valid, ERR_JOB_NAME, header->job);
    }
    for (unsigned i = 0; i < KEY_COUNT && !rc; i++) {
        *reterr_key = rules[i].key;
        rc = header_apply(&rules[i], values[i], header);
        /* Another version may mean something by a repeated key; this one does not. */
        if (i == KEY_v && !rc && rc_keys) {
            *reterr_key = duplicate;
            rc = rc_keys;
        }
    }
    if (rc) {
        return rc;
    }
    if (header->rank >= header->world) {
        *reterr_key = "rank";
        return ERR_KEY_RANGE;
    }
    if (header->capture_seconds > 0 && !(header->step_seconds > 0)) {
        *reterr_key = "step_seconds";
        return ERR_KEY_MISSING;
    }
    if (header->type == MESSAGE_EVENT) {
        return 0;
    }
    header_set_maps_of_rows(header);
    header_set_heads_of_sketch(header);
    /* Neither number is above 2^31, so the sum is exact. */
    if (header->heads_total > HEADS_TOTAL_MAX ||
        (uint64_t)header->head_offset + header->heads > header->heads_total) {
        *reterr_key = "heads_total";
        return ERR_KEY_RANGE;
    }
    if (header_last_position(header) >= UINT32_MAX) {
        *reterr_key = header->q_offset > UINT32_MAX - header->queries ? "q_offset" : "q_stride";
        return ERR_KEY_RANGE;
    }
    if (header->whole_batch &&
        header_sample_number(header, header->batch - 1) >= header->whole_batch) {
        *reterr_key = "batch";
        return ERR_KEY_RANGE;
    }
    rc = header->type == MESSAGE_ROWS     ? header_check_rows(header, reterr_key)
         : header->type == MESSAGE_SKETCH ? header_check_sketch(header, reterr_key)
                                          : 0;
    return rc ? rc : header_check_tensors(header, reterr_key);
}

int header_decode(const void *buf, size_t len, struct header *ret_header, const char **reterr_key)
{
    struct mpk_doc doc;
    const char *key = NULL;
    int rc = mpk_parse(buf, len, &mpk_header_limits, &doc);
    memset(ret_header, 0, sizeof *ret_header);
    if (rc == 0) {
        rc = doc.root->type == MSGPACK_OBJECT_MAP ? decode_map(doc.root, ret_header, &key)
                                                  : ERR_HEADER_NOT_MAP;
        mpk_doc_clear(&doc);
    }
    if (rc) {
        header_clear(ret_header);
        *reterr_key = key;
    }
    return rc;
}

void header_clear(struct header *header)
{
    free(header->layers);
    free(header->layer_modules);
    free(header->q_len);
    free(header->k_len);
    named_clear(&header->settings);
    named_clear(&header->values);
    free(header->after);
    free(header->failure);
    header->failure = NULL;
    header->after = NULL;
    header->after_count = 0;
    header->layers = NULL;
    header->layer_modules = NULL;
    header->layer_count = 0;
    header->q_len = NULL;
    header->k_len = NULL;
}

int header_check_frames(const struct header *header, const size_t *frame_bytes, size_t frames)
{
    uint32_t expected = header->type == MESSAGE_EVENT ? 0 : header->tensor_count;
    if (frames < expected) {
        return ERR_FRAMES_MISSING;
    }
    if (frames > expected) {
        return ERR_FRAMES_EXTRA;
    }
    for (uint32_t i = 0; i < expected; i++) {
        if (frame_bytes[i] != header->tensors[i].bytes) {
            return ERR_SIZE_MISMATCH;
        }
    }
    return 0;
}

uint32_t header_frame_of(const struct header *header, enum tensor_role role)
{
    const struct tensor *tensor = header_find_tensor(header, role);
    return tensor ? 2 + (uint32_t)(tensor - header->tensors) : 0;
}

static const char *const window_units[] = {
    [WINDOW_EPOCH] = "epoch", [WINDOW_STEP] = "step", [WINDOW_SECOND] = "second"};

const char *window_unit_name(enum window_unit unit)
{
    return window_units[unit];
}

int own_window_read(const msgpack_object *value, struct own_window *ret_window)
{
    static const char *const names[] = {"unit", "length"};
    const msgpack_object *found[2];
    const char *duplicate;
    struct own_window window;
    int rc = mpk_collect(value, names, 2, found, &duplicate);
    if (rc) {
        return rc;
    }
    if (!found[0] || !found[1]) {
        return ERR_KEY_MISSING;
    }
    if ((rc = mpk_get_word(found[0], window_units, WINDOW_UNIT_COUNT, &window.unit)) != 0 ||
        (rc = mpk_get_u64(found[1], OWN_WINDOW_MAX, &window.length)) != 0) {
        return rc;
    }
    if (window.length == 0) {
        return ERR_KEY_RANGE;
    }
    *ret_window = window;
    return 0;
}

void own_window_put(const struct own_window *window, struct mpk_writer *writer)
{
    mpk_put_map(writer, 2);
    mpk_pair_str(writer, "unit", window_unit_name(window->unit));
    mpk_pair_u64(writer, "length", window->length);
}

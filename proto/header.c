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

static const char *const types[] = {
    [MESSAGE_ATTENTION] = "attention", [MESSAGE_QK] = "qk",       [MESSAGE_WEIGHTS] = "weights",
    [MESSAGE_STATE] = "state",         [MESSAGE_EVENT] = "event",
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

/* The messages that a key belongs to. */
enum scope {
    OPTIONAL = 0,
    IN_ATTENTION = 1,
    IN_QK = 2,
    IN_MAPS = IN_ATTENTION | IN_QK,
    IN_WEIGHTS = 4,
    IN_STATE = 8,
    IN_TENSORS = IN_MAPS | IN_WEIGHTS | IN_STATE,
    IN_SHOWN = IN_MAPS | IN_STATE, /* those that have maps to look at */
    IN_EVENTS = 16,
    IN_HELLO = 32,
    IN_LOG = 64,
    IN_SLICED = IN_MAPS | IN_WEIGHTS,
    IN_COUNTED = IN_WEIGHTS | IN_STATE, /* whose heads no tensor tells */
    IN_ALL = IN_TENSORS | IN_EVENTS | IN_HELLO | IN_LOG
};

struct header_rule {
    const char *key;
    unsigned needed, used; /* scopes in which the key must be, may be */
    int (*read)(const struct header_rule *rule, const msgpack_object *value, struct header *header);
    size_t offset; /* of the field, for the readers of plain numbers */
    uint64_t max;  /* of the number */
};

/* Sets *ret_position to that of a word in a list. */
static int header_read_word(const msgpack_object *value, const char *const *words, unsigned count,
                            int err_unknown, unsigned *ret_position)
{
    if (value->type != MSGPACK_OBJECT_STR) {
        return ERR_KEY_TYPE;
    }
    for (unsigned i = 0; i < count; i++) {
        if (mpk_is_str(value, words[i])) {
            *ret_position = i;
            return 0;
        }
    }
    return err_unknown;
}

static int header_read_u32(const struct header_rule *rule, const msgpack_object *value,
                           struct header *header)
{
    uint64_t number;
    int rc = mpk_get_u64(value, rule->max, &number);

    if (!rc) {
        *(uint32_t *)(void *)((char *)header + rule->offset) = (uint32_t)number;
    }
    return rc;
}

static int header_read_u64(const struct header_rule *rule, const msgpack_object *value,
                           struct header *header)
{
    return mpk_get_u64(value, rule->max, (uint64_t *)(void *)((char *)header + rule->offset));
}

static int read_bool(const struct header_rule *rule, const msgpack_object *value,
                     struct header *header)
{
    return mpk_get_bool(value, (bool *)((char *)header + rule->offset));
}

static int read_version(const struct header_rule *rule, const msgpack_object *value,
                        struct header *header)
{
    uint64_t version;

    (void)rule;
    (void)header;
    return mpk_get_u64(value, UINT64_MAX, &version) == 0 && version == PROTO_VERSION ? 0
                                                                                     : ERR_VERSION;
}

static int read_type(const struct header_rule *rule, const msgpack_object *value,
                     struct header *header)
{
    unsigned type;
    int rc =
        header_read_word(value, types, sizeof types / sizeof types[0], ERR_TYPE_UNKNOWN, &type);

    (void)rule;
    if (rc) {
        return rc;
    }
    header->type = (enum message_type)type;
    return 0;
}

static int read_event(const struct header_rule *rule, const msgpack_object *value,
                      struct header *header)
{
    unsigned event;
    int rc = header_read_word(value, events, 4, ERR_EVENT_UNKNOWN, &event);

    (void)rule;
    if (!rc) {
        header->event = (enum event_type)event;
    }
    return rc;
}

static int header_read_job(const struct header_rule *rule, const msgpack_object *value,
                           struct header *header)
{
    (void)rule;
    if (value->type != MSGPACK_OBJECT_STR) {
        return ERR_KEY_TYPE;
    }
    if (!job_name_valid(value->via.str.ptr, value->via.str.size)) {
        return ERR_JOB_NAME;
    }
    memcpy(header->job, value->via.str.ptr, value->via.str.size);
    header->job[value->via.str.size] = '\0';
    return 0;
}

static int header_read_run(const struct header_rule *rule, const msgpack_object *value,
                           struct header *header)
{
    (void)rule;
    if (value->type != MSGPACK_OBJECT_BIN) {
        return ERR_KEY_TYPE;
    }
    if (value->via.bin.size != RUN_BYTES) {
        return ERR_KEY_RANGE;
    }
    memcpy(header->run, value->via.bin.ptr, RUN_BYTES);
    return 0;
}

static int get_stack(const msgpack_object *value, enum stack *ret_stack)
{
    const char *const words[] = {stack_name(STACK_ENCODER), stack_name(STACK_DECODER)};
    unsigned position;
    int rc = header_read_word(value, words, 2, ERR_KEY_RANGE, &position);

    if (!rc) {
        *ret_stack = (enum stack)position;
    }
    return rc;
}

static int get_site(const msgpack_object *value, enum site *ret_site)
{
    const char *const words[] = {site_name(SITE_SELF), site_name(SITE_CROSS)};
    unsigned position;
    int rc = header_read_word(value, words, 2, ERR_KEY_RANGE, &position);

    if (!rc) {
        *ret_site = (enum site)position;
    }
    return rc;
}

static int read_stack(const struct header_rule *rule, const msgpack_object *value,
                      struct header *header)
{
    (void)rule;
    return get_stack(value, &header->layer.stack);
}

static int read_site(const struct header_rule *rule, const msgpack_object *value,
                     struct header *header)
{
    (void)rule;
    return get_site(value, &header->layer.site);
}

static int proto_header_read_tensors(const struct header_rule *rule, const msgpack_object *value,
                                     struct header *header)
{
    (void)rule;
    return header_read_tensors(value, header);
}

static int read_positive(const struct header_rule *rule, const msgpack_object *value,
                         struct header *header)
{
    int rc = header_read_u32(rule, value, header);

    if (!rc && *(uint32_t *)(void *)((char *)header + rule->offset) == 0) {
        rc = ERR_KEY_RANGE;
    }
    return rc;
}

/* The heads of matrices, which no shape tells; what follows from them unless the keys to come say
 * otherwise. */
static int header_read_heads(const struct header_rule *rule, const msgpack_object *value,
                             struct header *header)
{
    int rc = read_positive(rule, value, header);

    header->kv_heads = header->heads_total = header->heads;
    return rc;
}

static int proto_header_read_parts(const struct header_rule *rule, const msgpack_object *value,
                                   struct header *header)
{
    (void)rule;
    return header_read_parts(value, header);
}

static int read_real(const struct header_rule *rule, const msgpack_object *value,
                     struct header *header)
{
    double *field = (double *)(void *)((char *)header + rule->offset);
    int rc = value->type == MSGPACK_OBJECT_NIL ? ERR_KEY_TYPE : mpk_get_f64(value, field);

    return !rc && !isfinite(*field) ? ERR_KEY_RANGE : rc;
}

static int read_positive_real(const struct header_rule *rule, const msgpack_object *value,
                              struct header *header)
{
    int rc = read_real(rule, value, header);

    return !rc && !(*(double *)(void *)((char *)header + rule->offset) > 0) ? ERR_KEY_RANGE : rc;
}

/* 0 would leave nothing of the queries and keys. */
static int read_scale(const struct header_rule *rule, const msgpack_object *value,
                      struct header *header)
{
    int rc = read_real(rule, value, header);

    return !rc && !(fabs(header->scale) > 0) ? ERR_KEY_RANGE : rc;
}

static int read_not_negative(const struct header_rule *rule, const msgpack_object *value,
                             struct header *header)
{
    int rc = read_real(rule, value, header);

    return !rc && *(double *)(void *)((char *)header + rule->offset) < 0 ? ERR_KEY_RANGE : rc;
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

static int read_q_len(const struct header_rule *rule, const msgpack_object *value,
                      struct header *header)
{
    (void)rule;
    return read_lengths(value, header->batch, header->queries, &header->q_len);
}

static int read_k_len(const struct header_rule *rule, const msgpack_object *value,
                      struct header *header)
{
    (void)rule;
    return read_lengths(value, header->batch, header->keys, &header->k_len);
}

/* Token texts: only checked. Their users read the frame again. */
static int header_read_labels(const struct header_rule *rule, const msgpack_object *value,
                              struct header *header)
{
    (void)rule;
    (void)header;
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

/* Copies the path of a module to `ret_path` and ends it; returns 0 or an error. */
static int read_path(const msgpack_object *value, char *ret_path)
{
    if (value->type != MSGPACK_OBJECT_STR) {
        return ERR_KEY_TYPE;
    }
    if (!module_path_valid(value->via.str.ptr, value->via.str.size)) {
        return ERR_KEY_RANGE;
    }
    memcpy(ret_path, value->via.str.ptr, value->via.str.size);
    ret_path[value->via.str.size] = '\0';
    return 0;
}

static int read_module(const struct header_rule *rule, const msgpack_object *value,
                       struct header *header)
{
    (void)rule;
    return read_path(value, header->module);
}

/* A module goes to *modules, which has room for it and moves on. */
static int read_layer_info(const msgpack_object *value, char **modules, struct layer_info *ret_info)
{
    static const char *const names[] = {"stack", "layer", "site", "heads", "module"};
    const msgpack_object *found[5];
    const char *duplicate;
    uint64_t layer, heads;
    int rc = mpk_collect(value, names, 5, found, &duplicate);

    if (rc) {
        return rc;
    }
    if (!found[0] || !found[1] || !found[2] || !found[3]) {
        return ERR_KEY_MISSING;
    }
    if ((rc = get_stack(found[0], &ret_info->id.stack)) != 0 ||
        (rc = mpk_get_u64(found[1], LAYER_MAX, &layer)) != 0 ||
        (rc = get_site(found[2], &ret_info->id.site)) != 0 ||
        (rc = mpk_get_u64(found[3], HEADS_TOTAL_MAX, &heads)) != 0) {
        return rc;
    }
    if (found[4]) {
        if ((rc = read_path(found[4], *modules)) != 0) {
            return rc;
        }
        ret_info->module = *modules;
        *modules += strlen(*modules) + 1;
    }
    ret_info->id.layer = (uint32_t)layer;
    ret_info->heads = (uint32_t)heads;
    return heads > 0 ? 0 : ERR_KEY_RANGE;
}

/* Bytes of all modules in a list of layers, with a NUL each; at most what the header has. */
static size_t modules_size(const msgpack_object *list)
{
    size_t size = 0;

    for (uint32_t i = 0; i < list->via.array.size; i++) {
        const msgpack_object *module = mpk_find(&list->via.array.ptr[i], "module");

        size += module && module->type == MSGPACK_OBJECT_STR ? module->via.str.size + 1 : 0;
    }
    return size;
}

static int header_read_layers(const struct header_rule *rule, const msgpack_object *value,
                              struct header *header)
{
    uint32_t count;
    char *modules;
    int rc = 0;

    (void)rule;
    if (value->type != MSGPACK_OBJECT_ARRAY) {
        return ERR_KEY_TYPE;
    }
    count = value->via.array.size;
    if (count > HELLO_LAYERS_MAX) {
        return ERR_KEY_RANGE;
    }
    if (count == 0) {
        return 0;
    }
    header->layers = calloc(count, sizeof *header->layers);
    modules = header->layer_modules = malloc(modules_size(value) + 1);
    if (!header->layers || !modules) {
        return ERR_MEMORY;
    }
    for (uint32_t i = 0; i < count && !rc; i++) {
        rc = read_layer_info(&value->via.array.ptr[i], &modules, &header->layers[i]);
    }
    header->layer_count = count;
    return rc;
}

static int read_client(const struct header_rule *rule, const msgpack_object *value,
                       struct header *header)
{
    (void)rule;
    if (value->type != MSGPACK_OBJECT_STR) {
        return ERR_KEY_TYPE;
    }
    if (value->via.str.size > CLIENT_NAME_MAX) {
        return ERR_KEY_RANGE;
    }
    for (uint32_t i = 0; i < value->via.str.size; i++) {
        if (value->via.str.ptr[i] < ' ' || value->via.str.ptr[i] > '~') {
            return ERR_KEY_RANGE;
        }
    }
    if (value->via.str.size > 0) {
        memcpy(header->client, value->via.str.ptr, value->via.str.size);
    }
    return 0;
}

static int header_read_own_window(const struct header_rule *rule, const msgpack_object *value,
                                  struct header *header)
{
    (void)rule;
    return own_window_read(value, &header->own_window);
}

static int header_read_settings(const struct header_rule *rule, const msgpack_object *value,
                                struct header *header)
{
    (void)rule;
    return named_read_settings(value, &header->settings);
}

static int header_read_values(const struct header_rule *rule, const msgpack_object *value,
                              struct header *header)
{
    (void)rule;
    return named_read_values(value, &header->values);
}

static int proto_header_read_after(const struct header_rule *rule, const msgpack_object *value,
                                   struct header *header)
{
    (void)rule;
    return header_read_after(value, header);
}

/* KEY(name, needed in, used in, reader, field, largest number), in the order of checking. */
#define NO_FIELD         0, 0
#define FIELD(name, max) offsetof(struct header, name), max
#define KEYS(KEY)                                                                                  \
    KEY(v, IN_ALL, IN_ALL, read_version, NO_FIELD)                                                 \
    KEY(type, IN_ALL, IN_ALL, read_type, NO_FIELD)                                                 \
    KEY(event, IN_EVENTS, IN_EVENTS, read_event, NO_FIELD)                                         \
    KEY(job, IN_ALL, IN_ALL, header_read_job, NO_FIELD)                                            \
    KEY(run, IN_ALL, IN_ALL, header_read_run, NO_FIELD)                                            \
    KEY(rank, IN_ALL, IN_ALL, header_read_u32, FIELD(rank, WORLD_MAX - 1))                         \
    KEY(world, IN_ALL, IN_ALL, header_read_u32, FIELD(world, WORLD_MAX))                           \
    KEY(seq, IN_ALL, IN_ALL, header_read_u64, FIELD(seq, COUNT_MAX))                               \
    KEY(dropped, IN_ALL, IN_ALL, header_read_u64, FIELD(dropped, COUNT_MAX))                       \
    KEY(time_ns, IN_ALL, IN_ALL, header_read_u64, FIELD(time_ns, COUNT_MAX))                       \
    KEY(epoch, IN_ALL, IN_ALL, header_read_u64, FIELD(epoch, COUNT_MAX))                           \
    KEY(step, IN_ALL, IN_ALL, header_read_u64, FIELD(step, COUNT_MAX))                             \
    KEY(reliable, OPTIONAL, IN_ALL, read_bool, FIELD(reliable, 0))                                 \
    KEY(stack, IN_TENSORS, IN_TENSORS, read_stack, NO_FIELD)                                       \
    KEY(layer, IN_TENSORS, IN_TENSORS, header_read_u32, FIELD(layer.layer, LAYER_MAX))             \
    KEY(site, IN_TENSORS, IN_TENSORS, read_site, NO_FIELD)                                         \
    KEY(tensors, IN_TENSORS, IN_TENSORS, proto_header_read_tensors, NO_FIELD)                      \
    KEY(heads, IN_COUNTED, IN_COUNTED, header_read_heads, FIELD(heads, HEADS_TOTAL_MAX))           \
    KEY(kv_heads, OPTIONAL, IN_WEIGHTS, read_positive, FIELD(kv_heads, HEADS_TOTAL_MAX))           \
    KEY(head_dim, IN_WEIGHTS, IN_WEIGHTS, read_positive, FIELD(head_dim, INT32_MAX))               \
    KEY(parts, OPTIONAL, IN_WEIGHTS, proto_header_read_parts, NO_FIELD)                            \
    KEY(scale, IN_QK, IN_QK, read_scale, FIELD(scale, 0))                                          \
    KEY(softcap, OPTIONAL, IN_QK, read_not_negative, FIELD(softcap, 0))                            \
    KEY(q_offset, OPTIONAL, IN_SHOWN, header_read_u32, FIELD(q_offset, UINT32_MAX))                \
    KEY(q_stride, OPTIONAL, IN_MAPS, read_positive, FIELD(q_stride, UINT32_MAX))                   \
    KEY(causal, OPTIONAL, IN_MAPS, read_bool, FIELD(causal, 0))                                    \
    KEY(window, OPTIONAL, IN_MAPS, header_read_u32, FIELD(window, UINT32_MAX))                     \
    KEY(q_len, OPTIONAL, IN_MAPS, read_q_len, NO_FIELD)                                            \
    KEY(k_len, OPTIONAL, IN_MAPS, read_k_len, NO_FIELD)                                            \
    KEY(head_offset, OPTIONAL, IN_SHOWN, header_read_u32, FIELD(head_offset, HEADS_TOTAL_MAX))     \
    KEY(first_epoch, IN_STATE, IN_STATE, header_read_u64, FIELD(first_epoch, COUNT_MAX))           \
    KEY(first_step, IN_STATE, IN_STATE, header_read_u64, FIELD(first_step, COUNT_MAX))             \
    KEY(queries, OPTIONAL, IN_STATE, read_positive, FIELD(maps.queries, INT32_MAX))                \
    KEY(keys, OPTIONAL, IN_STATE, read_positive, FIELD(maps.keys, INT32_MAX))                      \
    KEY(queries_sent, OPTIONAL, IN_STATE, read_positive, FIELD(maps.queries_sent, INT32_MAX))      \
    KEY(keys_sent, OPTIONAL, IN_STATE, read_positive, FIELD(maps.keys_sent, INT32_MAX))            \
    KEY(first_query, OPTIONAL, IN_STATE, header_read_u32, FIELD(maps.first_query, INT32_MAX))      \
    KEY(first_key, OPTIONAL, IN_STATE, header_read_u32, FIELD(maps.first_key, INT32_MAX))          \
    KEY(sample, OPTIONAL, IN_STATE, header_read_u32, FIELD(maps.sample, INT32_MAX))                \
    KEY(heads_total, OPTIONAL, IN_SLICED, header_read_u32, FIELD(heads_total, HEADS_TOTAL_MAX))    \
    KEY(dropout, OPTIONAL, IN_MAPS, read_bool, FIELD(dropout, 0))                                  \
    KEY(learned_sink, OPTIONAL, IN_MAPS, read_bool, FIELD(learned_sink, 0))                        \
    KEY(labels, OPTIONAL, IN_SHOWN, header_read_labels, NO_FIELD)                                  \
    KEY(q_labels, OPTIONAL, IN_SHOWN, header_read_labels, NO_FIELD)                                \
    KEY(microbatch, OPTIONAL, IN_MAPS, header_read_u32, FIELD(microbatch, UINT32_MAX))             \
    KEY(module, OPTIONAL, IN_TENSORS, read_module, NO_FIELD)                                       \
    KEY(dropped_total, OPTIONAL, IN_EVENTS, header_read_u64, FIELD(dropped_total, COUNT_MAX))      \
    KEY(layers, OPTIONAL, IN_HELLO, header_read_layers, NO_FIELD)                                  \
    KEY(client, OPTIONAL, IN_HELLO, read_client, NO_FIELD)                                         \
    KEY(settings, OPTIONAL, IN_HELLO, header_read_settings, NO_FIELD)                              \
    KEY(step_seconds, OPTIONAL, IN_HELLO, read_positive_real, FIELD(step_seconds, 0))              \
    KEY(capture_seconds, OPTIONAL, IN_HELLO, read_not_negative, FIELD(capture_seconds, 0))         \
    KEY(own_every, OPTIONAL, IN_HELLO, read_positive, FIELD(own_every, EVERY_MAX))                 \
    KEY(own_window, OPTIONAL, IN_HELLO, header_read_own_window, NO_FIELD)                          \
    KEY(values, IN_LOG, IN_LOG, header_read_values, NO_FIELD)                                      \
    KEY(after, OPTIONAL, IN_TENSORS | IN_EVENTS, proto_header_read_after, NO_FIELD)

#define RULE(name, needed, used, read, field)  {#name, needed, used, read, field},
#define NAME(name, needed, used, read, field)  #name,
#define INDEX(name, needed, used, read, field) KEY_##name,

enum { KEYS(INDEX) KEY_COUNT };
static const struct header_rule rules[] = {KEYS(RULE)};
static const char *const key_names[] = {KEYS(NAME)};

static unsigned scope_of(const struct header *header)
{
    static const enum scope tensors[] = {[MESSAGE_ATTENTION] = IN_ATTENTION,
                                         [MESSAGE_QK] = IN_QK,
                                         [MESSAGE_WEIGHTS] = IN_WEIGHTS,
                                         [MESSAGE_STATE] = IN_STATE};

    if (header->type != MESSAGE_EVENT) {
        return tensors[header->type];
    }
    return IN_EVENTS | (header->event == EVENT_HELLO ? (unsigned)IN_HELLO : 0) |
           (header->event == EVENT_LOG ? (unsigned)IN_LOG : 0);
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
    return rule->read(rule, value, header);
}

static int header_check_numbers(const struct header *header, const char **reterr_key)
{
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
    /* Neither number is above 2^31, so the sum is exact. */
    if (header->heads_total > HEADS_TOTAL_MAX ||
        (uint64_t)header->head_offset + header_map_heads(header) > header->heads_total) {
        *reterr_key = "heads_total";
        return ERR_KEY_RANGE;
    }
    if (header->type == MESSAGE_STATE &&
        (header->first_epoch > header->epoch ||
         (header->first_epoch == header->epoch && header->first_step > header->step))) {
        *reterr_key = "first_step";
        return ERR_KEY_RANGE;
    }
    if (header_last_position(header) >= UINT32_MAX) {
        *reterr_key = header->q_offset > UINT32_MAX - header->queries ? "q_offset" : "q_stride";
        return ERR_KEY_RANGE;
    }
    return header_check_tensors(header, reterr_key);
}

static int decode_map(const msgpack_object *map, struct header *header, const char **reterr_key)
{
    const msgpack_object *values[KEY_COUNT];
    int rc_keys = mpk_collect(map, key_names, KEY_COUNT, values, reterr_key), rc = 0;
    const char *duplicate = *reterr_key;

    /* The job that a refusal is counted for, even one for the version. */
    if (values[KEY_job]) {
        header_read_job(NULL, values[KEY_job], header);
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
    return rc ? rc : header_check_numbers(header, reterr_key);
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

/* SPDX-License-Identifier: MIT */
/* input: a layer may come in up to three tiers at once; each is one input. First all shapes of all
 * layers are checked, which costs nothing, and only then is anything read: a mistake in the last
 * layer shows at once. */
#include "clients/cli/analyze/input.h"

#include "proto/err.h"
#include "clients/cli/arrays/array.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SHAPE_TEXT ARRAY_SHAPE_TEXT_MAX
/* Longest axis: positions are 32-bit numbers with a sign in the engine's interface. */
#define AXIS_MAX INT32_MAX

static int fail_array(const struct array *array, char *reterr, const char *wanted)
{
    char shape[SHAPE_TEXT];
    array_shape_text(array, shape);
    return array_fail(reterr, "%.200s: %.100s: its shape is %s, not %s", array->file->path,
                      array->name, shape, wanted);
}

static int fail_layer(const struct input *input, char *reterr, const char *sentence)
{
    char text[PLACE_TEXT_MAX];
    place_layer(input->id, text);
    return array_fail(reterr, "%s: %s", text, sentence);
}

/* Shapes of attention ------------------------------------------------------------------------- */

/* An axis counted from the end: 0 is the last; an axis that is not there is 1. */
static uint32_t axis(const struct array *array, uint32_t from_end)
{
    return from_end < array->rank ? (uint32_t)array->shape[array->rank - 1 - from_end] : 1;
}

/* Whether the array has `axes` to 4 axes of a size we can count, and is of one of the four dtypes.
 */
static int check_map(const struct array *array, uint32_t axes, const char *wanted,
                     enum dtype *ret_dtype, char *reterr)
{
    bool good = array->rank >= axes && array->rank <= 4;
    for (uint32_t i = 0; i < array->rank; i++) {
        good = good && array->shape[i] <= AXIS_MAX;
    }
    if (!good) {
        return fail_array(array, reterr, wanted);
    }
    if (!array_type_dtype(array->type, ret_dtype)) {
        return array_fail(reterr, "%.200s: %.100s: its dtype is %s, not f32, f64, f16 or bf16",
                          array->file->path, array->name, array->type_name);
    }
    return 0;
}

/* As many as --heads takes. */
static int input_check_heads(const struct array *array, uint32_t heads, char *reterr)
{
    if (heads <= HEADS_MOST) {
        return 0;
    }
    return array_fail(reterr, "%.200s: %.100s: has %" PRIu32 " heads, and at most %d can be read",
                      array->file->path, array->name, heads, HEADS_MOST);
}

#define WEIGHTS_SHAPES "[B,H,Tq,Tk], [H,Tq,Tk] or [Tq,Tk]"

static int check_weights(struct input *input, char *reterr)
{
    struct attention *a = &input->attention;
    const struct array *weights = input->array[TENSOR_WEIGHTS];
    if (check_map(weights, 2, WEIGHTS_SHAPES, &a->dtype, reterr) != 0) {
        return -1;
    }
    a->batch = axis(weights, 3);
    a->heads = axis(weights, 2);
    a->queries = axis(weights, 1);
    a->keys = axis(weights, 0);
    return input_check_heads(weights, a->heads, reterr);
}

static int check_grad(struct input *input, char *reterr)
{
    struct attention *a = &input->attention;
    const struct array *grad = input->array[TENSOR_GRAD];
    if (!grad) {
        return 0;
    }
    if (check_map(grad, 2, WEIGHTS_SHAPES, &a->grad_dtype, reterr) != 0) {
        return -1;
    }
    if (axis(grad, 3) != a->batch || axis(grad, 2) != a->heads || axis(grad, 1) != a->queries ||
        axis(grad, 0) != a->keys) {
        return fail_array(grad, reterr, "that of the weights");
    }
    return 0;
}

static int check_q_and_k(struct input *input, char *reterr)
{
    static const char *const wanted = "[B,H,T,d] or [H,T,d]";
    struct attention *a = &input->attention;
    const struct array *q = input->array[TENSOR_Q], *k = input->array[TENSOR_K];
    if (!q || !k) {
        return fail_layer(input, reterr, q ? "there is .q but no .k" : "there is .k but no .q");
    }
    if (check_map(q, 3, wanted, &a->qk.q_dtype, reterr) != 0 ||
        check_map(k, 3, wanted, &a->qk.k_dtype, reterr) != 0) {
        return -1;
    }
    a->batch = axis(q, 3);
    a->heads = axis(q, 2);
    a->queries = axis(q, 1);
    a->qk.head_dim = axis(q, 0);
    a->qk.kv_heads = axis(k, 2);
    a->keys = axis(k, 1);
    if (a->qk.head_dim == 0) {
        return fail_array(q, reterr, "of a d of at least 1");
    }
    if (input_check_heads(q, a->heads, reterr) != 0 ||
        input_check_heads(k, a->qk.kv_heads, reterr) != 0) {
        return -1;
    }
    if (axis(k, 3) != a->batch || axis(k, 0) != a->qk.head_dim) {
        return fail_array(k, reterr, "of the same B and d as .q");
    }
    if (a->qk.kv_heads == 0 ? a->heads != 0 : a->heads % a->qk.kv_heads != 0) {
        return fail_array(k, reterr, "of a number of heads that divides those of .q");
    }
    return 0;
}

static int check_v(struct input *input, char *reterr)
{
    struct attention *a = &input->attention;
    const struct array *v = input->array[TENSOR_V];
    if (!v) {
        return 0;
    }
    if (check_map(v, 3, "[B,H,T,d] or [H,T,d]", &a->qk.v_dtype, reterr) != 0) {
        return -1;
    }
    a->qk.value_dim = axis(v, 0);
    if (axis(v, 3) != a->batch || axis(v, 2) != a->qk.kv_heads || axis(v, 1) != a->keys) {
        return fail_array(v, reterr, "of the same B, H and T as .k");
    }
    return a->qk.value_dim == 0 ? fail_array(v, reterr, "of a d of at least 1") : 0;
}

/* Masks, tokens, lengths ---------------------------------------------------------------------- */

static int check_integer(const struct array *array, char *reterr)
{
    if (array_type_is_integer(array->type)) {
        return 0;
    }
    return array_fail(reterr, "%.200s: %.100s: its dtype is %s, not bool or an integer",
                      array->file->path, array->name, array->type_name);
}

/* Whether the whole name is the word, or ends in .word. */
static bool is_named(const struct array *array, const char *word)
{
    size_t len = strlen(array->name), tail = strlen(word);
    return len >= tail && strcmp(array->name + len - tail, word) == 0 &&
           (len == tail || array->name[len - tail - 1] == '.');
}

/* [Tq,Tk], [B,Tq,Tk] or [B,1,Tq,Tk]; B may be 1 for all samples. Or [B,Tk]. */
static int check_mask(struct input *input, char *reterr)
{
    const struct attention *a = &input->attention;
    const struct array *mask = input->array[TENSOR_MASK];
    if (!mask) {
        return 0;
    }
    if (check_integer(mask, reterr) != 0) {
        return -1;
    }
    /* Whether a mask is [B,Tk]. Where that is [Tq,Tk] too, the name decides. */
    input->padding = mask->rank == 2 && mask->shape[0] == a->batch && mask->shape[1] == a->keys &&
                     (a->batch != a->queries || is_named(mask, NAME_PADDING_MASK));
    if (input->padding) {
        return 0;
    }
    bool good = mask->rank >= 2 && mask->rank <= 4;
    uint64_t batch = mask->rank > 2 ? mask->shape[0] : 1;
    good = good && (mask->rank < 4 || mask->shape[1] == 1) && (batch == 1 || batch == a->batch) &&
           mask->shape[mask->rank - 2] == a->queries && mask->shape[mask->rank - 1] == a->keys;
    char wanted[96];
    snprintf(wanted, sizeof wanted,
             "[B,Tq,Tk] = [%" PRIu32 ", %" PRIu32 ", %" PRIu32 "], [Tq,Tk] or [B,Tk]", a->batch,
             a->queries, a->keys);
    return good ? 0 : fail_array(mask, reterr, wanted);
}

/* [B,Tk], or [Tk] of a single sample. */
static int check_per_key(const struct input *input, enum tensor_role role, char *reterr)
{
    const struct attention *a = &input->attention;
    const struct array *array = input->array[role];
    char wanted[64];
    if (!array) {
        return 0;
    }
    if (check_integer(array, reterr) != 0) {
        return -1;
    }
    if ((array->rank == 2 || (array->rank == 1 && a->batch == 1)) && axis(array, 0) == a->keys &&
        axis(array, 1) == a->batch) {
        return 0;
    }
    snprintf(wanted, sizeof wanted, "[B,Tk] = [%" PRIu32 ", %" PRIu32 "]", a->batch, a->keys);
    return fail_array(array, reterr, wanted);
}

/* Sets *ret_lengths to the list, which is one number per sample, each within the axis. */
static int check_lengths(const struct input *input, const struct int_list *own,
                         const struct options *options, uint32_t limit, const char *what,
                         const int32_t **ret_lengths, char *reterr)
{
    const struct int_list *list = own->items ? own : &options->lengths;
    char text[PLACE_TEXT_MAX];
    place_layer(input->id, text);
    *ret_lengths = list->items;
    if (!list->items) {
        return 0;
    }
    if (list->count != input->attention.batch) {
        return array_fail(reterr, "%s: --%s: %" PRIu32 " numbers for %" PRIu32 " samples", text,
                          own->items ? what : "lengths", list->count, input->attention.batch);
    }
    for (uint32_t i = 0; i < list->count; i++) {
        if ((uint32_t)list->items[i] > limit) {
            return array_fail(reterr, "%s: --%s: %" PRId32 " is more than the %" PRIu32 " %s", text,
                              own->items ? what : "lengths", list->items[i], limit,
                              own == &options->q_lengths ? "queries" : "keys");
        }
    }
    return 0;
}

/* --causal and its like, where they count. */
static void apply_bounds(struct input *input, const struct options *options, bool mixed)
{
    struct attention *a = &input->attention;
    a->self = input->id.site == SITE_SELF;
    if (a->self && (!mixed || input->id.stack == STACK_DECODER)) {
        a->causal = options->causal;
        a->window = options->window;
        a->q_offset = options->q_offset;
    }
}

/* Statements about the rows must fit them. An empty map has no rows, so only the kind of the map is
 * asked for. */
static int check_rows(struct input *input, const struct options *options, bool mixed, char *reterr)
{
    const struct attention *a = &input->attention;
    input->empty = a->batch == 0 || a->heads == 0 || a->queries == 0 || a->keys == 0;
    if (input->empty) {
        apply_bounds(input, options, mixed);
        return 0;
    }
    if (input->array[TENSOR_DOCUMENTS] && input->id.site == SITE_CROSS) {
        return fail_layer(input, reterr, "documents are a matter of self-attention");
    }
    if (check_mask(input, reterr) != 0 || check_per_key(input, TENSOR_TOKENS, reterr) != 0 ||
        check_per_key(input, TENSOR_DOCUMENTS, reterr) != 0) {
        return -1;
    }
    /* The statements of the command line about the rows of this layer. */
    struct attention *oa = &input->attention;
    apply_bounds(input, options, mixed);
    oa->dropout = options->dropout;
    oa->learned_sink = options->learned_sink;
    oa->qk.scale = isnan(options->scale) ? 1 / sqrt((double)oa->qk.head_dim) : options->scale;
    oa->qk.softcap = options->softcap;
    if (options->head_weights.items && options->head_weights.count != oa->heads) {
        return fail_layer(input, reterr, "--head-weights: not one number per head");
    }
    if (check_lengths(input, &options->q_lengths, options, oa->queries, "q-lengths", &oa->q_len,
                      reterr) != 0) {
        return -1;
    }
    return check_lengths(input, &options->k_lengths, options, oa->keys, "k-lengths", &oa->k_len,
                         reterr);
}

/* Projections --------------------------------------------------------------------------------- */

static int check_matrix(struct input *input, enum projection projection, char *reterr)
{
    const struct array *array = input->array[TENSOR_WQ + projection];
    struct projection_matrix *matrix = &input->weights.matrix[projection];
    if (!array) {
        return 0;
    }
    if (array->rank != 2 || array->shape[0] - 1 >= AXIS_MAX || array->shape[1] - 1 >= AXIS_MAX) {
        return fail_array(array, reterr, "[out,in], neither of them 0");
    }
    if (!array_type_dtype(array->type, &matrix->dtype)) {
        return array_fail(reterr, "%.200s: %.100s: its dtype is %s, not f32, f64, f16 or bf16",
                          array->file->path, array->name, array->type_name);
    }
    /* Any pointer but NULL says that the matrix is there; its contents come later. */
    matrix->data = array;
    matrix->out = (uint32_t)array->shape[0];
    matrix->in = (uint32_t)array->shape[1];
    return 0;
}

static int fail_projections(const struct input *input, char *reterr)
{
    const struct weights *w = &input->weights;
    char sentence[ARRAY_ERROR_MAX / 2];
    size_t used = (size_t)snprintf(sentence, sizeof sentence,
                                   "the projections do not fit %" PRIu32 " heads, %" PRIu32
                                   " key and value heads, %" PRIu32 " rows per head:",
                                   w->heads, w->kv_heads, w->head_dim);
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        if (w->matrix[p].data) {
            used += (size_t)snprintf(sentence + used, sizeof sentence - used,
                                     " %s [%" PRIu32 ", %" PRIu32 "]", projection_name[p],
                                     w->matrix[p].out, w->matrix[p].in);
        }
    }
    return fail_layer(input, reterr, sentence);
}

/* The inputs ---------------------------------------------------------------------------------- */

static void input_take(struct input *input, const struct layer_arrays *layer,
                       enum tensor_role first, enum tensor_role last)
{
    for (enum tensor_role role = first; role <= last; role++) {
        input->array[role] = layer->array[role];
    }
}

static bool has_any(const struct layer_arrays *layer, enum tensor_role first, enum tensor_role last)
{
    for (enum tensor_role role = first; role <= last; role++) {
        if (layer->array[role]) {
            return true;
        }
    }
    return false;
}

static int add_attention(const struct layer_arrays *layer, const struct options *options,
                         bool mixed, struct input *input, char *reterr)
{
    *input = (struct input){.id = layer->id, .tier = TIER_ATTENTION};
    input_take(input, layer, TENSOR_WEIGHTS, TENSOR_DOCUMENTS);
    if (check_weights(input, reterr) != 0 || check_grad(input, reterr) != 0) {
        return -1;
    }
    return check_rows(input, options, mixed, reterr);
}

static int add_qk(const struct layer_arrays *layer, const struct options *options, bool mixed,
                  struct input *input, char *reterr)
{
    *input = (struct input){.id = layer->id, .tier = TIER_QK};
    input_take(input, layer, TENSOR_MASK, TENSOR_TOKENS);
    input_take(input, layer, TENSOR_DOCUMENTS, TENSOR_V);
    if (check_q_and_k(input, reterr) != 0 || check_v(input, reterr) != 0) {
        return -1;
    }
    return check_rows(input, options, mixed, reterr);
}

static int add_projections(const struct layer_arrays *layer, const struct options *options,
                           struct input *input, char *reterr)
{
    *input = (struct input){.id = layer->id, .tier = TIER_WEIGHTS};
    input_take(input, layer, TENSOR_WQ, TENSOR_WO);
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        if (check_matrix(input, (enum projection)p, reterr) != 0) {
            return -1;
        }
    }
    if (options->heads == 0) {
        return fail_layer(input, reterr,
                          "wq, wk, wv, wo do not say how many heads they have: give --heads N");
    }
    /* Options that are left out follow from the shapes. */
    struct weights *w = &input->weights;
    const struct projection_matrix *m = w->matrix;
    w->heads = options->heads;
    w->head_dim = options->head_dim;
    w->kv_heads = options->kv_heads;
    if (w->head_dim == 0) {
        w->head_dim = (m[PROJECTION_Q].data ? m[PROJECTION_Q].out : m[PROJECTION_O].in) / w->heads;
    }
    if (w->head_dim == 0 && w->kv_heads > 0) {
        w->head_dim =
            (m[PROJECTION_K].data ? m[PROJECTION_K].out : m[PROJECTION_V].out) / w->kv_heads;
    }
    if (w->head_dim == 0) {
        w->head_dim = (m[PROJECTION_K].data ? m[PROJECTION_K].out : m[PROJECTION_V].out) / w->heads;
    }
    if (w->kv_heads == 0 && w->head_dim > 0) {
        w->kv_heads =
            (m[PROJECTION_K].data ? m[PROJECTION_K].out : m[PROJECTION_V].out) / w->head_dim;
    }
    if (w->kv_heads == 0) {
        w->kv_heads = w->heads;
    }
    return weights_check(&input->weights) == 0 ? 0 : fail_projections(input, reterr);
}

/* Whether a layer has something to measure, and nothing that it does not need. */
static int check_layer(const struct layer_arrays *layer, char *reterr)
{
    bool weights = layer->array[TENSOR_WEIGHTS] != NULL;
    bool qk = layer->array[TENSOR_Q] || layer->array[TENSOR_K];
    struct input named = {.id = layer->id};
    if (layer->array[TENSOR_GRAD] && !weights) {
        return fail_layer(&named, reterr, "there is .grad but no attention weights");
    }
    if (layer->array[TENSOR_V] && !qk) {
        return fail_layer(&named, reterr, "there is .v but no .q and .k");
    }
    if (!weights && !qk && !has_any(layer, TENSOR_WQ, TENSOR_WO)) {
        return fail_layer(&named, reterr, "there are neither attention weights nor .q and .k");
    }
    return 0;
}

static int input_add_layer(const struct layers *layers, const struct layer_arrays *layer,
                           const struct options *options, struct inputs *inputs, char *reterr)
{
    struct input *next = inputs->items + inputs->count;
    if (check_layer(layer, reterr) != 0) {
        return -1;
    }
    if (layer->array[TENSOR_WEIGHTS] &&
        add_attention(layer, options, layers->mixed, next++, reterr) != 0) {
        return -1;
    }
    if ((layer->array[TENSOR_Q] || layer->array[TENSOR_K]) &&
        add_qk(layer, options, layers->mixed, next++, reterr) != 0) {
        return -1;
    }
    if (has_any(layer, TENSOR_WQ, TENSOR_WO) &&
        add_projections(layer, options, next++, reterr) != 0) {
        return -1;
    }
    inputs->count = (size_t)(next - inputs->items);
    return 0;
}

/* --causal and the like must have had an effect. */
static int check_self(const struct inputs *inputs, const struct options *options, char *reterr)
{
    bool any = false;
    const char *name = options->causal ? "causal" : options->window ? "window" : "q-offset";
    for (size_t i = 0; i < inputs->count; i++) {
        const struct attention *a = &inputs->items[i].attention;
        any = any || a->causal || a->window || a->q_offset;
    }
    if (any || !(options->causal || options->window || options->q_offset)) {
        return 0;
    }
    return array_fail(reterr, "--%s: there is no self-attention that it is about", name);
}

int inputs_check(const struct layers *layers, const struct options *options,
                 struct inputs *ret_inputs, char *reterr)
{
    struct inputs inputs = {.items = calloc(layers->count * TIER_COUNT, sizeof(struct input))};
    int rc = inputs.items ? 0 : array_fail_memory(reterr);
    for (size_t i = 0; i < layers->count && rc == 0; i++) {
        rc = input_add_layer(layers, &layers->items[i], options, &inputs, reterr);
    }
    if (rc == 0) {
        rc = check_self(&inputs, options, reterr);
    }
    if (rc != 0) {
        inputs_clear(&inputs);
    } else {
        *ret_inputs = inputs;
    }
    return rc;
}

void inputs_clear(struct inputs *inputs)
{
    free(inputs->items);
    *inputs = (struct inputs){0};
}

/* Contents ------------------------------------------------------------------------------------ */

/* Element i as a number; what is beyond INT64_MAX is INT64_MAX. */
static int64_t read_integer(enum array_type type, const void *data, uint64_t i)
{
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
    } value;
    size_t size = array_type_size(type);
    memcpy(&value, (const char *)data + i * size, size);
    switch (type) {
    case ARRAY_I8:
        return value.i8;
    case ARRAY_U16:
        return value.u16;
    case ARRAY_I16:
        return value.i16;
    case ARRAY_U32:
        return value.u32;
    case ARRAY_I32:
        return value.i32;
    case ARRAY_U64:
        return value.u64 < INT64_MAX ? (int64_t)value.u64 : INT64_MAX;
    case ARRAY_I64:
        return value.i64;
    default:
        return value.u8;
    }
}

static int fail_number(const struct array *array, int64_t number, const char *wanted, char *reterr)
{
    return array_fail(reterr, "%.200s: %.100s: there is a %" PRId64 " in it, not %s",
                      array->file->path, array->name, number, wanted);
}

static int input_read_flag(const struct array *array, const void *data, uint64_t i,
                           uint8_t *ret_flag, char *reterr)
{
    int64_t number = read_integer(array->type, data, i);
    *ret_flag = number != 0;
    return number == 0 || number == 1 ? 0 : fail_number(array, number, "0 or 1", reterr);
}

/* The maps of all samples from their lines. Without padding there is no mask. */
static int spread_all(struct input *input, const uint8_t *tokens, const uint8_t **ret_mask,
                      char *reterr)
{
    const struct attention *a = &input->attention;
    size_t map = (size_t)a->queries * a->keys;
    *ret_mask = NULL;
    if (!memchr(tokens, 0, (size_t)a->batch * a->keys)) {
        return 0;
    }
    uint8_t *mask = malloc(a->batch * map);
    if (!mask) {
        return array_fail_memory(reterr);
    }
    for (uint32_t b = 0; b < a->batch; b++) {
        /* One sample's map from its line of tokens and padding: padding is no key, and in
         * self-attention no query. A query that stands behind all keys is one. */
        const uint8_t *padding_tokens = tokens + (size_t)b * a->keys;
        uint8_t *ret_map = mask + b * map;
        for (uint32_t i = 0; i < a->queries; i++) {
            uint64_t position = attention_position(a, i);
            bool query = !a->self || position >= a->keys || padding_tokens[position];
            if (query) {
                memcpy(ret_map + (size_t)i * a->keys, padding_tokens, a->keys);
            } else {
                memset(ret_map + (size_t)i * a->keys, 0, a->keys);
            }
        }
    }
    input->converted[TENSOR_MASK] = mask;
    *ret_mask = mask;
    return 0;
}

/* [B,Tk] as the map [B,Tq,Tk] that the engine takes. */
static int convert_padding(struct input *input, const uint8_t **ret_mask, char *reterr)
{
    const struct attention *a = &input->attention;
    const struct array *array = input->array[TENSOR_MASK];
    size_t count = (size_t)a->batch * a->keys;
    uint8_t *tokens = malloc(count);
    int rc = tokens ? 0 : array_fail_memory(reterr);
    for (size_t i = 0; i < count && rc == 0; i++) {
        rc = input_read_flag(array, input->contents[TENSOR_MASK].data, i, &tokens[i], reterr);
    }
    if (rc == 0) {
        rc = spread_all(input, tokens, ret_mask, reterr);
    }
    free(tokens);
    return rc;
}

/* The mask as bytes, once per sample. */
static int convert_mask(struct input *input, const uint8_t **ret_mask, char *reterr)
{
    if (input->padding) {
        return convert_padding(input, ret_mask, reterr);
    }
    const struct array *array = input->array[TENSOR_MASK];
    const void *data = input->contents[TENSOR_MASK].data;
    uint64_t count = array->bytes / array_type_size(array->type);
    uint64_t map = (uint64_t)input->attention.queries * input->attention.keys;
    uint64_t samples = input->attention.batch;
    bool in_place = array_type_size(array->type) == 1 && count == samples * map;
    uint8_t *mask = in_place ? NULL : malloc(samples * map);
    if (!mask && !in_place) {
        return array_fail_memory(reterr);
    }
    input->converted[TENSOR_MASK] = mask;
    for (uint64_t i = 0; i < count; i++) {
        uint8_t flag;
        if (input_read_flag(array, data, i, &flag, reterr) != 0) {
            return -1;
        }
        if (mask) {
            mask[i] = flag;
        }
    }
    for (uint64_t b = 1; mask && count == map && b < samples; b++) {
        memcpy(mask + b * map, mask, map);
    }
    *ret_mask = mask ? mask : data;
    return 0;
}

/* Tokens and documents as 32-bit numbers, aligned. */
static int convert_ids(struct input *input, enum tensor_role role, const int32_t **ret_ids,
                       char *reterr)
{
    const struct array *array = input->array[role];
    uint64_t count = array->bytes / array_type_size(array->type);
    int32_t *ids = malloc(count * sizeof *ids);
    if (!ids) {
        return array_fail_memory(reterr);
    }
    input->converted[role] = ids;
    for (uint64_t i = 0; i < count; i++) {
        int64_t number = read_integer(array->type, input->contents[role].data, i);
        if (number < INT32_MIN || number > INT32_MAX) {
            return fail_number(array, number, "a 32-bit number", reterr);
        }
        ids[i] = (int32_t)number;
    }
    *ret_ids = ids;
    return 0;
}

static int load_contents(struct input *input, char *reterr)
{
    char error[ARRAY_ERROR_MAX];
    for (int role = 0; role < TENSOR_ROLE_COUNT; role++) {
        const struct array *array = input->array[role];
        int rc = array ? array_load(array, &input->contents[role], error) : 0;
        if (rc != 0) {
            array_fail(reterr, "%.200s: %.700s", array->file->path, error);
            return rc;
        }
    }
    return 0;
}

int input_load(struct input *input, char *reterr)
{
    struct attention *a = &input->attention;
    int rc = input->empty ? 0 : load_contents(input, reterr);
    if (rc != 0 || input->empty) {
        return rc;
    }
    a->weights = input->contents[TENSOR_WEIGHTS].data;
    a->grad = input->contents[TENSOR_GRAD].data;
    a->qk.q = input->contents[TENSOR_Q].data;
    a->qk.k = input->contents[TENSOR_K].data;
    a->qk.v = input->contents[TENSOR_V].data;
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        input->weights.matrix[p].data = input->contents[TENSOR_WQ + p].data;
    }
    if (input->array[TENSOR_MASK]) {
        rc = convert_mask(input, &a->mask, reterr);
    }
    if (rc == 0 && input->array[TENSOR_TOKENS]) {
        rc = convert_ids(input, TENSOR_TOKENS, &a->tokens, reterr);
    }
    if (rc == 0 && input->array[TENSOR_DOCUMENTS]) {
        rc = convert_ids(input, TENSOR_DOCUMENTS, &a->documents, reterr);
    }
    return rc;
}

void input_unload(struct input *input)
{
    for (int role = 0; role < TENSOR_ROLE_COUNT; role++) {
        array_data_clear(&input->contents[role]);
        free(input->converted[role]);
        input->converted[role] = NULL;
    }
}

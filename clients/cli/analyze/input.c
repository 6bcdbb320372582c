/* SPDX-License-Identifier: MIT */
/* input: a layer may come in up to three tiers at once; each is one input. First all shapes of all
 * layers are checked, which costs nothing, and only then is anything read: a mistake in the last
 * layer shows at once. */
#include "clients/cli/analyze/input.h"

#include "clients/cli/base/system.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Longest axis: positions are 32-bit numbers with a sign in the engine's interface. */
#define AXIS_MAX INT32_MAX
#define FLOATS   "f32, f64, f16 or bf16"
#define INTEGERS "bool or an integer"

static int fail_array(const struct array *array, char *reterr, const char *wanted)
{
    return array_fail(reterr, "%.200s: %.100s: its shape is %s, not %s", array->file->path,
                      array->name, ARRAY_SHAPE(array), wanted);
}

static int fail_dtype(const struct array *array, char *reterr, const char *wanted)
{
    return array_fail(reterr, "%.200s: %.100s: its dtype is %s, not %s", array->file->path,
                      array->name, array->type_name, wanted);
}

static int fail_layer(struct layer_id id, char *reterr, const char *sentence)
{
    return array_fail(reterr, "%s: %s", PLACE_LAYER(id), sentence);
}

/* Shapes of attention ------------------------------------------------------------------------- */

/* An axis counted from the end: 0 is the last; an axis that is not there is 1. */
static uint32_t axis(const struct array *array, uint32_t from_end)
{
    return from_end < array->rank ? (uint32_t)array->shape[array->rank - 1 - from_end] : 1;
}

/* More axes are those of layers, windows or frames; in Python both are one call. */
static int fail_rank(const struct array *array, const char *wanted, char *reterr)
{
    char last[80], layers[128] = "array";
    snprintf(last, sizeof last, "%" PRIu32 ", %" PRIu32 ", %" PRIu32, axis(array, 2),
             axis(array, 1), axis(array, 0));
    if (array->rank > 5) {
        snprintf(layers, sizeof layers, "array.reshape(%" PRIu64 ", -1, %s)", array->shape[0],
                 last);
    }
    return array_fail(reterr,
                      "%.200s: %.100s: its shape is %s, not %s; where the first axis is of layers, "
                      "np.savez(file, *%s) saves each for itself; else np.save(file, "
                      "array.reshape(-1, %s)) makes one batch of the axes before the last three",
                      array->file->path, array->name, ARRAY_SHAPE(array), wanted, layers, last);
}

/* Whether the array has `axes` to 4 axes of a size we can count, and one of the four dtypes. */
static int check_map(const struct array *array, uint32_t axes, const char *wanted,
                     enum dtype *ret_dtype, char *reterr)
{
    bool good = array->rank >= axes && array->rank <= 4;
    for (uint32_t i = 0; i < array->rank; i++) {
        good = good && array->shape[i] <= AXIS_MAX;
    }
    if (array->rank > 4) {
        return fail_rank(array, wanted, reterr);
    }
    if (!good) {
        return fail_array(array, reterr, wanted);
    }
    return array_type_dtype(array->type, ret_dtype) ? 0 : fail_dtype(array, reterr, FLOATS);
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

/* Whether keys and values are shared by as many heads each. */
static bool group_fits(const struct attention *a)
{
    return a->qk.kv_heads == 0 ? a->heads == 0 : a->heads % a->qk.kv_heads == 0;
}

static bool has_sizes(const struct array *array, uint32_t batch, uint32_t heads, uint32_t rows,
                      uint32_t columns)
{
    return axis(array, 3) == batch && axis(array, 2) == heads && axis(array, 1) == rows &&
           axis(array, 0) == columns;
}

static int check_weights(struct input *input, char *reterr)
{
    static const char *const wanted = "[B,H,Tq,Tk], [H,Tq,Tk] or [Tq,Tk]";
    struct attention *a = &input->attention;
    const struct array *weights = input->array[TENSOR_WEIGHTS], *grad = input->array[TENSOR_GRAD];
    if (check_map(weights, 2, wanted, &a->dtype, reterr) != 0) {
        return -1;
    }
    a->batch = axis(weights, 3);
    a->heads = axis(weights, 2);
    a->queries = axis(weights, 1);
    a->keys = axis(weights, 0);
    if (input_check_heads(weights, a->heads, reterr) != 0 ||
        (grad && check_map(grad, 2, wanted, &a->grad_dtype, reterr) != 0)) {
        return -1;
    }
    return !grad || has_sizes(grad, a->batch, a->heads, a->queries, a->keys)
               ? 0
               : fail_array(grad, reterr, "that of the weights");
}

#define VECTOR_SHAPES "[B,H,T,d] or [H,T,d]"

static int check_qk(struct input *input, char *reterr)
{
    struct attention *a = &input->attention;
    const struct array *q = input->array[TENSOR_Q], *k = input->array[TENSOR_K];
    if (!q || !k) {
        return fail_layer(input->id, reterr, q ? "there is .q but no .k" : "there is .k but no .q");
    }
    if (check_map(q, 3, VECTOR_SHAPES, &a->qk.q_dtype, reterr) != 0 ||
        check_map(k, 3, VECTOR_SHAPES, &a->qk.k_dtype, reterr) != 0) {
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
    return group_fits(a) ? 0
                         : fail_array(k, reterr, "of a number of heads that divides those of .q");
}

/* The values and what comes with them, in either tier; with weights, of their own heads. */
static int check_values(struct input *input, char *reterr)
{
    struct attention *a = &input->attention;
    const struct array *v = input->array[TENSOR_V], *dout = input->array[TENSOR_DOUT];
    const struct array *wo_r = input->array[TENSOR_WO_R], *x_norm = input->array[TENSOR_X_NORM];
    static const char *const factors = "[H,r,d] of the d of .v, r at most that";
    enum dtype any;
    if (!v) {
        return 0;
    }
    if (check_map(v, 3, VECTOR_SHAPES, &a->qk.v_dtype, reterr) != 0 ||
        (dout && check_map(dout, 3, VECTOR_SHAPES, &a->qk.dout_dtype, reterr) != 0) ||
        (wo_r && check_map(wo_r, 2, factors, &any, reterr) != 0) ||
        (x_norm && check_map(x_norm, 1, "[B,Tq]", &any, reterr) != 0)) {
        return -1;
    }
    if (input->tier == TIER_ATTENTION) {
        a->qk.kv_heads = axis(v, 2);
    }
    a->qk.value_dim = axis(v, 0);
    if (!group_fits(a) || !has_sizes(v, a->batch, a->qk.kv_heads, a->keys, a->qk.value_dim)) {
        return fail_array(v, reterr,
                          input->tier == TIER_QK ? "of the same B, H and T as .k"
                                                 : "of the B and Tk of the weights, and a number "
                                                   "of heads that divides theirs");
    }
    if (a->qk.value_dim == 0) {
        return fail_array(v, reterr, "of a d of at least 1");
    }
    if (dout && !has_sizes(dout, a->batch, a->heads, a->queries, a->qk.value_dim)) {
        return fail_array(dout, reterr, "of the B, H and T of .q and the d of .v");
    }
    a->qk.written_dim = wo_r ? axis(wo_r, 1) : 0;
    if (wo_r && (!has_sizes(wo_r, 1, a->heads, a->qk.written_dim, a->qk.value_dim) ||
                 a->qk.written_dim - 1 >= a->qk.value_dim)) {
        return fail_array(wo_r, reterr, factors);
    }
    return !x_norm || has_sizes(x_norm, 1, 1, a->batch, a->queries)
               ? 0
               : fail_array(x_norm, reterr, "[B,Tq]");
}

/* Masks, tokens, lengths ---------------------------------------------------------------------- */

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
    if (!array_type_is_integer(mask->type)) {
        return fail_dtype(mask, reterr, INTEGERS);
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
    if (!array_type_is_integer(array->type)) {
        return fail_dtype(array, reterr, INTEGERS);
    }
    if ((array->rank == 2 || (array->rank == 1 && a->batch == 1)) && axis(array, 0) == a->keys &&
        axis(array, 1) == a->batch) {
        return 0;
    }
    snprintf(wanted, sizeof wanted, "[B,Tk] = [%" PRIu32 ", %" PRIu32 "]", a->batch, a->keys);
    return fail_array(array, reterr, wanted);
}

/* Sets *ret_lengths to the list, which is one number per sample, each within the axis. */
static int check_lengths(const struct input *input, const struct number_list *own,
                         const struct options *options, uint32_t limit, const char *what,
                         const int32_t **ret_lengths, char *reterr)
{
    const struct number_list *list = own->lengths ? own : &options->lengths;
    const char *text = PLACE_LAYER(input->id);
    *ret_lengths = list->lengths;
    if (!list->lengths) {
        return 0;
    }
    if (list->count != input->attention.batch) {
        return array_fail(reterr, "%s: --%s: %" PRIu32 " given for a batch of %" PRIu32, text,
                          own->lengths ? what : "lengths", list->count, input->attention.batch);
    }
    for (uint32_t i = 0; i < list->count; i++) {
        if ((uint32_t)list->lengths[i] > limit) {
            return array_fail(reterr, "%s: --%s: %" PRId32 " is more than the %" PRIu32 " %s", text,
                              own->lengths ? what : "lengths", list->lengths[i], limit,
                              own == &options->q_lengths ? "queries" : "keys");
        }
    }
    return 0;
}

/* Whether --causal, --window and --q-offset are about it. */
static bool input_is_meant(const struct input *input, bool mixed)
{
    return input->id.site == SITE_SELF && (!mixed || input->id.stack == STACK_DECODER);
}

/* Statements about the rows must fit them. */
static int check_rows(struct input *input, const struct options *options, bool mixed, char *reterr)
{
    struct attention *a = &input->attention;
    if (a->batch == 0 || a->heads == 0 || a->queries == 0 || a->keys == 0) {
        return array_fail(reterr,
                          "%s is empty: its shape is [%" PRIu32 ", %" PRIu32 ", %" PRIu32
                          ", %" PRIu32 "]; --ignore leaves arrays out",
                          PLACE_LAYER(input->id), a->batch, a->heads, a->queries, a->keys);
    }
    a->self = input->id.site == SITE_SELF;
    /* Fewer queries than keys are the newest tokens, as a decoder with a cache has them. */
    a->q_offset = a->self && a->queries < a->keys ? a->keys - a->queries : 0;
    if (input_is_meant(input, mixed)) {
        a->causal = options->causal;
        a->window = options->window;
        a->q_offset = options->q_offset == OPTIONS_LAST ? a->q_offset : options->q_offset;
    }
    if (input->array[TENSOR_DOCUMENTS] && input->id.site == SITE_CROSS) {
        return fail_layer(input->id, reterr, "documents are a matter of self-attention");
    }
    if (check_mask(input, reterr) != 0 || check_per_key(input, TENSOR_TOKENS, reterr) != 0 ||
        check_per_key(input, TENSOR_DOCUMENTS, reterr) != 0) {
        return -1;
    }
    a->dropout = options->dropout;
    a->learned_sink = options->learned_sink;
    a->qk.scale = isnan(options->scale) ? 1 / sqrt((double)a->qk.head_dim) : options->scale;
    a->qk.softcap = options->softcap;
    if (options->head_weights.reals && options->head_weights.count != a->heads) {
        return fail_layer(input->id, reterr, "--head-weights: not one number per head");
    }
    if (check_lengths(input, &options->q_lengths, options, a->queries, "q-lengths", &a->q_len,
                      reterr) != 0) {
        return -1;
    }
    return check_lengths(input, &options->k_lengths, options, a->keys, "k-lengths", &a->k_len,
                         reterr);
}

/* Projections --------------------------------------------------------------------------------- */

static int check_matrix(struct input *input, enum projection projection, char *reterr)
{
    const struct array *array = input->array[TENSOR_WQ + (int)projection];
    struct projection_matrix *matrix = &input->weights.matrix[projection];
    if (!array) {
        return 0;
    }
    if (array->rank != 2 || array->shape[0] - 1 >= AXIS_MAX || array->shape[1] - 1 >= AXIS_MAX) {
        return fail_array(array, reterr, "[out,in], neither of them 0");
    }
    if (!array_type_dtype(array->type, &matrix->dtype)) {
        return fail_dtype(array, reterr, FLOATS);
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
    return fail_layer(input->id, reterr, sentence);
}

/* The inputs ---------------------------------------------------------------------------------- */

static int check_projections(struct input *input, const struct options *options, char *reterr)
{
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        if (check_matrix(input, (enum projection)p, reterr) != 0) {
            return -1;
        }
    }
    if (options->heads == 0) {
        return fail_layer(input->id, reterr,
                          "wq, wk, wv, wo do not say how many heads they have: give --heads N");
    }
    /* Options that are left out follow from the shapes. */
    struct weights *w = &input->weights;
    const struct projection_matrix *m = w->matrix;
    uint32_t kv_out = m[PROJECTION_K].data ? m[PROJECTION_K].out : m[PROJECTION_V].out;
    w->heads = options->heads;
    w->head_dim = options->head_dim;
    w->kv_heads = options->kv_heads;
    if (w->head_dim == 0) {
        w->head_dim = (m[PROJECTION_Q].data ? m[PROJECTION_Q].out : m[PROJECTION_O].in) / w->heads;
    }
    if (w->head_dim == 0) {
        w->head_dim = kv_out / (w->kv_heads > 0 ? w->kv_heads : w->heads);
    }
    if (w->kv_heads == 0 && w->head_dim > 0) {
        w->kv_heads = kv_out / w->head_dim;
    }
    if (w->kv_heads == 0) {
        w->kv_heads = w->heads;
    }
    return weights_check(&input->weights) == 0 ? 0 : fail_projections(input, reterr);
}

/* The roles that a tier uses. */
#define ROLE(role) (1u << TENSOR_##role)
#define OF_ATTENTION                                                                               \
    (ROLE(MASK) | ROLE(TOKENS) | ROLE(DOCUMENTS) | ROLE(V) | ROLE(WO_R) | ROLE(X_NORM))
static const unsigned tier_roles[TIER_COUNT] = {
    [TIER_ATTENTION] = OF_ATTENTION | ROLE(WEIGHTS) | ROLE(GRAD),
    [TIER_QK] = OF_ATTENTION | ROLE(Q) | ROLE(K) | ROLE(DOUT),
    [TIER_WEIGHTS] = ROLE(WQ) | ROLE(WK) | ROLE(WV) | ROLE(WO),
};

static const struct {
    enum tensor_role role, needed;
    const char *sentence;
} needs[] = {
    {TENSOR_GRAD, TENSOR_WEIGHTS, "there is .grad but no attention weights"},
    {TENSOR_DOUT, TENSOR_Q, "there is .dout but no .q and .k"},
    {TENSOR_DOUT, TENSOR_V, "there is .dout but no .v"},
    {TENSOR_WO_R, TENSOR_V, "there is .wo_r but no .v"},
    {TENSOR_X_NORM, TENSOR_WO_R, "there is .x_norm but no .wo_r"},
};

/* The tiers that a layer has; it has something to measure, and nothing that it does not need. */
static int input_add_layer(const struct layers *layers, const struct layer_arrays *layer,
                           const struct options *options, struct inputs *inputs, char *reterr)
{
    bool has[TIER_COUNT] = {
        [TIER_ATTENTION] = layer->array[TENSOR_WEIGHTS] != NULL,
        [TIER_QK] = layer->array[TENSOR_Q] || layer->array[TENSOR_K],
    };
    for (enum tensor_role role = TENSOR_WQ; role <= TENSOR_WO; role++) {
        has[TIER_WEIGHTS] = has[TIER_WEIGHTS] || layer->array[role];
    }
    for (size_t i = 0; i < sizeof needs / sizeof needs[0]; i++) {
        if (layer->array[needs[i].role] && !layer->array[needs[i].needed]) {
            return fail_layer(layer->id, reterr, needs[i].sentence);
        }
    }
    if (!has[TIER_ATTENTION] && !has[TIER_QK] && (!has[TIER_WEIGHTS] || layer->array[TENSOR_V])) {
        return fail_layer(layer->id, reterr, "there are neither attention weights nor .q and .k");
    }
    for (enum tier tier = 0; tier < TIER_COUNT; tier++) {
        if (!has[tier]) {
            continue;
        }
        struct input *input = &inputs->items[inputs->count];
        *input = (struct input){.id = layer->id, .tier = tier};
        for (enum tensor_role role = 0; role < TENSOR_ROLE_COUNT; role++) {
            input->array[role] = (tier_roles[tier] >> role & 1u) != 0 ? layer->array[role] : NULL;
        }
        int rc = tier == TIER_WEIGHTS ? check_projections(input, options, reterr)
                 : tier == TIER_QK    ? check_qk(input, reterr)
                                      : check_weights(input, reterr);
        rc = rc == 0 ? check_values(input, reterr) : rc;
        if (rc == 0 && tier != TIER_WEIGHTS) {
            rc = check_rows(input, options, layers->mixed, reterr);
        }
        if (rc != 0) {
            return rc;
        }
        inputs->count++;
    }
    return 0;
}

/* --causal and the like must have had an effect. */
static int check_self(const struct inputs *inputs, const struct options *options, char *reterr)
{
    bool any = false;
    const char *name = options->causal ? "causal" : options->window ? "window" : "q-offset";
    for (size_t i = 0; i < inputs->count; i++) {
        const struct input *input = &inputs->items[i];
        any = any || (input->tier != TIER_WEIGHTS && input_is_meant(input, inputs->layers.mixed));
    }
    if (any || !(options->causal || options->window || options->q_offset != OPTIONS_LAST)) {
        return 0;
    }
    return array_fail(reterr, "--%s: there is no self-attention that it is about", name);
}

int inputs_open(const struct options *options, bool maps, struct inputs *inputs, char *reterr)
{
    *inputs =
        (struct inputs){.files = memory_new((size_t)options->file_count, sizeof *inputs->files)};
    int rc = 0;
    for (int i = 0; i < options->file_count && rc == 0; i++) {
        char error[ARRAY_ERROR_MAX];
        const char *path = options->files[i];
        rc = array_file_open(path, &inputs->files[i], &inputs->arrays, error);
        if (rc != 0) {
            array_fail(reterr, "%.300s: %.700s", path, error);
        }
        inputs->file_count += rc == 0;
    }
    if (rc == 0) {
        rc = layers_collect(&inputs->arrays, &options->naming, &inputs->layers, reterr);
    }
    if (rc == 0 && maps) {
        rc = layers_keep_maps(&inputs->layers, reterr);
    }
    inputs->items = memory_new(inputs->layers.count * TIER_COUNT, sizeof *inputs->items);
    for (size_t i = 0; i < inputs->layers.count && rc == 0; i++) {
        rc = input_add_layer(&inputs->layers, &inputs->layers.items[i], options, inputs, reterr);
    }
    return rc == 0 ? check_self(inputs, options, reterr) : rc;
}

void inputs_clear(struct inputs *inputs)
{
    free(inputs->items);
    layers_clear(&inputs->layers);
    array_list_clear(&inputs->arrays);
    while (inputs->file_count > 0) {
        array_file_close(&inputs->files[--inputs->file_count]);
    }
    free(inputs->files);
    *inputs = (struct inputs){0};
}

/* Contents ------------------------------------------------------------------------------------ */

/* Element i as a number; what is beyond INT64_MAX is INT64_MAX. */
static int64_t read_integer(enum array_type type, const void *data, uint64_t i)
{
    bool sign = type == ARRAY_I8 || type == ARRAY_I16 || type == ARRAY_I32 || type == ARRAY_I64;
    size_t size = array_type_size(type);
    int unused = 64 - 8 * (int)size;
    uint64_t bits = 0;
    memcpy(&bits, (const char *)data + i * size, size); /* little-endian, as this machine is */
    if (sign) {
        return (int64_t)(bits << unused) >> unused;
    }
    return bits < INT64_MAX ? (int64_t)bits : INT64_MAX;
}

static int fail_number(const struct array *array, int64_t number, const char *wanted, char *reterr)
{
    return array_fail(reterr, "%.200s: %.100s: there is a %" PRId64 " in it, not %s",
                      array->file->path, array->name, number, wanted);
}

/* The mask as bytes, a map [Tq,Tk] for each sample; of padding that there is none of, no mask. */
static int convert_mask(struct input *input, const uint8_t **ret_mask, char *reterr)
{
    const struct attention *a = &input->attention;
    const struct array *array = input->array[TENSOR_MASK];
    uint64_t count = array ? array->bytes / array_type_size(array->type) : 0;
    uint64_t map = (uint64_t)a->queries * a->keys;
    if (!array) {
        return 0;
    }
    uint8_t *flags = memory_new(count, 1);
    int rc = 0;
    for (uint64_t i = 0; i < count && rc == 0; i++) {
        int64_t number = read_integer(array->type, input->contents[TENSOR_MASK].data, i);
        flags[i] = number != 0;
        rc = number == 0 || number == 1 ? 0 : fail_number(array, number, "0 or 1", reterr);
    }
    if (rc != 0 || (input->padding && !memchr(flags, 0, count))) {
        free(flags);
        return rc;
    }
    if (!input->padding && count == a->batch * map) {
        *ret_mask = input->converted[TENSOR_MASK] = flags;
        return 0;
    }
    uint8_t *mask = memory_new(a->batch * map, 1);
    *ret_mask = input->converted[TENSOR_MASK] = mask;
    for (uint32_t b = 0; b < a->batch; b++) {
        if (!input->padding) {
            memcpy(mask + b * map, flags, map);
            continue;
        }
        /* One sample's map from its line of tokens and padding: padding is no key, and in
         * self-attention no query. A query that stands behind all keys is one. */
        const uint8_t *tokens = flags + (size_t)b * a->keys;
        for (uint32_t i = 0; i < a->queries; i++) {
            uint8_t *row = mask + b * map + (size_t)i * a->keys;
            uint64_t position = attention_position(a, i);
            if (!a->self || position >= a->keys || tokens[position]) {
                memcpy(row, tokens, a->keys);
            } else {
                memset(row, 0, a->keys);
            }
        }
    }
    free(flags);
    return 0;
}

/* Tokens and documents as 32-bit numbers, aligned. */
static int convert_ids(struct input *input, enum tensor_role role, const int32_t **ret_ids,
                       char *reterr)
{
    const struct array *array = input->array[role];
    if (!array) {
        return 0;
    }
    uint64_t count = array->bytes / array_type_size(array->type);
    int32_t *ids = input->converted[role] = memory_new(count, sizeof *ids);
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

/* Numbers as f32. */
static void convert_floats(struct input *input, enum tensor_role role, const void **ret_floats)
{
    const struct array *array = input->array[role];
    enum dtype dtype;
    if (!array || !array_type_dtype(array->type, &dtype)) {
        return;
    }
    uint64_t count = array->bytes / array_type_size(array->type);
    float *floats = input->converted[role] = memory_new(count, sizeof *floats);
    for (uint64_t i = 0; i < count; i++) {
        double number;
        attention_load(input->contents[role].data, dtype, i, 1, &number);
        floats[i] = (float)number;
    }
    *ret_floats = floats;
}

int input_load(struct input *input, char *reterr)
{
    struct attention *a = &input->attention;
    char error[ARRAY_ERROR_MAX];
    int rc = 0;
    for (int role = 0; role < TENSOR_ROLE_COUNT; role++) {
        const struct array *array = input->array[role];
        rc = array ? array_load(array, &input->contents[role], error) : 0;
        if (rc != 0) {
            array_fail(reterr, "%.200s: %.700s", array->file->path, error);
            return rc;
        }
    }
    a->weights = input->contents[TENSOR_WEIGHTS].data;
    a->grad = input->contents[TENSOR_GRAD].data;
    a->qk.q = input->contents[TENSOR_Q].data;
    a->qk.k = input->contents[TENSOR_K].data;
    a->qk.v = input->contents[TENSOR_V].data;
    a->qk.dout = input->contents[TENSOR_DOUT].data;
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        input->weights.matrix[p].data = input->contents[TENSOR_WQ + p].data;
    }
    convert_floats(input, TENSOR_WO_R, &a->qk.wo_r);
    convert_floats(input, TENSOR_X_NORM, &a->qk.x_norm);
    rc = convert_mask(input, &a->mask, reterr);
    rc = rc == 0 ? convert_ids(input, TENSOR_TOKENS, &a->tokens, reterr) : rc;
    return rc == 0 ? convert_ids(input, TENSOR_DOCUMENTS, &a->documents, reterr) : rc;
}

void input_unload(struct input *input)
{
    for (int role = 0; role < TENSOR_ROLE_COUNT; role++) {
        array_data_clear(&input->contents[role]);
        free(input->converted[role]);
        input->converted[role] = NULL;
    }
}

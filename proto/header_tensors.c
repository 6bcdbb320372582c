/* SPDX-License-Identifier: MIT */
/* Every dimension of every role has a name, and within a message a name has one size: the first
 * tensor that has the dimension says how large it is, the others must agree. */
#include "proto/header_internal.h"

#include "proto/err.h"

enum dim {
    DIM_BATCH,
    DIM_HEADS,
    DIM_QUERIES,
    DIM_KEYS,
    DIM_KV_HEADS,
    DIM_HEAD,
    DIM_VALUE,
    DIM_WRITTEN,
    DIM_PLACES,
    DIM_COUNT
};
/* Judged later: a matrix's sides, by heads * head_dim, those of maps, and the rows of `held`. */
#define DIM_FREE DIM_COUNT

#define B DIM_BATCH
#define H DIM_HEADS
#define Q DIM_QUERIES
#define K DIM_KEYS
#define G DIM_KV_HEADS
#define D DIM_HEAD
#define V DIM_VALUE
#define R DIM_WRITTEN
#define P DIM_PLACES

#define FLOATS    (1u << DTYPE_F32 | 1u << DTYPE_F16 | 1u << DTYPE_BF16 | 1u << DTYPE_F64)
#define ATTENTION (1u << MESSAGE_ATTENTION)
#define QK        (1u << MESSAGE_QK)
#define ROWS      (1u << MESSAGE_ROWS)
#define SKETCH    (1u << MESSAGE_SKETCH)
#define MATRIX                                                                                     \
    {                                                                                              \
        1u << MESSAGE_WEIGHTS, FLOATS, 2,                                                          \
        {                                                                                          \
            DIM_FREE, DIM_FREE                                                                     \
        }                                                                                          \
    }

/* The limits of each role: sets of message types and of dtypes, and its dimensions. */
struct role_rule {
    unsigned types, dtypes;
    uint32_t rank;
    uint8_t dims[TENSOR_RANK_MAX];
};
static const struct role_rule role_rules[TENSOR_ROLE_COUNT] = {
    [TENSOR_WEIGHTS] = {ATTENTION, FLOATS, 4, {B, H, Q, K}},
    [TENSOR_MASK] = {ATTENTION | QK, 1u << DTYPE_U8, 3, {B, Q, K}},
    [TENSOR_TOKENS] = {ATTENTION | QK, 1u << DTYPE_I32, 2, {B, K}},
    [TENSOR_GRAD] = {ATTENTION, FLOATS, 4, {B, H, Q, K}},
    [TENSOR_DOCUMENTS] = {ATTENTION | QK, 1u << DTYPE_I32, 2, {B, K}},
    [TENSOR_Q] = {QK, FLOATS, 4, {B, H, Q, D}},
    [TENSOR_K] = {QK, FLOATS, 4, {B, G, K, D}},
    [TENSOR_V] = {ATTENTION | QK, FLOATS, 4, {B, G, K, V}},
    [TENSOR_DOUT] = {QK, FLOATS, 4, {B, H, Q, V}},
    [TENSOR_WO_R] = {ATTENTION | QK, 1u << DTYPE_F32, 3, {H, R, V}},
    [TENSOR_X_NORM] = {ATTENTION | QK, 1u << DTYPE_F32, 2, {B, Q}},
    [TENSOR_WQ] = MATRIX,
    [TENSOR_WK] = MATRIX,
    [TENSOR_WV] = MATRIX,
    [TENSOR_WO] = MATRIX,
    [TENSOR_MAPS] = {ROWS, 1u << DTYPE_F16, 3, {DIM_FREE, DIM_FREE, DIM_FREE}},
    [TENSOR_SUMS] = {ROWS, 1u << DTYPE_F32, 4, {DIM_FREE, B, H, Q}},
    [TENSOR_PLACES] = {ROWS, 1u << DTYPE_I32, 3, {DIM_FREE, DIM_FREE, Q}},
    [TENSOR_KEY_LENGTHS] = {ROWS, 1u << DTYPE_F32, 3, {B, G, K}},
    [TENSOR_SINKS] = {ROWS, 1u << DTYPE_F32, 1, {H}},
    [TENSOR_HELD] = {SKETCH, 1u << DTYPE_U8, 2, {DIM_FREE, P}},
};

/* A sketch has other tensors under the names of the matrices. */
static const struct role_rule *role_rule_of(enum tensor_role role, enum message_type type)
{
    static const struct role_rule of_heads = {SKETCH, 1u << DTYPE_F32, 2, {H, P}},
                                  of_key_heads = {SKETCH, 1u << DTYPE_F32, 2, {G, P}};
    if (type != MESSAGE_SKETCH || role < TENSOR_WQ || role > TENSOR_WO) {
        return &role_rules[role];
    }
    return role == TENSOR_WQ || role == TENSOR_WO ? &of_heads : &of_key_heads;
}

const struct tensor *header_find_tensor(const struct header *header, enum tensor_role role)
{
    for (uint32_t i = 0; i < header->tensor_count; i++) {
        if (header->tensors[i].role == role) {
            return &header->tensors[i];
        }
    }
    return NULL;
}

/* ---- one tensor ---- */

static int read_role(const msgpack_object *value, enum message_type type, struct tensor *tensor)
{
    if (value->type != MSGPACK_OBJECT_STR) {
        return ERR_KEY_TYPE;
    }
    int rc = tensor_role_parse(value->via.str.ptr, value->via.str.size, &tensor->role);
    if (!rc && !(role_rule_of(tensor->role, type)->types & 1u << type)) {
        rc = ERR_TENSOR_NAME;
    }
    return rc;
}

static int read_dtype(const msgpack_object *value, const struct role_rule *rule,
                      struct tensor *tensor)
{
    if (value->type != MSGPACK_OBJECT_STR) {
        return ERR_KEY_TYPE;
    }
    int rc = dtype_parse(value->via.str.ptr, value->via.str.size, &tensor->dtype);
    if (!rc && !(rule->dtypes & 1u << tensor->dtype)) {
        rc = ERR_DTYPE;
    }
    return rc;
}

static int header_tensors_read_shape(const msgpack_object *value, const struct role_rule *rule,
                                     struct tensor *tensor)
{
    int rc = 0;
    if (value->type != MSGPACK_OBJECT_ARRAY) {
        return ERR_KEY_TYPE;
    }
    if (value->via.array.size != rule->rank) {
        return ERR_SHAPE;
    }
    tensor->rank = value->via.array.size;
    for (uint32_t i = 0; i < tensor->rank && !rc; i++) {
        rc = mpk_get_u64(&value->via.array.ptr[i], UINT64_MAX, &tensor->shape[i]);
    }
    if (!rc) {
        rc = tensor_bytes(tensor->dtype, tensor->shape, tensor->rank, &tensor->bytes);
    }
    for (uint32_t i = 0; i < tensor->rank && !rc; i++) {
        rc = tensor->shape[i] > INT32_MAX ? ERR_SHAPE : 0;
    }
    return rc;
}

static int header_tensors_read_tensor(const msgpack_object *value, enum message_type type,
                                      struct tensor *ret_tensor)
{
    static const char *const names[] = {"name", "dtype", "shape"};
    const msgpack_object *found[3];
    const char *duplicate;
    int rc = mpk_collect(value, names, 3, found, &duplicate);
    if (rc) {
        return rc;
    }
    if (!found[0] || !found[1] || !found[2]) {
        return ERR_KEY_MISSING;
    }
    rc = read_role(found[0], type, ret_tensor);
    if (rc) {
        return rc;
    }
    const struct role_rule *rule = role_rule_of(ret_tensor->role, type);
    rc = read_dtype(found[1], rule, ret_tensor);
    return rc ? rc : header_tensors_read_shape(found[2], rule, ret_tensor);
}

/* ---- all of them ---- */

/* Without these there is nothing to measure; of matrices any will do. */
static bool has_required(const struct header *header)
{
    switch (header->type) {
    case MESSAGE_ATTENTION:
        return header_find_tensor(header, TENSOR_WEIGHTS);
    case MESSAGE_QK:
        return header_find_tensor(header, TENSOR_Q) && header_find_tensor(header, TENSOR_K);
    case MESSAGE_ROWS:
        return header_find_tensor(header, TENSOR_SUMS) && header_find_tensor(header, TENSOR_PLACES);
    case MESSAGE_SKETCH: /* `held` says nothing alone */
        return header->tensor_count > (header_find_tensor(header, TENSOR_HELD) ? 1 : 0);
    default:
        return header->tensor_count > 0;
    }
}

static int header_tensors_set_shape(struct header *header)
{
    uint32_t dims[DIM_COUNT] = {0}; /* 0 where no tensor has the dimension */
    for (uint32_t i = 0; i < header->tensor_count; i++) {
        const struct tensor *tensor = &header->tensors[i];
        for (uint32_t d = 0; d < tensor->rank; d++) {
            unsigned dim = role_rule_of(tensor->role, header->type)->dims[d];
            uint32_t size = (uint32_t)tensor->shape[d]; /* at most INT32_MAX: read_shape */
            if (dim == DIM_FREE) {
                continue;
            }
            if (dims[dim] != 0 && dims[dim] != size) {
                return ERR_SHAPE;
            }
            dims[dim] = size;
        }
    }
    if (header->type == MESSAGE_SKETCH && dims[DIM_PLACES] != SKETCH_PLACES) {
        return ERR_SHAPE;
    }
    header->batch = dims[DIM_BATCH];
    header->heads = dims[DIM_HEADS];
    header->queries = dims[DIM_QUERIES];
    header->keys = dims[DIM_KEYS];
    header->kv_heads = dims[DIM_KV_HEADS] > 0 ? dims[DIM_KV_HEADS] : header->heads;
    header->head_dim = dims[DIM_HEAD];
    header->value_dim = dims[DIM_VALUE];
    /* Defaults; the keys of the same names come later in the table. */
    header->heads_total = header->heads;
    header->q_stride = header->type == MESSAGE_ROWS ? 0 : 1; /* places say it */
    header->local_window = LOCAL_WINDOW;
    if (header->type == MESSAGE_SKETCH) { /* for whoever multiplies dimensions */
        header->batch = header->queries = header->keys = 1;
        header->q_stride = 0;
    }
    return 0;
}

static int header_tensors_set_maps(struct header *header)
{
    const struct tensor *tensor = header_find_tensor(header, TENSOR_MAPS);
    if (tensor && (tensor->shape[1] > SENT_MAPS_SIDE || tensor->shape[2] > SENT_MAPS_SIDE)) {
        return ERR_SHAPE;
    }
    if (tensor) { /* at most INT32_MAX: read_shape */
        header->maps.heads = (uint32_t)tensor->shape[0];
        header->maps.rows = (uint32_t)tensor->shape[1];
        header->maps.columns = (uint32_t)tensor->shape[2];
    }
    return 0;
}

int header_read_tensors(const msgpack_object *value, struct header *header)
{
    if (value->type != MSGPACK_OBJECT_ARRAY) {
        return ERR_KEY_TYPE;
    }
    /* More tensors than roles: one is unknown or named twice. */
    if (value->via.array.size > TENSORS_MAX) {
        return ERR_TENSOR_NAME;
    }
    for (uint32_t i = 0; i < value->via.array.size; i++) {
        struct tensor tensor = {0};
        int rc = header_tensors_read_tensor(&value->via.array.ptr[i], header->type, &tensor);
        if (rc) {
            return rc;
        }
        if (header_find_tensor(header, tensor.role)) {
            return ERR_TENSOR_NAME;
        }
        header->tensors[header->tensor_count++] = tensor;
    }
    if (!has_required(header)) {
        return ERR_TENSOR_NAME;
    }
    if (header->type != MESSAGE_WEIGHTS) {
        int rc = header_tensors_set_shape(header);
        return rc ? rc : header_tensors_set_maps(header);
    }
    /* Heads are told by keys; whoever multiplies dimensions gets the number of heads. */
    header->batch = header->queries = header->keys = 1;
    /* Matrices are whole unless `parts` says otherwise. */
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        const struct tensor *tensor =
            header_find_tensor(header, header_role_of((enum projection)p));
        if (tensor) { /* at most INT32_MAX: read_shape */
            header->matrix[p].out = (uint32_t)tensor->shape[0];
            header->matrix[p].in = (uint32_t)tensor->shape[1];
        }
    }
    return 0;
}

/* ---- parts of matrices ---- */

/* [out, in, row, column], and whether a tensor that is there lies within. */
static int header_tensors_read_place(const msgpack_object *value, const struct tensor *tensor,
                                     struct matrix_place *ret_place)
{
    uint32_t *const fields[] = {&ret_place->out, &ret_place->in, &ret_place->row,
                                &ret_place->column};
    uint64_t numbers[4], bytes;
    int rc = 0;
    if (value->type != MSGPACK_OBJECT_ARRAY) {
        return ERR_KEY_TYPE;
    }
    if (value->via.array.size != 4) {
        return ERR_SHAPE;
    }
    for (uint32_t i = 0; i < 4 && !rc; i++) {
        rc = mpk_get_u64(&value->via.array.ptr[i], INT32_MAX, &numbers[i]);
        *fields[i] = rc ? 0 : (uint32_t)numbers[i];
    }
    if (!rc) {
        rc = tensor_bytes(DTYPE_F64, numbers, 2, &bytes);
    }
    if (!rc && tensor &&
        (numbers[2] + tensor->shape[0] > numbers[0] ||
         numbers[3] + tensor->shape[1] > numbers[1])) {
        rc = ERR_SHAPE;
    }
    return rc;
}

int header_read_parts(const msgpack_object *value, struct header *header)
{
    const msgpack_object *found[PROJECTION_COUNT];
    const char *duplicate;
    uint32_t known = 0;
    int rc = mpk_collect(value, projection_name, PROJECTION_COUNT, found, &duplicate);
    for (int p = 0; p < PROJECTION_COUNT && !rc; p++) {
        const struct tensor *tensor =
            header_find_tensor(header, header_role_of((enum projection)p));
        known += found[p] != NULL;
        if (found[p]) {
            rc = header_tensors_read_place(found[p], tensor, &header->matrix[p]);
        } else if (tensor) {
            rc = ERR_TENSOR_NAME;
        }
    }
    if (!rc && value->via.map.size != known) {
        rc = ERR_TENSOR_NAME;
    }
    header->in_parts = true;
    return rc;
}

/* ---- against the other keys ---- */

/* A matrix of which nothing was sent fits. */
static bool matrices_fit(const struct header *header)
{
    uint64_t width = (uint64_t)header->heads * header->head_dim,
             kv_width = (uint64_t)header->kv_heads * header->head_dim;
    const struct matrix_place *m = header->matrix;
    return (!m[PROJECTION_Q].out || m[PROJECTION_Q].out == width) &&
           (!m[PROJECTION_K].out || m[PROJECTION_K].out == kv_width) &&
           (!m[PROJECTION_V].out || m[PROJECTION_V].out == kv_width) &&
           (!m[PROJECTION_O].out || m[PROJECTION_O].in == width);
}

/* A query's document is that of the key at its position, so there must be one. */
static bool documents_fit(const struct header *header)
{
    if (!header_find_tensor(header, TENSOR_DOCUMENTS)) {
        return true;
    }
    return header->layer.site == SITE_SELF && header_last_position(header) < header->keys;
}

/* A tensor that says nothing without another one. */
static bool tensors_stand(const struct header *header)
{
    bool v = header_find_tensor(header, TENSOR_V), wo_r = header_find_tensor(header, TENSOR_WO_R);
    return (v || !(wo_r || header_find_tensor(header, TENSOR_DOUT))) &&
           (wo_r || !header_find_tensor(header, TENSOR_X_NORM));
}

/* R of a QR has no more rows than columns. */
static bool wo_r_fits(const struct header *header)
{
    const struct tensor *tensor = header_find_tensor(header, TENSOR_WO_R);
    return !tensor || tensor->shape[1] <= tensor->shape[2];
}

static uint32_t header_tensors_cells(uint32_t T, uint32_t side)
{
    return T < side ? T : side;
}

/* Rows and columns are those of some number of cells a side, and lie within what was sent. */
static int header_tensors_check_maps(const struct header *header, const char **reterr_key)
{
    const struct sent_maps *maps = &header->maps;
    uint32_t side = maps->rows > maps->columns ? maps->rows : maps->columns;
    if (maps->rows != header_tensors_cells(maps->queries, side) ||
        maps->columns != header_tensors_cells(maps->keys, side)) {
        *reterr_key = "tensors";
        return ERR_SHAPE;
    }
    if ((uint64_t)maps->first_query + maps->queries > header->call_queries) {
        *reterr_key = "map_queries";
        return ERR_KEY_RANGE;
    }
    if ((uint64_t)maps->first_key + maps->keys > header->keys) {
        *reterr_key = "map_keys";
        return ERR_KEY_RANGE;
    }
    if ((uint64_t)header->q_offset + header->call_queries > UINT32_MAX) {
        *reterr_key = "q_offset";
        return ERR_KEY_RANGE;
    }
    return 0;
}

int header_check_tensors(const struct header *header, const char **reterr_key)
{
    if (header->heads % header->kv_heads != 0) {
        *reterr_key = header->type == MESSAGE_WEIGHTS ? "kv_heads" : "tensors";
        return ERR_GQA;
    }
    if (header->maps.heads > 0) {
        return header_tensors_check_maps(header, reterr_key);
    }
    if (header->type == MESSAGE_WEIGHTS && !matrices_fit(header)) {
        *reterr_key = "head_dim";
        return ERR_HEAD_DIM;
    }
    if (!tensors_stand(header)) {
        *reterr_key = "tensors";
        return ERR_TENSOR_NEEDS;
    }
    if (!wo_r_fits(header)) {
        *reterr_key = "tensors";
        return ERR_SHAPE;
    }
    if (!documents_fit(header)) {
        *reterr_key = "tensors";
        return ERR_DOCUMENTS;
    }
    return 0;
}

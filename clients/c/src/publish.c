/* SPDX-License-Identifier: MIT */
/* The publishing calls: what they are given is checked and described as a parcel. */
#include "clients/c/src/publisher.h"

#include "proto/utf8.h"

#include <math.h>
#include <string.h>

static const enum dtype dtypes[] = {[ATTN_F32] = DTYPE_F32,
                                    [ATTN_F16] = DTYPE_F16,
                                    [ATTN_BF16] = DTYPE_BF16,
                                    [ATTN_F64] = DTYPE_F64};

/* ---- checks ---- */

static bool dtype_valid(attn_dtype dtype)
{
    return (unsigned)dtype <= ATTN_F64;
}

static bool dim_valid(uint32_t size)
{
    return size >= 1 && size <= INT32_MAX;
}

static bool lengths_valid(const int32_t *lengths, uint32_t batch, uint32_t max)
{
    if (!lengths) {
        return true;
    }
    /* 16384 entries do not fit the header: not worth a walk. */
    if (batch > HEADER_BYTES_MAX) {
        return false;
    }
    for (uint32_t i = 0; i < batch; i++) {
        if (lengths[i] < 0 || (uint32_t)lengths[i] > max) {
            return false;
        }
    }
    return true;
}

/* Labels that no header has room for are left out, and not looked at. */
static bool labels_valid(const char *const *labels, uint32_t keys)
{
    for (uint32_t i = 0; labels && keys <= HEADER_BYTES_MAX && i < keys; i++) {
        /* A byte that is not UTF-8 stands for U+FFFD, which itself takes three. */
        const char *text = labels[i];
        size_t len = text ? strlen(text) : 0;
        while (len > 0) {
            uint32_t code;
            size_t taken = utf8_take(text, len, &code);
            if (code == UTF8_REPLACEMENT && taken == 1) {
                return false;
            }
            text += taken;
            len -= taken;
        }
        if (!text) {
            return false;
        }
    }
    return true;
}

/* Takes a module's path; returns whether there is none, or a header can carry it. */
static bool take_module(struct header *header, const char *module)
{
    size_t len = module ? strnlen(module, MODULE_MAX + 1) : 0;
    if (module && !module_path_valid(module, len)) {
        return false;
    }
    if (module) {
        memcpy(header->module, module, len);
    }
    header->module[len] = '\0';
    return true;
}

/* The numbers of a header of type `attention` or `qk` that has all but its tensors. */
static bool rows_valid(const struct header *header)
{
    return dim_valid(header->batch) && dim_valid(header->heads) && dim_valid(header->queries) &&
           dim_valid(header->keys) && dim_valid(header->kv_heads) &&
           header->heads_total <= HEADS_TOTAL_MAX && header->heads % header->kv_heads == 0 &&
           (uint64_t)header->head_offset + header->heads <= header->heads_total &&
           header_last_position(header) < UINT32_MAX &&
           lengths_valid(header->q_len, header->batch, header->queries) &&
           lengths_valid(header->k_len, header->batch, header->keys) &&
           labels_valid(header->labels, header->keys);
}

/* A query's document is that of the key at its position. */
static bool documents_valid(const struct header *header, const int32_t *documents)
{
    return !documents ||
           (header->layer.site == SITE_SELF && header_last_position(header) < header->keys);
}

/* ---- what `attention` and `qk` have in common ---- */

/* The members that both structs have. */
#define FILL_ROWS(header, a)                                                                       \
    do {                                                                                           \
        (header)->layer = layer_id_of((a)->stack, (a)->layer, (a)->site);                          \
        (header)->batch = (a)->batch;                                                              \
        (header)->heads = (a)->heads;                                                              \
        (header)->queries = (a)->queries;                                                          \
        (header)->keys = (a)->keys;                                                                \
        (header)->causal = (a)->causal;                                                            \
        (header)->window = (a)->window;                                                            \
        /* Read only; never freed by header_clear. */                                              \
        (header)->q_len = (int32_t *)(uintptr_t)(a)->q_len;                                        \
        (header)->k_len = (int32_t *)(uintptr_t)(a)->k_len;                                        \
        (header)->head_offset = (a)->head_offset;                                                  \
        (header)->heads_total = (a)->heads_total ? (a)->heads_total : (a)->heads;                  \
        (header)->dropout = (a)->dropout;                                                          \
        (header)->learned_sink = (a)->learned_sink;                                                \
        (header)->q_offset = (a)->q_offset;                                                        \
        (header)->q_stride = (a)->q_stride ? (a)->q_stride : 1;                                    \
        (header)->labels = (a)->labels;                                                            \
        (header)->label_count = (a)->labels ? (a)->keys : 0;                                       \
        (header)->microbatch = (a)->microbatch;                                                    \
    } while (0)

/* Mask, tokens and documents, which both structs have. */
static void add_row_tensors(struct parcel *parcel, const uint8_t *mask, const int32_t *tokens,
                            const int32_t *documents)
{
    const struct header *h = &parcel->header;
    parcel_add(parcel, mask,
               (struct tensor){TENSOR_MASK, DTYPE_U8, 3, {h->batch, h->queries, h->keys}, 0});
    parcel_add(parcel, tokens,
               (struct tensor){TENSOR_TOKENS, DTYPE_I32, 2, {h->batch, h->keys}, 0});
    parcel_add(parcel, documents,
               (struct tensor){TENSOR_DOCUMENTS, DTYPE_I32, 2, {h->batch, h->keys}, 0});
}

/* The tensors about what heads make of values, of which `v` says whether there are any. */
static void add_output(struct parcel *parcel, const void *v, uint32_t value_dim, const void *dout,
                       attn_dtype dout_dtype, const float *wo_r, uint32_t written_dim,
                       const float *x_norm)
{
    const struct header *h = &parcel->header;
    if ((!v && (dout || wo_r)) || (!wo_r && x_norm) ||
        (wo_r && (!dim_valid(written_dim) || written_dim > value_dim))) {
        parcel->invalid = true;
    }
    parcel_add(
        parcel, dout,
        (struct tensor){
            TENSOR_DOUT, dtypes[dout_dtype], 4, {h->batch, h->heads, h->queries, value_dim}, 0});
    parcel_add(parcel, wo_r,
               (struct tensor){TENSOR_WO_R, DTYPE_F32, 3, {h->heads, written_dim, value_dim}, 0});
    parcel_add(parcel, x_norm,
               (struct tensor){TENSOR_X_NORM, DTYPE_F32, 2, {h->batch, h->queries}, 0});
}

static void publish_begin(const attn_publisher *publisher, enum message_type type,
                          struct parcel *ret_parcel)
{
    ret_parcel->header = publisher->identity;
    ret_parcel->header.type = type;
    ret_parcel->row = 0;
    ret_parcel->stride = 1;
    ret_parcel->bytes = 0;
    ret_parcel->invalid = false;
}

/* One message per range of heads that this slice has some of. */
static int queue_planned(attn_publisher *publisher, const struct parcel *whole,
                         const attn_plan *plan)
{
    static const attn_range all = {0, UINT32_MAX};
    const attn_range *ranges = plan->range_count ? plan->ranges : &all;
    uint32_t first = whole->header.head_offset, last = first + whole->header.heads - 1;
    int result = ATTN_SKIPPED;
    bool any = false;
    for (uint32_t i = 0; i < (plan->range_count ? plan->range_count : 1); i++) {
        attn_range range = {ranges[i].first > first ? ranges[i].first : first,
                            ranges[i].last < last ? ranges[i].last : last};
        struct parcel part;
        int rc;
        if (range.first > range.last) {
            continue;
        }
        parcel_restrict(whole, plan, range, &part);
        rc = queue_put(publisher, &part);
        result = !any || rc < result ? rc : result;
        any = true;
    }
    return any ? result : queue_skip(publisher);
}

/* Queues a parcel that is complete. */
static int queue(attn_publisher *publisher, struct parcel *parcel, const attn_plan *plan)
{
    if (parcel->invalid) {
        return ATTN_E_ARGUMENT;
    }
    if (publisher_is_orphan(publisher)) {
        return ATTN_SKIPPED;
    }
    if (!atomic_load_explicit(&publisher->has_tensor_reader, memory_order_acquire)) {
        return queue_skip(publisher);
    }
    publisher_position(publisher, &parcel->header.epoch, &parcel->header.step);
    return plan ? queue_planned(publisher, parcel, plan) : queue_put(publisher, parcel);
}

/* ---- attention ---- */

void attn_attention_default(attn_attention *ret_attention)
{
    *ret_attention = (attn_attention){.stack = ATTN_ENCODER};
}

int attn_publish_attention(attn_publisher *publisher, const attn_attention *attention)
{
    const attn_attention *a = attention;
    struct parcel parcel;
    struct header *h = &parcel.header;
    if (!a || !a->weights || !layer_valid(a->stack, a->layer, a->site) || !dtype_valid(a->dtype) ||
        !dtype_valid(a->grad_dtype) || !dtype_valid(a->v_dtype) ||
        (a->plan && !plan_valid(a->plan)) || (a->v && !dim_valid(a->value_dim))) {
        return ATTN_E_ARGUMENT;
    }
    publish_begin(publisher, MESSAGE_ATTENTION, &parcel);
    FILL_ROWS(h, a);
    h->kv_heads = a->v && a->kv_heads ? a->kv_heads : a->heads;
    if (!rows_valid(h) || !documents_valid(h, a->documents) || !take_module(h, a->module)) {
        return ATTN_E_ARGUMENT;
    }
    struct tensor weights = {
        TENSOR_WEIGHTS, dtypes[a->dtype], 4, {a->batch, a->heads, a->queries, a->keys}, 0};
    parcel_add(&parcel, a->weights, weights);
    add_row_tensors(&parcel, a->mask, a->tokens, a->documents);
    weights.role = TENSOR_GRAD;
    weights.dtype = dtypes[a->grad_dtype];
    parcel_add(&parcel, a->grad, weights);
    parcel_add(
        &parcel, a->v,
        (struct tensor){
            TENSOR_V, dtypes[a->v_dtype], 4, {h->batch, h->kv_heads, h->keys, a->value_dim}, 0});
    add_output(&parcel, a->v, a->value_dim, NULL, ATTN_F32, a->wo_r, a->written_dim, a->x_norm);
    return queue(publisher, &parcel, a->plan);
}

/* ---- qk ---- */

void attn_qk_default(attn_qk *ret_qk)
{
    *ret_qk = (attn_qk){.stack = ATTN_ENCODER};
}

int attn_publish_qk(attn_publisher *publisher, const attn_qk *qk)
{
    struct parcel parcel;
    struct header *h = &parcel.header;
    if (!qk || !qk->q || !qk->k || !layer_valid(qk->stack, qk->layer, qk->site) ||
        !dtype_valid(qk->q_dtype) || !dtype_valid(qk->k_dtype) || !dtype_valid(qk->v_dtype) ||
        !dtype_valid(qk->dout_dtype) || !dim_valid(qk->head_dim) || !isfinite(qk->scale) ||
        !isfinite(qk->softcap) || qk->softcap < 0 || (qk->plan && !plan_valid(qk->plan))) {
        return ATTN_E_ARGUMENT;
    }
    publish_begin(publisher, MESSAGE_QK, &parcel);
    FILL_ROWS(h, qk);
    h->kv_heads = qk->kv_heads ? qk->kv_heads : qk->heads;
    h->head_dim = qk->head_dim;
    h->scale = fabs(qk->scale) > 0 ? qk->scale : 1 / sqrt(qk->head_dim);
    h->softcap = qk->softcap;
    if (!rows_valid(h) || !documents_valid(h, qk->documents) || !take_module(h, qk->module)) {
        return ATTN_E_ARGUMENT;
    }
    uint32_t value_dim = qk->value_dim ? qk->value_dim : qk->head_dim;
    struct tensor vectors = {
        TENSOR_Q, dtypes[qk->q_dtype], 4, {h->batch, h->heads, h->queries, h->head_dim}, 0};
    parcel_add(&parcel, qk->q, vectors);
    vectors = (struct tensor){
        TENSOR_K, dtypes[qk->k_dtype], 4, {h->batch, h->kv_heads, h->keys, h->head_dim}, 0};
    parcel_add(&parcel, qk->k, vectors);
    vectors.role = TENSOR_V;
    vectors.dtype = dtypes[qk->v_dtype];
    vectors.shape[3] = value_dim;
    parcel_add(&parcel, qk->v, vectors);
    add_row_tensors(&parcel, qk->mask, qk->tokens, qk->documents);
    add_output(&parcel, qk->v, value_dim, qk->dout, qk->dout_dtype, qk->wo_r, qk->written_dim,
               qk->x_norm);
    return queue(publisher, &parcel, qk->plan);
}

/* ---- weights ---- */

void attn_weights_default(attn_weights *ret_weights)
{
    *ret_weights = (attn_weights){.stack = ATTN_ENCODER};
}

/* `side` is the one that heads tell, `is_out` whether it is the first. */
static void add_matrix(struct parcel *parcel, enum tensor_role role, const attn_matrix *matrix,
                       uint64_t side, bool is_out)
{
    bool known = dtype_valid(matrix->dtype);
    parcel->invalid = parcel->invalid || (matrix->data && !known);
    parcel_add(parcel, matrix->data,
               (struct tensor){role,
                               known ? dtypes[matrix->dtype] : DTYPE_F32,
                               2,
                               {is_out ? side : matrix->width, is_out ? matrix->width : side},
                               0});
}

int attn_publish_weights(attn_publisher *publisher, const attn_weights *weights)
{
    const attn_weights *w = weights;
    struct parcel parcel;
    struct header *h = &parcel.header;
    if (!w || !layer_valid(w->stack, w->layer, w->site)) {
        return ATTN_E_ARGUMENT;
    }
    publish_begin(publisher, MESSAGE_WEIGHTS, &parcel);
    h->layer = layer_id_of(w->stack, w->layer, w->site);
    h->batch = h->queries = h->keys = 1;
    h->heads = w->heads;
    h->kv_heads = w->kv_heads ? w->kv_heads : w->heads;
    h->head_dim = w->head_dim;
    h->heads_total = w->heads_total ? w->heads_total : w->heads;
    if (w->heads < 1 || h->heads_total < w->heads || h->heads_total > HEADS_TOTAL_MAX ||
        w->heads % h->kv_heads != 0 || !dim_valid(w->head_dim) || !take_module(h, w->module)) {
        return ATTN_E_ARGUMENT;
    }
    add_matrix(&parcel, TENSOR_WQ, &w->wq, (uint64_t)w->heads * w->head_dim, true);
    add_matrix(&parcel, TENSOR_WK, &w->wk, (uint64_t)h->kv_heads * w->head_dim, true);
    add_matrix(&parcel, TENSOR_WV, &w->wv, (uint64_t)h->kv_heads * w->head_dim, true);
    add_matrix(&parcel, TENSOR_WO, &w->wo, (uint64_t)w->heads * w->head_dim, false);
    return h->tensor_count > 0 ? queue(publisher, &parcel, NULL) : ATTN_E_ARGUMENT;
}

/* SPDX-License-Identifier: MIT */
/* A plan takes the first samples, a run of heads and every n-th query row. In an array
 * [samples][heads][rows][...] a copy is one memcpy per row; per sample and head when rows follow
 * each other, and a single one when all heads and rows are taken. The role of the tensor gives the
 * meaning of each dimension.
 *
 * Key heads are shared: h query heads read one. A range that begins and ends with whole groups
 * takes the key heads of these groups; any other takes one key head for each query head, copied as
 * often as it is read. */
#include "clients/c/src/parcel.h"

#include "clients/c/src/plan.h"

#include <string.h>

static uint32_t dim(const struct tensor *tensor, uint32_t from_last)
{
    return tensor->rank >= from_last ? (uint32_t)tensor->shape[tensor->rank - from_last] : 1;
}

/* Tokens and documents have no rows, norms of the stream nothing in theirs, factors no samples, and
 * matrices nothing but rows. */
static struct parcel_view view_of(const struct tensor *tensor, const void *data)
{
    bool per_key = tensor->role == TENSOR_TOKENS || tensor->role == TENSOR_DOCUMENTS;
    bool per_query = tensor->role == TENSOR_X_NORM, per_head = tensor->role == TENSOR_WO_R;
    bool matrix = tensor->rank == 2 && !per_key && !per_query;
    struct parcel_view view = {.data = data, .share = 1, .stride = 1};
    view.samples_taken = matrix || per_head ? 1 : (uint32_t)tensor->shape[0];
    view.heads = view.heads_taken = tensor->rank == 4 || per_head ? dim(tensor, 3) : 1;
    view.rows = view.rows_taken = per_key ? 1 : dim(tensor, per_query ? 1 : 2);
    view.row_bytes = (per_query ? 1 : dim(tensor, 1)) * dtype_size(tensor->dtype);
    return view;
}

void parcel_add(struct parcel *parcel, const void *data, struct tensor tensor)
{
    struct header *header = &parcel->header;
    if (!data) {
        return;
    }
    for (uint32_t i = 0; i < tensor.rank; i++) {
        parcel->invalid = parcel->invalid || tensor.shape[i] > INT32_MAX;
    }
    if (parcel->invalid ||
        tensor_bytes(tensor.dtype, tensor.shape, tensor.rank, &tensor.bytes) != 0 ||
        tensor.bytes > INT64_MAX / TENSORS_MAX) {
        parcel->invalid = true;
        return;
    }
    header->tensors[header->tensor_count] = tensor;
    parcel->views[header->tensor_count++] = view_of(&tensor, data);
    parcel->bytes += tensor.bytes;
}

/* ---- a part of it ---- */

struct parcel_part {
    uint32_t samples, head, heads; /* head: within the parcel */
    uint32_t row, rows, stride;
    uint32_t group; /* query heads that read one key head */
};

static void take_heads(struct parcel_view *view, const struct parcel_part *part)
{
    view->head = part->head;
    view->heads_taken = part->heads;
}

static void parcel_take_rows(struct parcel_view *view, const struct parcel_part *part)
{
    view->row = part->row;
    view->rows_taken = part->rows;
    view->stride = part->stride;
}

static struct parcel_part part_of(const struct header *header, const attn_plan *plan,
                                  attn_range range)
{
    struct parcel_part part = {.samples = header->batch,
                               .head = range.first - header->head_offset,
                               .heads = range.last - range.first + 1,
                               .group = header->heads / header->kv_heads};
    part.rows = attn_plan_rows(plan, header->step, header->queries, &part.row, &part.stride);
    if (plan->samples > 0 && plan->samples < part.samples) {
        part.samples = plan->samples;
    }
    return part;
}

void parcel_restrict(const struct parcel *whole, const attn_plan *plan, attn_range range,
                     struct parcel *ret_part)
{
    struct parcel_part part = part_of(&whole->header, plan, range);
    struct header *header = &ret_part->header;
    uint64_t stride;
    *ret_part = *whole;
    header->batch = part.samples;
    header->heads = part.heads;
    header->queries = part.rows;
    header->head_offset = range.first;
    header->q_offset += part.row * header->q_stride;
    stride = (uint64_t)header->q_stride * part.stride;
    header->q_stride = stride > UINT32_MAX ? UINT32_MAX : (uint32_t)stride; /* of a single row */
    ret_part->row = part.row;
    ret_part->stride = part.stride;
    ret_part->bytes = 0;
    for (uint32_t i = 0; i < header->tensor_count; i++) {
        struct tensor *tensor = &header->tensors[i];
        struct parcel_view *view = &ret_part->views[i];
        view->samples_taken = part.samples;
        switch (tensor->role) {
        case TENSOR_WEIGHTS:
        case TENSOR_GRAD:
        case TENSOR_Q:
        case TENSOR_DOUT:
            take_heads(view, &part);
            parcel_take_rows(view, &part);
            break;
        case TENSOR_WO_R:
            take_heads(view, &part);
            view->samples_taken = 1;
            break;
        case TENSOR_K:
        case TENSOR_V:
            if (part.head % part.group == 0 && part.heads % part.group == 0) {
                view->head = part.head / part.group;
                view->heads_taken = part.heads / part.group;
            } else {
                take_heads(view, &part);
                view->share = part.group;
            }
            break;
        case TENSOR_MASK:
        case TENSOR_X_NORM:
            parcel_take_rows(view, &part);
            break;
        default:
            break;
        }
        tensor->shape[0] = tensor->role == TENSOR_WO_R ? view->heads_taken : view->samples_taken;
        if (tensor->rank == 4) {
            tensor->shape[1] = view->heads_taken;
        }
        if (tensor->rank > 2) {
            tensor->shape[tensor->rank - 2] = view->rows_taken;
        }
        if (tensor->role == TENSOR_X_NORM) {
            tensor->shape[1] = view->rows_taken;
        }
        tensor->bytes =
            (uint64_t)view->samples_taken * view->heads_taken * view->rows_taken * view->row_bytes;
        ret_part->bytes += tensor->bytes;
    }
}

/* ---- copying ---- */

void parcel_copy(const struct parcel *parcel, uint32_t index, void *to)
{
    const struct parcel_view *view = &parcel->views[index];
    /* Rows that follow each other are copied at once. */
    uint32_t pieces = view->stride > 1 ? view->rows_taken : 1;
    uint64_t bytes = view->rows_taken / pieces * view->row_bytes;
    char *at = to;
    if (view->share == 1 && view->heads_taken == view->heads && view->rows_taken == view->rows) {
        memcpy(to, view->data, parcel->header.tensors[index].bytes);
        return;
    }
    for (uint32_t sample = 0; sample < view->samples_taken; sample++) {
        for (uint32_t head = 0; head < view->heads_taken; head++) {
            uint64_t plane = (uint64_t)sample * view->heads + (view->head + head) / view->share;
            const char *from =
                (const char *)view->data + (plane * view->rows + view->row) * view->row_bytes;
            for (uint32_t i = 0; i < pieces; i++, at += bytes) {
                memcpy(at, from + i * view->stride * view->row_bytes, bytes);
            }
        }
    }
}

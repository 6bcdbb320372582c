/* SPDX-License-Identifier: MIT */
/* The encoder writes the keys that C programs send, in PROTOCOL.md's order; those of sketches, of
 * matrices in parts, and of settings and costs come from Python alone. Optional keys are left out
 * while they say what their absence says, so that equal headers have equal bytes. */
#include "proto/header_internal.h"

#include "proto/err.h"

static void header_encode_put_flag(struct mpk_writer *writer, const char *key, bool flag)
{
    if (flag) {
        mpk_pair_bool(writer, key, true);
    }
}

void header_put_layer(struct mpk_writer *writer, struct layer_id id)
{
    mpk_pair_str(writer, "stack", stack_name(id.stack));
    mpk_pair_u64(writer, "layer", id.layer);
    mpk_pair_str(writer, "site", site_name(id.site));
}

/* Left out while it is 0. */
static void header_encode_put_number(struct mpk_writer *writer, const char *key, uint64_t number)
{
    if (number != 0) {
        mpk_pair_u64(writer, key, number);
    }
}

static void put_common(struct mpk_writer *writer, const struct header *header)
{
    mpk_pair_u64(writer, "v", PROTO_VERSION);
    mpk_pair_str(writer, "type", message_type_name(header->type));
    mpk_pair_str(writer, "job", header->job);
    mpk_pair_bin(writer, "run", header->run, RUN_BYTES);
    mpk_pair_u64(writer, "rank", header->rank);
    mpk_pair_u64(writer, "world", header->world);
    mpk_pair_u64(writer, "seq", header->seq);
    mpk_pair_u64(writer, "dropped", header->dropped);
    mpk_pair_u64(writer, "time_ns", header->time_ns);
    mpk_pair_u64(writer, "epoch", header->epoch);
    mpk_pair_u64(writer, "step", header->step);
    header_encode_put_flag(writer, "reliable", header->reliable);
}

static void put_tensor(struct mpk_writer *writer, const struct tensor *tensor)
{
    mpk_put_map(writer, 3);
    mpk_pair_str(writer, "name", tensor_role_name(tensor->role));
    mpk_pair_str(writer, "dtype", dtype_name(tensor->dtype));
    mpk_pair_array(writer, "shape", tensor->rank);
    for (uint32_t i = 0; i < tensor->rank; i++) {
        mpk_put_u64(writer, tensor->shape[i]);
    }
}

static void put_lengths(struct mpk_writer *writer, const char *key, const int32_t *lengths,
                        uint32_t batch)
{
    if (!lengths) {
        return;
    }
    mpk_pair_array(writer, key, batch);
    for (uint32_t i = 0; i < batch; i++) {
        mpk_put_u64(writer, (uint64_t)lengths[i]);
    }
}

static void put_rows(struct mpk_writer *writer, const struct header *header)
{
    uint32_t count = (uint32_t)header_find_tensor(header, TENSOR_SUMS)->shape[0];
    mpk_pair_array(writer, "sums", count);
    for (uint32_t column = 1; column <= count; column++) {
        int sum = 0;
        while (sum < ROW_SUM_COUNT && header->sum_column[sum] != column) {
            sum++;
        }
        mpk_put_str(writer, sum < ROW_SUM_COUNT ? row_sum_name((enum row_sum)sum) : "");
    }
    mpk_pair_u64(writer, "queries", header->call_queries);
    mpk_pair_u64(writer, "keys", header->keys);
    if (header->of_weights) {
        mpk_pair_str(writer, "weights", dtype_name(header->weights_dtype));
    }
    if (header->local_window != LOCAL_WINDOW) {
        mpk_pair_u64(writer, "local_window", header->local_window);
    }
}

/* The keys of one type alone, between `tensors` and what is optional for all. */
static void put_typed(struct mpk_writer *writer, const struct header *header)
{
    if (header->type == MESSAGE_WEIGHTS) {
        mpk_pair_u64(writer, "heads", header->heads);
        if (header->kv_heads != header->heads) {
            mpk_pair_u64(writer, "kv_heads", header->kv_heads);
        }
        mpk_pair_u64(writer, "head_dim", header->head_dim);
    }
    if (header->type == MESSAGE_ROWS) {
        put_rows(writer, header);
    }
    if (header->type == MESSAGE_QK) {
        mpk_pair_f64(writer, "scale", header->scale);
        if (header->softcap != 0) {
            mpk_pair_f64(writer, "softcap", header->softcap);
        }
    }
    header_encode_put_number(writer, "q_offset", header->q_offset);
    if (header->q_stride > 1) {
        mpk_pair_u64(writer, "q_stride", header->q_stride);
    }
}

static void put_tensor_message(struct mpk_writer *writer, const struct header *header)
{
    struct mpk_open map = mpk_open(writer, NULL);
    put_common(writer, header);
    header_put_layer(writer, header->layer);
    mpk_pair_array(writer, "tensors", header->tensor_count);
    for (uint32_t i = 0; i < header->tensor_count; i++) {
        put_tensor(writer, &header->tensors[i]);
    }
    put_typed(writer, header);
    header_encode_put_flag(writer, "causal", header->causal);
    header_encode_put_number(writer, "window", header->window);
    put_lengths(writer, "q_len", header->q_len, header->batch);
    put_lengths(writer, "k_len", header->k_len, header->batch);
    if (header->heads_total != header->heads) {
        if (header->type != MESSAGE_WEIGHTS) {
            mpk_pair_u64(writer, "head_offset", header->head_offset);
        }
        mpk_pair_u64(writer, "heads_total", header->heads_total);
    }
    const struct sent_maps *maps = &header->maps; /* that it brings */
    if (maps->heads > 0) {
        header_encode_put_number(writer, "map_queries", maps->queries);
        header_encode_put_number(writer, "map_keys", maps->keys);
        header_encode_put_number(writer, "first_query", maps->first_query);
        header_encode_put_number(writer, "first_key", maps->first_key);
        header_encode_put_number(writer, "sample", maps->sample);
        header_encode_put_number(writer, "batch", header->whole_batch);
    }
    header_encode_put_flag(writer, "dropout", header->dropout);
    header_encode_put_flag(writer, "learned_sink", header->learned_sink);
    if (header->label_count != 0) {
        mpk_pair_array(writer, "labels", header->label_count);
        for (uint32_t i = 0; i < header->label_count; i++) {
            mpk_put_str(writer, header->labels[i]);
        }
    }
    header_encode_put_number(writer, "microbatch", header->microbatch);
    if (header->module[0]) {
        mpk_pair_str(writer, "module", header->module);
    }
    mpk_close_map(writer, &map);
}

static void header_encode_put_layers(struct mpk_writer *writer, const struct header *header)
{
    mpk_pair_array(writer, "layers", header->layer_count);
    for (uint32_t i = 0; i < header->layer_count; i++) {
        const struct layer_info *layer = &header->layers[i];
        struct mpk_open map = mpk_open(writer, NULL);
        header_put_layer(writer, layer->id);
        mpk_pair_u64(writer, "heads", layer->heads);
        if (layer->module) {
            mpk_pair_str(writer, "module", layer->module);
        }
        mpk_close_map(writer, &map);
    }
}

int header_encode(const struct header *header, struct mpk_writer *writer)
{
    if (header->type == MESSAGE_EVENT) {
        struct mpk_open map = mpk_open(writer, NULL);
        put_common(writer, header);
        mpk_pair_str(writer, "event", event_name(header->event));
        if (header->dropped_total > 0) {
            mpk_pair_u64(writer, "dropped_total", header->dropped_total);
        }
        if (header->event == EVENT_HELLO && header->layer_count > 0) {
            header_encode_put_layers(writer, header);
        }
        if (header->event == EVENT_HELLO && header->client[0]) {
            mpk_pair_str(writer, "client", header->client);
        }
        if (header->event == EVENT_LOG) {
            mpk_put_str(writer, "values");
            named_put(&header->values, writer);
        }
        mpk_close_map(writer, &map);
    } else {
        put_tensor_message(writer, header);
    }
    return mpk_writer_ok(writer) ? 0 : ERR_MEMORY;
}

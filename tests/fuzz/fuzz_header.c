/* SPDX-License-Identifier: MIT */
/* Any bytes as a header. Refused: nothing is held. Accepted: within its limits, encodable, and what
 * was encoded decodes and encodes to the same bytes. The input's tail also serves as a topic. */
#include "tests/fuzz/fuzz.h"

#include "proto/err.h"
#include "proto/header.h"
#include "proto/mpk.h"
#include <math.h>
#include <string.h>

static uint64_t side(const struct header *header, enum tensor_role role, unsigned dim)
{
    return header->tensors[header_frame_of(header, role) - 2].shape[dim];
}

static void check_matrices(const struct header *header)
{
    uint64_t width = (uint64_t)header->heads * header->head_dim;
    uint64_t kv_width = (uint64_t)header->kv_heads * header->head_dim;

    REQUIRE(header->tensor_count >= 1 && header->head_dim > 0);
    REQUIRE(header->batch == 1 && header->queries == 1 && header->keys == 1);
    REQUIRE(!header->q_len && !header->k_len && header->head_offset == 0);
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        const struct matrix_place *place = &header->matrix[p];
        uint32_t frame = header_frame_of(header, header_role_of((enum projection)p));
        bool keys = p == PROJECTION_K || p == PROJECTION_V;

        REQUIRE(!frame || place->out > 0);
        REQUIRE(!frame || place->row + header->tensors[frame - 2].shape[0] <= place->out);
        REQUIRE(!frame || place->column + header->tensors[frame - 2].shape[1] <= place->in);
        REQUIRE(header->in_parts || (place->row == 0 && place->column == 0));
        REQUIRE(header->in_parts || (place->out > 0) == (frame > 0));
        REQUIRE(place->out == 0 ||
                (p == PROJECTION_O ? place->in : place->out) == (keys ? kv_width : width));
    }
}

/* Cells that whoever reads them has room for, of what was sent. */
static void check_maps(const struct header *header)
{
    const struct sent_maps *maps = &header->maps;

    REQUIRE((maps->heads > 0) == (header_frame_of(header, TENSOR_MAPS) > 0));
    if (maps->heads > 0) {
        REQUIRE(maps->rows > 0 && maps->rows <= SENT_MAPS_SIDE && maps->rows <= maps->queries);
        REQUIRE(maps->columns > 0 && maps->columns <= SENT_MAPS_SIDE);
        REQUIRE(maps->columns <= maps->keys);
        REQUIRE(maps->queries <= header->call_queries - maps->first_query);
        REQUIRE(maps->keys <= header->keys - maps->first_key);
        REQUIRE(side(header, TENSOR_MAPS, 0) == maps->heads);
        REQUIRE(side(header, TENSOR_MAPS, 1) == maps->rows);
        REQUIRE(side(header, TENSOR_MAPS, 2) == maps->columns);
    }
}

static void check_rows(const struct header *header)
{
    uint64_t columns = side(header, TENSOR_SUMS, 0), samples = side(header, TENSOR_PLACES, 1);

    REQUIRE(columns <= ROW_SUMS_MAX && side(header, TENSOR_SUMS, 1) == header->batch);
    REQUIRE(side(header, TENSOR_SUMS, 2) == header->heads);
    REQUIRE(side(header, TENSOR_SUMS, 3) == header->queries);
    REQUIRE(side(header, TENSOR_PLACES, 0) == ROW_PLACE_COUNT);
    REQUIRE(samples == 1 || samples == header->batch);
    REQUIRE(side(header, TENSOR_PLACES, 2) == header->queries);
    REQUIRE(header->queries <= header->call_queries && header->call_queries <= INT32_MAX);
    REQUIRE(header->keys <= INT32_MAX && header->weights_dtype <= DTYPE_F64);
    for (int i = 0; i < ROW_SUM_COUNT; i++) {
        REQUIRE(header->sum_column[i] <= columns);
        REQUIRE(header->sum_column[i] > 0 || !row_sum_needed((enum row_sum)i));
    }
    REQUIRE(!header_frame_of(header, TENSOR_KEY_LENGTHS) ||
            (side(header, TENSOR_KEY_LENGTHS, 0) == header->batch &&
             side(header, TENSOR_KEY_LENGTHS, 1) == header->kv_heads &&
             side(header, TENSOR_KEY_LENGTHS, 2) == header->keys));
    REQUIRE(!header_frame_of(header, TENSOR_SINKS) ||
            side(header, TENSOR_SINKS, 0) == header->heads);
    REQUIRE(header->maps.heads == 0 || header->maps.heads == header->heads);
    check_maps(header);
}

/* As many rows as a capture has room for, and names in front of all of them. */
static void check_sketch(const struct header *header)
{
    uint64_t rows = 0;
    REQUIRE(header->batch == 1 && header->queries == 1 && header->keys == 1);
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        enum tensor_role role = header_role_of((enum projection)p);
        bool keys = p == PROJECTION_K || p == PROJECTION_V;
        if (!header_frame_of(header, role)) {
            REQUIRE(!header->frozen[p]);
            continue;
        }
        REQUIRE(side(header, role, 0) == (keys ? header->kv_heads : header->heads));
        REQUIRE(side(header, role, 1) == SKETCH_PLACES && header->stored_dtype[p] <= DTYPE_F64);
        rows += side(header, role, 0);
    }
    REQUIRE(rows > 0);
    REQUIRE(
        !header_frame_of(header, TENSOR_HELD) ||
        (side(header, TENSOR_HELD, 0) == rows && side(header, TENSOR_HELD, 1) == SKETCH_PLACES));
    REQUIRE((uint64_t)header->head_offset * header->kv_heads % header->heads == 0);
    REQUIRE((uint64_t)header->heads_total * header->kv_heads % header->heads == 0);
}

/* Checks everything that the kernels take for granted. */
static void check_tensors(const struct header *header)
{
    REQUIRE(header->batch > 0 && header->heads > 0 && header->queries > 0 && header->keys > 0);
    REQUIRE(header->kv_heads > 0 && header->heads % header->kv_heads == 0);
    REQUIRE(header->type == MESSAGE_WEIGHTS || header->type == MESSAGE_ROWS ||
            header->type == MESSAGE_SKETCH || header->q_stride > 0);
    REQUIRE(header->q_offset + (header->queries - UINT64_C(1)) * header->q_stride < UINT32_MAX);
    REQUIRE(!header_frame_of(header, TENSOR_DOCUMENTS) ||
            (header->layer.site == SITE_SELF &&
             header->q_offset + (header->queries - UINT64_C(1)) * header->q_stride < header->keys));
    if (header->type == MESSAGE_ATTENTION) {
        REQUIRE(header_frame_of(header, TENSOR_WEIGHTS) >= 2);
    }
    if (header->type == MESSAGE_WEIGHTS) {
        check_matrices(header);
    }
    if (header->type == MESSAGE_ROWS) {
        check_rows(header);
    }
    if (header->type == MESSAGE_SKETCH) {
        check_sketch(header);
    }
    if (header->type != MESSAGE_QK) {
        return;
    }
    REQUIRE(header_frame_of(header, TENSOR_K) >= 2 && header->head_dim > 0);
    REQUIRE(side(header, TENSOR_Q, 3) == header->head_dim);
    REQUIRE(side(header, TENSOR_K, 1) == header->kv_heads);
    REQUIRE(side(header, TENSOR_K, 3) == header->head_dim);
    REQUIRE(!header_frame_of(header, TENSOR_V) || side(header, TENSOR_V, 3) == header->value_dim);
    REQUIRE(!header_frame_of(header, TENSOR_DOUT) ||
            side(header, TENSOR_DOUT, 3) == header->value_dim);
    REQUIRE(!header_frame_of(header, TENSOR_WO_R) ||
            (side(header, TENSOR_WO_R, 0) == header->heads &&
             side(header, TENSOR_WO_R, 2) == header->value_dim &&
             side(header, TENSOR_WO_R, 1) <= header->value_dim));
    REQUIRE(!header_frame_of(header, TENSOR_X_NORM) || header_frame_of(header, TENSOR_WO_R));
    REQUIRE(header->value_dim > 0 ||
            !(header_frame_of(header, TENSOR_DOUT) || header_frame_of(header, TENSOR_WO_R)));
    REQUIRE(isfinite(header->scale) && isfinite(header->softcap) && header->softcap >= 0);
}

static void fuzz_header_check_bounds(const struct header *header)
{
    REQUIRE(header->rank < header->world && header->world <= WORLD_MAX);
    REQUIRE(header->layer.layer <= LAYER_MAX && header->tensor_count <= TENSORS_MAX);
    REQUIRE(header->layer_count <= HELLO_LAYERS_MAX);
    if (header->type == MESSAGE_EVENT) {
        return;
    }
    check_tensors(header);
    REQUIRE((uint64_t)header->head_offset + header_map_heads(header) <= header->heads_total);
    for (uint32_t i = 0; i < header->batch; i++) {
        REQUIRE(!header->q_len ||
                (header->q_len[i] >= 0 && (uint32_t)header->q_len[i] <= header->queries));
        REQUIRE(!header->k_len ||
                (header->k_len[i] >= 0 && (uint32_t)header->k_len[i] <= header->keys));
        if (!header->q_len && !header->k_len) {
            break;
        }
    }
}

static void check_frames(const struct header *header)
{
    uint32_t count = header->type == MESSAGE_EVENT ? 0 : header->tensor_count;
    size_t sizes[TENSORS_MAX + 1] = {0};

    for (uint32_t i = 0; i < count; i++) {
        sizes[i] = header->tensors[i].bytes;
    }
    REQUIRE(header_check_frames(header, sizes, count) == 0);
    REQUIRE(header_check_frames(header, sizes, count + 1) == ERR_FRAMES_EXTRA);
    if (count > 0) {
        REQUIRE(header_check_frames(header, sizes, count - 1) == ERR_FRAMES_MISSING);
        sizes[count - 1]++;
        REQUIRE(header_check_frames(header, sizes, count) == ERR_SIZE_MISMATCH);
    }
}

static void check_topic(const struct header *header, const uint8_t *data, size_t len)
{
    size_t tail = len < 200 ? len : 200;
    char topic[TOPIC_MAX];
    size_t topic_len = header->type == MESSAGE_EVENT
                           ? topic_job("event", header->job, topic)
                           : topic_layer("tensor", header->job, header->layer, topic);

    REQUIRE(topic_check(header, topic, topic_len) == 0);
    (void)topic_check(header, data + len - tail, tail);
}

static void check_encoding(const struct header *header)
{
    struct mpk_writer first, second;
    struct header again;
    const char *key;

    mpk_writer_init(&first);
    mpk_writer_init(&second);
    REQUIRE(header_encode(header, &first) == 0);
    /* Only the skipped keys can have made it shorter. */
    REQUIRE(header_decode(first.buffer.data, first.buffer.size, &again, &key) == 0);
    REQUIRE(header_encode(&again, &second) == 0);
    REQUIRE(first.buffer.size == second.buffer.size);
    REQUIRE(memcmp(first.buffer.data, second.buffer.data, first.buffer.size) == 0);
    header_clear(&again);
    mpk_writer_clear(&first);
    mpk_writer_clear(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct header header;
    const char *key = NULL;
    int rc = header_decode(data, len, &header, &key);

    if (rc) {
        REQUIRE(err_index(rc) >= 0);
        REQUIRE(!header.layers && !header.q_len && !header.k_len);
        REQUIRE(header.job[0] == '\0' || job_name_valid(header.job, strlen(header.job)));
        (void)topic_check(&header, data, len);
        return 0;
    }
    fuzz_header_check_bounds(&header);
    check_frames(&header);
    check_topic(&header, data, len);
    if (!header.in_parts && header.type != MESSAGE_SKETCH) { /* Python alone sends those */
        check_encoding(&header);
    }
    header_clear(&header);
    return 0;
}

/* SPDX-License-Identifier: MIT */
/* Captures of sketches: places of each rank, when a capture is whole, the numbers of a capture, and
 * a sketch that is packed and read again. */
#include "tests/unit/unit.h"

#include "daemon/state/sketch.h"
#include "proto/err.h"
#include "tests/unit/heap.h"

#define HEADS    4
#define KV_HEADS 2

static struct state_budget budget = {.limit = 1 << 20};

/* One message: W_q and W_k of `heads` heads from `offset` on, place i with `value` + i; NAN: with
 * NAN. */
struct sent {
    uint32_t rank, offset, heads;
    uint64_t epoch, step;
    float value;
    uint64_t held; /* places of each head; 0: all, without a tensor `held` */
};

static struct message *sketch_make(const struct sent *sent)
{
    struct message *message = calloc(1, sizeof *message);
    assert_non_null(message);
    uint32_t rows = sent->heads + sent->heads / 2;
    struct header *header = &message->header;
    *header = (struct header){.type = MESSAGE_SKETCH,
                              .rank = sent->rank,
                              .epoch = sent->epoch,
                              .step = sent->step,
                              .heads = sent->heads,
                              .kv_heads = sent->heads / 2,
                              .head_offset = sent->offset,
                              .heads_total = HEADS,
                              .tensor_count = sent->held ? 3 : 2,
                              .stored_dtype = {DTYPE_BF16, DTYPE_F64}};
    message->rank_index = sent->rank;
    const uint64_t counts[] = {sent->heads, sent->heads / 2, rows};
    static const enum tensor_role roles[] = {TENSOR_WQ, TENSOR_WK, TENSOR_HELD};
    message->frame_count = 2 + header->tensor_count;
    zmq_msg_init(&message->frames[0]);
    zmq_msg_init(&message->frames[1]);
    for (uint32_t i = 0; i < header->tensor_count; i++) {
        size_t size = roles[i] == TENSOR_HELD ? 1 : sizeof(float);
        zmq_msg_t *frame = &message->frames[2 + i];
        header->tensors[i] = (struct tensor){.role = roles[i],
                                             .rank = 2,
                                             .shape = {counts[i], SKETCH_PLACES},
                                             .bytes = counts[i] * 64 * size};
        zmq_msg_init_size(frame, counts[i] * SKETCH_PLACES * size);
        for (uint64_t k = 0; k < counts[i] * SKETCH_PLACES; k++) {
            if (roles[i] == TENSOR_HELD) {
                ((uint8_t *)zmq_msg_data(frame))[k] = sent->held >> k % SKETCH_PLACES & 1;
            } else {
                ((float *)zmq_msg_data(frame))[k] = sent->value + (float)(k % SKETCH_PLACES);
            }
        }
    }
    return message;
}

static int sketch_send(struct sketch *sketch, struct sent sent)
{
    OWNED(message_free) struct message *message = sketch_make(&sent);
    return sketch_put(sketch, message);
}

/* All heads of a replica. */
static struct sent sketch_all(uint32_t rank, uint64_t step, float value)
{
    return (struct sent){.rank = rank, .heads = HEADS, .step = step, .value = value};
}

/* The numbers of a capture. */
struct said {
    struct mpk_writer writer;
    struct mpk_doc doc;
};

static void said_clear(struct said *said)
{
    mpk_doc_clear(&said->doc);
    mpk_writer_clear(&said->writer);
}

static void said_finish(struct sketch *sketch, struct said *ret_said)
{
    assert_true(sketch->is_open);
    mpk_writer_init(&ret_said->writer);
    sketch_finish(sketch, &ret_said->writer);
    assert_true(mpk_writer_ok(&ret_said->writer));
    assert_int_equal(mpk_parse(ret_said->writer.buffer.data, ret_said->writer.buffer.size,
                               &mpk_result_limits, &ret_said->doc),
                     0);
    assert_false(sketch->is_open);
}

static const msgpack_object *said_of(const struct said *said, const char *matrix, const char *key,
                                     uint32_t head)
{
    const msgpack_object *list = mpk_find(mpk_find(said->doc.root, matrix), key);
    assert_true(mpk_items(list) > head);
    return &list->via.array.ptr[head];
}

static void sketch_assert_flags(const struct said *said, uint32_t head, uint64_t flags)
{
    assert_int_equal(said_of(said, "wq", "flags", head)->via.u64, flags);
}

TEST(two_captures_of_one_rank_are_compared)
{
    OWNED(sketch_free) struct sketch *sketch = sketch_new(&budget);
    OWNED(said_clear) struct said first, second;
    assert_int_equal(sketch_send(sketch, sketch_all(0, 5, 1)), 0);
    assert_true(sketch_is_whole(sketch, 1));
    said_finish(sketch, &first);
    assert_int_equal(said_of(&first, "wq", "moved", 0)->type, MSGPACK_OBJECT_NIL);
    assert_int_equal(sketch_send(sketch, sketch_all(0, 6, 2)), 0);
    said_finish(sketch, &second);
    double square = 0, product = 0, other = 0;
    for (int i = 1; i <= 64; i++) {
        square += i * i;
        product += i * (i + 1);
        other += (i + 1) * (i + 1);
    }
    assert_close(mpk_number(said_of(&second, "wq", "moved", 3)), 8 / sqrt(square), 1e-15);
    assert_close(mpk_number(said_of(&second, "wk", "cosine", 1)), product / sqrt(square * other),
                 1e-15);
    assert_true(mpk_is_str(&mpk_find(second.doc.root, "stored")->via.array.ptr[1], "f64"));
    assert_null(mpk_find(second.doc.root, "wo"));
    assert_int_equal(mpk_find_u64(second.doc.root, "step"), 6);
}

TEST(the_first_the_newest_and_the_last_that_differed_are_kept)
{
    OWNED(sketch_free) struct sketch *sketch = sketch_new(&budget);
    static const float values[] = {1, 2, 3, 3, 3};
    for (uint64_t step = 0; step < 5; step++) {
        OWNED(said_clear) struct said said;
        assert_int_equal(sketch_send(sketch, sketch_all(0, step, values[step])), 0);
        said_finish(sketch, &said);
    }
    const struct sketch_matrix *wq = &sketch->matrix[PROJECTION_Q];
    assert_true(wq->of[SKETCH_FIRST][2].step == 0 && wq->of[SKETCH_FIRST][2].place[0] == values[0]);
    assert_true(wq->of[SKETCH_NEWEST][2].step == 4 &&
                wq->of[SKETCH_NEWEST][2].place[0] == values[4]);
    assert_true(wq->of[SKETCH_CHANGED][2].step == 2 &&
                wq->of[SKETCH_CHANGED][2].place[63] == values[2] + 63);
    assert_int_equal(budget.used, sizeof(uint64_t) + (HEADS + KV_HEADS) * (4 * 280 + 12));
    sketch_free(&sketch);
    assert_int_equal(budget.used, 0);
}

TEST(the_first_capture_waits_for_the_world_and_others_for_those_before)
{
    OWNED(sketch_free) struct sketch *sketch = sketch_new(&budget);
    for (uint32_t rank = 0; rank < 3; rank++) {
        assert_int_equal(sketch_send(sketch, sketch_all(rank, 0, 1)), 0);
        assert_int_equal(sketch_is_whole(sketch, 3), rank == 2);
    }
    OWNED(said_clear) struct said first, second;
    said_finish(sketch, &first);
    sketch_send(sketch, sketch_all(2, 1, 1));
    sketch_send(sketch, sketch_all(0, 1, 1));
    assert_false(sketch_is_whole(sketch, 3));
    assert_true(sketch_is_passed(sketch, &(struct header){.step = 2}));
    said_finish(sketch, &second); /* without rank 1, which sends afterwards */
    sketch_assert_flags(&second, 0, 0);
    sketch_send(sketch, sketch_all(1, 1, 9));
    assert_false(sketch->is_open);
    assert_true(sketch->matrix[PROJECTION_Q].of[SKETCH_NEWEST][0].step == 1);
    for (uint32_t rank = 0; rank < 3; rank++) {
        sketch_send(sketch, sketch_all(rank, 2, 1));
        assert_int_equal(sketch_is_whole(sketch, 3), rank == 2);
    }
}

TEST(a_rank_that_stays_away_is_waited_for_once)
{
    OWNED(sketch_free) struct sketch *sketch = sketch_new(&budget);
    OWNED(said_clear) struct said first, second;
    sketch_send(sketch, sketch_all(0, 0, 1));
    assert_false(sketch_is_whole(sketch, 2));
    said_finish(sketch, &first);
    sketch_send(sketch, sketch_all(0, 1, 1));
    assert_true(sketch_is_whole(sketch, 2));
    said_finish(sketch, &second);
}

TEST(places_of_shards_and_slices_are_joined)
{
    OWNED(sketch_free) struct sketch *sketch = sketch_new(&budget);
    const uint64_t even = 0x5555555555555555;
    for (uint32_t rank = 0; rank < 4; rank++) {
        const struct sent part = {.rank = rank,
                                  .offset = rank / 2 * 2,
                                  .heads = 2,
                                  .value = 7,
                                  .held = rank % 2 ? ~even : even};
        assert_false(sketch_is_whole(sketch, 1));
        assert_int_equal(sketch_send(sketch, part), 0);
    }
    assert_true(sketch_is_whole(sketch, 4));
    for (uint32_t h = 0; h < HEADS; h++) {
        const struct sketch_values *open = &sketch->matrix[PROJECTION_Q].of[SKETCH_OPEN][h];
        for (int i = 0; i < SKETCH_PLACES; i++) {
            assert_true(open->place[i] == 7 + (float)i);
        }
    }
    OWNED(said_clear) struct said said;
    said_finish(sketch, &said);
    sketch_assert_flags(&said, 3, 0);
}

TEST(bits_decide_whether_ranks_differ)
{
    OWNED(sketch_free) struct sketch *sketch = sketch_new(&budget);
    OWNED(said_clear) struct said same, zeros;
    sketch_send(sketch, sketch_all(0, 0, NAN));
    sketch_send(sketch, sketch_all(1, 0, NAN));
    said_finish(sketch, &same);
    sketch_assert_flags(&same, 0, SKETCH_NOT_FINITE);
    const struct sent sent = sketch_all(1, 1, 0);
    OWNED(message_free) struct message *message = sketch_make(&sent);
    ((float *)zmq_msg_data(&message->frames[2]))[3 * SKETCH_PLACES] = -0.0F;
    sketch_send(sketch, sketch_all(0, 1, 0));
    assert_int_equal(sketch_put(sketch, message), 0);
    said_finish(sketch, &zeros);
    sketch_assert_flags(&zeros, 0, 0);
    sketch_assert_flags(&zeros, 3, SKETCH_RANKS_DIFFER);
}

TEST(zeros_and_frozen_matrices_are_told)
{
    OWNED(sketch_free) struct sketch *sketch = sketch_new(&budget);
    OWNED(said_clear) struct said said;
    const struct sent sent = {.heads = HEADS, .value = 0, .held = 1};
    OWNED(message_free) struct message *message = sketch_make(&sent);
    message->header.frozen[PROJECTION_Q] = true;
    assert_int_equal(sketch_put(sketch, message), 0);
    said_finish(sketch, &said);
    sketch_assert_flags(&said, 0, SKETCH_ALL_ZERO | SKETCH_FROZEN | SKETCH_INCOMPLETE);
    assert_int_equal(said_of(&said, "wk", "flags", 0)->via.u64,
                     SKETCH_ALL_ZERO | SKETCH_INCOMPLETE);
}

TEST(a_capture_without_places_of_a_head_leaves_what_it_had)
{
    OWNED(sketch_free) struct sketch *sketch = sketch_new(&budget);
    OWNED(said_clear) struct said first, second, third;
    sketch_send(sketch, sketch_all(0, 0, 1));
    said_finish(sketch, &first);
    sketch_send(sketch, (struct sent){.heads = 2, .step = 1, .value = 5});
    said_finish(sketch, &second);
    sketch_assert_flags(&second, 2, SKETCH_INCOMPLETE);
    sketch_send(sketch, sketch_all(0, 2, 1));
    said_finish(sketch, &third);
    assert_true(mpk_number(said_of(&third, "wq", "moved", 2)) == 0);
    assert_true(mpk_number(said_of(&third, "wq", "moved", 0)) > 0);
}

TEST(heads_that_differ_in_one_place_have_other_hashes)
{
    OWNED(sketch_free) struct sketch *sketch = sketch_new(&budget);
    char known[SKETCH_PLACES + 1][17];
    for (uint32_t i = 0; i <= SKETCH_PLACES; i++) {
        OWNED(said_clear) struct said said;
        const struct sent sent = sketch_all(0, i, 1);
        OWNED(message_free) struct message *message = sketch_make(&sent);
        if (i < SKETCH_PLACES) {
            ((float *)zmq_msg_data(&message->frames[2]))[i] += 1;
        }
        assert_int_equal(sketch_put(sketch, message), 0);
        said_finish(sketch, &said);
        const msgpack_object *hash = said_of(&said, "wq", "hash", 0);
        assert_int_equal(hash->via.str.size, 16);
        snprintf(known[i], sizeof known[i], "%.16s", hash->via.str.ptr);
        for (uint32_t k = 0; k < i; k++) {
            assert_string_not_equal(known[i], known[k]);
        }
    }
}

TEST(another_number_of_heads_is_refused)
{
    OWNED(sketch_free) struct sketch *sketch = sketch_new(&budget);
    sketch_send(sketch, sketch_all(0, 0, 1));
    const struct sent sent = sketch_all(0, 1, 1);
    OWNED(message_free) struct message *message = sketch_make(&sent);
    message->header.kv_heads = 4;
    assert_int_equal(sketch_put(sketch, message), ERR_HEADS_CHANGED);
    assert_true(sketch->capture.step == 0 && sketch->is_open);
}

static void sketch_pack_all(const struct sketch *sketch, struct mpk_writer *writer)
{
    mpk_writer_init(writer);
    assert_int_equal(sketch_pack(sketch, writer), 0);
}

/* A sketch with captures of every kind, the last one open. */
static struct sketch *sketch_of_all(void)
{
    struct sketch *sketch = sketch_new(&budget);
    for (uint64_t step = 0; step < 4; step++) {
        OWNED(said_clear) struct said said;
        sketch_send(sketch, sketch_all(0, step, step == 1 ? 2 : 1));
        sketch_send(sketch, sketch_all(2, step, step == 2 ? 2 : 1));
        said_finish(sketch, &said);
    }
    sketch_send(sketch, (struct sent){.rank = 2, .heads = 2, .step = 9, .value = 4, .held = 6});
    return sketch;
}

TEST(what_was_packed_goes_on_as_if_nothing_had_been)
{
    OWNED(sketch_free) struct sketch *sketch = sketch_of_all(), *again = NULL;
    OWNED(mpk_writer_clear) struct mpk_writer packed, packed_again;
    sketch_pack_all(sketch, &packed);
    assert_int_equal(sketch_unpack(packed.buffer.data, packed.buffer.size, &budget, &again), 0);
    sketch_pack_all(again, &packed_again);
    assert_int_equal(packed.buffer.size, packed_again.buffer.size);
    assert_memory_equal(packed.buffer.data, packed_again.buffer.data, packed.buffer.size);
    assert_int_equal(sketch->bytes, again->bytes);
    struct sketch *both[] = {sketch, again};
    OWNED(said_clear) struct said first, second;
    for (int i = 0; i < 2; i++) {
        sketch_send(both[i], sketch_all(0, 9, 4));
        assert_true(sketch_is_whole(both[i], 9));
        said_finish(both[i], i ? &second : &first);
    }
    assert_int_equal(first.writer.buffer.size, second.writer.buffer.size);
    assert_memory_equal(first.writer.buffer.data, second.writer.buffer.data,
                        first.writer.buffer.size);
}

TEST(nothing_that_is_read_is_believed)
{
    OWNED(sketch_free) struct sketch *sketch = sketch_of_all();
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    sketch_pack_all(sketch, &packed);
    uint64_t seed = 7;
    for (size_t i = 0; i < packed.buffer.size; i += i < 300 ? 1 : 97) {
        struct sketch *read = NULL;
        uint8_t *bytes = (uint8_t *)packed.buffer.data, was = bytes[i];
        int code = sketch_unpack(bytes, i, &budget, &read);
        assert_int_equal(code, ERR_STORE_FORMAT);
        bytes[i] = (uint8_t)(random_unit(&seed) * 256);
        if (sketch_unpack(bytes, packed.buffer.size, &budget, &read) == 0) {
            OWNED(said_clear) struct said said;
            sketch_send(read, sketch_all(1, COUNT_MAX, 1));
            if (read->is_open) {
                said_finish(read, &said);
            } else {
                mpk_writer_init(&said.writer);
                said.doc = (struct mpk_doc){.root = NULL};
            }
        }
        sketch_free(&read);
        bytes[i] = was;
    }
}

TEST(without_room_a_message_changes_nothing)
{
    struct state_budget small = {.limit = (HEADS + KV_HEADS) * (4 * 280 + 12) - 1};
    OWNED(sketch_free) struct sketch *sketch = sketch_new(&small);
    assert_int_equal(sketch_send(sketch, sketch_all(0, 1, 1)), ERR_STATE_LIMIT);
    assert_true(!sketch->is_open && small.used == 0);
    small.limit++;
    assert_int_equal(sketch_send(sketch, sketch_all(0, 1, 1)), 0);
    assert_int_equal(sketch_send(sketch, sketch_all(0, 2, 1)), 0); /* adds nothing */
}

TEST(without_memory_a_message_changes_nothing)
{
    for (unsigned at = 1;; at++) {
        OWNED(sketch_free) struct sketch *sketch = sketch_new(&budget);
        const struct sent sent = sketch_all(3, 1, 1);
        OWNED(message_free) struct message *message = sketch_make(&sent);
        heap_fail_at(at);
        int code = sketch_put(sketch, message);
        bool failed = heap_has_failed();
        heap_fail_at(0);
        assert_int_equal(code, failed ? ERR_MEMORY : 0);
        assert_true(sketch->is_open == !failed);
        if (!failed) {
            break;
        }
        assert_int_equal(sketch_put(sketch, message), 0);
        assert_true(sketch_is_whole(sketch, 1));
    }
}

TEST(without_memory_nothing_is_read)
{
    OWNED(sketch_free) struct sketch *sketch = sketch_of_all();
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    sketch_pack_all(sketch, &packed);
    for (unsigned at = 1; at > 0; at++) {
        struct sketch *read = NULL;
        heap_fail_at(at);
        int code = sketch_unpack(packed.buffer.data, packed.buffer.size, &budget, &read);
        bool failed = heap_has_failed();
        heap_fail_at(0);
        assert_int_equal(code, failed ? ERR_MEMORY : 0);
        sketch_free(&read);
        at = failed ? at : UINT32_MAX;
    }
}

/* SPDX-License-Identifier: MIT */
/* The format of states against tests/golden/layer_state.msgpack, which tests/golden/make.py wrote:
 * what is added here message by message has the same bytes. And hostile states, each in one way. */
#include "tests/unit/proto/support.h"

#include "daemon/state/layer_state.h"

#define HEADS   3
#define BUCKETS 48
#define TIME_NS UINT64_C(1700000000000000000)
#define LARGE   0x1p41
#define TINY    0x1p-41

/* One forward: two rows per head. */
struct forward {
    uint32_t heads, microbatch, stride;
    uint64_t time_ns, rows, invalid_rows;
    double row_sum_error, sink_rate;
    double row[METRIC_ROW_COUNT][HEADS][2];
    bool has[METRIC_ROW_COUNT];
    double importance[HEADS], q_norm[HEADS];
    bool has_values;
};

static const struct forward forwards[] = {
    {.heads = 3,
     .time_ns = TIME_NS,
     .rows = 4,
     .invalid_rows = 2,
     .row_sum_error = 0x1p-20,
     .sink_rate = 0.5,
     .row = {[METRIC_ENTROPY] = {{1.5, 2.5}, {0.25, 0.25}, {NAN, NAN}},
             [METRIC_CONFIDENCE] = {{0.5, 0.25}, {1, 1}, {NAN, NAN}},
             [METRIC_FIRST_TOKEN] = {{NAN, 0.5}, {NAN, 0.125}, {NAN, NAN}},
             [METRIC_MAX_LOGIT] = {{-3, LARGE}, {TINY, 96}, {NAN, NAN}}},
     .has = {[METRIC_ENTROPY] = true,
             [METRIC_CONFIDENCE] = true,
             [METRIC_FIRST_TOKEN] = true,
             [METRIC_MAX_LOGIT] = true},
     .has_values = true,
     .importance = {0.5, 0.25, 0.25},
     .q_norm = {4, NAN, 0.1}},
    {.heads = 2,
     .microbatch = 1,
     .time_ns = TIME_NS + 1,
     .rows = 4,
     .row_sum_error = NAN,
     .sink_rate = NAN,
     .row =
         {[METRIC_ENTROPY] = {{1.5, 3.5}, {300, 2.25}}, [METRIC_CONFIDENCE] = {{0.5, NAN}, {1, 1}}},
     .has = {[METRIC_ENTROPY] = true, [METRIC_CONFIDENCE] = true}},
};

static void add_forward(struct layer_state *state, const struct forward *forward)
{
    struct head_block blocks[HEADS] = {0};
    double values[METRIC_COUNT][HEADS];
    struct message message = {.header = {.type = MESSAGE_ROWS,
                                         .epoch = 3,
                                         .step = 1200,
                                         .microbatch = forward->microbatch,
                                         .rank = 9,
                                         .time_ns = forward->time_ns,
                                         .batch = 1,
                                         .heads = forward->heads,
                                         .heads_total = HEADS,
                                         .queries = 2,
                                         .keys = 2,
                                         .q_stride = forward->stride,
                                         .causal = true}};
    struct measured measured = {.heads = forward->heads,
                                .rows = forward->rows,
                                .invalid_rows = forward->invalid_rows,
                                .row_sum_error = forward->row_sum_error,
                                .sink_rate = forward->sink_rate,
                                .local_window = 8,
                                .head = blocks};
    for (int m = 0; m < METRIC_ROW_COUNT; m++) {
        for (uint32_t h = 0; forward->has[m] && h < forward->heads; h++) {
            assert_int_equal(dist_add(&blocks[h].row[m], forward->row[m][h][0]), 0);
            assert_int_equal(dist_add(&blocks[h].row[m], forward->row[m][h][1]), 0);
            values[m][h] = moments_mean(&blocks[h].row[m].moments);
            measured.value[m] = values[m];
        }
    }
    if (forward->has_values) {
        memcpy(values[METRIC_IMPORTANCE], forward->importance, sizeof forward->importance);
        memcpy(values[METRIC_Q_NORM], forward->q_norm, sizeof forward->q_norm);
        measured.value[METRIC_IMPORTANCE] = values[METRIC_IMPORTANCE];
        measured.value[METRIC_Q_NORM] = values[METRIC_Q_NORM];
    }
    assert_int_equal(layer_state_add(state, &message, &measured), 0);
    for (int m = 0; m < METRIC_ROW_COUNT; m++) {
        for (uint32_t h = 0; h < HEADS; h++) {
            dist_clear(&blocks[h].row[m]);
        }
    }
}

static void state_bytes_assert_packed(const struct layer_state *state, const struct bytes *want)
{
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    mpk_writer_init(&packed);
    assert_int_equal(layer_state_pack(state, &packed), 0);
    assert_int_equal(packed.buffer.size, want->len);
    assert_memory_equal(packed.buffer.data, want->data, want->len);
}

static struct bytes golden_state(void)
{
    return bytes_file(GOLDEN_DIR "/layer_state.msgpack");
}

TEST(golden_bytes_are_what_the_messages_make)
{
    OWNED(bytes_free) struct bytes golden = golden_state();
    OWNED(layer_state_free) struct layer_state *state = layer_state_new(HEADS, BUCKETS);
    assert_non_null(state);
    for (size_t i = 0; i < sizeof forwards / sizeof forwards[0]; i++) {
        add_forward(state, &forwards[i]);
    }
    state_bytes_assert_packed(state, &golden);
}

/* The same whichever came first, and when merged from two. */
TEST(order_and_parts_do_not_matter)
{
    OWNED(bytes_free) struct bytes golden = golden_state();
    struct layer_state *state = layer_state_new(HEADS, BUCKETS),
                       *part = layer_state_new(HEADS, BUCKETS);
    assert_true(state && part);
    add_forward(state, &forwards[1]);
    add_forward(part, &forwards[0]);
    assert_int_equal(layer_state_merge(state, part), 0);
    state_bytes_assert_packed(state, &golden);
    layer_state_free(&part);
    layer_state_free(&state);
}

TEST(golden_bytes_are_read_and_written_again)
{
    OWNED(bytes_free) struct bytes golden = golden_state();
    OWNED(layer_state_free) struct layer_state *state = NULL;
    assert_int_equal(layer_state_unpack(golden.data, golden.len, &state), 0);
    assert_int_equal(layer_state_ranks(state), 1);
    assert_int_equal(state->step, 1200);
    assert_int_equal(layer_state_moments(state, METRIC_ENTROPY, 0).n, 4);
    assert_int_equal(layer_state_moments(state, METRIC_ENTROPY, 2).n, 0);
    state_bytes_assert_packed(state, &golden);
}

/* Ranks of version 1 may have bytes without any, which are not written again. */
TEST(version_1_is_written_again)
{
    static const uint8_t of_one[] = "\xa5ranks\xc4\x01\x01",
                         of_more[] = "\xa5ranks\xc4\x04\0\x81\1";
    struct bytes stored = bytes_file(GOLDEN_DIR "/../fuzz/state/v1_part_step-2-2_7_2");
    unsigned char *at = memmem(stored.data, stored.len, of_one, sizeof of_one - 1);
    assert_non_null(at);
    size_t before = (size_t)(at - stored.data),
           size = stored.len + sizeof of_more - sizeof of_one + 1;
    unsigned char *changed = malloc(size);
    assert_non_null(changed);
    memcpy(changed, stored.data, before);
    memcpy(changed + before, of_more, sizeof of_more);
    memcpy(changed + before + sizeof of_more, at + sizeof of_one - 1,
           stored.len - before - sizeof of_one + 1);
    OWNED(layer_state_free) struct layer_state *state = NULL, *again = NULL;
    assert_int_equal(layer_state_unpack(changed, size, &state), 0);
    assert_int_equal(layer_state_ranks(state), 3);
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    mpk_writer_init(&packed);
    assert_int_equal(layer_state_pack(state, &packed), 0);
    assert_int_equal(layer_state_unpack(packed.buffer.data, packed.buffer.size, &again), 0);
    assert_int_equal(layer_state_ranks(again), 3);
    free(changed);
    bytes_free(&stored);
}

struct piece {
    const char *text;
    size_t len;
};

/* One place of the golden bytes, found by what stands before it, changed to something else. */
struct spoiled {
    const char *what;
    struct piece before, to;
};

/* The first record of head 0: entropy, n = 4, mean 2.25, M2 2.75, from 1.5 to 3.5, last 2.5. */
#define ENTROPY_N    "\x00\x00\x16"
#define ENTROPY_MEAN ENTROPY_N "\x04"
#define ENTROPY_M2   ENTROPY_MEAN "\x00\x00\x10\x40"
#define ENTROPY_MIN  ENTROPY_M2 "\x00\x00\x00\x00\x00\x00\x06\x40"
#define ENTROPY_HIST ENTROPY_MIN "\x00\x00\xc0\x3f\x00\x00\x60\x40\x00\x00\x20\x40\x0b"

static const struct spoiled spoiled[] = {
    {"a version of the future", {LITERAL("\xa1v")}, {LITERAL("\x03")}},
    {"no version", {LITERAL("\xa1v")}, {LITERAL("\x00")}},
    {"buckets that are no number", {LITERAL("\247buckets")}, {LITERAL("\xc0")}},
    {"a position without a rank", {LITERAL("\x94\x03\xcd\x04\xb0\x01")}, {LITERAL("\xc0")}},
    {"fewer rows than values", {LITERAL("\244rows")}, {LITERAL("\x07")}},
    {"fewer messages than values", {LITERAL("\250messages")}, {LITERAL("\x00")}},
    {"fewer invalid rows than the heads have", {LITERAL("\254invalid_rows")}, {LITERAL("\x01")}},
    {"ranks that do not begin with a byte", {LITERAL("\252rank_first")}, {LITERAL("\x07")}},
    {"ranks with an empty byte", {LITERAL("\245ranks\xc4\x01")}, {LITERAL("\x00")}},
    {"an unknown tier", {LITERAL("\244tier\xa4")}, {LITERAL("row\xff")}},
    {"more values than counts", {LITERAL(ENTROPY_N)}, {LITERAL("\x05")}},
    {"fewer values than counts", {LITERAL(ENTROPY_N)}, {LITERAL("\x03")}},
    {"a mean that is no number", {LITERAL(ENTROPY_MEAN)}, {LITERAL("\x00\x00\xc0\x7f")}},
    {"a mean beyond all values", {LITERAL(ENTROPY_MEAN)}, {LITERAL("\x00\x00\x80\x40")}},
    {"a negative sum of squares",
     {LITERAL(ENTROPY_M2)},
     {LITERAL("\x00\x00\x00\x00\x00\x00\x06\xc0")}},
    {"a sum of squares that is no number",
     {LITERAL(ENTROPY_M2)},
     {LITERAL("\x00\x00\x00\x00\x00\x00\xf8\x7f")}},
    {"a least above the largest", {LITERAL(ENTROPY_MIN)}, {LITERAL("\x00\x00\x80\x40")}},
    {"a least that is infinite", {LITERAL(ENTROPY_MIN)}, {LITERAL("\x00\x00\x80\xff")}},
    {"a resolution that there is not", {LITERAL(ENTROPY_HIST)}, {LITERAL("\x04")}},
    {"a bucket beyond all keys", {LITERAL(ENTROPY_HIST)}, {LITERAL("\x00\xff\xff")}},
    {"a bucket below all values", {LITERAL(ENTROPY_HIST "\x00\xc4\xe2")}, {LITERAL("\x10")}},
    {"a bucket above all values",
     {LITERAL(ENTROPY_HIST "\x00\xc4\xe2\x20\x02\x08\x20\x01\x04")},
     {LITERAL("\x20")}},
    {"an empty bucket", {LITERAL(ENTROPY_HIST "\x00\xc4\xe2\x20")}, {LITERAL("\x00")}},
    {"more heads than positions", {LITERAL("\254heads_newest")}, {LITERAL("\x92")}},
    {"a position after the newest of all",
     {LITERAL("\254heads_newest\x93\x94")},
     {LITERAL("\x04")}},
};

static bool spoil(struct bytes *bytes, const struct spoiled *how)
{
    unsigned char *at = memmem(bytes->data, bytes->len, how->before.text, how->before.len);
    if (!at) {
        return false;
    }
    memcpy(at + how->before.len, how->to.text, how->to.len);
    return true;
}

/* A message of queries that are every 4th; merged with one of all its queries. */
TEST(rows_of_a_sample_say_of_how_many)
{
    struct forward sample = forwards[1];
    struct layer_state *state = layer_state_new(HEADS, BUCKETS), *read = NULL;
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    assert_non_null(state);
    sample.stride = 4;
    add_forward(state, &sample);
    assert_int_equal(state->rows, 4);
    assert_int_equal(state->rows_of, 16);
    mpk_writer_init(&packed);
    assert_int_equal(layer_state_pack(state, &packed), 0);
    assert_int_equal(layer_state_unpack(packed.buffer.data, packed.buffer.size, &read), 0);
    assert_int_equal(read->rows_of, 16);
    add_forward(state, &forwards[0]);
    assert_int_equal(layer_state_merge(read, state), 0);
    assert_int_equal(read->rows, 4 + 4 + forwards[0].rows);
    assert_int_equal(read->rows_of, 16 + 16 + forwards[0].rows);
    unsigned char *at = memmem(packed.buffer.data, packed.buffer.size, "rows_of\x10", 8);
    assert_non_null(at);
    at[7] = 3; /* of fewer than there are */
    layer_state_free(&read);
    assert_int_equal(layer_state_unpack(packed.buffer.data, packed.buffer.size, &read),
                     ERR_STORE_FORMAT);
    layer_state_free(&state);
}

TEST(hostile_states_are_refused)
{
    for (size_t i = 0; i < sizeof spoiled / sizeof spoiled[0]; i++) {
        OWNED(bytes_free) struct bytes bytes = golden_state();
        struct layer_state *state = NULL;
        if (!spoil(&bytes, &spoiled[i])) {
            fail_msg("%s: not found", spoiled[i].what);
        }
        if (layer_state_unpack(bytes.data, bytes.len, &state) != ERR_STORE_FORMAT) {
            fail_msg("%s: accepted", spoiled[i].what);
        }
    }
}

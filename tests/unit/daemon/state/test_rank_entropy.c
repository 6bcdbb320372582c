/* SPDX-License-Identifier: MIT */
/* The mean entropy of each rank, against the messages themselves, in whatever order and
 * parts they come; and hostile lists. */
#include "tests/unit/unit.h"

#include "tests/unit/heap.h"
#include "daemon/state/layer_state.h"
#include "daemon/state/layer_state_internal.h"
#include "tests/unit/daemon/state/measured.h"
#include "tests/unit/proto/support.h"

#define HEADS    3
#define BUCKETS  24
#define MESSAGES 24
#define RANKS    5

static struct measured_message *stream[MESSAGES];

static uint32_t rank_of(uint32_t i)
{
    return 40 + 7 * (i * 3 % RANKS);
}

static int rank_entropy_make_stream(void **unused)
{
    (void)unused;
    for (uint32_t i = 0; i < MESSAGES; i++) {
        const struct measured_options options = {.batch = 1 + i % 2,
                                                 .heads = HEADS,
                                                 .size = 16,
                                                 .sharpness = 0.5 + 0.2 * (double)i,
                                                 .without_spectra = true,
                                                 .invalid = i % 3,
                                                 .seed = i};
        stream[i] = measured_message_new(&options, i + 1);
        if (!stream[i]) {
            return -1;
        }
        stream[i]->message.header.rank = rank_of(i);
    }
    return 0;
}

static int rank_entropy_free_stream(void **unused)
{
    (void)unused;
    for (uint32_t i = 0; i < MESSAGES; i++) {
        measured_message_free(&stream[i]);
    }
    return 0;
}

static struct layer_state *rank_entropy_new(void)
{
    struct layer_state *state = layer_state_new(HEADS, BUCKETS);
    assert_non_null(state);
    return state;
}

static int add_message(struct layer_state *state, uint32_t i)
{
    return layer_state_add(state, &stream[i]->message, measure_result(stream[i]->measure));
}

/* The messages begin, begin + by, ... */
static struct layer_state *state_of(uint32_t begin, uint32_t by)
{
    struct layer_state *state = rank_entropy_new();
    for (uint32_t i = begin; i < MESSAGES; i += by) {
        assert_int_equal(add_message(state, i), 0);
    }
    return state;
}

static struct rank_entropy entropy_of(const struct layer_state *state)
{
    struct rank_entropy entropy = {0};
    assert_int_equal(layer_state_ranks_entropy(state, state->heads, &entropy), 0);
    return entropy;
}

/* By the definition, from the messages of one rank. */
static struct moments want_of(uint32_t rank, uint32_t head)
{
    struct moments moments = {0};
    for (uint32_t i = 0; i < MESSAGES; i++) {
        if (rank_of(i) == rank) {
            const struct measured *measured = measure_result(stream[i]->measure);
            moments_merge(&moments, &measured->head[head].row[METRIC_ENTROPY].moments);
        }
    }
    return moments;
}

static void assert_is_stream(const struct layer_state *state)
{
    OWNED(rank_entropy_clear) struct rank_entropy entropy = entropy_of(state);
    assert_int_equal(entropy.count, RANKS);
    for (uint32_t i = 0; i < RANKS; i++) {
        const struct rank_means *means = &entropy.means[i];
        assert_int_equal(means->rank, 40 + 7 * i);
        assert_int_equal(means->heads, HEADS);
        for (uint32_t h = 0; h < HEADS; h++) {
            struct moments want = want_of(means->rank, h);
            assert_int_equal(means->rows[h], want.n);
            assert_true(fabs(means->mean[h] - want.mean) <= 1e-14 * want.mean);
        }
    }
}

static void rank_entropy_assert_same(const struct rank_entropy *a, const struct rank_entropy *b)
{
    assert_int_equal(a->count, b->count);
    for (uint32_t i = 0; i < a->count; i++) {
        const struct rank_means *x = &a->means[i], *y = &b->means[i];
        assert_int_equal(x->rank, y->rank);
        assert_int_equal(x->first, y->first);
        assert_int_equal(x->heads, y->heads);
        assert_memory_equal(x->rows, y->rows, x->heads * sizeof *x->rows);
        assert_memory_equal(x->mean, y->mean, x->heads * sizeof *x->mean);
    }
}

static void rank_entropy_put(const struct layer_state *state, struct mpk_writer *writer)
{
    mpk_writer_init(writer);
    assert_int_equal(layer_state_pack(state, writer), 0);
}

static struct layer_state *unpacked_of(const struct mpk_writer *packed)
{
    struct layer_state *state = NULL;
    assert_int_equal(layer_state_unpack(packed->buffer.data, packed->buffer.size, &state), 0);
    return state;
}

TEST(each_rank_has_the_mean_of_its_rows)
{
    OWNED(layer_state_free) struct layer_state *state = state_of(0, 1);
    assert_is_stream(state);
}

TEST(parts_merged_in_any_order_are_the_whole)
{
    static const uint32_t orders[][4] = {{0, 1, 2, 3}, {3, 2, 1, 0}, {2, 0, 3, 1}};
    for (size_t o = 0; o < sizeof orders / sizeof orders[0]; o++) {
        struct layer_state *part[4], *at_once = rank_entropy_new(),
                                     *one_by_one = rank_entropy_new();
        for (uint32_t i = 0; i < 4; i++) {
            part[i] = state_of(orders[o][i], 4);
            assert_int_equal(layer_state_merge(one_by_one, part[i]), 0);
        }
        assert_int_equal(layer_state_merge_all(at_once, (const struct layer_state *const *)part, 4),
                         0);
        assert_is_stream(at_once);
        assert_is_stream(one_by_one);
        rank_entropy_assert_same(&at_once->rank_entropy, &one_by_one->rank_entropy);
        for (uint32_t i = 0; i < 4; i++) {
            layer_state_free(&part[i]);
        }
        layer_state_free(&at_once);
        layer_state_free(&one_by_one);
    }
}

/* Parts of one rank each have nothing beside their heads, and are told apart all the same. */
TEST(parts_of_one_rank_keep_nothing_and_merge)
{
    OWNED(layer_state_free) struct layer_state *all = rank_entropy_new();
    for (uint32_t rank = 0; rank < RANKS; rank++) {
        OWNED(layer_state_free) struct layer_state *part = rank_entropy_new();
        for (uint32_t i = 0; i < MESSAGES; i++) {
            assert_int_equal(rank_of(i) == 40 + 7 * rank ? add_message(part, i) : 0, 0);
        }
        OWNED(mpk_writer_clear) struct mpk_writer packed;
        rank_entropy_put(part, &packed);
        OWNED(layer_state_free) struct layer_state *read = unpacked_of(&packed);
        OWNED(rank_entropy_clear) struct rank_entropy one = entropy_of(read);
        assert_int_equal(part->rank_entropy.count, 0);
        assert_null(memmem(packed.buffer.data, packed.buffer.size, "rank_entropy", 12));
        assert_int_equal(one.count, 1);
        assert_int_equal(one.means[0].rank, 40 + 7 * rank);
        assert_int_equal(layer_state_merge(all, read), 0);
    }
    assert_is_stream(all);
}

TEST(packed_ranks_come_back_bit_for_bit)
{
    OWNED(layer_state_free) struct layer_state *state = state_of(0, 1);
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    rank_entropy_put(state, &packed);
    OWNED(layer_state_free) struct layer_state *read = unpacked_of(&packed);
    OWNED(mpk_writer_clear) struct mpk_writer again;
    rank_entropy_put(read, &again);
    rank_entropy_assert_same(&state->rank_entropy, &read->rank_entropy);
    assert_int_equal(rank_entropy_bytes(&state->rank_entropy),
                     rank_entropy_bytes(&read->rank_entropy));
    assert_int_equal(packed.buffer.size, again.buffer.size);
    assert_memory_equal(packed.buffer.data, again.buffer.data, packed.buffer.size);
}

/* Heads that are split over ranks: each has its own, and unites them. */
TEST(a_rank_has_the_heads_of_its_slice)
{
    static const double mean[] = {1, 2};
    static const uint64_t rows[] = {4, 4}, one[] = {0, 4};
    OWNED(rank_entropy_clear) struct rank_entropy entropy = {0};
    assert_int_equal(rank_entropy_add(&entropy, 3, 4, 2, rows, mean), 0);
    assert_int_equal(rank_entropy_add(&entropy, 1, 2, 2, one, mean), 0);
    assert_int_equal(rank_entropy_add(&entropy, 3, 1, 2, rows, mean), 0);
    assert_int_equal(entropy.count, 2);
    assert_int_equal(entropy.means[0].first, 3);
    assert_int_equal(entropy.means[0].heads, 1);
    assert_true(entropy.means[0].mean[0] == 2);
    assert_int_equal(entropy.means[1].first, 1);
    assert_int_equal(entropy.means[1].heads, 5);
    assert_int_equal(entropy.means[1].rows[2], 0);
    assert_true(entropy.means[1].mean[4] == 2);
}

TEST(the_lowest_ranks_are_kept_in_any_order)
{
    static const uint64_t rows[] = {2};
    OWNED(rank_entropy_clear) struct rank_entropy up = {0}, down = {0};
    for (uint32_t i = 0; i < 3 * RANK_ENTROPY_MAX; i++) {
        uint32_t j = 3 * RANK_ENTROPY_MAX - 1 - i;
        double a = i, b = j;
        assert_int_equal(rank_entropy_add(&up, i, 0, 1, rows, &a), 0);
        assert_int_equal(rank_entropy_add(&down, j, 0, 1, rows, &b), 0);
    }
    assert_int_equal(up.count, RANK_ENTROPY_MAX);
    assert_int_equal(up.means[RANK_ENTROPY_MAX - 1].rank, RANK_ENTROPY_MAX - 1);
    rank_entropy_assert_same(&up, &down);
}

/* Lists as they must not be, of a layer with two heads. */

#define ONE  "\0\0\0\0\0\0\xf0\x3f"
#define FOUR "\4\0\0\0\0\0\0\0"
#define NONE "\0\0\0\0\0\0\0\0"

static const struct hostile {
    const char *what, *list;
    size_t size;
    int code;
} hostile[] = {
    {"as it should be", LITERAL("\x92\x94\1\0\4\xc4\x10" ONE ONE "\x94\2\1\4\xc4\x08" ONE), 0},
    {"counts of each head", LITERAL("\x91\x94\1\0\xc4\x10" FOUR FOUR "\xc4\x10" ONE ONE), 0},
    {"no list", LITERAL("\xc0"), ERR_STORE_FORMAT},
    {"an empty list", LITERAL("\x90"), ERR_STORE_FORMAT},
    {"no list of a rank", LITERAL("\x91\4"), ERR_STORE_FORMAT},
    {"a part of a rank", LITERAL("\x91\x93\1\0\4"), ERR_STORE_FORMAT},
    {"a rank twice", LITERAL("\x92\x94\1\0\4\xc4\x08" ONE "\x94\1\1\4\xc4\x08" ONE),
     ERR_STORE_FORMAT},
    {"ranks that descend", LITERAL("\x92\x94\2\0\4\xc4\x08" ONE "\x94\1\1\4\xc4\x08" ONE),
     ERR_STORE_FORMAT},
    {"a rank beyond all", LITERAL("\x91\x94\xce\0\x10\0\0\0\4\xc4\x08" ONE), ERR_STORE_FORMAT},
    {"a head beyond all", LITERAL("\x91\x94\1\2\4\xc4\x08" ONE), ERR_STORE_FORMAT},
    {"more heads than there are", LITERAL("\x91\x94\1\1\4\xc4\x10" ONE ONE), ERR_STORE_FORMAT},
    {"no heads", LITERAL("\x91\x94\1\0\4\xc4\x00"), ERR_STORE_FORMAT},
    {"a part of a number", LITERAL("\x91\x94\1\0\4\xc4\x07\0\0\0\0\0\0\xf0"), ERR_STORE_FORMAT},
    {"no rows", LITERAL("\x91\x94\1\0\0\xc4\x08" NONE), ERR_STORE_FORMAT},
    {"rows below none", LITERAL("\x91\x94\1\0\xff\xc4\x08" ONE), ERR_STORE_FORMAT},
    {"too many rows", LITERAL("\x91\x94\1\0\xcf\0\x20\0\0\0\0\0\1\xc4\x08" ONE), ERR_STORE_FORMAT},
    {"counts of too few heads", LITERAL("\x91\x94\1\0\xc4\x08" FOUR "\xc4\x10" ONE ONE),
     ERR_STORE_FORMAT},
    {"a first head without rows", LITERAL("\x91\x94\1\0\xc4\x10" NONE FOUR "\xc4\x10" NONE ONE),
     ERR_STORE_FORMAT},
    {"a last head without rows", LITERAL("\x91\x94\1\0\xc4\x10" FOUR NONE "\xc4\x10" ONE NONE),
     ERR_STORE_FORMAT},
    {"a mean that is no number", LITERAL("\x91\x94\1\0\4\xc4\x08\0\0\0\0\0\0\xf8\x7f"),
     ERR_STORE_FORMAT},
    {"an infinite mean", LITERAL("\x91\x94\1\0\4\xc4\x08\0\0\0\0\0\0\xf0\x7f"), ERR_STORE_FORMAT},
    {"a mean whose sums are none",
     LITERAL("\x91\x94\1\0\4\xc4\x08\xff\xff\xff\xff\xff\xff\xef\x7f"), ERR_STORE_FORMAT},
};

TEST(hostile_lists_are_refused)
{
    for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++) {
        OWNED(rank_entropy_clear) struct rank_entropy entropy = {0};
        OWNED(mpk_doc_clear) struct mpk_doc doc;
        assert_int_equal(mpk_parse(hostile[i].list, hostile[i].size, &mpk_header_limits, &doc), 0);
        int code = rank_entropy_unpack(doc.root, 2, &entropy);
        if (code != hostile[i].code) {
            fail_msg("%s: %d", hostile[i].what, code);
        }
    }
}

/* A state with its list of ranks replaced. */
static int code_with(const struct layer_state *state, const struct rank_entropy *entropy)
{
    struct layer_state changed = *state, *read = NULL;
    changed.rank_entropy = *entropy;
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    rank_entropy_put(&changed, &packed);
    int code = layer_state_unpack(packed.buffer.data, packed.buffer.size, &read);
    layer_state_free(&read);
    return code;
}

TEST(ranks_have_no_more_rows_than_the_heads)
{
    OWNED(layer_state_free) struct layer_state *state = state_of(0, 1);
    struct rank_means *means = state->rank_entropy.means;
    assert_int_equal(code_with(state, &state->rank_entropy), 0);
    means[RANKS - 1].rows[1]++;
    assert_int_equal(code_with(state, &state->rank_entropy), ERR_STORE_FORMAT);
    means[RANKS - 1].rows[1] -= 2;
    assert_int_equal(code_with(state, &state->rank_entropy), 0);
}

TEST(ranks_are_those_of_the_state_and_several)
{
    OWNED(layer_state_free) struct layer_state *state = state_of(0, 1), *one = state_of(0, RANKS);
    OWNED(rank_entropy_clear) struct rank_entropy of_one = entropy_of(one);
    assert_int_equal(code_with(state, &of_one), 0);
    assert_int_equal(code_with(one, &of_one), ERR_STORE_FORMAT);
    of_one.means[0].rank++;
    assert_int_equal(code_with(state, &of_one), ERR_STORE_FORMAT);
}

/* They came from a sender that does not tell its ranks apart. */
TEST(rows_of_nobody_knows_whom_count_for_no_rank)
{
    OWNED(layer_state_free) struct layer_state *state = state_of(0, 1), *more = rank_entropy_new();
    rank_entropy_clear(&state->rank_entropy);
    stream[0]->message.header.rank = 3;
    assert_int_equal(add_message(more, 0), 0);
    stream[0]->message.header.rank = rank_of(0);
    assert_int_equal(layer_state_merge(state, more), 0);
    OWNED(rank_entropy_clear) struct rank_entropy entropy = entropy_of(state);
    assert_int_equal(layer_state_ranks(state), RANKS + 1);
    assert_int_equal(entropy.count, 1);
    assert_int_equal(entropy.means[0].rank, 3);
}

/* A part that eight ranks of a machine made grows by at most 4 %. */
TEST(a_part_of_eight_ranks_hardly_grows)
{
    enum { GPT_HEADS = 12, PART_RANKS = 8, PART_STEPS = 6 };
    OWNED(layer_state_free) struct layer_state *state = layer_state_new(GPT_HEADS, 48);
    assert_non_null(state);
    for (uint32_t i = 0; i < PART_RANKS * PART_STEPS; i++) {
        const struct measured_options options = {
            .batch = 1, .heads = GPT_HEADS, .size = 64, .sharpness = 0.2 + 0.1 * i, .seed = i};
        struct measured_message *message = measured_message_new(&options, 1 + i / PART_RANKS);
        assert_non_null(message);
        message->message.header.rank = i % PART_RANKS;
        assert_int_equal(
            layer_state_add(state, &message->message, measure_result(message->measure)), 0);
        measured_message_free(&message);
    }
    OWNED(mpk_writer_clear) struct mpk_writer with;
    rank_entropy_put(state, &with);
    rank_entropy_clear(&state->rank_entropy);
    OWNED(mpk_writer_clear) struct mpk_writer without;
    rank_entropy_put(state, &without);
    double more = (double)with.buffer.size / (double)without.buffer.size - 1;
    print_message("%zu bytes, and %.2f %% for the ranks\n", without.buffer.size, 100 * more);
    assert_true(more > 0 && more <= 0.04);
}

static struct layer_state *fixture[2];

static int merge_fixtures(void)
{
    OWNED(layer_state_free) struct layer_state *state = layer_state_new(HEADS, BUCKETS);
    int code = state ? layer_state_merge_all(state, (const struct layer_state *const *)fixture, 2)
                     : ERR_MEMORY;
    for (uint32_t i = 0; i < 3 && !code; i++) {
        code = add_message(state, i);
    }
    return code;
}

static int read_fixture(void)
{
    OWNED(rank_entropy_clear) struct rank_entropy entropy = {0};
    OWNED(layer_state_free) struct layer_state *read = NULL;
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    mpk_writer_init(&packed);
    int code = layer_state_pack(fixture[0], &packed);
    if (!code) {
        code = layer_state_unpack(packed.buffer.data, packed.buffer.size, &read);
    }
    if (!code) {
        code = layer_state_ranks_entropy(read, read->heads, &entropy);
    }
    return code;
}

TEST(ranks_without_memory_are_an_error)
{
    static int (*const acts[])(void) = {merge_fixtures, read_fixture};
    fixture[0] = state_of(0, 1);
    fixture[1] = state_of(0, RANKS);
    for (int i = 0; i < 2; i++) {
        bool failed = true;
        for (unsigned nth = 1; failed; nth++) {
            heap_fail_at(nth);
            int code = acts[i]();
            failed = heap_has_failed();
            heap_fail_at(0);
            assert_int_equal(code, failed ? ERR_MEMORY : 0);
        }
    }
    layer_state_free(&fixture[0]);
    layer_state_free(&fixture[1]);
}

int main(void)
{
    return unit_run(rank_entropy_make_stream, rank_entropy_free_stream);
}

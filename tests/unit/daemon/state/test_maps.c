/* SPDX-License-Identifier: MIT */
/* Which messages are asked for maps, how slices of heads become one picture, what makes room, and
 * that nothing is left of what was removed (under a sanitizer). */
#include "tests/unit/unit.h"

#include "tests/unit/heap.h"
#include "daemon/state/maps.h"
#include "workers/measure.h"
#include "proto/mpk.h"

#define EVERY    1000
#define QK_MAX   512
#define HEADS    6
#define LENGTH   4
#define ANYTHING 1000000

static const float weights[HEADS * LENGTH * LENGTH];
static const double importance[HEADS] = {1, 2, 3, 4, 5, 6};

static struct map_shelf shelf;
static struct map_place place, other;

static int test_maps_begin(void **state)
{
    (void)state;
    shelf = (struct map_shelf){.limit = ANYTHING};
    return 0;
}

/* Everything that was put on the shelf is off it again. */
static int maps_end(void **state)
{
    (void)state;
    maps_clear(&place);
    maps_clear(&other);
    assert_null(shelf.newest);
    assert_null(shelf.stalest);
    assert_int_equal(shelf.bytes, 0);
    return 0;
}

#define MAPS_TEST(name) TEST_WITH(name, test_maps_begin, maps_end)

static struct header slice(uint64_t step, uint32_t first, uint32_t heads)
{
    return (struct header){.type = MESSAGE_ATTENTION,
                           .epoch = 1,
                           .step = step,
                           .heads = heads,
                           .head_offset = first,
                           .heads_total = HEADS,
                           .queries = LENGTH,
                           .keys = LENGTH};
}

static struct header whole(uint64_t step)
{
    return slice(step, 0, HEADS);
}

/* Asking */

MAPS_TEST(a_layer_is_asked_at_most_so_often)
{
    struct header header = whole(1);
    assert_true(maps_wanted(&place, &header, EVERY, 5));
    assert_false(maps_wanted(&place, &header, EVERY, 5));
    assert_false(maps_wanted(&place, &header, EVERY, 5 + EVERY - 1));
    assert_true(maps_wanted(&place, &header, EVERY, 5 + EVERY));
    assert_true(maps_wanted(&place, &header, 0, 5 + EVERY));
}

MAPS_TEST(each_slice_of_the_same_step_is_asked_once)
{
    struct header first = slice(1, 0, 2), second = slice(1, 2, 4), next = slice(2, 0, 2);
    assert_true(maps_wanted(&place, &first, EVERY, 0));
    assert_false(maps_wanted(&place, &next, EVERY, 1));
    assert_true(maps_wanted(&place, &second, EVERY, 2));
    assert_false(maps_wanted(&place, &first, EVERY, 3));
    assert_false(maps_wanted(&place, &second, EVERY, EVERY - 1));
    assert_true(maps_wanted(&place, &next, EVERY, EVERY));
    assert_false(maps_wanted(&place, &second, EVERY, EVERY)); /* its step is over */
    second.step = 2;
    second.microbatch = 1;
    assert_false(maps_wanted(&place, &second, EVERY, EVERY)); /* another forward */
    second.microbatch = 0;
    assert_true(maps_wanted(&place, &second, EVERY, EVERY));
}

/* A layer whose number of heads was not settled yet: no head is beyond what was asked. */
MAPS_TEST(slices_of_another_number_of_heads_are_no_slices_of_the_round)
{
    struct header first = slice(1, 0, 2), more = slice(1, 4, 2);
    assert_true(maps_wanted(&place, &first, EVERY, 0));
    more.heads_total = 1000;
    more.head_offset = 900;
    assert_false(maps_wanted(&place, &more, EVERY, 1));
    assert_true(maps_wanted(&place, &more, EVERY, EVERY));
}

/* Putting */

static struct head_maps *maps_make_maps(uint32_t heads, uint32_t size)
{
    struct attention a = {.weights = weights,
                          .dtype = DTYPE_F32,
                          .batch = 1,
                          .heads = heads,
                          .queries = LENGTH,
                          .keys = LENGTH};
    OWNED(scratch_clear) struct scratch scratch = {0};
    struct head_maps *maps;
    assert_int_equal(head_maps_new(&a, 0, size, ISA_SCALAR, &scratch, &maps), 0);
    return maps;
}

static void maps_put_at(struct map_place *at, struct header header)
{
    struct measured measured = {.heads = header.heads};
    measured.value[METRIC_IMPORTANCE] =
        header.heads == HEADS ? (double *)(uintptr_t)importance : NULL;
    struct message message = {.header = header,
                              .wants_head_maps = true,
                              .measured = &measured,
                              .labels = strdup("x"),
                              .label_count = 1};
    message.head_maps = maps_make_maps(header.heads, 128);
    maps_put(&shelf, at, &message, message.measured->value[METRIC_IMPORTANCE], QK_MAX);
    head_maps_free(&message.head_maps); /* what was not taken */
    free(message.labels);
}

static void test_maps_put(struct header header)
{
    maps_put_at(&place, header);
}

MAPS_TEST(a_whole_message_is_a_picture_by_itself)
{
    test_maps_put(whole(1));
    const struct layer_maps *maps = place.shown;
    assert_non_null(maps);
    assert_null(place.coming);
    assert_int_equal(maps->here, HEADS);
    assert_int_equal(maps->step, 1);
    assert_string_equal(maps->labels, "x");
    assert_memory_equal(maps->slices->importance, importance, sizeof importance);
    assert_ptr_equal(maps_find(maps, HEADS - 1), maps->slices);
    assert_null(maps_find(maps, HEADS));
    test_maps_put(whole(2));
    assert_int_equal(place.shown->step, 2);
    assert_ptr_equal(shelf.newest, shelf.stalest);
}

MAPS_TEST(slices_are_put_together_in_any_order)
{
    test_maps_put(slice(1, 4, 2));
    test_maps_put(slice(1, 0, 1));
    assert_null(maps_find(place.shown, 1));
    test_maps_put(slice(1, 1, 3));
    assert_null(place.coming);
    assert_int_equal(place.shown->here, HEADS);
    for (uint32_t h = 0, first[] = {0, 1, 1, 1, 4, 4}; h < HEADS; h++) {
        assert_int_equal(maps_find(place.shown, h)->first, first[h]);
    }
    assert_null(place.shown->slices->importance);
}

MAPS_TEST(slices_that_overlap_do_not_count)
{
    test_maps_put(slice(1, 2, 2));
    test_maps_put(slice(1, 2, 2));
    test_maps_put(slice(1, 1, 2));
    test_maps_put(slice(1, 3, 3));
    test_maps_put(slice(1, 0, 5));
    assert_int_equal(place.shown->here, 2);
    assert_null(place.shown->slices->next);
    test_maps_put(slice(1, 0, 2));
    test_maps_put(slice(1, 4, 2));
    assert_int_equal(place.shown->here, HEADS);
}

MAPS_TEST(what_is_whole_is_shown_until_the_next_is)
{
    test_maps_put(slice(1, 0, 3));
    test_maps_put(slice(1, 3, 3));
    test_maps_put(slice(2, 0, 3));
    assert_int_equal(place.shown->step, 1);
    test_maps_put(slice(2, 3, 3));
    assert_int_equal(place.shown->step, 2);
    assert_null(place.coming);
    test_maps_put(slice(3, 0, 3)); /* the other rank is gone: */
    test_maps_put(slice(4, 0, 3)); /* this is all there will be of step 3 */
    assert_int_equal(place.shown->step, 3);
    assert_int_equal(place.coming->step, 4);
    test_maps_put(whole(5));
    assert_int_equal(place.shown->step, 5);
    assert_null(place.coming);
}

MAPS_TEST(slices_of_another_shape_are_another_picture)
{
    struct measured measured = {.heads = 3};
    test_maps_put(slice(1, 0, 3));
    struct message message = {
        .header = slice(1, 3, 3), .wants_head_maps = true, .measured = &measured};
    message.head_maps = maps_make_maps(3, 128);
    message.head_maps->keys = LENGTH + 1; /* what it says it is of */
    maps_put(&shelf, &place, &message, message.measured->value[METRIC_IMPORTANCE], QK_MAX);
    assert_int_equal(place.shown->here, 3);
    assert_int_equal(place.coming->here, 3);
}

/* Rows have maps of their own, made with them, or none. */
MAPS_TEST(maps_that_rows_bring_are_asked_and_put_in_slices)
{
    struct header first = slice(1, 0, 4), second = slice(1, 4, 2), none = slice(1, 4, 2);
    first.type = second.type = none.type = MESSAGE_ROWS;
    first.maps.heads = 4;
    second.maps.heads = 2;
    assert_true(maps_wanted(&place, &first, EVERY, 0));
    assert_false(maps_wanted(&place, &first, EVERY, 1));
    assert_true(maps_wanted(&place, &second, EVERY, 1));
    assert_false(maps_wanted(&place, &second, EVERY, 2));
    struct message message = {.header = first}; /* was not asked */
    maps_put(&shelf, &place, &message, NULL, QK_MAX);
    assert_int_equal(place.missing, MAPS_NEVER_CAME);
    message.header = none;
    maps_put(&shelf, &place, &message, NULL, QK_MAX);
    assert_int_equal(place.missing, MAPS_NOT_SENT);
    message = (struct message){.header = second, .wants_head_maps = true};
    message.head_maps = maps_make_maps(2, 128);
    maps_put(&shelf, &place, &message, NULL, QK_MAX);
    test_maps_put(slice(1, 0, 4)); /* of another type: made here */
    assert_int_equal(place.shown->here, 2);
    message.header = first;
    message.head_maps = maps_make_maps(4, 128);
    maps_put(&shelf, &place, &message, importance, QK_MAX);
    assert_int_equal(place.shown->here, HEADS);
    assert_int_equal(place.shown->type, MESSAGE_ROWS);
    assert_int_equal(maps_find(place.shown, 3)->first, 0);
    assert_int_equal(maps_find(place.shown, 5)->first, 4);
    assert_true(maps_find(place.shown, 3)->importance && !maps_find(place.shown, 4)->importance);
}

/* Room */

MAPS_TEST(the_stalest_make_room)
{
    test_maps_put(whole(1));
    shelf.limit = 2 * shelf.bytes - 1;
    maps_put_at(&other, whole(1));
    assert_null(place.shown);
    assert_int_equal(place.missing, MAPS_EVICTED);
    assert_non_null(other.shown);
    shelf.limit++;
    test_maps_put(whole(2));
    assert_non_null(place.shown);
    assert_non_null(other.shown);
    maps_put_at(&other, whole(2)); /* the newest now */
    shelf.limit--;
    maps_put_at(&other, whole(3));
    assert_null(place.shown);
    assert_non_null(other.shown);
}

/* Not even for a moment. */
MAPS_TEST(what_is_too_large_costs_no_other_layer_its_maps)
{
    maps_put_at(&other, slice(1, 0, 1));
    shelf.limit = shelf.bytes + 1;
    test_maps_put(whole(1));
    assert_null(place.shown);
    assert_int_equal(place.missing, MAPS_TOO_LARGE);
    assert_non_null(other.shown);
}

MAPS_TEST(what_grows_too_large_is_removed)
{
    test_maps_put(slice(1, 0, 1));
    shelf.limit = shelf.bytes + 1;
    test_maps_put(slice(1, 1, 5));
    assert_null(place.shown);
    assert_int_equal(place.missing, MAPS_TOO_LARGE);
}

/* Missing maps */

MAPS_TEST(messages_without_maps_leave_those_there_are_and_say_why)
{
    struct measured measured = {.heads = HEADS};
    struct message message = {.header = whole(1), .measured = &measured};
    maps_put(&shelf, &place, &message, message.measured->value[METRIC_IMPORTANCE], QK_MAX);
    assert_int_equal(place.missing, MAPS_NEVER_CAME);
    message.header.type = MESSAGE_ROWS;
    maps_put(&shelf, &place, &message, NULL, QK_MAX);
    assert_int_equal(place.missing, MAPS_NOT_SENT);
    message.wants_head_maps = true;
    message.header.type = MESSAGE_QK;
    maps_put(&shelf, &place, &message, message.measured->value[METRIC_IMPORTANCE], QK_MAX);
    assert_int_equal(place.missing, MAPS_TOO_COSTLY);
    message.header.keys = QK_MAX + 1;
    maps_put(&shelf, &place, &message, message.measured->value[METRIC_IMPORTANCE], QK_MAX);
    assert_int_equal(place.missing, MAPS_TOO_LONG);
    message.header.q_stride = 2;
    maps_put(&shelf, &place, &message, message.measured->value[METRIC_IMPORTANCE], QK_MAX);
    assert_int_equal(place.missing, MAPS_SAMPLED);
    test_maps_put(whole(1));
    maps_put(&shelf, &place, &message, message.measured->value[METRIC_IMPORTANCE], QK_MAX);
    assert_non_null(place.shown);
}

MAPS_TEST(any_allocation_may_fail)
{
    bool failed = true;
    for (unsigned nth = 1; failed; nth++) {
        struct measured measured = {.heads = HEADS};
        measured.value[METRIC_IMPORTANCE] = (double *)(uintptr_t)importance;
        struct message message = {
            .header = whole(1), .wants_head_maps = true, .measured = &measured};
        message.labels = strdup("x");
        message.label_count = 1;
        message.head_maps = maps_make_maps(HEADS, 128);
        heap_fail_at(nth);
        maps_put(&shelf, &place, &message, message.measured->value[METRIC_IMPORTANCE], QK_MAX);
        failed = heap_has_failed();
        heap_fail_at(0);
        assert_int_equal(!place.shown, nth <= 2); /* without importance there are maps */
        assert_true(place.shown || place.missing == MAPS_NO_MEMORY);
        head_maps_free(&message.head_maps);
        free(message.labels);
        maps_clear(&place);
    }
    struct header first = slice(1, 0, 2), second = slice(1, 2, 2);
    heap_fail_at(1);
    assert_true(maps_wanted(&place, &first, EVERY, 0));
    heap_fail_at(0);
    assert_false(maps_wanted(&place, &second, EVERY, 0));
}

/* Labels */

static char *labels_of(const char *const *texts, const size_t *sizes, uint32_t count,
                       uint32_t first, uint32_t keys, uint32_t *ret_count)
{
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    mpk_put_map(&writer, 1);
    mpk_put_str(&writer, "q_labels");
    mpk_put_array(&writer, count);
    for (uint32_t i = 0; i < count; i++) {
        msgpack_pack_str(&writer.packer, sizes[i]);
        msgpack_pack_str_body(&writer.packer, texts[i], sizes[i]);
    }
    struct message message = {.header = whole(1)};
    zmq_msg_init_size(&message.frames[1], writer.buffer.size);
    memcpy(zmq_msg_data(&message.frames[1]), writer.buffer.data, writer.buffer.size);
    mpk_writer_clear(&writer);
    uint32_t none;
    assert_null(message_labels(&message, "labels", 0, keys, &none));
    char *labels = message_labels(&message, "q_labels", first, keys, ret_count);
    zmq_msg_close(&message.frames[1]);
    return labels;
}

MAPS_TEST(labels_are_copied_up_to_a_nul_and_to_the_keys)
{
    static const char *const texts[] = {"the", "", "a\0b", "more"};
    static const size_t sizes[] = {3, 0, 3, 4};
    uint32_t count;
    char *labels = labels_of(texts, sizes, 4, 0, 3, &count);
    assert_int_equal(count, 3);
    assert_memory_equal(labels, "the\0\0a\0", 7);
    free(labels);
    assert_null(labels_of(texts, sizes, 0, 0, 3, &count));
    assert_int_equal(count, 0);
}

TEST(labels_begin_behind_padding)
{
    static const char *const texts[] = {"<pad>", "the", "cat"};
    static const size_t sizes[] = {5, 3, 3};
    uint32_t count;
    char *labels = labels_of(texts, sizes, 3, 1, 8, &count);
    assert_int_equal(count, 2);
    assert_memory_equal(labels, "the\0cat", 8);
    free(labels);
    assert_null(labels_of(texts, sizes, 3, 3, 8, &count));
}

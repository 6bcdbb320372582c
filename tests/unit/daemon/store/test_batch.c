/* SPDX-License-Identifier: MIT */
/* Batches are copies, and out of memory is an error. */
#include "tests/unit/unit.h"

#include "proto/err.h"
#include "tests/unit/heap.h"
#include "daemon/store/internal.h"

static const uint8_t run_id[RUN_BYTES] = {1};
static const struct store_run run = {"job", run_id, JOB_ACTIVE, 1, 2, 3, 4};

/* Everything that a batch can have. Returns the first error. */
static int store_batch_fill(struct store_batch *batch)
{
    uint16_t values[6] = {1, 2, 3, 4, 5, 6};
    char text[] = "text";
    struct store_window window = {.state = text, .state_size = sizeof text};
    struct store_map map = {
        .rows = 2,
        .columns = 3,
        .values = values,
        .of_heads = {.heads = 2, .rows = 1, .columns = 2, .values = values + 1}};
    struct alert_result alert = {.rule = text, .metric = text, .message = text};
    int code = batch_window(batch, &window);
    code = code ? code : batch_map(batch, &map);
    code = code ? code : batch_alert(batch, &alert);
    code = code ? code : batch_keep(batch, text, text, sizeof text);
    code = code ? code : batch_forget(batch, text);
    memset(text, 0, sizeof text);
    memset(values, 0, sizeof values);
    return code;
}

TEST(everything_is_copied)
{
    OWNED(batch_free) struct store_batch *batch = batch_new(&run);
    assert_int_equal(store_batch_fill(batch), 0);
    assert_string_equal(batch->run.job, "job");
    assert_ptr_not_equal(batch->run.run, run_id);
    assert_memory_equal(batch->run.run, run_id, RUN_BYTES);
    const struct record *r = batch->first;
    assert_memory_equal(r->of.window.state, "text", 5);
    r = r->next;
    assert_int_equal(r->of.map.values[5], 6);
    assert_int_equal(r->of.map.of_heads.values[3], 5);
    r = r->next;
    assert_string_equal(r->of.alert.rule, "text");
    assert_string_equal(r->of.alert.message, "text");
    r = r->next;
    assert_string_equal(r->of.kept.key, "text");
    assert_memory_equal(r->of.kept.value, "text", 5);
    r = r->next;
    assert_string_equal(r->of.kept.key, "text");
    assert_null(r->next);
    batch_free(&batch);
    assert_null(batch);
}

TEST(records_are_counted_and_bytes_too)
{
    OWNED(batch_free) struct store_batch *batch = batch_new(&run);
    uint64_t empty = batch->bytes;
    assert_int_equal(batch->records, 1);
    assert_false(batch->precious);
    assert_int_equal(store_batch_fill(batch), 0);
    assert_int_equal(batch->records, 5);
    assert_true(batch->precious);
    assert_true(batch->bytes >= empty + 5 * sizeof(struct record));
}

TEST(out_of_memory_is_an_error_and_leaves_a_batch)
{
    heap_fail_at(1);
    assert_null(batch_new(&run));
    for (unsigned nth = 1; nth <= 5; nth++) {
        OWNED(batch_free) struct store_batch *batch = batch_new(&run);
        heap_fail_at(nth);
        assert_int_equal(store_batch_fill(batch), ERR_MEMORY);
        assert_true(heap_has_failed());
        assert_int_equal(batch->records, nth < 3 ? 1 : nth - 1);
    }
    heap_fail_at(0);
}

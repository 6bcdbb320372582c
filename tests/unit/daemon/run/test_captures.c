/* SPDX-License-Identifier: MIT */
/* Captures of a run: judged between its messages, before its windows, once, also over kills. */
#include "tests/unit/unit.h"

#include "daemon/run/closing.h"
#include "tests/unit/daemon/run/fake_store.h"
#include "tests/unit/daemon/run/fixture.h"

/* The alerts that were told, as one text: "rule state step head", each behind a slash. */
struct captures_heard {
    char text[4096];
};

static struct captures_heard heard;

static void captures_on_result(void *data, const struct run *run, const char *topic, uint32_t track,
                               struct mpk_writer *writer, enum result_kind kind)
{
    OWNED(mpk_doc_clear) struct mpk_doc doc;
    (void)data, (void)run, (void)topic, (void)track;
    assert_int_equal(mpk_parse(writer->buffer.data, writer->buffer.size, &mpk_result_limits, &doc),
                     0);
    if (kind == RESULT_ALERT) {
        char rule[64], state[32], message[512];
        mpk_find_text(doc.root, "rule", rule, sizeof rule);
        mpk_find_text(doc.root, "state", state, sizeof state);
        mpk_find_text(doc.root, "message", message, sizeof message);
        size_t used = strlen(heard.text);
        snprintf(heard.text + used, sizeof heard.text - used, "/%s %s %d: %s", rule, state,
                 (int)mpk_find_u64(doc.root, "step"), message);
    }
}

static void captures_begin(struct run_fixture *f)
{
    stored_start(f, "[]");
    f->config.window_length = f->config.window_every = 1000;
    run_free(&f->run);
    fixture_new_run(f);
    f->sink.put = captures_on_result;
    heard.text[0] = '\0';
}

#define CAPTURES_TEST(name) TEST_IN(name, struct run_fixture, f, captures_begin, stored_stop)

/* A message whose rows of one head are invalid, all of them, or none (-1). */
static int send_rows(struct run_fixture *f, uint32_t layer, uint32_t rank, uint64_t step, int head)
{
    struct sample *sample = fixture_make(f, layer, rank, step);
    sample->message.header.time_ns = f->now;
    sample->measured.value[METRIC_ENTROPY] = sample->value[METRIC_ENTROPY];
    sample->measured.rows = head < 0 ? 2 * HEADS : 2 * HEADS - 2;
    sample->measured.invalid_rows = head < 0 ? 0 : 2;
    for (int h = 0; h < HEADS; h++) {
        uint64_t sound = h == head ? 0 : 2;
        sample->head[h].row[METRIC_ENTROPY].moments = (struct moments){.n = sound, .mean = 0.5};
    }
    if (fixture_queue(f, sample)) {
        fixture_finish(f, sample);
    }
    return fixture_take_all(f);
}

CAPTURES_TEST(a_capture_is_judged_by_its_last_message_long_before_its_window)
{
    for (uint64_t step = 0; step < 6; step++) {
        assert_int_equal(send_rows(f, 0, 0, step, -1), 0);
        assert_string_equal(heard.text, "");
        assert_int_equal(send_rows(f, 1, 0, step, step == 5 ? 1 : -1), 0);
    }
    assert_string_equal(
        heard.text,
        "/invalid_rows firing 5: rows are invalid: invalid_share of encoder.1.self is 0.5, above 0"
        "/first_invalid firing 5: rows became invalid: first in head 1 of "
        "encoder.1.self, between steps 4 and 5: 100 % of its rows");
    assert_int_equal(stats_get(&f->stats, COUNT_CAPTURES), 6);
    assert_int_equal(f->sink.store->alerts, 2);
    assert_non_null(fake_store_find(f->sink.store, "alerts")); /* with what was told */
    assert_non_null(fake_store_find(f->sink.store, "capture"));
}

CAPTURES_TEST(a_capture_waits_for_the_ranks_of_the_one_before)
{
    for (uint64_t step = 0; step < 2; step++) {
        for (uint32_t rank = 0; rank < 2; rank++) {
            assert_int_equal(send_rows(f, 0, rank, step, -1), 0);
        }
    }
    assert_int_equal(send_rows(f, 0, 1, 2, 0), 0);
    assert_string_equal(heard.text, "");
    assert_int_equal(send_rows(f, 0, 0, 2, -1), 0);
    assert_non_null(strstr(heard.text, "between steps 1 and 2: 50 % of its rows"));
}

CAPTURES_TEST(the_end_of_a_run_judges_what_is_open)
{
    assert_int_equal(send_rows(f, 0, 0, 0, -1), 0);
    assert_int_equal(send_rows(f, 1, 0, 0, 0), 0);
    assert_string_equal(heard.text, "");
    fixture_event(f, 0, EVENT_BYE, 0);
    assert_non_null(strstr(heard.text, "first in head 0 of encoder.1.self, from the start"));
    assert_int_equal(f->run->state, JOB_ENDED);
    assert_int_equal(f->run->captures->bytes, 0);
    assert_int_equal(fake_store_count(f->sink.store, "open/"), 0);
}

CAPTURES_TEST(a_run_that_goes_idle_has_judged_all)
{
    assert_int_equal(send_rows(f, 0, 0, 0, 1), 0);
    assert_string_equal(heard.text, "");
    assert_int_equal(closing_go_idle(f->run), 0);
    assert_non_null(strstr(heard.text, "/first_invalid firing 0: "));
}

/* Message number `i` of a story of two ranks and two layers: rows of a head of layer 1 are invalid
 * in steps 3 and 4. */
#define STORY 32
static int send_story(struct run_fixture *f, uint32_t i)
{
    uint32_t layer = i % 2, rank = i / 2 % 2;
    uint64_t step = i / 4;
    f->seq[layer][rank] = step;
    f->now = (1000 + step) * S;
    bool invalid = layer == 1 && rank == 1 && (step == 3 || step == 4);
    return send_rows(f, layer, rank, step, invalid ? 1 : -1);
}

/* The whole story; after message `kill` attnd is killed, and what was not saved then comes again.
 * Saved was after `saved` messages, and the layers of the batch of alerts are older. */
static void tell_story(struct run_fixture *f, uint32_t saved, uint32_t kill)
{
    for (uint32_t i = 0; i < STORY; i++) {
        assert_int_equal(send_story(f, i), 0);
        if (i == saved) {
            stored_save(f);
        }
        if (i == kill) {
            run_free(&f->run);
            assert_int_equal(stored_come_back(f, false), 1);
            i = saved;
            kill = STORY;
        }
    }
    fixture_event(f, 0, EVENT_BYE, 0);
    fixture_event(f, 1, EVENT_BYE, 0);
    assert_int_equal(f->run->state, JOB_ENDED);
}

/* Alerts that were told before the kill may be told once more only if nothing of them was saved,
 * and batches of alerts save them. */
TEST(kills_change_no_verdict)
{
    char whole[sizeof heard.text];
    struct run_fixture first;
    captures_begin(&first);
    tell_story(&first, STORY, STORY);
    strcpy(whole, heard.text);
    uint64_t judged = stats_get(&first.stats, COUNT_CAPTURES);
    stored_stop(&first);
    assert_int_equal(judged, STORY / 4);
    assert_non_null(strstr(whole, "first in head 1 of encoder.1.self, between steps 2 and 3"));
    assert_non_null(strstr(whole, "/first_invalid resolved 5"));
    for (uint32_t saved = 0; saved < STORY - 1; saved++) {
        for (uint32_t kill = saved; kill < STORY && kill < saved + 9; kill++) {
            struct run_fixture torn;
            captures_begin(&torn);
            tell_story(&torn, saved, kill);
            assert_string_equal(heard.text, whole);
            stored_stop(&torn);
        }
    }
}

CAPTURES_TEST(captures_count_against_the_memory_of_the_run)
{
    uint64_t before = f->budget.used;
    assert_int_equal(send_rows(f, 0, 0, 0, -1), 0);
    assert_int_equal(send_rows(f, 0, 0, 1, -1), 0);
    assert_true(f->run->captures->bytes > 0);
    assert_true(f->budget.used >= before + f->run->captures->bytes);
}

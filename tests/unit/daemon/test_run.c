/* SPDX-License-Identifier: MIT */
/* Messages of one run, computed in an order that the test chooses. */
#include "unit.h"

#include "closing.h"
#include "run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define S         UINT64_C(1000000000)
#define HEADS     2
#define SUMMARIES 64

struct fixture {
    struct config config;
    struct result_sink sink;
    struct stats stats;
    struct state_budget budget;
    struct run *run;
    uint64_t now, seq[8];
    int summaries, live;
    struct {
        uint32_t track;
        void *data;
        size_t size;
    } summary[SUMMARIES];
};

static void put(void *data, const char *topic, uint32_t track, struct mpk_writer *writer,
                enum result_kind kind)
{
    struct fixture *f = data;
    f->live += strncmp(topic, "live/", 5) == 0;
    if (kind != RESULT_SUMMARY || f->summaries == SUMMARIES)
        return;
    f->summary[f->summaries].track = track;
    f->summary[f->summaries].size = writer->buffer.size;
    f->summary[f->summaries++].data = msgpack_sbuffer_release(&writer->buffer);
}

static void start_with(struct fixture *f, const char *also)
{
    static const uint8_t id[RUN_BYTES] = {1};
    char error[CONFIG_ERROR_MAX], setting[200];
    memset(f, 0, sizeof *f);
    config_defaults(&f->config);
    f->config.window_unit = CONFIG_UNIT_STEP;
    f->config.window_length = f->config.window_every = 4;
    snprintf(setting, sizeof setting, "window.also=%s", also);
    assert_int_equal(config_set(&f->config, setting, error), 0);
    f->sink = (struct result_sink){.put = put, .stats = &f->stats, .data = f};
    f->budget.limit = UINT64_C(1) << 30;
    f->now = 1000 * S;
    f->run = run_new("job", id, &f->config, &f->sink, &f->budget, f->now);
    assert_non_null(f->run);
}

static void stop(struct fixture *f)
{
    run_free(&f->run);
    assert_int_equal(f->budget.used, 0);
    for (int i = 0; i < f->summaries; i++)
        free(f->summary[i].data);
}

/* A message and numbers that depend on its step. */
struct sample {
    struct message message;
    struct measured measured;
    struct head_block head[HEADS];
    double value[METRIC_COUNT][HEADS];
};

static struct sample *make(struct fixture *f, uint32_t rank, uint64_t step)
{
    struct sample *sample = calloc(1, sizeof *sample);
    struct header *header = &sample->message.header;
    sample->message.received_ns = f->now;
    *header = (struct header){.type = MESSAGE_ATTENTION, .run = {1}, .rank = rank, .world = 1};
    strcpy(header->job, "job");
    header->seq = f->seq[rank]++;
    header->step = step;
    header->batch = header->queries = header->keys = 1;
    header->heads = header->heads_total = HEADS;
    sample->measured.heads = HEADS;
    sample->measured.rows = 1;
    sample->measured.head = sample->head;
    for (int m = METRIC_ROW_COUNT; m < METRIC_COUNT; m++) {
        sample->measured.value[m] = sample->value[m];
        for (int h = 0; h < HEADS; h++)
            sample->value[m][h] = sin((double)(step * 100 + (uint64_t)m * 7 + (uint64_t)h)) / 3;
    }
    return sample;
}

static bool queue(struct fixture *f, struct sample *sample)
{
    return run_queue(f->run, &sample->message, f->now);
}

static void finish(struct fixture *f, struct sample *sample)
{
    sample->message.measured = &sample->measured;
    run_finish(f->run, &sample->message);
}

/* Takes what has its turn; returns the code of the last one, or 1 when there was none. */
static int take_all(struct fixture *f)
{
    int code = 1;
    struct message *message;
    while ((message = run_take(f->run))) {
        code = message->code;
        free(message);
    }
    return code;
}

static int send_step(struct fixture *f, uint32_t rank, uint64_t step)
{
    struct sample *sample = make(f, rank, step);
    if (queue(f, sample))
        finish(f, sample);
    return take_all(f);
}

static void test_live_values_do_not_wait(void **state)
{
    struct fixture f;
    (void)state;
    start_with(&f, "[]");
    struct sample *first = make(&f, 0, 0), *second = make(&f, 0, 1);
    queue(&f, first);
    queue(&f, second);
    finish(&f, second);
    assert_int_equal(f.live, 1);
    assert_null(run_take(f.run));
    finish(&f, first);
    assert_int_equal(f.live, 2);
    take_all(&f);
    stop(&f);
}

static void test_a_message_waits_for_the_older_ones(void **state)
{
    struct fixture f;
    (void)state;
    start_with(&f, "[]");
    struct sample *first = make(&f, 0, 0), *second = make(&f, 0, 1);
    assert_true(queue(&f, first));
    assert_true(queue(&f, second));
    finish(&f, second);
    assert_null(run_take(f.run));
    finish(&f, first);
    assert_ptr_equal(run_take(f.run), &first->message);
    assert_ptr_equal(run_take(f.run), &second->message);
    assert_int_equal(f.live, 2);
    free(first);
    free(second);
    stop(&f);
}

static void test_a_message_without_numbers_lets_the_queue_go_on(void **state)
{
    struct fixture f;
    (void)state;
    start_with(&f, "[]");
    struct sample *first = make(&f, 0, 0), *second = make(&f, 0, 1);
    queue(&f, first);
    queue(&f, second);
    finish(&f, second);
    first->message.code = ERR_MEMORY;
    run_finish(f.run, &first->message);
    assert_int_equal(take_all(&f), 0);
    struct counts counts = run_counts(f.run);
    assert_int_equal(counts.received, 2);
    assert_int_equal(counts.processed, 1);
    assert_int_equal(counts.tally.dropped[err_index(ERR_MEMORY)], 1);
    stop(&f);
}

/* Fisher-Yates with a generator of its own, so that a failure can be repeated. */
static void shuffle(struct sample **samples, int count, uint32_t seed)
{
    for (int i = count - 1; i > 0; i--) {
        seed = seed * 1664525 + 1013904223;
        int other = (int)(seed >> 8) % (i + 1);
        struct sample *sample = samples[i];
        samples[i] = samples[other];
        samples[other] = sample;
    }
}

static void run_shuffled(struct fixture *f, uint32_t seed)
{
    struct sample *samples[40];
    start_with(f, "[8 steps every 2]");
    for (int i = 0; i < 40; i++) {
        samples[i] = make(f, (uint32_t)i % 2, (uint64_t)i / 2);
        assert_true(queue(f, samples[i]));
    }
    if (seed)
        shuffle(samples, 40, seed);
    for (int i = 0; i < 40; i++) {
        finish(f, samples[i]);
        take_all(f);
    }
    assert_int_equal(f->run->queued, 0);
}

static void test_whichever_worker_is_faster_the_summaries_are_the_same_bytes(void **state)
{
    struct fixture in_order, other;
    (void)state;
    run_shuffled(&in_order, 0);
    assert_true(in_order.summaries > 8);
    for (uint32_t seed = 1; seed < 20; seed++) {
        run_shuffled(&other, seed);
        assert_int_equal(other.summaries, in_order.summaries);
        for (int i = 0; i < other.summaries; i++) {
            assert_int_equal(other.summary[i].track, in_order.summary[i].track);
            assert_int_equal(other.summary[i].size, in_order.summary[i].size);
            assert_memory_equal(other.summary[i].data, in_order.summary[i].data,
                                other.summary[i].size);
        }
        stop(&other);
    }
    stop(&in_order);
}

/* A number of a summary's map, or of its `window`. */
static uint64_t number(const struct fixture *f, int summary, const char *map, const char *key)
{
    struct mpk_doc doc;
    uint64_t value = UINT64_MAX;
    assert_int_equal(
        mpk_parse(f->summary[summary].data, f->summary[summary].size, &mpk_result_limits, &doc), 0);
    const msgpack_object *of = map ? mpk_find(doc.root, map) : doc.root;
    const msgpack_object *found = mpk_find(of, key);
    if (found)
        mpk_get_u64(found, UINT64_MAX, &value);
    mpk_doc_clear(&doc);
    return value;
}

static void test_every_track_makes_its_own_windows(void **state)
{
    struct fixture f;
    uint64_t messages[2] = {0};
    (void)state;
    start_with(&f, "[6 steps]");
    for (uint64_t step = 0; step < 13; step++)
        assert_int_equal(send_step(&f, 0, step), 0);
    assert_int_equal(f.summaries, 3 + 2);
    for (int i = 0; i < f.summaries; i++)
        messages[f.summary[i].track] += number(&f, i, NULL, "messages");
    assert_int_equal(messages[0], 12);
    assert_int_equal(messages[1], 12);
    stop(&f);
}

static void test_late_for_one_track_counts_in_the_other(void **state)
{
    struct fixture f;
    (void)state;
    start_with(&f, "[100 steps]");
    send_step(&f, 0, 2);
    send_step(&f, 0, 5); /* closes the first four steps */
    assert_int_equal(f.summaries, 1);
    assert_int_equal(send_step(&f, 0, 3), 0);
    send_step(&f, 0, 7);
    send_step(&f, 0, 100);
    assert_int_equal(f.summaries, 3);
    assert_int_equal(number(&f, 1, NULL, "messages"), 2);
    assert_int_equal(number(&f, 1, "dropped", "late"), 1);
    assert_int_equal(f.summary[2].track, 1);
    assert_int_equal(number(&f, 2, NULL, "messages"), 4);
    assert_int_equal(number(&f, 2, "dropped", "late"), UINT64_MAX);
    stop(&f);
}

static void test_late_for_all_tracks_is_refused_without_work(void **state)
{
    struct fixture f;
    (void)state;
    start_with(&f, "[2 steps]");
    send_step(&f, 0, 0);
    send_step(&f, 0, 4);
    struct sample *late = make(&f, 0, 1);
    assert_false(queue(&f, late));
    assert_int_equal(take_all(&f), ERR_LATE);
    assert_int_equal(run_counts(f.run).tally.dropped[err_index(ERR_LATE)], 1);
    stop(&f);
}

static void test_lateness_is_decided_in_the_order_of_arrival(void **state)
{
    struct fixture f;
    (void)state;
    start_with(&f, "[]");
    struct sample *first = make(&f, 0, 0), *next = make(&f, 0, 4), *late = make(&f, 0, 1);
    queue(&f, first);
    queue(&f, next);
    assert_true(queue(&f, late)); /* nobody knows yet */
    finish(&f, late);
    finish(&f, next);
    finish(&f, first);
    assert_int_equal(take_all(&f), ERR_LATE);
    assert_int_equal(number(&f, 0, NULL, "messages"), 1);
    stop(&f);
}

static void test_a_repeated_message_costs_no_work(void **state)
{
    struct fixture f;
    (void)state;
    start_with(&f, "[]");
    send_step(&f, 0, 0);
    f.seq[0] = 0;
    struct sample *again = make(&f, 0, 0);
    assert_false(queue(&f, again));
    assert_int_equal(take_all(&f), ERR_SEQ_DUPLICATE);
    stop(&f);
}

static void test_a_flush_waits_for_what_was_received_before_it(void **state)
{
    struct fixture f;
    (void)state;
    start_with(&f, "[]");
    struct sample *first = make(&f, 0, 0), *second = make(&f, 0, 1);
    queue(&f, first);
    assert_true(run_flush(f.run));
    queue(&f, second);
    finish(&f, second);
    finish(&f, first);
    take_all(&f);
    assert_int_equal(f.summaries, 1);
    assert_int_equal(number(&f, 0, NULL, "messages"), 1);
    stop(&f);
}

static void test_without_state_memory_messages_are_refused_and_windows_go_on(void **state)
{
    struct fixture f;
    (void)state;
    start_with(&f, "[]");
    send_step(&f, 0, 0);
    uint64_t room = f.budget.limit;
    f.budget.limit = 1;
    assert_int_equal(send_step(&f, 0, 1), ERR_STATE_LIMIT);
    assert_int_equal(send_step(&f, 0, 4), ERR_STATE_LIMIT);
    assert_int_equal(f.summaries, 1); /* the rank has moved on */
    f.budget.limit = room;
    assert_int_equal(send_step(&f, 0, 5), 0);
    send_step(&f, 0, 8);
    assert_int_equal(number(&f, 1, "dropped", "state_limit"), 2);
    stop(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_live_values_do_not_wait),
        cmocka_unit_test(test_a_message_waits_for_the_older_ones),
        cmocka_unit_test(test_a_message_without_numbers_lets_the_queue_go_on),
        cmocka_unit_test(test_whichever_worker_is_faster_the_summaries_are_the_same_bytes),
        cmocka_unit_test(test_every_track_makes_its_own_windows),
        cmocka_unit_test(test_late_for_one_track_counts_in_the_other),
        cmocka_unit_test(test_late_for_all_tracks_is_refused_without_work),
        cmocka_unit_test(test_lateness_is_decided_in_the_order_of_arrival),
        cmocka_unit_test(test_a_repeated_message_costs_no_work),
        cmocka_unit_test(test_a_flush_waits_for_what_was_received_before_it),
        cmocka_unit_test(test_without_state_memory_messages_are_refused_and_windows_go_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
/* Jobs and runs under a clock that the test turns; results go to a sink that counts. */
#include "unit.h"

#include "registry.h"

#include <stdlib.h>
#include <string.h>

#define S UINT64_C(1000000000)

struct fixture {
    struct config config;
    struct result_sink sink;
    struct stats stats;
    struct registry *registry;
    uint64_t now, arrivals;
    int summaries, others;
    char forgotten[JOB_NAME_MAX + 1];
};

static void put(void *data, const struct run *run, const char *topic, uint32_t track,
                struct mpk_writer *writer, enum result_kind kind)
{
    (void)run;
    struct fixture *f = data;
    (void)topic, (void)track, (void)writer;
    *(kind == RESULT_SUMMARY ? &f->summaries : &f->others) += 1;
}

static void forget(void *data, const char *job)
{
    strcpy(((struct fixture *)data)->forgotten, job);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    config_defaults(&f->config);
    f->config.limits_jobs = 2;
    f->config.limits_runs = 2;
    f->config.limits_idle = 10 * S;
    f->sink = (struct result_sink){.put = put, .stats = &f->stats, .data = f};
    f->now = 1000 * S;
    f->registry = registry_new(&f->config, &f->sink, forget, f);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    registry_free(&f->registry);
    free(f);
    return 0;
}

/* Events need no work: they are taken as they come. */
static int arrive(struct fixture *f, struct message *message)
{
    bool compute = true;
    message->arrival = ++f->arrivals;
    message->received_ns = f->now;
    int code = registry_arrive(f->registry, message, f->now, &compute);
    if (code)
        return code;
    assert_false(compute);
    assert_ptr_equal(run_take(message->run), message);
    return message->code;
}

static int event(struct fixture *f, const char *job, uint8_t run, enum event_type event,
                 uint64_t seq)
{
    struct message message = {.arrival = 0};
    message.header = (struct header){
        .type = MESSAGE_EVENT, .event = event, .world = 1, .seq = seq, .run = {run}};
    strcpy(message.header.job, job);
    return arrive(f, &message);
}

static void count(void *data, struct run *run)
{
    (void)run;
    ++*(int *)data;
}

static int runs(struct fixture *f)
{
    int number = 0;
    registry_each(f->registry, count, &number);
    return number;
}

static void test_jobs_and_runs_appear_with_their_first_message(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(event(f, "a", 1, EVENT_HELLO, 0), 0);
    assert_int_equal(event(f, "a", 2, EVENT_HELLO, 0), 0);
    assert_int_equal(event(f, "b", 1, EVENT_HELLO, 0), 0);
    assert_int_equal(registry_jobs(f->registry), 2);
    assert_int_equal(runs(f), 3);
}

static void test_an_active_job_is_not_pushed_out(void **state)
{
    struct fixture *f = *state;
    event(f, "a", 1, EVENT_HELLO, 0);
    event(f, "b", 1, EVENT_HELLO, 0);
    assert_int_equal(event(f, "c", 1, EVENT_HELLO, 0), ERR_JOB_LIMIT);
    assert_int_equal(registry_jobs(f->registry), 2);
}

static void test_the_longest_idle_job_makes_room(void **state)
{
    struct fixture *f = *state;
    event(f, "a", 1, EVENT_HELLO, 0);
    f->now += 5 * S;
    event(f, "b", 1, EVENT_HELLO, 0);
    f->now += 20 * S;
    assert_false(registry_tick(f->registry, f->now));
    assert_int_equal(event(f, "c", 1, EVENT_HELLO, 0), 0);
    assert_string_equal(f->forgotten, "a");
}

static void test_the_longest_silent_run_makes_room(void **state)
{
    struct fixture *f = *state;
    event(f, "a", 1, EVENT_HELLO, 0);
    f->now += S;
    event(f, "a", 2, EVENT_HELLO, 0);
    assert_int_equal(event(f, "a", 3, EVENT_HELLO, 0), ERR_RUN_LIMIT); /* both may still train */
    f->now += f->config.window_timeout - S;
    assert_int_equal(event(f, "a", 3, EVENT_HELLO, 0), 0);
    assert_int_equal(runs(f), 2);
    assert_int_equal(event(f, "a", 3, EVENT_HELLO, 0), ERR_SEQ_DUPLICATE);
}

static void test_ticks_are_needed_while_a_run_is_active(void **state)
{
    struct fixture *f = *state;
    event(f, "a", 1, EVENT_HELLO, 0);
    assert_true(registry_tick(f->registry, f->now));
    event(f, "a", 1, EVENT_BYE, 1);
    assert_false(registry_tick(f->registry, f->now));
    assert_int_equal(event(f, "a", 1, EVENT_EPOCH_END, 2), ERR_ENDED);
}

static void test_a_rank_that_comes_after_the_end_revives_the_run(void **state)
{
    struct fixture *f = *state;
    event(f, "a", 1, EVENT_HELLO, 0);
    event(f, "a", 1, EVENT_BYE, 1);
    assert_false(registry_tick(f->registry, f->now));
    struct message late = {.arrival = 0};
    late.header = (struct header){
        .type = MESSAGE_EVENT, .event = EVENT_HELLO, .rank = 1, .world = 2, .run = {1}};
    strcpy(late.header.job, "a");
    assert_int_equal(arrive(f, &late), 0);
    assert_true(registry_tick(f->registry, f->now));
}

static void test_refusals_of_unknown_jobs_make_no_job(void **state)
{
    struct fixture *f = *state;
    registry_refused(f->registry, "nobody", ERR_SHAPE);
    assert_int_equal(registry_jobs(f->registry), 0);
}

static void test_flush_of_an_unknown_job_is_an_error(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(registry_flush(f->registry, "nobody"), ERR_JOB_UNKNOWN);
    assert_int_equal(registry_flush(f->registry, NULL), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_jobs_and_runs_appear_with_their_first_message),
        TEST(test_an_active_job_is_not_pushed_out),
        TEST(test_the_longest_idle_job_makes_room),
        TEST(test_the_longest_silent_run_makes_room),
        TEST(test_ticks_are_needed_while_a_run_is_active),
        TEST(test_a_rank_that_comes_after_the_end_revives_the_run),
        TEST(test_refusals_of_unknown_jobs_make_no_job),
        TEST(test_flush_of_an_unknown_job_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

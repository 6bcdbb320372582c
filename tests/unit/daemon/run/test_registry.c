/* SPDX-License-Identifier: MIT */
/* Jobs and runs under a clock that the test turns; results go to a sink that counts. */
#include "tests/unit/unit.h"

#include "daemon/run/queue.h"
#include "daemon/run/registry.h"

#define S UINT64_C(1000000000)

struct registry_fixture {
    struct config config;
    struct result_sink sink;
    struct stats stats;
    struct registry *registry;
    uint64_t now, arrivals;
    const char *sender; /* of the messages */
    int summaries, others;
    char forgotten[JOB_NAME_MAX + 1];
};

static void registry_put(void *data, const struct run *run, const char *topic, uint32_t track,
                         struct mpk_writer *writer, enum result_kind kind)
{
    (void)run;
    struct registry_fixture *f = data;
    (void)topic, (void)track, (void)writer;
    *(kind == RESULT_SUMMARY ? &f->summaries : &f->others) += 1;
}

static void registry_forget(void *data, const char *job)
{
    strcpy(((struct registry_fixture *)data)->forgotten, job);
}

static void registry_begin(struct registry_fixture *f)
{
    config_defaults(&f->config);
    f->config.limits_jobs = 2;
    f->config.limits_runs = 2;
    f->config.limits_idle = 10 * S;
    f->config.limits_no_news = 10 * S;
    f->sink = (struct result_sink){.put = registry_put, .stats = &f->stats, .data = f};
    f->now = 1000 * S;
    f->registry = registry_new(&f->config, &f->sink, registry_forget, f);
}

/* With what the test has set by now. */
static void registry_begin_anew(struct registry_fixture *f)
{
    registry_free(&f->registry);
    f->registry = registry_new(&f->config, &f->sink, registry_forget, f);
}

static void registry_end(struct registry_fixture *f)
{
    registry_free(&f->registry);
}

#define REGISTRY_TEST(name) TEST_IN(name, struct registry_fixture, f, registry_begin, registry_end)

/* Events need no work: they are taken as they come. */
static int test_registry_arrive(struct registry_fixture *f, struct message *message)
{
    bool compute = true;
    message->arrival = ++f->arrivals;
    message->received_ns = f->now;
    int code = registry_arrive(f->registry, message, f->now, &compute);
    if (code) {
        return code;
    }
    assert_false(compute);
    assert_ptr_equal(queue_take(message->run), message);
    return message->code;
}

static struct message event_of(const char *job, uint8_t run, enum event_type event)
{
    struct message message = {.header = {.type = MESSAGE_EVENT, .event = event, .world = 1}};
    message.header.run[0] = run;
    strcpy(message.header.job, job);
    return message;
}

static int registry_event(struct registry_fixture *f, const char *job, uint8_t run,
                          enum event_type event, uint64_t seq)
{
    struct message message = event_of(job, run, event);
    message.header.seq = seq;
    return test_registry_arrive(f, &message);
}

static struct message tensors_of(struct registry_fixture *f, const char *job, uint8_t run,
                                 uint64_t seq)
{
    struct message message = {.arrival = ++f->arrivals, .received_ns = f->now, .sender = f->sender};
    message.header = (struct header){.type = MESSAGE_ATTENTION,
                                     .world = 1,
                                     .seq = seq,
                                     .run = {run},
                                     .heads = 1,
                                     .heads_total = 1};
    strcpy(message.header.job, job);
    return message;
}

/* They are next in their run's queue. */
static void measure_tensors(struct message *message)
{
    struct head_block head = {0};
    struct measured measured = {.heads = 1, .rows = 1, .head = &head};
    message->measured = &measured;
    queue_finish(message->run, message);
    assert_ptr_equal(queue_take(message->run), message);
    message->measured = NULL;
}

static int tensors(struct registry_fixture *f, const char *job, uint8_t run, uint64_t seq)
{
    struct message message = tensors_of(f, job, run, seq);
    bool compute = false;
    int code = registry_arrive(f->registry, &message, f->now, &compute);
    if (code) {
        return code;
    }
    if (!compute) { /* refused in its turn */
        assert_ptr_equal(queue_take(message.run), &message);
        assert_true(message.code);
        return message.code;
    }
    measure_tensors(&message);
    return message.code;
}

static int runs(struct registry_fixture *f)
{
    int number = 0;
    for (const struct run *run = NULL; (run = registry_next(f->registry, run));) {
        number++;
    }
    return number;
}

REGISTRY_TEST(jobs_and_runs_appear_with_their_first_message)
{
    assert_int_equal(registry_event(f, "a", 1, EVENT_HELLO, 0), 0);
    assert_int_equal(registry_event(f, "a", 2, EVENT_HELLO, 0), 0);
    assert_int_equal(registry_event(f, "b", 1, EVENT_HELLO, 0), 0);
    assert_int_equal(registry_jobs(f->registry), 2);
    assert_int_equal(runs(f), 3);
}

/* A hello of a rank of run 1, which asks for windows; returns its code, and how the run is cut. */
static int hello_of_windows(struct registry_fixture *f, uint32_t rank, struct own_window own,
                            char *ret_names)
{
    struct message message = event_of("a", 1, EVENT_HELLO);
    message.header.rank = rank;
    message.header.world = 4;
    message.header.own_window = own;
    int code = test_registry_arrive(f, &message);
    *ret_names = '\0';
    for (uint32_t t = 0; t < message.run->track_count; t++) {
        sprintf(ret_names + strlen(ret_names), "%s ", message.run->tracks[t].name);
    }
    return code;
}

REGISTRY_TEST(the_first_hello_of_a_run_says_its_windows_for_all_ranks)
{
    char names[4 * TRACK_NAME_MAX];
    struct own_window steps = {WINDOW_STEP, 200}, others = {WINDOW_STEP, 100}, none = {.length = 0};
    assert_int_equal(hello_of_windows(f, 0, steps, names), 0);
    assert_string_equal(names, "step-200-200 epoch-1-1 ");
    assert_int_equal(hello_of_windows(f, 1, others, names), ERR_OWN_WINDOW);
    assert_string_equal(names, "step-200-200 epoch-1-1 ");
    assert_int_equal(hello_of_windows(f, 2, none, names), 0);
    assert_int_equal(hello_of_windows(f, 3, steps, names), 0);
}

REGISTRY_TEST(a_run_has_a_window_that_the_config_has_as_well_once)
{
    char names[4 * TRACK_NAME_MAX], error[CONFIG_ERROR_MAX];
    assert_int_equal(config_set(&f->config, "window.also=[100 steps]", error), 0);
    assert_int_equal(hello_of_windows(f, 0, (struct own_window){WINDOW_EPOCH, 1}, names), 0);
    assert_string_equal(names, "epoch-1-1 step-100-100 ");
}

REGISTRY_TEST(no_node_and_no_replay_has_windows_of_seconds)
{
    char names[4 * TRACK_NAME_MAX];
    struct own_window seconds = {WINDOW_SECOND, 30};
    f->sink.is_replay = true;
    assert_int_equal(hello_of_windows(f, 0, seconds, names), ERR_OWN_WINDOW);
    assert_string_equal(names, "step-800-800 epoch-1-1 ");
    f->sink.is_replay = false;
    registry_begin_anew(f);
    assert_int_equal(hello_of_windows(f, 0, seconds, names), 0);
    assert_string_equal(names, "second-30-30 epoch-1-1 ");
}

REGISTRY_TEST(an_active_job_is_not_pushed_out)
{
    tensors(f, "a", 1, 0);
    tensors(f, "b", 1, 0);
    assert_int_equal(tensors(f, "c", 1, 0), ERR_JOB_LIMIT);
    assert_int_equal(registry_jobs(f->registry), 2);
}

/* At most half of what other keys leave. */
REGISTRY_TEST(a_key_for_some_jobs_does_not_keep_others_out)
{
    char name[] = "a";
    f->config.limits_jobs = 8;
    f->sender = "one";
    for (; *name <= 'd'; ++*name) {
        assert_int_equal(tensors(f, name, 1, 0), 0);
    }
    assert_int_equal(tensors(f, "e", 1, 0), ERR_JOB_LIMIT);
    assert_int_equal(tensors(f, "a", 1, 1), 0);
    f->sender = "two";
    assert_int_equal(tensors(f, "e", 1, 0), 0);
    assert_int_equal(tensors(f, "f", 1, 0), 0);
    assert_int_equal(tensors(f, "g", 1, 0), ERR_JOB_LIMIT);
    f->sender = NULL; /* may publish all jobs */
    assert_int_equal(tensors(f, "g", 1, 0), 0);
    assert_int_equal(tensors(f, "h", 1, 0), 0);
}

/* Jobs that rest leave their places; those that come back need one. */
REGISTRY_TEST(jobs_that_rest_are_no_way_round_the_share)
{
    f->config.limits_jobs = 4;
    f->sender = "one";
    assert_int_equal(tensors(f, "a", 1, 0), 0);
    assert_int_equal(tensors(f, "b", 1, 0), 0);
    assert_int_equal(registry_event(f, "c", 1, EVENT_HELLO, 0), 0);
    assert_int_equal(tensors(f, "c", 1, 0), ERR_JOB_LIMIT);
    f->now += 20 * S;
    registry_tick(f->registry, f->now); /* all are idle */
    assert_int_equal(tensors(f, "c", 1, 0), 0);
    assert_int_equal(tensors(f, "d", 1, 0), 0);
    assert_int_equal(tensors(f, "a", 1, 1), ERR_JOB_LIMIT);
}

/* Runs that have windows of this many MiB, or have them no more. */
static void registry_take_memory(struct registry_fixture *f, const char *job, uint8_t id, int mib)
{
    char run[3];
    snprintf(run, sizeof run, "%02x", id);
    struct run *found = registry_find(f->registry, job, run);
    uint64_t bytes = (uint64_t)abs(mib) << 20;
    state_budget_charge(&found->budget, mib > 0 ? bytes : 0, mib > 0 ? 0 : bytes);
}

/* At most eight times what is free. */
REGISTRY_TEST(a_job_does_not_keep_the_windows_of_others_out)
{
    f->config.limits_runs = 8;
    f->config.limits_jobs = 8;
    f->config.limits_state_memory = 900 << 20;
    registry_begin_anew(f);
    for (uint8_t run = 1; run <= 4; run++) {
        assert_int_equal(tensors(f, "hog", run, 0), 0);
        registry_take_memory(f, "hog", run, 205);
    }
    assert_int_equal(tensors(f, "hog", 1, 1), ERR_STATE_LIMIT); /* 820 of 900 */
    assert_int_equal(tensors(f, "hog", 5, 0), ERR_STATE_LIMIT);
    assert_int_equal(tensors(f, "small", 1, 0), 0);
    registry_take_memory(f, "small", 1, 70);
    assert_int_equal(tensors(f, "small", 1, 1), 0);
    registry_take_memory(f, "small", 1, 4);
    assert_int_equal(tensors(f, "small", 1, 2), ERR_STATE_LIMIT);
    registry_take_memory(f, "hog", 1, -205);
    assert_int_equal(tensors(f, "small", 1, 3), 0);
    assert_int_equal(tensors(f, "hog", 1, 2), 0);
}

REGISTRY_TEST(more_jobs_give_a_key_for_some_jobs_no_more_memory)
{
    char name[] = "a";
    f->config.limits_jobs = 16;
    f->config.limits_state_memory = 900 << 20;
    registry_begin_anew(f);
    for (f->sender = "one"; *name <= 'd'; ++*name) {
        assert_int_equal(tensors(f, name, 1, 0), 0);
        registry_take_memory(f, name, 1, 205);
    }
    assert_int_equal(tensors(f, "e", 1, 0), ERR_STATE_LIMIT);
    f->sender = "two";
    assert_int_equal(tensors(f, "f", 1, 0), 0);
    f->sender = NULL; /* may publish all jobs */
    assert_int_equal(tensors(f, "g", 1, 0), 0);
}

REGISTRY_TEST(the_longest_idle_job_makes_room)
{
    tensors(f, "a", 1, 0);
    f->now += 5 * S;
    tensors(f, "b", 1, 0);
    f->now += 20 * S;
    assert_false(registry_tick(f->registry, f->now));
    assert_int_equal(tensors(f, "c", 1, 0), 0);
    assert_string_equal(f->forgotten, "a");
}

REGISTRY_TEST(a_run_that_the_history_deleted_is_forgotten)
{
    tensors(f, "a", 1, 0);
    tensors(f, "a", 2, 0);
    f->now += 20 * S;
    registry_tick(f->registry, f->now); /* both are idle, and the second is what the name means */
    registry_event(f, "a", 2, EVENT_HELLO, 0);
    registry_drop_run(f->registry, registry_find(f->registry, "a", "01"));
    assert_string_equal(f->forgotten, "");
    assert_null(registry_find(f->registry, "a", "01"));
    registry_drop_run(f->registry, registry_find(f->registry, "a", "02"));
    assert_string_equal(f->forgotten, "a");
    assert_false(registry_knows(f->registry, "a"));
    assert_int_equal(tensors(f, "a", 1, 0), 0); /* it begins anew */
}

REGISTRY_TEST(jobs_without_tensors_push_out_each_other_only)
{
    tensors(f, "a", 1, 0);
    tensors(f, "b", 1, 0);
    f->now += 20 * S;
    registry_tick(f->registry, f->now); /* both are idle */
    char name[2] = "c";
    for (; *name <= 'z'; ++*name, f->now += S) {
        assert_int_equal(registry_event(f, name, 1, EVENT_HELLO, 0), 0);
    }
    assert_int_equal(registry_jobs(f->registry), 3);
    assert_true(registry_knows(f->registry, "a") && registry_knows(f->registry, "b") &&
                registry_knows(f->registry, "z"));
}

REGISTRY_TEST(a_job_without_tensors_makes_room_though_it_is_active)
{
    tensors(f, "a", 1, 0);
    registry_event(f, "b", 1, EVENT_HELLO, 0);
    assert_int_equal(tensors(f, "c", 1, 0), 0);
    assert_string_equal(f->forgotten, "b");
    assert_int_equal(registry_jobs(f->registry), 2);
}

REGISTRY_TEST(the_one_beyond_the_limit_needs_a_place_for_its_tensors)
{
    tensors(f, "a", 1, 0);
    tensors(f, "b", 1, 0);
    assert_int_equal(registry_event(f, "c", 1, EVENT_HELLO, 0), 0);
    assert_int_equal(tensors(f, "c", 1, 0), ERR_JOB_LIMIT);
    f->now += 20 * S;
    registry_tick(f->registry, f->now);
    assert_int_equal(tensors(f, "c", 1, 0), 0);
    assert_string_equal(f->forgotten, "a");
    assert_int_equal(registry_jobs(f->registry), 2);
}

/* Says goodbye, and the other run that it goes on. */
static void registry_end_run(struct registry_fixture *f, uint8_t run, uint8_t other, uint64_t seq)
{
    registry_event(f, "a", run, EVENT_BYE, seq);
    f->now += f->config.window_timeout;
    if (other) {
        registry_event(f, "a", other, EVENT_EPOCH_END, seq);
    }
    registry_tick(f->registry, f->now);
}

REGISTRY_TEST(a_name_means_the_newest_active_run_or_the_one_that_ended_last)
{
    assert_null(registry_find(f->registry, "a", ""));
    registry_event(f, "a", 1, EVENT_HELLO, 0);
    registry_event(f, "a", 2, EVENT_HELLO, 0);
    assert_int_equal(registry_find(f->registry, "a", "")->id[0], 2);
    assert_int_equal(registry_find(f->registry, "a", "01")->id[0], 1);
    assert_null(registry_find(f->registry, "a", "1"));
    registry_end_run(f, 2, 1, 1);
    assert_int_equal(registry_find(f->registry, "a", "")->id[0], 1);
    assert_int_equal(registry_find(f->registry, "a", "0")->id[0], 1);
    registry_end_run(f, 1, 0, 2);
    assert_int_equal(registry_find(f->registry, "a", "")->state, JOB_ENDED);
    assert_int_equal(registry_find(f->registry, "a", "")->id[0], 1);
    registry_event(f, "a", 2, EVENT_HELLO, 2);
    assert_int_equal(registry_find(f->registry, "a", "")->id[0], 2);
}

REGISTRY_TEST(what_captures_cost_a_run_with_an_interval_of_its_own_limits_no_plan)
{
    struct message message = event_of("a", 1, EVENT_HELLO);
    message.header.step_seconds = message.header.capture_seconds = 1;
    message.header.own_every = 2;
    assert_int_equal(test_registry_arrive(f, &message), 0);
    assert_null(registry_cost(f->registry, "a"));
}

REGISTRY_TEST(what_captures_cost_a_job_is_known_until_its_runs_end)
{
    assert_null(registry_cost(f->registry, "a"));
    for (uint8_t run = 1; run <= 2; run++) {
        struct message message = event_of("a", run, EVENT_HELLO);
        message.header.step_seconds = 1;
        message.header.capture_seconds = run;
        assert_int_equal(test_registry_arrive(f, &message), 0);
    }
    assert_true(cost_ratio(registry_cost(f->registry, "a")) == 2);
    registry_event(f, "a", 2, EVENT_BYE, 1);
    f->now += f->config.window_timeout;
    registry_tick(f->registry, f->now);
    assert_true(cost_ratio(registry_cost(f->registry, "a")) == 1);
    registry_event(f, "a", 1, EVENT_BYE, 1);
    f->now += f->config.window_timeout;
    registry_tick(f->registry, f->now);
    assert_null(registry_cost(f->registry, "a"));
}

REGISTRY_TEST(only_a_hello_goes_beyond_the_limit)
{
    tensors(f, "a", 1, 0);
    tensors(f, "b", 1, 0);
    assert_int_equal(registry_event(f, "c", 1, EVENT_BYE, 0), ERR_JOB_LIMIT);
    assert_int_equal(registry_event(f, "c", 1, EVENT_EPOCH_END, 0), ERR_JOB_LIMIT);
    assert_int_equal(registry_jobs(f->registry), 2);
    tensors(f, "a", 2, 0);
    assert_int_equal(registry_event(f, "a", 3, EVENT_BYE, 0), ERR_RUN_LIMIT);
    assert_int_equal(runs(f), 3); /* of both jobs */
}

/* Two jobs that have ended, and a third one beyond the limit whose hello is queued. */
static void queue_hello(struct registry_fixture *f, struct message *hello)
{
    bool compute;
    for (int i = 0; i < 2; i++) {
        tensors(f, i ? "b" : "a", 1, 0);
        assert_int_equal(registry_event(f, i ? "b" : "a", 1, EVENT_BYE, 1), 0);
        f->now += S;
    }
    registry_tick(f->registry, f->now + f->config.window_timeout);
    *hello = event_of("c", 1, EVENT_HELLO);
    hello->arrival = ++f->arrivals;
    hello->received_ns = f->now;
    assert_int_equal(registry_arrive(f->registry, hello, f->now, &compute), 0);
    assert_int_equal(registry_jobs(f->registry), 3);
}

REGISTRY_TEST(a_hello_finds_room_while_another_one_is_queued)
{
    struct message hello;
    queue_hello(f, &hello);
    assert_int_equal(registry_event(f, "d", 1, EVENT_HELLO, 0), 0);
    assert_string_equal(f->forgotten, "a");
    assert_int_equal(registry_jobs(f->registry), 3);
    assert_ptr_equal(queue_take(hello.run), &hello);
}

REGISTRY_TEST(room_is_made_although_the_hello_is_queued)
{
    struct message hello;
    bool compute;
    queue_hello(f, &hello);
    struct message message = tensors_of(f, "c", 1, 1);
    assert_int_equal(registry_arrive(f->registry, &message, f->now, &compute), 0);
    assert_string_equal(f->forgotten, "a");
    assert_int_equal(registry_jobs(f->registry), 2);
    assert_ptr_equal(queue_take(hello.run), &hello);
    measure_tensors(&message);
    assert_int_equal(registry_event(f, "d", 1, EVENT_HELLO, 0), 0);
}

REGISTRY_TEST(the_longest_silent_run_makes_room)
{
    tensors(f, "a", 1, 0);
    f->now += S;
    tensors(f, "a", 2, 0);
    assert_int_equal(tensors(f, "a", 3, 0), ERR_RUN_LIMIT); /* both may still train */
    f->now += f->config.window_timeout - S;
    assert_int_equal(tensors(f, "a", 3, 0), 0);
    assert_int_equal(runs(f), 2);
    assert_int_equal(registry_event(f, "a", 3, EVENT_HELLO, 0), 0);
    assert_int_equal(registry_event(f, "a", 3, EVENT_HELLO, 0), ERR_SEQ_DUPLICATE);
}

REGISTRY_TEST(runs_without_tensors_push_out_each_other_only)
{
    tensors(f, "a", 1, 0);
    tensors(f, "a", 2, 0);
    f->now += f->config.window_timeout;
    for (uint8_t run = 3; run < 40; run++) {
        assert_int_equal(registry_event(f, "a", run, EVENT_HELLO, 0), 0);
    }
    assert_int_equal(runs(f), 3);
    assert_int_equal(tensors(f, "a", 1, 1), 0);
    assert_int_equal(tensors(f, "a", 2, 1), 0);
    assert_int_equal(tensors(f, "a", 40, 0), 0); /* in the place of the last one */
    assert_int_equal(tensors(f, "a", 41, 0), ERR_RUN_LIMIT);
}

REGISTRY_TEST(ticks_are_needed_while_a_run_is_active)
{
    registry_event(f, "a", 1, EVENT_HELLO, 0);
    assert_true(registry_tick(f->registry, f->now));
    registry_event(f, "a", 1, EVENT_BYE, 1);
    assert_false(registry_tick(f->registry, f->now));
    assert_int_equal(registry_event(f, "a", 1, EVENT_EPOCH_END, 1), ERR_ENDED);
}

REGISTRY_TEST(a_rank_that_comes_after_the_end_revives_the_run)
{
    registry_event(f, "a", 1, EVENT_HELLO, 0);
    registry_event(f, "a", 1, EVENT_BYE, 1);
    assert_false(registry_tick(f->registry, f->now));
    struct message late = event_of("a", 1, EVENT_HELLO);
    late.header.rank = 1;
    late.header.world = 2;
    assert_int_equal(test_registry_arrive(f, &late), 0);
    assert_true(registry_tick(f->registry, f->now));
}

REGISTRY_TEST(refusals_of_unknown_jobs_make_no_job)
{
    registry_refused(f->registry, "nobody", ERR_SHAPE);
    assert_int_equal(registry_jobs(f->registry), 0);
}

REGISTRY_TEST(flush_of_an_unknown_job_is_an_error)
{
    assert_int_equal(registry_flush(f->registry, "nobody"), ERR_JOB_UNKNOWN);
    assert_int_equal(registry_flush(f->registry, NULL), 0);
}

/* SPDX-License-Identifier: MIT */
/* attnctl tail, and what else listens, against a fake attnd that publishes. */
#include "tests/unit/cli/answers.h"
#include "tests/unit/cli/fake.h"
#include "tests/unit/mpk_text.h"

#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>
#include <zmq.h>

static atomic_int jobs_asked;

/* It knows gpt-small. */
static void tail_answer(const struct fake *fake, const char *method, uint64_t id,
                        const msgpack_object *params, struct mpk_writer *reply)
{
    fake_put_ok(reply, id);
    if (strcmp(method, "config") == 0) {
        mpk_text(reply, "{'publish.endpoint': '%s', 'tap.endpoint': '%s'}", fake->published,
                 fake->published);
    } else if (strcmp(method, "jobs") == 0) {
        mpk_text(reply, mpk_is_str(mpk_find(params, "jobs"), "gpt-small") ? "[{}]" : "[]");
        atomic_fetch_add(&jobs_asked, 1);
    } else {
        mpk_text(reply, "{'windows': 3}");
    }
}

#define FAKE_TEST(name) FAKE_TEST_OF(name, tail_answer)

/* Sends what was written, and empties the writer. */
static void tail_publish(struct fake *fake, const char *topic, struct mpk_writer *map)
{
    zmq_send(fake->pub, topic, strlen(topic), ZMQ_SNDMORE);
    zmq_send(fake->pub, map->buffer.data, map->buffer.size, 0);
    mpk_writer_clear(map);
    mpk_writer_init(map);
}

/* Waits for the subscription of a tail, so that nothing is published too early. */
static void await_subscription(struct fake *fake, const char *prefix)
{
    char frame[128];
    int timeout_ms = 60000;
    zmq_setsockopt(fake->pub, ZMQ_RCVTIMEO, &timeout_ms, sizeof timeout_ms);
    int size = zmq_recv(fake->pub, frame, sizeof frame, 0);
    assert_int_equal(size, 1 + strlen(prefix));
    assert_memory_equal(frame + 1, prefix, strlen(prefix));
}

static void publish_all(struct fake *fake)
{
    struct mpk_writer map;
    static const double values[] = {0.25, 0.75, NAN};
    struct live_result live = {
        .common = answers_common(3, 7),
        .layer = {.id = {STACK_ENCODER, 0, SITE_SELF}},
        .rank = 1,
        .numbers = {.heads = 3},
    };
    live.numbers.value[METRIC_ENTROPY_NORMALIZED] = values;
    mpk_writer_init(&map);
    live_encode(&live, &map);
    tail_publish(fake, "live/gpt-small/encoder/0/self/", &map);
    answers_summary(&map, (struct layer_id){STACK_DECODER, 2, SITE_CROSS}, 0.5);
    result_set_snapshot(map.buffer.data, map.buffer.size, true);
    tail_publish(fake, "summary/gpt-small/decoder/2/cross/", &map);
    answers_job(&map);
    tail_publish(fake, "job/gpt-small/", &map);
}

/* A tail that subscribes to a prefix says `text` of what was written, which is published under the
 * topic. */
static void assert_tail_says_of(struct fake *fake, const char *prefix, const char *topic,
                                struct mpk_writer *map, const char *text)
{
    char arguments[64];
    snprintf(arguments, sizeof arguments, "tail --count 1 %s", prefix);
    FILE *pipe = attnctl_start(fake->endpoint, arguments);
    await_subscription(fake, prefix);
    tail_publish(fake, topic, map);
    attnctl_finish(pipe, 0, text);
}

/* A tail that subscribes to the prefix says `text` of all that is published. */
static void assert_tail_says(struct fake *fake, const char *arguments, const char *prefix,
                             const char *text)
{
    FILE *pipe = attnctl_start(fake->endpoint, arguments);
    await_subscription(fake, prefix);
    publish_all(fake);
    attnctl_finish(pipe, 0, text);
}

FAKE_TEST(tail_prints_a_line_per_message)
{
    assert_tail_says(
        fake, "tail --count 3", "",
        "live    gpt-small encoder.0.self epoch 3 step 7 rank 1: entropy_normalized 0.5 [0.25, "
        "0.75] over 2 heads\n"
        "summary gpt-small decoder.2.cross epoch 2 to 3: entropy_normalized 0.5591 [0.5, 0.61] "
        "over 11 heads, 40 messages, 1 lost, 0 dropped (last value)\n"
        "job     gpt-small active, run abcdef01, epoch 3 step 1200, rank 2/4, 0 layers, received "
        "636, lost 5, dropped 3\n");
}

FAKE_TEST(tail_shows_alerts)
{
    struct alert_result alert = {
        .common = answers_common(3, 1200),
        .rule = "entropy_collapse",
        .severity = ALERT_CRITICAL,
        .metric = "entropy_normalized",
        .has_layer = true,
        .layer = {STACK_DECODER, 2, SITE_SELF},
        .head = 5,
        .since_after = 1050,
        .since_step = 1100,
        .message = "entropy_normalized of decoder.2.self head 5 is 0.04, below 0.1 for 3 windows",
    };
    struct mpk_writer map;
    mpk_writer_init(&map);
    alert_encode(&alert, &map);
    assert_tail_says_of(
        fake, "alert/", "alert/gpt-small/", &map,
        "alert   gpt-small critical firing entropy_collapse: entropy_normalized of "
        "decoder.2.self head 5 is 0.04, below 0.1 for 3 windows, between steps 1050 and 1100\n");
}

FAKE_TEST(tail_counts_patterns)
{
    assert_tail_says(fake, "tail --count 1 --metric pattern summary/", "summary/",
                     "summary gpt-small decoder.2.cross epoch 2 to 3: pattern local 10, "
                     "duplicate_token 1, 40 messages, 1 lost, 0 dropped (last value)\n");
}

FAKE_TEST(tail_shows_the_one_number_of_a_layer)
{
    assert_tail_says(
        fake, "tail --count 1 --metric sink_rate summary/", "summary/",
        "summary gpt-small decoder.2.cross epoch 2 to 3: sink_rate 0.25, 40 messages, 1 "
        "lost, 0 dropped (last value)\n");
}

FAKE_TEST(tail_says_when_there_is_no_such_number)
{
    assert_tail_says(fake, "tail --count 1 --metric max_logit summary/", "summary/",
                     "summary gpt-small decoder.2.cross epoch 2 to 3: max_logit -, 40 messages, 1 "
                     "lost, 0 dropped (last value)\n");
}

FAKE_TEST(tail_shows_norms_and_ranks_of_matrices)
{
    struct mpk_writer map;
    struct spectrum head[2] = {{.spectral_norm = 1.5}, {.spectral_norm = 2.5}};
    double correlation[4] = {1, 0, 0, 1};
    struct weights_result weights = {.heads = 2};
    struct live_result live = {
        .common = answers_common(3, 7),
        .layer = {.id = {STACK_DECODER, 1, SITE_SELF}, .tier = MESSAGE_WEIGHTS},
        .rank = 1,
        .numbers = {.heads = 2, .weights = &weights},
    };
    weights.projection[PROJECTION_Q] = weights.projection[PROJECTION_K] =
        (struct projection_result){
            .present = true, .heads = 2, .head = head, .correlation = correlation};
    weights.projection[PROJECTION_Q].whole =
        (struct spectrum){.spectral_norm = 15.8125, .rank = 63};
    weights.projection[PROJECTION_K].whole = (struct spectrum){.spectral_norm = NAN, .rank = NAN};
    mpk_writer_init(&map);
    live_encode(&live, &map);
    assert_tail_says_of(
        fake, "live/", "live/gpt-small/decoder/1/self/", &map,
        "live    gpt-small decoder.1.self epoch 3 step 7 rank 1: wq norm 15.81 rank 63, wk norm "
        "- rank -\n");
}

FAKE_TEST(tail_subscribes_to_a_prefix_and_skips_what_is_no_result)
{
    FILE *pipe = attnctl_start(fake->endpoint, "tail job/gpt-small/ --count 1");
    await_subscription(fake, "job/gpt-small/");
    zmq_send(fake->pub, "job/gpt-small/", 14, ZMQ_SNDMORE);
    zmq_send(fake->pub, "\xc1", 1, 0);
    publish_all(fake);
    attnctl_finish(
        pipe, 0,
        "attnctl: skipped a message that is not a result\n"
        "job     gpt-small active, run abcdef01, epoch 3 step 1200, rank 2/4, 0 layers, received "
        "636, lost 5, dropped 3\n");
}

FAKE_TEST(tail_says_once_that_nobody_listens_and_waits)
{
    char arguments[192], line[256], expected[256], endpoint[128];
    snprintf(endpoint, sizeof endpoint, "ipc://%s/later", fake->directory);
    snprintf(arguments, sizeof arguments, "tail --count 1 --summaries %s", endpoint);
    FILE *pipe = attnctl_start(fake->endpoint, arguments);
    assert_non_null(fgets(line, sizeof line, pipe));
    snprintf(expected, sizeof expected,
             "attnctl: nobody listens at %s: waiting for attnd; start it with `attnd` or give "
             "--address\n",
             endpoint);
    assert_string_equal(line, expected);
    assert_int_equal(zmq_bind(fake->pub, endpoint), 0);
    await_subscription(fake, "");
    publish_all(fake);
    attnctl_finish(
        pipe, 0,
        "live    gpt-small encoder.0.self epoch 3 step 7 rank 1: entropy_normalized 0.5 [0.25, "
        "0.75] over 2 heads\n");
    unlink(endpoint + strlen("ipc://"));
}

/* Waits until a quiet tail has asked for its job. */
static void assert_quiet_tail_says(struct fake *fake, const char *prefix, const char *text)
{
    static const char job[] = "job     gpt-small active, run abcdef01, epoch 3 step 1200, rank "
                              "2/4, 0 layers, received 636, lost 5, dropped 3\n";
    char arguments[64], expected[512];
    int before = atomic_load(&jobs_asked);
    snprintf(arguments, sizeof arguments, "tail --count 1 %s", prefix);
    FILE *pipe = attnctl_start(fake->endpoint, arguments);
    await_subscription(fake, prefix);
    for (int i = 0; i < 6000 && atomic_load(&jobs_asked) == before; i++) {
        zmq_poll(NULL, 0, 10);
    }
    assert_int_equal(atomic_load(&jobs_asked), before + 1);
    publish_all(fake);
    snprintf(expected, sizeof expected, "%s%s", text, job);
    attnctl_finish(pipe, 0, expected);
}

FAKE_TEST(tail_says_once_that_there_is_no_such_job_and_waits)
{
    assert_quiet_tail_says(
        fake, "job/gpt-s",
        "attnctl: no such job yet: 'gpt-s*' (see attnctl jobs): waiting for it\n");
}

FAKE_TEST(tail_waits_for_a_job_that_there_is)
{
    assert_quiet_tail_says(fake, "job/gpt-small/", "");
}

FAKE_TEST(tail_as_json_is_one_line_per_message)
{
    FILE *pipe =
        attnctl_start("ipc:///nobody", "tail --json --count 3 --summaries $TAIL_FROM | cut -c1-19");
    await_subscription(fake, "");
    publish_all(fake);
    attnctl_finish(
        pipe, 0, "{\"v\":1,\"kind\":\"live\n{\"v\":1,\"kind\":\"summ\n{\"v\":1,\"kind\":\"job\"\n");
}

/* The only child of this process. */
static pid_t child(void)
{
    char path[64];
    int pid = 0;
    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    FILE *children = fopen(path, "r");
    assert_non_null(children);
    assert_int_equal(fscanf(children, "%d", &pid), 1);
    fclose(children);
    return pid;
}

FAKE_TEST(an_interrupted_record_does_not_blame_attnd)
{
    FILE *pipe = attnctl_start(fake->endpoint, "record gpt-small /dev/null/none --timeout 60");
    await_subscription(fake, "tap/gpt-small/");
    kill(child(), SIGINT);
    attnctl_finish(pipe, 1, "attnctl: interrupted\n");
}

FAKE_TEST(an_address_names_all_sockets)
{
    char arguments[128];
    snprintf(arguments, sizeof arguments, "flush --address %s/", fake->directory);
    attnctl_finish(attnctl_start("ipc:///nobody", arguments), 0, "published 3 windows\n");
    snprintf(arguments, sizeof arguments, "tail summary/ --count 1 --metric sink_rate --address=%s",
             fake->directory);
    FILE *pipe = attnctl_start("ipc:///nobody", arguments);
    await_subscription(fake, "summary/");
    publish_all(fake);
    attnctl_finish(pipe, 0,
                   "summary gpt-small decoder.2.cross epoch 2 to 3: sink_rate 0.25, 40 messages, 1 "
                   "lost, 0 dropped (last value)\n");
}

/* SPDX-License-Identifier: MIT */
/* attnctl as a user sees it: the program itself, its text and its exit status, against a fake attnd
 * that answers with maps of proto/result.h. */
#include "tests/unit/cli/fake.h"

#include "clients/cli/base/field.h"
#include "clients/cli/base/out.h"
#include "clients/cli/base/system.h"
#include "proto/result.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

static const uint8_t run_bytes[RUN_BYTES] = {0xab, 0xcd, 0xef, 0x01, 0x23};

static struct result_common commands_common(uint64_t epoch, uint64_t step)
{
    return (struct result_common){"gpt-small", run_bytes, epoch, step, 1};
}

/* Answers of the fake ----------------------------------------------------------------------------
 */

static void commands_put_job(struct mpk_writer *reply)
{
    static const struct reason_count dropped[] = {{"late", 2}, {"repeated", 4}, {"shape", 1}};
    struct job_result job = {
        .common = commands_common(3, 1200),
        .state = JOB_ACTIVE,
        .world = 4,
        .ranks = 2,
        .received = 640,
        .processed = 637,
        .lost = 5,
        .dropped = dropped,
        .dropped_count = 3, /* what was repeated is no loss */
    };
    job_encode(&job, reply);
}

static void commands_put_summary(struct mpk_writer *reply, struct layer_id id, double base)
{
    struct result_stat stat[12];
    for (int head = 0; head < 12; head++) {
        stat[head] = (struct result_stat){.mean = head == 1 ? NAN : base + head / 100.0};
    }
    struct summary_result summary = {
        .common = commands_common(3, 1200),
        .layer = {.id = id, .shape = {4, 12, 16, 16}},
        .window = {.unit = WINDOW_EPOCH, .first = 2, .last = 3, .length = 2, .every = 1},
        .ranks = 1,
        .messages = 40,
        .lost = 1,
        .heads = 12,
    };
    struct result_stat singular_values[12 * SINGULAR_VALUES_MAX] = {{0}};
    struct result_stat sink = {.mean = base / 2};
    enum pattern pattern[12];
    for (int head = 0; head < 12; head++) {
        pattern[head] = head == 1   ? PATTERN_NONE
                        : head == 3 ? PATTERN_DUPLICATE_TOKEN
                                    : PATTERN_LOCAL;
    }
    summary.pattern = pattern;
    summary.sink_rate = &sink;
    summary.stat[METRIC_ENTROPY_NORMALIZED] = stat;
    summary.vector[VECTOR_SINGULAR_VALUES] = singular_values;
    summary_encode(&summary, reply);
}

/* A job whose summary is of weight matrices. */
static void commands_put_weights(struct mpk_writer *reply)
{
    struct result_stat stat[2] = {{.mean = 1.5}, {.mean = 2.5}};
    struct summary_result summary = {
        .common = commands_common(3, 1200),
        .layer = {.id = {STACK_DECODER, 1, SITE_SELF}, .tier = MESSAGE_WEIGHTS},
        .heads = 2,
        .stat = {[METRIC_WQ_SPECTRAL_NORM] = stat, [METRIC_WQ_STABLE_RANK] = stat},
    };
    mpk_put_array(reply, 1);
    summary_encode(&summary, reply);
}

/* A job with a layer whose rows are a sample, and one whose rows are all there are. */
static void commands_put_sampled(struct mpk_writer *reply)
{
    struct result_stat entropy[2] = {{.mean = 2.314, .std = 0.48, .count = 1600},
                                     {.mean = NAN, .std = NAN}};
    struct result_stat largest[2] = {{.mean = 9.5, .std = 0.5, .count = 16}, {.mean = 8}};
    struct summary_result summary = {
        .common = commands_common(3, 1200),
        .layer = {.id = {STACK_DECODER, 1, SITE_SELF}, .rows = 3200, .rows_of = 102400},
        .window = {.unit = WINDOW_EPOCH, .first = 2, .last = 2, .length = 1, .every = 1},
        .heads = 2,
        .stat = {[METRIC_ENTROPY] = entropy, [METRIC_MAX_ABS_LOGIT] = largest},
    };
    mpk_put_array(reply, 2);
    summary_encode(&summary, reply);
    summary.layer.id.layer = 2;
    summary.layer.rows_of = summary.layer.rows;
    summary_encode(&summary, reply);
}

/* A layer that has a baseline: of a row metric, and of one per message. */
static void commands_put_drift(struct mpk_writer *reply)
{
    struct result_stat stat[3] = {{.mean = 0.5}, {.mean = 0.25}, {.mean = NAN}};
    struct result_drift rows[3] = {
        {-0.25, -7.25, 0.0625, NAN}, {0.125, 5.9, 0.00001, 1200}, {NAN, NAN, NAN, NAN}};
    struct result_drift message[3] = {{0, 0, NAN, NAN}, {2e-5, 6, NAN, 3}, {NAN, NAN, NAN, NAN}};
    struct summary_result summary = {
        .common = commands_common(3, 1200),
        .layer = {.id = {STACK_DECODER, 1, SITE_SELF}, .shape = {4, 3, 16, 16}},
        .window = {.unit = WINDOW_EPOCH, .first = 3, .last = 3, .length = 1, .every = 1},
        .ranks = 1,
        .messages = 40,
        .heads = 3,
    };
    for (int m = METRIC_ENTROPY_NORMALIZED; m <= METRIC_EFFECTIVE_KEYS; m++) {
        summary.stat[m] = stat;
    }
    summary.stat[METRIC_MEAN] = stat;
    summary.drift[METRIC_ENTROPY_NORMALIZED] = rows;
    summary.drift[METRIC_MEAN] = message;
    mpk_put_array(reply, 1);
    summary_encode(&summary, reply);
}

/* Layers out of order: the table sorts them. */
static void put_summaries(struct mpk_writer *reply, const msgpack_object *params)
{
    if (mpk_find(params, "layer")) {
        mpk_put_array(reply, 1);
        commands_put_summary(reply, (struct layer_id){STACK_DECODER, 1, SITE_SELF}, 0.00001);
        return;
    }
    mpk_put_array(reply, 3);
    commands_put_summary(reply, (struct layer_id){STACK_DECODER, 10, SITE_CROSS}, 0.3);
    commands_put_summary(reply, (struct layer_id){STACK_DECODER, 10, SITE_SELF}, 0.2);
    commands_put_summary(reply, (struct layer_id){STACK_ENCODER, 0, SITE_SELF}, 0.1);
}

static void commands_put_stats(struct mpk_writer *reply, uint64_t received)
{
    mpk_put_map(reply, 6);
    mpk_put_str(reply, "uptime_s");
    mpk_put_f64(reply, 12.5);
    mpk_pair_u64(reply, "received", received);
    mpk_pair_u64(reply, "processed", 640);
    mpk_pair_u64(reply, "in_flight", 2);
    mpk_put_str(reply, "dropped");
    mpk_put_map(reply, 2);
    mpk_pair_u64(reply, "late", 2);
    mpk_pair_u64(reply, "shape", 1);
    mpk_put_str(reply, "pool");
    mpk_put_map(reply, 1);
    mpk_pair_u64(reply, "jobs_done", 9000);
}

static void commands_put_config(struct mpk_writer *reply, const char *published)
{
    mpk_put_map(reply, 5);
    mpk_put_str(reply, "http.enabled");
    mpk_put_str(reply, "true");
    mpk_put_str(reply, "http.endpoint");
    mpk_put_str(reply, "tcp://0.0.0.0:5580");
    mpk_put_str(reply, "publish.endpoint");
    mpk_put_str(reply, published);
    mpk_put_str(reply, "tap.endpoint");
    mpk_put_str(reply, published);
    mpk_put_str(reply, "window.unit");
    mpk_put_str(reply, "epoch");
}

static void put_ping(struct mpk_writer *reply)
{
    mpk_put_map(reply, 2);
    mpk_put_str(reply, "version");
    mpk_put_str(reply, "0.1.0");
    mpk_put_str(reply, "uptime_s");
    mpk_put_f64(reply, 3725);
}

static void put_plans(struct mpk_writer *reply, const char *method, const msgpack_object *params)
{
    if (strcmp(method, "plan.get") == 0 && !mpk_find(params, "job")) {
        mpk_put_array(reply, 1);
    }
    /* A plan with the parameters as they came. */
    const char *from = strcmp(method, "plan.set") == 0 ? "set" : "default";
    static const char *const keys[] = {"every", "layers", "heads", "samples", "rows", "tier"};
    char job[64], text[128];
    field_text(params, "job", job, sizeof job);
    mpk_put_map(reply, 9);
    mpk_pair_str(reply, "job", job);
    mpk_pair_str(reply, "pattern", *job ? job : "*");
    mpk_pair_str(reply, "from", from);
    for (int i = 0; i < 6; i++) {
        field_text(params, keys[i], text, sizeof text);
        if (i == 1 || i == 2 || i == 5) {
            mpk_pair_str(reply, keys[i], *text ? text : i == 5 ? "auto" : "*");
        } else {
            mpk_pair_u64(reply, keys[i], strtoul(text, NULL, 10));
        }
    }
}

static void commands_answer(const struct fake *fake, const char *method, uint64_t id,
                            const msgpack_object *params, struct mpk_writer *reply)
{
    char job[64];
    field_text(params, "job", job, sizeof job);
    if (strcmp(job, "nope") == 0) {
        fake_put_error(reply, id, "job_unknown", "no such job");
        return;
    }
    fake_put_ok(reply, id);
    if (strcmp(job, "matrices") == 0) {
        commands_put_weights(reply);
        return;
    }
    if (strcmp(job, "drifting") == 0) {
        commands_put_drift(reply);
        return;
    }
    if (strcmp(job, "sampled") == 0) {
        commands_put_sampled(reply);
        return;
    }
    if (strcmp(job, "mixed") == 0) {
        /* A job that sends weight matrices besides its attention. */
        struct mpk_writer weights;
        mpk_writer_init(&weights);
        commands_put_weights(&weights);
        mpk_put_array(reply, 2);
        msgpack_sbuffer_write(&reply->buffer, weights.buffer.data + 1, weights.buffer.size - 1);
        mpk_writer_clear(&weights);
        commands_put_summary(reply, (struct layer_id){STACK_DECODER, 1, SITE_SELF}, 0.2);
        return;
    }
    if (strcmp(method, "ping") == 0) {
        put_ping(reply);
    } else if (strcmp(method, "jobs") == 0) {
        mpk_put_array(reply, 1);
        commands_put_job(reply);
    } else if (strcmp(method, "summary") == 0) {
        put_summaries(reply, params);
    } else if (strcmp(method, "stats") == 0) {
        commands_put_stats(reply, 645);
    } else if (strcmp(method, "config") == 0) {
        commands_put_config(reply, fake->published);
    } else if (strncmp(method, "plan.", 5) == 0) {
        put_plans(reply, method, params);
    } else {
        mpk_put_map(reply, 1);
        mpk_pair_u64(reply, "windows", *job ? 1 : 3);
    }
}

static void answer_no_jobs(const struct fake *fake, const char *method, uint64_t id,
                           const msgpack_object *params, struct mpk_writer *reply)
{
    (void)fake, (void)method, (void)params;
    fake_put_ok(reply, id);
    mpk_put_array(reply, 0);
}

static void answer_silent(const struct fake *fake, const char *method, uint64_t id,
                          const msgpack_object *params, struct mpk_writer *reply)
{
    static const struct {
        const char *job, *state;
        uint64_t silent_s;
    } jobs[] = {{"quick", "active", 20},
                {"killed", "active", 125},
                {"old", "idle", 900},
                {"done", "ended", 900}};
    (void)fake, (void)params;
    fake_put_ok(reply, id);
    if (strcmp(method, "jobs") != 0) {
        commands_put_stats(reply, 645);
        return;
    }
    mpk_put_array(reply, sizeof jobs / sizeof jobs[0]);
    for (size_t i = 0; i < sizeof jobs / sizeof jobs[0]; i++) {
        mpk_put_map(reply, 3);
        mpk_pair_str(reply, "job", jobs[i].job);
        mpk_pair_str(reply, "state", jobs[i].state);
        mpk_pair_u64(reply, "heard_ns", now_wall_ns() - jobs[i].silent_s * 1000000000u);
    }
}

static void answer_unbalanced(const struct fake *fake, const char *method, uint64_t id,
                              const msgpack_object *params, struct mpk_writer *reply)
{
    (void)fake, (void)method, (void)params;
    fake_put_ok(reply, id);
    commands_put_stats(reply, 650);
}

/* A name that is longer than any of attnd's. */
static void answer_long_name(const struct fake *fake, const char *method, uint64_t id,
                             const msgpack_object *params, struct mpk_writer *reply)
{
    char name[201];
    (void)fake, (void)method, (void)params;
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    fake_put_ok(reply, id);
    mpk_put_map(reply, 1);
    mpk_put_str(reply, name);
    mpk_put_map(reply, 1);
    mpk_pair_u64(reply, "part", 1);
}

static void answer_any_port(const struct fake *fake, const char *method, uint64_t id,
                            const msgpack_object *params, struct mpk_writer *reply)
{
    (void)fake, (void)method, (void)params;
    fake_put_ok(reply, id);
    commands_put_config(reply, "tcp://127.0.0.1:*");
}

/* Running attnctl --------------------------------------------------------------------------------
 */

static void commands_assert_says(struct fake *fake, const char *arguments, int status,
                                 const char *text)
{
    attnctl_finish(attnctl_start(fake->endpoint, arguments), status, text);
}

static int start_fake(void **state, fake_answer *answering)
{
    static struct fake fake;
    fake_start(&fake, answering);
    *state = &fake;
    return setenv("TAIL_FROM", fake.published, 1);
}

static int commands_set_up(void **state)
{
    return start_fake(state, commands_answer);
}

static int set_up_long_name(void **state)
{
    return start_fake(state, answer_long_name);
}

static int set_up_without_jobs(void **state)
{
    return start_fake(state, answer_no_jobs);
}

static int set_up_silent(void **state)
{
    return start_fake(state, answer_silent);
}

static int set_up_unbalanced(void **state)
{
    return start_fake(state, answer_unbalanced);
}

static int set_up_any_port(void **state)
{
    return start_fake(state, answer_any_port);
}

static int commands_tear_down(void **state)
{
    fake_stop(*state);
    return 0;
}

#define FAKE_TEST(name) TEST_OF(name, struct fake *fake, commands_set_up, commands_tear_down)

/* Tests ------------------------------------------------------------------------------------------
 */

FAKE_TEST(jobs_fit_80_columns)
{
    commands_assert_says(
        fake, "jobs", 0,
        "JOB             RUN   STATE  EPOCH  STEP  RANKS  RECEIVED  LOST  DROPPED\n"
        "gpt-small  abcdef01  active      3  1200    2/4       636     5        3\n");
}

TEST_OF(jobs_name_an_active_run_that_is_silent, struct fake *fake, set_up_silent,
        commands_tear_down)
{
    commands_assert_says(fake, "jobs", 0,
                         "JOB     RUN   STATE  EPOCH  STEP  RANKS  RECEIVED  LOST  DROPPED\n"
                         "quick        active      0     0    0/0         0     0        0\n"
                         "killed       active      0     0    0/0         0     0        0\n"
                         "old            idle      0     0    0/0         0     0        0\n"
                         "done          ended      0     0    0/0         0     0        0\n"
                         "nothing has been heard of killed for 2 min 5 s: it is slow, hangs, or "
                         "was killed\n");
}

TEST_OF(no_jobs_say_how_to_get_one, struct fake *fake, set_up_without_jobs, commands_tear_down)
{
    commands_assert_says(fake, "jobs", 0,
                         "no jobs yet: attach one with attnd.watch(model, job=\"name\")\n");
}

FAKE_TEST(a_summary_has_a_row_per_layer_however_wide)
{
    commands_assert_says(
        fake, "summary gpt-small", 0,
        "gpt-small, run abcdef01, epoch 3, step 1200\n"
        "window: epoch 2 to 3, 1 rank, 120 messages, 3 lost, 0 dropped\n"
        "entropy_normalized, mean over the window\n"
        "\n"
        "LAYER                 h0  h1      h2      h3      h4      h5      h6      h7"
        "      h8      h9     h10     h11\n"
        "encoder.0.self    0.1000   -  0.1200  0.1300  0.1400  0.1500  0.1600  0.1700"
        "  0.1800  0.1900  0.2000  0.2100\n"
        "decoder.10.self   0.2000   -  0.2200  0.2300  0.2400  0.2500  0.2600  0.2700"
        "  0.2800  0.2900  0.3000  0.3100\n"
        "decoder.10.cross  0.3000   -  0.3200  0.3300  0.3400  0.3500  0.3600  0.3700"
        "  0.3800  0.3900  0.4000  0.4100\n");
}

FAKE_TEST(top_needs_a_terminal)
{
    commands_assert_says(
        fake, "top", 2,
        "attnctl: top needs a terminal on both its input and its output; attnctl summary "
        "prints the same numbers once\n");
    commands_assert_says(fake, "top --json", 2,
                         "attnctl: top is for people; attnctl summary --json is for programs\n");
    commands_assert_says(fake, "top --metric entrpy", 2,
                         "attnctl: --metric: 'entrpy': unknown: did you mean 'entropy'?\n");
    commands_assert_says(fake, "tail --metric sinkrate", 2,
                         "attnctl: --metric: 'sinkrate': unknown: did you mean 'sink_rate'?\n");
    commands_assert_says(
        fake, "top one two", 2,
        "attnctl: unexpected argument 'two'; usage: attnctl top [JOB] [OPTIONS]\n");
}

FAKE_TEST(small_values_keep_their_digits)
{
    commands_assert_says(
        fake, "summary gpt-small --layer 1", 0,
        "gpt-small, run abcdef01, epoch 3, step 1200\n"
        "window: epoch 2 to 3, 1 rank, 40 messages, 1 lost, 0 dropped\n"
        "entropy_normalized, mean over the window\n"
        "\n"
        "LAYER                 h0  h1        h2        h3        h4        h5        h6"
        "        h7        h8        h9       h10       h11\n"
        "decoder.1.self  1.00e-05   -  2.00e-02  3.00e-02  4.00e-02  5.00e-02  6.00e-02"
        "  7.00e-02  8.00e-02  9.00e-02  1.00e-01  1.10e-01\n");
}

/* 0.48 / sqrt(1600) */
FAKE_TEST(means_of_sampled_rows_have_a_standard_error)
{
    setenv("LC_ALL", "C", 1);
    commands_assert_says(
        fake, "summary sampled --metric entropy", 0,
        "gpt-small, run abcdef01, epoch 3, step 1200\n"
        "window: epoch 2, 0 ranks, 0 messages, 0 lost, 0 dropped\n"
        "entropy, mean over the window\n"
        "of the rows taken: 3200 of about 102400, over all heads; +-: standard error, at most\n"
        "\n"
        "LAYER                        h0  h1\n"
        "decoder.1.self  2.3140 +- 0.012   -\n"
        "decoder.2.self           2.3140   -\n");
    setenv("LC_ALL", "C.UTF-8", 1);
    assert_string_equal(out_plus_minus(), "±");
    unsetenv("LC_ALL");
}

FAKE_TEST(an_extreme_is_said_to_be_that_of_the_rows_taken)
{
    commands_assert_says(fake, "summary sampled --metric max_abs_logit", 0,
                         "gpt-small, run abcdef01, epoch 3, step 1200\n"
                         "window: epoch 2, 0 ranks, 0 messages, 0 lost, 0 dropped\n"
                         "max_abs_logit, mean over the window\n"
                         "of the rows taken: 3200 of about 102400, over all heads\n"
                         "\n"
                         "LAYER               h0      h1\n"
                         "decoder.1.self  9.5000  8.0000\n"
                         "decoder.2.self  9.5000  8.0000\n");
}

FAKE_TEST(patterns_are_a_table_of_names)
{
    commands_assert_says(
        fake, "summary gpt-small --metric pattern --layer 1", 0,
        "gpt-small, run abcdef01, epoch 3, step 1200\n"
        "window: epoch 2 to 3, 1 rank, 40 messages, 1 lost, 0 dropped\n"
        "pattern, of the newest message (attnctl roles: why, and since when)\n"
        "\n"
        "LAYER              h0  h1     h2               h3     h4     h5     h6     h7"
        "     h8     h9    h10    h11\n"
        "decoder.1.self  local   -  local  duplicate_token  local  local  local  local"
        "  local  local  local  local\n");
}

FAKE_TEST(a_number_of_the_layer_is_one_column)
{
    commands_assert_says(fake, "summary gpt-small --metric sink_rate", 0,
                         "gpt-small, run abcdef01, epoch 3, step 1200\n"
                         "window: epoch 2 to 3, 1 rank, 120 messages, 3 lost, 0 dropped\n"
                         "sink_rate, mean over the window\n"
                         "\n"
                         "LAYER             ALL HEADS\n"
                         "encoder.0.self       0.0500\n"
                         "decoder.10.self      0.1000\n"
                         "decoder.10.cross     0.1500\n");
}

/* It is also what is shown when nothing is asked for and there is nothing else. */
FAKE_TEST(numbers_of_matrices_are_named_by_matrix)
{
    static const char *const commands[] = {"summary matrices --metric wq.spectral_norm",
                                           "summary matrices"};
    for (int i = 0; i < 2; i++) {
        commands_assert_says(fake, commands[i], 0,
                             "gpt-small, run abcdef01, epoch 3, step 1200\n"
                             "window: epoch 0, 0 ranks, 0 messages, 0 lost, 0 dropped\n"
                             "wq.spectral_norm, mean over the window\n"
                             "\n"
                             "LAYER               h0      h1\n"
                             "decoder.1.self  1.5000  2.5000\n");
    }
    commands_assert_says(fake, "summary matrices --metric entropy", 2,
                         "attnctl: --metric: 'entropy': not in this summary (valid: "
                         "wq.spectral_norm, wq.stable_rank)\n");
    commands_assert_says(fake, "summary matrices --metric wq.stable_rnak", 2,
                         "attnctl: --metric: 'wq.stable_rnak': not in this summary: did you mean "
                         "'wq.stable_rank'?\n");
}

FAKE_TEST(layers_without_the_metric_are_listed)
{
    commands_assert_says(fake, "summary mixed --metric sink_rate", 0,
                         "gpt-small, run abcdef01, epoch 3, step 1200\n"
                         "window: epoch 0, 0 ranks, 0 messages, 0 lost, 0 dropped\n"
                         "sink_rate, mean over the window\n"
                         "\n"
                         "LAYER           ALL HEADS\n"
                         "decoder.1.self          -\n"
                         "\n"
                         "gpt-small, run abcdef01, epoch 3, step 1200\n"
                         "window: epoch 2 to 3, 1 rank, 40 messages, 1 lost, 0 dropped\n"
                         "sink_rate, mean over the window\n"
                         "\n"
                         "LAYER           ALL HEADS\n"
                         "decoder.1.self     0.1000\n");
    commands_assert_says(fake, "summary mixed | grep -e metric -e entropy | uniq", 0,
                         "entropy_normalized, mean over the window\n");
    commands_assert_says(
        fake, "summary mixed --metric nothing", 2,
        "attnctl: --metric: 'nothing': not in this summary (valid: "
        "wq.spectral_norm, wq.stable_rank, entropy_normalized, pattern, sink_rate)\n");
}

FAKE_TEST(drift_is_a_line_per_head_the_farthest_first)
{
    commands_assert_says(fake, "summary drifting --drift", 0,
                         "gpt-small, run abcdef01, epoch 3, step 1200\n"
                         "window: epoch 3, 1 rank, 40 messages, 0 lost, 0 dropped\n"
                         "entropy_normalized, compared with the baseline; *: |shift| of 6 or more\n"
                         "\n"
                         "HEAD               SHIFT  DELTA      JS  CHANGE\n"
                         "decoder.1.self h0  *-7.2  -0.25  0.0625       -\n"
                         "decoder.1.self h1    5.9  0.125   1e-05    1200\n"
                         "decoder.1.self h2      -      -       -       -\n");
}

FAKE_TEST(drift_of_what_is_per_message_has_no_js)
{
    commands_assert_says(fake, "summary drifting --drift --metric mean | tail -3", 0,
                         "decoder.1.self h1   *6.0  2e-05   -       3\n"
                         "decoder.1.self h0    0.0      0   -       -\n"
                         "decoder.1.self h2      -      -   -       -\n");
}

FAKE_TEST(drift_names_what_has_a_baseline)
{
    commands_assert_says(
        fake, "summary drifting --drift --metric effective_keys", 2,
        "attnctl: --metric: 'effective_keys': not in the drift of this summary (valid: "
        "entropy_normalized, mean)\n");
}

FAKE_TEST(no_baseline_is_a_finding)
{
    commands_assert_says(fake, "summary gpt-small --drift", 1,
                         "attnctl: gpt-small has no baseline yet: its first windows that neither "
                         "rise nor fall make one (drift.windows "
                         "in attnctl config)\n");
}

FAKE_TEST(an_unknown_metric_names_those_there_are)
{
    commands_assert_says(fake, "summary gpt-small --metric loss", 2,
                         "attnctl: --metric: 'loss': not in this summary (valid: "
                         "entropy_normalized, pattern, sink_rate)\n");
    commands_assert_says(
        fake, "summary gpt-small --metric patern", 2,
        "attnctl: --metric: 'patern': not in this summary: did you mean 'pattern'?\n");
}

/* Several numbers per head are no table. */
FAKE_TEST(singular_values_are_not_tabulated)
{
    commands_assert_says(fake, "summary gpt-small --metric singular_values", 2,
                         "attnctl: --metric: 'singular_values': not in this summary (valid: "
                         "entropy_normalized, pattern, sink_rate)\n");
}

FAKE_TEST(an_unknown_job_is_a_finding)
{
    commands_assert_says(fake, "summary nope", 1,
                         "attnctl: no such job: 'nope' (see attnctl jobs)\n");
}

FAKE_TEST(commands_stats_add_up)
{
    commands_assert_says(
        fake, "stats", 0,
        "COUNTER         VALUE\n"
        "received          645\n"
        "processed         640\n"
        "in_flight           2\n"
        "dropped             3\n"
        "  late              2\n"
        "  shape             1\n"
        "uptime_s         12.5\n"
        "pool.jobs_done   9000\n"
        "\n"
        "received = processed + in_flight + dropped: 645 = 640 + 2 + 3: adds up\n");
}

TEST_OF(stats_that_do_not_add_up_are_a_finding, struct fake *fake, set_up_unbalanced,
        commands_tear_down)
{
    FILE *pipe = attnctl_start(fake->endpoint, "stats | tail -n 1");
    attnctl_finish(
        pipe, 0,
        "received = processed + in_flight + dropped: 650 = 640 + 2 + 3: does not add up, 5 "
        "unaccounted for\n");
    pipe = attnctl_start(fake->endpoint, "stats > /dev/null");
    attnctl_finish(pipe, 1, "");
}

FAKE_TEST(ping_config_and_flush)
{
    char expected[384];
    snprintf(expected, sizeof expected, "attnd 0.1.0 at %s, up 1 h 2 min\n", fake->endpoint);
    commands_assert_says(fake, "ping", 0, expected);
    snprintf(
        expected, sizeof expected,
        "KEY               VALUE\nhttp.enabled      true\nhttp.endpoint     tcp://0.0.0.0:5580\n"
        "publish.endpoint  %s\ntap.endpoint      %s\nwindow.unit       epoch\n",
        fake->published, fake->published);
    commands_assert_says(fake, "config", 0, expected);
    commands_assert_says(fake, "flush", 0, "published 3 windows\n");
    commands_assert_says(fake, "flush gpt-small", 0, "published 1 window\n");
}

FAKE_TEST(json_is_the_answer_itself)
{
    commands_assert_says(fake, "flush --json", 0, "{\n  \"windows\": 3\n}\n");
}

static void commands_publish(struct fake *fake, const char *topic, const struct mpk_writer *map)
{
    zmq_send(fake->pub, topic, strlen(topic), ZMQ_SNDMORE);
    zmq_send(fake->pub, map->buffer.data, map->buffer.size, 0);
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
    OWNED(mpk_writer_clear) struct mpk_writer map;
    static const double values[] = {0.25, 0.75, NAN};
    struct live_result live = {
        .common = commands_common(3, 7),
        .layer = {.id = {STACK_ENCODER, 0, SITE_SELF}},
        .rank = 1,
        .numbers = {.heads = 3},
    };
    live.numbers.value[METRIC_ENTROPY_NORMALIZED] = values;
    mpk_writer_init(&map);
    live_encode(&live, &map);
    commands_publish(fake, "live/gpt-small/encoder/0/self/", &map);
    mpk_writer_clear(&map);
    mpk_writer_init(&map);
    commands_put_summary(&map, (struct layer_id){STACK_DECODER, 2, SITE_CROSS}, 0.5);
    result_set_snapshot(map.buffer.data, map.buffer.size, true);
    commands_publish(fake, "summary/gpt-small/decoder/2/cross/", &map);
    mpk_writer_clear(&map);
    mpk_writer_init(&map);
    commands_put_job(&map);
    commands_publish(fake, "job/gpt-small/", &map);
}

FAKE_TEST(tail_prints_a_line_per_message)
{
    FILE *pipe = attnctl_start(fake->endpoint, "tail --count 3");
    await_subscription(fake, "");
    publish_all(fake);
    attnctl_finish(
        pipe, 0,
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
        .common = commands_common(3, 1200),
        .rule = "entropy_collapse",
        .severity = ALERT_CRITICAL,
        .metric = "entropy_normalized",
        .has_layer = true,
        .layer = {STACK_DECODER, 2, SITE_SELF},
        .head = 5,
        .since_epoch = 2,
        .since_step = 1100,
        .message = "entropy_normalized of decoder.2.self head 5 is 0.04, below 0.1 for 3 windows",
    };
    struct mpk_writer map;
    FILE *pipe = attnctl_start(fake->endpoint, "tail --count 1 alert/");
    await_subscription(fake, "alert/");
    mpk_writer_init(&map);
    alert_encode(&alert, &map);
    commands_publish(fake, "alert/gpt-small/", &map);
    mpk_writer_clear(&map);
    attnctl_finish(
        pipe, 0,
        "alert   gpt-small critical firing entropy_collapse: entropy_normalized of "
        "decoder.2.self head 5 is 0.04, below 0.1 for 3 windows, since epoch 2 step 1100\n");
}

static void assert_tail_says(struct fake *fake, const char *arguments, const char *text)
{
    FILE *pipe = attnctl_start(fake->endpoint, arguments);
    await_subscription(fake, "summary/");
    publish_all(fake);
    attnctl_finish(pipe, 0, text);
}

FAKE_TEST(tail_counts_patterns)
{
    assert_tail_says(fake, "tail --count 1 --metric pattern summary/",
                     "summary gpt-small decoder.2.cross epoch 2 to 3: pattern local 10, "
                     "duplicate_token 1, 40 messages, 1 lost, 0 dropped (last value)\n");
}

FAKE_TEST(tail_shows_the_one_number_of_a_layer)
{
    assert_tail_says(
        fake, "tail --count 1 --metric sink_rate summary/",
        "summary gpt-small decoder.2.cross epoch 2 to 3: sink_rate 0.25, 40 messages, 1 "
        "lost, 0 dropped (last value)\n");
}

FAKE_TEST(tail_says_when_there_is_no_such_number)
{
    assert_tail_says(fake, "tail --count 1 --metric max_logit summary/",
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
        .common = commands_common(3, 7),
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
    FILE *pipe = attnctl_start(fake->endpoint, "tail --count 1 live/");
    await_subscription(fake, "live/");
    mpk_writer_init(&map);
    live_encode(&live, &map);
    commands_publish(fake, "live/gpt-small/decoder/1/self/", &map);
    mpk_writer_clear(&map);
    attnctl_finish(
        pipe, 0,
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

TEST_OF(a_port_of_the_daemons_choice_needs_summaries, struct fake *fake, set_up_any_port,
        commands_tear_down)
{
    commands_assert_says(
        fake, "tail", 2,
        "attnctl: attnd does not say where its publish socket is: give --summaries ENDPOINT\n");
}

TEST(an_absent_daemon_is_said_to_be_absent)
{
    attnctl_finish(
        attnctl_start("ipc:///tmp/attnd-nobody-is-here", "jobs --timeout 0.1"), 3,
        "attnctl: cannot reach attnd at ipc:///tmp/attnd-nobody-is-here within 0.1 s: is it "
        "running? start it with `attnd` or give --address\n");
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

FAKE_TEST(an_attnd_that_nobody_named_is_found)
{
    char expected[128];
    setenv("XDG_RUNTIME_DIR", fake->runtime, 1);
    snprintf(expected, sizeof expected, "attnd 0.1.0 at %s, up 1 h 2 min\n", fake->endpoint);
    attnctl_finish(attnctl_start("", "ping"), 0, expected);
    unsetenv("XDG_RUNTIME_DIR");
}

FAKE_TEST(what_is_no_address_is_told_what_to_write)
{
    commands_assert_says(fake, "jobs --address localhost:5570", 2,
                         "attnctl: address 'localhost:5570': write tcp://localhost:5570\n");
    commands_assert_says(
        fake, "jobs --address ''", 2,
        "attnctl: --address: '': not accepted (valid: a directory or tcp://host:port) (see "
        "attnctl jobs --help)\n");
    commands_assert_says(
        fake, "jobs --address /run/attnd --endpoint ipc:///run/attnd/control", 2,
        "attnctl: --address and --endpoint: give one of them (see attnctl jobs --help)\n");
}

FAKE_TEST(the_page_is_where_attnd_says)
{
    char path[64];
    commands_assert_says(fake, "page", 0, "http://127.0.0.1:5580/\n");
    snprintf(path, sizeof path, "%s/page", fake->directory);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("http://127.0.0.1:39017/\nmore\n", file);
    fclose(file);
    commands_assert_says(fake, "page", 0, "http://127.0.0.1:39017/\n");
    commands_assert_says(fake, "page --json", 0, "{\n  \"page\": \"http://127.0.0.1:39017/\"\n}\n");
    unlink(path);
}

TEST_OF(names_are_cut_to_what_there_is_room_for, struct fake *fake, set_up_long_name,
        commands_tear_down)
{
    commands_assert_says(fake, "stats | grep part | tr -d 'x '", 0, ".part1\n");
}

FAKE_TEST(wrong_usage_is_explained)
{
    commands_assert_says(
        fake, "summry", 2,
        "attnctl: no command 'summry': did you mean 'summary'? (see attnctl --help)\n");
    commands_assert_says(fake, "--json frobnicate", 2,
                         "attnctl: no command 'frobnicate' (see attnctl --help)\n");
    commands_assert_says(
        fake, "jobs --jsno", 2,
        "attnctl: no option --jsno: did you mean --json? (see attnctl jobs --help)\n");
    commands_assert_says(fake, "jobs --frobnicate", 2,
                         "attnctl: no option --frobnicate (see attnctl jobs --help)\n");
    commands_assert_says(fake, "summary", 2,
                         "attnctl: JOB is missing; usage: attnctl summary JOB [OPTIONS]\n");
    commands_assert_says(fake, "jobs extra", 2,
                         "attnctl: unexpected argument 'extra'; usage: attnctl jobs [OPTIONS]\n");
    commands_assert_says(fake, "jobs --count 3", 2,
                         "attnctl: --count is not an option of jobs (see attnctl jobs --help)\n");
    commands_assert_says(fake, "jobs --endpoint nowhere", 2,
                         "attnctl: --endpoint: 'nowhere': not an endpoint (valid: tcp://host:port, "
                         "ipc://path)\n");
}

FAKE_TEST(plans_are_shown_and_set)
{
    commands_assert_says(fake, "plan get", 0,
                         "JOBS  EVERY  LAYERS  HEADS  SAMPLES  ROWS  TIER  FROM\n"
                         "*     never  *       *      all      all   auto  default\n");
    commands_assert_says(fake, "plan get gpt", 0,
                         "JOBS  EVERY  LAYERS  HEADS  SAMPLES  ROWS  TIER  FROM\n"
                         "gpt   never  *       *      all      all   auto  default\n");
    commands_assert_says(
        fake,
        "plan set 'gpt-*' every=10 layers='decoder.*.self encoder.*' heads=0-3,7 samples=2 "
        "rows=64 tier=state",
        0,
        "JOBS   EVERY  LAYERS                    HEADS  SAMPLES  ROWS  TIER   FROM\n"
        "gpt-*  10     decoder.*.self encoder.*  0-3,7  2        64    state  set\n");
    commands_assert_says(fake, "plan reset gpt", 0,
                         "JOBS  EVERY  LAYERS  HEADS  SAMPLES  ROWS  TIER  FROM\n"
                         "gpt   never  *       *      all      all   auto  default\n");
    commands_assert_says(fake, "plan set gpt every=3 --json | grep -A1 from", 0,
                         "  \"from\": \"set\",\n  \"every\": 3,\n");
}

FAKE_TEST(a_plan_is_not_set_by_halves)
{
    const char *form = "not of the form KEY=VALUE (valid keys: every, layers, heads, samples, "
                       "rows, tier)";
    char expected[256];
    snprintf(expected, sizeof expected, "attnctl: 'evry=3': %s\n", form);
    commands_assert_says(fake, "plan set gpt rows=1 evry=3", 2, expected);
    snprintf(expected, sizeof expected, "attnctl: 'every': %s\n", form);
    commands_assert_says(fake, "plan set gpt every", 2, expected);
    commands_assert_says(fake, "plan set gpt every=3 every=4", 2, "attnctl: every: given twice\n");
    commands_assert_says(
        fake, "plan set gpt", 2,
        "attnctl: plan set: something is missing; usage: attnctl plan set JOB KEY=VALUE... "
        "[OPTIONS]\n");
    commands_assert_says(
        fake, "plan reset", 2,
        "attnctl: plan reset: something is missing; usage: attnctl plan reset JOB [OPTIONS]\n");
    commands_assert_says(
        fake, "plan get a b", 2,
        "attnctl: plan get: unexpected argument; usage: attnctl plan get [JOB] [OPTIONS]\n");
    commands_assert_says(fake, "plan show", 2,
                         "attnctl: plan 'show': no such thing to do (valid: get, set, reset)\n");
    commands_assert_says(
        fake, "plan", 2,
        "attnctl: something is missing; usage: attnctl plan get [JOB] | set JOB KEY=VALUE... | "
        "reset JOB [OPTIONS]\n");
}

FAKE_TEST(output_that_cannot_be_written_is_a_finding)
{
    commands_assert_says(fake, "jobs > /dev/full", 1, "");
}

FAKE_TEST(options_stand_before_or_after_the_command)
{
    commands_assert_says(fake, "--json flush", 0, "{\n  \"windows\": 3\n}\n");
    commands_assert_says(fake, "--timeout 3 flush --json", 0, "{\n  \"windows\": 3\n}\n");
}

FAKE_TEST(version_and_help)
{
    commands_assert_says(fake, "--version", 0, "attnctl " ATTND_VERSION "\n");
    commands_assert_says(
        fake, "flush --help", 0,
        "usage: attnctl flush [JOB] [OPTIONS]\n"
        "publish open windows now, as partial\n"
        "\n"
        "  --json                 print the answer as JSON\n"
        "  --address ADDRESS      which attnd: a directory of sockets or tcp://host:port\n"
        "  --endpoint ENDPOINT    exactly the socket where it answers, instead of an\n"
        "                         address\n"
        "  --timeout SECONDS      how long to wait for an answer (default 5)\n"
        "  --help                 explain a command\n"
        "\n"
        "example:\n"
        "  attnctl flush gpt-small\n"
        "\n"
        "Exit status: 0 done; 1 bad news, out of memory, or the output cannot be written;\n"
        "2 wrong usage; 3 attnd cannot be reached\n");
}

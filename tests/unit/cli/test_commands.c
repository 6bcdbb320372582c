/* SPDX-License-Identifier: MIT */
/* attnctl as a user sees it: the program itself, its text and its exit status, against a fake attnd
 * that answers with maps of proto/result.h. */
#include "tests/unit/cli/answers.h"
#include "tests/unit/cli/fake.h"

#include "clients/cli/base/field.h"
#include "clients/cli/base/out.h"
#include "clients/cli/base/system.h"
#include "proto/result.h"
#include "tests/unit/mpk_text.h"

#include <inttypes.h>
#include <unistd.h>

/* Answers of the fake ----------------------------------------------------------------------------
 */

static void commands_encode_weights(struct mpk_writer *reply)
{
    struct result_stat stat[2] = {{.mean = 1.5}, {.mean = 2.5}};
    struct summary_result summary = {
        .common = answers_common(3, 1200),
        .layer = {.id = {STACK_DECODER, 1, SITE_SELF}, .tier = MESSAGE_WEIGHTS},
        .heads = 2,
        .stat = {[METRIC_WQ_SPECTRAL_NORM] = stat, [METRIC_WQ_STABLE_RANK] = stat},
    };
    summary_encode(&summary, reply);
}

/* A job whose summary is of weight matrices. */
static void commands_put_weights(struct mpk_writer *reply)
{
    mpk_put_array(reply, 1);
    commands_encode_weights(reply);
}

/* A job with a layer whose rows are a sample, and one whose rows are all there are. */
static void commands_put_sampled(struct mpk_writer *reply)
{
    struct result_stat entropy[2] = {{.mean = 2.314, .std = 0.48, .count = 1600},
                                     {.mean = NAN, .std = NAN}};
    struct result_stat largest[2] = {{.mean = 9.5, .std = 0.5, .count = 16}, {.mean = 8}};
    struct summary_result summary = {
        .common = answers_common(3, 1200),
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
        .common = answers_common(3, 1200),
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

/* A job that sends weight matrices besides its attention. */
static void commands_put_mixed(struct mpk_writer *reply)
{
    mpk_put_array(reply, 2);
    commands_encode_weights(reply);
    answers_summary(reply, (struct layer_id){STACK_DECODER, 1, SITE_SELF}, 0.2);
}

/* Layers out of order: the table sorts them. */
static void put_summaries(struct mpk_writer *reply, const msgpack_object *params)
{
    if (mpk_find(params, "layer")) {
        mpk_put_array(reply, 1);
        answers_summary(reply, (struct layer_id){STACK_DECODER, 1, SITE_SELF}, 0.00001);
        return;
    }
    mpk_put_array(reply, 3);
    answers_summary(reply, (struct layer_id){STACK_DECODER, 10, SITE_CROSS}, 0.3);
    answers_summary(reply, (struct layer_id){STACK_DECODER, 10, SITE_SELF}, 0.2);
    answers_summary(reply, (struct layer_id){STACK_ENCODER, 0, SITE_SELF}, 0.1);
}

static void commands_put_stats(struct mpk_writer *reply, unsigned received)
{
    mpk_text(reply,
             "{'uptime_s': 12.5, 'received': %u, 'processed': 640, 'in_flight': 2,"
             " 'dropped': {'late': 2, 'shape': 1}, 'pool': {'jobs_done': 9000}}",
             received);
}

static void commands_put_config(struct mpk_writer *reply, const char *published)
{
    mpk_text(reply,
             "{'http.enabled': 'true', 'http.endpoint': 'tcp://0.0.0.0:5580',"
             " 'publish.endpoint': '%s', 'tap.endpoint': '%s', 'window.unit': 'epoch'}",
             published, published);
}

static unsigned number_of(const msgpack_object *params, const char *key)
{
    char text[32];
    field_text(params, key, text, sizeof text);
    return (unsigned)strtoul(text, NULL, 10);
}

/* A plan with the parameters as they came. */
static void put_plans(struct mpk_writer *reply, const char *method, const msgpack_object *params)
{
    char job[64], layers[128], heads[64], tier[16];
    field_text(params, "job", job, sizeof job);
    field_text(params, "layers", layers, sizeof layers);
    field_text(params, "heads", heads, sizeof heads);
    field_text(params, "tier", tier, sizeof tier);
    if (strcmp(method, "plan.get") == 0 && !*job) {
        mpk_put_array(reply, 1);
    }
    mpk_text(reply,
             "{'job': '%s', 'pattern': '%s', 'from': '%s', 'every': %u, 'layers': '%s',"
             " 'heads': '%s', 'samples': %u, 'rows': %u, 'tier': '%s', 'note': %s}",
             job, *job ? job : "*", strcmp(method, "plan.set") == 0 ? "set" : "default",
             number_of(params, "every"), *layers ? layers : "*", *heads ? heads : "*",
             number_of(params, "samples"), number_of(params, "rows"), *tier ? tier : "auto",
             strcmp(heads, "99") == 0 ? "'nothing is captured'" : "null");
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
    static const struct {
        const char *job;
        void (*put)(struct mpk_writer *reply);
    } others[] = {{"matrices", commands_put_weights},
                  {"drifting", commands_put_drift},
                  {"sampled", commands_put_sampled},
                  {"mixed", commands_put_mixed}};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        if (strcmp(job, others[i].job) == 0) {
            others[i].put(reply);
            return;
        }
    }
    if (strcmp(method, "ping") == 0) {
        mpk_text(reply, "{'version': '0.1.0', 'uptime_s': 3725.0}");
    } else if (strcmp(method, "jobs") == 0) {
        mpk_put_array(reply, 1);
        answers_job(reply);
    } else if (strcmp(method, "summary") == 0) {
        put_summaries(reply, params);
    } else if (strcmp(method, "stats") == 0) {
        commands_put_stats(reply, 645);
    } else if (strcmp(method, "config") == 0) {
        commands_put_config(reply, fake->published);
    } else if (strncmp(method, "plan.", 5) == 0) {
        put_plans(reply, method, params);
    } else {
        mpk_text(reply, "{'windows': %d}", *job ? 1 : 3);
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
    static const char broken[] =
        "{'job': 'broken', 'state': 'failed', 'failure': {'type': 'ValueError', 'where': "
        "'train.py:31: main', 'sentence': 'ValueError: bad loss, at step 120'}}";
    static const char *const jobs[] = {"{'job': 'quick', 'state': 'active'}",
                                       "{'job': 'killed', 'state': 'no_news', 'silent_s': 125.3}",
                                       "{'job': 'done', 'state': 'ended'}", broken};
    (void)fake, (void)params;
    fake_put_ok(reply, id);
    if (strcmp(method, "jobs") != 0) {
        commands_put_stats(reply, 645);
        return;
    }
    mpk_put_array(reply, sizeof jobs / sizeof jobs[0]);
    for (size_t i = 0; i < sizeof jobs / sizeof jobs[0]; i++) {
        mpk_text(reply, "%s", jobs[i]);
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
    mpk_text(reply, "{'%s': {'part': 1}}", name);
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

#define FAKE_TEST(name) FAKE_TEST_OF(name, commands_answer)
#define SAYS(name, ...) SAYS_OF(name, commands_answer, __VA_ARGS__)

/* Tests ------------------------------------------------------------------------------------------
 */

SAYS(jobs_fit_80_columns,
     {"jobs", 0,
      "JOB             RUN   STATE  EPOCH  STEP  RANKS  RECEIVED  LOST  DROPPED\n"
      "gpt-small  abcdef01  active      3  1200    2/4       636     5        3\n"});

SAYS_OF(jobs_say_what_became_of_a_run, answer_silent,
        {"jobs", 0,
         "JOB     RUN    STATE  EPOCH  STEP  RANKS  RECEIVED  LOST  DROPPED\n"
         "quick         active      0     0    0/0         0     0        0\n"
         "killed       no news      0     0    0/0         0     0        0\n"
         "done           ended      0     0    0/0         0     0        0\n"
         "broken        failed      0     0    0/0         0     0        0\n"
         "killed: no news for 2 min 5 s\n"
         "broken: failed: ValueError: bad loss, at step 120 (train.py:31: main)\n"});

SAYS_OF(no_jobs_say_how_to_get_one, answer_no_jobs,
        {"jobs", 0, "no jobs yet: attach one with attnd.watch(model, job=\"name\")\n"});

SAYS(a_summary_has_a_row_per_layer_however_wide,
     {"summary gpt-small", 0,
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
      "  0.3800  0.3900  0.4000  0.4100\n"});

SAYS(top_needs_a_terminal,
     {"top", 2,
      "attnctl: top needs a terminal on both its input and its output; attnctl summary "
      "prints the same numbers once\n"},
     {"top --json", 2, "attnctl: top is for people; attnctl summary --json is for programs\n"},
     {"top --metric entrpy", 2, "attnctl: --metric: 'entrpy': unknown: did you mean 'entropy'?\n"},
     {"tail --metric sinkrate", 2,
      "attnctl: --metric: 'sinkrate': unknown: did you mean 'sink_rate'?\n"},
     {"top one two", 2,
      "attnctl: unexpected argument 'two'; usage: attnctl top [JOB] [OPTIONS]\n"});

SAYS(small_values_keep_their_digits,
     {"summary gpt-small --layer 1", 0,
      "gpt-small, run abcdef01, epoch 3, step 1200\n"
      "window: epoch 2 to 3, 1 rank, 40 messages, 1 lost, 0 dropped\n"
      "entropy_normalized, mean over the window\n"
      "\n"
      "LAYER                 h0  h1        h2        h3        h4        h5        h6"
      "        h7        h8        h9       h10       h11\n"
      "decoder.1.self  1.00e-05   -  2.00e-02  3.00e-02  4.00e-02  5.00e-02  6.00e-02"
      "  7.00e-02  8.00e-02  9.00e-02  1.00e-01  1.10e-01\n"});

/* 0.48 / sqrt(1600) */
FAKE_TEST(means_of_sampled_rows_have_a_standard_error)
{
    setenv("LC_ALL", "C", 1);
    fake_says(
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

SAYS(an_extreme_is_said_to_be_that_of_the_rows_taken,
     {"summary sampled --metric max_abs_logit", 0,
      "gpt-small, run abcdef01, epoch 3, step 1200\n"
      "window: epoch 2, 0 ranks, 0 messages, 0 lost, 0 dropped\n"
      "max_abs_logit, mean over the window\n"
      "of the rows taken: 3200 of about 102400, over all heads\n"
      "\n"
      "LAYER               h0      h1\n"
      "decoder.1.self  9.5000  8.0000\n"
      "decoder.2.self  9.5000  8.0000\n"});

SAYS(patterns_are_a_table_of_names,
     {"summary gpt-small --metric pattern --layer 1", 0,
      "gpt-small, run abcdef01, epoch 3, step 1200\n"
      "window: epoch 2 to 3, 1 rank, 40 messages, 1 lost, 0 dropped\n"
      "pattern, of the newest message (attnctl roles: why, and since when)\n"
      "\n"
      "LAYER              h0  h1     h2               h3     h4     h5     h6     h7"
      "     h8     h9    h10    h11\n"
      "decoder.1.self  local   -  local  duplicate_token  local  local  local  local"
      "  local  local  local  local\n"});

SAYS(a_number_of_the_layer_is_one_column,
     {"summary gpt-small --metric sink_rate", 0,
      "gpt-small, run abcdef01, epoch 3, step 1200\n"
      "window: epoch 2 to 3, 1 rank, 120 messages, 3 lost, 0 dropped\n"
      "sink_rate, mean over the window\n"
      "\n"
      "LAYER             ALL HEADS\n"
      "encoder.0.self       0.0500\n"
      "decoder.10.self      0.1000\n"
      "decoder.10.cross     0.1500\n"});

/* It is also what is shown when nothing is asked for and there is nothing else. */
FAKE_TEST(numbers_of_matrices_are_named_by_matrix)
{
    static const char *const commands[] = {"summary matrices --metric wq.spectral_norm",
                                           "summary matrices"};
    for (int i = 0; i < 2; i++) {
        fake_says(fake, commands[i], 0,
                  "gpt-small, run abcdef01, epoch 3, step 1200\n"
                  "window: epoch 0, 0 ranks, 0 messages, 0 lost, 0 dropped\n"
                  "wq.spectral_norm, mean over the window\n"
                  "\n"
                  "LAYER               h0      h1\n"
                  "decoder.1.self  1.5000  2.5000\n");
    }
    fake_says(fake, "summary matrices --metric entropy", 2,
              "attnctl: --metric: 'entropy': not in this summary (valid: "
              "wq.spectral_norm, wq.stable_rank)\n");
    fake_says(fake, "summary matrices --metric wq.stable_rnak", 2,
              "attnctl: --metric: 'wq.stable_rnak': not in this summary: did you mean "
              "'wq.stable_rank'?\n");
}

SAYS(layers_without_the_metric_are_listed,
     {"summary mixed --metric sink_rate", 0,
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
      "decoder.1.self     0.1000\n"},
     {"summary mixed | grep -e metric -e entropy | uniq", 0,
      "entropy_normalized, mean over the window\n"},
     {"summary mixed --metric nothing", 2,
      "attnctl: --metric: 'nothing': not in this summary (valid: "
      "wq.spectral_norm, wq.stable_rank, entropy_normalized, pattern, sink_rate)\n"});

SAYS(drift_is_a_line_per_head_the_farthest_first,
     {"summary drifting --drift", 0,
      "gpt-small, run abcdef01, epoch 3, step 1200\n"
      "window: epoch 3, 1 rank, 40 messages, 0 lost, 0 dropped\n"
      "entropy_normalized, compared with the baseline; *: |shift| of 6 or more\n"
      "\n"
      "HEAD               SHIFT  DELTA      JS  CHANGE\n"
      "decoder.1.self h0  *-7.2  -0.25  0.0625       -\n"
      "decoder.1.self h1    5.9  0.125   1e-05    1200\n"
      "decoder.1.self h2      -      -       -       -\n"});

SAYS(drift_of_what_is_per_message_has_no_js, {"summary drifting --drift --metric mean | tail -3", 0,
                                              "decoder.1.self h1   *6.0  2e-05   -       3\n"
                                              "decoder.1.self h0    0.0      0   -       -\n"
                                              "decoder.1.self h2      -      -   -       -\n"});

SAYS(drift_names_what_has_a_baseline,
     {"summary drifting --drift --metric effective_keys", 2,
      "attnctl: --metric: 'effective_keys': not in the drift of this summary (valid: "
      "entropy_normalized, mean)\n"});

SAYS(no_baseline_is_a_finding,
     {"summary gpt-small --drift", 1,
      "attnctl: gpt-small has no baseline yet: its first windows that neither "
      "rise nor fall make one (drift.windows in attnctl config)\n"});

SAYS(an_unknown_metric_names_those_there_are,
     {"summary gpt-small --metric loss", 2,
      "attnctl: --metric: 'loss': not in this summary (valid: "
      "entropy_normalized, pattern, sink_rate)\n"},
     {"summary gpt-small --metric patern", 2,
      "attnctl: --metric: 'patern': not in this summary: did you mean 'pattern'?\n"});

SAYS(json_has_every_metric,
     {"summary gpt-small --json --metric entropy", 2,
      "attnctl: --metric: summary --json has every metric; leave one of them out\n"},
     {"tail --json --metric entropy", 2,
      "attnctl: --metric: tail --json has every metric; leave one of them out\n"});

/* Several numbers per head are no table. */
SAYS(singular_values_are_not_tabulated,
     {"summary gpt-small --metric singular_values", 2,
      "attnctl: --metric: 'singular_values': not in this summary (valid: "
      "entropy_normalized, pattern, sink_rate)\n"});

SAYS(an_unknown_job_is_a_finding,
     {"summary nope", 1, "attnctl: no such job: 'nope' (see attnctl jobs)\n"});

SAYS(commands_stats_add_up,
     {"stats", 0,
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
      "received = processed + in_flight + dropped: 645 = 640 + 2 + 3: adds up\n"});

FAKE_TEST_OF(stats_that_do_not_add_up_are_a_finding, answer_unbalanced)
{
    fake_says(fake, "stats | tail -n 1", 0,
              "received = processed + in_flight + dropped: 650 = 640 + 2 + 3: does not add up, 5 "
              "unaccounted for\n");
    fake_says(fake, "stats > /dev/null", 1, "");
}

FAKE_TEST(ping_config_and_flush)
{
    char expected[384];
    snprintf(expected, sizeof expected, "attnd 0.1.0 at %s, up 1 h 2 min\n", fake->endpoint);
    fake_says(fake, "ping", 0, expected);
    snprintf(
        expected, sizeof expected,
        "KEY               VALUE\nhttp.enabled      true\nhttp.endpoint     tcp://0.0.0.0:5580\n"
        "publish.endpoint  %s\ntap.endpoint      %s\nwindow.unit       epoch\n",
        fake->published, fake->published);
    fake_says(fake, "config", 0, expected);
    fake_says(fake, "flush", 0, "published 3 windows\n");
    fake_says(fake, "flush gpt-small", 0, "published 1 window\n");
}

SAYS(json_is_the_answer_itself, {"flush --json", 0, "{\n  \"windows\": 3\n}\n"});

SAYS_OF(a_port_of_the_daemons_choice_needs_summaries, answer_any_port,
        {"tail", 2,
         "attnctl: attnd does not say where its publish socket is: give --summaries ENDPOINT\n"});

TEST(an_absent_daemon_is_said_to_be_absent)
{
    attnctl_finish(
        attnctl_start("ipc:///tmp/attnd-nobody-is-here", "jobs --timeout 0.1"), 3,
        "attnctl: cannot reach attnd at ipc:///tmp/attnd-nobody-is-here within 0.1 s: is it "
        "running? start it with `attnd` or give --address\n");
}

FAKE_TEST(an_attnd_that_nobody_named_is_found)
{
    char expected[128];
    setenv("XDG_RUNTIME_DIR", fake->runtime, 1);
    snprintf(expected, sizeof expected, "attnd 0.1.0 at %s, up 1 h 2 min\n", fake->endpoint);
    attnctl_finish(attnctl_start("", "ping"), 0, expected);
    unsetenv("XDG_RUNTIME_DIR");
}

SAYS(what_is_no_address_is_told_what_to_write,
     {"jobs --address localhost:5570", 2,
      "attnctl: address 'localhost:5570': write tcp://localhost:5570\n"},
     {"jobs --address ''", 2,
      "attnctl: --address: '': not accepted (valid: a directory or tcp://host:port) (see "
      "attnctl jobs --help)\n"},
     {"jobs --address /run/attnd --endpoint ipc:///run/attnd/control", 2,
      "attnctl: --address and --endpoint: give one of them (see attnctl jobs --help)\n"});

FAKE_TEST(the_page_is_where_attnd_says)
{
    char path[64];
    fake_says(fake, "page", 0, "http://127.0.0.1:5580/\n");
    snprintf(path, sizeof path, "%s/page", fake->directory);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("http://127.0.0.1:39017/\nmore\n", file);
    fclose(file);
    fake_says(fake, "page", 0, "http://127.0.0.1:39017/\n");
    fake_says(fake, "page --json", 0, "{\n  \"page\": \"http://127.0.0.1:39017/\"\n}\n");
    unlink(path);
}

SAYS_OF(names_are_cut_to_what_there_is_room_for, answer_long_name,
        {"stats | grep part | tr -d 'x '", 0, ".part1\n"});

SAYS(wrong_usage_is_explained,
     {"summry", 2, "attnctl: no command 'summry': did you mean 'summary'? (see attnctl --help)\n"},
     {"--json frobnicate", 2, "attnctl: no command 'frobnicate' (see attnctl --help)\n"},
     {"jobs --jsno", 2,
      "attnctl: no option --jsno: did you mean --json? (see attnctl jobs --help)\n"},
     {"jobs --frobnicate", 2, "attnctl: no option --frobnicate (see attnctl jobs --help)\n"},
     {"summary", 2, "attnctl: JOB is missing; usage: attnctl summary JOB [OPTIONS]\n"},
     {"jobs extra", 2, "attnctl: unexpected argument 'extra'; usage: attnctl jobs [OPTIONS]\n"},
     {"jobs --count 3", 2, "attnctl: --count is not an option of jobs (see attnctl jobs --help)\n"},
     {"jobs --endpoint nowhere", 2,
      "attnctl: --endpoint: 'nowhere': not an endpoint (valid: tcp://host:port, ipc://path)\n"});

SAYS(plans_are_shown_and_set,
     {"plan get", 0,
      "JOBS  EVERY  LAYERS  HEADS  SAMPLES  ROWS  TIER  FROM\n"
      "*     never  *       *      all      all   auto  default\n"},
     {"plan get gpt", 0,
      "JOBS  EVERY  LAYERS  HEADS  SAMPLES  ROWS  TIER  FROM\n"
      "gpt   never  *       *      all      all   auto  default\n"},
     {"plan set 'gpt-*' every=10 layers='decoder.*.self encoder.*' heads=0-3,7 samples=2 "
      "rows=64 tier=rows",
      0,
      "JOBS   EVERY  LAYERS                    HEADS  SAMPLES  ROWS  TIER  FROM\n"
      "gpt-*  10     decoder.*.self encoder.*  0-3,7  2        64    rows  set\n"},
     {"plan set gpt heads=99 | tail -n 1", 0, "nothing is captured\n"},
     {"plan reset gpt", 0,
      "JOBS  EVERY  LAYERS  HEADS  SAMPLES  ROWS  TIER  FROM\n"
      "gpt   never  *       *      all      all   auto  default\n"},
     {"plan set gpt every=3 --json | grep -A1 from", 0, "  \"from\": \"set\",\n  \"every\": 3,\n"});

FAKE_TEST(a_plan_is_not_set_by_halves)
{
    const char *form = "not KEY=VALUE with a key of a plan (valid: every, layers, heads, samples, "
                       "rows, tier)";
    char expected[256];
    snprintf(expected, sizeof expected, "attnctl: 'evry=3': %s\n", form);
    fake_says(fake, "plan set gpt rows=1 evry=3", 2, expected);
    snprintf(expected, sizeof expected, "attnctl: 'every': %s\n", form);
    fake_says(fake, "plan set gpt every", 2, expected);
    fake_says(fake, "plan set gpt every=3 every=4", 2, "attnctl: every: given twice\n");
    fake_says(fake, "plan set gpt", 2,
              "attnctl: plan set: something is missing; usage: attnctl plan set JOB KEY=VALUE... "
              "[OPTIONS]\n");
    fake_says(
        fake, "plan reset", 2,
        "attnctl: plan reset: something is missing; usage: attnctl plan reset JOB [OPTIONS]\n");
    fake_says(fake, "plan get a b", 2,
              "attnctl: plan get: unexpected argument; usage: attnctl plan get [JOB] [OPTIONS]\n");
    fake_says(fake, "plan show", 2,
              "attnctl: plan 'show': no such thing to do (valid: get, set, reset)\n");
    fake_says(
        fake, "plan", 2,
        "attnctl: something is missing; usage: attnctl plan get [JOB] | set JOB KEY=VALUE... | "
        "reset JOB [OPTIONS]\n");
}

SAYS(output_that_cannot_be_written_is_a_finding, {"jobs > /dev/full", 1, ""});

SAYS(options_stand_before_or_after_the_command, {"--json flush", 0, "{\n  \"windows\": 3\n}\n"},
     {"--timeout 3 flush --json", 0, "{\n  \"windows\": 3\n}\n"});

SAYS(version_and_help, {"--version", 0, "attnctl " ATTND_VERSION "\n"},
     {"flush --help", 0,
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
      "2 wrong usage; 3 attnd cannot be reached\n"});

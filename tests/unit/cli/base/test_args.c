/* SPDX-License-Identifier: MIT */
/* The command line: defaults, order, and the words of every refusal. */
#include "tests/unit/cli/fake.h"

#include "clients/cli/base/args.h"

static struct args args; /* what was parsed */
static char error[ARGS_ERROR_MAX];

/* Parses "attnctl" and up to ten more words. */
static int test_args_parse(const char *const *words)
{
    static char kept[11][64] = {"attnctl"};
    char *argv[12] = {kept[0]};
    int argc = 1;
    for (; words[argc - 1]; argc++) {
        snprintf(kept[argc], sizeof kept[argc], "%s", words[argc - 1]);
        argv[argc] = kept[argc];
    }
    memset(&args, 0xff, sizeof args); /* nothing of an earlier one is left */
    return args_parse(argc, argv, &args, error);
}

#define PARSE(...) test_args_parse((const char *const[]){__VA_ARGS__, NULL})

static void args_assert_refused(const char *const *words, const char *message)
{
    assert_int_equal(test_args_parse(words), -1);
    assert_string_equal(error, message);
}

#define ASSERT_REFUSED(message, ...)                                                               \
    args_assert_refused((const char *const[]){__VA_ARGS__, NULL}, message)

TEST(defaults)
{
    unsetenv("ATTND_ENDPOINT");
    unsetenv("ATTND_ADDRESS");
    assert_int_equal(PARSE("jobs"), 0);
    assert_null(args.endpoint);
    assert_null(args.address);
    assert_null(args.metric);
    assert_int_equal(args.timeout_ms, 5000);
    assert_int_equal(args.count, 0);
    assert_int_equal(args.given, 0);
    assert_null(args.stack);
}

TEST(attnd_is_named_by_one_address_or_endpoint)
{
    setenv("ATTND_ADDRESS", "/env", 1);
    assert_int_equal(PARSE("jobs"), 0);
    assert_string_equal(args.address, "/env");
    assert_null(args.endpoint);
    assert_int_equal(PARSE("jobs", "--address", "/option"), 0);
    assert_string_equal(args.address, "/option");
    assert_null(args.endpoint);
    assert_int_equal(PARSE("jobs", "--endpoint", "ipc:///option"), 0);
    assert_string_equal(args.endpoint, "ipc:///option");
    assert_null(args.address);
    ASSERT_REFUSED("--address and --endpoint: give one of them", "jobs", "--address", "/option",
                   "--endpoint", "ipc:///option");
    setenv("ATTND_ADDRESS", "", 1);
    assert_int_equal(PARSE("jobs"), 0);
    assert_null(args.endpoint);
    assert_null(args.address);
    unsetenv("ATTND_ADDRESS");
}

TEST(the_former_variable_is_not_passed_over_in_silence)
{
    unsetenv("ATTND_ADDRESS");
    setenv("ATTND_ENDPOINT", "ipc:///env", 1);
    ASSERT_REFUSED("ATTND_ENDPOINT is not read: name attnd in ATTND_ADDRESS", "jobs");
    assert_int_equal(PARSE("jobs", "--endpoint", "ipc:///option"), 0);
    assert_string_equal(args.endpoint, "ipc:///option");
    setenv("ATTND_ADDRESS", "/env", 1);
    assert_int_equal(PARSE("jobs"), 0);
    assert_string_equal(args.address, "/env");
    unsetenv("ATTND_ENDPOINT");
    unsetenv("ATTND_ADDRESS");
}

TEST(options_stand_anywhere)
{
    assert_int_equal(PARSE("--json", "summary", "--layer=3", "gpt", "--stack", "decoder"), 0);
    assert_int_equal(args.word_count, 2);
    assert_string_equal(args.words[0], "summary");
    assert_string_equal(args.words[1], "gpt");
    assert_int_equal(args.layer, 3);
    assert_int_equal(args.given, ARGS_JSON | ARGS_LAYER | ARGS_STACK);
}

TEST(timeouts_are_seconds_or_milliseconds)
{
    assert_int_equal(PARSE("jobs", "--timeout", "0.25"), 0);
    assert_int_equal(args.timeout_ms, 250);
    assert_int_equal(PARSE("jobs", "--timeout", "5s"), 0);
    assert_int_equal(args.timeout_ms, 5000);
    assert_int_equal(PARSE("jobs", "--timeout", "40ms"), 0);
    assert_int_equal(args.timeout_ms, 40);
    ASSERT_REFUSED("--timeout: 'soon': not accepted (valid: 1ms to 3600s)", "--timeout", "soon");
    ASSERT_REFUSED("--timeout: '-1': not accepted (valid: 1ms to 3600s)", "--timeout", "-1");
    ASSERT_REFUSED("--timeout: 'nan': not accepted (valid: 1ms to 3600s)", "--timeout", "nan");
}

TEST(times_and_factors_are_above_0)
{
    assert_int_equal(PARSE("record", "--seconds", "0.5", "--rhythm", "10"), 0);
    assert_true(args.seconds == 0.5 && args.rhythm == 10);
    assert_int_equal(args.given, ARGS_SECONDS | ARGS_RHYTHM);
    ASSERT_REFUSED("--seconds: '0': not accepted (valid: a number above 0)", "--seconds", "0");
    ASSERT_REFUSED("--seconds: 'nan': not accepted (valid: a number above 0)", "--seconds", "nan");
    ASSERT_REFUSED("--rhythm: '2x': not accepted (valid: a number above 0; 1 = as recorded, 10 = "
                   "ten times as fast)",
                   "--rhythm", "2x");
    ASSERT_REFUSED("--ingest: '': not accepted (valid: tcp://host:port or ipc://path)", "--ingest",
                   "");
}

TEST(top_has_an_interval)
{
    assert_int_equal(PARSE("top", "--interval", "0.5"), 0);
    assert_true(args.interval == 0.5);
    assert_int_equal(args.given, ARGS_INTERVAL);
    ASSERT_REFUSED("--interval: '0': not accepted (valid: 0.1 to 3600 seconds)", "--interval", "0");
    ASSERT_REFUSED("--interval: 'nan': not accepted (valid: 0.1 to 3600 seconds)", "--interval",
                   "nan");
    ASSERT_REFUSED("--interval: '1s': not accepted (valid: 0.1 to 3600 seconds)", "--interval",
                   "1s");
}

TEST(a_layer_may_be_named_as_tables_name_it)
{
    static const struct {
        const char *text, *stack, *site;
        int64_t layer;
    } cases[] = {{"decoder.3.self", "decoder", "self", 3},
                 {"3", NULL, NULL, 3},
                 {"encoder.12", "encoder", NULL, 12},
                 {"cross", NULL, "cross", -1},
                 {"decoder.cross", "decoder", "cross", -1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(PARSE("history", "gpt", "--layer", cases[i].text), 0);
        assert_int_equal(args.given & ARGS_LAYER ? (int64_t)args.layer : -1, cases[i].layer);
        assert_true(!args.stack == !cases[i].stack && !args.site == !cases[i].site);
        assert_true(!args.stack || strcmp(args.stack, cases[i].stack) == 0);
        assert_true(!args.site || strcmp(args.site, cases[i].site) == 0);
    }
    static const char *const wrong[] = {"",          ".",     "decoder.",
                                        "decoder.x", "65536", "self.self.self.self.self.self.self"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_int_equal(PARSE("history", "gpt", "--layer", wrong[i]), -1);
        assert_non_null(strstr(error, "or a part of decoder.3.self"));
    }
}

TEST(mistakes_are_named)
{
    ASSERT_REFUSED("no option --jsno", "jobs", "--jsno");
    ASSERT_REFUSED("--metric needs a value", "summary", "--metric");
    ASSERT_REFUSED("--stack: 'both': not accepted (valid: encoder, decoder)", "--stack", "both");
    ASSERT_REFUSED("--site: 'Self': not accepted (valid: self, cross)", "--site", "Self");
    ASSERT_REFUSED("--layer: '-1': not accepted (valid: 0 to 65535, or a part of decoder.3.self)",
                   "--layer", "-1");
    ASSERT_REFUSED(
        "--layer: '65536': not accepted (valid: 0 to 65535, or a part of decoder.3.self)",
        "--layer", "65536");
    ASSERT_REFUSED("--count: '0': not accepted (valid: 1 or more)", "--count", "0");
    ASSERT_REFUSED("--count: '99999999999999999999': not accepted (valid: 1 or more)", "--count",
                   "99999999999999999999");
    ASSERT_REFUSED("too many words: 'j'", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j");
}

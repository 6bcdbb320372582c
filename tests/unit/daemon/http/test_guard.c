/* SPDX-License-Identifier: MIT */
/* The guard decides who may ask over HTTP, and what. */
#include "tests/unit/unit.h"

#include "daemon/http/events.h"
#include "config/config.h"
#include "daemon/http/guard.h"
#include "daemon/http/route.h"

#define TOKEN "0123456789abcdef"

TEST(addresses_localhost_and_listed_names_are_hosts)
{
    static const char *const good[] = {"localhost",     "LocalHost:80", "127.0.0.1",
                                       "10.0.0.1:5580", "[::1]",        "[fe80::1]:5580",
                                       "gpu7",          "GPU7:443",     "a.example"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(guard_host(good[i], "gpu7  a.example"));
    }
}

TEST(other_names_are_not)
{
    static const char *const bad[] = {"",
                                      ":80",
                                      "gpu",
                                      "gpu77",
                                      "gpu7 ",
                                      "a.example.org",
                                      "b.example",
                                      "localhost.",
                                      "[::1",
                                      "[]:80",
                                      "[::1]x",
                                      "127.0.0.1:8x",
                                      "127.0.0.1.evil.example",
                                      "127.0.0.1@evil.example",
                                      "[localhost]evil"};
    char long_name[400];
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(guard_host(bad[i], "gpu7 a.example"));
    }
    memset(long_name, 'a', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = '\0';
    assert_false(guard_host(long_name, ""));
    assert_false(guard_host(NULL, "gpu7"));
}

TEST(an_origin_is_the_host_itself)
{
    assert_true(guard_origin(NULL, "localhost:5580"));
    assert_true(guard_origin("http://localhost:5580", "localhost:5580"));
    assert_true(guard_origin("HTTPS://LOCALHOST:5580", "localhost:5580"));
    assert_false(guard_origin("http://localhost", "localhost:5580"));
    assert_false(guard_origin("http://localhost:55800", "localhost:5580"));
    assert_false(guard_origin("http://localhost:5580.evil.example", "localhost:5580"));
    assert_false(guard_origin("null", "null"));
    assert_false(guard_origin("", "localhost"));
    assert_false(guard_origin("ftp://localhost", "localhost"));
}

/* The jobs that a header's token may see; NULL: it is not answered. */
static const char *jobs_of(const struct access *visitors, enum guard_kind kind, const char *name)
{
    static struct guard_visitor visitor;
    guard_visitor_init(&visitor, kind, kind == GUARD_TOKEN ? guard_token(name) : name);
    return guard_judge(&visitor, visitors) ? visitor.jobs : NULL;
}

TEST(visitors_are_judged_by_the_list)
{
    static const char text[] = TOKEN " read a* # ann\n" TOKEN " plan b\nuser:ann read *\n";
    char error[CONFIG_ERROR_MAX];
    OWNED(access_free) struct access *visitors;
    assert_int_equal(access_parse(text, strlen(text), "tokens", ACCESS_VISITORS, &visitors, error),
                     0);
    assert_string_equal(jobs_of(visitors, GUARD_TOKEN, "Bearer " TOKEN), "a* b");
    assert_string_equal(jobs_of(visitors, GUARD_TOKEN, "bearer " TOKEN), "a* b");
    assert_string_equal(jobs_of(visitors, GUARD_USER, "ann"), "*");
    assert_string_equal(jobs_of(visitors, GUARD_LOCAL, ""), "*");
    assert_string_equal(jobs_of(NULL, GUARD_LOCAL, ""), "*");
    static const char *const wrong[] = {"Bearer ",
                                        "Bearer  " TOKEN,
                                        "Bearer " TOKEN TOKEN,
                                        "Bearer 0123456789abcde",
                                        "Bearer 1123456789abcdef",
                                        "Bearer user:ann",
                                        "Bearer *"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_null(jobs_of(visitors, GUARD_TOKEN, wrong[i]));
    }
    static const char *const nobody[] = {"", "Ann", "ann ", "an?", "*", TOKEN};
    for (size_t i = 0; i < sizeof nobody / sizeof nobody[0]; i++) {
        assert_null(jobs_of(visitors, GUARD_USER, nobody[i]));
    }
    assert_null(jobs_of(NULL, GUARD_TOKEN, "Bearer " TOKEN));
}

TEST(a_token_comes_as_bearer_only)
{
    assert_null(guard_token(NULL));
    assert_null(guard_token(""));
    assert_null(guard_token("Basic " TOKEN));
    assert_null(guard_token(TOKEN));
    assert_string_equal(guard_token("BEARER x"), "x");
}

/* Routes and their parameters */

TEST(paths_are_found_as_they_are_written)
{
    for (size_t i = 0; i < route_count; i++) {
        assert_ptr_equal(route_find(routes[i].path), &routes[i]);
    }
    assert_string_equal(route_find("/assets/main.js")->path, "/assets/*");
    assert_null(route_find(""));
    assert_null(route_find("/api/v1/jobs/"));
    assert_null(route_find("/API/v1/jobs"));
    assert_null(route_find("/healthz2"));
    assert_null(route_find("/assets"));
}

/* The map that these make for the history, as JSON, or the sentence why not. */
static char *read_pairs(const char *const (*pairs)[2])
{
    static char text[600];
    struct argument_reader reader;
    struct mpk_writer params;
    struct mpk_doc doc;
    argument_reader_init(&reader, route_find("/api/v1/history"));
    for (; (*pairs)[0]; pairs++) {
        if (!argument_read(&reader, (*pairs)[0], (*pairs)[1])) {
            break;
        }
    }
    snprintf(text, sizeof text, "%s", reader.reterr);
    if (!*text) {
        mpk_writer_init(&params);
        argument_put_map(&reader, NULL, &params);
        assert_int_equal(
            mpk_parse(params.buffer.data, params.buffer.size, &mpk_header_limits, &doc), 0);
        char *json = mpk_to_json(doc.root, 0);
        snprintf(text, sizeof text, "%s", json);
        free(json);
        mpk_doc_clear(&doc);
        mpk_writer_clear(&params);
    }
    argument_reader_clear(&reader);
    return text;
}
#define READ(...) read_pairs((const char *const[][2]){__VA_ARGS__, {NULL, NULL}})

TEST(parameters_have_the_types_that_methods_want)
{
    assert_string_equal(READ({"job", "a"}, {"layer", "12"}, {"packed", "true"},
                             {"statistics", "mean,p90"}, {"window", "100 steps every 10"}),
                        "{\"job\":\"a\",\"layer\":12,\"packed\":true,\"statistics\":[\"mean\","
                        "\"p90\"],\"window\":\"100 steps every 10\"}");
    assert_string_equal(READ({"limit", "18446744073709551615"}, {"packed", "0"}),
                        "{\"limit\":1.8446744073709552e19,\"packed\":false}");
    assert_string_equal(READ({"job", ""}, {"statistics", ""}),
                        "{\"job\":\"\",\"statistics\":[\"\"]}");
}

TEST(parameters_that_are_wrong_are_named)
{
    char long_text[600], wanted[80];
    memset(long_text, 'a', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    assert_non_null(strstr(READ({"color", "red"}), "color: no such parameter (valid: job, run,"));
    assert_non_null(strstr(READ({"<script>", ""}), "(not printable): no such"));
    assert_string_equal(READ({"job", "a"}, {"job", "a"}), "job: given twice");
    for (int i = 0; i < 5; i++) {
        const char *bad = (const char *[]){"-1", "+1", " 1", "1.5", "18446744073709551616"}[i];
        snprintf(wanted, sizeof wanted, "limit: a whole number is needed, not '%s'", bad);
        assert_string_equal(READ({"limit", bad}), wanted);
    }
    assert_string_equal(READ({"packed", "yes"}), "packed: 1 or 0 is needed, not 'yes'");
    assert_non_null(strstr(READ({"job", NULL}), "job: a value of at most 511"));
    assert_non_null(strstr(READ({"job", long_text}), "job: a value of at most 511"));
    assert_non_null(strstr(READ({"job", "a\nb"}), "printable"));
    assert_non_null(strstr(READ({"job", "\xff"}), "printable"));
    assert_non_null(strstr(READ({"job", "\xc3\xa9"}), "printable"));
    assert_non_null(strstr(READ({"statistics", ",,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,"}), "words"));
}

/* Ids of the event stream */

TEST(ids_are_of_this_start)
{
    static const char *const bad[] = {"",
                                      "1234abcd",
                                      "1234abcd-",
                                      "1234abcd-x",
                                      "-5",
                                      "1234abce-5",
                                      "1234abcd-5 ",
                                      "1234abcd-5-6",
                                      "nonsense",
                                      "1234abcd-99999999999999999999999999999999999"};
    uint64_t number = 0;
    assert_true(events_parse_id("1234abcd-5", 0x1234abcd, &number));
    assert_int_equal(number, 5);
    assert_true(events_parse_id("00000001-18446744073709551615", 1, &number));
    assert_int_equal(number, UINT64_MAX);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(events_parse_id(bad[i], 0x1234abcd, &number));
    }
}

/* SPDX-License-Identifier: MIT */
/* Each type: what is read, how it is printed, and the words of every refusal. */
#include "tests/unit/config/helpers.h"

static const struct value_rule bytes = {VALUE_BYTES, 0, UINT64_MAX};
static const struct value_rule count = {VALUE_COUNT, 1, 100};
static const struct value_rule duration = {VALUE_DURATION, 0, UINT64_MAX};
static const struct value_rule boolean = {VALUE_BOOL, 0, 0};
static const struct value_rule unit = {VALUE_UNIT, 0, 0};
static const struct value_rule level = {VALUE_LEVEL, 0, 0};
static const struct value_rule format = {VALUE_FORMAT, 0, 0};
static const struct value_rule real = {VALUE_REAL, 0, 10};
static const struct value_rule numbers = {VALUE_NUMBERS, 0, 0};
static const struct value_rule effort = {VALUE_EFFORT, 0, 0};
static const struct value_rule isa = {VALUE_ISA, 0, 0};
static const struct value_rule endpoint = {VALUE_ENDPOINT, 0, 0};

static void value_assert_number(const struct value_rule *rule, const char *text, uint64_t number,
                                const char *canonical)
{
    uint64_t value = 0;
    char reason[VALUE_REASON_MAX] = "", printed_text[VALUE_TEXT_MAX];
    assert_int_equal(value_parse(rule, text, &value, reason), 0);
    assert_int_equal(value, number);
    value_print(rule, &value, printed_text);
    assert_string_equal(printed_text, canonical);
}

static void value_assert_reason(const struct value_rule *rule, const char *text,
                                const char *expected)
{
    config_numbers untouched, value; /* the largest type */
    memset(&untouched, 0x5a, sizeof untouched);
    value = untouched;
    char reason[VALUE_REASON_MAX] = "";
    assert_int_equal(value_parse(rule, text, &value, reason), -1);
    assert_string_equal(reason, expected);
    assert_memory_equal(&value, &untouched, sizeof value);
}

static void assert_word(const struct value_rule *rule, const char *text, unsigned index)
{
    unsigned value = 99;
    char reason[VALUE_REASON_MAX] = "", printed_text[VALUE_TEXT_MAX];
    assert_int_equal(value_parse(rule, text, &value, reason), 0);
    assert_int_equal(value, index);
    value_print(rule, &value, printed_text);
    assert_string_equal(printed_text, text);
}

static void assert_endpoint(const char *text)
{
    config_endpoint value;
    char reason[VALUE_REASON_MAX] = "", printed_text[VALUE_TEXT_MAX];
    int result = value_parse(&endpoint, text, &value, reason);
    assert_string_equal(reason, "");
    assert_int_equal(result, 0);
    value_print(&endpoint, &value, printed_text);
    assert_string_equal(printed_text, text);
}

TEST(sizes_are_binary_decimal_or_plain)
{
    value_assert_number(&bytes, "0", 0, "0");
    value_assert_number(&bytes, "65536", 65536, "64KiB");
    value_assert_number(&bytes, "65537", 65537, "65537");
    value_assert_number(&bytes, "512MiB", UINT64_C(536870912), "512MiB");
    value_assert_number(&bytes, "512 MiB", UINT64_C(536870912), "512MiB");
    value_assert_number(&bytes, "1GiB", UINT64_C(1073741824), "1GiB");
    value_assert_number(&bytes, "2TiB", UINT64_C(2199023255552), "2TiB");
    value_assert_number(&bytes, "10MB", 10000000, "10000000");
    value_assert_number(&bytes, "10kB", 10000, "10000");
    value_assert_number(&bytes, "3GB", UINT64_C(3000000000), "3000000000");
    value_assert_number(&bytes, "7B", 7, "7");
}

TEST(sizes_are_refused_with_examples)
{
    static const struct value_rule rule = {VALUE_BYTES, 1 << 20, UINT64_C(1) << 40};
    const char *reason = "not a size such as 65536, 512MiB or 10MB (valid: 1MiB to 1TiB)";
    const char *const bad[] = {"",       "MiB",   "1.5GiB", "-1",  "+1",     "1mib", "0x10",
                               "1 MiB ", " 1MiB", "1MiBs",  "1e6", "1MiB\n", "12 ",  "1  MiB"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        value_assert_reason(&rule, bad[i], reason);
    }
}

TEST(sizes_out_of_range_name_the_range)
{
    static const struct value_rule rule = {VALUE_BYTES, 1 << 20, UINT64_C(1) << 40};
    const char *reason = "out of range (valid: 1MiB to 1TiB)";
    value_assert_reason(&rule, "0", reason);
    value_assert_reason(&rule, "1048575", reason);
    value_assert_reason(&rule, "1099511627777", reason);
    value_assert_reason(&rule, "18446744073709551616", reason);
    value_assert_reason(&rule, "16777216TiB", reason);
    value_assert_reason(&rule, "99999999999999999999999999999999TiB", reason);
}

TEST(durations_need_a_unit)
{
    value_assert_number(&duration, "0", 0, "0s");
    value_assert_number(&duration, "0s", 0, "0s");
    value_assert_number(&duration, "15ns", 15, "15ns");
    value_assert_number(&duration, "3us", 3000, "3us");
    value_assert_number(&duration, "500ms", 500000000, "500ms");
    value_assert_number(&duration, "5s", UINT64_C(5000000000), "5s");
    value_assert_number(&duration, "60s", UINT64_C(60000000000), "1min");
    value_assert_number(&duration, "90s", UINT64_C(90000000000), "90s");
    value_assert_number(&duration, "2m", UINT64_C(120000000000), "2min");
    value_assert_number(&duration, "10min", UINT64_C(600000000000), "10min");
    value_assert_number(&duration, "1h", UINT64_C(3600000000000), "1h");
    value_assert_number(&duration, "24h", UINT64_C(86400000000000), "1d");
}

TEST(durations_are_refused_with_examples)
{
    static const struct value_rule rule = {VALUE_DURATION, 100000000, UINT64_C(86400000000000)};
    const char *reason = "not a duration such as 500ms, 5s, 2min or 1h (valid: 100ms to 1d)";
    value_assert_reason(&rule, "5", reason);
    value_assert_reason(&rule, "5 weeks", reason);
    value_assert_reason(&rule, "s", reason);
    value_assert_reason(&rule, "", reason);
    value_assert_reason(&rule, "99ms", "out of range (valid: 100ms to 1d)");
    value_assert_reason(&rule, "25h", "out of range (valid: 100ms to 1d)");
    value_assert_reason(&rule, "18446744073709551615d", "out of range (valid: 100ms to 1d)");
}

TEST(counts_are_whole_numbers)
{
    value_assert_number(&count, "1", 1, "1");
    value_assert_number(&count, "007", 7, "7");
    value_assert_number(&count, "100", 100, "100");
    value_assert_reason(&count, "0", "out of range (valid: 1 to 100)");
    value_assert_reason(&count, "101", "out of range (valid: 1 to 100)");
    value_assert_reason(&count, "ten", "not a whole number (valid: 1 to 100)");
    value_assert_reason(&count, "1.0", "not a whole number (valid: 1 to 100)");
    value_assert_reason(&count, "-1", "not a whole number (valid: 1 to 100)");
    value_assert_reason(&count, "1k", "not a whole number (valid: 1 to 100)");
}

TEST(booleans_are_true_or_false)
{
    char reason[VALUE_REASON_MAX];
    bool value = false;
    assert_int_equal(value_parse(&boolean, "true", &value, reason), 0);
    assert_true(value);
    assert_int_equal(value_parse(&boolean, "false", &value, reason), 0);
    assert_false(value);
    value_assert_reason(&boolean, "yes", "not one of the choices (valid: false, true)");
    value_assert_reason(&boolean, "True", "not one of the choices (valid: false, true)");
    value_assert_reason(&boolean, "1", "not one of the choices (valid: false, true)");
}

TEST(choices_are_the_enum_values)
{
    assert_word(&unit, "epoch", CONFIG_UNIT_EPOCH);
    assert_word(&unit, "step", CONFIG_UNIT_STEP);
    assert_word(&unit, "second", CONFIG_UNIT_SECOND);
    assert_word(&level, "error", CONFIG_LEVEL_ERROR);
    assert_word(&level, "warning", CONFIG_LEVEL_WARNING);
    assert_word(&level, "info", CONFIG_LEVEL_INFO);
    assert_word(&level, "debug", CONFIG_LEVEL_DEBUG);
    assert_word(&format, "text", CONFIG_FORMAT_TEXT);
    assert_word(&format, "json", CONFIG_FORMAT_JSON);
    assert_word(&effort, "norm", CONFIG_EFFORT_NORM);
    assert_word(&effort, "leading", CONFIG_EFFORT_LEADING);
    assert_word(&effort, "full", CONFIG_EFFORT_FULL);
    assert_word(&isa, "auto", CONFIG_ISA_AUTO);
    assert_word(&isa, "scalar", CONFIG_ISA_SCALAR);
    assert_word(&isa, "portable", CONFIG_ISA_PORTABLE);
    assert_word(&isa, "avx2", CONFIG_ISA_AVX2);
    assert_word(&isa, "avx512", CONFIG_ISA_AVX512);
    assert_string_equal(config_isa_name(CONFIG_ISA_AVX2), "avx2");
    value_assert_reason(&unit, "epochs",
                        "not one of the choices (valid: epoch, step, second, auto)");
    value_assert_reason(&level, "", "not one of the choices (valid: error, warning, info, debug)");
    value_assert_reason(&format, "JSON", "not one of the choices (valid: text, json)");
}

static void assert_real(const char *text, double number, const char *canonical)
{
    double value = -1;
    char reason[VALUE_REASON_MAX] = "", printed_text[VALUE_TEXT_MAX];
    assert_int_equal(value_parse(&real, text, &value, reason), 0);
    assert_true(value == number);
    value_print(&real, &value, printed_text);
    assert_string_equal(printed_text, canonical);
}

/* Prints the shortest text that gives the same number. */
TEST(reals_are_decimal)
{
    assert_real("0.05", 0.05, "0.05");
    assert_real(".5", 0.5, "0.5");
    assert_real("1e-3", 1e-3, "0.001");
    assert_real("+2", 2, "2");
    assert_real("0.1000000000000000055", 0.1, "0.1");
    assert_real("0.30000000000000004", 0.30000000000000004, "0.30000000000000004");
}

TEST(reals_are_refused_for_a_reason)
{
    static const char *const bad[] = {"",    "nan", "inf", "0x1", " 1",    "1 ",
                                      "1,5", "e",   "-",   "1-2", "1.2.3", "1e400"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        value_assert_reason(&real, bad[i], "not a number such as 0.05 (valid: 0 to 10)");
    }
    value_assert_reason(&real, "10.001", "out of range (valid: 0 to 10)");
    value_assert_reason(&real, "-1", "out of range (valid: 0 to 10)");
}

static void assert_numbers(const char *text, uint32_t length, const char *canonical)
{
    config_numbers value;
    char reason[VALUE_REASON_MAX] = "", printed_text[VALUE_TEXT_MAX];
    assert_int_equal(value_parse(&numbers, text, &value, reason), 0);
    assert_int_equal(value.count, length);
    value_print(&numbers, &value, printed_text);
    assert_string_equal(printed_text, canonical);
}

TEST(lists_are_split_at_commas_and_spaces)
{
    assert_numbers("", 0, "[]");
    assert_numbers("[]", 0, "[]");
    assert_numbers("[ ]", 0, "[]");
    assert_numbers("1", 1, "[1]");
    assert_numbers("1,0.5", 2, "[1, 0.5]");
    assert_numbers("1 0.5  -3", 3, "[1, 0.5, -3]");
    assert_numbers("[1, 0.5 , 2 ]", 3, "[1, 0.5, 2]");
}

TEST(lists_are_refused_with_an_example)
{
    static const char *const bad[] = {"[",    "]",   "[1",  "1]",    "1,,2",  ",1",  "1,",
                                      "[1,]", "1;2", "one", "1 nan", "[[1]]", "1 -", "1, ,2"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        value_assert_reason(&numbers, bad[i],
                            "not a list of numbers such as [1, 0.5] (valid: at most 256 numbers)");
    }
}

/* The longest list of the longest numbers prints and reads back; one more is refused. */
TEST(a_list_has_at_most_256_numbers)
{
    static const char longest[] = "-1.2345678901234567e-300 ";
    char text[257 * sizeof longest] = "", again[VALUE_TEXT_MAX];
    config_numbers value;
    char reason[VALUE_REASON_MAX];
    for (int i = 0; i < 256; i++) {
        strcat(text, longest);
    }
    assert_int_equal(value_parse(&numbers, text, &value, reason), 0);
    assert_int_equal(value.count, 256);
    value_print(&numbers, &value, again);
    assert_numbers(again, 256, again);
    strcat(text, "1");
    value_assert_reason(&numbers, text,
                        "not a list of numbers such as [1, 0.5] (valid: at most 256 numbers)");
}

TEST(endpoints_are_tcp_or_ipc)
{
    assert_endpoint("");
    assert_endpoint("tcp://127.0.0.1:5570");
    assert_endpoint("tcp://*:5570");
    assert_endpoint("tcp://*:*");
    assert_endpoint("tcp://127.0.0.1:*");
    assert_endpoint("tcp://node-7.cluster_a.example:1");
    assert_endpoint("tcp://eth0:65535");
    assert_endpoint("tcp://[::1]:5570");
    assert_endpoint("ipc:///run/attnd/ingest.sock");
    assert_endpoint("ipc://relative");
    assert_endpoint("ipc://@abstract");
    assert_endpoint("ipc://it's got: everything # here");
}

TEST(endpoints_are_refused_for_a_reason)
{
    static const char *const bad[][2] = {
        {"localhost:5570", "not an endpoint"},
        {"udp://127.0.0.1:5570", "not an endpoint"},
        {"TCP://127.0.0.1:5570", "not an endpoint"},
        {"tcp://", "the port is missing"},
        {"tcp://127.0.0.1", "the port is missing"},
        {"tcp://:5570", "the host is missing"},
        {"tcp://my host:5570", "the host is not a name, an address, [IPv6] or *"},
        {"tcp://::1:5570", "the host is not a name, an address, [IPv6] or *"},
        {"tcp://**:5570", "the host is not a name, an address, [IPv6] or *"},
        {"tcp://[]:5570", "the host is not an IPv6 address in [ ]"},
        {"tcp://[node]:5570", "the host is not an IPv6 address in [ ]"},
        {"tcp://127.0.0.1:", "the port is not 1 to 65535 or *"},
        {"tcp://127.0.0.1:0", "the port is not 1 to 65535 or *"},
        {"tcp://127.0.0.1:65536", "the port is not 1 to 65535 or *"},
        {"tcp://127.0.0.1:55x", "the port is not 1 to 65535 or *"},
        {"tcp://127.0.0.1:5570/x", "the port is not 1 to 65535 or *"},
        {"tcp://127.0.0.1:99999999999999999999", "the port is not 1 to 65535 or *"},
        {"ipc://", "the path is missing"},
        {"ipc://a\tb", "the path holds something other than printable ASCII"},
        {"ipc:///\xc3\xbc", "the path holds something other than printable ASCII"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char expected[VALUE_REASON_MAX];
        snprintf(expected, sizeof expected, "%s (valid: tcp://host:port, ipc://path)", bad[i][1]);
        value_assert_reason(&endpoint, bad[i][0], expected);
    }
}

/* 107 bytes fit sun_path with its NUL, 108 do not. */
TEST(ipc_paths_fit_a_socket_address)
{
    char text[6 + 108 + 1] = "ipc://";
    memset(text + 6, 'x', 107);
    assert_endpoint(text);
    text[6 + 107] = 'x';
    value_assert_reason(&endpoint, text,
                        "the path is longer than a socket's name may be (107 bytes) (valid: "
                        "tcp://host:port, ipc://path)");
}

TEST(an_endless_host_is_refused)
{
    char text[400] = "tcp://";
    memset(text + 6, 'h', 300);
    strcpy(text + 306, ":5570");
    value_assert_reason(&endpoint, text,
                        "longer than 255 bytes (valid: tcp://host:port, ipc://path)");
}

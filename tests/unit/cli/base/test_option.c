/* SPDX-License-Identifier: MIT */
/* A command line against a table of options. */
#include "tests/unit/cli/fake.h"

#include "proto/err.h"
#include "clients/cli/base/option.h"

struct row {
    struct option_text text;
    int number;
};

static const struct row rows[] = {
    {{"a title", NULL, NULL, NULL}, 0},
    {{"flag", NULL, "a flag", NULL}, 1},
    {{"value", "N", "a value", NULL}, 2},
    {{"hidden", NULL, "", NULL}, 3},
};
static const struct option_table table = {OPTION_ROWS(rows), .command = "tool",
                                          .short_form = "vvalue"};

struct taken {
    int number[8];
    const char *value[8];
    int count;
    const char *wrong; /* what the taker answers */
};

static const char *option_test_take(const void *row, char *value, void *data)
{
    struct taken *taken = data;
    taken->number[taken->count] = ((const struct row *)row)->number;
    taken->value[taken->count++] = value;
    return taken->wrong;
}

static int test_option_parse(const char *line, struct taken *taken, struct option_rest *ret_rest,
                             char *reterr)
{
    static char text[128];
    static char *argv[16];
    int argc = 0;
    snprintf(text, sizeof text, "tool %s", line);
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " ")) {
        argv[argc++] = word;
    }
    argv[argc] = NULL;
    return option_parse(&table, argc, argv, option_test_take, taken, ret_rest, reterr, 128);
}

TEST(options_and_words_may_be_mixed)
{
    struct taken taken = {.count = 0};
    struct option_rest rest;
    char error[128];
    assert_int_equal(
        test_option_parse("one --value=3 two -v 4 --flag --hidden three", &taken, &rest, error), 0);
    static const int numbers[] = {2, 2, 1, 3};
    static const char *const values[] = {"3", "4", NULL, NULL};
    assert_int_equal(taken.count, 4);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(taken.number[i], numbers[i]);
        assert_true(values[i] ? strcmp(taken.value[i], values[i]) == 0 : !taken.value[i]);
    }
    assert_int_equal(rest.word_count, 3);
    assert_string_equal(rest.words[0], "one");
    assert_string_equal(rest.words[2], "three");
}

static void refused(const char *line, const char *wrong, const char *expected, const char *unknown)
{
    struct taken taken = {.wrong = wrong};
    struct option_rest rest;
    char error[128];
    assert_int_equal(test_option_parse(line, &taken, &rest, error), -1);
    assert_string_equal(error, expected);
    if (unknown) {
        assert_string_equal(rest.unknown, unknown);
    } else {
        assert_null(rest.unknown);
    }
}

TEST(what_is_wrong_is_said)
{
    refused("--other", NULL, "no option --other (see tool --help)", "--other");
    refused("-x", NULL, "no option -x (see tool --help)", "-x");
    refused("--value", NULL, "--value needs a value (see tool --help)", NULL);
    refused("--flag=1", NULL, "--flag=1: takes no value (see tool --help)", NULL);
    refused("-v", NULL, "-v needs a value (see tool --help)", NULL);
    refused("-v x", "valid: 1, 2", "--value: 'x': not accepted (valid: 1, 2)", NULL);
    refused("--value x", "not a value", "--value: 'x': not a value", NULL);
    refused("--flag", "only once", "--flag: only once", NULL);
}

TEST(what_every_command_has_is_not_shown_again)
{
    struct option_list list = {.count = 0};
    option_list_add_own(&list, &table);
    assert_int_equal(list.count, 3);
    assert_string_equal(list.option[0]->name, "a title");
    assert_string_equal(list.option[1]->name, "flag");
    assert_string_equal(list.option[2]->name, "value");
}

TEST(numbers_are_whole_texts)
{
    uint64_t whole = 7;
    uint32_t small = 7;
    double real;
    assert_true(option_whole("18446744073709551615", UINT64_MAX, &whole) && whole == UINT64_MAX);
    assert_false(option_whole("18446744073709551616", UINT64_MAX, &whole));
    static const char *const not_whole[] = {"", " 1", "-1", "+1", "1.5", "1x", "0x10"};
    for (size_t i = 0; i < sizeof not_whole / sizeof not_whole[0]; i++) {
        assert_false(option_whole(not_whole[i], UINT64_MAX, &whole));
    }
    assert_true(option_whole_u32("0010", 10, &small) && small == 10);
    assert_false(option_whole_u32("11", 10, &small));
    assert_true(option_real("-1e-3", -1, 1, &real) && real == -1e-3);
    static const char *const not_real[] = {"", " 1", "1 ", "nan", "inf", "1,5", "1.0001"};
    for (size_t i = 0; i < sizeof not_real / sizeof not_real[0]; i++) {
        assert_false(option_real(not_real[i], -1, 1, &real));
    }
}

TEST(plain_values_go_into_their_fields)
{
    struct fields {
        bool flag;
        const char *text;
        uint32_t count;
        double real;
    } fields = {.flag = false};
    const struct option_field flag = {OPTION_FLAG, offsetof(struct fields, flag), 0, 0},
                              text = {OPTION_TEXT, offsetof(struct fields, text), 1, 0},
                              count = {OPTION_COUNT, offsetof(struct fields, count), 2, 9},
                              real = {OPTION_REAL, offsetof(struct fields, real), 0, 0.5};
    char word[] = "a", seven[] = "7", half[] = "0.5", one[] = "1", nothing[] = "";
    assert_null(option_store(&flag, NULL, &fields));
    assert_null(option_store(&text, word, &fields));
    assert_null(option_store(&count, seven, &fields));
    assert_null(option_store(&real, half, &fields));
    assert_true(fields.flag && fields.text == word && fields.count == 7 && fields.real == 0.5);
    assert_string_equal(option_store(&text, nothing, &fields), "valid: any text but an empty one");
    assert_string_equal(option_store(&count, one, &fields), "valid: 2 to 9");
    assert_string_equal(option_store(&real, one, &fields), "valid: a number from 0 to 0.5");
}

TEST(words_and_runs)
{
    static const char *const words[] = {"auto", "never"};
    assert_int_equal(option_word("never", words, 2), 1);
    assert_int_equal(option_word("nev", words, 2), -1);
    const char *run;
    assert_null(option_set_run(&run, "3fa9"));
    assert_non_null(option_set_run(&run, ""));
    assert_non_null(option_set_run(&run, "3FA9"));
    assert_non_null(option_set_run(&run, "000000000000000000000000000000000"));
}

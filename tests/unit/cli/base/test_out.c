/* SPDX-License-Identifier: MIT */
/* Tables, as text. */
#include "tests/unit/cli/fake.h"

#include "clients/cli/base/out.h"

/* A table of the given cells (NULL ends them) prints as `expected`. */
static void assert_table(int columns, int width, bool text, const char *const *cells,
                         const char *expected)
{
    struct out_table table;
    char *printed = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&printed, &size);
    out_init(&table, columns);
    for (; *cells; cells++) {
        out_cell(&table, "%s", *cells);
    }
    out_print(&table, width, text, out);
    fclose(out);
    assert_string_equal(printed, expected);
    free(printed);
}

#define CELLS(...) ((const char *const[]){__VA_ARGS__, NULL})

TEST(numbers_are_aligned_right)
{
    assert_table(3, 80, false, CELLS("NAME", "A", "LONG", "x", "1000", "1", "longer", "2", "33"),
                 "NAME       A  LONG\n"
                 "x       1000     1\n"
                 "longer     2    33\n");
}

TEST(text_is_aligned_left_and_ends_without_blanks)
{
    assert_table(3, 80, true, CELLS("A", "B", "C", "one", "two", "three", "1", "2", "3"),
                 "A    B    C\n"
                 "one  two  three\n"
                 "1    2    3\n");
}

TEST(wide_tables_go_on_below)
{
    assert_table(5, 14, false, CELLS("L", "h0", "h1", "h2", "h3", "a", "0.1", "0.2", "0.3", "0.4"),
                 "L   h0   h1\n"
                 "a  0.1  0.2\n"
                 "\n"
                 "L   h2   h3\n"
                 "a  0.3  0.4\n");
}

TEST(columns_move_together_before_they_wrap)
{
    assert_table(3, 9, false, CELLS("L", "h0", "h1", "a", "0.1", "0.2"),
                 "L  h0  h1\n"
                 "a 0.1 0.2\n");
}

/* A column wider than the terminal is printed all the same. */
TEST(no_column_is_lost)
{
    assert_table(3, 5, false, CELLS("L", "abcdefgh", "b", "x", "1", "2"),
                 "L  abcdefgh\n"
                 "x         1\n"
                 "\n"
                 "L  b\n"
                 "x  2\n");
}

TEST(a_single_column_and_an_empty_table)
{
    assert_table(1, 80, false, CELLS("JOB", "gpt"), "JOB\ngpt\n");
    assert_table(2, 80, false, CELLS("A", "B"), "A  B\n");
}

TEST(letters_beyond_ascii_take_one_column)
{
    assert_table(2, 80, false, CELLS("J", "N", "\xc3\xbc", "1", "uu", "2"),
                 "J   N\n\xc3\xbc   1\nuu  2\n");
}

TEST(no_terminal_breaks_up_no_table)
{
    FILE *file = tmpfile();
    assert_int_equal(out_width(file), INT_MAX);
    fclose(file);
    assert_table(3, INT_MAX, true,
                 CELLS("a123456789a123456789a123456789a123456789",
                       "b123456789b123456789b123456789b123456789", "C", "1", "2", "3"),
                 "a123456789a123456789a123456789a123456789  "
                 "b123456789b123456789b123456789b123456789  C\n"
                 "1                                         "
                 "2                                         3\n");
}

TEST(many_rows_grow_the_table)
{
    struct out_table table;
    char *printed = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&printed, &size);
    out_init(&table, 2);
    for (int i = 0; i < 1000; i++) {
        out_cell(&table, "%d", i % 10);
    }
    out_print(&table, 80, false, out);
    fclose(out);
    assert_int_equal(size, 500 * strlen("0  1\n"));
    free(printed);
}

static void assert_duration(double seconds, const char *expected)
{
    char text[OUT_TIME_MAX];
    out_duration(seconds, text);
    assert_string_equal(text, expected);
}

TEST(durations_have_two_units_at_most)
{
    assert_duration(0, "0.0 s");
    assert_duration(-1, "0.0 s");
    assert_duration(2.34, "2.3 s");
    assert_duration(61, "1 min 1 s");
    assert_duration(7260, "2 h 1 min");
    assert_duration(90000, "1 d 1 h");
}

static void assert_size(uint64_t bytes, const char *expected)
{
    char text[OUT_SIZE_MAX];
    out_size(bytes, text);
    assert_string_equal(text, expected);
}

TEST(sizes_have_the_unit_that_fits)
{
    assert_size(0, "0 B");
    assert_size(1023, "1023 B");
    assert_size(1024, "1.0 KiB");
    assert_size(1536 * 1024, "1.5 MiB");
    assert_size((UINT64_C(1) << 30) - 1, "1.0 GiB");
    assert_size(UINT64_MAX, "16777216.0 TiB");
}

TEST(a_long_name_loses_its_middle)
{
    char exact[] = "abcdefgh", longer[] = "abcdefghi";
    out_shorten(exact, 8);
    assert_string_equal(exact, "abcdefgh");
    out_shorten(longer, 8);
    assert_string_equal(longer, "abc..ghi");
}

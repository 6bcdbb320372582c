/* SPDX-License-Identifier: MIT */
/* attnctl show: tokens, maps and terminals. */

#include "tests/unit/unit.h"

#include "clients/cli/show/internal.h"

#include <unistd.h>

/* Tokens -----------------------------------------------------------------------------------------
 */

static void expect_fit(const char *label, int width, bool utf8, const char *text, int columns)
{
    char fitted[TOKEN_FIT_BYTES];
    int used = token_fit(label, width, utf8, fitted);
    if (strcmp(fitted, text) != 0) {
        print_error("'%s', not '%s'\n", fitted, text);
    }
    assert_string_equal(fitted, text);
    assert_int_equal(used, columns);
    assert_int_equal(token_text_width(fitted), columns);
}

TEST(tokens_are_escaped)
{
    expect_fit("cat", 10, true, "cat", 3);
    expect_fit("a\nb\t\r", 10, true, "a\\nb\\t\\r", 8);
    expect_fit("\x1b[31m", 10, true, "\\x1b[31m", 8);
    expect_fit("\xc2\x9b", 10, true, "\\x9b", 4);             /* the one-byte escape sequence */
    expect_fit("\xe2\x80\xae", 10, true, "\\u202e", 6);       /* turns the order of what follows */
    expect_fit("\xf3\xa0\x80\x81", 10, true, "\\U0e0001", 8); /* a tag */
    expect_fit("\xc3\xa9", 10, false, "\\u00e9", 6);
    expect_fit("", 10, true, "\"\"", 2);
}

TEST(blanks_at_the_ends_are_shown)
{
    expect_fit(" the cat ", 20, true, "\xe2\x90\xa3the cat\xe2\x90\xa3", 9);
    expect_fit(" the", 20, false, "_the", 4);
    expect_fit(" ", 20, true, "\xe2\x90\xa3", 1);
}

TEST(tokens_are_cut_to_columns)
{
    expect_fit("abcdef", 6, true, "abcdef", 6);
    expect_fit("abcdef", 5, true, "abcd\xe2\x80\xa6", 5);
    expect_fit("abcdef", 5, false, "abcd~", 5);
    expect_fit("\xe6\x97\xa5\xe6\x9c\xac", 4, true, "\xe6\x97\xa5\xe6\x9c\xac", 4); /* wide */
    expect_fit("\xe6\x97\xa5\xe6\x9c\xac", 3, true, "\xe6\x97\xa5\xe2\x80\xa6", 3);
    expect_fit("\xe6\x97\xa5\xe6\x9c\xac", 2, true, "\xe2\x80\xa6", 1); /* no half of one */
    expect_fit("a\x1b", 4, true, "a\xe2\x80\xa6", 2);                   /* no half of an escape */
}

TEST(marks_stay_with_their_character)
{
    struct token_unit units[4];
    bool more;
    expect_fit("e\xcc\x81", 4, true, "e\xcc\x81", 1);
    expect_fit("\xcc\x81x", 4, true, "\xe2\x97\x8c\xcc\x81x", 2); /* on a circle */
    /* A fifth mark is left out. */
    expect_fit("e\xcc\x81\xcc\x82\xcc\x83\xcc\x84\xcc\x85", 4, true,
               "e\xcc\x81\xcc\x82\xcc\x83\xcc\x84", 1);
    assert_int_equal(token_split("abe\xcc\x81", true, units, 3, &more), 3);
    assert_false(more);
    assert_string_equal(units[2].text, "e\xcc\x81");
    assert_int_equal(token_split("abcd", true, units, 3, &more), 3);
    assert_true(more);
    /* No further unit is made of a mark that has nothing to join. */
    units[3].width = 77;
    assert_int_equal(token_split("ab\n\xcc\x81", true, units, 3, &more), 3);
    assert_true(more && units[3].width == 77);
    assert_int_equal(token_split("abc\xcc\x81", false, units, 3, &more), 3);
    assert_true(more && units[3].width == 77);
}

TEST(text_from_right_to_left_is_isolated)
{
    expect_fit("\xd7\xa9\xd7\x9c", 4, true, TOKEN_ISOLATE "\xd7\xa9\xd7\x9c" TOKEN_ISOLATE_END, 2);
    expect_fit("\xd7\xa9\xd7\x9c\xd7\x9d", 2, true,
               TOKEN_ISOLATE "\xd7\xa9\xe2\x80\xa6" TOKEN_ISOLATE_END, 2);
}

TEST(a_long_token_of_marks_fits_its_room)
{
    char label[4096] = "", text[TOKEN_FIT_BYTES];
    for (int i = 0; i < 300; i++) {
        strcat(label, "\xf0\x9f\x98\x80\xcc\x81\xcc\x81\xcc\x81");
    }
    assert_int_equal(token_fit(label, TOKEN_UNITS_MAX, true, text), TOKEN_UNITS_MAX - 1);
    assert_true(strlen(text) < sizeof text);
}

TEST(names_of_files_are_cleaned)
{
    char text[64], small[6];
    token_clean(" a b\x1b[2J/\xc3\xa9"
                "e\xcc\x81.npz",
                true, text, sizeof text);
    assert_string_equal(text, " a b\\x1b[2J/\xc3\xa9"
                              "e\xcc\x81.npz");
    token_clean("\xc3\xa9", false, text, sizeof text);
    assert_string_equal(text, "\\u00e9");
    token_clean("abc\n\n", true, small, sizeof small);
    assert_string_equal(small, "abc\\n");
}

/* The screen -------------------------------------------------------------------------------------
 */

TEST(the_environment_says_which_characters_and_colours)
{
    struct show_screen screen;
    FILE *out = tmpfile();
    assert_non_null(out);
    setenv("LC_ALL", "C.UTF-8", 1);
    setenv("TERM", "xterm-256color", 1);
    unsetenv("COLORTERM");
    screen_detect(out, false, COLOR_AUTO, 0, &screen);
    assert_true(screen.utf8 && screen.width == 80 && screen.height == 0);
    assert_int_equal(screen.colors, COLORS_NONE); /* no terminal */
    screen_detect(out, true, COLOR_ALWAYS, 33, &screen);
    assert_true(!screen.utf8 && screen.width == 33 && screen.colors == COLORS_256);
    setenv("COLORTERM", "truecolor", 1);
    setenv("LC_ALL", "C", 1);
    screen_detect(out, false, COLOR_ALWAYS, 0, &screen);
    assert_true(!screen.utf8 && screen.colors == COLORS_TRUE);
    fclose(out);
}

static void expect_said(int width, const char *text, const char *lines)
{
    char said[256] = "";
    struct show_screen screen = {.out = tmpfile(), .width = width};
    assert_non_null(screen.out);
    screen_say(&screen, 2, "%s", text);
    rewind(screen.out);
    assert_true(fread(said, 1, sizeof said - 1, screen.out) > 0);
    fclose(screen.out);
    assert_string_equal(said, lines);
}

TEST(sentences_are_broken_between_words)
{
    expect_said(20, "a sentence of many words", "a sentence of many\n  words\n");
    expect_said(24, "a sentence of many words", "a sentence of many words\n");
    expect_said(20, "  indented, and going on", "  indented, and\n  going on\n");
    expect_said(20, "averyverylongwordthatdoesnotfit at all",
                "averyverylongwordthatdoesnotfit\n  at all\n");
}

/* Measuring --------------------------------------------------------------------------------------
 */

#define HEADS 2
#define T     4

struct fixture {
    char directory[64], path[128], error[SOURCE_ERROR_MAX];
    struct source *source;
    struct findings found;
    float map[HEADS][T][T];
};

static int show_set_up(void **state)
{
    static struct fixture f;
    f = (struct fixture){.directory = "/tmp/attnd-show-XXXXXX"};
    assert_non_null(mkdtemp(f.directory));
    snprintf(f.path, sizeof f.path, "%s/decoder.0.self.npy", f.directory);
    *state = &f;
    return 0;
}

static int show_tear_down(void **state)
{
    struct fixture *f = *state;
    findings_clear(&f->found);
    source_free(&f->source);
    unlink(f->path);
    return rmdir(f->directory);
}

#define SHOW_TEST(name) TEST_OF(name, struct fixture *f, show_set_up, show_tear_down)

/* Query i gives 1 / (i + 1) to each key up to itself. */
static void make_causal(struct fixture *f)
{
    for (int h = 0; h < HEADS; h++) {
        for (int i = 0; i < T; i++) {
            for (int j = 0; j <= i; j++) {
                f->map[h][i][j] = 1.0f / (float)(i + 1);
            }
        }
    }
}

static void show_measure(struct fixture *f, struct show_request request)
{
    static const char header[] =
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 4, 4)}\n";
    char *file = f->path;
    FILE *out = fopen(f->path, "w");
    assert_non_null(out);
    fwrite("\x93NUMPY\1\0", 8, 1, out);
    putc(sizeof header - 1, out);
    putc(0, out);
    fwrite(header, sizeof header - 1, 1, out);
    fwrite(f->map, sizeof f->map, 1, out);
    assert_int_equal(fclose(out), 0);
    struct source_request opening = {
        .files = &file, .file_count = 1, .naming = {.stack = STACK_DECODER}};
    assert_int_equal(source_open(&opening, &f->source, f->error), CLI_OK);
    assert_int_equal(measure_map(f->source, &request, &f->found, f->error), CLI_OK);
}

static struct show_request request_for(uint32_t head, uint32_t query)
{
    return (struct show_request){
        .head = head, .query = query, .picture_rows = 9, .picture_columns = 9, .pairs = 3};
}

SHOW_TEST(sound_rows_are_counted)
{
    make_causal(f);
    show_measure(f, request_for(HEAD_MEAN, TOKEN_AUTO));
    const struct row_sums *sums = &f->found.sums;
    assert_true(sums->rows == 8 && sums->sound == 8);
    assert_true(sums->zero == 0 && sums->missing == 0 && sums->other == 0);
    assert_true(fabs(sums->min - 1) < 1e-6 && fabs(sums->max - 1) < 1e-6 && sums->deviation < 1e-6);
    assert_int_equal(f->found.finite, T * T);
}

SHOW_TEST(rows_that_are_not_sound_are_told_apart)
{
    make_causal(f);
    memset(f->map[0][1], 0, sizeof f->map[0][1]);
    f->map[0][2][0] = NAN;
    f->map[1][3][3] = 0.75f;
    f->map[1][2][2] = INFINITY;
    show_measure(f, request_for(HEAD_MEAN, TOKEN_AUTO));
    const struct row_sums *sums = &f->found.sums;
    assert_true(sums->rows == 8 && sums->sound == 4 && sums->zero == 1 && sums->missing == 2 &&
                sums->other == 1);
    assert_true(sums->other_head == 1 && sums->other_row == 3 && sums->other_sum == 1.5);
    assert_true(sums->max == 1.5 && fabs(sums->deviation - 0.1) < 1e-6);
}

SHOW_TEST(the_query_moves_on_from_one_key)
{
    make_causal(f);
    f->map[1][3][0] = 0.5f;
    f->map[1][3][1] = 0;
    show_measure(f, request_for(1, TOKEN_AUTO));
    assert_true(f->found.moved && f->found.row == 3);
    assert_true(f->found.query[0] == 0.5f && f->found.query[1] == 0);
    findings_clear(&f->found);
    source_free(&f->source);
    show_measure(f, request_for(HEAD_MEAN, 0));
    assert_true(!f->found.moved && f->found.row == 0 && f->found.query[0] == 1);
}

SHOW_TEST(each_head_has_its_first_keys)
{
    make_causal(f);
    memcpy(f->map[0][2], (float[]){0.25f, 0.5f, 0.25f, 0}, 4 * sizeof(float));
    memcpy(f->map[1][2], (float[]){NAN, NAN, NAN, 0.5f}, 4 * sizeof(float));
    show_measure(f, request_for(HEAD_MEAN, 2));
    const struct entry *tops = f->found.tops;
    assert_int_equal(f->found.top_count, 3);
    assert_true(tops[0].column == 1 && tops[0].weight == 0.5f);
    assert_true(tops[1].column == 0 && tops[2].column == 2); /* equal ones in their order */
    assert_true(tops[3].column == 3 && tops[3].weight == 0.5f);
    assert_true(isnan(tops[4].weight) && isnan(tops[5].weight));
    assert_true(isnan(f->found.query[0]) && f->found.query[3] == 0.25f); /* the mean */
}

SHOW_TEST(pairs_are_the_largest_entries_in_order)
{
    make_causal(f);
    show_measure(f, request_for(0, TOKEN_AUTO));
    const struct entry *pairs = f->found.pairs;
    assert_int_equal(f->found.pair_count, 3);
    assert_true(pairs[0].row == 0 && pairs[0].column == 0 && pairs[0].weight == 1);
    assert_true(pairs[1].row == 1 && pairs[1].column == 0);
    assert_true(pairs[2].row == 1 && pairs[2].column == 1 && pairs[2].weight == 0.5f);
}

SHOW_TEST(the_picture_is_of_means)
{
    make_causal(f);
    f->map[0][0][1] = NAN;
    struct show_request request = request_for(0, TOKEN_AUTO);
    request.picture_rows = 2;
    request.picture_columns = 3;
    show_measure(f, request);
    assert_true(f->found.picture_rows == 2 && f->found.picture_columns == 3);
    /* Columns 0, 1, 2 to 3; rows 0 to 1, 2 to 3. */
    assert_true(fabs(f->found.picture[0] - 0.75) < 1e-6);
    assert_true(fabs(f->found.picture[1] - 0.5) < 1e-6); /* the NaN is passed over */
    assert_true(f->found.picture[2] == 0);
    assert_true(fabs(f->found.picture[5] - (1.0 / 3 + 0.5) / 4) < 1e-6);
}

SHOW_TEST(a_map_without_numbers_has_none)
{
    memset(f->map, 0xff, sizeof f->map); /* the bits of a NaN */
    show_measure(f, request_for(HEAD_MEAN, TOKEN_AUTO));
    assert_int_equal(f->found.finite, 0);
    assert_int_equal(f->found.pair_count, 0);
    assert_true(isnan(f->found.sums.deviation) && isnan(f->found.picture[0]));
}

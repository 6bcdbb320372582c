/* SPDX-License-Identifier: MIT */
/* What figures are made of; tests/cli/test_plot.py has the figures themselves. */
#include "clients/cli/plot/colormap.h"
#include "clients/cli/plot/fonts.h"
#include "clients/cli/plot/heat.h"
#include "clients/cli/plot/label.h"
#include "clients/cli/plot/output.h"
#include "clients/cli/plot/png_file.h"
#include "clients/cli/plot/ticks.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* Labels ----------------------------------------------------------------------------------------
 */

static void assert_label(const char *text, const char *expected)
{
    char label[LABEL_MAX];
    label_clean(text, label, sizeof label);
    assert_string_equal(label, expected);
}

static void test_labels_show_every_character(void **state)
{
    (void)state;
    assert_label("the", "the");
    assert_label("", "\xe2\x88\x85");
    assert_label("  ", "\xe2\x90\xa3\xe2\x90\xa3");
    assert_label(" the", " the");
    assert_label("a\nb\tc\x07", "a\xe2\x86\xb5"
                                "b\xe2\x87\xa5"
                                "c\xc2\xb7");
    assert_label("\xe2\x80\xae"
                 "abc",
                 "\xc2\xb7"
                 "abc");
}

static void test_labels_are_utf8(void **state)
{
    static const char broken[] = "\xef\xbf\xbd";
    char expected[64];
    (void)state;
    assert_label("caf\xc3\xa9 \xf0\x9f\x98\x80", "caf\xc3\xa9 \xf0\x9f\x98\x80");
    snprintf(expected, sizeof expected, "a%s", broken);
    assert_label("a\xff", expected);
    assert_label("a\xc3", expected);
    snprintf(expected, sizeof expected, "%s%s", broken, broken);
    assert_label("\xc0\xaf", expected);
    snprintf(expected, sizeof expected, "%s%s%s", broken, broken, broken);
    assert_label("\xed\xa0\x80", expected);
    assert_label("\xe0\x80\x80", expected);
}

static void test_labels_are_cut_between_characters(void **state)
{
    char label[6];
    (void)state;
    label_clean("abcd\xc3\xa9", label, sizeof label);
    assert_string_equal(label, "abcd");
    label_clean("abc\xc3\xa9", label, sizeof label);
    assert_string_equal(label, "abc\xc3\xa9");
}

static void test_long_texts_get_an_ellipsis(void **state)
{
    struct fonts *fonts = NULL;
    char text[64] = "a long text that does not fit", whole[64] = "short";
    (void)state;
    assert_int_equal(fonts_new("sans-serif", &fonts), 0);
    fonts_shorten(fonts, 8, 40, text, sizeof text);
    assert_true(fonts_width(fonts, text, 8, false) <= 40);
    assert_true(strlen(text) > 4);
    assert_string_equal(text + strlen(text) - 3, "\xe2\x80\xa6");
    fonts_shorten(fonts, 8, 40, whole, sizeof whole);
    assert_string_equal(whole, "short");
    fonts_free(&fonts);
    assert_null(fonts);
}

/* Ticks -----------------------------------------------------------------------------------------
 */

static void assert_ticks(const struct ticks *ticks, const char *expected)
{
    char all[256] = "", text[TICK_TEXT_MAX];
    for (uint32_t i = 0; i < ticks->count; i++) {
        size_t used = strlen(all);
        ticks_text(ticks, i, text);
        snprintf(all + used, sizeof all - used, "%s%s", i > 0 ? " " : "", text);
    }
    assert_string_equal(all, expected);
}

static void test_ticks_are_round_numbers(void **state)
{
    struct ticks ticks;
    (void)state;
    ticks_linear(0, 1, 5, 0, &ticks);
    assert_ticks(&ticks, "0.0 0.2 0.4 0.6 0.8 1.0");
    ticks_linear(0, 0.031, 4, 0, &ticks);
    assert_ticks(&ticks, "0.00 0.01 0.02 0.03");
    ticks_linear(-1, 1, 4, 0, &ticks);
    assert_ticks(&ticks, "\xe2\x88\x92"
                         "1.0 \xe2\x88\x92"
                         "0.5 0.0 0.5 1.0");
    ticks_linear(0, 511, 6, 1, &ticks);
    assert_ticks(&ticks, "0 100 200 300 400 500");
    ticks_linear(0, 3e-5, 3, 0, &ticks);
    assert_ticks(&ticks, "0 1e-05 2e-05 3e-05");
}

static void test_ticks_of_positions_are_whole(void **state)
{
    struct ticks ticks;
    (void)state;
    ticks_linear(0, 2, 9, 1, &ticks);
    assert_ticks(&ticks, "0 1 2");
    ticks_linear(0, 0.5, 9, 1, &ticks);
    assert_ticks(&ticks, "0");
}

static void test_ticks_of_logarithms(void **state)
{
    struct ticks ticks;
    (void)state;
    ticks_powers(1e-6, 10, 8, &ticks);
    assert_int_equal(ticks.count, 8);
    ticks_powers(0.09, 2.5, 8, &ticks);
    assert_ticks(&ticks, "0.1 0.2 0.5 1 2");
}

/* Colours ---------------------------------------------------------------------------------------
 */

static void test_colours_are_steps(void **state)
{
    struct colormap map;
    (void)state;
    assert_int_equal(colormap_find("viridis", &map), 0);
    assert_int_equal(colormap_at(&map, 0, 1, 0), OPAQUE(0x440154));
    assert_int_equal(colormap_at(&map, 0, 1, 1), OPAQUE(0xfde725));
    assert_int_equal(colormap_at(&map, 0, 1, 0.5), map.color[128]);
    assert_int_equal(colormap_at(&map, 0, 1, -7), map.color[0]);
    assert_int_equal(colormap_at(&map, 0, 1, 7), map.color[255]);
    assert_int_equal(colormap_at(&map, 0, 1, NAN), 0);
    assert_int_equal(colormap_find("jet", &map), -1);
}

static void test_every_name_is_a_map(void **state)
{
    struct colormap map;
    char names[] = COLORMAP_NAMES;
    (void)state;
    for (char *at = names, *name; (name = strsep(&at, ",")) != NULL;) {
        assert_int_equal(colormap_find(name + strspn(name, " "), &map), 0);
    }
}

static void test_every_map_can_be_reversed(void **state)
{
    struct colormap map, reversed;
    (void)state;
    colormap_find("RdBu", &map);
    assert_int_equal(colormap_find("RdBu_r", &reversed), 0);
    for (int step = 0; step < 256; step++) {
        assert_int_equal(map.color[step], reversed.color[255 - step]);
    }
    assert_int_equal(colormap_find("RdBu_", &map), -1);
    assert_int_equal(colormap_find("RdBu_r_r", &map), -1);
}

/* Maps ------------------------------------------------------------------------------------------
 */

static void test_range_leaves_out_what_is_no_number(void **state)
{
    float values[6] = {1, NAN, -2, INFINITY, 3, 0};
    struct heat heat = {values, 2, 3, 2, 3, false, 0, 0, 0};
    struct heat_range range = heat_range_none();
    (void)state;
    assert_true(range.least > range.most);
    heat_measure(&heat, &range);
    assert_true(range.least == -2 && range.most == 3);
    assert_int_equal(range.missing, 1);
    assert_int_equal(range.infinite, 1);
}

static void test_padding_is_at_both_ends(void **state)
{
    float values[9] = {1, 2, 0, 3, 4, 0, 0, 0, 0}, none[4] = {0, 0, 0, 0};
    struct heat heat = {values, 3, 3, 6, 6, false, 0, 0, 0};
    struct heat zero = {none, 2, 2, 2, 2, false, 0, 0, 0};
    struct heat_range range = heat_range_none();
    (void)state;
    heat_find_padding(&heat, true);
    assert_true(heat.padded_queries == 4 && heat.padded_keys == 4);
    heat_measure(&heat, &range);
    assert_true(range.least == 1 && range.most == 4);
    heat_find_padding(&zero, true);
    assert_true(zero.padded_queries == 0 && zero.padded_keys == 0);
    values[8] = NAN;
    heat.padded_queries = heat.padded_keys = 0;
    heat_find_padding(&heat, false);
    assert_true(heat.padded_queries == 0 && heat.padded_keys == 0);
}

static void test_shares_of_values(void **state)
{
    float values[8] = {-1, 0, 0.25f, 0.25f, 0.5f, NAN, 2, 100};
    struct heat heat = {values, 1, 8, 1, 8, false, 0, 0, 0};
    struct heat_count *count = heat_count_new();
    (void)state;
    assert_non_null(count);
    heat_count_add(count, &heat);
    assert_true(heat_count_share(count, -2) == 0);
    assert_true(heat_count_share(count, 0.25) == 4 / 7.0);
    assert_true(heat_count_share(count, 200) == 1);
    assert_true(fabs(heat_count_value(count, 6 / 7.0) - 2) <= 2 / 128.0);
    assert_true(heat_count_value(count, 1) >= 100);
    free(count);
}

static void test_what_is_masked_does_not_count(void **state)
{
    float values[4] = {1, NAN, 2, 3};
    struct heat heat = {values, 2, 2, 2, 2, true, 0, 0, 0};
    struct heat_range range = heat_range_none();
    (void)state;
    heat_measure(&heat, &range);
    assert_int_equal(range.missing, 0);
    assert_true(heat_is_masked(&heat, 0, 1));
    assert_false(heat_is_masked(&heat, 1, 1));
    heat.q_offset = 1;
    assert_false(heat_is_masked(&heat, 0, 1));
}

static void test_pooling_is_the_mean_of_numbers(void **state)
{
    float values[8] = {1, 3, NAN, NAN, 5, 7, NAN, 4}, pooled[2];
    struct heat heat = {values, 2, 4, 2, 4, false, 0, 0, 0};
    (void)state;
    struct heat small = heat_pool(&heat, 1, 2, pooled);
    assert_int_equal(small.rows, 1);
    assert_int_equal(small.columns, 2);
    assert_int_equal(small.keys, 4);
    assert_true(pooled[0] == 4 && pooled[1] == 4);
}

static void test_colours_of_a_map(void **state)
{
    float values[4] = {0, 9, NAN, 1};
    uint32_t colors[4];
    struct heat heat = {values, 2, 2, 2, 2, true, 0, 0, 0};
    struct colormap map;
    (void)state;
    colormap_find("magma", &map);
    heat_colors(&heat, &map, 0, 1, colors);
    assert_int_equal(colors[0], map.color[0]);
    assert_int_equal(colors[1], HEAT_MASKED);
    assert_int_equal(colors[2], 0);
    assert_int_equal(colors[3], map.color[255]);
}

/* Files -----------------------------------------------------------------------------------------
 */

static void test_names_of_files(void **state)
{
    char path[OUTPUT_PATH_MAX], pattern[OUTPUT_PATH_MAX];
    (void)state;
    assert_int_equal(output_expand("a/{layer}-h{head}{x}.png", "decoder.1.self", "07", path), 0);
    assert_string_equal(path, "a/decoder.1.self-h07{x}.png");
    memset(pattern, 'a', sizeof pattern - 1);
    pattern[sizeof pattern - 1] = '\0';
    assert_int_equal(output_expand(pattern, "", "", path), -1);
}

static void test_a_file_is_whole_or_as_it_was(void **state)
{
    char folder[] = "/tmp/test-plot-XXXXXX", path[64], data[8] = "";
    struct bytes file = {(uint8_t *)data, 3};
    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/x/y/a.png", folder);
    assert_int_equal(output_write(path, &file), -ENOENT);
    assert_int_equal(output_make_folders(path), 0);
    assert_int_equal(output_write(path, &file), 0);
    assert_int_equal(access(path, R_OK), 0);
    assert_int_equal(unlink(path), 0);
    snprintf(path, sizeof path, "%s/x/y", folder);
    assert_int_equal(output_write(path, &file), -EISDIR);
    assert_int_equal(rmdir(path), 0); /* nothing else was left in it */
    snprintf(path, sizeof path, "%s/x", folder);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rmdir(folder), 0);
}

static void test_pixels_become_a_png(void **state)
{
    uint32_t data[4] = {0xff102030, 0, 0xffffffff, 0x80000000};
    struct pixels pixels = {data, 2, 2, 2, .alpha = true};
    struct bytes file;
    (void)state;
    assert_int_equal(png_encode(&pixels, &file), 0);
    assert_memory_equal(file.data, "\x89PNG\r\n\x1a\n", 8);
    assert_memory_equal(file.data + file.size - 8, "IEND", 4);
    free(file.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_labels_show_every_character),
        cmocka_unit_test(test_labels_are_utf8),
        cmocka_unit_test(test_labels_are_cut_between_characters),
        cmocka_unit_test(test_long_texts_get_an_ellipsis),
        cmocka_unit_test(test_ticks_are_round_numbers),
        cmocka_unit_test(test_ticks_of_positions_are_whole),
        cmocka_unit_test(test_ticks_of_logarithms),
        cmocka_unit_test(test_colours_are_steps),
        cmocka_unit_test(test_every_name_is_a_map),
        cmocka_unit_test(test_every_map_can_be_reversed),
        cmocka_unit_test(test_range_leaves_out_what_is_no_number),
        cmocka_unit_test(test_padding_is_at_both_ends),
        cmocka_unit_test(test_shares_of_values),
        cmocka_unit_test(test_what_is_masked_does_not_count),
        cmocka_unit_test(test_pooling_is_the_mean_of_numbers),
        cmocka_unit_test(test_colours_of_a_map),
        cmocka_unit_test(test_names_of_files),
        cmocka_unit_test(test_a_file_is_whole_or_as_it_was),
        cmocka_unit_test(test_pixels_become_a_png),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
/* attnctl top draws on screens of several sizes, with and without block characters. */
#include "tests/unit/cli/top/maps.h"

#include "clients/cli/top/internal.h"
#include "proto/err.h"

static struct screen screen;

static int view_set_up(void **state)
{
    screen = (struct screen){.unicode = true};
    return model_set_up(state);
}

static int view_tear_down(void **state)
{
    screen_free(&screen);
    return model_tear_down(state);
}

#define VIEW_TEST(name) TEST_OF(name, struct model *model, view_set_up, view_tear_down)

VIEW_TEST(text_that_is_too_long_ends_in_an_ellipsis)
{
    screen_resize(&screen, 10, 3);
    assert_int_equal(screen_put(&screen, 0, 2, 5, STYLE_PLAIN, "abcde"), 5);
    assert_row(&screen, 0, "  abcde");
    screen_put(&screen, 1, 2, 5, STYLE_PLAIN, "abcdef");
    assert_row(&screen, 1, "  abcd…");
    screen.unicode = false;
    screen_put(&screen, 2, 7, 50, STYLE_PLAIN, "abcdef");
    assert_row(&screen, 2, "       a..");
}

VIEW_TEST(nothing_is_drawn_outside)
{
    screen_resize(&screen, 4, 2);
    screen_put(&screen, -1, 0, 4, STYLE_PLAIN, "x");
    screen_put(&screen, 2, 0, 4, STYLE_PLAIN, "x");
    screen_put(&screen, 0, 4, 4, STYLE_PLAIN, "x");
    screen_put(&screen, 0, -2, 4, STYLE_PLAIN, "abcd");
    screen_put(&screen, 1, 0, 0, STYLE_PLAIN, "x");
    screen_choose_row(&screen, 9);
    screen_blank(&screen, -5, -5, 6, 6);
    assert_row(&screen, 0, " d");
    assert_row(&screen, 1, "");
    assert_int_equal(screen_resize(&screen, 0, 5), -1);
    screen_clear(&screen);
    screen_put(&screen, 0, 0, 4, STYLE_PLAIN, "x");
}

/* Nothing that moves a cursor, takes two columns or none, or is no UTF-8. */
VIEW_TEST(characters_that_a_terminal_would_act_on_become_question_marks)
{
    static const struct {
        const char *text, *shown;
    } cases[] = {
        {"a\033[2Jb", "a?[2Jb"},   {"a\r\n\tb\x7f", "a???b?"},
        {"\xc2\x9b", "?"},         {"caf\xc3\xa9", "café"},
        {"e\xcc\x81", "e?"},       {"\xe6\xbc\xa2", "?"},
        {"\xf0\x9f\x98\x80", "?"}, {"\xc3", "?"},
        {"\xff\xfe", "??"},        {"\xe2\x96", "??"},
        {"\xe2\x80\xae", "?"},     {"\xc0\x80", "??"},
        {"\xe2\x96\x83", "▃"},     {"\xf4\x90\x80\x80", "????"},
        {"\xc2\xad", "?"},         {"\xe0\x81\x81", "???"},
        {"\xe0\x82\xa9", "???"},
    };
    screen_resize(&screen, 12, 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        screen_clear(&screen);
        screen_put(&screen, 0, 0, 12, STYLE_PLAIN, cases[i].text);
        assert_row(&screen, 0, cases[i].shown);
    }
    screen.unicode = false;
    screen_clear(&screen);
    screen_put(&screen, 0, 0, 12, STYLE_PLAIN, "caf\xc3\xa9 \xe2\x96\x83");
    assert_row(&screen, 0, "caf? ?");
}

VIEW_TEST(bars_stand_for_numbers)
{
    const double values[] = {0, 1, 2, 3, 4, 5, 6, 7, NAN, 7};
    screen_resize(&screen, 20, 3);
    int drawn =
        bars_line(&screen, 0, 0, 20, values, 10, range_of(values, 10), (struct bars_color){0});
    assert_int_equal(drawn, 10);
    assert_row(&screen, 0, "▁▂▃▄▅▆▇█ █");
    bars_line(&screen, 1, 0, 4, values, 8, range_of(values, 8), (struct bars_color){0});
    assert_row(&screen, 1, "▂▄▆█"); /* means of two */
    screen.unicode = false;
    bars_line(&screen, 2, 0, 20, values, 10, range_of(values, 10), (struct bars_color){0});
    assert_row(&screen, 2, ".:-=+*%@ @");
    assert_int_equal(bars_level(NAN, range_of(values, 10)), -1);
    assert_int_equal(bars_level(3, range_none), -1);
    assert_int_equal(bars_level(5, (struct range){5, 5}), 0);
    assert_int_equal(bars_level(99, (struct range){0, 1}), 7);
}

VIEW_TEST(a_chart_fills_its_width)
{
    const double values[] = {0, 0.5, 1};
    screen_resize(&screen, 10, 2);
    assert_int_equal(bars_chart(&screen, 0, 0, 10, 2, values, 3, range_of(values, 3)), 9);
    assert_row(&screen, 0, "   ▁▁▁███");
    assert_row(&screen, 1, "▁▁▁██████");
    assert_int_equal(bars_column(3, 10, 2), 6);
    assert_int_equal(bars_column(100, 10, 55), 5);
    assert_int_equal(bars_column(0, 10, 0), 0);
}

TEST(numbers_take_at_most_eight_columns)
{
    static const struct {
        double number;
        const char *text;
    } cases[] = {
        {0.0728, "0.0728"},     {0, "0.0000"},      {12.3456, "12.346"},     {-123.456, "-123.46"},
        {54321.98, "54322.0"},  {1e9, "1.0e+09"},   {-2e-7, "-2.0e-07"},     {NAN, "-"},
        {-99999.4, "-99999.4"}, {0.0005, "0.0005"}, {-1.5e-300, "-1.5e-300"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[VIEW_NUMBER_MAX];
        view_number(cases[i].number, text);
        assert_string_equal(text, cases[i].text);
    }
    char text[VIEW_NUMBER_MAX];
    view_shift(-12.44, text);
    assert_string_equal(text, "*-12.4");
    view_shift(5.9, text);
    assert_string_equal(text, "+5.9");
    view_shift(605000, text);
    assert_string_equal(text, "*+6e+05");
}

VIEW_TEST(heads_at_80_columns)
{
    give_monitor(model,
                 &(struct monitor){.job = "gpt-small",
                                   .step = 34, /* a message without maps */
                                   .received = 20,
                                   .bytes = 4096,
                                   .lost = 2,
                                   .dropped = 1,
                                   .uptime_s = 9},
                 3000);
    draw(model, &screen, 80, 24);
    assert_row(&screen, 0,
               " attnd top  gpt-small  run abcdef01  active  epoch 3 step 34"
               "           14:02:31");
    assert_row(&screen, 1,
               " 10.0 messages/s  2.0 KiB/s  lost 2  dropped 1 (late)  +3 NOW  queue 5"
               "  up 9.0 s");
    assert_row(&screen, 2, " Needs attention at step 29:  !! 1 critical  firing at end");
    assert_row(&screen, 3,
               "    WHERE               METRIC                VALUE    BOUND    SINCE RULE");
    assert_row(&screen, 4,
               " !! decoder.0.self.h2   entropy_normalized   0.0500   0.1000       20 entropy_c…");
    assert_row(&screen, 5, " Lower the learning rate.");
    assert_row(&screen, 6, " entropy_normalized of step 30, 8 heads, alerts first, then drift");
    assert_row(&screen, 7,
               "    HEAD                   NOW    SHIFT EPOCHS 1-12   PATTERN    ALERT");
    assert_row(&screen, 8,
               ">!! decoder.0.self.h2   0.2200     +3.0 ▁▂▂▃▄▄▅▅▆▇▇█  mixed     "
               " entropy_collap…");
    assert_row(&screen, 9, "    decoder.1.self.h3   0.5300   *-12.0 ▁▂▂▃▄▄▅▅▆▇▇█  mixed");
    assert_shows(&screen, "induction");
    assert_row(&screen, 23,
               " Enter open  a attention  Tab layers  m metric  ? keys  q quit"
               "         1-8 of 8");
}

VIEW_TEST(layers_have_their_heads_side_by_side)
{
    keys_press(model, KEY_OF_TAB);
    draw(model, &screen, 120, 20);
    assert_row(&screen, 6, " entropy_normalized, 2 layers, alerts first, then drift");
    assert_shows(&screen, ">!! decoder.0.self   0.2150   0.2000   0.2300 ▁▁▁▂      +4.0 ");
    assert_shows(&screen, "    decoder.1.self   0.5150   0.5000   0.5300 ▇███    *-12.0 ");
    assert_shows(&screen, "1: entropy_collapse");
}

/* As much of both its ends as there is room for, on each page. */
VIEW_TEST(the_chosen_layer_says_its_module)
{
    maps_module = "vision_model.encoder.layers.0.self_attn";
    give_live(model, 0, 4, 0.2, 30);
    maps_module = "bad\x1b[2J.attn";
    give_live(model, 1, 4, 0.2, 30);
    maps_module = NULL;
    draw(model, &screen, 120, 24);
    assert_row(&screen, 6,
               " entropy_normalized, 8 heads, alerts first, then drift"
               "                          vision_model.encoder.layers.0.self_attn");
    draw(model, &screen, 80, 24);
    assert_row(&screen, 6,
               " entropy_normalized, 8 heads, alerts first, then drift  vision_mod..0.self_attn");
    keys_press(model, KEY_OF_DOWN);
    draw(model, &screen, 120, 24);
    assert_shows(&screen, "bad?[2J.attn");
    keys_press(model, KEY_OF_TAB);
    draw(model, &screen, 120, 24);
    assert_shows(&screen, "vision_model.encoder.layers.0.self_attn");
}

VIEW_TEST(a_head_has_a_chart_with_marks)
{
    keys_press(model, KEY_OF_ENTER);
    give_live(model, 0, 4, 0.2, 31);
    give_summary(model, 0, 4, 0.25, 1);
    give_grid(model, "entropy_normalized", 1, 4, 12);
    draw(model, &screen, 80, 24);
    assert_row(&screen, 3, " decoder.0.self.h2, mixed, epoch 3 step 31, 64 rows, 0 invalid");
    assert_shows(&screen, "mean of entropy_normalized over epochs 1-12");
    /* The third window holds step 20; each is four columns wide. */
    assert_row(&screen, 8, "                   !!");
    assert_shows(&screen, "!! entropy_collapse since step 20: entropy of decoder.0.self head 2");
    assert_shows(&screen, "> entropy_normalized         0.2200   0.2700     +3.0 ▁▂▂▃▄▄▅▅▆▇▇█");
    assert_shows(&screen, "  confidence                 0.7800        -        -");
}

VIEW_TEST(all_that_needs_attention_has_a_page)
{
    give_verdict(model,
                 (const struct verdict_given[]){{0, -1, ALERT_CRITICAL}, {1, 3, ALERT_WARNING}}, 2);
    strcpy(model->verdict[1].advice,
           "a sentence that is longer than a line of this terminal, so that it is broken "
           "between two \033[31mwords");
    keys_press(model, 'a');
    draw(model, &screen, 80, 14);
    assert_row(&screen, 2,
               " Needs attention at step 29:  !! 1 critical  ! 1 warning  firing at end");
    assert_shows(&screen, ">!! decoder.0.self      entropy_normalized   0.0500   0.1000       20");
    assert_shows(&screen, " !  decoder.1.self.h3   entropy_normalized   0.0500   0.1000       20");
    assert_row(&screen, 7, " of all heads");
    keys_press(model, KEY_OF_DOWN);
    draw(model, &screen, 80, 14);
    assert_row(&screen, 7, " of one head");
    assert_row(&screen, 8, " Why it matters.");
    assert_row(&screen, 9,
               " a sentence that is longer than a line of this terminal, so that it is broken");
    assert_row(&screen, 10, " between two ?[31mwords");
}

VIEW_TEST(when_all_is_well_it_says_so_and_of_which_step)
{
    give_verdict(model, NULL, 0);
    draw(model, &screen, 80, 24);
    assert_row(&screen, 2, " No alerts at step 29.");
    assert_row(&screen, 3, " entropy_normalized, 8 heads, alerts first, then drift");
    assert_shows(&screen, ">   decoder.1.self.h3   0.5300   *-12.0 ▁▂▂▃▄▄▅▅▆▇▇█  mixed");
    keys_press(model, 'a');
    draw(model, &screen, 80, 24);
    assert_shows(&screen, "No alerts at step 29.");
    model_forget(model);
    draw(model, &screen, 80, 24);
    assert_row(&screen, 2, " Needs attention: not known, no window has been judged yet");
}

VIEW_TEST(an_attnd_that_does_not_answer_is_said_at_the_top)
{
    model->silent_since_ms = 5000; /* drawn at 10000 */
    draw(model, &screen, 80, 24);
    assert_row(&screen, 1, " attnd does not answer since 5 s; trying again");
    view_draw(model, &screen, 3705000, "14:02:31");
    assert_row(&screen, 1, " attnd does not answer since 1 h 1 min; trying again");
    assert_shows(&screen, "decoder.0.self.h2");
}

EMPTY_TEST(without_a_job_it_says_how_to_attach)
{
    screen = (struct screen){.unicode = true};
    draw(model, &screen, 80, 24);
    assert_shows(&screen, "asking attnd");
    strcpy(model->refused, "out of memory");
    model_choose_job(model, "mine");
    draw(model, &screen, 80, 24);
    assert_shows(&screen, "out of memory");
    assert_shows_not(&screen, "With a key");
    snprintf(model->refused, sizeof model->refused, "%s: monitor", err_text(ERR_ACCESS));
    draw(model, &screen, 80, 24);
    assert_shows(&screen, "With a key, this screen needs the role read with the pattern *.");
    assert_shows_not(&screen, "attnd knows no job");
    *model->refused = '\0';
    model_choose_job(model, "");
    give_monitor(model, &(struct monitor){0}, 0);
    draw(model, &screen, 60, 14);
    assert_shows(&screen, "with attnd.watch(model, job=\"gpt-small\"):");
    assert_shows(&screen, "It appears here with its first captured step.");
    model_choose_job(model, "mine");
    draw(model, &screen, 80, 24);
    assert_shows(&screen, "attnd knows no job 'mine' yet.");
    assert_shows_not(&screen, "Needs attention");
    give_monitor(model, &(struct monitor){.job = "mine"}, 0);
    draw(model, &screen, 80, 24);
    assert_shows(&screen, "mine has sent nothing that was measured yet.");
    screen_free(&screen);
}

VIEW_TEST(a_screen_that_is_too_small_says_so)
{
    draw(model, &screen, 59, 24);
    assert_shows(&screen, "attnctl top needs 60 x 10\nthis is 59 x 24");
    draw(model, &screen, 80, 9);
    assert_shows(&screen, "this is 80 x 9");
    draw(model, &screen, 12, 5);
    assert_shows(&screen, "needs 60x10\nis 12x5");
    draw(model, &screen, 1, 1);
    draw(model, &screen, 60, 10);
    assert_shows(&screen, ">!! decoder.0.self.h2");
}

static bool is_ascii(void)
{
    for (int i = 0; i < screen.width * screen.height; i++) {
        if ((signed char)screen.cells[i].text[0] < ' ') {
            return false;
        }
    }
    return true;
}

/* Every page and everything on top of one, at every size, in ASCII too. */
VIEW_TEST(every_page_at_every_size)
{
    screen.unicode = false;
    keys_press(model, KEY_OF_ENTER);
    give_live(model, 0, 4, 0.2, 31);
    give_grid(model, "entropy_normalized", 1, 4, 100);
    for (int width = 1; width < 220; width += 7) {
        for (int height = 1; height < 60; height += 3) {
            for (enum page page = PAGE_JOBS; page <= PAGE_VERDICT; page++) {
                for (enum overlay overlay = OVERLAY_NONE; overlay <= OVERLAY_SORT; overlay++) {
                    model->ui.page = page;
                    model->ui.overlay = overlay;
                    draw(model, &screen, width, height);
                    assert_true(is_ascii());
                }
            }
        }
    }
}

VIEW_TEST(a_metric_that_there_is_not_is_named)
{
    model_choose_metric(model, "confidense");
    draw(model, &screen, 80, 24);
    assert_row(&screen, 6,
               " no metric 'confidense' here; did you mean 'confidence'?: m chooses one");
    model_choose_metric(model, "entropy_normalized");
    model_choose_sort(model, "zzz");
    model_arrange(model);
    draw(model, &screen, 80, 24);
    assert_row(&screen, 6, " no metric 'zzz' here: s chooses one");
    model_choose_sort(model, "confidence");
    draw(model, &screen, 80, 24);
    assert_row(&screen, 6, " entropy_normalized, 8 heads, greatest confidence first");
}

VIEW_TEST(the_keys_are_whole_at_80_columns)
{
    model->ui.overlay = OVERLAY_HELP;
    draw(model, &screen, 80, 24);
    for (int i = 0; i < key_help_count; i++) {
        assert_shows(&screen, key_help[i].text);
    }
    assert_shows(&screen, "SHIFT");
}

/* The worst of many alerts is on top of the tables, as much as a tall terminal has room for. */
VIEW_TEST(the_tables_keep_most_of_the_terminal)
{
    static struct verdict_given given[20];
    for (uint32_t i = 0; i < 20; i++) {
        given[i] = (struct verdict_given){i / 4, (int32_t)i % 4, ALERT_CRITICAL};
    }
    give_verdict(model, given, 20);
    for (int tables = 0; tables < 2; tables++) {
        draw(model, &screen, 120, 40);
        assert_shows(&screen,
                     " !! decoder.1.self.h0      entropy_normalized         0.0500   0.1000"
                     "       20 ▁▂▂▃▄▄▅▅▆▇▇█     entropy_collapse");
        assert_shows_not(&screen, " !! decoder.1.self.h1      entropy_normalized");
        assert_row(&screen, 9, " Lower the learning rate.");
        draw(model, &screen, 80, 16);
        assert_shows(&screen, " !! decoder.0.self.h1   entropy_normalized ");
        assert_shows_not(&screen, " !! decoder.0.self.h2   entropy_normalized ");
        keys_press(model, KEY_OF_TAB);
    }
}

VIEW_TEST(what_was_cut_off_is_said)
{
    model->cut = true;
    model->ui.paused = true;
    strcpy(model->ui.filter, "h3");
    model_arrange(model);
    draw(model, &screen, 120, 24);
    assert_shows(&screen, "2 of 8 heads (there are more), alerts first, then drift  filter: h3");
    assert_shows(&screen, "PAUSED: p goes on");
    model->verdict_cut = true;
    draw(model, &screen, 80, 24);
    assert_shows(&screen, "!! 1 critical  and more");
    model->ui.page = PAGE_HEADS;
    strcpy(model->ui.filter, "nothing is called this");
    model_arrange(model);
    draw(model, &screen, 120, 24);
    assert_shows(&screen, "no head passes the filter; Esc ends it");
}

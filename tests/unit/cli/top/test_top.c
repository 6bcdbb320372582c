/* SPDX-License-Identifier: MIT */
/* attnctl top on screens of several sizes, with and without block characters: the list of runs, a
 * run, and the effect of keys. */
#include "tests/unit/cli/top/maps.h"
#include "tests/unit/mpk_text.h"

#include "clients/cli/top/internal.h"

#include <curses.h>
#include <string.h>

static struct screen screen;

static int top_set_up(void **state)
{
    screen = (struct screen){.unicode = true};
    return model_set_up(state);
}

static int top_tear_down(void **state)
{
    screen_free(&screen);
    return model_tear_down(state);
}

#define TOP_TEST(name) TEST_OF(name, struct model *model, top_set_up, top_tear_down)

static void press(struct model *model, const char *keys)
{
    for (; *keys; keys++) {
        keys_press(model, *keys);
    }
}

/* The screen */

TOP_TEST(text_that_is_too_long_ends_in_an_ellipsis)
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

TOP_TEST(nothing_is_drawn_outside)
{
    screen_resize(&screen, 4, 2);
    screen_put(&screen, -1, 0, 4, STYLE_PLAIN, "x");
    screen_put(&screen, 2, 0, 4, STYLE_PLAIN, "x");
    screen_put(&screen, 0, 4, 4, STYLE_PLAIN, "x");
    screen_put(&screen, 0, -2, 4, STYLE_PLAIN, "abcd");
    screen_put(&screen, 1, 0, 0, STYLE_PLAIN, "x");
    screen_choose_row(&screen, 9);
    assert_row(&screen, 0, "cd");
    assert_row(&screen, 1, "");
    screen_resize(&screen, 0, 5);
    screen_clear(&screen);
    screen_put(&screen, 0, 0, 4, STYLE_PLAIN, "x");
}

/* Nothing that moves a cursor, takes two columns or none, or is no UTF-8. */
TOP_TEST(characters_that_a_terminal_would_act_on_become_question_marks)
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

TOP_TEST(bars_stand_for_the_steps_that_they_are_of)
{
    struct line line = {8, {10, 20, 30, 40, 50, 60, 70, 80}, {0, 1, 2, 3, 4, 5, 6, 7}};
    const struct range range = {0, 7};
    screen_resize(&screen, 20, 4);
    bars_line(&screen, 0, 0, 8, &line, 0, 80, range, UINT64_MAX);
    assert_row(&screen, 0, "▁▂▃▄▅▆▇█");
    bars_line(&screen, 1, 0, 4, &line, 0, 80, range, 60); /* means of two, the last one bad */
    assert_row(&screen, 1, "▂▄▆█");
    assert_int_equal(screen.cells[1 * 20 + 2].style, STYLE_PLAIN);
    assert_int_equal(screen.cells[1 * 20 + 3].style, STYLE_CRITICAL);
    line.value[3] = NAN;
    screen.unicode = false;
    bars_line(&screen, 2, 0, 8, &line, 0, 80, range, UINT64_MAX);
    assert_row(&screen, 2, ".:- +*%@");
    line = (struct line){2, {50, 100}, {0, 7}}; /* a window holds for all its steps */
    bars_line(&screen, 3, 0, 4, &line, 0, 100, range, UINT64_MAX);
    assert_row(&screen, 3, " .@@");
}

/* The list of runs */

/* gpt-small, where nothing fires, and `other`, where `severity` does. */
static void give_two(struct model *model, const char *other, const char *severity)
{
    give_monitor(
        model,
        &(struct monitor){
            .job = "gpt-small", .second = other, .severity = severity, .step = 30, .uptime_s = 6},
        2000);
    model_close_run(model);
}

TOP_TEST(runs_in_trouble_come_first)
{
    give_two(model, "zebra", NULL);
    draw(model, &screen, 80, 24);
    assert_row(&screen, 0,
               " attnd top  2 runs, 0 in trouble                                       14:02:31");
    assert_row(&screen, 3, "  >gpt-small              30");
    assert_row(&screen, 4, "   zebra                  30");
    give_two(model, "zebra", "warning");
    draw(model, &screen, 80, 24);
    assert_shows(&screen, "2 runs, 1 in trouble");
    assert_row(&screen, 3, "! >zebra                  30");
    assert_true(screen.cells[3 * 80].chosen);
}

TOP_TEST(a_row_says_what_is_wrong_or_that_nothing_is)
{
    struct answer answer;
    give_two(model, "zebra", "critical");
    struct run_row *row = model_row(model, "zebra");
    row->known = true;
    row->alert_count = 3;
    row->worst = (struct alert){.severity = SEVERITY_CRITICAL,
                                .place = {"decoder", "self", 1, 2},
                                .rule = "head_silent",
                                .message = "the output is dead: 0.01",
                                .since = "between steps 74 and 75",
                                .since_step = 75};
    row = model_row(model, "gpt-small");
    row->known = true;
    row->checks = 17;
    answer_begin(&answer);
    mpk_text(&answer.writer, "{'series': [{'name': 'lr', 'step': [0, 30], 'value': [4.0, 1.0]},"
                             " {'name': 'train/Loss', 'step': [0, 30], 'value': [4.0, 2.25]}]}");
    read_log(&row->loss, answer_end(&answer));
    answer_free(&answer);
    draw(model, &screen, 180, 24);
    assert_shows(&screen, "the output is dead: decoder.1.self.h2 +2 between steps 74 and 75");
    assert_shows(&screen, "▁ 2.25");
    assert_shows(&screen, "no alerts, 17 checks passed");
}

TOP_TEST(a_row_is_of_one_run_and_says_that_another_one_has_alerts)
{
    give_two(model, "zebra", "critical"); /* 3 fire in all runs of it */
    struct run_row *row = model_row(model, "zebra");
    row->runs = 2;
    draw(model, &screen, 120, 24);
    assert_row(&screen, 3, "  >zebra                                    active  30");
    row->known = true;
    row->checks = 17;
    row->asked_firing = row->firing;
    draw(model, &screen, 180, 24);
    assert_shows_not(&screen, "!!");
    assert_shows(&screen, "no alerts, 17 checks passed; 3 fire in another run");
    row->alert_count = 2;
    row->worst = (struct alert){
        .severity = SEVERITY_WARNING, .message = "flat: 1", .since = "from the start"};
    draw(model, &screen, 180, 24);
    assert_shows(&screen, "flat +1 from the start; 1 fires in another run");
    assert_int_equal(screen.cells[3 * 180].text[0], '!');
    assert_int_equal(screen.cells[3 * 180 + 1].text[0], ' ');
}

TOP_TEST(names_that_begin_alike_can_be_told_apart)
{
    give_two(model, "gpt-small-with-a-name-as-long-as-people-give-them-seed-0017", NULL);
    draw(model, &screen, 80, 24);
    assert_shows(&screen, "   …small-w…hem-seed-0017 ");
}

TOP_TEST(a_filter_keeps_the_runs_that_have_it_in_their_name)
{
    give_two(model, "zebra", NULL);
    press(model, "/ZEB\n");
    draw(model, &screen, 80, 24);
    assert_int_equal(model->shown_count, 1);
    assert_shows(&screen, "filter: ZEB");
    assert_row(&screen, 3, "  >zebra                  30");
    keys_press(model, KEY_OF_ESCAPE);
    assert_int_equal(model->shown_count, 2);
}

TOP_TEST(the_chosen_run_stays_chosen_when_others_come_before_it)
{
    give_two(model, "zebra", NULL);
    keys_press(model, KEY_DOWN);
    give_monitor(model,
                 &(struct monitor){.job = "alpha", .second = "zebra", .step = 30, .uptime_s = 7},
                 3000);
    char chosen[JOB_NAME_MAX + 1];
    model_chosen(model, chosen);
    assert_string_equal(chosen, "zebra");
    keys_press(model, '\n');
    assert_string_equal(model->opened.job, "zebra");
}

TOP_TEST(without_a_run_it_says_how_to_attach_one)
{
    model_close_run(model);
    give_monitor(model, &(struct monitor){.uptime_s = 8}, 3000);
    draw(model, &screen, 80, 24);
    assert_shows(&screen, "with attnd.watch(model, job=\"gpt-small\"):");
}

/* A run */

TOP_TEST(a_run_has_its_verdict_its_time_line_and_its_layers)
{
    draw(model, &screen, 80, 24);
    assert_row(&screen, 2, " !! decoder.0.self.h2  entropy_collapse between steps 15 and 20");
    assert_row(&screen, 3, " of one head");
    assert_row(&screen, 4, " Lower the learning rate.");
    assert_shows(&screen, "   decoder.0.self.h2     0.22     ▂▂▂▂");
    assert_shows(&screen, "steps 0 to 110; entropy_normalized from 0 to 1.41");
    assert_shows(&screen, "LAYERS, mean of the heads: 2");
    assert_shows(&screen, "!!>decoder.0.self        0.215 ");
    assert_shows(&screen, "   decoder.1.self        0.515 ");
}

TOP_TEST(heads_of_a_layer_are_opened_and_left)
{
    press(model, "j\n");
    draw(model, &screen, 80, 24);
    assert_shows(&screen, "HEADS: 4");
    assert_shows(&screen, "  >decoder.1.self.h0     0.5 ");
    assert_shows(&screen, "   decoder.1.self.h3     0.53 ");
    keys_press(model, KEY_OF_ESCAPE);
    assert_int_equal(model->page, PAGE_LAYERS);
    keys_press(model, KEY_OF_ESCAPE);
    assert_int_equal(model->page, PAGE_RUNS);
    assert_string_equal(model->opened.job, "");
}

TOP_TEST(all_alerts_are_a_tab_away)
{
    give_verdict(model,
                 (struct verdict_given[]){
                     {1, -1, ALERT_CRITICAL}, {0, 3, ALERT_WARNING}, {0, 1, ALERT_INFO}},
                 3);
    draw(model, &screen, 100, 30);
    assert_shows(&screen,
                 "!! decoder.1.self  entropy_collapse between steps 15 and 20  2 more (Tab)");
    assert_shows(&screen, "   decoder.0.self.h3     0.23 ");
    keys_press(model, '\t');
    draw(model, &screen, 100, 30);
    assert_shows(&screen, "ALERTS: 3");
    assert_shows(
        &screen,
        "!  decoder.0.self.h3       between steps 15 and 20     entropy_collapse: of one head");
    assert_shows(&screen, "i  decoder.0.self.h1");
}

TOP_TEST(a_metric_is_chosen_by_its_beginning)
{
    press(model, "mconfid");
    draw(model, &screen, 80, 24);
    assert_shows(&screen, "metric: confid_");
    keys_press(model, '\n');
    assert_string_equal(model->metric, "confidence");
    give_live(model, 0, 4, 0.2, 31);
    draw(model, &screen, 80, 24);
    assert_shows(&screen, "decoder.0.self        0.785");
    press(model, "mno-such\n");
    assert_string_equal(model->metric, "confidence");
}

TOP_TEST(another_run_of_the_job_begins_with_nothing)
{
    maps_run[0]++;
    give_monitor(model, &(struct monitor){.job = "gpt-small", .step = 1, .uptime_s = 9}, 4000);
    assert_int_equal(model->opened.layer_count, 0);
    assert_int_equal(model->opened.alert_count, 0);
    give_grid(model, "entropy_normalized", 2, 4, 12);
    assert_int_equal(model->opened.layer_count, 2);
    maps_run[0]--;
    give_live(model, 5, 4, 0.2, 30); /* of the run before */
    assert_int_equal(model->opened.layer_count, 2);
}

TOP_TEST(losses_and_silence_are_said)
{
    give_monitor(model,
                 &(struct monitor){
                     .job = "gpt-small", .received = 90, .lost = 2, .dropped = 5, .uptime_s = 9},
                 4000);
    draw(model, &screen, 80, 24);
    assert_row(&screen, 1, " 30.0 messages/s  lost 2  dropped 5 (late)");
    model->silent_since_ms = 4000;
    draw(model, &screen, 80, 24);
    assert_row(&screen, 1, " attnd does not answer since 6 s; trying again");
}

TOP_TEST(an_unknown_metric_is_said_to_be_unknown_until_it_is_corrected)
{
    char before[FIELD_NAME_MAX];
    strcpy(before, model->metric);
    press(model, "\nmzz\n");
    draw(model, &screen, 80, 24);
    assert_row(&screen, 23,
               " metric: zz_   unknown (all: attnctl summary gpt-small --json)   Esc leave");
    assert_string_equal(model->metric, before);
    press(model, "\177\177max_lo");
    draw(model, &screen, 80, 24);
    assert_row(&screen, 23, " metric: max_lo_   Enter show   Esc leave");
    press(model, "\n");
    assert_string_equal(model->metric, "max_logit");
    assert_int_equal(model->typing, TYPING_NOTHING);
}

TOP_TEST(every_size_and_every_key_is_drawn)
{
    static const int keys[] = {
        '\t',     '\n', KEY_END, KEY_PPAGE,    '?',  '?',      'm',       'x', KEY_OF_ESCAPE,
        KEY_LEFT, '/',  'e',     KEY_OF_ERASE, '\n', KEY_HOME, KEY_RIGHT, 'p', 'p',
        KEY_DOWN, '\n', 0,       KEY_NPAGE};
    for (int width = 1; width < 220; width += 13) {
        for (int height = 1; height < 60; height += 7) {
            for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
                keys_press(model, keys[i]);
                draw(model, &screen, width, height);
            }
        }
    }
    assert_shows(&screen, " gpt-small  active  epoch 3 step 30  run abcdef01");
    draw(model, &screen, 50, 8);
    assert_row(&screen, 0, "attnctl top needs 60 x 10");
    keys_press(model, 'q');
    assert_true(model->quit);
}

TOP_TEST(answers_that_are_not_as_expected_change_nothing)
{
    OWNED(answer_free) struct answer answer;
    answer_begin(&answer);
    mpk_text(&answer.writer, "[null, 7, {'layer': 'x'}]");
    const msgpack_object *odd = answer_end(&answer);
    read_live(model, odd);
    read_grid(model, odd);
    read_log(&model->opened.loss, odd);
    read_verdict(&model->opened, odd);
    assert_int_equal(model->opened.layer_count, 2);
    assert_int_equal(model->opened.loss.count, 0);
}

/* SPDX-License-Identifier: MIT */
/* The keys of attnctl top. */
#include "tests/unit/cli/top/maps.h"

#include "clients/cli/top/internal.h"

static void press(struct model *model, const int *keys)
{
    for (; *keys; keys++) {
        keys_press(model, *keys);
    }
}

#define PRESS(model, ...) press(model, (const int[]){__VA_ARGS__, 0})

MODEL_TEST(the_choice_moves_within_the_list)
{
    model->ui.list_rows = 4;
    PRESS(model, KEY_OF_UP);
    assert_int_equal(model->ui.heads.at, 0);
    PRESS(model, KEY_OF_DOWN, 'j', KEY_OF_UP);
    assert_int_equal(model->ui.heads.at, 1);
    PRESS(model, KEY_OF_PAGE_DOWN);
    assert_int_equal(model->ui.heads.at, 4);
    PRESS(model, KEY_OF_END, KEY_OF_DOWN);
    assert_int_equal(model->ui.heads.at, 7);
    PRESS(model, 'g');
    assert_int_equal(model->ui.heads.at, 0);
    PRESS(model, 'G', KEY_OF_PAGE_UP);
    assert_int_equal(model->ui.heads.at, 4);
}

MODEL_TEST(enter_opens_the_head_and_escape_closes_it)
{
    model_choose_sort(model, "head");
    model_arrange(model);
    PRESS(model, KEY_OF_END, KEY_OF_ENTER);
    assert_int_equal(model->ui.page, PAGE_HEAD);
    assert_int_equal(model->detail.place.layer, 1);
    assert_int_equal(model->detail.head, 3);
    assert_true(model->needs.detail);
    PRESS(model, KEY_OF_ESCAPE);
    assert_int_equal(model->ui.page, PAGE_HEADS);
    assert_int_equal(model->ui.heads.at, 7);
}

MODEL_TEST(a_layer_leads_to_its_heads)
{
    model_choose_sort(model, "head");
    model_arrange(model);
    PRESS(model, KEY_OF_TAB, KEY_OF_DOWN, KEY_OF_ENTER);
    assert_int_equal(model->ui.page, PAGE_HEADS);
    assert_string_equal(model->ui.filter, "decoder.1.self");
    assert_int_equal(model->row_count, 4);
    PRESS(model, KEY_OF_ESCAPE);
    assert_int_equal(model->row_count, 8);
}

MODEL_TEST(a_filter_is_typed_and_erased)
{
    PRESS(model, '/', 'q', KEY_OF_ERASE, 'h', '3');
    assert_true(model->ui.typing);
    assert_false(model->ui.quit);
    assert_int_equal(model->row_count, 2);
    PRESS(model, KEY_OF_ENTER);
    assert_false(model->ui.typing);
    assert_int_equal(model->row_count, 2);
    PRESS(model, '/', KEY_OF_ESCAPE);
    assert_string_equal(model->ui.filter, "");
    PRESS(model, '/');
    for (int i = 0; i < 200; i++) {
        PRESS(model, 'x', KEY_OF_UP);
    }
    assert_int_equal(strlen(model->ui.filter), MODEL_FILTER_MAX - 1);
    assert_int_equal(model->row_count, 0);
    PRESS(model, KEY_OF_ENTER, KEY_OF_ENTER); /* nothing to open */
    assert_int_equal(model->ui.page, PAGE_HEADS);
}

MODEL_TEST(a_metric_is_picked)
{
    PRESS(model, 'm');
    assert_int_equal(model->ui.overlay, OVERLAY_METRIC);
    assert_string_equal(model->metrics[model->ui.picker.at], "entropy_normalized");
    PRESS(model, KEY_OF_DOWN, KEY_OF_ENTER);
    assert_int_equal(model->ui.overlay, OVERLAY_NONE);
    assert_string_equal(model->metric, "confidence");
    assert_true(model->needs.live && model->needs.grid);
}

MODEL_TEST(an_order_is_picked_and_reversed)
{
    PRESS(model, 's', KEY_OF_DOWN, KEY_OF_ENTER, 'r');
    assert_int_equal(model->sort, SORT_DRIFT);
    assert_true(model->reversed);
    PRESS(model, 's', KEY_OF_END, KEY_OF_ENTER);
    assert_int_equal(model->sort, SORT_METRIC);
    assert_string_equal(model->sort_metric, "confidence");
    PRESS(model, 's', 'q');
    assert_int_equal(model->ui.overlay, OVERLAY_NONE);
    assert_false(model->ui.quit);
}

MODEL_TEST(an_alert_leads_to_its_head)
{
    PRESS(model, 'a', KEY_OF_ENTER);
    assert_int_equal(model->ui.page, PAGE_HEAD);
    assert_int_equal(model->detail.head, 2);
    PRESS(model, KEY_OF_ESCAPE);
    assert_int_equal(model->ui.page, PAGE_VERDICT);
    PRESS(model, KEY_OF_LEFT);
    assert_int_equal(model->ui.page, PAGE_HEADS);
}

MODEL_TEST(the_list_of_jobs_stays_until_one_is_chosen)
{
    PRESS(model, 'J');
    give_monitor(model, &(struct monitor){.job = "gpt-small", .step = 31, .uptime_s = 9}, 2000);
    assert_int_equal(model->ui.page, PAGE_JOBS);
    PRESS(model, KEY_OF_ESCAPE);
    assert_int_equal(model->ui.page, PAGE_HEADS);
    assert_int_equal(model->layer_count, 2);
    PRESS(model, 'J', KEY_OF_ENTER);
    assert_int_equal(model->ui.page, PAGE_HEADS);
    assert_int_equal(model->layer_count, 0); /* asked anew */
}

EMPTY_TEST(without_a_job_only_what_needs_none_is_done)
{
    give_monitor(model, &(struct monitor){0}, 0);
    PRESS(model, 'm', 's', '/', 'a', 't', KEY_OF_TAB, KEY_OF_ENTER, KEY_OF_ESCAPE, KEY_OF_END);
    assert_int_equal(model->ui.page, PAGE_JOBS);
    assert_int_equal(model->ui.overlay, OVERLAY_NONE);
    assert_false(model->ui.typing);
    PRESS(model, '?');
    assert_int_equal(model->ui.overlay, OVERLAY_HELP);
    PRESS(model, 'q');
    assert_false(model->ui.quit);
    PRESS(model, 'p', ' ', ' ');
    assert_true(model->ui.paused);
    PRESS(model, 'q');
    assert_true(model->ui.quit);
}

/* Whatever is pressed in whatever order, nothing is out of its list. */
MODEL_TEST(any_keys_in_any_order)
{
    static const int keys[] = {KEY_OF_TAB,
                               KEY_OF_ENTER,
                               KEY_OF_ESCAPE,
                               KEY_OF_ERASE,
                               KEY_OF_UP,
                               KEY_OF_DOWN,
                               KEY_OF_LEFT,
                               KEY_OF_RIGHT,
                               KEY_OF_END,
                               KEY_OF_HOME,
                               KEY_OF_PAGE_UP,
                               KEY_OF_PAGE_DOWN,
                               'm',
                               's',
                               'r',
                               '/',
                               't',
                               'a',
                               'J',
                               'p',
                               '?',
                               'h',
                               0x7f,
                               1};
    struct screen screen = {.unicode = true};
    uint32_t random = 12345;
    for (int i = 0; i < 20000; i++) {
        uint32_t count;
        random = random * 1664525 + 1013904223;
        keys_press(model, keys[(random >> 16) % (sizeof keys / sizeof keys[0])]);
        if (model->layer_count == 0) {
            give_live(model, 0, 4, 0.2, 30);
        }
        draw(model, &screen, 60 + (int)(random >> 8) % 100, 10 + (int)(random >> 4) % 40);
        struct list *list = keys_list(model, &count);
        assert_true(list->at < count || (count == 0 && list->at == 0));
        assert_true(list->top <= list->at);
    }
    screen_free(&screen);
}

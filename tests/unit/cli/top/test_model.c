/* SPDX-License-Identifier: MIT */
/* attnctl top reads attnd's answers: heads in their order, what is needed next, and what
 * becomes of answers that are late, short or of something else. */
#include "tests/unit/cli/top/maps.h"

static const char *place_of_row(const struct model *model, uint32_t row)
{
    static char place[MODEL_PLACE_MAX];
    const struct layer *layer = &model->layers[model->rows[row].layer];
    model_place(&layer->place, model->rows[row].head, place);
    return place;
}

EMPTY_TEST(the_only_job_is_chosen)
{
    give_monitor(model, &(struct monitor){0}, 0);
    assert_int_equal(model->ui.page, PAGE_JOBS);
    give_monitor(model, &(struct monitor){.job = "gpt-small"}, 1000);
    assert_string_equal(model->job, "gpt-small");
    assert_true(model->job_known);
    assert_int_equal(model->ui.page, PAGE_HEADS);
    assert_int_equal(model->entry.world, 4);
}

EMPTY_TEST(of_two_jobs_none_is_chosen)
{
    give_monitor(model, &(struct monitor){.job = "a", .second = "b"}, 0);
    assert_string_equal(model->job, "");
    assert_int_equal(model->job_count, 2);
    model_choose_job(model, "b");
    assert_true(model->job_known);
}

EMPTY_TEST(rates_are_between_two_looks)
{
    give_monitor(model, &(struct monitor){.received = 100, .bytes = 1000, .uptime_s = 10}, 5000);
    assert_true(isnan(model->health.rate));
    give_monitor(
        model,
        &(struct monitor){.received = 150, .bytes = 3000, .lost = 1, .dropped = 3, .uptime_s = 12},
        7000);
    assert_true(model->health.rate == 25);
    assert_true(model->health.bytes_rate == 1000);
    assert_int_equal(model->health.new_losses, 4);
    assert_string_equal(model->health.reason, "late");
}

MODEL_TEST(an_attnd_that_was_started_again_is_asked_everything)
{
    model->needs = (struct needs){.summary_next = 2};
    give_monitor(model,
                 &(struct monitor){.job = "gpt-small", .step = 30, .received = 2, .uptime_s = 1},
                 60000);
    assert_true(isnan(model->health.rate)); /* counters began anew */
    assert_true(model->needs.config && model->needs.live && model->needs.grid &&
                model->needs.alerts && model->needs.verdict);
    assert_int_equal(model->needs.summary_next, 0);
}

MODEL_TEST(nothing_new_needs_nothing)
{
    struct monitor monitor = {.job = "gpt-small", .step = 30, .uptime_s = 6};
    model->needs = (struct needs){.summary_next = 2};
    give_monitor(model, &monitor, 2000);
    assert_false(model->needs.live || model->needs.grid || model->needs.alerts);
    monitor.step = 31;
    give_monitor(model, &monitor, 3000);
    assert_true(model->needs.live);
    assert_false(model->needs.grid);
}

MODEL_TEST(new_windows_are_asked_for_at_once_and_once_more)
{
    struct monitor monitor = {.job = "gpt-small", .step = 30, .uptime_s = 6, .summaries = 2};
    model->needs = (struct needs){.summary_next = 2, .grid_ms = -100000};
    give_monitor(model, &monitor, 2000);
    assert_true(model->needs.grid);
    assert_int_equal(model->needs.summary_next, 0);
    model->needs.grid = false; /* asked */
    model->needs.grid_ms = 2000;
    give_monitor(model, &monitor, 3000);
    assert_false(model->needs.grid);
    give_monitor(model, &monitor, 4000); /* by now it is in the history */
    assert_true(model->needs.grid);
    model->needs.grid = false;
    give_monitor(model, &monitor, 8000);
    assert_false(model->needs.grid);
}

/* How often trends are asked for in 20 s of new windows, when attnd takes so long for them. */
static uint32_t count_grids(int64_t took_ms)
{
    struct model *model = model_of_two_layers();
    struct monitor monitor = {.job = "gpt-small", .step = 30, .uptime_s = 6};
    uint32_t asked = 0;
    model->needs.grid = false;
    model->grid_took_ms = took_ms;
    for (int64_t now = 2000; now < 22000; now += 200) {
        monitor.summaries++;
        give_monitor(model, &monitor, now);
        if (model->needs.grid) {
            asked++;
            model->needs.grid = false;
            model->needs.grid_ms = now;
        }
    }
    model_free(&model);
    return asked;
}

TEST(trends_are_asked_for_as_often_as_attnd_can_bear)
{
    assert_in_range(count_grids(0), 9, 11);
    assert_in_range(count_grids(40), 9, 11);
    assert_in_range(count_grids(100), 4, 5); /* every 5 s */
    assert_in_range(count_grids(60000), 1, 1);
}

EMPTY_TEST(layers_and_heads_are_in_the_models_order)
{
    give_monitor(model, &(struct monitor){.job = "gpt-small"}, 0);
    model_layer(model, &(struct layer_place){"decoder", "cross", 1}, 1);
    model_layer(model, &(struct layer_place){"decoder", "self", 10}, 1);
    model_layer(model, &(struct layer_place){"decoder", "self", 1}, 1);
    model_layer(model, &(struct layer_place){"encoder", "self", 5}, 2);
    model_choose_sort(model, "head");
    model_arrange(model);
    static const char *const places[] = {"encoder.5.self.h0", "encoder.5.self.h1",
                                         "decoder.1.self.h0", "decoder.1.cross.h0",
                                         "decoder.10.self.h0"};
    assert_int_equal(model->row_count, 5);
    for (uint32_t i = 0; i < 5; i++) {
        assert_string_equal(place_of_row(model, i), places[i]);
    }
    assert_int_equal(model_find_layer(model, &(struct layer_place){"decoder", "self", 10}), 3);
    assert_int_equal(model_find_layer(model, &(struct layer_place){"decoder", "self", 9}), -1);
}

MODEL_TEST(what_needs_a_look_comes_first)
{
    assert_string_equal(place_of_row(model, 0), "decoder.0.self.h2"); /* the alert */
    assert_string_equal(place_of_row(model, 1), "decoder.1.self.h3"); /* shift = -12 */
    assert_string_equal(place_of_row(model, 7), "decoder.0.self.h0"); /* shift = 1 */
    model_choose_sort(model, "drift");
    model_arrange(model);
    assert_string_equal(place_of_row(model, 0), "decoder.1.self.h3");
    model_choose_sort(model, "-drift");
    model_arrange(model);
    assert_string_equal(place_of_row(model, 0), "decoder.0.self.h0");
}

MODEL_TEST(a_chosen_row_is_followed_where_it_goes)
{
    model_choose_sort(model, "head");
    model_arrange(model);
    model->ui.heads.at = 2;
    model->ui.layers.at = 1;
    model_choose_sort(model, "-head");
    model_arrange(model);
    assert_string_equal(place_of_row(model, model->ui.heads.at), "decoder.0.self.h2");
    assert_int_equal(model->ui.heads.at, 5);
    assert_int_equal(model->ui.layers.at, 0);
    model->ui.heads.at = 0; /* the top of the list is a place */
    model_choose_sort(model, "head");
    model_arrange(model);
    assert_string_equal(place_of_row(model, model->ui.heads.at), "decoder.0.self.h0");
}

MODEL_TEST(a_chosen_row_is_followed_past_layers_that_come_later)
{
    model_choose_sort(model, "head");
    model_arrange(model);
    model->ui.heads.at = 6;
    model->ui.layers.at = 1;
    model_layer(model, &(struct layer_place){"encoder", "self", 0}, 3);
    model_layer(model, &(struct layer_place){"decoder", "self", 2}, 3);
    model_arrange(model);
    assert_string_equal(place_of_row(model, model->ui.heads.at), "decoder.1.self.h2");
    assert_int_equal(model->layers[model->layer_rows[model->ui.layers.at]].place.layer, 1);
    strcpy(model->ui.filter, "encoder"); /* it is not there any more */
    model_arrange(model);
    assert_int_equal(model->row_count, 3);
}

MODEL_TEST(what_has_no_number_is_last_either_way_round)
{
    model->layers[0].heads[0].value = NAN;
    for (int reversed = 0; reversed < 2; reversed++) {
        model_choose_sort(model, reversed ? "-value" : "value");
        model_arrange(model);
        assert_string_equal(place_of_row(model, 7), "decoder.0.self.h0");
        assert_string_equal(place_of_row(model, 0),
                            reversed ? "decoder.0.self.h1" : "decoder.1.self.h3");
    }
}

MODEL_TEST(heads_are_sorted_by_a_metric_that_is_not_shown)
{
    model_choose_sort(model, "confidence");
    assert_true(model->needs.live);
    for (uint32_t layer = 0; layer < 2; layer++) {
        give_live(model, layer, 4, 0.2 + 0.3 * layer, 31);
    }
    assert_string_equal(place_of_row(model, 0), "decoder.0.self.h0"); /* the least entropy */
    assert_true(fabs(model->layers[0].heads[0].by - 0.8) < 1e-12);
    char text[MODEL_SORT_TEXT_MAX];
    model_sort_text(model, text);
    assert_string_equal(text, "greatest confidence first");
}

MODEL_TEST(a_filter_wants_all_of_its_words)
{
    static const struct {
        const char *filter;
        uint32_t rows;
    } cases[] = {{"", 8},           {"decoder.1", 4},       {"DECODER.1 h3", 1}, {"induction", 2},
                 {"collapse", 1},   {"  collapse  h2 ", 1}, {"collapse h3", 0},  {"h", 8},
                 {"self.h1 r.0", 1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        strcpy(model->ui.filter, cases[i].filter);
        model_arrange(model);
        assert_int_equal(model->row_count, cases[i].rows);
    }
}

MODEL_TEST(alerts_mark_their_heads_and_layers)
{
    assert_int_equal(model->alert_count, 1); /* what the past also has is the same one */
    give_verdict(model,
                 (const struct verdict_given[]){{1, 1, ALERT_CRITICAL},
                                                {0, 3, ALERT_WARNING},
                                                {1, -1, ALERT_WARNING},
                                                {1, 1, ALERT_INFO}},
                 4);
    assert_int_equal(model->verdict_count, 4);
    assert_int_equal(model->verdict[0].head, 1);
    assert_int_equal(model->verdict[2].head, -1);
    assert_string_equal(model->verdict[2].message, "of all heads");
    assert_string_equal(model->verdict[2].advice, "Lower the learning rate.");
    assert_true(model->verdict[2].at_end && model->verdict[2].bound == 0.1);
    assert_true(model->judged && model->judged_step == 29 && !model->verdict_cut);
    static const char *const places[] = {"decoder.1.self.h1", "decoder.1.self.h3",
                                         "decoder.1.self.h2", "decoder.0.self.h3",
                                         "decoder.1.self.h0"};
    static const enum severity severities[] = {
        SEVERITY_CRITICAL, SEVERITY_WARNING, SEVERITY_WARNING, SEVERITY_WARNING, SEVERITY_WARNING};
    for (uint32_t i = 0; i < 5; i++) { /* those as severe by their drift */
        const struct list_row *row = &model->rows[i];
        assert_string_equal(place_of_row(model, i), places[i]);
        assert_int_equal(model->layers[row->layer].heads[row->head].severity, severities[i]);
    }
    assert_int_equal(model->layers[model->layer_rows[0]].place.layer, 1);
    assert_true(model->layers[1].firing == 3 && model->layers[1].severity == SEVERITY_CRITICAL);
    assert_true(model->layers[0].firing == 1 && model->layers[0].severity == SEVERITY_WARNING);
    assert_string_equal(model->layers[0].rule, "entropy_collapse");
    assert_string_equal(model->layers[0].heads[3].rule, "entropy_collapse");
    assert_string_equal(model->layers[0].heads[2].rule, ""); /* one fired for it before */
    give_verdict(model, NULL, 0);
    assert_int_equal(model->verdict_count, 0);
    assert_true(model->layers[1].heads[1].severity == SEVERITY_NONE);
}

MODEL_TEST(more_alerts_than_there_is_room_for_are_cut)
{
    static struct verdict_given given[MODEL_VERDICT_MAX + 1];
    for (uint32_t i = 0; i <= MODEL_VERDICT_MAX; i++) {
        given[i] = (struct verdict_given){i, 0, ALERT_CRITICAL};
    }
    give_verdict(model, given, MODEL_VERDICT_MAX);
    assert_false(model->verdict_cut);
    give_verdict(model, given, MODEL_VERDICT_MAX + 1);
    assert_true(model->verdict_cut);
    assert_int_equal(model->verdict_count, MODEL_VERDICT_MAX);
}

EMPTY_TEST(alerts_of_a_layer_that_comes_later_are_asked_for_again)
{
    give_monitor(model, &(struct monitor){.job = "gpt-small", .step = 30, .uptime_s = 5}, 1000);
    give_verdict(model, &(struct verdict_given){1, 2, ALERT_CRITICAL}, 1);
    assert_int_equal(model->verdict_count, 1);
    model->needs.verdict = false;
    give_summary(model, 0, 4, 0.25, 1);
    give_summary(model, 1, 4, 0.55, 1);
    assert_true(model->needs.verdict);
    give_verdict(model, &(struct verdict_given){1, 2, ALERT_CRITICAL}, 1);
    assert_string_equal(place_of_row(model, 0), "decoder.1.self.h2");
}

static void top_model_put_past(struct mpk_writer *writer, enum alert_state state, double value)
{
    struct alert_result alert = {
        .common = {"gpt-small", maps_run, 3, 30, 1},
        .rule = "entropy_collapse",
        .severity = ALERT_WARNING,
        .state = state,
        .metric = "entropy_normalized",
        .has_layer = true,
        .layer = {STACK_DECODER, 0, SITE_SELF},
        .head = -1,
        .value = value,
        .bound = 0.1,
        .since_step = 20,
        .message = state == ALERT_FIRING ? "how it began" : "how it ended",
    };
    alert_encode(&alert, writer);
}

MODEL_TEST(of_an_alert_that_is_over_its_beginning_is_kept)
{
    struct answer answer;
    answer_begin(&answer);
    mpk_put_map(&answer.writer, 1);
    mpk_put_str(&answer.writer, "alerts");
    mpk_put_array(&answer.writer, 2);
    top_model_put_past(&answer.writer, ALERT_RESOLVED, NAN); /* newest first */
    top_model_put_past(&answer.writer, ALERT_FIRING, 0.05);
    read_alerts(model, answer_end(&answer));
    assert_int_equal(model->alert_count, 1);
    assert_int_equal(model->firing_count, 0);
    assert_false(model->alerts[0].firing);
    assert_true(model->alerts[0].value == 0.05);
    assert_string_equal(model->alerts[0].message, "how it began");
    answer_free(&answer);
}

static void top_model_give_rank(struct model *model, double rank)
{
    struct result_stat stat = {.mean = rank, .last = rank};
    struct summary_result summary = {
        .common = {"gpt-small", maps_run, 3, 30, 1},
        .layer = {.id = {STACK_DECODER, 0, SITE_SELF}, .shape = {1, 1, 8, 8}},
        .heads = 1,
        .stat = {[METRIC_WQ_WK_STABLE_RANK] = &stat},
    };
    struct answer answer;
    answer_begin(&answer);
    mpk_put_array(&answer.writer, 1);
    summary_encode(&summary, &answer.writer);
    read_summary(model, answer_end(&answer));
    answer_free(&answer);
}

/* Newest messages are of attention, which has no such number. */
MODEL_TEST(numbers_of_matrices_are_those_of_the_newest_window)
{
    model_choose_metric(model, "wq_wk.stable_rank");
    for (int rank = 2; rank < 4; rank++) {
        top_model_give_rank(model, rank);
        assert_true(model->layers[0].heads[0].value == rank);
        give_live(model, 0, 4, 0.25, 40);
        assert_true(model->layers[0].heads[0].value == rank);
    }
}

MODEL_TEST(results_of_another_run_are_not_taken)
{
    maps_run[0] = 0x11;
    give_live(model, 0, 4, 0.9, 40);
    give_grid(model, "entropy_normalized", 2, 4, 3);
    assert_true(model->layers[0].heads[0].value == 0.2);
    assert_int_equal(model->past.count, 12);
    /* The newest run is another one now: what was known is of the one before. */
    give_monitor(model, &(struct monitor){.job = "gpt-small", .step = 1, .uptime_s = 7}, 3000);
    assert_int_equal(model->layer_count, 0);
    assert_int_equal(model->past.count, 0);
    give_live(model, 0, 4, 0.9, 40);
    assert_true(model->layers[0].heads[0].value == 0.9);
    maps_run[0] = 0xab;
}

MODEL_TEST(trends_are_of_the_metric_that_is_shown)
{
    const double *values;
    assert_int_equal(model_trend(model, 1, 3, &values), 12);
    assert_true(fabs(values[11] - (1 + 0.3 + 0.11)) < 1e-6);
    double means[MODEL_PAST_MAX];
    assert_int_equal(model_layer_trend(model, 1, means), 12);
    assert_true(fabs(means[0] - 1.15) < 1e-6);
    model_choose_metric(model, "confidence");
    assert_int_equal(model->past.count, 0);
    give_grid(model, "entropy_normalized", 2, 4, 12); /* asked before the choice */
    assert_int_equal(model->past.count, 0);
    give_grid(model, "confidence", 2, 4, 5);
    assert_int_equal(model->past.count, 5);
}

EMPTY_TEST(without_windows_trends_are_what_was_seen)
{
    const double *values;
    give_monitor(model, &(struct monitor){.job = "gpt-small"}, 0);
    for (uint32_t step = 0; step < MODEL_SEEN_MAX + 10; step++) {
        give_live(model, 0, 2, step / 1000.0, step);
    }
    give_live(model, 0, 2, 0.5, MODEL_SEEN_MAX + 9); /* the same step again */
    assert_true(model_trend_is_seen(model));
    assert_int_equal(model_trend(model, 0, 0, &values), MODEL_SEEN_MAX);
    assert_true(values[0] == 10 / 1000.0);
    assert_true(values[MODEL_SEEN_MAX - 1] == (MODEL_SEEN_MAX + 9) / 1000.0);
}

MODEL_TEST(more_windows_than_there_is_room_for_are_cut)
{
    give_grid(model, "entropy_normalized", 2, 4, 200);
    assert_int_equal(model->past.count, MODEL_PAST_MAX);
    assert_int_equal(model->past.last[MODEL_PAST_MAX - 1], MODEL_PAST_MAX);
}

EMPTY_TEST(limits_of_layers_and_heads_hold)
{
    assert_non_null(
        model_layer(model, &(struct layer_place){"decoder", "self", 0}, MODEL_HEADS_MAX));
    assert_null(model_layer(model, &(struct layer_place){"decoder", "self", 1}, 1));
    assert_true(model->cut);
    assert_null(model_layer(model, &(struct layer_place){"decoder", "self", 2}, UINT32_MAX));
    assert_int_equal(model->layer_count, 1);
    assert_false(model->out_of_memory);
}

MODEL_TEST(a_head_has_all_its_metrics)
{
    model_open_head(model, 1, 3);
    assert_int_equal(model->ui.page, PAGE_HEAD);
    give_live(model, 1, 4, 0.5, 31);
    give_live(model, 0, 4, 0.1, 31); /* of another layer */
    give_summary(model, 1, 4, 0.55, -3);
    give_grid(model, "confidence", 2, 4, 7); /* its first layer is another one */
    assert_int_equal(model->detail.count, 2);
    const struct detail_metric *entropy = &model->detail.metrics[model->ui.metrics.at];
    assert_string_equal(entropy->name, "entropy_normalized");
    assert_true(fabs(entropy->now - 0.53) < 1e-12);
    assert_true(fabs(entropy->mean - 0.58) < 1e-12);
    assert_true(entropy->shift == -12);
    assert_string_equal(model->detail.metrics[1 - model->ui.metrics.at].name, "confidence");
    assert_int_equal(model->detail.metrics[1 - model->ui.metrics.at].windows.count, 0);
}

/* Every answer may be anything: none of these may crash, or change what is known. */
MODEL_TEST(answers_of_another_shape_change_nothing)
{
    struct answer answer;
    answer_begin(&answer);
    mpk_put_map(&answer.writer, 5);
    mpk_put_str(&answer.writer, "layers");
    mpk_put_array(&answer.writer, 3);
    mpk_put_u64(&answer.writer, 1);
    mpk_put_nil(&answer.writer);
    mpk_put_map(&answer.writer, 0);
    mpk_put_str(&answer.writer, "firing");
    mpk_put_str(&answer.writer, "no");
    mpk_put_str(&answer.writer, "stats");
    mpk_put_array(&answer.writer, 0);
    mpk_put_str(&answer.writer, "jobs");
    mpk_put_u64(&answer.writer, 7);
    mpk_put_str(&answer.writer, "windows");
    mpk_put_bool(&answer.writer, true);
    const msgpack_object *map = answer_end(&answer);
    const msgpack_object *shapes[] = {map, mpk_find(map, "layers"), mpk_find(map, "jobs"),
                                      mpk_find(map, "firing")};
    model_open_head(model, 0, 0);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        read_live(model, shapes[i]);
        read_summary(model, shapes[i]);
        read_grid(model, shapes[i]);
        read_detail_live(model, shapes[i]);
        read_detail_summary(model, shapes[i]);
        read_detail_grid(model, shapes[i]);
        read_config(model, shapes[i]);
    }
    assert_int_equal(model->layer_count, 2);
    assert_true(model->layers[0].heads[0].value == 0.2);
    assert_int_equal(model->past.count, 12);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        read_alerts(model, shapes[i]);
        read_verdict(model, shapes[i]);
        read_monitor(model, shapes[i], 5000);
    }
    assert_int_equal(model->alert_count, 0);
    assert_int_equal(model->verdict_count, 1); /* they were of no run */
    assert_int_equal(model->job_count, 0);
    assert_false(model->job_known);
    answer_free(&answer);
}

TEST(sizes_of_the_config)
{
    assert_int_equal(read_size("512MiB"), 512u << 20);
    assert_int_equal(read_size("1.5KiB"), 1536);
    assert_int_equal(read_size("17"), 17);
    assert_int_equal(read_size("17B"), 17);
    assert_int_equal(read_size("-1MiB"), 0);
    assert_int_equal(read_size("many"), 0);
    assert_int_equal(read_size(""), 0);
    assert_int_equal(read_size("3 bananas"), 0);
}

TEST(a_list_keeps_its_choice_in_sight)
{
    struct list list = {.at = 30};
    list_settle(&list, 100, 10);
    assert_int_equal(list.top, 21);
    list.at = 5;
    list_settle(&list, 100, 10);
    assert_int_equal(list.top, 5);
    list = (struct list){.at = 99, .top = 90};
    list_settle(&list, 12, 10); /* it became shorter */
    assert_int_equal(list.at, 11);
    assert_int_equal(list.top, 2);
    list_settle(&list, 0, 10);
    assert_int_equal(list.at, 0);
    assert_int_equal(list.top, 0);
}

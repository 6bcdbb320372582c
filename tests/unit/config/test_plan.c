/* SPDX-License-Identifier: MIT */
/* The section `plan` (what trainers should capture), what patterns of jobs have different, and
 * which other keys differ between two files. */
#include "tests/unit/config/helpers.h"

static void assert_plan(const struct config_plan *plan, uint64_t every, const char *layers,
                        const char *heads, uint64_t samples, uint64_t rows)
{
    assert_int_equal(plan->every, every);
    assert_string_equal(plan->layers.text, layers);
    assert_string_equal(plan->heads.text, heads);
    assert_int_equal(plan->samples, samples);
    assert_int_equal(plan->rows, rows);
}

TEST(the_default_is_every_50th_step_and_one_sample)
{
    struct config config = defaults();
    struct config_plan plan;
    config_default_plan(&config, &plan);
    assert_plan(&plan, 50, "*", "*", 1, 0);
    assert_null(config_job_plan(&config, 0, &plan));
}

TEST(patterns_that_name_plan_keys_come_in_the_order_of_the_file)
{
    struct config config = loaded("plan: {samples: 2, layers: 'decoder.*'}\n"
                                  "jobs:\n"
                                  "  'gpt-*': {plan.every: 10, spectrum: false}\n"
                                  "  'bert': {spectrum: false}\n"
                                  "  '*': {plan.heads: '0-3,7', plan.rows: 64, plan.samples: 0}\n");
    struct config_plan plan;
    config_default_plan(&config, &plan);
    assert_plan(&plan, 50, "decoder.*", "*", 2, 0);
    assert_string_equal(config_job_plan(&config, 0, &plan), "gpt-*");
    assert_plan(&plan, 10, "decoder.*", "*", 2, 0);
    assert_string_equal(config_job_plan(&config, 1, &plan), "*");
    assert_plan(&plan, 50, "decoder.*", "0-3,7", 0, 64);
    assert_null(config_job_plan(&config, 2, &plan));
    config_clear(&config);
}

TEST(a_bound_on_what_captures_cost_makes_no_plan)
{
    OWNED(config_clear) struct config config = loaded("jobs: {gpt: {plan.cost_max: 0.5}}\n");
    struct config_plan plan;
    assert_null(config_job_plan(&config, 0, &plan));
    assert_true(config_for_job(&config, "gpt")->plan_cost_max == 0.5 &&
                config.plan_cost_max == 0.01);
}

TEST(they_are_printed_with_their_section_and_load_again)
{
    struct config config =
        loaded("jobs:\n  '*x': {plan.layers: 'decoder.*', plan.every: 0, core: true}\n");
    char *text = printed(&config);
    assert_non_null(strstr(text, "\njobs:\n"
                                 "  '*x':\n"
                                 "    core: true\n"
                                 "    plan.every: 0\n"
                                 "    plan.layers: 'decoder.*'\n"));
    struct config again = loaded(text);
    assert_same_config(&config, &again);
    config_clear(&config);
    config_clear(&again);
    free(text);
}

static void plan_visit_key(void *data, const char *section, const char *name, const char *value)
{
    if (config_is_plan_key(section, name)) {
        sprintf((char *)data + strlen(data), "%s.%s=%s;", section, name, value);
    }
}

TEST(each_visits_them_as_they_are_written)
{
    char visited[512] = "";
    struct config config = loaded("jobs: {'a*': {spectrum: false, plan.every: 3}}\n");
    config_each(&config, plan_visit_key, visited);
    assert_string_equal(visited,
                        "plan.every=50;plan.layers=*;plan.heads=*;plan.samples=1;"
                        "plan.rows=0;plan.tier=auto;plan.cost_max=0.01;jobs.a*.plan.every=3;");
    config_clear(&config);
}

REFUSED(mistakes_name_the_line_and_what_would_do,
        {"plan:\n  every: 1000000001\n",
         "attnd.yaml:2: plan.every: '1000000001': out of range (valid: 0 to 1000000000)"},
        {"plan:\n  every: 1\n  layers: decoder.3\n",
         "attnd.yaml:3: plan.layers: 'decoder.3': names no layer (valid: decoder.3.self, "
         "* ? [ ] as in file names, several between blanks; at most 511 characters)"},
        {"jobs:\n  gpt:\n    plan.heads: 3-1\n",
         "attnd.yaml:3: jobs.gpt.plan.heads: '3-1': not a list of heads (valid: * or "
         "numbers and ranges such as 0-3,7; at most 255 characters)"},
        {"jobs: {gpt: {plan.evry: 1}}\n",
         "attnd.yaml:1: jobs.gpt.plan.evry: unknown key (valid in plan: every, layers, "
         "heads, samples, rows, tier, cost_max; did you mean every?)"},
        {"jobs: {gpt: {every: 1}}\n",
         "attnd.yaml:1: jobs.gpt.every: unknown key (did you mean plan.every?)"},
        {"jobs:\n  gpt:\n    plan.rows: 1\n    plan.rows: 2\n",
         "attnd.yaml:4: jobs.gpt.plan.rows: given twice (first on line 3)"},
        {"plan: {plan.rows: 1}\n",
         "attnd.yaml:1: plan.plan.rows: unknown key (valid in plan: every, layers, "
         "heads, samples, rows, tier, cost_max)"});

TEST(texts_have_a_length_at_which_they_still_fit_a_subscription)
{
    struct config config = defaults();
    char error[CONFIG_ERROR_MAX], text[600] = "plan.layers=";
    memset(text + strlen(text), '*', 511);
    assert_int_equal(config_set(&config, text, error), 0);
    strcat(text, "*");
    assert_int_equal(config_set(&config, text, error), -1);
    assert_non_null(strstr(error, "': too long (valid: "));
    memset(text, 0, sizeof text);
    strcpy(text, "plan.heads=0");
    while (strlen(text) < strlen("plan.heads=") + 255) {
        strcat(text, ",0");
    }
    assert_int_equal(config_set(&config, text, error), 0);
    strcat(text, "0");
    assert_int_equal(config_set(&config, text, error), -1);
    assert_non_null(strstr(error, "': too long (valid: "));
}

TEST(keys_are_set_one_by_one)
{
    struct config config = defaults();
    struct config_plan plan;
    char error[CONFIG_ERROR_MAX] = "";
    config_default_plan(&config, &plan);
    assert_int_equal(config_plan_set(&plan, "every", "7", error), 0);
    assert_int_equal(config_plan_set(&plan, "layers", "encoder.*", error), 0);
    assert_int_equal(config_plan_set(&plan, "rows", "x", error), -1);
    assert_string_equal(error, "plan.rows: 'x': not a whole number (valid: 0 to 1000000000)");
    assert_int_equal(config_plan_set(&plan, "row", "1", error), -1);
    assert_string_equal(error, "plan.row: unknown key (valid in plan: every, layers, heads, "
                               "samples, rows, tier, cost_max; did you mean rows?)");
    assert_plan(&plan, 7, "encoder.*", "*", 1, 0);
    assert_int_equal(plan.tier, CONFIG_TIER_AUTO);
    assert_int_equal(config_plan_set(&plan, "tier", "rows", error), 0);
    assert_int_equal(plan.tier, CONFIG_TIER_ROWS);
    assert_int_equal(config_plan_set(&plan, "tier", "qk", error), -1);
    assert_string_equal(error, "plan.tier: 'qk': not one of the choices (valid: auto, raw, rows)");
}

static void visit_difference(void *data, const char *section, const char *name)
{
    sprintf((char *)data + strlen(data), "%s.%s;", section, name ? name : "");
}

static void assert_differs(const char *a, const char *b, const char *expected)
{
    char visited[512] = "";
    OWNED(config_clear) struct config config_a = loaded(a), config_b = loaded(b);
    config_each_difference(&config_a, &config_b, visit_difference, visited);
    assert_string_equal(visited, expected);
}

TEST(differences_outside_of_plans_are_told)
{
    assert_differs("", "", "");
    assert_differs("plan: {every: 1}\n", "jobs: {a: {plan.every: 1}}\n", "");
    assert_differs("jobs: {'*': {core: true}}\n", "jobs: {a: {plan.every: 1}, '*': {core: true}}\n",
                   "jobs.;");
    assert_differs("jobs: {a: {plan.every: 1}}\n", "jobs: {a: {plan.rows: 2}}\n", "");
    assert_differs("log: {level: debug}\nwindow: {length: 3}\n", "window: {length: 2}\n",
                   "window.length;log.level;");
    assert_differs("jobs: {a: {top_pairs: 1}}\n", "jobs: {a: {top_pairs: 2}}\n", "jobs.;");
    assert_differs("jobs: {a: {core: true}, b: {core: true}}\n",
                   "jobs: {b: {core: true}, a: {core: true}}\n", "jobs.;");
    assert_differs("rules: {row_sums: {enabled: false}}\n", "rules: {}\n", "rules.;");
    assert_differs("rules: {}\n", "", "");
}

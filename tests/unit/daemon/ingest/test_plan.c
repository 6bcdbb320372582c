/* SPDX-License-Identifier: MIT */
/* Which plan holds for which job, in which order, and the prefixes that say so. */
#include "tests/unit/unit.h"

#include "proto/err.h"
#include "daemon/ingest/plan.h"

#include <unistd.h>

static struct config config;
static struct plans *plans;

/* Plans of a config file with this text. */
static int plan_start(const char *text)
{
    char path[] = "/tmp/attnd-plan-XXXXXX", error[CONFIG_ERROR_MAX] = "";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    config_defaults(&config);
    int result = config_load(&config, path, error);
    unlink(path);
    assert_string_equal(error, "");
    assert_int_equal(result, 0);
    return 0;
}

static void plan_begin(const char *text)
{
    plan_start(text);
    plans = plans_new(&config);
    assert_non_null(plans);
}

static int plan_stop(void **state)
{
    (void)state;
    plans_free(&plans);
    config_clear(&config);
    return 0;
}

#define PLAN_TEST(name) TEST_WITH(name, NULL, plan_stop)

static struct config_plan every(uint64_t n)
{
    struct config_plan plan = {.every = n, .layers = {"*"}, .heads = {"*"}, .samples = 1};
    return plan;
}

static int test_plan_set(const char *pattern, uint64_t n)
{
    struct config_plan plan = every(n);
    return plans_set(plans, pattern, &plan);
}

static void assert_holds(const char *job, const char *pattern, enum plan_from from, uint64_t n)
{
    const struct plan *plan = plans_for(plans, job);
    assert_string_equal(plan->pattern, pattern);
    assert_int_equal(plan->from, from);
    assert_int_equal(plan->what.every, n);
}

static void assert_prefixes(const char *const *expected, uint32_t count)
{
    struct plan_prefixes *prefixes = plans_prefixes(plans);
    assert_non_null(prefixes);
    assert_int_equal(prefixes->count, 1 + count); /* after the limits */
    for (uint32_t i = 0; i < count; i++) {
        assert_string_equal(prefixes->text[1 + i], expected[i]);
    }
    free(prefixes);
}

/* The prefix before those of plans; valid until the next call. */
static const char *limits_prefix(void)
{
    static char text[PLAN_PREFIX_MAX + 1];
    struct plan_prefixes *prefixes = plans_prefixes(plans);
    assert_non_null(prefixes);
    snprintf(text, sizeof text, "%s", prefixes->text[0]);
    free(prefixes);
    return text;
}

PLAN_TEST(without_anything_the_default_holds)
{
    plan_begin("");
    assert_holds("gpt-small", "*", PLAN_FROM_DEFAULT, 50);
    assert_holds(".hidden", "*", PLAN_FROM_DEFAULT, 50);
    static const char *const expected[] = {
        "plan/999999/*/every=50;layers=*;heads=*;samples=1;rows=0;tier=auto"};
    assert_prefixes(expected, 1);
}

PLAN_TEST(the_order_is_set_newest_first_then_config_then_default)
{
    plan_begin(
        "plan: {samples: 0, rows: 64}\n"
        "jobs:\n"
        "  'gpt-*': {plan.every: 10}\n"
        "  '*': {plan.every: 20, plan.layers: 'decoder.*.self encoder.*', plan.heads: '0-3,7', "
        "plan.tier: raw}\n");
    assert_int_equal(test_plan_set("bert", 1), 0);
    assert_int_equal(test_plan_set("gpt-[!0-9]*", 2), 0);
    static const char *const expected[] = {
        "plan/0/gpt-[!0-9]*/every=2;layers=*;heads=*;samples=1;rows=0;tier=auto",
        "plan/1/bert/every=1;layers=*;heads=*;samples=1;rows=0;tier=auto",
        "plan/64/gpt-*/every=10;layers=*;heads=*;samples=0;rows=64;tier=auto",
        "plan/65/*/every=20;layers=decoder.*.self encoder.*;heads=0-3,7;samples=0;rows=64;tier=raw",
        "plan/999999/*/every=50;layers=*;heads=*;samples=0;rows=64;tier=auto"};
    assert_prefixes(expected, 5);
    assert_holds("gpt-small", "gpt-[!0-9]*", PLAN_FROM_SET, 2);
    assert_holds("gpt-2", "gpt-*", PLAN_FROM_CONFIG, 10);
    assert_holds("bert", "bert", PLAN_FROM_SET, 1);
    assert_holds("t5", "*", PLAN_FROM_CONFIG, 20);
}

PLAN_TEST(a_plan_that_is_set_again_is_the_newest)
{
    plan_begin("");
    test_plan_set("gpt-*", 1);
    test_plan_set("gpt-a", 2);
    assert_holds("gpt-a", "gpt-a", PLAN_FROM_SET, 2);
    test_plan_set("gpt-*", 3);
    assert_holds("gpt-a", "gpt-*", PLAN_FROM_SET, 3);
    assert_int_equal(plans_count(plans), 3);
}

PLAN_TEST(reset_forgets_exactly_that_one)
{
    plan_begin("jobs: {'a*': {plan.every: 10}}\n");
    test_plan_set("a", 1);
    test_plan_set("b", 2);
    assert_int_equal(plans_reset(plans, "a*"), ERR_ARGUMENT);
    assert_int_equal(plans_reset(plans, "c"), ERR_ARGUMENT);
    assert_int_equal(plans_reset(plans, "a"), 0);
    assert_int_equal(plans_reset(plans, "a"), ERR_ARGUMENT);
    assert_holds("a", "a*", PLAN_FROM_CONFIG, 10);
    assert_holds("b", "b", PLAN_FROM_SET, 2);
}

PLAN_TEST(there_are_at_most_64)
{
    char name[16];
    plan_begin("");
    for (int i = 0; i < 64; i++) {
        snprintf(name, sizeof name, "job%d", i);
        assert_int_equal(test_plan_set(name, 1), 0);
    }
    assert_int_equal(test_plan_set("more", 1), ERR_ARGUMENT);
    assert_int_equal(test_plan_set("job7", 5), 0); /* it is there */
    assert_holds("job7", "job7", PLAN_FROM_SET, 5);
    assert_int_equal(plans_reset(plans, "job0"), 0);
    assert_int_equal(test_plan_set("more", 1), 0);
    assert_int_equal(plans_count(plans), 65);
}

PLAN_TEST(what_a_plan_begins_as)
{
    plan_begin("plan: {every: 40}\njobs: {'gpt-*': {plan.every: 10}}\n");
    test_plan_set("*-large", 7);
    assert_int_equal(plans_before(plans, "gpt-small")->what.every, 10);
    assert_int_equal(plans_before(plans, "gpt-large")->what.every, 7);
    assert_int_equal(plans_before(plans, "bert")->what.every, 40);
    assert_int_equal(plans_before(plans, "*-large")->what.every, 7);
    assert_int_equal(plans_before(plans, "gpt-*")->what.every, 10);
    assert_int_equal(plans_before(plans, "gpt-?")->what.every, 40);
}

PLAN_TEST(what_is_set_survives_a_new_config)
{
    plan_begin("jobs: {'gpt-*': {plan.every: 10}}\n");
    test_plan_set("bert", 1);
    config_clear(&config);
    plan_start("plan: {every: 30}\njobs: {'t5': {plan.every: 5}}\n");
    assert_int_equal(plans_configure(plans, &config), 0);
    assert_holds("bert", "bert", PLAN_FROM_SET, 1);
    assert_holds("gpt-a", "*", PLAN_FROM_DEFAULT, 30);
    assert_holds("t5", "t5", PLAN_FROM_CONFIG, 5);
}

/* With everything as long as it may be; a name longer by one is no job's. */
PLAN_TEST(the_longest_plan_fits_a_prefix)
{
    char pattern[JOB_NAME_MAX + 1];
    struct config_plan plan = {
        .every = 1000000000, .samples = INT32_MAX, .rows = INT32_MAX, .tier = CONFIG_TIER_ROWS};
    plan_begin("");
    memset(pattern, '*', JOB_NAME_MAX);
    pattern[JOB_NAME_MAX] = '\0';
    memset(plan.layers.text, '?', CONFIG_LAYERS_MAX - 1);
    memset(plan.heads.text, '1', CONFIG_HEADS_MAX - 1);
    assert_int_equal(plans_set(plans, pattern, &plan), 0);
    struct plan_prefixes *prefixes = plans_prefixes(plans);
    const char *end = strstr(prefixes->text[1], ";samples=");
    assert_string_equal(end, ";samples=2147483647;rows=2147483647;tier=rows");
    assert_true(strlen(prefixes->text[1]) <= PLAN_PREFIX_MAX);
    assert_true(plan_prefixes_have(prefixes, prefixes->text[2]));
    assert_false(plan_prefixes_have(prefixes, "plan/0/*/"));
    free(prefixes);
}

PLAN_TEST(limits_are_told_before_all_plans)
{
    char error[CONFIG_ERROR_MAX];
    config_defaults(&config);
    assert_int_equal(config_set(&config, "ingest.max_message=1MiB", error), 0);
    assert_int_equal(config_set(&config, "limits.heads=32", error), 0);
    plans = plans_new(&config);
    config.limits_heads = 5; /* read again: what is in force stays */
    assert_int_equal(plans_configure(plans, &config), 0);
    assert_string_equal(
        limits_prefix(),
        "limits/accepts=attention,qk,weights,rows,sketch,event;header=11;max_message=1048576;"
        "max_entries=34359738368;max_heads=32;weights_max_size=2048;maps=64;"
        "maps_every=1000");
}

PLAN_TEST(the_lane_is_told_at_both_addresses)
{
    config_defaults(&config);
    strcpy(config.reliable_endpoint.text, "tcp://127.0.0.1:5574");
    strcpy(config.keys_next_address.text, "tcp://127.0.0.1:5575");
    plans = plans_new(&config);
    assert_non_null(strstr(limits_prefix(), ";reliable=5574;reliable_next=5579"));
}

PLAN_TEST(memory_is_taken_where_there_is_a_directory)
{
    const struct {
        const char *endpoint;
        uint64_t memory;
        bool taken;
    } cases[] = {{"ipc:///run/attnd/ingest", 1 << 20, true},
                 {"ipc:///run/attnd/ingest", 0, false},
                 {"tcp://127.0.0.1:5570", 1 << 20, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        config_defaults(&config);
        strcpy(config.ingest_endpoint.text, cases[i].endpoint);
        config.ingest_memory = cases[i].memory;
        plans_free(&plans);
        plans = plans_new(&config);
        assert_int_equal(strstr(limits_prefix(), ";memory=1") != NULL, cases[i].taken);
    }
}

PLAN_TEST(a_message_larger_than_the_budget_never_fits)
{
    char error[CONFIG_ERROR_MAX];
    config_defaults(&config);
    assert_int_equal(config_set(&config, "ingest.budget=2MiB", error), 0);
    plans = plans_new(&config);
    assert_non_null(strstr(limits_prefix(), ";max_message=2097152;"));
}

/* `every` of the plan of `job`, which says what each capture of every step would cost. */
static uint64_t plan_every_at(const char *job, double ratio, double max, bool changes)
{
    const struct plan_cost cost = {job, ratio, max};
    const char *without = job;
    assert_int_equal(plans_limit_costs(plans, &cost, 1, &without), changes);
    assert_null(without);
    return plans_for(plans, job)->what.every;
}

PLAN_TEST(a_default_that_costs_too_much_is_made_rarer)
{
    plan_begin("");
    assert_int_equal(plan_every_at("gpt", 0.5, 0.01, false), 50);
    assert_int_equal(plan_every_at("gpt", 0.51, 0.01, true), 100);
    assert_holds("gpt", "gpt", PLAN_FROM_COST, 100);
    assert_holds("gpt-2", "*", PLAN_FROM_DEFAULT, 50);
    static const char *const expected[] = {
        "plan/999998/gpt/every=100;layers=*;heads=*;samples=1;rows=0;tier=auto",
        "plan/999999/*/every=50;layers=*;heads=*;samples=1;rows=0;tier=auto"};
    assert_prefixes(expected, 2);
    assert_int_equal(plan_every_at("gpt", 7, 0.01, true), 800);
    assert_int_equal(plans_count(plans), 2);
    const char *without;
    assert_true(plans_limit_costs(plans, NULL, 0, &without)); /* its run has ended */
    assert_holds("gpt", "*", PLAN_FROM_DEFAULT, 50);
}

PLAN_TEST(without_a_bound_or_captures_nothing_is_made_rarer)
{
    plan_begin("plan: {every: 0}\n");
    assert_int_equal(plan_every_at("gpt", 1, 0.01, false), 0);
    config_clear(&config);
    plan_start("");
    assert_int_equal(plans_configure(plans, &config), 0);
    assert_int_equal(plan_every_at("gpt", 1, 0, false), 50);
    assert_int_equal(plan_every_at("gpt", 0, 0.01, false), 50);
}

/* Numbers that are measured vary by some; a plan does not. */
PLAN_TEST(a_plan_is_made_denser_only_with_a_quarter_to_spare)
{
    plan_begin("");
    assert_int_equal(plan_every_at("gpt", 0.9, 0.01, true), 100);
    assert_int_equal(plan_every_at("gpt", 0.49, 0.01, false), 100);
    assert_int_equal(plan_every_at("gpt", 0.376, 0.01, false), 100);
    assert_int_equal(plan_every_at("gpt", 0.374, 0.01, true), 50);
    assert_int_equal(plan_every_at("gpt", 3, 0.01, true), 400);
    assert_int_equal(plan_every_at("gpt", 0.7, 0.01, true), 100);
}

PLAN_TEST(a_plan_that_was_chosen_stays)
{
    plan_begin("jobs: {'bert*': {plan.every: 3}, 't5': {plan.cost_max: 0.5}}\n");
    test_plan_set("gpt-*", 2);
    assert_int_equal(plan_every_at("gpt-2", 1, 0.01, false), 2);
    assert_int_equal(plan_every_at("bert-large", 1, 0.01, false), 3);
    assert_int_equal(plan_every_at("t5", 1, 0.01, true), 100); /* a bound is no plan */
    assert_int_equal(test_plan_set("t5", 4), 0);
    assert_int_equal(plan_every_at("t5", 1, 0.01, true), 4);
    assert_int_equal(plans_reset(plans, "t5"), 0);
    assert_int_equal(plan_every_at("t5", 1, 0.01, true), 100);
}

PLAN_TEST(a_new_default_is_made_rarer_as_it_needs)
{
    plan_begin("");
    assert_int_equal(plan_every_at("gpt", 1.5, 0.01, true), 200);
    config_clear(&config);
    plan_start("plan: {every: 30, samples: 3}\n");
    assert_int_equal(plans_configure(plans, &config), 0);
    assert_int_equal(plan_every_at("gpt", 1.5, 0.01, true), 240);
    assert_int_equal(plans_for(plans, "gpt")->what.samples, 3);
}

PLAN_TEST(at_most_64_jobs_have_a_rarer_plan)
{
    static char names[65][16];
    struct plan_cost all[65];
    const char *without;
    plan_begin("");
    for (int i = 0; i < 65; i++) {
        snprintf(names[i], sizeof names[i], "job%d", i);
        all[i] = (struct plan_cost){names[i], 1e9, 0.01};
    }
    assert_true(plans_limit_costs(plans, all, 64, &without));
    assert_null(without);
    assert_false(plans_limit_costs(plans, all, 65, &without));
    assert_string_equal(without, "job64");
    assert_int_equal(plans_count(plans), 65);
    assert_holds("job63", "job63", PLAN_FROM_COST, 838860800);
    assert_holds("job64", "*", PLAN_FROM_DEFAULT, 50);
    all[63].ratio = 0; /* which makes room */
    assert_true(plans_limit_costs(plans, all, 65, &without));
    assert_null(without);
    assert_holds("job64", "job64", PLAN_FROM_COST, 838860800);
}

/* SPDX-License-Identifier: MIT */
/* Documentation says what the table says. With ATTND_UPDATE_DOCS set, it is rewritten first. */
#include "tests/unit/config/helpers.h"
#include "config/rules_internal.h"
#include "proto/result.h"
#include "tests/unit/docs.h"

/* The tables of the README: every key, the keys of a rule, what rules can judge besides metrics,
 * the default rules, and why they matter. */

static void docs_print_keys(FILE *out)
{
    fputs("| key | type | default | valid | meaning |\n|---|---|---|---|---|\n", out);
    for (int i = 0; i < KEY_COUNT; i++) {
        const struct key *key = &config_keys[i];
        char valid[VALUE_VALID_MAX];
        value_valid(&key->rule, valid);
        fprintf(out, "| `%s%s%s` | %s | `%s` | %s | %s |\n", key->section, *key->section ? "." : "",
                key->name, value_type_name(key->rule.type), key->text, valid, key->help);
    }
}

static void docs_print_rule_keys(FILE *out)
{
    fputs("| key | without it | valid | meaning |\n|---|---|---|---|\n", out);
    for (int i = 0; i < RULE_KEY_COUNT; i++) {
        const struct rule_key_info *key = &rule_keys[i];
        fprintf(out, "| `%s` | %s | %s | %s |\n", key->name, key->text, key->valid, key->help);
    }
}

static void docs_print_rule_metrics(FILE *out)
{
    fputs("| metric | of a | meaning |\n|---|---|---|\n", out);
#define RULE_METRIC(symbol, name, finest, minimum, maximum, help)                                  \
    fprintf(out, "| `%s` | %s | %s |\n", name, rule_each_names[RULE_EACH_##finest], help);
#include "config/rules.def"
#undef RULE_METRIC
}

/* "max of `max_abs_logit`, per key". */
static void docs_print_judged(const struct rule *rule, FILE *out)
{
    if (rule->statistic != RULE_MEAN) {
        fprintf(out, "%s of ", rule_statistic_name(rule->statistic));
    }
    fprintf(out, "`%s`%s", rule_metric_name(rule->metric), rule->per_key ? " per key" : "");
}

static void docs_print_rules(FILE *out)
{
    fputs(
        "| rule | judges | of each | fires when | for | resolved at | only after clear | severity "
        "| means |\n|---|---|---|---|---|---|---|---|---|\n",
        out);
    for (int i = 0; i < RULE_DEFAULT_COUNT; i++) {
        const struct rule *rule = &rule_defaults[i];
        fprintf(out, "| `%s` | ", rule->name);
        docs_print_judged(rule, out);
        fprintf(out, " | %s | %s %g", rule_each_names[rule->each],
                rule_condition_name(rule->condition), rule->bound);
        if (rule_is_rate(rule)) {
            fprintf(out, " within %u", (unsigned)rule->within);
        }
        fprintf(out, " | %u | %g | %s | %s | %s |\n", (unsigned)rule->times, rule->clear,
                rule->after_clear ? "yes" : "no",
                alert_severity_name((enum alert_severity)rule->severity),
                rule_default_texts[i].help);
    }
}

static void docs_print_rule_advice(FILE *out)
{
    fputs(
        "| rule | why it matters | what people do about it | not measured: |\n|---|---|---|---|\n",
        out);
    for (int i = 0; i < RULE_DEFAULT_COUNT; i++) {
        const char *needs = rule_default_texts[i].needs;
        fprintf(out, "| `%s` | %s | %s | %s |\n", rule_defaults[i].name, rule_default_texts[i].why,
                rule_default_texts[i].advice, needs ? needs : "");
    }
}

/* The tables that the README holds, each between `<!-- name -->` and `<!-- /name -->`. */
static const struct {
    const char *name;
    void (*print)(FILE *out);
} tables[] = {
    {"keys", docs_print_keys},
    {"rule keys", docs_print_rule_keys},
    {"rule metrics", docs_print_rule_metrics},
    {"rules", docs_print_rules},
    {"rule advice", docs_print_rule_advice},
};

static void docs_print_defaults(FILE *out)
{
    struct config config = defaults();
    config_print(&config, out);
}

TEST(the_default_file_is_the_dump_of_the_defaults)
{
    docs_expect_file("config/attnd.yaml", docs_print_defaults);
}

TEST(the_default_file_changes_nothing)
{
    char path[4096], error[CONFIG_ERROR_MAX];
    struct config config = defaults(), expected = defaults();
    set(&config, "window.length=7"); /* so that the file has something to restore */
    const char *directory = getenv("ATTND_CONFIG_DIR");
    snprintf(path, sizeof path, "%s/attnd.yaml", directory ? directory : "config");
    assert_int_equal(config_load(&config, path, error), 0);
    assert_same_config(&config, &expected);
    config_clear(&config);
}

TEST(the_readme_holds_the_tables)
{
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        docs_expect_table("config/README.md", tables[i].name, tables[i].print);
    }
}

/* A help is one line that fits the file and does not break the table. */
static void check_help(const char *name, const char *help)
{
    if (strlen(help) < 10 || strlen(help) > 110) {
        fail_msg("%s: its help has %zu characters, not 10 to 110", name, strlen(help));
    }
    assert_null(strpbrk(help, "\n|`"));
    assert_true(help[strlen(help) - 1] != '.');
}

/* Sentences in a table. */
static void check_sentences(const char *text)
{
    assert_non_null(text);
    assert_in_range(strlen(text), 30, 200);
    assert_null(strpbrk(text, "\n|`"));
    assert_true(text[strlen(text) - 1] == '.');
}

TEST(every_default_rule_says_why_and_what_to_do)
{
    for (int i = 0; i < RULE_DEFAULT_COUNT; i++) {
        const struct rule *rule = &rule_defaults[i];
        const char *metric = rule_metric_name(rule->metric);
        check_sentences(rule_why(rule->name, metric));
        check_sentences(rule_advice(rule->name, metric));
        assert_null(rule_why(rule->name, "k_norm")); /* it was made to judge something else */
    }
    assert_null(rule_why("mine", "k_norm"));
    assert_null(rule_advice("mine", "k_norm"));
}

TEST(every_key_is_documented)
{
    for (int i = 0; i < KEY_COUNT; i++) {
        check_help(config_keys[i].name, config_keys[i].help);
    }
    for (int i = 0; i < RULE_KEY_COUNT; i++) {
        check_help(rule_keys[i].name, rule_keys[i].help);
    }
    for (int i = 0; i < RULE_DEFAULT_COUNT; i++) {
        check_help(rule_defaults[i].name, rule_default_texts[i].help);
    }
}

/* SPDX-License-Identifier: MIT */
/* differ: lists the differences between two configurations. The order of the sections `jobs` and
 * `rules` has a meaning of its own, so each of them is compared as one text. */
#include "config/jobs.h"
#include "config/rules_internal.h"

#include <stdlib.h>
#include <string.h>

static bool names_key(const struct job_rule *rule, int key)
{
    return rule->values.line[key] && !config_is_plan_key(config_keys[key].section, "");
}

/* Patterns as far as one has such a key: one without shadows those after it. */
static uint32_t differ_count_patterns(const struct config_jobs *jobs)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < jobs_count(jobs); i++) {
        for (int k = 0; k < KEY_COUNT; k++) {
            if (names_key(jobs_rule(jobs, i), k)) {
                count = i + 1;
            }
        }
    }
    return count;
}

static void differ_print_jobs(const struct config *config, FILE *out)
{
    for (uint32_t i = 0; i < differ_count_patterns(config->jobs); i++) {
        const struct job_rule *rule = jobs_rule(config->jobs, i);
        fprintf(out, "%s:\n", rule->pattern);
        for (int j = 0; j < KEY_COUNT; j++) {
            char text[VALUE_TEXT_MAX];
            if (!names_key(rule, j)) {
                continue;
            }
            value_print(&config_keys[j].rule, config_field(&rule->values, j), text);
            fprintf(out, "%s.%s=%s\n", config_keys[j].section, config_keys[j].name, text);
        }
    }
}

static void differ_print_rules(const struct config *config, FILE *out)
{
    for (uint32_t i = 0; i < config_rule_count(config); i++) {
        const struct rule *rule = config_rule(config, i);
        char text[RULE_TEXT_MAX];
        const char *name;
        fprintf(out, "%s:\n", rule->name);
        for (int key = 0; (name = rule_next_key(rule, &key, text));) {
            fprintf(out, "%s=%s\n", name, text);
        }
    }
}

/* Owned by the caller; NULL when out of memory. */
static char *differ_text_of(const struct config *config,
                            void (*print)(const struct config *config, FILE *out))
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out) {
        return NULL;
    }
    print(config, out);
    return fclose(out) == 0 ? text : NULL;
}

/* Without memory they count as different: that is logged, and people look at it. */
static bool prints_same(const struct config *a, const struct config *b,
                        void (*print)(const struct config *config, FILE *out))
{
    char *text_a = differ_text_of(a, print), *text_b = differ_text_of(b, print);
    bool same = text_a && text_b && strcmp(text_a, text_b) == 0;
    free(text_a);
    free(text_b);
    return same;
}

static void differ_visit_key(const struct config *a, const struct config *b, int key,
                             void (*visit)(void *data, const char *section, const char *name),
                             void *data)
{
    const struct key *entry = &config_keys[key];
    char text_a[VALUE_TEXT_MAX], text_b[VALUE_TEXT_MAX];
    if (config_is_plan_key(entry->section, entry->name)) {
        return;
    }
    value_print(&entry->rule, config_field(a, key), text_a);
    value_print(&entry->rule, config_field(b, key), text_b);
    if (strcmp(text_a, text_b) != 0 && *entry->section) {
        visit(data, entry->section, entry->name);
    } else if (strcmp(text_a, text_b) != 0) {
        visit(data, entry->name, NULL);
    }
}

void config_each_difference(const struct config *a, const struct config *b,
                            void (*visit)(void *data, const char *section, const char *name),
                            void *data)
{
    for (int i = 0; i < KEY_COUNT; i++) {
        differ_visit_key(a, b, i, visit, data);
    }
    if (!prints_same(a, b, differ_print_jobs)) {
        visit(data, "jobs", NULL);
    }
    if (!prints_same(a, b, differ_print_rules)) {
        visit(data, "rules", NULL);
    }
}

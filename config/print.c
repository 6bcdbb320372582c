/* SPDX-License-Identifier: MIT */
/* print: a configuration as a commented YAML file, and as text key by key. */
#include "config/jobs.h"
#include "config/rules_internal.h"

#include <string.h>

/* Whether YAML reads the text as it stands. Other texts go into single quotes; they are printable
 * ASCII, so that only the quote itself needs care. */
static bool print_is_plain(const char *text)
{
    size_t len = strlen(text);
    if (len == 0 || text[len - 1] == ':') {
        return false;
    }
    return text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                             "/._-+@:*[]~=")] == '\0';
}

static void config_print_quoted(FILE *out, const char *text)
{
    putc('\'', out);
    for (; *text; text++) {
        fputs((char[3]){*text, *text == '\'' ? '\'' : '\0', '\0'}, out);
    }
    putc('\'', out);
}

static void config_print_text(FILE *out, const char *text)
{
    if (print_is_plain(text)) {
        fputs(text, out);
    } else {
        config_print_quoted(out, text);
    }
}

/* A pattern that begins with * is an alias to YAML, one with [ a list. */
static void print_pattern(FILE *out, const char *text)
{
    if (strpbrk(text, "*?[]!")) {
        config_print_quoted(out, text);
    } else {
        config_print_text(out, text);
    }
}

/* The name, the value; a list needs no quotes. */
static void print_value(FILE *out, const char *name, const struct key *key, const void *value)
{
    char text[VALUE_TEXT_MAX];
    value_print(&key->rule, value, text);
    fprintf(out, "%s: ", name);
    if (key->rule.type == VALUE_NUMBERS || key->rule.type == VALUE_WINDOWS) {
        fputs(text, out);
    } else if (key->rule.type == VALUE_LAYERS || key->rule.type == VALUE_HEADS) {
        print_pattern(out, text);
    } else {
        config_print_text(out, text);
    }
    putc('\n', out);
}

static void config_print_rules(const struct config *config, FILE *out)
{
    fputs("\n"
          "# Alert rules. A rule of the same name as one below changes only the keys that it gives "
          "(enabled:\n"
          "# false switches it off); any other name is a new rule. Keys, metrics and reasons:\n"
          "# config/README.md.\n"
          "rules:\n",
          out);
    for (uint32_t i = 0; i < config_rule_count(config); i++) {
        const struct rule *rule = config_rule(config, i);
        if (i < RULE_DEFAULT_COUNT) {
            fprintf(out, "  # %s\n", rule_default_texts[i].help);
        }
        char text[RULE_TEXT_MAX];
        const char *name;
        fprintf(out, "  %s:\n", rule->name);
        for (int key = 0; (name = rule_next_key(rule, &key, text));) {
            fprintf(out, "    %s: ", name);
            print_pattern(out, text);
            putc('\n', out);
        }
    }
}

void config_print(const struct config *config, FILE *out)
{
    fputs(
        "# Settings of attnd: attnd --config FILE\n"
        "#\n"
        "# A key that is left out keeps its default; --set section.key=value comes last and wins.\n"
        "# Sizes: 65536, 512MiB, 10MB. Durations: 500ms, 5s, 2min, 1h, 1d.\n"
        "# Endpoints: tcp://host:port (host or port may be *) or ipc://path.\n",
        out);
    for (int i = 0; i < KEY_COUNT; i++) {
        if (*config_keys[i].section && config_opens_section(i)) {
            fprintf(out, "\n%s:\n", config_keys[i].section);
        } else {
            putc('\n', out);
        }
        const struct key *key = &config_keys[i];
        char valid[VALUE_VALID_MAX];
        value_valid(&key->rule, valid);
        const char *indent = *key->section ? "  " : "";
        fprintf(out, "%s# %s\n", indent, key->help);
        fprintf(out, "%s# %s: %s; default %s\n", indent, value_type_name(key->rule.type), valid,
                key->text);
        fputs(indent, out);
        print_value(out, key->name, key, config_field(config, i));
    }
    fputs(
        "\n"
        "# Settings for some jobs: any key of metrics, and of plan as plan.every. The first "
        "pattern that\n"
        "# matches the name of a job counts, as a shell matches file names (* ? [a-z]). Example:\n"
        "#\n"
        "# jobs:\n"
        "#   'gpt-*': {spectrum: false, similarity: true, plan.every: 10}\n"
        "#   '*-debug':\n"
        "#     spectrum_budget: 0\n",
        out);
    if (config->jobs) {
        fputs("jobs:\n", out);
    }
    for (uint32_t i = 0; i < jobs_count(config->jobs); i++) {
        /* Patterns are always quoted: one that begins with * is an alias to YAML otherwise. */
        const struct job_rule *rule = jobs_rule(config->jobs, i);
        fprintf(out, "  '%s':", rule->pattern);
        bool empty = true;
        for (int j = 0; j < KEY_COUNT; j++) {
            char name[JOBS_KEY_MAX];
            if (!rule->values.line[j]) {
                continue;
            }
            fputs(empty ? "\n    " : "    ", out);
            print_value(out, jobs_key_name(j, name), &config_keys[j],
                        config_field(&rule->values, j));
            empty = false;
        }
        fputs(empty ? " {}\n" : "", out);
    }
    config_print_rules(config, out);
}

static void each_override(const struct config *config,
                          void (*visit)(void *data, const char *section, const char *name,
                                        const char *value),
                          void *data)
{
    for (uint32_t i = 0; i < jobs_count(config->jobs); i++) {
        const struct job_rule *rule = jobs_rule(config->jobs, i);
        for (int k = 0; k < KEY_COUNT; k++) {
            char text[VALUE_TEXT_MAX], name[JOBS_KEY_MAX];
            if (!rule->values.line[k]) {
                continue;
            }
            value_print(&config_keys[k].rule, config_field(&rule->values, k), text);
            visit(data, rule->label, jobs_key_name(k, name), text);
        }
    }
}

static void each_rule(const struct config *config,
                      void (*visit)(void *data, const char *section, const char *name,
                                    const char *value),
                      void *data)
{
    for (uint32_t i = 0; i < config_rule_count(config); i++) {
        const struct rule *rule = config_rule(config, i);
        char section[sizeof("rules.") + RULE_NAME_MAX], text[RULE_TEXT_MAX];
        const char *name;
        snprintf(section, sizeof section, "rules.%s", rule->name);
        for (int key = 0; (name = rule_next_key(rule, &key, text));) {
            visit(data, section, name, text);
        }
    }
}

void config_each(const struct config *config,
                 void (*visit)(void *data, const char *section, const char *name,
                               const char *value),
                 void *data)
{
    for (int i = 0; i < KEY_COUNT; i++) {
        const struct key *key = &config_keys[i];
        char text[VALUE_TEXT_MAX];
        value_print(&key->rule, config_field(config, i), text);
        visit(data, key->section, key->name, text);
    }
    each_override(config, visit, data);
    each_rule(config, visit, data);
}

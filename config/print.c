/* SPDX-License-Identifier: MIT */
/* print: a configuration as a commented YAML file, and the key table as Markdown. */
#include "table.h"

#include <string.h>

/* Whether YAML reads the text as it stands. Other texts go into single quotes; they are printable
 * ASCII, so that only the quote itself needs care. */
static bool is_plain(const char *text)
{
    size_t len = strlen(text);
    if (len == 0 || text[len - 1] == ':')
        return false;
    return text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                             "/._-+@:*[]~=")] == '\0';
}

static void print_value(FILE *out, const char *text)
{
    if (is_plain(text)) {
        fputs(text, out);
        return;
    }
    putc('\'', out);
    for (; *text; text++)
        fputs((char[3]){*text, *text == '\'' ? '\'' : '\0', '\0'}, out);
    putc('\'', out);
}

static void print_key(const struct config *config, int index, FILE *out)
{
    const struct key *key = &config_keys[index];
    char valid[VALUE_TEXT_MAX], text[VALUE_TEXT_MAX];
    value_valid(&key->rule, valid);
    value_print(&key->rule, config_field(config, index), text);
    fprintf(out, "  # %s\n", key->help);
    fprintf(out, "  # %s: %s; default %s\n", value_type_name(key->rule.type), valid, key->text);
    fprintf(out, "  %s: ", key->name);
    print_value(out, text);
    putc('\n', out);
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
        if (config_opens_section(i))
            fprintf(out, "\n%s:\n", config_keys[i].section);
        else
            putc('\n', out);
        print_key(config, i, out);
    }
}

void config_print_table(FILE *out)
{
    fputs("| key | type | default | valid | meaning |\n|---|---|---|---|---|\n", out);
    for (int i = 0; i < KEY_COUNT; i++) {
        const struct key *key = &config_keys[i];
        char valid[VALUE_TEXT_MAX];
        value_valid(&key->rule, valid);
        fprintf(out, "| `%s.%s` | %s | `%s` | %s | %s |\n", key->section, key->name,
                value_type_name(key->rule.type), key->text, valid, key->help);
    }
}

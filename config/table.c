/* SPDX-License-Identifier: MIT */
/* table: the key table and everything that walks it.
 *
 * A key's bytes live in struct config at the offset the table names, so that defaults, --set, the
 * YAML reader, the dump and the documentation are loops over the table. Defaults are text and pass
 * through the same parser as a user's value. */
#include "config/table.h"

#include "config/names.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

/* Units of the bounds in keys.def. */
#define KIB(n)     ((uint64_t)(n) << 10)
#define MIB(n)     ((uint64_t)(n) << 20)
#define GIB(n)     ((uint64_t)(n) << 30)
#define TIB(n)     ((uint64_t)(n) << 40)
#define SECONDS(n) ((uint64_t)((n)*1000000000.0))

const struct key config_keys[KEY_COUNT] = {
#define TOP(name, type, text, minimum, maximum, help)                                              \
    {"",                                                                                           \
     #name,                                                                                        \
     {VALUE_##type, minimum, maximum},                                                             \
     text,                                                                                         \
     help,                                                                                         \
     offsetof(struct config, name),                                                                \
     sizeof(CONFIG_TYPE_##type)},
#define KEY(section, name, type, text, minimum, maximum, help)                                     \
    {#section,                                                                                     \
     #name,                                                                                        \
     {VALUE_##type, minimum, maximum},                                                             \
     text,                                                                                         \
     help,                                                                                         \
     offsetof(struct config, section##_##name),                                                    \
     sizeof(CONFIG_TYPE_##type)},
#include "config/keys.def"
#undef TOP
#undef KEY
};

static void *field(struct config *config, const struct key *key)
{
    return (char *)config + key->offset;
}

const void *config_field(const struct config *config, int key)
{
    return (const char *)config + config_keys[key].offset;
}

bool config_opens_section(int index)
{
    return index == 0 || strcmp(config_keys[index].section, config_keys[index - 1].section) != 0;
}

/* Messages */

/* Long paths are shortened from the left, so that the file's name survives. */
static const char *path_tail(const char *path)
{
    size_t len = strlen(path);
    return len > 300 ? path + len - 300 : path;
}

int config_error(char *reterr, struct origin origin, const char *format, ...)
{
    size_t used = 0;
    if (!origin.path) {
        reterr[0] = '\0';
    } else if (origin.line == 0) {
        used = (size_t)snprintf(reterr, CONFIG_ERROR_MAX, "%s: ", path_tail(origin.path));
    } else {
        used = (size_t)snprintf(reterr, CONFIG_ERROR_MAX, "%s:%zu: ", path_tail(origin.path),
                                origin.line);
    }
    va_list args;
    va_start(args, format);
    vsnprintf(reterr + used, CONFIG_ERROR_MAX - used, format, args);
    va_end(args);
    return -1;
}

const char *config_quotable(const char *text, char ret_text[QUOTE_MAX + 4])
{
    size_t len = 0;
    for (; text[len] && len < QUOTE_MAX; len++) {
        ret_text[len] = text[len] < ' ' || text[len] > '~' ? '?' : text[len];
    }
    strcpy(ret_text + len, text[len] ? "..." : "");
    return ret_text;
}

/* Table */

int config_key_index(const char *section, const char *name)
{
    for (int i = 0; i < KEY_COUNT; i++) {
        if (strcmp(config_keys[i].section, section) == 0 &&
            strcmp(config_keys[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

int config_find_section(const char *section, struct origin origin, char *reterr)
{
    for (int i = 0; i < KEY_COUNT; i++) {
        if (*section && strcmp(config_keys[i].section, section) == 0) {
            return i;
        }
    }
    struct names names = {.wanted = section, .distance = 32};
    char guess[64], quoted[QUOTE_MAX + 4];
    for (int i = 0; i < KEY_COUNT; i++) {
        size_t length = strlen(config_keys[i].section);
        if (length > 0 && strncmp(section, config_keys[i].section, length) == 0 &&
            section[length] == '.' && strcmp(section + length + 1, config_keys[i].name) == 0) {
            return config_error(reterr, origin,
                                "%s: written as for --set (valid: a line `%s:`, and below it an "
                                "indented one `%s: ...`)",
                                section, config_keys[i].section, config_keys[i].name);
        }
        if (!*config_keys[i].section) {
            names_add(&names, config_keys[i].name);
        } else if (config_opens_section(i)) {
            names_add(&names, config_keys[i].section);
        }
    }
    names_add(&names, "jobs");
    names_add(&names, "rules");
    return config_error(reterr, origin, "%s: unknown section (valid: %s%s)",
                        config_quotable(section, quoted), names.list, names_guess(&names, guess));
}

int config_find_key(const char *section, const char *label, const char *name, struct origin origin,
                    char *reterr)
{
    int index = config_key_index(section, name);
    if (index >= 0) {
        return index;
    }
    struct names names = {.wanted = name, .distance = 32};
    char guess[64], quoted[QUOTE_MAX + 4];
    for (int i = 0; i < KEY_COUNT; i++) {
        if (strcmp(config_keys[i].section, section) == 0) {
            names_add(&names, config_keys[i].name);
        }
    }
    return config_error(reterr, origin, "%s.%s: unknown key (valid in %s: %s%s)", label,
                        config_quotable(name, quoted), section, names.list,
                        names_guess(&names, guess));
}

const char *config_retired(const char *section, const char *name)
{
    static const struct {
        const char *section, *name, *reason;
    } retired[] = {
#define RETIRED(section, name, reason) {#section, #name, reason},
#include "config/retired.def"
#undef RETIRED
    };
    for (size_t i = 0; i < sizeof retired / sizeof retired[0]; i++) {
        if (strcmp(retired[i].section, section) == 0 && strcmp(retired[i].name, name) == 0) {
            return retired[i].reason;
        }
    }
    return NULL;
}

void config_warn_retired(const struct config *config, const char *label, const char *name,
                         const char *text, const char *instead, struct origin origin)
{
    char warning[CONFIG_ERROR_MAX], quoted[QUOTE_MAX + 4];
    config_error(warning, origin, "%s.%s: '%s': no longer a setting (now %s)", label, name,
                 config_quotable(text, quoted), instead);
    if (config->warnings) {
        fprintf(config->warnings, "attnd: %s\n", warning);
    }
}

int config_assign(struct config *config, int key, const char *label, const char *text,
                  struct origin origin, char *reterr)
{
    const struct key *entry = &config_keys[key];
    char reason[VALUE_REASON_MAX], public[CONFIG_PUBLIC_MAX], quoted[QUOTE_MAX + 4];
    if (value_parse(&entry->rule, text, field(config, entry), reason) == 0) {
        config->line[key] = (uint32_t)origin.line;
        return 0;
    }
    text = config_public(entry->section, entry->name, text, public);
    return config_error(reterr, origin, "%s%s%s: '%s': %s", label, *label ? "." : "", entry->name,
                        config_quotable(text, quoted), reason);
}

void config_defaults(struct config *ret_config)
{
    char error[CONFIG_ERROR_MAX];
    memset(ret_config, 0, sizeof *ret_config);
    for (int i = 0; i < KEY_COUNT; i++) {
        struct origin origin = {"keys.def", 0};
        int result = config_assign(ret_config, i, config_keys[i].section, config_keys[i].text,
                                   origin, error);
        assert(result == 0);
        (void)result;
    }
}

/* SPDX-License-Identifier: MIT */
/* table: keys.def as data, and the one function that assigns a value and words its errors.
 * Private to config/. Pure; any thread. */
#ifndef CONFIG_TABLE_H
#define CONFIG_TABLE_H

#include "config/config.h"
#include "config/value.h"

enum {
#define TOP(name, type, text, minimum, maximum, help)          KEY_##name,
#define KEY(section, name, type, text, minimum, maximum, help) KEY_##section##_##name,
#include "config/keys.def"
#undef TOP
#undef KEY
    KEY_COUNT
};

struct key {
    const char *section, *name; /* section "": at the top */
    struct value_rule rule;
    const char *text; /* default */
    const char *help;
    size_t offset, size; /* in struct config */
};

extern const struct key config_keys[KEY_COUNT];

/* Where a key's value lives. */
const void *config_field(const struct config *config, int key);

/* The keys of attnd's sockets but HTTP's. */
extern const int config_endpoint_keys[ADDRESS_COUNT];

/* Whether a key is the first of its section. */
bool config_opens_section(int key);

/* Where a value comes from: line 0 = no line, as in "--set"; path NULL = messages begin with the
 * key. */
struct origin {
    const char *path;
    size_t line;
};

/* Writes "path:line: message". Always returns -1. */
int config_error(char *reterr, struct origin origin, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Bytes of a user's text that a message quotes. */
#define QUOTE_MAX 80
/* `text` for a message: shortened, and with '?' for what a terminal should not see. */
const char *config_quotable(const char *text, char ret_text[QUOTE_MAX + 4]);

/* The index of a section's first key, or of a key. Return -1 with a message that lists the valid
 * names and suggests the nearest. `section` of config_find_key must exist; messages name it `label`
 * ("metrics", "jobs.gpt-*"). */
int config_find_section(const char *section, struct origin origin, char *reterr);
int config_find_key(const char *section, const char *label, const char *name, struct origin origin,
                    char *reterr);

/* The index of a key, in section "" of one at the top; or -1. */
int config_key_index(const char *section, const char *name);

/* A sentence on the replacement of a key of earlier versions (retired.def); NULL: it is none. */
const char *config_retired(const char *section, const char *name);
/* Says so on config->warnings. */
void config_warn_retired(const struct config *config, const char *label, const char *name,
                         const char *text, const char *instead, struct origin origin);

/* Sets one key. Returns 0, or -1 with a message; *config is then unchanged. */
int config_assign(struct config *config, int key, const char *label, const char *text,
                  struct origin origin, char *reterr);

#endif

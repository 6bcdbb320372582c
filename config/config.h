/* SPDX-License-Identifier: MIT */
/* config: every setting of attnd, from defaults, a YAML file and --set, in that order.
 *
 * One table (keys.def) drives the struct, the parser, the dump and the documented default file.
 * Errors are sentences for people: "path:line: section.key: 'value': reason (valid: ...)". Start-up
 * only; one thread. */
#ifndef CONFIG_CONFIG_H
#define CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define ENDPOINT_MAX 256

enum config_unit { CONFIG_UNIT_EPOCH, CONFIG_UNIT_STEP, CONFIG_UNIT_SECOND };
enum config_level {
    CONFIG_LEVEL_ERROR,
    CONFIG_LEVEL_WARNING,
    CONFIG_LEVEL_INFO,
    CONFIG_LEVEL_DEBUG
};
enum config_format { CONFIG_FORMAT_TEXT, CONFIG_FORMAT_JSON };

typedef struct {
    char text[ENDPOINT_MAX];
} config_endpoint;

/* C type of each key type. BYTES in bytes, DURATION in nanoseconds. */
#define CONFIG_TYPE_ENDPOINT config_endpoint
#define CONFIG_TYPE_BYTES    uint64_t
#define CONFIG_TYPE_COUNT    uint64_t
#define CONFIG_TYPE_DURATION uint64_t
#define CONFIG_TYPE_BOOL     bool
#define CONFIG_TYPE_UNIT     enum config_unit
#define CONFIG_TYPE_LEVEL    enum config_level
#define CONFIG_TYPE_FORMAT   enum config_format

/* Fields are named section_key: config.window_length. */
struct config {
#define KEY(section, name, type, text, minimum, maximum, help) CONFIG_TYPE_##type section##_##name;
#include "keys.def"
#undef KEY
};

/* A window is kept in parts of gcd(length, every) units; at most this many make one window, which
 * bounds what is kept and merged per summary. */
#define CONFIG_WINDOW_PARTS_MAX 64
/* Units per part. */
uint64_t config_window_part(const struct config *config);

/* Room for any message below. */
#define CONFIG_ERROR_MAX 1024

/* All defaults. */
void config_defaults(struct config *ret_config);

/* Applies a YAML file over *config. Returns 0, or -1 with a message in reterr (CONFIG_ERROR_MAX
 * bytes, no newline); *config is then unchanged. A key that is named twice, an unknown key, a wrong
 * type and a value out of range are errors. An empty file is valid. */
int config_load(struct config *config, const char *path, char *reterr);

/* Applies one "section.key=value", as --set gives it. Same errors, with "--set" for path:line. */
int config_set(struct config *config, const char *assignment, char *reterr);

/* Checks what no single key can tell (for instance that window.length and window.every need at most
 * 64 parts). Returns 0 or -1 with a message. */
int config_check(const struct config *config, char *reterr);

/* Writes *config as YAML with every key and its help as comments; what --print-config shows. With
 * defaults it is config/attnd.yaml, byte for byte. */
void config_print(const struct config *config, FILE *out);

/* Writes every key as a Markdown table: the one in config/README.md. */
void config_print_table(FILE *out);

/* Calls `visit` for every key in table order with its value as text: the control call `config`. */
void config_each(const struct config *config,
                 void (*visit)(void *data, const char *section, const char *name,
                               const char *value),
                 void *data);

#endif

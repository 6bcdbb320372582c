/* SPDX-License-Identifier: MIT */
/* config: every setting of attnd, from defaults, a YAML file and --set, in that order; and what
 * differs for some jobs.
 *
 * One table (keys.def) drives the struct, the parser, the dump and the documented default file.
 * Errors are sentences for people: "path:line: section.key: 'value': reason (valid: ...)". Start-up
 * only; one thread. */
#ifndef CONFIG_CONFIG_H
#define CONFIG_CONFIG_H

#include "proto/address.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#define ENDPOINT_MAX 256

enum config_unit { CONFIG_UNIT_EPOCH, CONFIG_UNIT_STEP, CONFIG_UNIT_SECOND, CONFIG_UNIT_AUTO };
enum config_level {
    CONFIG_LEVEL_ERROR,
    CONFIG_LEVEL_WARNING,
    CONFIG_LEVEL_INFO,
    CONFIG_LEVEL_DEBUG
};
enum config_format { CONFIG_FORMAT_TEXT, CONFIG_FORMAT_JSON };
enum config_effort {
    CONFIG_EFFORT_NORM,
    CONFIG_EFFORT_LEADING,
    CONFIG_EFFORT_FULL,
    CONFIG_EFFORT_EIGENVALUES
};
enum config_tier { CONFIG_TIER_AUTO, CONFIG_TIER_RAW, CONFIG_TIER_ROWS };
enum config_isa {
    CONFIG_ISA_AUTO,
    CONFIG_ISA_SCALAR,
    CONFIG_ISA_PORTABLE,
    CONFIG_ISA_AVX2,
    CONFIG_ISA_AVX512
};
enum config_role { CONFIG_ROLE_OFF, CONFIG_ROLE_NODE, CONFIG_ROLE_HUB };
/* "off", "node", "hub". */
const char *config_role_name(enum config_role role);
/* The word a user writes for it: "auto", "scalar", ... */
const char *config_isa_name(enum config_isa isa);
/* "auto", "raw", "rows". */
const char *config_tier_name(enum config_tier tier);

typedef struct {
    char text[ENDPOINT_MAX]; /* "" = by the address, until config_use_address */
} config_endpoint;

#define CONFIG_NUMBERS_MAX 256

typedef struct {
    double number[CONFIG_NUMBERS_MAX];
    uint32_t count;
} config_numbers;

#define CONFIG_TEXT_MAX 1024

/* Printable ASCII; may be empty. */
typedef struct {
    char text[CONFIG_TEXT_MAX];
} config_text;

/* How many fleet.url and fleet.domains may name, and the bytes of a domain. */
#define CONFIG_SERVERS_MAX 32
#define CONFIG_DOMAINS_MAX 64
#define CONFIG_DOMAIN_MAX  64

#define CONFIG_WINDOWS_MAX 7 /* of window.also */
/* With those of window.unit. */
#define CONFIG_WINDOW_RULES_MAX (2 + CONFIG_WINDOWS_MAX)
#define CONFIG_WINDOW_UNITS_MAX 1000000
/* Parts of budgets: of publish.budget, beside it, one each for recorders and for last values, and
 * a smaller one for each place where events of HTTP wait; of ingest.memory one for a process. */
#define CONFIG_PUBLISH_SHARE 4
#define CONFIG_EVENTS_SHARE  16
#define CONFIG_MEMORY_SHARE  4
/* Captures in a window of window.unit `auto`. */
#define CONFIG_WINDOW_CAPTURES 16

/* "100 steps every 10": without `every` windows follow one another. */
struct config_window {
    enum config_unit unit;
    uint64_t length, every;
};
/* By this a run is cut, beside the config. */
struct config_cut {
    uint64_t capture_every;   /* every n-th step is captured */
    struct config_window own; /* takes the place of window.unit; length 0 = it asks for none */
};
typedef struct {
    struct config_window window[CONFIG_WINDOWS_MAX];
    uint32_t count;
} config_windows;

/* Bytes of a plan's texts with their NUL: with the longest of everything else a plan still fits a
 * subscription (daemon/ingest/plan.h). */
#define CONFIG_LAYERS_MAX 512
#define CONFIG_HEADS_MAX  256

/* "decoder.*.self encoder.*": patterns of stack.layer.site between blanks. */
typedef struct {
    char text[CONFIG_LAYERS_MAX];
} config_layers;

/* "*", or numbers and ranges: "0-3,7". */
typedef struct {
    char text[CONFIG_HEADS_MAX];
} config_heads;

/* C type of each key type. BYTES in bytes, DURATION in nanoseconds. */
#define CONFIG_TYPE_ENDPOINT config_endpoint
#define CONFIG_TYPE_BYTES    uint64_t
#define CONFIG_TYPE_COUNT    uint64_t
#define CONFIG_TYPE_DURATION uint64_t
#define CONFIG_TYPE_REAL     double
#define CONFIG_TYPE_NUMBERS  config_numbers
#define CONFIG_TYPE_TEXT     config_text
#define CONFIG_TYPE_WINDOWS  config_windows
#define CONFIG_TYPE_LAYERS   config_layers
#define CONFIG_TYPE_HEADS    config_heads
#define CONFIG_TYPE_SERVERS  config_text
#define CONFIG_TYPE_DOMAINS  config_text
#define CONFIG_TYPE_BOOL     bool
#define CONFIG_TYPE_UNIT     enum config_unit
#define CONFIG_TYPE_LEVEL    enum config_level
#define CONFIG_TYPE_FORMAT   enum config_format
#define CONFIG_TYPE_EFFORT   enum config_effort
#define CONFIG_TYPE_TIER     enum config_tier
#define CONFIG_TYPE_ISA      enum config_isa
#define CONFIG_TYPE_ROLE     enum config_role

/* Overrides of `metrics` and `plan` keys for jobs whose name matches a pattern. */
struct config_jobs;

/* Alert rules: rules.h. */
struct config_rules;

/* Fields are named section_key: config.window_length. A copy borrows `jobs` and `rules` of what it
 * was copied from; the one config that config_load filled owns them, until config_clear. */
struct config {
#define TOP(name, type, text, minimum, maximum, help)          CONFIG_TYPE_##type name;
#define KEY(section, name, type, text, minimum, maximum, help) CONFIG_TYPE_##type section##_##name;
#include "config/keys.def"
#undef TOP
#undef KEY
    char directory[ADDRESS_MAX]; /* of the address, if a socket lies in it; else "" */
    struct config_jobs *jobs;    /* NULL = none */
    struct config_rules *rules;  /* NULL = the defaults */
    FILE *warnings;              /* gets a line for each key that is no more; NULL = nothing does */
    const char *path;            /* of the file that was read, as config_load was given; or NULL */
    /* In which line of the file each key is; 0 = not there, or --set came after it. */
    uint32_t line[0
#define TOP(name, type, text, minimum, maximum, help)          +1
#define KEY(section, name, type, text, minimum, maximum, help) +1
#include "config/keys.def"
#undef TOP
#undef KEY
    ];
};

/* A window is kept in parts of gcd(length, every) units; at most this many make one window, which
 * bounds what is kept and merged per summary. */
#define CONFIG_WINDOW_PARTS_MAX 64
/* Units per part of such a window. */
uint64_t config_window_part(uint64_t length, uint64_t every);
/* The rules by which a run is cut into windows: 0 is the one that alert rules judge, with
 * window.unit `auto` 1 is single epochs, and then come those of window.also. `capture_every`: every
 * n-th step is captured, which `auto` goes by. */
uint32_t config_window_count(const struct config *config);
struct config_window config_window(const struct config *config, uint32_t index,
                                   uint64_t capture_every);
/* The rules of one run, its own first, each once. Returns how many there are. */
uint32_t config_windows_of(const struct config *config, const struct config_cut *cut,
                           struct config_window ret_windows[CONFIG_WINDOW_RULES_MAX]);
/* The index of the first rule with these numbers, `unit` a config_unit or a window_unit; -1: there
 * is none. With `auto` any number of steps that 16 captures may take is 0. */
int config_window_find(const struct config *config, int unit, uint64_t length, uint64_t every);
/* Every n-th step of a job is captured, as far as the config knows; `own_every`: as the job's own
 * code asks for, 0 = it does not. */
uint64_t config_capture_every(const struct config *config, const char *job, uint64_t own_every);

/* Room for any message below. */
#define CONFIG_ERROR_MAX 1024

/* All defaults; owns nothing yet. */
void config_defaults(struct config *ret_config);

/* Frees the overrides and rules; the values stay. Once, by the owner, after the last use of any
 * copy. */
void config_clear(struct config *config);

/* The settings of one job: those of the first pattern, in the order of the file, that matches its
 * name as a shell matches file names; *config when none does. It lives as long as config->jobs, and
 * its `jobs` and `rules` are NULL. */
const struct config *config_for_job(const struct config *config, const char *job);

/* The capture plan of trainers: the keys of the section `plan`, but for `cost_max`. */
struct config_plan {
    uint64_t every; /* 0 = nothing */
    config_layers layers;
    config_heads heads;
    uint64_t samples, rows; /* 0 = all */
    enum config_tier tier;
};

/* The values of the section `plan`. */
void config_default_plan(const struct config *config, struct config_plan *ret_plan);
/* The index-th pattern of the section `jobs` that names keys of a plan, in the order of the file,
 * and its plan: what it does not name is as in the section. NULL when there are no more. */
const char *config_job_plan(const struct config *config, uint32_t index,
                            struct config_plan *ret_plan);
/* Sets one key by name. Returns 0, or -1 with a message ("plan.every: '-1': ..."); *plan is then
 * unchanged. */
int config_plan_set(struct config_plan *plan, const char *key, const char *text, char *reterr);
/* Whether what config_each visits is of a plan: "plan", "every" or "jobs.gpt-*", "plan.every". */
bool config_is_plan_key(const char *section, const char *name);

/* Whether it is a pattern of job names: 1 to 128 of what they are made of and * ? [ ] !. */
bool config_is_pattern(const char *text);

/* Calls `visit` for every key outside of plans that the two have different; for the sections `jobs`
 * and `rules` once each, with `name` NULL, as for keys that are in no section. */
void config_each_difference(const struct config *a, const struct config *b,
                            void (*visit)(void *data, const char *section, const char *name),
                            void *data);

/* Applies a YAML file over *config. Returns 0, or -1 with a message in reterr (CONFIG_ERROR_MAX
 * bytes, no newline); *config is then unchanged. A key that is named twice, an unknown key, a wrong
 * type and a value out of range are errors. An empty file is valid. The overrides of a file with a
 * section `jobs` replace those of *config, which then owns them; likewise `rules`. */
int config_load(struct config *config, const char *path, char *reterr);

/* Applies one "section.key=value", as --set gives it. Same errors, with "--set" for path:line. */
int config_set(struct config *config, const char *assignment, char *reterr);

/* Gives the endpoints that are empty those of an address: "/run/attnd", "tcp://127.0.0.1:5570". All
 * four must then be Unix sockets, unless there are keys or `insecure` is set. `origin` is the
 * source of the address, for messages. Returns 0, or -1 with a message. */
int config_use_address(struct config *config, const char *address, const char *origin,
                       char *reterr);

/* Whether one of the five is on TCP: only there are keys asked for. */
bool config_uses_tcp(const struct config *config);

/* Puts the sockets that lie in config->directory, and it, elsewhere. Returns 0, or -1 with a
 * message when the path is too long. */
int config_move(struct config *config, const char *directory, char *reterr);

/* Checks what no single key can tell (for instance that window.length and window.every need at most
 * 64 parts), for every job. Returns 0 or -1 with a message. */
int config_check(const struct config *config, char *reterr);

/* Bytes of records that may wait for the disk, beside ingest.budget: a quarter of it, and what a
 * round of checkpoints needs at least. */
uint64_t config_records_bytes(const struct config *config);

/* Lowers the budgets of attnd's own memory, all by the same factor but none below its minimum,
 * until they are `most` bytes together; and ingest.max_message with them. Returns what they were.
 */
uint64_t config_fit_memory(struct config *config, uint64_t most);

/* Writes *config as YAML with every key and its help as comments; what --print-config shows. With
 * defaults it is config/attnd.yaml, byte for byte. */
void config_print(const struct config *config, FILE *out);

/* Calls `visit` for every key in table order with its value as text: the control call `config`.
 * Keys that are in no section have "" for it.
 * Then for every override, with "jobs.<pattern>" as its section (and a plan's key as "plan.every"),
 * and for the rules in force, with "rules.<name>". */
void config_each(const struct config *config,
                 void (*visit)(void *data, const char *section, const char *name,
                               const char *value),
                 void *data);

#define CONFIG_PUBLIC_MAX (CONFIG_TEXT_MAX + 8)
/* A value as anybody may see it: of fleet.url without logins, of alerts.webhook scheme, host and
 * port, of alerts.command the program's name, with "..." for what is left out; other values as they
 * are. Returns `value` or `buffer`. */
const char *config_public(const char *section, const char *name, const char *value,
                          char buffer[CONFIG_PUBLIC_MAX]);

#endif

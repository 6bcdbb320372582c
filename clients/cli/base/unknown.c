/* SPDX-License-Identifier: MIT */
#include "clients/cli/base/unknown.h"

#include "proto/metric.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void unknown_init(struct unknown *unknown, const char *name)
{
    *unknown = (struct unknown){.count = 0};
    nearest_init(&unknown->nearest, name);
}

static void try_name(struct unknown *unknown, const char *name)
{
    nearest_try(&unknown->nearest, name);
    if (unknown->nearest.best == name) {
        snprintf(unknown->best, sizeof unknown->best, "%s", name);
    }
    unknown->nearest.best = NULL; /* the name need not outlive this call */
}

void unknown_add(struct unknown *unknown, const char *name)
{
    size_t used = strlen(unknown->list);
    try_name(unknown, name);
    if (unknown->count++ < UNKNOWN_LISTED) {
        snprintf(unknown->list + used, sizeof unknown->list - used, "%s%s", used ? ", " : "", name);
    }
}

void unknown_text(const struct unknown *unknown, const char *see, char ret_text[UNKNOWN_TEXT_MAX])
{
    if (*unknown->best) {
        snprintf(ret_text, UNKNOWN_TEXT_MAX, ": did you mean '%s'?", unknown->best);
    } else if (unknown->count <= UNKNOWN_LISTED) {
        snprintf(ret_text, UNKNOWN_TEXT_MAX, " (valid: %s)", unknown->list);
    } else {
        snprintf(ret_text, UNKNOWN_TEXT_MAX, " (valid: %s, ..., %" PRIu32 " in all: see %s)",
                 unknown->list, unknown->count, see);
    }
}

/* The names of the first layer are listed, those of all may be meant. */
int unknown_in_run(struct cli *cli, const msgpack_object *result)
{
    const msgpack_object *layers = mpk_find(result, "layers");
    const char *metric = cli->args->metric, *job = cli->args->words[1];
    struct unknown unknown;
    char name[FIELD_NAME_MAX], see[160], text[UNKNOWN_TEXT_MAX];
    if (mpk_items(layers) == 0) {
        return CLI_OK;
    }
    unknown_init(&unknown, metric);
    for (uint32_t i = 0; i < mpk_items(layers); i++) {
        const msgpack_object *names = mpk_find(&layers->via.array.ptr[i], "metrics");
        for (uint32_t j = 0; j < mpk_items(names); j++) {
            field_show(&names->via.array.ptr[j], name, sizeof name);
            if (strcmp(name, metric) == 0) {
                return CLI_OK;
            }
            if (i == 0) {
                unknown_add(&unknown, name);
            } else {
                try_name(&unknown, name);
            }
        }
    }
    snprintf(see, sizeof see, "attnctl summary %.128s --json", job);
    unknown_text(&unknown, see, text);
    return cli_usage(cli, "--metric: '%.80s': not in run %.8s of %.80s%s", metric,
                     FIELD_TEXT(result, "run"), job, text);
}

int unknown_check_metric(struct cli *cli)
{
    static const char *const others[] = {"pattern", "sink_rate"};
    enum { OTHERS = sizeof others / sizeof others[0] };
    const char *metric = cli->args->metric;
    char text[UNKNOWN_TEXT_MAX];
    struct unknown unknown;
    /* The numbers of aggregates are many. */
    if (!metric || strncmp(metric, "aggregate.", strlen("aggregate.")) == 0) {
        return CLI_OK;
    }
    unknown_init(&unknown, metric);
    for (int i = 0; i < METRIC_COUNT + OTHERS; i++) {
        const char *name = i < METRIC_COUNT ? metric_info[i].name : others[i - METRIC_COUNT];
        if (strcmp(name, metric) == 0) {
            return CLI_OK;
        }
        unknown_add(&unknown, name);
    }
    unknown_text(&unknown, "", text);
    return *unknown.best ? cli_usage(cli, "--metric: '%.80s': unknown%s", metric, text) : CLI_OK;
}

/* Distances */

enum { LENGTH_MAX = NEAREST_FAR - 1 };

static int min(int a, int b)
{
    return a < b ? a : b;
}

/* Three rows of the table of distances between prefixes: a swap looks two rows back. */
int nearest_distance(const char *a, const char *b)
{
    int rows[3][LENGTH_MAX + 1];
    int length_a = (int)strnlen(a, NEAREST_FAR), length_b = (int)strnlen(b, NEAREST_FAR);
    if (length_a > LENGTH_MAX || length_b > LENGTH_MAX) {
        return NEAREST_FAR;
    }
    for (int j = 0; j <= length_b; j++) {
        rows[0][j] = j;
    }
    for (int i = 1; i <= length_a; i++) {
        int *row = rows[i % 3], *before = rows[(i + 2) % 3], *swap = rows[(i + 1) % 3];
        row[0] = i;
        for (int j = 1; j <= length_b; j++) {
            row[j] = min(min(before[j], row[j - 1]) + 1, before[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                row[j] = min(row[j], swap[j - 2] + 1);
            }
        }
    }
    return rows[length_a % 3][length_b];
}

void nearest_init(struct nearest *nearest, const char *text)
{
    *nearest = (struct nearest){.distance = NEAREST_FAR};
    snprintf(nearest->text, sizeof nearest->text, "%s", text);
}

void nearest_init_option(struct nearest *nearest, const char *option)
{
    nearest_init(nearest, option + strspn(option, "-"));
    nearest->text[strcspn(nearest->text, "=")] = '\0';
}

/* "cmap" of "colormap": how it begins, and at least three letters of how it ends. */
static bool is_abbreviation(const char *text, const char *word)
{
    size_t length = strlen(text), whole = strlen(word), begin = 0, end = 0;
    while (begin < length && begin < whole && text[begin] == word[begin]) {
        begin++;
    }
    while (end < length && end < whole && text[length - 1 - end] == word[whole - 1 - end]) {
        end++;
    }
    return whole > length && begin > 0 && end >= 3 && begin + end >= length;
}

/* A beginning is nearer than any slip. Else a fifth of the letters may be wrong, and one always:
 * what is farther is another word, unless it is abbreviated. */
void nearest_try(struct nearest *nearest, const char *word)
{
    size_t length = strlen(nearest->text);
    int distance = nearest_distance(nearest->text, word);
    int most = min(1 + min((int)length, LENGTH_MAX) / 5, (int)strlen(word) - 1);
    if (length > 1 && strncmp(word, nearest->text, length) == 0) {
        distance = 0;
    } else if (distance > most) {
        distance = is_abbreviation(nearest->text, word) ? NEAREST_FAR - 1 : NEAREST_FAR;
    }
    if (distance >= nearest->distance) {
        return;
    }
    nearest->best = word;
    nearest->distance = distance;
}

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
bool unknown_in_layers(const msgpack_object *layers, const char *metric, const char *job,
                       char ret_text[UNKNOWN_TEXT_MAX])
{
    struct unknown unknown;
    char name[FIELD_NAME_MAX], see[160];
    unknown_init(&unknown, metric);
    for (uint32_t i = 0; i < field_length(layers); i++) {
        const msgpack_object *names = mpk_find(&layers->via.array.ptr[i], "metrics");
        for (uint32_t j = 0; j < field_length(names); j++) {
            field_show(&names->via.array.ptr[j], name, sizeof name);
            if (strcmp(name, metric) == 0) {
                return false;
            }
            if (i == 0) {
                unknown_add(&unknown, name);
            } else {
                try_name(&unknown, name);
            }
        }
    }
    snprintf(see, sizeof see, "attnctl summary %.128s --json", job);
    unknown_text(&unknown, see, ret_text);
    return true;
}

/* Names with a dot are numbers of a matrix or an aggregate, which are many. */
static bool is_slip(const char *metric, char ret_text[UNKNOWN_TEXT_MAX])
{
    static const char *const others[] = {"pattern", "sink_rate"};
    enum { OTHERS = sizeof others / sizeof others[0] };
    struct unknown unknown;
    unknown_init(&unknown, metric);
    if (strchr(metric, '.')) {
        return false;
    }
    for (int i = 0; i < METRIC_COUNT + OTHERS; i++) {
        const char *name = i < METRIC_COUNT ? metric_info[i].name : others[i - METRIC_COUNT];
        if (strcmp(name, metric) == 0) {
            return false;
        }
        unknown_add(&unknown, name);
    }
    unknown_text(&unknown, "", ret_text);
    return *unknown.best != '\0';
}

int unknown_check_metric(struct cli *cli)
{
    const char *metric = cli->args->metric;
    char text[UNKNOWN_TEXT_MAX];
    if (!metric || !is_slip(metric, text)) {
        return CLI_OK;
    }
    return cli_usage(cli, "--metric: '%.80s': unknown%s", metric, text);
}

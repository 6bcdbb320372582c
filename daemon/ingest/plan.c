/* SPDX-License-Identifier: MIT */
/* An order is a place: a plan that is set takes 0, and moves those before it on by one. So the
 * prefixes alone tell which plan is newer, and a trainer needs no memory of how they came about. */
#include "daemon/ingest/plan.h"

#include "proto/err.h"
#include "proto/memory.h"

#include <assert.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct plans {
    char limits[PLAN_PREFIX_MAX + 1]; /* the prefix that tells them */
    struct plan set[PLANS_SET_MAX];   /* newest first */
    uint32_t set_count;
    struct plan *config; /* owned; the last one is the default */
    uint32_t config_count;
    struct plan lengthened[PLANS_LENGTHENED_MAX]; /* of single jobs */
    uint32_t lengthened_count;
};

/* The longest of each part: "plan/", an order, a pattern, a settings text. */
static_assert(sizeof("plan/999999/") - 1 + JOB_NAME_MAX + sizeof("/every=1000000000") - 1 +
                      sizeof(";layers=") - 1 + (CONFIG_LAYERS_MAX - 1) + sizeof(";heads=") - 1 +
                      (CONFIG_HEADS_MAX - 1) + sizeof(";samples=2147483647") - 1 +
                      sizeof(";rows=2147483647") - 1 + sizeof(";tier=auto") - 1 <=
                  PLAN_PREFIX_MAX,
              "every plan fits a prefix");

const char *plan_from_name(enum plan_from from)
{
    static const char *const names[] = {
        [PLAN_FROM_DEFAULT] = "default",
        [PLAN_FROM_COST] = "cost",
        [PLAN_FROM_CONFIG] = "config",
        [PLAN_FROM_SET] = "set",
    };
    return names[from];
}

static void name_plan(struct plan *plan, const char *pattern, enum plan_from from)
{
    snprintf(plan->pattern, sizeof plan->pattern, "%s", pattern);
    plan->from = from;
}

/* The port of an endpoint on TCP; 0: it is elsewhere. */
static unsigned long plan_port(const char *endpoint)
{
    bool tcp = strncmp(endpoint, "tcp://", strlen("tcp://")) == 0;
    return tcp ? strtoul(strrchr(endpoint, ':') + 1, NULL, 10) : 0;
}

/* The ports of the reliable lane, at attnd's address and at the second one. */
static void plan_write_lane(const struct config *config, char *ret_text, size_t size)
{
    unsigned long port = plan_port(config->reliable_endpoint.text);
    unsigned long next = plan_port(config->keys_next_address.text);
    *ret_text = '\0';
    if (port > 0 && next > 0) {
        snprintf(ret_text, size, ";reliable=%lu;reliable_next=%lu", port, next + ADDRESS_RELIABLE);
    } else if (*config->reliable_endpoint.text) {
        snprintf(ret_text, size, ";reliable=%lu", port);
    }
}

static bool plan_has_memory(const struct config *config)
{
    char path[MEMORY_PATH_MAX];
    return config->ingest_memory > 0 && memory_path(config->ingest_endpoint.text, path);
}

/* A message counts against the budget with what computing it takes, so it never fits when it is as
 * large by itself. */
static void plan_write_limits(const struct config *config, char *ret_text)
{
    uint64_t max = config->ingest_max_message < config->ingest_budget ? config->ingest_max_message
                                                                      : config->ingest_budget;
    uint64_t maps = config->maps_size < SENT_MAPS_SIDE ? config->maps_size : SENT_MAPS_SIDE;
    char reliable[64];
    maps = config->maps_enabled ? maps : 0;
    plan_write_lane(config, reliable, sizeof reliable);
    snprintf(ret_text, PLAN_PREFIX_MAX + 1,
             "limits/accepts=%s,%s,%s,%s,%s,%s;header=%d;max_message=%" PRIu64
             ";max_entries=%" PRIu64 ";max_heads=%" PRIu64 ";weights_max_size=%" PRIu64
             ";maps=%" PRIu64 ";maps_every=%" PRIu64 "%s%s",
             message_type_name(MESSAGE_ATTENTION), message_type_name(MESSAGE_QK),
             message_type_name(MESSAGE_WEIGHTS), message_type_name(MESSAGE_ROWS),
             message_type_name(MESSAGE_SKETCH), message_type_name(MESSAGE_EVENT), HEADER_REVISION,
             max, config->limits_entries, config->limits_heads, config->metrics_weights_max_size,
             maps, config->maps_every / 1000000, reliable,
             plan_has_memory(config) ? ";memory=1" : "");
}

struct plans *plans_new(const struct config *config)
{
    struct plans *plans = calloc(1, sizeof *plans);
    if (plans) {
        plan_write_limits(config, plans->limits);
    }
    if (plans && plans_configure(plans, config) != 0) {
        plans_free(&plans);
    }
    return plans;
}

void plans_free(struct plans **plans_p)
{
    if (*plans_p) {
        free((*plans_p)->config);
    }
    free(*plans_p);
    *plans_p = NULL;
}

static uint32_t plan_count_patterns(const struct config *config)
{
    struct config_plan plan;
    uint32_t count = 0;
    while (config_job_plan(config, count, &plan)) {
        count++;
    }
    return count;
}

int plans_configure(struct plans *plans, const struct config *config)
{
    uint32_t patterns = plan_count_patterns(config);
    struct plan *all = calloc(patterns + 1, sizeof *all);
    if (!all) {
        return ERR_MEMORY;
    }
    for (uint32_t i = 0; i < patterns; i++) {
        name_plan(&all[i], config_job_plan(config, i, &all[i].what), PLAN_FROM_CONFIG);
    }
    name_plan(&all[patterns], "*", PLAN_FROM_DEFAULT);
    config_default_plan(config, &all[patterns].what);
    free(plans->config);
    plans->config = all;
    plans->config_count = patterns + 1;
    return 0;
}

/* The place among those that were set; set_count when there is none. */
static uint32_t find_set(const struct plans *plans, const char *pattern)
{
    uint32_t i = 0;
    while (i < plans->set_count && strcmp(plans->set[i].pattern, pattern) != 0) {
        i++;
    }
    return i;
}

static void remove_set(struct plans *plans, uint32_t index)
{
    plans->set_count--;
    memmove(&plans->set[index], &plans->set[index + 1],
            (plans->set_count - index) * sizeof plans->set[0]);
}

int plans_set(struct plans *plans, const char *pattern, const struct config_plan *what)
{
    struct plan plan = {.what = *what}; /* `what` may be one of those that move */
    name_plan(&plan, pattern, PLAN_FROM_SET);
    uint32_t old = find_set(plans, pattern);
    if (old < plans->set_count) {
        remove_set(plans, old);
    }
    if (plans->set_count == PLANS_SET_MAX) {
        return ERR_ARGUMENT;
    }
    memmove(&plans->set[1], &plans->set[0], plans->set_count * sizeof plans->set[0]);
    plans->set[0] = plan;
    plans->set_count++;
    return 0;
}

int plans_reset(struct plans *plans, const char *pattern)
{
    uint32_t index = find_set(plans, pattern);
    if (index == plans->set_count) {
        return ERR_ARGUMENT;
    }
    remove_set(plans, index);
    return 0;
}

uint32_t plans_count(const struct plans *plans)
{
    return plans->set_count + plans->config_count + plans->lengthened_count;
}

const struct plan *plans_at(const struct plans *plans, uint32_t index)
{
    if (index < plans->set_count) {
        return &plans->set[index];
    }
    index -= plans->set_count;
    if (index < plans->config_count - 1) {
        return &plans->config[index];
    }
    index -= plans->config_count - 1;
    return index < plans->lengthened_count ? &plans->lengthened[index] : plans_default(plans);
}

const struct plan *plans_default(const struct plans *plans)
{
    return &plans->config[plans->config_count - 1];
}

const struct plan *plans_for(const struct plans *plans, const char *job)
{
    for (uint32_t i = 0; i < plans_count(plans); i++) {
        if (fnmatch(plans_at(plans, i)->pattern, job, 0) == 0) {
            return plans_at(plans, i);
        }
    }
    return plans_default(plans); /* not reached: its pattern matches every name */
}

bool plan_takes(const struct plan *plan, struct layer_id layer)
{
    const char *patterns = plan->what.layers.text;
    char name[LAYER_NAME_MAX], pattern[CONFIG_LAYERS_MAX];
    layer_name(layer, name);
    while (*(patterns += strspn(patterns, " "))) {
        size_t length = strcspn(patterns, " ");
        snprintf(pattern, sizeof pattern, "%.*s", (int)length, patterns);
        if (fnmatch(pattern, name, 0) == 0) {
            return true;
        }
        patterns += length;
    }
    return false;
}

const struct plan *plans_before(const struct plans *plans, const char *pattern)
{
    if (job_name_valid(pattern, strlen(pattern))) {
        return plans_for(plans, pattern);
    }
    for (uint32_t i = 0; i < plans_count(plans); i++) {
        if (strcmp(plans_at(plans, i)->pattern, pattern) == 0) {
            return plans_at(plans, i);
        }
    }
    return plans_default(plans);
}

/* Costs */

/* The least of `every` times 1, 2, 4, ... at which the captures cost at most `max`; the largest
 * that there is when none does. */
static uint64_t plan_bounded(uint64_t every, double ratio, double max)
{
    while (ratio / (double)every > max && 2 * every <= EVERY_MAX) {
        every *= 2;
    }
    return every;
}

/* The plan that a job has got already. */
static const struct plan *plan_find_lengthened(const struct plans *plans, const char *job)
{
    for (uint32_t i = 0; i < plans->lengthened_count; i++) {
        if (strcmp(plans->lengthened[i].pattern, job) == 0) {
            return &plans->lengthened[i];
        }
    }
    return NULL;
}

/* `now` is what it was lengthened to before. It stays while it is long enough, is one of those that
 * it may be, and is not twice as long as is needed with a quarter to spare. */
static uint64_t plan_lengthen(uint64_t every, uint64_t now, const struct plan_cost *cost)
{
    uint64_t least = plan_bounded(every, cost->ratio, cost->max);
    uint64_t most = plan_bounded(every, cost->ratio, cost->max * 3 / 4);
    uint64_t factor = now / every;
    bool possible = now % every == 0 && factor > 0 && (factor & (factor - 1)) == 0;
    return !possible || now < least ? least : now > most ? most : now;
}

bool plans_limit_costs(struct plans *plans, const struct plan_cost *costs, uint32_t count,
                       const char **ret_without)
{
    struct plan next[PLANS_LENGTHENED_MAX];
    const struct config_plan *whole = &plans_default(plans)->what;
    uint32_t next_count = 0;
    *ret_without = NULL;
    for (uint32_t i = 0; i < count && !*ret_without; i++) {
        enum plan_from from = plans_for(plans, costs[i].job)->from;
        const struct plan *before = plan_find_lengthened(plans, costs[i].job);
        if (whole->every == 0 || !(costs[i].max > 0) || from == PLAN_FROM_SET ||
            from == PLAN_FROM_CONFIG) {
            continue;
        }
        uint64_t every = plan_lengthen(whole->every, before ? before->what.every : 0, &costs[i]);
        if (every > whole->every && next_count == PLANS_LENGTHENED_MAX) {
            *ret_without = costs[i].job;
        } else if (every > whole->every) {
            struct plan *plan = &next[next_count++];
            memset(plan, 0, sizeof *plan); /* they are compared as a whole */
            name_plan(plan, costs[i].job, PLAN_FROM_COST);
            memcpy(&plan->what, whole, sizeof plan->what);
            plan->what.every = every;
        }
    }
    bool same = next_count == plans->lengthened_count &&
                memcmp(next, plans->lengthened, next_count * sizeof next[0]) == 0;
    memcpy(plans->lengthened, next, next_count * sizeof next[0]);
    plans->lengthened_count = next_count;
    return !same;
}

static uint32_t order_of(const struct plans *plans, uint32_t index)
{
    if (index < plans->set_count) {
        return index;
    }
    switch (plans_at(plans, index)->from) {
    case PLAN_FROM_DEFAULT:
        return PLAN_ORDER_DEFAULT;
    case PLAN_FROM_COST:
        return PLAN_ORDER_LENGTHENED;
    default:
        return PLAN_ORDER_CONFIG + (index - plans->set_count);
    }
}

static void write_prefix(const struct plan *plan, uint32_t order, char *ret_text)
{
    const struct config_plan *what = &plan->what;
    snprintf(ret_text, PLAN_PREFIX_MAX + 1,
             "plan/%" PRIu32 "/%s/every=%" PRIu64 ";layers=%s;heads=%s;samples=%" PRIu64
             ";rows=%" PRIu64 ";tier=%s",
             order, plan->pattern, what->every, what->layers.text, what->heads.text, what->samples,
             what->rows, config_tier_name(what->tier));
}

struct plan_prefixes *plans_prefixes(const struct plans *plans)
{
    uint32_t count = plans_count(plans);
    struct plan_prefixes *prefixes =
        malloc(sizeof *prefixes + (1 + count) * sizeof prefixes->text[0]);
    if (!prefixes) {
        return NULL;
    }
    prefixes->count = 1 + count;
    strcpy(prefixes->text[0], plans->limits);
    for (uint32_t i = 0; i < count; i++) {
        write_prefix(plans_at(plans, i), order_of(plans, i), prefixes->text[1 + i]);
    }
    return prefixes;
}

bool plan_prefixes_have(const struct plan_prefixes *prefixes, const char *text)
{
    for (uint32_t i = 0; i < prefixes->count; i++) {
        if (strcmp(prefixes->text[i], text) == 0) {
            return true;
        }
    }
    return false;
}

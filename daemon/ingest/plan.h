/* SPDX-License-Identifier: MIT */
/* plan: the capture plan of each job, and how trainers learn it. PROTOCOL.md, "The capture plan",
 * has the rules; here is the daemon's side: the plans in their order, and the prefixes that say so
 * when they are subscribed to.
 *
 * Pure; one thread. */
#ifndef DAEMON_INGEST_PLAN_H
#define DAEMON_INGEST_PLAN_H

#include "config/config.h"
#include "proto/header.h"

/* Plans that can be set at run time. */
#define PLANS_SET_MAX 64
/* Where those of the config begin, and the default. */
#define PLAN_ORDER_CONFIG  PLANS_SET_MAX
#define PLAN_ORDER_DEFAULT 999999
/* The default with a longer `every`, for one job. The requests of the job's own code go before it,
 * as before the default. */
#define PLAN_ORDER_LENGTHENED (PLAN_ORDER_DEFAULT - 1)
#define PLANS_LENGTHENED_MAX  64

enum plan_from { PLAN_FROM_DEFAULT, PLAN_FROM_COST, PLAN_FROM_CONFIG, PLAN_FROM_SET };
/* "default", "cost", "config", "set". */
const char *plan_from_name(enum plan_from from);

struct plan {
    char pattern[JOB_NAME_MAX + 1]; /* of job names */
    enum plan_from from;
    struct config_plan what;
};

/* A trainer accepts 1024 bytes of a subscription, with what ZeroMQ adds to it. */
#define PLAN_PREFIX_MAX 1000
/* "limits/accepts=...", then of each plan
 * "plan/<order>/<pattern>/every=...;layers=...;heads=...;samples=...;rows=...;tier=...", with
 * their NULs. */
struct plan_prefixes {
    uint32_t count;
    char text[][PLAN_PREFIX_MAX + 1];
};

struct plans;

/* With the default and the plans of the config, and its limits, which stay as they are from here
 * on. NULL when out of memory. */
struct plans *plans_new(const struct config *config);
void plans_free(struct plans **plans);

/* Replaces the default and the plans of the config; those that were set stay. Returns 0 or
 * ERR_MEMORY, with nothing changed. */
int plans_configure(struct plans *plans, const struct config *config);

/* Sets the plan of a name or pattern, which becomes the newest. Returns 0, or ERR_ARGUMENT when
 * there are PLANS_SET_MAX others. `pattern` is one (config_is_pattern). */
int plans_set(struct plans *plans, const char *pattern, const struct config_plan *what);
/* Forgets what was set for exactly this name or pattern. Returns 0, or ERR_ARGUMENT when nothing
 * was. */
int plans_reset(struct plans *plans, const char *pattern);

/* The cost of capturing every step of a job, as a part of its step time, and how much of that the
 * default plan may take; 0 = any. */
struct plan_cost {
    const char *job; /* borrowed */
    double ratio, max;
};
/* Lengthens `every` of the default plan for the first PLANS_LENGTHENED_MAX of these jobs for which
 * it is the plan, and costs too much; for no others. Returns whether anything has changed. Plans
 * that are lengthened by more than they need stay so, unless they need at most half of it with a
 * quarter to spare: numbers that are measured vary. *ret_without is the next job that it costs too
 * much, borrowed; NULL without one. */
bool plans_limit_costs(struct plans *plans, const struct plan_cost *costs, uint32_t count,
                       const char **ret_without);

/* All plans in their order: set, newest first; of the config; lengthened; the default. Borrowed
 * until the next change. */
uint32_t plans_count(const struct plans *plans);
const struct plan *plans_at(const struct plans *plans, uint32_t index);
const struct plan *plans_default(const struct plans *plans);
/* The plan that holds for a job. */
const struct plan *plans_for(const struct plans *plans, const char *job);
/* Whether it captures the layer, by its patterns between blanks. */
bool plan_takes(const struct plan *plan, struct layer_id layer);
/* The plan that a new one for it begins as: for a name the plan of the job; for a pattern the plan
 * of the same pattern, else the default. */
const struct plan *plans_before(const struct plans *plans, const char *pattern);

/* The prefixes to subscribe to; owned by the caller. NULL when out of memory. */
struct plan_prefixes *plans_prefixes(const struct plans *plans);
bool plan_prefixes_have(const struct plan_prefixes *prefixes, const char *text);

#endif

/* SPDX-License-Identifier: MIT */
/* plan: the capture plans of daemons, which they announce by subscribing (PROTOCOL.md):
 *
 *     plan/<order>/<pattern of job names>/<key=value;...>
 *
 * No message has such a topic: it is the only way a SUB can say something to an XPUB. Pure. */
#ifndef CLIENTS_C_SRC_PLAN_H
#define CLIENTS_C_SRC_PLAN_H

#include "clients/c/include/attn/attn.h"
#include "clients/c/src/prefixes.h"
#include "proto/header.h"

#define PLAN_PREFIX        "plan/"
#define PLAN_PREFIX_MAX    1024 /* bytes of a whole prefix */
#define PLAN_ORDER_DEFAULT 999999
/* The default, less often, as it would cost this job too much. */
#define PLAN_ORDER_LENGTHENED (PLAN_ORDER_DEFAULT - 1)
#define PLAN_NUMBER_MAX       1000000000u /* of every, samples, rows */

/* Whether a prefix says a plan, and not what is subscribed to. */
bool plan_is(const char *prefix, size_t len);

/* The plan that a job's own code asks for; ATTN_UNSAID where it does not. */
struct plan_requests {
    uint32_t every, samples, rows;
};

/* Fills in the plan that holds for a job by all that is subscribed. Returns whether a daemon said
 * it; sets *ret_malformed to how many plans were ignored. */
bool plan_choose(const struct prefixes *prefixes, const char *job, const struct plan_requests *own,
                 attn_plan *ret_plan, uint64_t *ret_malformed);

/* Whether the plan has the layer, and the step. */
bool plan_takes_layer(const attn_plan *plan, struct layer_id id);
bool plan_takes_step(const attn_plan *plan, uint64_t step);

/* Whether the numbers of a plan that a caller may have made can be used. */
bool plan_valid(const attn_plan *plan);

/* Part of a text, not terminated. */
struct span {
    const char *at;
    size_t len;
};
/* Takes what comes before the separator, or all there is; false: there is none left. */
bool plan_next_part(struct span *rest, char separator, struct span *ret_part);
bool plan_word_is(struct span text, const char *word);
/* Digits alone, up to 19; false also above `max`. */
bool plan_read_number(struct span text, uint64_t max, uint64_t *ret_number);

/* As the shell matches file names: * ? [a-z] [!a-z]. A [ without its ] stands for itself. Takes at
 * most as many steps as the product of the lengths, whatever the pattern. */
bool plan_glob(const char *pattern, size_t pattern_len, const char *text, size_t len);

#endif

/* SPDX-License-Identifier: MIT */
/* plan: the part of the settings that tells trainers what to capture. One of them by itself is a
 * key of the section `plan` like any other, so it is read and refused where all keys are. */
#include "config/jobs.h"

#include <string.h>

static const char section[] = "plan";

void config_default_plan(const struct config *config, struct config_plan *ret_plan)
{
    *ret_plan = (struct config_plan){
        .every = config->plan_every,
        .layers = config->plan_layers,
        .heads = config->plan_heads,
        .samples = config->plan_samples,
        .rows = config->plan_rows,
        .tier = config->plan_tier,
    };
}

static bool is_plan_key(int key)
{
    return strcmp(config_keys[key].section, section) == 0;
}

bool config_is_plan_key(const char *of_section, const char *name)
{
    return strcmp(of_section, section) == 0 || strncmp(name, "plan.", strlen("plan.")) == 0;
}

/* A bound on the default plan makes no plan. */
static bool names_plan(const struct job_rule *rule)
{
    for (int i = 0; i < KEY_COUNT; i++) {
        if (rule->values.line[i] && is_plan_key(i) &&
            strcmp(config_keys[i].name, "cost_max") != 0) {
            return true;
        }
    }
    return false;
}

const char *config_job_plan(const struct config *config, uint32_t index,
                            struct config_plan *ret_plan)
{
    for (uint32_t i = 0; i < jobs_count(config->jobs); i++) {
        const struct job_rule *rule = jobs_rule(config->jobs, i);
        if (!names_plan(rule) || index-- > 0) {
            continue;
        }
        config_default_plan(&rule->values, ret_plan);
        return rule->pattern;
    }
    return NULL;
}

int config_plan_set(struct config_plan *plan, const char *key, const char *text, char *reterr)
{
    struct origin nowhere = {NULL, 0};
    struct config config;
    config_defaults(&config);
    config.plan_every = plan->every;
    config.plan_layers = plan->layers;
    config.plan_heads = plan->heads;
    config.plan_samples = plan->samples;
    config.plan_rows = plan->rows;
    config.plan_tier = plan->tier;
    int index = config_find_key(section, section, key, nowhere, reterr);
    if (index < 0 || config_assign(&config, index, section, text, nowhere, reterr) != 0) {
        return -1;
    }
    config_default_plan(&config, plan);
    return 0;
}

/* SPDX-License-Identifier: MIT */
/* rules: the alert rules in force, for whoever draws their bounds. */
#include "daemon/control/internal.h"

#include "config/config.h"
#include "config/rules.h"
#include "proto/result.h"

#include <fnmatch.h>
#include <string.h>

static const char *const keys[] = {"job", "jobs"};

static void control_rules_put(struct mpk_writer *result, const struct rule *rule)
{
    static const char *const each[RULE_EACH_COUNT] = {"head", "layer", "run"};
    mpk_put_map(result, 17);
    mpk_pair_str(result, "name", rule->name);
    mpk_pair_str(result, "metric", rule_metric_name(rule->metric));
    mpk_pair_str(result, "statistic", rule_statistic_name(rule->statistic));
    mpk_pair_bool(result, "per_key", rule->per_key);
    mpk_pair_str(result, "each", each[rule->each]);
    mpk_pair_str(result, "job", rule->job);
    mpk_pair_str(result, "layer", rule->layer);
    mpk_pair_str(result, "condition", rule_condition_name(rule->condition));
    mpk_pair_f64(result, "bound", rule->bound);
    mpk_pair_f64(result, "clear", rule->clear);
    mpk_pair_u64(result, "within", rule->within);
    mpk_pair_u64(result, "for", rule->windows);
    mpk_pair_bool(result, "after_clear", rule->after_clear);
    mpk_pair_str(result, "severity", alert_severity_name((enum alert_severity)rule->severity));
    mpk_pair_str(result, "why", rule_why(rule->name, rule_metric_name(rule->metric)));
    mpk_pair_str(result, "advice", rule_advice(rule->name, rule_metric_name(rule->metric)));
    mpk_pair_str(result, "needs", rule_needs(rule->name, rule_metric_name(rule->metric)));
}

int method_rules(struct control_request *request)
{
    const struct config *config = request->view->config;
    char name[JOB_NAME_MAX + 1];
    if (!request_takes(request, keys, 2)) {
        return ERR_ARGUMENT;
    }
    const char *job = string_param(request, "job", "", name, sizeof name);
    if (!job || (*job && !job_name_valid(job, strlen(job)))) {
        snprintf(request->detail, CONTROL_DETAIL_MAX,
                 "job: not the name of one (valid: 1 to 128 of A-Z a-z 0-9 . _ -; without it the "
                 "rules of all jobs are listed)");
        return ERR_ARGUMENT;
    }
    const struct rule *found[RULES_MAX];
    uint32_t count = 0;
    uint32_t all = config->alerts_enabled ? config_rule_count(config) : 0;
    for (uint32_t i = 0; i < all && count < RULES_MAX; i++) {
        const struct rule *rule = config_rule(config, i);
        bool listed = strcmp(rule->job, "*") == 0 || request_lists(request, rule->job);
        if (rule->enabled && listed && (!*job || fnmatch(rule->job, job, 0) == 0)) {
            found[count++] = rule;
        }
    }
    mpk_put_array(request->result, count);
    for (uint32_t i = 0; i < count; i++) {
        control_rules_put(request->result, found[i]);
    }
    return 0;
}

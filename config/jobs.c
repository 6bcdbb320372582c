/* SPDX-License-Identifier: MIT */
#include "config/jobs.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

struct config_jobs {
    uint32_t count;
    struct job_rule *rules[JOBS_MAX]; /* owned */
};

/* The characters of job names, and the patterns that can match them. */
bool config_is_pattern(const char *text)
{
    size_t len = strlen(text);
    return len > 0 && len <= JOB_PATTERN_MAX &&
           strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
                        "*?[]!") == len;
}

int jobs_add(struct config_jobs **jobs, const char *pattern, struct origin origin, char *reterr,
             struct job_rule **ret_rule)
{
    char quoted[QUOTE_MAX + 4];
    if (!config_is_pattern(pattern)) {
        return config_error(reterr, origin,
                            "jobs: '%s': not a pattern of job names (valid: 1 to %d of A-Z a-z 0-9 "
                            ". _ - and * ? [ ] !)",
                            config_quotable(pattern, quoted), JOB_PATTERN_MAX);
    }
    for (uint32_t i = 0; i < jobs_count(*jobs); i++) {
        if (strcmp((*jobs)->rules[i]->pattern, pattern) == 0) {
            return config_error(reterr, origin, "%s: given twice (first on line %zu)",
                                (*jobs)->rules[i]->label, (*jobs)->rules[i]->line);
        }
    }
    if (jobs_count(*jobs) == JOBS_MAX) {
        return config_error(reterr, origin, "jobs: more than %d patterns", JOBS_MAX);
    }
    if (!*jobs) {
        *jobs = calloc(1, sizeof **jobs);
    }
    struct job_rule *rule = *jobs ? calloc(1, sizeof *rule) : NULL;
    if (!rule) {
        return config_error(reterr, origin, "out of memory");
    }
    snprintf(rule->label, sizeof rule->label, "jobs.%s", pattern);
    rule->pattern = rule->label + strlen("jobs.");
    rule->line = origin.line;
    (*jobs)->rules[(*jobs)->count++] = rule;
    *ret_rule = rule;
    return 0;
}

void jobs_free(struct config_jobs **jobs)
{
    for (uint32_t i = 0; i < jobs_count(*jobs); i++) {
        free((*jobs)->rules[i]);
    }
    free(*jobs);
    *jobs = NULL;
}

uint32_t jobs_count(const struct config_jobs *jobs)
{
    return jobs ? jobs->count : 0;
}

const struct job_rule *jobs_rule(const struct config_jobs *jobs, uint32_t index)
{
    return jobs->rules[index];
}

const char *jobs_key_name(int key, char ret_name[JOBS_KEY_MAX])
{
    const struct key *entry = &config_keys[key];
    bool metric = strcmp(entry->section, "metrics") == 0;
    snprintf(ret_name, JOBS_KEY_MAX, "%s%s%s", metric ? "" : entry->section, metric ? "" : ".",
             entry->name);
    return ret_name;
}

void jobs_settle(struct config *config)
{
    for (uint32_t r = 0; r < jobs_count(config->jobs); r++) {
        struct job_rule *rule = config->jobs->rules[r];
        for (int i = 0; i < KEY_COUNT; i++) {
            if (!rule->values.line[i]) {
                memcpy((char *)&rule->values + config_keys[i].offset, config_field(config, i),
                       config_keys[i].size);
            }
        }
    }
}

void config_clear(struct config *config)
{
    jobs_free(&config->jobs);
    free(config->rules);
    config->rules = NULL;
}

const struct config *config_for_job(const struct config *config, const char *job)
{
    for (uint32_t i = 0; i < jobs_count(config->jobs); i++) {
        if (fnmatch(config->jobs->rules[i]->pattern, job, 0) == 0) {
            return &config->jobs->rules[i]->values;
        }
    }
    return config;
}

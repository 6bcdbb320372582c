/* SPDX-License-Identifier: MIT */
/* jobs: settings for some jobs only: patterns of job names, each with values for some keys of the
 * sections `metrics` and `plan`. Private to config/. Pure; any thread; a list that is being built
 * belongs to one. */
#ifndef CONFIG_JOBS_H
#define CONFIG_JOBS_H

#include "config/table.h"

/* Patterns in one file, and the longest one: as long as a job's name. */
#define JOBS_MAX        256
#define JOB_PATTERN_MAX 128

/* "jobs." and a pattern. */
#define JOB_LABEL_MAX (sizeof("jobs.") + JOB_PATTERN_MAX)

/* One pattern. */
struct job_rule {
    char label[JOB_LABEL_MAX]; /* "jobs.gpt-*": what messages call it */
    const char *pattern;       /* within label */
    size_t line;               /* of the file */
    /* The values of all keys, once they are settled; it owns nothing. A key with a line is
     * overridden. */
    struct config values;
};

/* Appends a pattern without overrides; *jobs is NULL before the first. Returns 0, or -1 with a
 * message. */
int jobs_add(struct config_jobs **jobs, const char *pattern, struct origin origin, char *reterr,
             struct job_rule **ret_rule);
void jobs_free(struct config_jobs **jobs);

/* The patterns in order; `jobs` may be NULL. */
uint32_t jobs_count(const struct config_jobs *jobs);
const struct job_rule *jobs_rule(const struct config_jobs *jobs, uint32_t index);

/* How a key is written in a pattern's body: "spectrum" of the section metrics, "plan.every" of
 * another. */
#define JOBS_KEY_MAX 64
const char *jobs_key_name(int key, char ret_name[JOBS_KEY_MAX]);

/* Gives every pattern the values of *config for the keys that it does not override; after each
 * change of *config. */
void jobs_settle(struct config *config);

#endif

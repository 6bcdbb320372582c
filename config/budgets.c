/* SPDX-License-Identifier: MIT */
/* budgets: the bytes that attnd may have in memory, fitted to what the system lets it have. Memory
 * that trainers lend (ingest.memory) is theirs, and not among them. */
#include "config/jobs.h"

#define RECORDS_SHARE 4
#define RECORDS_MIN   (UINT64_C(1) << 20)

/* How often each may be used: ingest.budget once more by what waits on the reliable lane, once by
 * messages that peers have not finished, and a part by records on their way to the disk;
 * maps.memory once more by answers; publish.budget once each by results, answers of control and
 * answers of HTTP that nobody has read, a share each by recorders and last values, and one by each
 * of four places of HTTP's events. */
static const struct {
    int key;
    double times;
} budgets[] = {
    {KEY_ingest_budget, 3 + 1.0 / RECORDS_SHARE},
    {KEY_publish_budget, 3 + 2.0 / CONFIG_PUBLISH_SHARE + 4.0 / CONFIG_EVENTS_SHARE},
    {KEY_maps_memory, 2},
    {KEY_limits_state_memory, 1},
};

enum { BUDGETS = sizeof budgets / sizeof budgets[0] };

uint64_t config_records_bytes(const struct config *config)
{
    uint64_t share = config->ingest_budget / RECORDS_SHARE;
    return share < RECORDS_MIN ? RECORDS_MIN : share;
}

static uint64_t *budget_of(struct config *config, int i)
{
    return (uint64_t *)((char *)config + config_keys[budgets[i].key].offset);
}

uint64_t config_fit_memory(struct config *config, uint64_t most)
{
    double together = 0;
    for (int i = 0; i < BUDGETS; i++) {
        together += budgets[i].times * (double)*budget_of(config, i);
    }
    for (int i = 0; i < BUDGETS && together > (double)most; i++) {
        uint64_t least = config_keys[budgets[i].key].rule.minimum;
        uint64_t bytes = (uint64_t)((double)*budget_of(config, i) / together * (double)most);
        *budget_of(config, i) = bytes < least ? least : bytes - bytes % 1024;
    }
    if (config->ingest_max_message > config->ingest_budget) {
        config->ingest_max_message = config->ingest_budget;
    }
    jobs_settle(config);
    return (uint64_t)together;
}

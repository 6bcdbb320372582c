/* SPDX-License-Identifier: MIT */
/* budgets: the bytes that attnd may have in memory, fitted to what the system lets it have. Memory
 * that trainers lend (ingest.memory) is theirs, and not among them. */
#include "config/jobs.h"

/* How often each may be used: ingest.budget once more by what waits on the reliable lane, and once
 * by messages that peers have not finished; publish.budget by a share each for recorders and last
 * values; http.ring by results on their way and by those held back. */
static const struct {
    int key;
    double times;
} budgets[] = {
    {KEY_ingest_budget, 3}, {KEY_publish_budget, 1 + 2.0 / CONFIG_PUBLISH_SHARE},
    {KEY_maps_memory, 1},   {KEY_limits_state_memory, 1},
    {KEY_history_queue, 1}, {KEY_http_ring, 3},
    {KEY_http_answers, 1},
};

enum { BUDGETS = sizeof budgets / sizeof budgets[0] };

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

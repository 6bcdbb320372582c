/* SPDX-License-Identifier: MIT */
/* Runs by what nodes call them and by their row in the file, members by their node. Nodes choose
 * the ids of runs, which are therefore kept in order: none can make the hub search long. */
#include "daemon/base/grow.h"
#include "daemon/fleet/hub_internal.h"
#include "proto/err.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

/* Runs */

static int hub_index_compare(const struct hub_run *run, const uint8_t *id, const char *job,
                             size_t job_size)
{
    int order = memcmp(run->run, id, RUN_BYTES);
    order = order ? order : strncmp(run->job, job, job_size);
    return order ? order : run->job[job_size] != '\0';
}

/* The first one at or behind. */
static uint32_t hub_index_search(const struct hub *hub, const uint8_t *id, const char *job,
                                 size_t job_size)
{
    uint32_t from = 0, to = hub->run_count;
    while (from < to) {
        uint32_t middle = from + (to - from) / 2;
        if (hub_index_compare(hub->runs_by_id[middle], id, job, job_size) < 0) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    return from;
}

uint32_t hub_index_at(const struct hub *hub, const uint8_t *id)
{
    return hub_index_search(hub, id, "", 0);
}

struct hub_run *hub_known_run(const struct hub *hub, const char *job, size_t job_size,
                              const uint8_t *id)
{
    uint32_t at = hub_index_search(hub, id, job, job_size);
    bool known =
        at < hub->run_count && hub_index_compare(hub->runs_by_id[at], id, job, job_size) == 0;
    return known ? hub->runs_by_id[at] : NULL;
}

struct hub_run *hub_run_of(const struct hub *hub, int64_t row)
{
    struct hub_run *run = hub->runs_by_row[(uint64_t)row % HUB_ROW_LISTS];
    while (run && run->row != row) {
        run = run->next_of_row;
    }
    return run;
}

int hub_index_add(struct hub *hub, struct hub_run *run)
{
    if (!grow(&hub->runs_by_id, hub->run_count, &hub->run_capacity, sizeof *hub->runs_by_id)) {
        return ERR_MEMORY;
    }
    uint32_t at = hub_index_search(hub, run->run, run->job, strlen(run->job));
    memmove(hub->runs_by_id + at + 1, hub->runs_by_id + at,
            (hub->run_count++ - at) * sizeof *hub->runs_by_id);
    hub->runs_by_id[at] = run;
    struct hub_run **of_row = &hub->runs_by_row[(uint64_t)run->row % HUB_ROW_LISTS];
    run->next_of_row = *of_row;
    *of_row = run;
    run->next = hub->runs;
    hub->runs = run;
    return 0;
}

void hub_index_drop(struct hub *hub, struct hub_run *run)
{
    uint32_t at = hub_index_search(hub, run->run, run->job, strlen(run->job));
    memmove(hub->runs_by_id + at, hub->runs_by_id + at + 1,
            (--hub->run_count - at) * sizeof *hub->runs_by_id);
    LL_DELETE2(hub->runs_by_row[(uint64_t)run->row % HUB_ROW_LISTS], run, next_of_row);
    LL_DELETE(hub->runs, run);
    hub->served = hub->served == run ? NULL : hub->served;
}

/* Members, and what their nodes say */

const struct hub_member *hub_member_of(const struct hub_run *run, int64_t node)
{
    for (uint32_t i = 0; i < run->member_count; i++) {
        if (run->members[i]->node->row == node) {
            return run->members[i];
        }
    }
    return NULL;
}

uint32_t hub_member_at(const struct hub_run *run, const struct hub_node *node)
{
    uint32_t from = 0, to = run->member_count;
    while (from < to) {
        uint32_t middle = from + (to - from) / 2;
        if (memcmp(run->members[middle]->node->id, node->id, FLEET_ID_BYTES) < 0) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    return from;
}

int hub_beat_order(const void *a, const void *b)
{
    const struct fleet_beat_run *left = a, *right = b;
    return memcmp(left->run, right->run, RUN_BYTES);
}

const struct fleet_beat_run *hub_beat_of(const struct hub_run *run, const struct hub_node *node)
{
    struct fleet_beat_run key = {.silent_ns = 0};
    if (!node->run_count) {
        return NULL;
    }
    memcpy(key.run, run->run, RUN_BYTES);
    return bsearch(&key, node->runs, node->run_count, sizeof key, hub_beat_order);
}

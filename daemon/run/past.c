/* SPDX-License-Identifier: MIT */
#include "daemon/run/past.h"

#include "daemon/run/checkpoint.h"
#include "daemon/run/restore.h"

#include <string.h>

static void past_clear(struct past_run *past)
{
    run_free(&past->run);
    past->job[0] = '\0';
}

void past_forget_all(struct pasts *pasts)
{
    for (uint32_t i = 0; i < PASTS_MAX; i++) {
        past_clear(&pasts->of[i]);
    }
}

/* NULL: the history was not asked for it. */
static struct past_run *past_find(struct pasts *pasts, const struct header *header)
{
    struct past_run *found = NULL;
    for (uint32_t i = 0; i < PASTS_MAX && !found; i++) {
        struct past_run *past = &pasts->of[i];
        bool same =
            strcmp(past->job, header->job) == 0 && memcmp(past->id, header->run, RUN_BYTES) == 0;
        found = same ? past : NULL;
    }
    return found;
}

/* One that never used the reliable lane begins anew: it is on its way out of the history, or the
 * limits left it out at the start. */
static bool past_adopt(void *data, struct run *run)
{
    struct past_run *past = data;
    if (run->reliable) {
        past->run = run;
    }
    return run->reliable;
}

int past_look(struct pasts *pasts, const struct header *header, const struct config *config,
              const struct result_sink *sink, struct state_budget *budget, uint64_t now_ns,
              struct run **ret_run)
{
    const struct store_run record = {.job = header->job, .run = header->run};
    uint64_t losses = checkpoint_losses(sink);
    if (pasts->losses != losses) {
        past_forget_all(pasts); /* what was read before it was written may never have been */
        pasts->losses = losses;
    }
    struct past_run *past = past_find(pasts, header);
    if (past || !sink->store) {
        *ret_run = past ? past->run : NULL;
        return 0;
    }
    past = &pasts->of[pasts->next];
    past_clear(past);
    struct restore *restore = restore_new(config, sink, budget, past_adopt, past, now_ns);
    if (!restore) {
        return ERR_MEMORY;
    }
    restore_forgotten(restore);
    int code = store_each_kept_of(sink->store, &record, restore_value, restore);
    if (!code && restore_is_short(restore)) {
        code = ERR_MEMORY;
    }
    restore_finish(&restore);
    if (code) {
        past_clear(past); /* a part of it */
        return code;
    }
    strcpy(past->job, header->job);
    memcpy(past->id, header->run, RUN_BYTES);
    pasts->next = (pasts->next + 1) % PASTS_MAX;
    *ret_run = past->run;
    return 0;
}

struct run *past_take(struct pasts *pasts, const struct header *header)
{
    struct past_run *past = past_find(pasts, header);
    struct run *run = past ? past->run : NULL;
    if (past) {
        past->run = NULL;
        past_clear(past);
    }
    return run;
}

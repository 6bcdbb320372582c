/* SPDX-License-Identifier: MIT */
#include "daemon/state/tally.h"

void tally_losses(struct tally *tally, const struct losses *losses)
{
    tally->lost += losses->lost;
    tally->lost -= losses->found <= tally->lost ? losses->found : 0;
    tally->source += losses->source;
}

void tally_take_source(struct tally *tally, uint64_t count)
{
    tally->source -= count <= tally->source ? count : tally->source;
}

void tally_drop(struct tally *tally, int code)
{
    tally->dropped[err_index(code)]++;
}

void tally_merge(struct tally *into, const struct tally *from)
{
    into->lost += from->lost;
    into->source += from->source;
    for (int i = 0; i < ERR_COUNT; i++) {
        into->dropped[i] += from->dropped[i];
    }
}

uint32_t tally_reasons(const struct tally *tally,
                       struct reason_count ret_reasons[TALLY_REASONS_MAX])
{
    uint32_t count = 0;
    if (tally->source) {
        ret_reasons[count++] = (struct reason_count){.reason = "source", .count = tally->source};
    }
    for (int i = 0; i < ERR_COUNT; i++) {
        if (tally->dropped[i]) {
            ret_reasons[count++] =
                (struct reason_count){.reason = err_slug(ERR_BASE - i), .count = tally->dropped[i]};
        }
    }
    return count;
}

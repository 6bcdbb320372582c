/* SPDX-License-Identifier: MIT */
/* The sentences of rules about the loss. */
#include "daemon/alerts/internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

void loss_message(const struct loss *loss, const struct rule *rule, const struct alert_cell *cell,
                  enum alert_state state, char ret_text[ALERT_MESSAGE_MAX])
{
    bool broken = rule->metric == RULE_LOSS_BROKEN;
    const char *end = state == ALERT_FIRING_AT_END ? ", when the run ended" : "";
    char since[96];
    if (cell->passed == ALERT_FROM_START) {
        snprintf(since, sizeof since, "from the start, at step %" PRIu64, cell->failed);
    } else {
        snprintf(since, sizeof since, "since step %" PRIu64 ", at step %" PRIu64 " it was finite",
                 cell->failed, cell->passed);
    }
    if (broken && state == ALERT_RESOLVED) {
        snprintf(ret_text, ALERT_MESSAGE_MAX, "%s is finite again", loss_name(loss));
    } else if (broken && loss_stays_broken(loss)) {
        snprintf(ret_text, ALERT_MESSAGE_MAX, "%s is NaN or infinite %s%s", loss_name(loss), since,
                 end);
    } else if (broken) {
        snprintf(ret_text, ALERT_MESSAGE_MAX,
                 "%s is NaN or infinite now and then, %s: %.2g %% of its last values; finite ones "
                 "follow, as where a GradScaler skips such steps%s",
                 loss_name(loss), since, 100 * cell->value, end);
    } else if (state == ALERT_RESOLVED) {
        snprintf(ret_text, ALERT_MESSAGE_MAX, "%s is back at %.4g (smoothed)", loss_name(loss),
                 loss->level);
    } else {
        char lost[64] = "it is above where it began";
        if (loss->level <= loss->top) {
            snprintf(lost, sizeof lost, "it has lost %.3g %% of what it had gained",
                     100 * fmin(1, cell->value));
        }
        snprintf(ret_text, ALERT_MESSAGE_MAX,
                 "%s has risen to %.4g (smoothed) and stays high; at its best it was %.4g (step "
                 "%" PRIu64 "): %s%s",
                 loss_name(loss), loss->level, loss->lowest, loss->lowest_step, lost, end);
    }
}

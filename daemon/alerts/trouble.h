/* SPDX-License-Identifier: MIT */
/* trouble: how far each head is beyond the bounds of the rules that alerts judge, or on its way
 * there: one number per head and window to rank heads by, and its reasons.
 *
 * A rule counts when it judges a metric of heads or invalid_share, applies to the layer and,
 * after_clear, once the head itself has been clear. level(x) of what it compares is 0 at `clear` or
 * on its good side, 1 at the bound, linear between; beyond the bound by d it is 1 + d / (end -
 * bound) where what is compared ends on that side, else 1 + d / (d + |bound - clear|). The level
 * held is the least of the last 3 windows in which the head had a value.
 *
 * A head that is firing scores severity (1 info, 2 warning, 3 critical) + (held - 1, 0 to 0.99):
 * the rule fires for the head; or for its layer or the run, and the head itself is beyond the bound
 * in its newest window. A head without a single sound row in its newest window scores severity +
 * 0.995 by a rule about invalid_share: it has no other number, and nothing is worse.
 *
 * A head that is beyond scores 0.5 + 0.5 (held - 1, at most 0.99): the rule is about layers or the
 * run and does not fire, but this head stays beyond the bound.
 *
 * Any other is approaching and scores 0.5 min(0.99, approach), with approach = max(min(level, 1),
 * 1 - w / 10), w the windows to the bound at the slope of the last 5 windows.
 *
 * The worst rule counts, of those that fire and are as severe the first of rules.def. The head in
 * which rows became invalid first, by a rule about invalid_origin, scores severity + 0.999. So a
 * score of 1 or more says that something fires and that this head is why. A rule about the run is
 * judged after the layers, and counts from the next window on.
 *
 * Memory: about 100 bytes per head for each rule about layers, 60 for each about heads, 8 more per
 * window of `within`; with the default rules and metrics 0.8 KiB per head; and 130 per head that is
 * listed. A window of a layer with 128 heads takes some 20 to 90 us with the default rules. Pure,
 * as alerts are. */
#ifndef DAEMON_ALERTS_TROUBLE_H
#define DAEMON_ALERTS_TROUBLE_H

#include "daemon/alerts/alerts.h"

/* A window that alerts_layer has just judged. *ret_trouble is borrowed until the next call for the
 * layer. Returns 0, or ERR_MEMORY: some rules have not judged it. */
int trouble_layer(struct alerts *alerts, const struct summary_result *summary,
                  const struct result_trouble **ret_trouble);

/* The newest judged window of a layer; NULL when there is none. */
const struct result_trouble *trouble_newest(const struct alerts *alerts, struct layer_id id);
/* Calls `visit` with that of every layer. Returns how many there are. */
uint32_t trouble_each(const struct alerts *alerts,
                      void (*visit)(void *data, struct layer_id id,
                                    const struct result_trouble *trouble),
                      void *data);

/* For checkpoints: one MessagePack map of what is known of a layer, nil for one that is not known.
 * Returns 0 or ERR_MEMORY. */
int trouble_pack(const struct alerts *alerts, struct layer_id id, struct mpk_writer *writer);
/* In place of what is known of the layer. Rules that have changed meanwhile begin anew. Returns 0,
 * ERR_MEMORY, or ERR_STORE_FORMAT for what is no such map; after an error nothing is known of it.
 */
int trouble_unpack(struct alerts *alerts, struct layer_id id, const void *data, size_t size);

/* The run has ended: forgets what leads to the next window, and keeps what trouble_newest has. */
void trouble_end(struct alerts *alerts);

#endif

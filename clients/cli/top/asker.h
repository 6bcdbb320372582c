/* SPDX-License-Identifier: MIT */
/* asker: asks attnd what the model needs, and gives it the answers. Several questions are on their
 * way at once, at most one of each kind, and nothing here waits. One that goes unanswered is given
 * up; when attnd says nothing at all the connection is made anew, until it does. One thread. */
#ifndef CLIENTS_CLI_TOP_ASKER_H
#define CLIENTS_CLI_TOP_ASKER_H

#include "clients/cli/top/model.h"
#include "clients/cli/base/rpc.h"

enum asker_kind {
    ASKER_MONITOR,
    ASKER_CONFIG,
    ASKER_LIVE,
    ASKER_SUMMARY,
    ASKER_GRID,
    ASKER_ALERTS,
    ASKER_DETAIL_LIVE,
    ASKER_DETAIL_SUMMARY,
    ASKER_DETAIL_GRID,
    ASKER_KINDS,
};

struct asker {
    struct rpc *rpc; /* borrowed; its socket is replaced when attnd is silent, and may be NULL */
    struct {
        uint64_t id; /* 0 = none is on its way */
        uint64_t generation;
        int64_t sent_ms;
    } asked[ASKER_KINDS];
    int64_t heard_ms;
    size_t taken; /* bytes of summaries since the last tick */
};

/* attnd has just answered. */
void asker_init(struct asker *asker, struct rpc *rpc, int64_t now_ms);

/* The work of every interval: asks for attnd's state, and notices that it does not answer. */
void asker_tick(struct asker *asker, struct model *model, int64_t now_ms);

/* The moment from which the answer about how attnd is counts as missing, and asker_tick should be
 * called though the interval is not over; INT64_MAX: none is waited for. */
int64_t asker_late_ms(const struct asker *asker);

/* Takes what has come and asks what the model needs now. Returns whether anything came. */
bool asker_turn(struct asker *asker, struct model *model, int64_t now_ms);

#endif

/* SPDX-License-Identifier: MIT */
/* window: finds the part of a run that a message belongs to, and when a part may be closed. A pure
 * state machine: time comes in as an argument, nothing is allocated for the caller, no I/O.
 *
 * Units are epochs, steps or seconds. A summary covers `length` units and is due every `every`
 * units. The units are kept in parts of gcd(length, every) units, so that each message is
 * accumulated once, and a summary merges the last length/part parts.
 *
 *      units   0   1   2   3   4   5   6   7        length 4, every 2: parts of 2
 *      parts   |-- 0 --|-- 1 --|-- 2 --|-- 3 --|
 *      due             ^       ^       ^       ^    each summary merges two parts
 *
 * A part is open from its first message until it is closed; parts close in ascending order. The
 * oldest open part closes when one of these holds:
 *
 *   - Every rank heard of has finished it: moved on to a later unit, ended its last epoch, or said
 *     bye. (The first part also waits `rank_grace` for ranks of `world` not heard of yet.)
 *
 *   - Some rank has finished it, and the others have not been heard of for `timeout` or are more
 *     than `open_max` parts behind. It is cut.
 *
 *   - Units are seconds and the clock has passed it.
 *
 * Messages are given in the order in which they were received, once their numbers are there
 * (queue.c), so a part never closes over one that was received in time. Later messages for a closed
 * part are refused as late. A part that is merely silent is not closed, because a slow trainer is
 * not an error: see window_quiet. */
#ifndef DAEMON_RUN_WINDOW_H
#define DAEMON_RUN_WINDOW_H

#include "config/config.h"
#include "proto/result.h"

/* Parts that some rank has not finished, at once. With one more the oldest is cut: the others are
 * so far ahead that they share nothing with whoever holds it up. Unless ranks keep what they could
 * not send: then it is still to come, and there are more while there is memory for them. */
#define WINDOW_OPEN_MAX 16
#define WINDOW_KEPT_MAX 4096

struct window_rule {
    enum window_unit unit;
    uint64_t length, every; /* units, >= 1 */
    uint64_t part;          /* units per part: gcd(length, every) */
    uint64_t timeout_ns, rank_grace_ns;
};

/* One part; `data` is the owner's. Fields are read-only outside window.c. */
struct window_part {
    uint64_t index;    /* covers units [index * part, (index + 1) * part - 1] */
    uint64_t last_ns;  /* last arrival, or when it was opened */
    uint64_t arrivals; /* messages that arrived for it */
    uint64_t shown;    /* arrivals when it was last shown as quiet */
    uint64_t held;     /* numbers on their way that it should not be closed without */
    bool overdue;      /* somebody is too far ahead of it */
    bool closed;       /* it is in that list, as window_part_after needs to know */
    bool cut;          /* closed before all ranks had completed it */
    uint64_t again_ns; /* it was reopened, and is not closed again before */
    bool judged;       /* by the rules, when it was closed before */
    void *data;
    struct window_part *next;
};

struct window_rank {
    uint32_t rank;
    bool seen; /* position is meaningful */
    bool bye;
    uint64_t bye_ns;   /* when it said so; 0: it did not, or took it back for good */
    uint64_t last_ns;  /* when it was last heard of */
    uint64_t position; /* largest unit seen, or the step of its bye */
    uint64_t finished; /* units below this are finished by an epoch_end */
};

struct window {
    struct window_rule rule;
    struct window_part *open;   /* ascending */
    struct window_part *closed; /* ascending, at most length/part - 1 once a summary was made */
    uint64_t next_index;        /* parts below this are closed */
    uint32_t open_max;          /* WINDOW_OPEN_MAX, or what the owner sets */
    uint64_t complete_from; /* what came for parts below this was not seen, or was thrown away */
    bool settled;           /* complete_from no longer follows the first messages */
    uint64_t first_ns;      /* when the run was first heard of, or attnd started again */
    uint64_t age_ns;        /* how old the run was then */
    uint32_t world;
    struct window_rank *ranks; /* owned, in order of appearance */
    uint32_t rank_count, rank_capacity;
};

void window_init(struct window *window, const struct window_rule *rule, uint64_t now_ns);

/* The index of a rank that was just heard of, in order of appearance; `world` may grow.
 * Returns 0, ERR_RANK_LIMIT or ERR_MEMORY (both without effect on the ranks). */
int window_rank(struct window *window, uint32_t rank, uint32_t world, uint64_t limit,
                uint64_t now_ns, uint32_t *ret_index);

/* The index of a rank heard of before; UINT32_MAX for another one. */
uint32_t window_find_rank(const struct window *window, uint32_t rank);
/* Takes back the newest ranks, so that `count` are left. */
void window_forget_ranks(struct window *window, uint32_t count);

/* How long ago the run was first heard of, over starts of attnd. */
uint64_t window_age(const struct window *window, uint64_t now_ns);
/* The unit of a message: its epoch, its step, or the seconds since the run was first heard of. */
uint64_t window_unit_of(const struct window *window, uint64_t epoch, uint64_t step,
                        uint64_t now_ns);
/* Whether a message for this unit would be refused as late; it stays so. */
bool window_is_late(const struct window *window, uint64_t unit);

/* A tensor message of this rank for this unit: opens its part if need be. One that overtakes others
 * of its rank does not say that the rank has moved on. Returns 0, ERR_LATE or ERR_MEMORY. */
int window_arrive(struct window *window, uint32_t rank_index, uint64_t unit, bool overtakes,
                  uint64_t now_ns, struct window_part **ret_part);
/* This part, and all before it, came too late to be complete: attnd joined in the middle. */
void window_joined_late(struct window *window, const struct window_part *part);
/* This rank has ended this epoch; it has no effect unless units are epochs. */
void window_epoch_end(struct window *window, uint32_t rank_index, uint64_t epoch);
/* This rank ends, and `step` was its last one. */
void window_bye(struct window *window, uint32_t rank_index, uint64_t step, uint64_t now_ns);
/* This rank goes on after its bye. Within `timeout` of the bye that may be what was on its way
 * still: when nothing more is heard of the rank for `timeout`, the bye holds after all. Later it is
 * taken back for good. */
void window_take_bye_back(struct window *window, uint32_t rank_index, uint64_t now_ns);
/* The byes that hold after all. On a timer. */
void window_settle_byes(struct window *window, uint64_t now_ns);
/* Whether every rank heard of has said bye. */
bool window_all_bye(const struct window *window);

/* Moves the oldest open part to the closed ones if it may be closed, and returns it; else NULL.
 * Call until NULL after every event and on a timer. When window_due(part), make the summary from
 * window->closed and then call window_forget. */
struct window_part *window_close_next(struct window *window, uint64_t now_ns);
/* There was no memory for what closing takes: the part that was closed last, and none was forgotten
 * since, is open again, to be closed a second later. */
void window_reopen(struct window *window, bool judged, uint64_t now_ns);
/* All parts up to this one are closed elsewhere. */
void window_pass(struct window *window, uint64_t index);
/* First and last unit of the window that ends with this part; `partial` is whether it covers less
 * than `length`. */
struct result_window window_ending_with(const struct window *window, uint64_t index);
/* Whether a summary is due at this part. */
bool window_due(const struct window *window, const struct window_part *part);
/* Takes out a closed part that no later summary needs, or NULL; the caller frees data and part. */
struct window_part *window_forget(struct window *window);

/* The due part of the window of an open part that has had no message for `timeout` and has
 * something new to show: it is worth publishing as partial, and stays open. Returns it once per
 * silence, else NULL. */
struct window_part *window_quiet(struct window *window, uint64_t now_ns);

/* First and last unit of the window that ends with this part, and whether it is partial: it covers
 * less than `length`, or a part in it is open or was cut. */
struct result_window window_describe(const struct window *window, const struct window_part *last);

/* All parts, closed and open, ascending: the one behind `part`, NULL: the first; NULL behind the
 * last. */
struct window_part *window_part_after(const struct window *window, const struct window_part *part);
/* Likewise, but only the parts of the window that ends with `last`. */
struct window_part *window_part_of(const struct window *window, const struct window_part *last,
                                   const struct window_part *part);

/* For what was saved: opens a part that no message came for yet, or finds it; one that is below
 * next_index comes back closed. Returns 0 or ERR_MEMORY. */
int window_restore_part(struct window *window, uint64_t index, uint64_t now_ns,
                        struct window_part **ret_part);
/* Whether a part of this index is open or part of a window to come. */
bool window_needs(const struct window *window, uint64_t index);

/* Takes any part out, for freeing: open or closed; NULL when there is none left. A window that
 * later covers what was taken is partial. */
struct window_part *window_take_any(struct window *window);
/* After window_take_any has returned NULL. */
void window_fini(struct window *window);

#endif

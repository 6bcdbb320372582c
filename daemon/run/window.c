/* SPDX-License-Identifier: MIT */
/* Two decisions that are not obvious:
 *
 * boundary_part. Units may be skipped (a step is sampled every 7th, a window is due every 10). The
 * part at which a summary is due must exist to be closed, so opening a part also opens the due part
 * that follows it. It closes by the same rules; a part without messages has no data and adds
 * nothing.
 *
 * stragglers. "Finished" is judged per rank from what the rank itself said: a larger unit, an
 * epoch_end, a bye. Ranks of `world` that were never heard of hold up only the first part, and only
 * for rank_grace: often one rank of many is watched. */
#include "daemon/run/window.h"

#include "daemon/base/clock.h"
#include "daemon/base/grow.h"
#include "proto/err.h"

#include <stdlib.h>

#define SECOND_NS UINT64_C(1000000000)

void window_init(struct window *window, const struct window_rule *rule, uint64_t now_ns)
{
    *window = (struct window){.rule = *rule, .first_ns = now_ns, .open_max = WINDOW_OPEN_MAX};
}

/* Ranks mostly appear in their order. */
uint32_t window_find_rank(const struct window *window, uint32_t rank)
{
    if (rank < window->rank_count && window->ranks[rank].rank == rank) {
        return rank;
    }
    for (uint32_t i = 0; i < window->rank_count; i++) {
        if (window->ranks[i].rank == rank) {
            return i;
        }
    }
    return UINT32_MAX;
}

void window_forget_ranks(struct window *window, uint32_t count)
{
    if (window->rank_count > count) {
        window->rank_count = count;
    }
}

int window_rank(struct window *window, uint32_t rank, uint32_t world, uint64_t limit,
                uint64_t now_ns, uint32_t *ret_index)
{
    if (world > window->world) {
        window->world = world;
    }
    uint32_t known = window_find_rank(window, rank);
    if (known < window->rank_count) {
        window->ranks[known].last_ns = now_ns;
        *ret_index = known;
        return 0;
    }
    if (window->rank_count >= limit) {
        return ERR_RANK_LIMIT;
    }
    if (!grow(&window->ranks, window->rank_count, &window->rank_capacity, sizeof *window->ranks)) {
        return ERR_MEMORY;
    }
    *ret_index = window->rank_count++;
    window->ranks[*ret_index] = (struct window_rank){.rank = rank, .last_ns = now_ns};
    return 0;
}

uint64_t window_age(const struct window *window, uint64_t now_ns)
{
    return window->age_ns + (clock_since_ns(window->first_ns, now_ns));
}

uint64_t window_unit_of(const struct window *window, uint64_t epoch, uint64_t step, uint64_t now_ns)
{
    switch (window->rule.unit) {
    case WINDOW_EPOCH:
        return epoch;
    case WINDOW_STEP:
        return step;
    default:
        return window_age(window, now_ns) / SECOND_NS;
    }
}

static uint64_t last_unit(const struct window *window, const struct window_part *part)
{
    return (part->index * window->rule.part) + window->rule.part - 1;
}

/* The due part of the summary that `index` belongs to. */
static uint64_t boundary_index(const struct window *window, uint64_t index)
{
    uint64_t stride = window->rule.every / window->rule.part;
    return index - index % stride + stride - 1;
}

/* By moving on, by an epoch_end, or by a bye after the last step: the whole part was seen. */
static bool rank_completed(const struct window *window, const struct window_rank *rank,
                           const struct window_part *part)
{
    uint64_t last = last_unit(window, part);
    bool stepped = window->rule.unit == WINDOW_STEP && rank->bye && rank->position == last;
    return (rank->seen && (rank->position > last || stepped)) || rank->finished > last;
}

/* How many ranks have completed a part; have finished it; and have not, but were heard of within
 * the timeout. */
struct part_ranks {
    uint32_t completed, finished, awaited;
};

static struct part_ranks count_ranks(const struct window *window, const struct window_part *part,
                                     uint64_t now_ns)
{
    struct part_ranks count = {0};
    for (uint32_t i = 0; i < window->rank_count; i++) {
        const struct window_rank *rank = &window->ranks[i];
        bool completed = rank_completed(window, rank, part), finished = completed || rank->bye;
        count.completed += completed;
        count.finished += finished;
        count.awaited +=
            !finished && clock_since_ns(rank->last_ns, now_ns) < window->rule.timeout_ns;
    }
    return count;
}

/* Open parts that some rank has not finished. */
static uint32_t count_unfinished(const struct window *window, uint64_t now_ns)
{
    uint32_t count = 0;
    for (const struct window_part *part = window->open; part; part = part->next) {
        count += count_ranks(window, part, now_ns).finished < window->rank_count;
    }
    return count;
}

/* The link of the first part of a list from this index on. */
static struct window_part **find_link(struct window_part **link, uint64_t index)
{
    while (*link && (*link)->index < index) {
        link = &(*link)->next;
    }
    return link;
}

/* Finds or inserts the part of this index; NULL when out of memory. */
static struct window_part *put_part(struct window_part **list, uint64_t index, uint64_t now_ns)
{
    struct window_part **link = find_link(list, index);
    if (*link && (*link)->index == index) {
        return *link;
    }
    struct window_part *part = calloc(1, sizeof *part);
    if (part) {
        *part = (struct window_part){.index = index, .last_ns = now_ns, .next = *link};
        *link = part;
    }
    return part;
}

bool window_is_late(const struct window *window, uint64_t unit)
{
    return window->rule.unit != WINDOW_SECOND && unit / window->rule.part < window->next_index;
}

static void rank_reach(struct window_rank *rank, uint64_t unit)
{
    if (!rank->seen || unit > rank->position) {
        rank->position = unit;
    }
    rank->seen = true;
}

int window_arrive(struct window *window, uint32_t rank_index, uint64_t unit, bool overtakes,
                  uint64_t now_ns, struct window_part **ret_part)
{
    uint64_t index = unit / window->rule.part;
    if (window->rule.unit == WINDOW_SECOND && index < window->next_index) {
        index = window->next_index; /* it came on the second: nothing was late */
    }
    if (index < window->next_index) {
        return ERR_LATE;
    }
    const struct window_part *there = *find_link(&window->open, index);
    bool is_open = there && there->index == index;
    if (!is_open && count_unfinished(window, now_ns) >= window->open_max) {
        struct window_part *part = window->open;
        while (part->overdue && part->next) {
            part = part->next;
        }
        part->overdue = true;
    }
    /* A run that is first heard of in its middle has no data for what was before. */
    bool first = !window->open && !window->settled;
    if (first || (!window->settled && index < window->complete_from)) {
        window->complete_from = index;
    }
    struct window_part *part = put_part(&window->open, index, now_ns);
    if (!part || !put_part(&window->open, boundary_index(window, index), now_ns)) {
        return ERR_MEMORY;
    }
    if (!overtakes) {
        rank_reach(&window->ranks[rank_index], unit);
    }
    part->arrivals++;
    part->last_ns = now_ns;
    *ret_part = part;
    return 0;
}

void window_joined_late(struct window *window, const struct window_part *part)
{
    window->settled = true;
    if (part->index >= window->complete_from) {
        window->complete_from = part->index + 1;
    }
}

void window_epoch_end(struct window *window, uint32_t rank_index, uint64_t epoch)
{
    struct window_rank *rank = &window->ranks[rank_index];
    if (window->rule.unit == WINDOW_EPOCH && epoch + 1 > rank->finished) {
        rank->finished = epoch + 1;
    }
}

void window_bye(struct window *window, uint32_t rank_index, uint64_t step, uint64_t now_ns)
{
    struct window_rank *rank = &window->ranks[rank_index];
    if (window->rule.unit == WINDOW_STEP) {
        rank_reach(rank, step);
    }
    rank->bye = true;
    rank->bye_ns = now_ns;
}

void window_take_bye_back(struct window *window, uint32_t rank_index, uint64_t now_ns)
{
    struct window_rank *rank = &window->ranks[rank_index];
    rank->bye = false;
    if (clock_since_ns(rank->bye_ns, now_ns) >= window->rule.timeout_ns) {
        rank->bye_ns = 0;
    }
}

void window_settle_byes(struct window *window, uint64_t now_ns)
{
    for (uint32_t i = 0; i < window->rank_count; i++) {
        struct window_rank *rank = &window->ranks[i];
        if (rank->bye_ns && clock_since_ns(rank->last_ns, now_ns) >= window->rule.timeout_ns) {
            rank->bye = true;
        }
    }
}

bool window_all_bye(const struct window *window)
{
    for (uint32_t i = 0; i < window->rank_count; i++) {
        if (!window->ranks[i].bye) {
            return false;
        }
    }
    return window->rank_count > 0;
}

static bool waits_for_unknown_ranks(const struct window *window, uint64_t now_ns)
{
    return window->next_index == 0 && !window->closed && window->rank_count < window->world &&
           window_age(window, now_ns) < window->rule.rank_grace_ns;
}

static bool clock_passed(const struct window *window, const struct window_part *part,
                         uint64_t now_ns)
{
    return window_age(window, now_ns) / SECOND_NS > last_unit(window, part);
}

enum window_verdict { KEEP_OPEN, CLOSE, CLOSE_CUT };

/* More than anybody should wait for. */
static bool has_many_open(const struct window *window)
{
    uint32_t count = 0;
    for (const struct window_part *part = window->open; part; part = part->next) {
        count++;
    }
    return count > window->open_max;
}

static enum window_verdict window_judge(const struct window *window, const struct window_part *part,
                                        uint64_t now_ns)
{
    if (part->again_ns > now_ns || (part->held > 0 && !has_many_open(window))) {
        return KEEP_OPEN;
    }
    if (window->rule.unit == WINDOW_SECOND && clock_passed(window, part, now_ns)) {
        return CLOSE;
    }
    if (window->rule.unit == WINDOW_SECOND) {
        return window_all_bye(window) ? CLOSE_CUT : KEEP_OPEN;
    }
    struct part_ranks ranks = count_ranks(window, part, now_ns);
    bool all = ranks.finished == window->rank_count;
    if (all && !waits_for_unknown_ranks(window, now_ns)) {
        return ranks.completed == window->rank_count ? CLOSE : CLOSE_CUT;
    }
    bool given_up = !all && ranks.finished > 0 && ranks.awaited == 0;
    return part->overdue || given_up ? CLOSE_CUT : KEEP_OPEN;
}

struct window_part *window_close_next(struct window *window, uint64_t now_ns)
{
    struct window_part *part = window->open;
    enum window_verdict verdict = part ? window_judge(window, part, now_ns) : KEEP_OPEN;
    if (verdict == KEEP_OPEN) {
        return NULL;
    }
    part->closed = true;
    part->cut = verdict == CLOSE_CUT;
    window->open = part->next;
    window->next_index = part->index + 1;
    window->settled = true;
    struct window_part **link = &window->closed;
    while (*link) {
        link = &(*link)->next;
    }
    part->next = NULL;
    *link = part;
    return part;
}

void window_reopen(struct window *window, bool judged, uint64_t now_ns)
{
    struct window_part **link = &window->closed;
    while ((*link)->next) {
        link = &(*link)->next;
    }
    struct window_part *part = *link;
    *link = NULL;
    part->next = window->open;
    window->open = part;
    window->next_index = part->index; /* those between are late all the same */
    part->closed = part->cut = false;
    part->judged = part->judged || judged;
    part->again_ns = now_ns + SECOND_NS;
}

bool window_due(const struct window *window, const struct window_part *part)
{
    return boundary_index(window, part->index) == part->index;
}

static uint64_t parts_per_window(const struct window *window)
{
    return window->rule.length / window->rule.part;
}

struct window_part *window_forget(struct window *window)
{
    struct window_part *oldest = window->closed;
    if (!oldest || oldest->index + parts_per_window(window) > window->next_index) {
        return NULL;
    }
    window->closed = oldest->next;
    return oldest;
}

struct window_part *window_quiet(struct window *window, uint64_t now_ns)
{
    const struct window_part *quiet = window->open;
    while (quiet && (clock_since_ns(quiet->last_ns, now_ns) < window->rule.timeout_ns ||
                     quiet->arrivals <= quiet->shown)) {
        quiet = quiet->next;
    }
    if (!quiet) {
        return NULL;
    }
    uint64_t boundary = boundary_index(window, quiet->index);
    for (struct window_part *part = window->open; part; part = part->next) {
        if (boundary_index(window, part->index) == boundary) {
            part->shown = part->arrivals; /* all parts of one window are shown together */
        }
    }
    return *find_link(&window->open, boundary);
}

struct window_part *window_part_after(const struct window *window, const struct window_part *part)
{
    struct window_part *next = part ? part->next : window->closed;
    return next || (part && !part->closed) ? next : window->open;
}

struct window_part *window_part_of(const struct window *window, const struct window_part *last,
                                   const struct window_part *part)
{
    struct window_part *next = window_part_after(window, part);
    while (next && next->index + parts_per_window(window) <= last->index) {
        next = window_part_after(window, next);
    }
    return next && next->index <= last->index ? next : NULL;
}

void window_pass(struct window *window, uint64_t index)
{
    window->settled = true;
    window->next_index = index >= window->next_index ? index + 1 : window->next_index;
}

struct result_window window_ending_with(const struct window *window, uint64_t index)
{
    struct result_window ending = {
        .unit = window->rule.unit,
        .last = (index + 1) * window->rule.part - 1,
        .length = window->rule.length,
        .every = window->rule.every,
    };
    ending.partial = ending.last + 1 < ending.length;
    ending.first = ending.partial ? 0 : ending.last + 1 - ending.length;
    return ending;
}

struct result_window window_describe(const struct window *window, const struct window_part *last)
{
    struct result_window described = window_ending_with(window, last->index);
    described.partial = last->index + 1 < window->complete_from + parts_per_window(window);
    for (const struct window_part *part = NULL; (part = window_part_of(window, last, part));) {
        described.partial = described.partial || part->cut || !part->closed;
    }
    return described;
}

bool window_needs(const struct window *window, uint64_t index)
{
    return index + parts_per_window(window) > window->next_index;
}

int window_restore_part(struct window *window, uint64_t index, uint64_t now_ns,
                        struct window_part **ret_part)
{
    bool closed = index < window->next_index;
    struct window_part *part = put_part(closed ? &window->closed : &window->open, index, now_ns);
    if (!part || (!closed && !put_part(&window->open, boundary_index(window, index), now_ns))) {
        return ERR_MEMORY;
    }
    part->closed = closed;
    *ret_part = part;
    return 0;
}

struct window_part *window_take_any(struct window *window)
{
    struct window_part **list = window->open ? &window->open : &window->closed;
    struct window_part *part = *list;
    if (!part) {
        return NULL;
    }
    *list = part->next;
    if (part->arrivals > 0) {
        window_joined_late(window, part);
    }
    return part;
}

void window_fini(struct window *window)
{
    free(window->ranks);
    *window = (struct window){0};
}

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

/* By moving on, by an epoch_end, or by having sent the last step before its bye: the whole part was
 * seen. */
static bool rank_completed(const struct window *window, const struct window_rank *rank,
                           const struct window_part *part)
{
    uint64_t last = last_unit(window, part);
    bool stepped = window->rule.unit == WINDOW_STEP && rank->bye && rank->position == last;
    return (rank->seen && (rank->position > last || stepped)) || rank->finished > last;
}

static uint32_t count_completed(const struct window *window, const struct window_part *part)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < window->rank_count; i++) {
        count += rank_completed(window, &window->ranks[i], part);
    }
    return count;
}

static uint32_t count_finished(const struct window *window, const struct window_part *part)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < window->rank_count; i++) {
        count += window->ranks[i].bye || rank_completed(window, &window->ranks[i], part);
    }
    return count;
}

/* Open parts that some rank has not finished. */
static uint32_t count_unfinished(const struct window *window)
{
    uint32_t count = 0;
    for (const struct window_part *part = window->open; part; part = part->next) {
        count += count_finished(window, part) < window->rank_count;
    }
    return count;
}

/* Inserted before *link; NULL when out of memory. */
static struct window_part *new_part(struct window_part **link, uint64_t index, uint64_t now_ns)
{
    struct window_part *part = calloc(1, sizeof *part);
    if (!part) {
        return NULL;
    }
    part->index = index;
    part->last_ns = now_ns;
    part->next = *link;
    *link = part;
    return part;
}

/* Finds or inserts the open part of this index; NULL when out of memory. */
static struct window_part *open_part(struct window *window, uint64_t index, uint64_t now_ns)
{
    struct window_part **link = &window->open;
    while (*link && (*link)->index < index) {
        link = &(*link)->next;
    }
    if (*link && (*link)->index == index) {
        return *link;
    }
    return new_part(link, index, now_ns);
}

static bool is_open(const struct window *window, uint64_t index)
{
    for (const struct window_part *part = window->open; part; part = part->next) {
        if (part->index == index) {
            return true;
        }
    }
    return false;
}

bool window_is_late(const struct window *window, uint64_t unit)
{
    return window->rule.unit != WINDOW_SECOND && unit / window->rule.part < window->next_index;
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
    if (!is_open(window, index) && count_unfinished(window) >= window->open_max) {
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
    struct window_part *part = open_part(window, index, now_ns);
    if (!part || !open_part(window, boundary_index(window, index), now_ns)) {
        return ERR_MEMORY;
    }
    if (!overtakes) {
        struct window_rank *rank = &window->ranks[rank_index];
        if (!rank->seen || unit > rank->position) {
            rank->position = unit;
        }
        rank->seen = true;
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

void window_bye(struct window *window, uint32_t rank_index, uint64_t now_ns)
{
    window->ranks[rank_index].bye = true;
    window->ranks[rank_index].bye_ns = now_ns;
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

/* Ranks that have not finished the part, but were heard of within the timeout. */
static uint32_t count_awaited(const struct window *window, const struct window_part *part,
                              uint64_t now_ns)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < window->rank_count; i++) {
        const struct window_rank *rank = &window->ranks[i];
        bool finished = rank->bye || rank_completed(window, rank, part);
        count += !finished && clock_since_ns(rank->last_ns, now_ns) < window->rule.timeout_ns;
    }
    return count;
}

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
    uint32_t finished = count_finished(window, part);
    if (finished == window->rank_count && !waits_for_unknown_ranks(window, now_ns)) {
        return count_completed(window, part) == window->rank_count ? CLOSE : CLOSE_CUT;
    }
    if (part->overdue) {
        return CLOSE_CUT;
    }
    return finished > 0 && finished < window->rank_count && count_awaited(window, part, now_ns) == 0
               ? CLOSE_CUT
               : KEEP_OPEN;
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

/* All parts of one window are shown together. */
static void note_shown(struct window *window, uint64_t boundary)
{
    for (struct window_part *part = window->open; part; part = part->next) {
        if (boundary_index(window, part->index) == boundary) {
            part->shown = part->arrivals;
        }
    }
}

struct window_part *window_quiet(struct window *window, uint64_t now_ns)
{
    for (struct window_part *part = window->open; part; part = part->next) {
        bool silent = clock_since_ns(part->last_ns, now_ns) >= window->rule.timeout_ns;
        if (silent && part->arrivals > part->shown) {
            note_shown(window, boundary_index(window, part->index));
            return part;
        }
    }
    return NULL;
}

struct window_part *window_boundary(const struct window *window, const struct window_part *part)
{
    uint64_t index = boundary_index(window, part->index);
    struct window_part *boundary = window->open;
    while (boundary && boundary->index != index) {
        boundary = boundary->next;
    }
    return boundary;
}

static void visit_list(const struct window *window, struct window_part *list, uint64_t last_index,
                       void (*visit)(void *, struct window_part *), void *data)
{
    for (struct window_part *part = list; part && part->index <= last_index; part = part->next) {
        if (part->index + parts_per_window(window) > last_index) {
            visit(data, part);
        }
    }
}

void window_each(const struct window *window, const struct window_part *last,
                 void (*visit)(void *data, struct window_part *part), void *data)
{
    visit_list(window, window->closed, last->index, visit, data);
    visit_list(window, window->open, last->index, visit, data);
}

static void note_partial(void *data, struct window_part *part)
{
    bool *partial = data;
    *partial = *partial || part->cut || !part->closed;
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
    window_each(window, last, note_partial, &described.partial);
    return described;
}

bool window_needs(const struct window *window, uint64_t index)
{
    return index + parts_per_window(window) > window->next_index;
}

static struct window_part *restore_closed(struct window *window, uint64_t index, uint64_t now_ns)
{
    struct window_part **link = &window->closed;
    struct window_part *part = window->closed;
    while (part && part->index != index) {
        part = part->next;
    }
    if (part) {
        return part;
    }
    while (*link && (*link)->index < index) {
        link = &(*link)->next;
    }
    part = new_part(link, index, now_ns);
    if (part) {
        part->closed = true;
    }
    return part;
}

int window_restore_part(struct window *window, uint64_t index, uint64_t now_ns,
                        struct window_part **ret_part)
{
    bool closed = index < window->next_index;
    struct window_part *part =
        closed ? restore_closed(window, index, now_ns) : open_part(window, index, now_ns);
    if (!part || (!closed && !open_part(window, boundary_index(window, index), now_ns))) {
        return ERR_MEMORY;
    }
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

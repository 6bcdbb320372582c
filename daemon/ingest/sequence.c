/* SPDX-License-Identifier: MIT */
#include "daemon/ingest/sequence.h"

#include "proto/err.h"
#include "daemon/base/grow.h"

#include <stdlib.h>
#include <string.h>

uint32_t sequences_count_with(const struct sequences *sequences, uint32_t rank_index)
{
    uint32_t count = sequences->count;
    return rank_index < count ? count : rank_index < 2 * count ? 2 * count : rank_index + 1;
}

static int sequence_reserve(struct sequences *sequences, uint32_t count)
{
    if (count <= sequences->count) {
        return 0;
    }
    struct sequence *grown = realloc(sequences->of_rank, count * sizeof *grown);
    if (!grown) {
        return ERR_MEMORY;
    }
    memset(grown + sequences->count, 0, (count - sequences->count) * sizeof *grown);
    sequences->of_rank = grown;
    sequences->count = count;
    return 0;
}

/* Doubts are rare: there is memory for them from the first one of a topic on. */
static struct sequence_doubt *sequence_reserve_doubt(struct sequences *sequences,
                                                     uint32_t rank_index)
{
    if (rank_index >= sequences->doubt_count) {
        uint32_t count = sequences->count;
        struct sequence_doubt *grown = realloc(sequences->doubt, count * sizeof *grown);
        if (!grown) {
            return NULL;
        }
        memset(grown + sequences->doubt_count, 0, (count - sequences->doubt_count) * sizeof *grown);
        sequences->doubt = grown;
        sequences->doubt_count = count;
    }
    return &sequences->doubt[rank_index];
}

static const struct sequence_doubt *sequence_find_doubt(const struct sequences *sequences,
                                                        uint32_t rank_index)
{
    return rank_index < sequences->doubt_count ? &sequences->doubt[rank_index] : NULL;
}

static bool sequence_follows(uint64_t next, uint64_t seq)
{
    return seq >= next && seq - next <= SEQUENCE_GAP_MAX;
}

/* The gap that the number lies in; SEQUENCE_GAPS: in none. */
static int sequence_find_gap(const struct sequence_doubt *doubt, uint64_t seq)
{
    int g = 0;
    while (doubt && g < SEQUENCE_GAPS && !(doubt->gap[g].from <= seq && seq < doubt->gap[g].to)) {
        g++;
    }
    return doubt ? g : SEQUENCE_GAPS;
}

/* Without memory the gap is forgotten: what comes of it late is refused. */
static void sequence_remember_gap(struct sequences *sequences, uint32_t rank_index, uint64_t from,
                                  uint64_t to)
{
    struct sequence_doubt *doubt = sequence_reserve_doubt(sequences, rank_index);
    if (!doubt) {
        return;
    }
    memmove(&doubt->gap[1], &doubt->gap[0], (SEQUENCE_GAPS - 1) * sizeof doubt->gap[0]);
    doubt->gap[0].from = from;
    doubt->gap[0].to = to;
}

/* Connections keep their order, so what a late message skips does not come. */
static void sequence_close_gap(struct sequence_doubt *doubt, int gap, uint64_t seq)
{
    doubt->gap[gap].from = seq + 1;
}

/* The publisher is at the other position. */
static void sequence_change_position(struct sequence_doubt *doubt, struct sequence *sequence)
{
    uint64_t before = sequence->next;
    memset(doubt->gap, 0, sizeof doubt->gap);
    sequence->next = doubt->other;
    doubt->other = before;
}

static uint64_t sequence_newly_dropped(const struct sequence *sequence, uint64_t dropped)
{
    bool grown = dropped > sequence->dropped;
    return grown && dropped - sequence->dropped <= SEQUENCE_DROPPED_MAX
               ? dropped - sequence->dropped
               : 0;
}

/* A number that no position explains: the next one will tell. */
static int sequence_doubt_position(struct sequences *sequences, uint32_t rank_index, uint64_t seq)
{
    struct sequence_doubt *doubt = sequence_reserve_doubt(sequences, rank_index);
    if (!doubt) {
        return ERR_MEMORY;
    }
    doubt->other = seq + 1;
    return ERR_SEQ_ORDER;
}

int sequences_next(struct sequences *sequences, uint32_t rank_index, uint64_t seq, uint64_t dropped,
                   struct losses *ret_losses)
{
    if (sequence_reserve(sequences, sequences_count_with(sequences, rank_index)) != 0) {
        return ERR_MEMORY;
    }
    struct sequence *sequence = &sequences->of_rank[rank_index];
    struct sequence_doubt *doubt =
        (struct sequence_doubt *)sequence_find_doubt(sequences, rank_index);
    struct losses losses = {.joined_late = !sequence->seen && seq != 0};
    int gap = sequence_find_gap(doubt, seq);
    if (!sequence->seen) {
        *sequence = (struct sequence){.seen = SEQUENCE_SEEN, .first = seq, .next = seq};
        if (losses.joined_late) {
            sequence->dropped = dropped; /* before attnd was there */
        }
    } else if (gap < SEQUENCE_GAPS) {
        sequence_close_gap(doubt, gap, seq);
        ret_losses->found = 1;
        return 0; /* its `dropped` is older than what is known */
    } else if (!sequence_follows(sequence->next, seq) && doubt && doubt->other &&
               sequence_follows(doubt->other, seq)) {
        sequence_change_position(doubt, sequence);
    } else if (sequences_passed(sequences, rank_index, seq)) {
        return seq + 1 == sequence->next ? ERR_SEQ_DUPLICATE : ERR_SEQ_ORDER;
    } else if (!sequence_follows(sequence->next, seq)) {
        return sequence_doubt_position(sequences, rank_index, seq);
    }
    losses.lost = seq - sequence->next;
    losses.source = sequence_newly_dropped(sequence, dropped);
    losses.joined_late |=
        sequence->seen == SEQUENCE_RESTORED && (losses.lost > 0 || losses.source > 0);
    sequence->seen = SEQUENCE_SEEN;
    if (losses.lost > 0) {
        sequence_remember_gap(sequences, rank_index, sequence->next, seq);
    }
    if (losses.source > 0 || dropped < sequence->dropped) {
        sequence->dropped = dropped;
    }
    sequence->next = seq + 1;
    *ret_losses = losses;
    return 0;
}

bool sequences_passed(const struct sequences *sequences, uint32_t rank_index, uint64_t seq)
{
    if (rank_index >= sequences->count || !sequences->of_rank[rank_index].seen) {
        return false;
    }
    const struct sequence_doubt *doubt = sequence_find_doubt(sequences, rank_index);
    uint64_t next = sequences->of_rank[rank_index].next;
    return seq < next && next - seq <= SEQUENCE_GAP_MAX &&
           sequence_find_gap(doubt, seq) == SEQUENCE_GAPS &&
           !(doubt && doubt->other && sequence_follows(doubt->other, seq));
}

bool sequences_goes_on(const struct sequences *sequences, uint32_t rank_index, uint64_t seq)
{
    if (rank_index >= sequences->count || !sequences->of_rank[rank_index].seen) {
        return true;
    }
    const struct sequence_doubt *doubt = sequence_find_doubt(sequences, rank_index);
    return sequence_follows(sequences->of_rank[rank_index].next, seq) ||
           (doubt && doubt->other && sequence_follows(doubt->other, seq));
}

bool sequences_reached(const struct sequences *sequences, uint32_t rank_index, uint64_t seq)
{
    return rank_index < sequences->count && sequences->of_rank[rank_index].next >= seq;
}

uint64_t sequences_since(const struct sequences *sequences, const struct sequences *older)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < sequences->count; i++) {
        const struct sequence *now = &sequences->of_rank[i];
        bool known = i < older->count && older->of_rank[i].seen;
        uint64_t from = known ? older->of_rank[i].next : now->first;
        count += sequence_follows(from, now->next) ? now->next - from : 0; /* else it jumped */
    }
    return count;
}

int sequences_merge(struct sequences *into, const struct sequences *from)
{
    if (sequence_reserve(into, from->count) != 0) {
        return ERR_MEMORY;
    }
    for (uint32_t i = 0; i < from->count; i++) {
        if (from->of_rank[i].next > into->of_rank[i].next) {
            into->of_rank[i] = from->of_rank[i];
        }
    }
    return 0;
}

void sequences_restored(struct sequences *sequences)
{
    for (uint32_t i = 0; i < sequences->count; i++) {
        struct sequence *sequence = &sequences->of_rank[i];
        sequence->seen = sequence->seen ? SEQUENCE_RESTORED : SEQUENCE_UNSEEN;
    }
}

void sequences_clear(struct sequences *sequences)
{
    free(sequences->of_rank);
    free(sequences->doubt);
    *sequences = (struct sequences){0};
}

static struct drop_total *drop_totals_of(struct drop_totals *totals, uint32_t rank_index)
{
    return grow_to(&totals->of_rank, rank_index, &totals->count, sizeof *totals->of_rank)
               ? &totals->of_rank[rank_index]
               : NULL;
}

/* Takes up to `wanted` off *number; returns how much. */
static uint64_t drop_totals_take_off(uint64_t *number, uint64_t wanted)
{
    uint64_t taken = *number < wanted ? *number : wanted;
    *number -= taken;
    return taken;
}

int drop_totals_event(struct drop_totals *totals, uint32_t rank_index, uint64_t total,
                      bool from_start, uint64_t *ret_new)
{
    struct drop_total *rank = drop_totals_of(totals, rank_index);
    if (!rank) {
        return ERR_MEMORY;
    }
    bool joins = !rank->heard && !from_start;
    rank->heard = 1;
    *ret_new = 0;
    if (joins || total < rank->told) {
        *rank =
            (struct drop_total){.heard = 1, .told = total, .unplaced = joins ? 0 : rank->unplaced};
        return 0;
    }
    uint64_t grown = total - rank->told;
    if (grown > SEQUENCE_DROPPED_MAX) {
        return 0; /* not believed */
    }
    rank->told = total;
    *ret_new = grown - drop_totals_take_off(&rank->ahead, grown);
    rank->unplaced += *ret_new;
    return 0;
}

int drop_totals_topic(struct drop_totals *totals, uint32_t rank_index, uint64_t dropped,
                      uint64_t *ret_known)
{
    struct drop_total *rank = drop_totals_of(totals, rank_index);
    if (!rank) {
        return ERR_MEMORY;
    }
    *ret_known = drop_totals_take_off(&rank->unplaced, dropped);
    rank->ahead += dropped - *ret_known;
    return 0;
}

void drop_totals_clear(struct drop_totals *totals)
{
    free(totals->of_rank);
    *totals = (struct drop_totals){0};
}

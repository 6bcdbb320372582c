/* SPDX-License-Identifier: MIT */
/* Means are merged in place with their counts, so a capture has no sums beside them, and 16 of them
 * pooled are the mean of a window but for the rounding of a float.
 *
 * A new capture takes over the memory of the oldest judged one where the ring is full: blocks stay
 * with their layer, so nothing is allocated as long as messages keep their metrics.
 *
 * One place decides when a capture is due, capture_is_awaited. Decided against were: a timer, as a
 * recording has none; a count of messages for all ranks together, as one rank's loss would hide
 * another's delay; clocks of two ranks against each other, which differ by hours. */
#include "daemon/state/capture_internal.h"
#include "daemon/state/layer_state.h"

#include "daemon/base/block_bytes.h"
#include "daemon/base/grow.h"
#include "proto/err.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Memory */

static void captures_charge(struct captures *captures, uint64_t more, uint64_t less)
{
    assert(captures->bytes + more >= less);
    captures->bytes += more - less;
    state_budget_charge(captures->budget, more, less);
}

static uint64_t capture_bytes(const struct capture *capture)
{
    uint64_t bytes = block_bytes(sizeof *capture) +
                     block_bytes(capture->rank_count * sizeof *capture->sent) +
                     block_bytes(capture->layer_count * sizeof *capture->layer);
    for (uint32_t i = 0; i < capture->layer_count; i++) {
        bytes += capture->layer[i] ? capture_layer_bytes(capture->layer[i]) : 0;
    }
    return bytes;
}

static void capture_free(struct captures *captures, struct capture *capture)
{
    captures_charge(captures, 0, capture_bytes(capture));
    for (uint32_t i = 0; i < capture->layer_count; i++) {
        capture_layer_free(&capture->layer[i]);
    }
    free(capture->layer);
    free(capture->sent);
    free(capture);
}

struct captures *captures_new(uint64_t timeout_ns, struct state_budget *budget)
{
    struct captures *captures = calloc(1, sizeof *captures);
    if (captures) {
        captures->timeout_ns = timeout_ns;
        captures->budget = budget;
        captures->limit = CAPTURE_RING_BYTES;
    }
    return captures;
}

void captures_forget(struct captures *captures)
{
    for (uint32_t i = 0; i < captures->count; i++) {
        capture_free(captures, captures->of[i]);
    }
    captures->count = captures->open = 0;
    assert(captures->bytes == 0);
}

void captures_free(struct captures **captures_p)
{
    struct captures *captures = *captures_p;
    if (!captures) {
        return;
    }
    captures_forget(captures);
    free(captures->of);
    free(captures->ranks);
    free(captures);
    *captures_p = NULL;
}

void captures_want_extremes(struct captures *captures, enum metric metric)
{
    assert(metric < METRIC_MATRIX_FIRST && captures->count == 0);
    captures->wants[metric] = true;
}

struct capture_layer *captures_layer(struct captures *captures, struct capture *capture,
                                     struct layer_id id, uint32_t stream_index, uint32_t heads,
                                     const bool on[METRIC_MATRIX_FIRST])
{
    uint32_t before = capture->layer_count;
    if (!grow_to(&capture->layer, stream_index, &capture->layer_count, sizeof *capture->layer)) {
        return NULL;
    }
    captures_charge(captures, block_bytes(capture->layer_count * sizeof *capture->layer),
                    block_bytes(before * sizeof *capture->layer));
    struct capture_layer **place = &capture->layer[stream_index];
    uint64_t bytes = *place ? capture_layer_bytes(*place) : 0;
    if (capture_layer_get(place, id, heads, on, captures->wants) != 0) {
        return NULL;
    }
    captures_charge(captures, capture_layer_bytes(*place), bytes);
    return *place;
}

int captures_split(struct captures *captures, struct capture_layer *layer)
{
    uint64_t bytes = capture_layer_bytes(layer);
    int code = capture_layer_split(layer);
    captures_charge(captures, capture_layer_bytes(layer), bytes);
    return code;
}

int captures_count(struct captures *captures, struct capture *capture, struct capture_layer *layer,
                   uint32_t rank, uint32_t messages)
{
    uint32_t before = capture->rank_count;
    if (!grow_to(&capture->sent, rank, &capture->rank_count, sizeof *capture->sent)) {
        return ERR_MEMORY;
    }
    captures_charge(captures, block_bytes(capture->rank_count * sizeof *capture->sent),
                    block_bytes(before * sizeof *capture->sent));
    uint64_t bytes = capture_layer_bytes(layer);
    struct capture_share *share = capture_layer_share(layer, rank);
    if (!share) {
        return ERR_MEMORY;
    }
    captures_charge(captures, capture_layer_bytes(layer), bytes);
    capture->sent[rank].layers += share->messages == 0;
    capture->sent[rank].messages += messages;
    share->messages += messages;
    return 0;
}

/* The ring */

static int capture_compare(const struct capture_key *a, const struct capture_key *b)
{
    if (a->epoch != b->epoch) {
        return a->epoch < b->epoch ? -1 : 1;
    }
    return a->step < b->step ? -1 : a->step > b->step;
}

static void captures_check(const struct captures *captures)
{
    uint32_t judged = captures->count - captures->open;
    assert(captures->open <= captures->count);
    (void)judged;
    for (uint32_t i = 0; i < captures->count; i++) {
        assert(i == 0 || capture_compare(&captures->of[i - 1]->key, &captures->of[i]->key) < 0);
        assert((captures->of[i]->phase == CAPTURE_OPEN) == (i >= judged));
    }
    assert(captures->open == 0 || !captures->any ||
           capture_compare(&captures->judged, &captures->of[judged]->key) < 0);
}

/* Where the capture is, or belongs. */
static uint32_t captures_find(const struct captures *captures, const struct capture_key *key)
{
    uint32_t at = captures->count; /* nearly always the newest one, or behind it */
    while (at > 0 && capture_compare(&captures->of[at - 1]->key, key) >= 0) {
        at--;
    }
    return at;
}

/* Takes the oldest out of the ring, if it may go: it was judged, and a newer one as well. */
static struct capture *captures_take_oldest(struct captures *captures)
{
    if (captures->count - captures->open < 2) {
        return NULL;
    }
    struct capture *oldest = captures->of[0];
    captures->count--;
    memmove(captures->of, captures->of + 1, captures->count * sizeof *captures->of);
    return oldest;
}

/* An empty one, in the memory of the oldest where there would be too much with it. */
static struct capture *captures_make(struct captures *captures)
{
    struct capture *capture = NULL;
    uint64_t more = captures->count ? capture_bytes(captures->of[captures->count - 1]) : 0;
    if (captures->bytes + more > captures->limit) {
        capture = captures_take_oldest(captures);
    }
    if (!capture) {
        capture = calloc(1, sizeof *capture);
        captures_charge(captures, capture ? block_bytes(sizeof *capture) : 0, 0);
        return capture;
    }
    for (uint32_t i = 0; i < capture->layer_count; i++) {
        if (capture->layer[i]) {
            capture_layer_clear(capture->layer[i]);
        }
    }
    if (capture->sent) {
        memset(capture->sent, 0, capture->rank_count * sizeof *capture->sent);
    }
    capture->time_ns = 0;
    capture->phase = CAPTURE_OPEN;
    capture->cut = false;
    return capture;
}

bool captures_is_past(const struct captures *captures, const struct capture_key *key)
{
    return captures->any && capture_compare(key, &captures->judged) <= 0;
}

struct capture *captures_get(struct captures *captures, const struct capture_key *key)
{
    uint32_t at = captures_find(captures, key);
    if (at < captures->count && capture_compare(&captures->of[at]->key, key) == 0) {
        return captures->of[at];
    }
    if (captures_is_past(captures, key) ||
        !grow(&captures->of, captures->count, &captures->room, sizeof(struct capture *))) {
        return NULL;
    }
    struct capture *capture = captures_make(captures);
    if (!capture) {
        return NULL;
    }
    capture->key = *key;
    at = captures_find(captures, key); /* the oldest one may be gone */
    memmove(captures->of + at + 1, captures->of + at,
            (captures->count - at) * sizeof(struct capture *));
    captures->of[at] = capture;
    captures->count++;
    captures->open++;
    return capture;
}

/* Ranks */

struct capture_rank *captures_rank(struct captures *captures, uint32_t rank_index)
{
    if (!grow_to(&captures->ranks, rank_index, &captures->rank_count, sizeof *captures->ranks)) {
        return NULL;
    }
    captures->known += !captures->ranks[rank_index].known;
    captures->ranks[rank_index].known = true;
    return &captures->ranks[rank_index];
}

int captures_hear(struct captures *captures, uint32_t rank_index, const struct header *header,
                  bool moves)
{
    const struct capture_key key = {header->epoch, header->step};
    struct capture_rank *rank = captures_rank(captures, rank_index);
    if (!rank) {
        return ERR_MEMORY;
    }
    captures->world = header->world > captures->world ? header->world : captures->world;
    if (moves && (!rank->seen || capture_compare(&key, &rank->newest) > 0)) {
        rank->seen = true;
        rank->newest = key;
    }
    rank->first_ns = rank->newest_ns ? rank->first_ns : header->time_ns;
    rank->newest_ns = header->time_ns > rank->newest_ns ? header->time_ns : rank->newest_ns;
    return 0;
}

void captures_bye(struct captures *captures, uint32_t rank_index, bool bye)
{
    if (rank_index < captures->rank_count) {
        captures->ranks[rank_index].bye = bye;
    }
}

void captures_announce(struct captures *captures, uint32_t rank_index, uint32_t layers)
{
    if (rank_index < captures->rank_count && layers > 0) {
        captures->ranks[rank_index].announced = layers;
    }
}

/* Messages */

/* Whether the budget has room for a layer that is not in the capture yet. Windows come first: it
 * leaves room for the state of such a layer, of this run or another one. */
static bool captures_fit(struct captures *captures, const struct capture *capture,
                         uint32_t stream_index, uint32_t heads)
{
    uint64_t room = capture_layer_most(heads) + layer_state_new_bytes(heads);
    struct capture *oldest = NULL;
    if (stream_index < capture->layer_count && capture->layer[stream_index]) {
        return true;
    }
    while (!state_budget_fits(captures->budget, room) &&
           (oldest = captures_take_oldest(captures))) {
        capture_free(captures, oldest);
    }
    return state_budget_fits(captures->budget, room);
}

/* Makes room for the message first, so that it is in the capture or is not. */
static int captures_put(struct captures *captures, struct capture *capture, uint32_t rank_index,
                        uint32_t stream_index, const struct message *message,
                        const struct measured *measured)
{
    const struct header *header = &message->header;
    bool on[METRIC_MATRIX_FIRST];
    if (!captures_fit(captures, capture, stream_index, header->heads_total)) {
        return ERR_STATE_LIMIT;
    }
    for (int m = 0; m < METRIC_MATRIX_FIRST; m++) {
        on[m] = measured->value[m];
    }
    struct capture_layer *layer =
        captures_layer(captures, capture, header->layer, stream_index, header->heads_total, on);
    if (!layer ||
        (!capture_layer_is_even(message, measured) && captures_split(captures, layer) != 0) ||
        captures_count(captures, capture, layer, rank_index, 1) != 0) {
        return ERR_MEMORY;
    }
    capture_layer_add(layer, message, measured);
    capture->time_ns = header->time_ns > capture->time_ns ? header->time_ns : capture->time_ns;
    return 0;
}

int captures_take(struct captures *captures, uint32_t rank_index, uint32_t stream_index,
                  const struct message *message, const struct measured *measured)
{
    const struct capture_key key = {message->header.epoch, message->header.step};
    assert(rank_index < captures->rank_count);
    captures_check(captures);
    bool is_past = captures_is_past(captures, &key);
    struct capture *capture = captures_get(captures, &key);
    captures->late += is_past;
    if (!capture) {
        return is_past ? 0 : ERR_MEMORY;
    }
    int code = captures_put(captures, capture, rank_index, stream_index, message, measured);
    capture->cut = capture->cut || code;
    if (!code && is_past && capture_compare(&key, &captures->judged) == 0) {
        captures->ranks[rank_index].in_judged = capture->sent[rank_index];
    }
    return code;
}

/* Judging */

static struct capture_sent capture_sent_by(const struct capture *capture, uint32_t rank)
{
    return rank < capture->rank_count ? capture->sent[rank] : (struct capture_sent){0, 0};
}

/* Whether messages of this rank are still to come for the oldest open capture. */
static bool capture_is_awaited(const struct captures *captures, const struct capture *capture,
                               uint32_t index)
{
    const struct capture_rank *rank = &captures->ranks[index];
    struct capture_sent sent = capture_sent_by(capture, index);
    /* It goes no further, or is further. */
    if (!rank->known || rank->bye ||
        (rank->seen && capture_compare(&rank->newest, &capture->key) > 0)) {
        return false;
    }
    /* It sends as much as for the capture before; one that was not in that is not waited for. A
     * rank that sends more messages than before sends the rest into a judged capture, and is waited
     * for in the next. */
    if (captures->any) {
        return sent.messages < rank->in_judged.messages || sent.layers < rank->in_judged.layers;
    }
    /* Only hellos say what the first capture of a run will have. */
    return !rank->announced || sent.layers < rank->announced || captures->known < captures->world;
}

/* Whether the clock of one of its ranks says that it was the oldest open one for long enough. A
 * rank that is gone is so timed by the others. */
static bool capture_is_overdue(const struct captures *captures, const struct capture *capture)
{
    for (uint32_t i = 0; i < captures->rank_count; i++) {
        const struct capture_rank *rank = &captures->ranks[i];
        if (capture_sent_by(capture, i).messages > 0 &&
            rank->newest_ns - rank->first_ns >= captures->timeout_ns) {
            return true;
        }
    }
    return false;
}

/* Whether a rank or a layer of the capture before is not in it. */
static bool capture_lacks(const struct captures *captures, const struct capture *capture)
{
    bool lacks = false;
    for (uint32_t i = 0; i < captures->rank_count && !lacks; i++) {
        struct capture_sent before = captures->ranks[i].in_judged;
        struct capture_sent now = capture_sent_by(capture, i);
        lacks = now.messages < before.messages || now.layers < before.layers;
    }
    return lacks;
}

struct capture *captures_oldest_open(struct captures *captures)
{
    return captures->open ? captures->of[captures->count - captures->open] : NULL;
}

struct capture *captures_due(struct captures *captures)
{
    captures_check(captures);
    struct capture *oldest = captures_oldest_open(captures);
    if (!oldest) {
        return NULL;
    }
    if (!captures->timed || capture_compare(&captures->timed_for, &oldest->key) != 0) {
        captures->timed = true;
        captures->timed_for = oldest->key;
        for (uint32_t i = 0; i < captures->rank_count; i++) {
            captures->ranks[i].first_ns = captures->ranks[i].newest_ns;
        }
    }
    bool full = captures->open > CAPTURES_OPEN_MAX ||
                (captures->open > 1 && captures->bytes > captures->limit);
    bool awaited = false;
    for (uint32_t i = 0; i < captures->rank_count && !awaited && !full; i++) {
        awaited = capture_is_awaited(captures, oldest, i);
    }
    return awaited && !capture_is_overdue(captures, oldest) ? NULL : oldest;
}

void captures_judged(struct captures *captures, struct capture *capture)
{
    captures_check(captures);
    assert(capture == captures_oldest_open(captures));
    capture->cut = capture->cut || capture_lacks(captures, capture);
    capture->phase = CAPTURE_JUDGED;
    captures->open--;
    captures->any = true;
    captures->judged = capture->key;
    for (uint32_t i = 0; i < captures->rank_count; i++) {
        captures->ranks[i].in_judged = capture_sent_by(capture, i);
    }
    while (captures->bytes > captures->limit) {
        struct capture *oldest = captures_take_oldest(captures);
        if (!oldest) {
            break;
        }
        capture_free(captures, oldest);
    }
    captures_check(captures);
}

const struct capture_layer *capture_find_layer(const struct capture *capture, uint32_t stream_index)
{
    const struct capture_layer *layer =
        stream_index < capture->layer_count ? capture->layer[stream_index] : NULL;
    return layer && layer->messages > 0 ? layer : NULL;
}

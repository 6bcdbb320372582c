/* SPDX-License-Identifier: MIT */
/* A capture that is finished is copied, head by head, to the newest; a head of which nothing was
 * held keeps what it had, so that a rank that missed a capture costs the next one no comparison.
 *
 * The world says how many ranks to wait for only once: in pipelines most ranks never have the
 * layer, and often one rank of many is watched. From the second capture on those of the one before
 * count. */
#include "daemon/state/sketch.h"

#include "daemon/state/stored.h"
#include "proto/err.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALL_HELD    UINT64_MAX
#define HEADS_MAX   65536 /* as limits.heads */
#define VALUES_SIZE sizeof(struct sketch_values)
#define HEAD_SIZE   (SKETCH_SETS * VALUES_SIZE + 3 * sizeof(float))
_Static_assert(SKETCH_PLACES == 64, "a bit for each");
_Static_assert(VALUES_SIZE == 24 + 4 * SKETCH_PLACES, "no padding: they are stored");

/* Memory */

struct sketch *sketch_new(struct state_budget *budget)
{
    struct sketch *sketch = calloc(1, sizeof *sketch);
    if (sketch) {
        sketch->budget = budget;
    }
    return sketch;
}

/* Another size of what the budget counts, whether it fits or not. */
static void sketch_charge(struct sketch *sketch, uint64_t bytes)
{
    state_budget_charge(sketch->budget, bytes, sketch->bytes);
    sketch->bytes = bytes;
}

void sketch_free(struct sketch **sketch_p)
{
    struct sketch *sketch = *sketch_p;
    if (!sketch) {
        return;
    }
    sketch_charge(sketch, 0);
    for (int i = 0; i < PROJECTION_COUNT * SKETCH_SETS; i++) {
        free(sketch->matrix[i / SKETCH_SETS].of[i % SKETCH_SETS]);
    }
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        free(sketch->matrix[p].turned);
    }
    free(sketch->seen);
    free(sketch);
    *sketch_p = NULL;
}

/* Without memory it stays as if it had never come. */
static int sketch_make_matrix(struct sketch *sketch, struct sketch_matrix *matrix, uint32_t heads)
{
    for (int i = 0; i < SKETCH_SETS; i++) {
        if (!matrix->of[i] && !(matrix->of[i] = calloc(heads, VALUES_SIZE))) {
            return ERR_MEMORY;
        }
    }
    if (!matrix->turned && !(matrix->turned = calloc(3 * (size_t)heads, sizeof(float)))) {
        return ERR_MEMORY;
    }
    matrix->usual = matrix->turned + heads;
    matrix->replaced = matrix->usual + heads;
    matrix->median = (struct sketch_median){NAN, NAN};
    matrix->heads = heads;
    sketch_charge(sketch, sketch->bytes + heads * HEAD_SIZE);
    return 0;
}

/* Joining */

/* The message against the newest capture: 1: of a later one, 0: of the same, -1: of an earlier
 * one. */
static int sketch_compare(const struct sketch *sketch, const struct header *header)
{
    const struct sketch_capture *newest = &sketch->capture;
    if (header->epoch != newest->epoch) {
        return header->epoch > newest->epoch ? 1 : -1;
    }
    return header->step > newest->step ? 1 : -(header->step < newest->step);
}

bool sketch_is_passed(const struct sketch *sketch, const struct header *header)
{
    return sketch->is_open && sketch_compare(sketch, header) > 0;
}

/* Heads of the layer in a matrix of which a message has a slice; 0: it does not have the matrix. */
static uint32_t sketch_heads_of(const struct header *header, int p)
{
    bool keys = p == PROJECTION_K || p == PROJECTION_V;
    uint64_t heads = keys ? (uint64_t)header->heads_total * header->kv_heads / header->heads
                          : header->heads_total;
    return header_frame_of(header, header_role_of((enum projection)p)) ? (uint32_t)heads : 0;
}

/* Room for its matrices and its rank. */
static int sketch_reserve(struct sketch *sketch, const struct header *header, uint32_t rank_index)
{
    uint64_t more = 0;
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        uint32_t heads = sketch_heads_of(header, p), known = sketch->matrix[p].heads;
        if (heads && known && heads != known) {
            return ERR_HEADS_CHANGED;
        }
        more += known ? 0 : heads * HEAD_SIZE;
    }
    if (more > 0 && !state_budget_fits(sketch->budget, more)) {
        return ERR_STATE_LIMIT;
    }
    if (rank_index >= sketch->rank_count) {
        uint32_t added = rank_index + 1 - sketch->rank_count;
        uint64_t *seen = realloc(sketch->seen, (rank_index + 1) * sizeof *seen);
        if (!seen) {
            return ERR_MEMORY;
        }
        memset(seen + sketch->rank_count, 0, added * sizeof *seen);
        sketch->seen = seen;
        sketch->rank_count += added;
        sketch_charge(sketch, sketch->bytes + added * sizeof *seen);
    }
    int code = 0;
    for (int p = 0; p < PROJECTION_COUNT && !code; p++) {
        uint32_t heads = sketch_heads_of(header, p);
        if (heads && !sketch->matrix[p].heads) {
            code = sketch_make_matrix(sketch, &sketch->matrix[p], heads);
        }
    }
    return code;
}

static void sketch_begin(struct sketch *sketch)
{
    sketch->is_open = true;
    sketch->captures++;
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        struct sketch_matrix *matrix = &sketch->matrix[p];
        matrix->here = matrix->frozen = false;
        if (matrix->heads) {
            memset(matrix->of[SKETCH_OPEN], 0, matrix->heads * VALUES_SIZE);
        }
    }
}

/* The places of one head that a message has. */
static void sketch_join(struct sketch_values *open, const char *sent, const uint8_t *held)
{
    for (uint32_t i = 0; i < SKETCH_PLACES; i++) {
        float value;
        uint64_t bit = UINT64_C(1) << i;
        memcpy(&value, sent + i * sizeof value, sizeof value);
        if (held && !held[i]) {
            continue;
        }
        if (open->held & bit) {
            bool same = memcmp(&value, &open->place[i], sizeof value) == 0;
            open->differs |= same ? 0 : bit;
        } else {
            open->place[i] = value;
            open->held |= bit;
        }
    }
}

static void sketch_join_matrix(struct sketch_matrix *matrix, const struct header *header, int p,
                               const struct sent_sketch *sent, uint64_t step)
{
    bool keys = p == PROJECTION_K || p == PROJECTION_V;
    uint32_t heads = keys ? header->kv_heads : header->heads;
    uint32_t offset = (uint32_t)((uint64_t)header->head_offset * heads / header->heads);
    matrix->here = true;
    matrix->stored = header->stored_dtype[p];
    matrix->frozen = matrix->frozen || header->frozen[p];
    for (uint32_t h = 0; h < heads; h++) {
        size_t at = (size_t)h * SKETCH_PLACES;
        struct sketch_values *open = &matrix->of[SKETCH_OPEN][offset + h];
        open->step = step;
        sketch_join(open, sent->matrix[p] + at * sizeof(float),
                    sent->held[p] ? sent->held[p] + at : NULL);
    }
}

int sketch_put(struct sketch *sketch, struct message *message)
{
    const struct header *header = &message->header;
    int compared = sketch->captures ? sketch_compare(sketch, header) : 1;
    int code = sketch_reserve(sketch, header, message->rank_index);
    if (code) {
        return code;
    }
    if (compared > 0) {
        sketch_begin(sketch);
    }
    if (compared >= 0) { /* one that is too late is waited for in the next capture all the same */
        sketch->seen[message->rank_index] = sketch->captures;
    }
    if (compared < 0 || !sketch->is_open) {
        return 0;
    }
    struct sent_sketch sent = message_sketch(message);
    sketch->capture = (struct sketch_capture){.epoch = header->epoch,
                                              .step = header->step,
                                              .time_ns = header->time_ns,
                                              .received_ns = message->received_ns,
                                              .rank = header->rank};
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        if (sent.matrix[p]) {
            sketch_join_matrix(&sketch->matrix[p], header, p, &sent, header->step);
        }
    }
    return 0;
}

bool sketch_is_whole(const struct sketch *sketch, uint32_t world)
{
    bool whole = sketch->is_open;
    uint32_t here = 0, missing = 0;
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        const struct sketch_matrix *matrix = &sketch->matrix[p];
        for (uint32_t h = 0; matrix->here && h < matrix->heads && whole; h++) {
            whole = matrix->of[SKETCH_OPEN][h].held == ALL_HELD;
        }
    }
    for (uint32_t i = 0; i < sketch->rank_count && whole; i++) {
        here += sketch->seen[i] == sketch->captures;
        missing += sketch->seen[i] > 0 && sketch->seen[i] + 1 == sketch->captures;
    }
    return whole && (sketch->captures > 1 ? missing == 0 : here >= world);
}

/* Numbers */

/* How a head differs from what it was; NaN: that cannot be told. */
struct sketch_change {
    double moved, cosine;
};

static struct sketch_change sketch_compare_values(const struct sketch_values *now,
                                                  const struct sketch_values *before)
{
    struct sketch_change change = {NAN, NAN};
    double apart = 0, product = 0, own = 0, theirs = 0;
    if (now->held != ALL_HELD || before->held != ALL_HELD) {
        return change;
    }
    for (uint32_t i = 0; i < SKETCH_PLACES; i++) {
        double a = (double)now->place[i], b = (double)before->place[i];
        apart += (a - b) * (a - b);
        product += a * b;
        own += a * a;
        theirs += b * b;
    }
    /* No square of f32 overflows or vanishes in f64. */
    if (isfinite(own) && isfinite(theirs) && theirs > 0) {
        change.moved = sqrt(apart) / sqrt(theirs);
        change.cosine = own > 0 ? product / (sqrt(own) * sqrt(theirs)) : NAN;
    }
    return change;
}

/* Each step is a bijection of the words before it, and of the word: heads that differ in one word
 * never have one hash, others by chance alone, one in 2^64. */
static uint64_t sketch_hash(const struct sketch_values *values)
{
    uint64_t hash = 0x9e3779b97f4a7c15;
    for (uint32_t i = 0; i < SKETCH_PLACES; i += 2) {
        uint64_t word;
        memcpy(&word, &values->place[i], sizeof word);
        hash = (hash ^ word) * 0xbf58476d1ce4e5b9;
        hash ^= hash >> 32;
    }
    return hash;
}

static unsigned sketch_flags(const struct sketch_values *values, bool frozen)
{
    bool finite = true, zero = values->held != 0;
    for (uint32_t i = 0; i < SKETCH_PLACES; i++) { /* 0 where it is not held */
        finite = finite && isfinite(values->place[i]);
        zero = zero && fpclassify(values->place[i]) == FP_ZERO;
    }
    return (finite ? 0u : SKETCH_NOT_FINITE) | (zero ? SKETCH_ALL_ZERO : 0u) |
           (frozen ? SKETCH_FROZEN : 0u) | (values->held == ALL_HELD ? 0u : SKETCH_INCOMPLETE) |
           (values->differs ? SKETCH_RANKS_DIFFER : 0u);
}

static void sketch_put_matrix(struct mpk_writer *writer, const char *name,
                              const struct sketch_matrix *matrix)
{
    const struct sketch_values *now = matrix->of[SKETCH_OPEN], *before = matrix->of[SKETCH_NEWEST];
    mpk_pair_map(writer, name, 4);
    mpk_pair_array(writer, "moved", matrix->heads);
    for (uint32_t h = 0; h < matrix->heads; h++) {
        mpk_put_f64(writer, sketch_compare_values(&now[h], &before[h]).moved);
    }
    mpk_pair_array(writer, "cosine", matrix->heads);
    for (uint32_t h = 0; h < matrix->heads; h++) {
        mpk_put_f64(writer, sketch_compare_values(&now[h], &before[h]).cosine);
    }
    mpk_pair_array(writer, "hash", matrix->heads);
    for (uint32_t h = 0; h < matrix->heads; h++) {
        char text[17];
        snprintf(text, sizeof text, "%016" PRIx64, sketch_hash(&now[h]));
        mpk_put_str(writer, text);
    }
    mpk_pair_array(writer, "flags", matrix->heads);
    for (uint32_t h = 0; h < matrix->heads; h++) {
        mpk_put_u64(writer, sketch_flags(&now[h], matrix->frozen));
    }
}

static void sketch_keep(struct sketch_matrix *matrix)
{
    for (uint32_t h = 0; h < matrix->heads; h++) {
        const struct sketch_values *open = &matrix->of[SKETCH_OPEN][h];
        if (!open->held) {
            continue;
        }
        struct sketch_values *newest = &matrix->of[SKETCH_NEWEST][h];
        if (!newest->held) {
            matrix->of[SKETCH_FIRST][h] = *open;
        } else if (newest->held == open->held &&
                   memcmp(newest->place, open->place, sizeof open->place) != 0) {
            matrix->of[SKETCH_CHANGED][h] = *open;
        }
        *newest = *open;
    }
}

void sketch_finish(struct sketch *sketch, struct mpk_writer *writer)
{
    struct mpk_open map = mpk_open(writer, NULL);
    mpk_pair_u64(writer, "step", sketch->capture.step);
    struct mpk_open stored = mpk_open(writer, "stored");
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        if (sketch->matrix[p].here) {
            mpk_put_str(writer, dtype_name(sketch->matrix[p].stored));
        }
    }
    mpk_close_array(writer, &stored);
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        if (sketch->matrix[p].here) {
            sketch_put_matrix(writer, projection_name[p], &sketch->matrix[p]);
            sketch_keep(&sketch->matrix[p]);
        }
    }
    mpk_close_map(writer, &map);
    sketch->is_open = false;
}

/* Checkpoints */

static const char *const sketch_sets[SKETCH_SETS] = {"first", "newest", "changed", "open"};

/* As a rule all heads have changed last in the newest capture, and none is open. */
static void sketch_pack_matrix(struct mpk_writer *writer, const char *name,
                               const struct sketch_matrix *matrix, bool is_open)
{
    size_t size = matrix->heads * VALUES_SIZE;
    bool is_newest = memcmp(matrix->of[SKETCH_CHANGED], matrix->of[SKETCH_NEWEST], size) == 0;
    mpk_pair_map(writer, name, 6 + SKETCH_SETS);
    mpk_pair_u64(writer, "heads", matrix->heads);
    mpk_pair_u64(writer, "stored", matrix->stored);
    mpk_pair_bool(writer, "here", matrix->here);
    mpk_pair_bool(writer, "frozen", matrix->frozen);
    for (int i = 0; i < SKETCH_SETS; i++) {
        bool left_out = (i == SKETCH_CHANGED && is_newest) || (i == SKETCH_OPEN && !is_open);
        stored_put(writer, sketch_sets[i], left_out ? NULL : matrix->of[i], matrix->heads,
                   VALUES_SIZE);
    }
    stored_put(writer, "median", &matrix->median, 1, sizeof matrix->median);
    stored_put(writer, "usual", matrix->usual, 2 * (uint64_t)matrix->heads, sizeof(float));
}

int sketch_pack(const struct sketch *sketch, struct mpk_writer *writer)
{
    struct mpk_open map = mpk_open(writer, NULL);
    stored_put(writer, "capture", &sketch->capture, 1, sizeof sketch->capture);
    mpk_pair_bool(writer, "is_open", sketch->is_open);
    mpk_pair_u64(writer, "captures", sketch->captures);
    mpk_pair_u64(writer, "ranks", sketch->rank_count);
    stored_put(writer, "seen", sketch->seen, sketch->rank_count, sizeof *sketch->seen);
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        if (sketch->matrix[p].heads) {
            sketch_pack_matrix(writer, projection_name[p], &sketch->matrix[p], sketch->is_open);
        }
    }
    mpk_close_map(writer, &map);
    return mpk_writer_ok(writer) ? 0 : ERR_MEMORY;
}

/* The sets are as long as `heads` says, which is no more than there are bytes; of those that are
 * nil the last that changed is the newest, and the open one has nothing. */
static int sketch_unpack_matrix(struct sketch *sketch, const msgpack_object *map,
                                struct sketch_matrix *matrix)
{
    struct stored in = {map, 0};
    uint32_t heads = 0, stored = 0;
    stored_u32(&in, "heads", HEADS_MAX, &heads);
    stored_u32(&in, "stored", DTYPE_F64, &stored);
    stored_bool(&in, "here", &matrix->here);
    stored_bool(&in, "frozen", &matrix->frozen);
    for (int i = 0; i < SKETCH_SETS; i++) {
        stored_copy(&in, sketch_sets[i], heads, VALUES_SIZE, &matrix->of[i]);
    }
    if (in.code || heads == 0 || !matrix->of[SKETCH_FIRST] || !matrix->of[SKETCH_NEWEST]) {
        return in.code ? in.code : ERR_STORE_FORMAT;
    }
    matrix->stored = (enum dtype)stored;
    bool is_newest = !matrix->of[SKETCH_CHANGED];
    int code = sketch_make_matrix(sketch, matrix, heads);
    if (!code && is_newest) {
        memcpy(matrix->of[SKETCH_CHANGED], matrix->of[SKETCH_NEWEST], heads * VALUES_SIZE);
    }
    if (!code) { /* and replaced, behind it */
        stored_fill(&in, "median", &matrix->median, sizeof matrix->median);
        stored_fill(&in, "usual", matrix->usual, 2 * heads * sizeof(float));
        code = in.code;
    }
    return code;
}

static int sketch_read(struct sketch *sketch, const msgpack_object *root)
{
    struct stored in = {root, 0};
    stored_fill(&in, "capture", &sketch->capture, sizeof sketch->capture);
    stored_bool(&in, "is_open", &sketch->is_open);
    stored_u64(&in, "captures", COUNT_MAX, &sketch->captures);
    stored_u32(&in, "ranks", WORLD_MAX, &sketch->rank_count);
    stored_copy(&in, "seen", sketch->rank_count, sizeof *sketch->seen, &sketch->seen);
    sketch->rank_count = sketch->seen ? sketch->rank_count : 0;
    sketch_charge(sketch, sketch->rank_count * sizeof *sketch->seen);
    for (int p = 0; p < PROJECTION_COUNT && !in.code; p++) {
        const msgpack_object *map = mpk_find(root, projection_name[p]);
        in.code = map ? sketch_unpack_matrix(sketch, map, &sketch->matrix[p]) : 0;
    }
    return in.code;
}

int sketch_unpack(const void *data, size_t size, struct state_budget *budget,
                  struct sketch **ret_sketch)
{
    struct mpk_doc doc;
    struct sketch *sketch = sketch_new(budget);
    int code = sketch ? mpk_parse(data, size, &stored_limits, &doc) : ERR_MEMORY;
    if (!code) {
        code = sketch_read(sketch, doc.root);
        mpk_doc_clear(&doc);
    }
    if (code) {
        sketch_free(&sketch);
        return code == ERR_MEMORY ? code : ERR_STORE_FORMAT;
    }
    *ret_sketch = sketch;
    return 0;
}

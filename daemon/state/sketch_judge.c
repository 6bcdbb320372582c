/* SPDX-License-Identifier: MIT */
/* Two captures of a head differ by a factor, which weight decay alone takes, and by an angle: what
 * is left when the factor is taken out is how far the head has turned. An optimizer turns all heads
 * of a model by much the same, from one capture to the next, whatever the learning rate is then; so
 * each head is compared with the median of the model, and with its own past relative to that. */
#include "daemon/state/sketch_judge.h"

#include "proto/err.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A step rounds each place once, and roundings add up as their root does; beyond so many of them a
 * head has turned. */
#define ROUNDINGS 4.0
/* By so much more has the median head turned, where a head of which only rounding is left counts
 * as still. */
#define MEDIAN_MOVES 100.0
/* A matrix that is replaced has a cosine below that to what it was, and it has turned so
 * many times as far as ever, by the median. The first captures tell nothing: weights are small. */
#define COSINE_REPLACED 0.5
#define JUMP_REPLACED   10.0F
#define CAPTURES_FIRST  5
/* The share that is left in each capture, of how far a head turned at most, and of that it was
 * replaced. */
#define USUAL_LEFT    0.98F
#define REPLACED_LEFT 0.95F

static double rounding_of(enum dtype stored)
{
    return stored == DTYPE_BF16 ? 0x1p-8 : stored == DTYPE_F16 ? 0x1p-11 : 0x1p-24;
}

static bool is_same(const struct sketch_values *now, const struct sketch_values *before)
{
    return memcmp(now->place, before->place, sizeof now->place) == 0;
}

/* NaN: that cannot be told. */
static float turned(const struct sketch_values *now, const struct sketch_values *before)
{
    double product = 0, theirs = 0, apart = 0;
    if (now->held != UINT64_MAX || before->held != UINT64_MAX) {
        return NAN;
    }
    for (uint32_t i = 0; i < SKETCH_PLACES; i++) {
        product += (double)now->place[i] * (double)before->place[i];
        theirs += (double)before->place[i] * (double)before->place[i];
    }
    if (!isfinite(product) || !isfinite(theirs) || theirs == 0) {
        return NAN;
    }
    for (uint32_t i = 0; i < SKETCH_PLACES; i++) {
        double rest = (double)now->place[i] - product / theirs * (double)before->place[i];
        apart += rest * rest;
    }
    return (float)(sqrt(apart) / sqrt(theirs));
}

static int compare_floats(const void *a, const void *b)
{
    float one = *(const float *)a, other = *(const float *)b;
    return (one > other) - (one < other);
}

struct sketch_median sketch_median_of(float *values, uint32_t count)
{
    uint32_t known = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (!isnan(values[i])) {
            values[known++] = values[i];
        }
    }
    qsort(values, known, sizeof *values, compare_floats);
    return known ? (struct sketch_median){values[(known - 1) / 2], values[known / 2]}
                 : (struct sketch_median){NAN, NAN};
}

int sketch_measure(struct sketch *sketch)
{
    uint32_t most = 0;
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        most = sketch->matrix[p].heads > most ? sketch->matrix[p].heads : most;
    }
    float *room = malloc((most + 1) * sizeof *room);
    for (int p = 0; p < PROJECTION_COUNT && room; p++) {
        struct sketch_matrix *matrix = &sketch->matrix[p];
        bool moves = matrix->here && !matrix->frozen;
        for (uint32_t h = 0; h < matrix->heads; h++) {
            matrix->turned[h] =
                moves ? turned(&matrix->of[SKETCH_OPEN][h], &matrix->of[SKETCH_NEWEST][h]) : NAN;
            room[h] = matrix->turned[h];
        }
        matrix->median = matrix->here ? sketch_median_of(room, matrix->heads) : matrix->median;
    }
    free(room);
    return room ? 0 : ERR_MEMORY;
}

/* Where no matrix of the model moves it is not trained, as one that is looked at: nothing is still
 * that should move. */
static bool model_moves(const struct sketch_median median[PROJECTION_COUNT])
{
    bool moves = false;
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        moves = moves || median[p].high > 0;
    }
    return moves;
}

static double is_still(const struct sketch_matrix *matrix, uint32_t head, float median)
{
    const struct sketch_values *now = &matrix->of[SKETCH_OPEN][head],
                               *before = &matrix->of[SKETCH_NEWEST][head];
    if (matrix->frozen || now->held != UINT64_MAX || before->held != UINT64_MAX) {
        return NAN;
    }
    double steps = now->step > before->step ? (double)(now->step - before->step) : 1;
    double rounding = ROUNDINGS * rounding_of(matrix->stored) * sqrt(steps);
    bool rounded =
        (double)matrix->turned[head] <= rounding && (double)median >= MEDIAN_MOVES * rounding;
    return is_same(now, before) || rounded;
}

/* Whether it was replaced, now or not long ago. */
static double replaced(struct sketch_matrix *matrix, uint32_t head, float median, bool is_first)
{
    const struct sketch_values *now = &matrix->of[SKETCH_OPEN][head],
                               *before = &matrix->of[SKETCH_NEWEST][head];
    float by_median = matrix->turned[head] / median, *usual = &matrix->usual[head];
    if (!isfinite(by_median)) {
        return NAN;
    }
    double product = 0, own = 0, theirs = 0;
    for (uint32_t i = 0; i < SKETCH_PLACES; i++) {
        product += (double)now->place[i] * (double)before->place[i];
        own += (double)now->place[i] * (double)now->place[i];
        theirs += (double)before->place[i] * (double)before->place[i];
    }
    bool points_elsewhere = own > 0 && product < COSINE_REPLACED * sqrt(own) * sqrt(theirs);
    bool jumps = by_median > JUMP_REPLACED * *usual;
    matrix->replaced[head] *= REPLACED_LEFT;
    if (points_elsewhere && jumps && !is_first) {
        matrix->replaced[head] = 1;
    } else {
        *usual = fmaxf(USUAL_LEFT * *usual, by_median);
    }
    return (double)matrix->replaced[head];
}

/* Takes a number of one matrix of a head in: the largest counts. */
static void sketch_note(const struct sketch_judged *judged, enum sketch_fault fault, uint32_t head,
                        int p, double value)
{
    double *known = &judged->fault[fault][head];
    if (isnan(*known) || value > *known) {
        *known = value;
        judged->matrix[fault][head] = p;
    }
}

static void sketch_judge_matrix(struct sketch *sketch, int p, struct sketch_median median,
                                bool moves, const struct sketch_judged *judged)
{
    struct sketch_matrix *matrix = &sketch->matrix[p];
    bool is_first = sketch->captures < CAPTURES_FIRST;
    for (uint32_t m = 0; m < matrix->heads; m++) {
        const struct sketch_values *now = &matrix->of[SKETCH_OPEN][m];
        double invalid = 0, still = moves ? is_still(matrix, m, median.high) : NAN;
        double elsewhere = replaced(matrix, m, median.low, is_first);
        for (uint32_t i = 0; i < SKETCH_PLACES; i++) { /* 0 where it is not held */
            invalid = isfinite(now->place[i]) ? invalid : 1;
        }
        /* The query heads that share a key head. */
        uint32_t each = judged->heads / matrix->heads;
        for (uint32_t h = m * each; h < (m + 1) * each && now->held; h++) {
            sketch_note(judged, SKETCH_FAULT_INVALID, h, p, invalid);
            sketch_note(judged, SKETCH_FAULT_STILL, h, p, still);
            sketch_note(judged, SKETCH_FAULT_REPLACED, h, p, elsewhere);
        }
    }
}

/* The share of the heads of all matrices of which two ranks have other bits. */
static double sketch_apart(const struct sketch *sketch)
{
    uint32_t heads = 0, apart = 0, ranks = 0;
    for (uint32_t i = 0; i < sketch->rank_count; i++) {
        ranks += sketch->seen[i] == sketch->captures;
    }
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        const struct sketch_matrix *matrix = &sketch->matrix[p];
        for (uint32_t h = 0; h < matrix->heads && matrix->here; h++) {
            heads++;
            apart += matrix->of[SKETCH_OPEN][h].differs != 0;
        }
    }
    return heads && ranks > 1 ? (double)apart / heads : NAN;
}

int sketch_judge(struct sketch *sketch, const struct sketch_median median[PROJECTION_COUNT],
                 struct sketch_judged *ret_judged)
{
    uint32_t heads = 0;
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        heads = sketch->matrix[p].heads > heads ? sketch->matrix[p].heads : heads;
    }
    size_t all = SKETCH_FAULTS * (size_t)heads;
    double *block = malloc(all * (sizeof(double) + sizeof(int32_t)) + 1);
    if (!block) {
        return ERR_MEMORY;
    }
    *ret_judged = (struct sketch_judged){.heads = heads, .apart = sketch_apart(sketch)};
    for (size_t i = 0; i < all; i++) {
        block[i] = NAN;
    }
    for (int f = 0; f < SKETCH_FAULTS; f++) {
        ret_judged->fault[f] = block + (size_t)f * heads;
        ret_judged->matrix[f] = (int32_t *)(block + all) + (size_t)f * heads;
    }
    memset(block + all, 0, all * sizeof(int32_t));
    const bool moves = model_moves(median);
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        if (sketch->matrix[p].here) {
            sketch_judge_matrix(sketch, p, median[p], moves, ret_judged);
        }
    }
    return 0;
}

void sketch_judged_clear(struct sketch_judged *judged)
{
    free(judged->fault[0]);
    *judged = (struct sketch_judged){.heads = 0};
}

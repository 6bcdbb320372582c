/* SPDX-License-Identifier: MIT */
/* The loss is the first of loss_names that a training logs, of the rank that logs it first.
 * Rewards, losses of an evaluation, and parts of a sum have other names.
 *
 * Its curve is a running median (Tukey 1977) over the newest 1/8 of the values, 16 to 128: outliers
 * do not move it, and as values come it is smoothed over more of them. The quartiles of the same
 * values tell whether the loss stays: it is up when three of four values are.
 *
 * How far a loss is up is measured by the longest way down that its curve has gone, not by its
 * value: losses may be negative, or near 0. A curve whose way down was not 10 of its spreads has
 * little to lose, and is measured by 200 spreads: a training that explodes from the start. Three
 * things keep healthy losses apart, and let a fault pass that is like them:
 * - The best level is forgotten within a quarter of the values, and so are levels that rise as
 *   slowly as those of GANs, critics and self-distillation.
 * - The spread is that of values around the level, its slope taken out, or twice that of the level
 *   above its own slow mean, whichever is more: what has wandered before may do so again.
 * - A loss that is up and falls is one that learns: other data, a restart of the learning rate, a
 *   spike on its way back. It is not known what it is until it stays, unless it is above where it
 *   began: so high are no data that a model learns.
 * Spread and best level stay as they are while the loss is up.
 *
 * Bounds were chosen on synthetic curves of 21 healthy kinds and 6 sick ones
 * (tests/verdict/losses.py); README.md has what became of them on others. A loss that is flat is
 * not told: a healthy one is flat for most of a run, and whether its level is high nobody knows but
 * who trains. */
#include "daemon/alerts/loss.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const loss_names[] = {"loss", "train_loss", "train/loss"};
#define LOSS_NAMES (sizeof loss_names / sizeof loss_names[0])

_Static_assert(sizeof(struct loss) == (21 + LOSS_KEPT) * sizeof(uint64_t), "without a hole");

#define LENGTH_SHARE 8 /* the median is of this part of the values */
#define LENGTH_LEAST 16
#define BEST_SHARE   4.0 /* the best and the spread are means over this part */
#define SLOW_SHARE   8.0
#define FIRST_KNOWN  32 /* values before which nothing is said */
#define SPREADS_FELL 10 /* of the way down, or else it is measured by */
#define SPREADS_MOST 200
#define SPREADS_UP   4      /* above the best it is up, */
#define SHARE_UP     0.15   /* and by this share of the way down */
#define SIGMA_OF_MAD 1.4826 /* of a normal distribution: its deviation over the median one, */
#define SIGMA_OF_UP  2.5066 /* and over the mean of what is above the mean, else 0 */
#define LARGEST      1e300  /* values beyond it count as this much, so that no sum overflows */

/* A curve begins: nothing is known of it. */
static void loss_begin(struct loss *loss, uint64_t series, uint64_t rank)
{
    *loss = (struct loss){.series = series, .rank = rank, .ill = LOSS_NEVER, .risen = NAN};
}

void loss_init(struct loss *loss)
{
    loss_begin(loss, LOSS_NONE, 0);
}

static int loss_compare(const void *a, const void *b)
{
    double one = *(const double *)a, other = *(const double *)b;
    return one < other ? -1 : one > other;
}

/* The lower one of two. */
static double loss_median(const double *values, uint32_t count)
{
    double sorted[LOSS_KEPT];
    memcpy(sorted, values, count * sizeof *values);
    qsort(sorted, count, sizeof *sorted, loss_compare);
    return sorted[(count - 1) / 2];
}

/* The deviation of values around the line through the medians of their halves. */
static double loss_spread(const double *values, uint32_t count)
{
    double off[LOSS_KEPT];
    uint32_t half = count / 2;
    double old = loss_median(values, half), new = loss_median(values + count - half, half);
    for (uint32_t i = 0; i < count; i++) {
        double at = (i - (count - 1) / 2.0) / (count - half);
        off[i] = fabs(values[i] - (old + new) / 2 - (new - old) * at);
    }
    return SIGMA_OF_MAD * loss_median(off, count);
}

/* Whether values of which three of four are up have come down since they are. Noise makes this true
 * of every second look at a loss that stays, and so costs some looks. */
static bool loss_falls(const double *values, uint32_t count)
{
    uint32_t third = count * 3 / 4 / 2;
    return loss_median(values + count - third, third) <
           loss_median(values + count - count * 3 / 4, third);
}

/* Follows the curve. Returns loss_risen. */
static double loss_follow(struct loss *loss, double value)
{
    double newest[LOSS_KEPT], sorted[LOSS_KEPT];
    loss->kept[loss->count++ % LOSS_KEPT] = fmax(-LARGEST, fmin(LARGEST, value));
    uint64_t part = loss->count / LENGTH_SHARE;
    uint32_t length = part > LOSS_KEPT      ? LOSS_KEPT
                      : part < LENGTH_LEAST ? LENGTH_LEAST
                                            : (uint32_t)part;
    if (loss->count < LENGTH_LEAST) {
        return NAN;
    }
    for (uint32_t i = 0; i < length; i++) {
        newest[i] = loss->kept[(loss->count - length + i) % LOSS_KEPT];
    }
    memcpy(sorted, newest, length * sizeof *newest);
    qsort(sorted, length, sizeof *sorted, loss_compare);
    double low = sorted[(length - 1) / 4], high = sorted[length - 1 - (length - 1) / 4];
    double spread_now = loss_spread(newest, length);
    loss->level = sorted[(length - 1) / 2];
    if (loss->count == LENGTH_LEAST) {
        loss->lowest = loss->best = loss->slow = loss->level;
        loss->top = fmax(loss->level, loss_median(newest, length / 2));
        loss->spread = spread_now;
    }
    if (loss->level <= loss->lowest) {
        loss->lowest = loss->level;
        loss->lowest_step = loss->step;
    }
    loss->best = fmin(loss->best, loss->level);
    loss->fallen = fmax(loss->fallen, loss->top - loss->level);
    double spread = fmax(loss->spread, loss->wander);
    bool fell = loss->fallen > 0 && loss->fallen >= SPREADS_FELL * spread;
    double way = fell ? loss->fallen : SPREADS_MOST * spread;
    double up = fmax(SPREADS_UP * spread, SHARE_UP * way);
    bool first = loss->count < FIRST_KNOWN,
         near = first || high <= loss->best + SPREADS_UP * spread;
    bool calm = near || (fell && high <= loss->best + up);
    if (near) {
        double pace = fmax(4, (double)loss->count / BEST_SHARE);
        loss->spread += (spread_now - loss->spread) / pace;
        loss->wander += (SIGMA_OF_UP * fmax(0, loss->level - loss->slow) - loss->wander) / pace;
    }
    if (calm || !fell) {
        loss->best += (loss->level - loss->best) / fmax(4, (double)loss->count / BEST_SHARE);
        loss->slow += (loss->level - loss->slow) / fmax(4, (double)loss->count / SLOW_SHARE);
        loss->top = fmax(loss->top, loss->level);
    }
    if (first) {
        return NAN;
    }
    if (calm || way <= 0 || loss->level <= loss->best + up) {
        return 0;
    }
    bool falls = low <= loss->top && loss_falls(newest, length);
    return falls || low <= loss->best + up ? NAN : fmin(LARGEST, (low - loss->best) / way);
}

/* Where it was well. One value near the best among others that are not is a low one of them. */
static void loss_note(struct loss *loss, double value)
{
    double spread = fmax(loss->spread, loss->wander);
    double up = fmax(SPREADS_UP * spread, SHARE_UP * loss->fallen);
    bool near = loss->count < FIRST_KNOWN || value <= loss->best + up;
    if (near && (loss->near || loss->count < FIRST_KNOWN)) {
        loss->well = loss->step;
        loss->ill = LOSS_NEVER;
    } else if (!near && loss->ill == LOSS_NEVER) {
        loss->ill = loss->step;
    }
    loss->near = near;
}

bool loss_take(struct loss *loss, uint32_t rank, const struct result_common *at,
               const struct named_values *values)
{
    const struct named_value *found = NULL;
    uint64_t series = LOSS_NONE;
    for (uint64_t i = 0; i < LOSS_NAMES && i <= loss->series && !found; i++) {
        for (uint32_t v = 0; v < values->count && !found; v++) {
            found = strcmp(values->list[v].name, loss_names[i]) == 0 ? &values->list[v] : NULL;
            series = found ? i : series;
        }
    }
    if (!found || (series == loss->series && rank != loss->rank)) {
        return false;
    }
    bool back = loss->epoch != at->epoch ? at->epoch < loss->epoch : at->step < loss->step;
    bool new = loss->epoch != at->epoch ? at->epoch > loss->epoch : at->step > loss->step;
    if (series != loss->series) {
        loss_begin(loss, series, rank);
    } else if (!new && at->time_ns <= loss->time_ns) {
        return false;  /* it comes again, after attnd has lost what it had not kept */
    } else if (back) { /* the training goes on from a checkpoint */
        loss_begin(loss, series, rank);
    }
    loss->time_ns = at->time_ns;
    loss->epoch = at->epoch;
    loss->step = at->step;
    bool finite = found->kind == NAMED_NUMBER && isfinite(found->number);
    loss->logged++;
    loss->broken = loss->broken << 1 | !finite;
    if (finite) {
        loss->risen = loss_follow(loss, found->number);
        loss_note(loss, found->number);
    }
    return true;
}

double loss_broken(const struct loss *loss)
{
    uint64_t of = loss->logged < LOSS_LOGGED ? loss->logged : LOSS_LOGGED;
    uint64_t bits = loss->broken & ((UINT64_C(1) << LOSS_LOGGED) - 1);
    return of > 0 ? (double)__builtin_popcountll(bits) / (double)of : NAN;
}

bool loss_stays_broken(const struct loss *loss)
{
    uint64_t bits = loss->broken & ((UINT64_C(1) << LOSS_LOGGED) - 1);
    return (bits & 1) && (bits & (bits + 1)) == 0;
}

const char *loss_name(const struct loss *loss)
{
    return loss->series < LOSS_NAMES ? loss_names[loss->series] : "";
}

bool loss_is_sound(const struct loss *loss)
{
    const double *number[] = {&loss->level,  &loss->lowest, &loss->top,  &loss->best,
                              &loss->fallen, &loss->spread, &loss->slow, &loss->wander};
    bool sound =
        (loss->series < LOSS_NAMES || loss->series == LOSS_NONE) && loss->rank <= UINT32_MAX;
    for (size_t i = 0; i < sizeof number / sizeof number[0]; i++) {
        sound = sound && fabs(*number[i]) <= 1e3 * LARGEST;
    }
    for (int i = 0; i < LOSS_KEPT; i++) {
        sound = sound && fabs(loss->kept[i]) <= LARGEST;
    }
    return sound;
}

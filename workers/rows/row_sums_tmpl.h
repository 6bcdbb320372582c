/* SPDX-License-Identifier: MIT */
/* row_sums_tmpl: sums of rows, judged and scaled sixteen at a time, a template over simd.h. Places
 * are integers throughout, so that positions beyond 2^24 are told apart. */
#ifndef WORKERS_ROWS_ROW_SUMS_TMPL_H
#define WORKERS_ROWS_ROW_SUMS_TMPL_H

#include "workers/rows/row_sums_internal.h"
#include "workers/simd/math.h"

#include <float.h>

/* SIMD_WIDTH rows from slot `s`. */
struct sums_slots {
    const struct row_rules *rules;
    const struct row_chunk *chunk;
    uint32_t from, s; /* of the chunk's rows the first one, and the slot after that */
    vi position, apart, document;
    vf with_first, seen, farthest, gap;
    vf share, one, unit, first, log_z, z, fall, fall_first, total;
    vm is_first, has_rest;
};

SIMD_INLINE vf sums_load(const struct sums_slots *r, enum row_sum sum)
{
    return v_load(r->chunk->sum[sum] + r->from + r->s);
}

SIMD_INLINE vi sums_place(const struct sums_slots *r, enum row_place place)
{
    return v_load_i(r->chunk->place[place] + r->from + r->s);
}

SIMD_INLINE vm v_within(vf x, vf least, vf most)
{
    return v_and(v_less_equal(least, x), v_less_equal(x, most));
}

/* Numbers below INT32_MAX. */
SIMD_INLINE vm v_within_i(vi x, vi least, vi most)
{
    return v_and(v_less_i(v_sub_i(least, v_set_i(1)), x), v_less_i(x, v_add_i(most, v_set_i(1))));
}

/* Toward 0, of numbers up to 2^30. */
SIMD_INLINE vi v_whole(vf x)
{
    return v_truncate(v_min(v_max(x, v_set(-0x1p30f)), v_set(0x1p30f)));
}

SIMD_INLINE vm v_is_count(vf x, vf most)
{
    vf whole = v_convert(v_whole(x));
    return v_and(v_within(x, v_set(0), most), v_within(x, whole, whole));
}

/* A place that may be anything, to be reckoned with: nothing that is done with it overflows. */
SIMD_INLINE vi v_sane_i(vi x)
{
    return v_min_i(v_max_i(x, v_set_i(-1)), v_set_i(INT32_MAX - 1));
}

/* Where the rows are, by places and sums. */
SIMD_INLINE void sums_find(struct sums_slots *r)
{
    const struct row_rules *rules = r->rules;
    vi place = v_sane_i(sums_place(r, ROW_PLACE_FIRST)), zero = v_set_i(0), one = v_set_i(1);
    vf apart = sums_load(r, ROW_SUM_APART);
    vm is_later = v_less(apart, v_set(0)), untold = v_less_i(place, zero);
    vi key = v_whole(apart);
    key = v_sane_i(v_select_i(is_later, v_sub_i(v_set_i(-1), key), key));
    r->position = v_sane_i(sums_place(r, ROW_PLACE_POSITION));
    r->apart = rules->has_apart ? key : place;
    r->document = v_select_i(untold, v_select_i(is_later, v_sub_i(key, one), key), place);
    vi with_first =
        v_select_i(untold, v_select_i(is_later, zero, one), sums_place(r, ROW_PLACE_WITH_FIRST));
    r->with_first =
        rules->has_with_first ? sums_load(r, ROW_SUM_WITH_FIRST) : v_convert(with_first);
    r->seen =
        rules->has_seen ? sums_load(r, ROW_SUM_SEEN) : v_convert(sums_place(r, ROW_PLACE_SEEN));
    r->farthest = rules->has_farthest ? sums_load(r, ROW_SUM_FARTHEST)
                                      : v_convert(sums_place(r, ROW_PLACE_FARTHEST));
    vi off = v_sub_i(r->position, r->apart);
    r->gap = v_convert(v_max_i(off, v_sub_i(zero, off)));
    r->is_first = v_within_i(r->apart, r->document, r->document);
}

/* The rows of which everything is in order; some that are may not be among them. */
SIMD_INLINE vm sums_in_order(const struct sums_slots *r)
{
    static const enum row_sum shares[] = {
        ROW_SUM_LOCAL,   ROW_SUM_SQUARE,  ROW_SUM_POWER_3, ROW_SUM_POWER_4,   ROW_SUM_POWER_5,
        ROW_SUM_POWER_6, ROW_SUM_POWER_7, ROW_SUM_TOP,     ROW_SUM_DUPLICATE, ROW_SUM_INDUCTION};
    const struct row_rules *rules = r->rules;
    vi zero = v_set_i(0), last = v_set_i(rules->keys - 1), any = v_set_i(INT32_MAX - 1);
    vf keys = v_set((float)rules->keys), none = v_set(0);
    vf largest = sums_load(r, ROW_SUM_LARGEST), total = sums_load(r, ROW_SUM_TOTAL);
    vf slack = v_fma(v_abs(largest), v_set(0x1p-16f), v_set(1.01f));
    vf most = v_mul(total, slack), weighted = sums_load(r, ROW_SUM_WEIGHTED);
    vm good = v_within_i(sums_place(r, ROW_PLACE_VALID), v_set_i(1), v_set_i(1));
    good = v_and(good, v_within_i(sums_place(r, ROW_PLACE_POSITION), zero, any));
    good = v_and(good, v_within_i(sums_place(r, ROW_PLACE_POSITIONS), zero, any));
    good = v_and(
        good, v_within_i(sums_place(r, ROW_PLACE_FIRST), v_set_i(rules->has_apart ? -1 : 0), last));
    good = v_and(good, v_within_i(sums_place(r, ROW_PLACE_WITH_FIRST), zero, v_set_i(1)));
    good = v_and(good, v_within_i(sums_place(r, ROW_PLACE_SEEN), zero, v_set_i(rules->keys)));
    good = v_and(good, v_within_i(sums_place(r, ROW_PLACE_FARTHEST), zero, any));
    good = v_and(
        good, v_within_i(sums_place(r, ROW_PLACE_OCCURRENCE), zero, v_set_i(ROW_OCCURRENCE_ALL)));
    good = v_and(good, v_within_i(r->apart, zero, last));
    good = v_and(good, v_is_count(v_abs(sums_load(r, ROW_SUM_APART)), keys));
    good = v_and(good, v_and(v_less(none, r->seen), v_is_count(sums_load(r, ROW_SUM_SEEN), keys)));
    good = v_and(good, v_is_count(sums_load(r, ROW_SUM_WITH_FIRST), v_set(1)));
    good = v_and(good, v_is_count(sums_load(r, ROW_SUM_FARTHEST), v_set(0x1p30f)));
    good = v_and(good, v_is_count(sums_load(r, ROW_SUM_FINITE), keys));
    good = v_and(good, v_is_count(sums_load(r, ROW_SUM_COSINE_COUNT), keys));
    good = v_and(good, v_less_equal(v_abs(largest), v_set(FLT_MAX)));
    good = v_and(good, v_less_equal(sums_load(r, ROW_SUM_FIRST), v_set(FLT_MAX)));
    good = v_and(good, v_within(total, v_set(0.99f), v_mul(keys, v_set(1.01f))));
    good = v_and(good, v_within(weighted, v_mul(keys, v_set(-0.4f)), v_mul(total, v_set(1e-4f))));
    good = v_and(good, v_within(sums_load(r, ROW_SUM_DISTANCE), none, v_mul(most, r->farthest)));
    good = v_and(good, v_less_equal(sums_load(r, ROW_SUM_TOP), v_set(8.08f)));
    good = v_and(good, v_within(sums_load(r, ROW_SUM_EIGHTH), none, v_set(1.01f)));
    for (size_t i = 0; i < sizeof shares / sizeof shares[0]; i++) {
        good = v_and(good, v_within(sums_load(r, shares[i]), none, most));
    }
    vf near = v_add(v_fma(v_abs(largest), v_set(0x1p-7f), largest), v_set(1));
    good = v_and(good, v_less_equal(sums_load(r, ROW_SUM_PREVIOUS), near));
    good = v_and(good, v_less_equal(sums_load(r, ROW_SUM_OWN), near));
    return v_and(good, v_less_equal(sums_load(r, ROW_SUM_NEXT), near));
}

/* e^x, 0 where x is below -87. */
SIMD_INLINE vf v_exp_or_0(vf x)
{
    return v_select(v_less_equal(v_set(-87), x), v_exp(x), v_set(0));
}

/* Sums over the rest are multiplied by `unit`; where there is no rest they may be anything. */
SIMD_INLINE vf sums_scaled(const struct sums_slots *r, enum row_sum sum)
{
    return v_select(r->has_rest, v_mul(r->unit, sums_load(r, sum)), v_set(0));
}

SIMD_INLINE void sums_scale(struct sums_slots *r, struct row_scaled *scaled)
{
    bool as_sent = r->rules->as_sent;
    vf largest = sums_load(r, ROW_SUM_LARGEST), first = sums_load(r, ROW_SUM_FIRST);
    vf top = as_sent ? v_set(0) : v_max(largest, first), zero = v_set(0);
    top = v_select(v_less_equal(v_set(-FLT_MAX), top), top, zero);
    r->fall = v_sub(largest, top);
    r->fall_first = v_sub(first, top);
    r->share = v_exp_or_0(r->fall);
    r->one = v_exp_or_0(r->fall_first);
    r->has_rest = v_less(zero, r->share);
    r->total = v_select(r->has_rest, sums_load(r, ROW_SUM_TOTAL), zero);
    vf sum = v_fma(r->share, r->total, r->one);
    r->z = as_sent ? v_set(1) : sum;
    r->log_z = as_sent ? zero : v_ln(v_max(sum, v_set(FLT_MIN)));
    r->unit = v_div(r->share, r->z);
    r->first = v_div(r->one, r->z);
    v_store(scaled->top + r->s, top);
    v_store(scaled->z + r->s, r->z);
    v_store(scaled->log_z + r->s, r->log_z);
    v_store(scaled->unit + r->s, r->unit);
    v_store(scaled->first + r->s, r->first);
    v_store(scaled->seen + r->s, r->seen);
    v_store(scaled->sum + r->s, as_sent ? sum : v_fma(r->unit, r->total, r->first));
    v_store(scaled->square + r->s,
            v_fma(r->first, r->first, v_mul(r->unit, sums_scaled(r, ROW_SUM_SQUARE))));
    vf least = v_div(v_exp_or_0(v_sub(sums_load(r, ROW_SUM_SMALLEST), top)), r->z);
    least = v_select(v_less(sums_load(r, ROW_SUM_FINITE), r->seen), zero, least);
    v_store(scaled->least + r->s, v_min(least, v_max(r->unit, r->first)));
    v_store(scaled->most + r->s, v_max(r->unit, r->first));
}

/* The first key and all others: the key apart may be either. */
SIMD_INLINE void sums_put_rest(const struct sums_slots *r, struct row_batch *b)
{
    vf zero = v_set(0), weighted = v_select(r->has_rest, sums_load(r, ROW_SUM_WEIGHTED), zero);
    vf fall = v_select(r->has_rest, r->fall, zero);
    vf fall_first = v_select(v_less(zero, r->one), r->fall_first, zero);
    vf rest = v_mul(r->unit, r->total);
    vf plogp = v_mul(r->unit, v_fma(v_sub(fall, r->log_z), r->total, weighted));
    vf own = v_mul(r->first, v_sub(fall_first, r->log_z));
    vf all_sum = v_fma(r->share, r->total, r->one);
    vf all_plogp = v_fma(r->share, v_fma(fall, r->total, weighted), v_mul(r->one, fall_first));
    vm some = v_less(v_set(ROW_SUMS_FALL_LEAST), r->fall);
    vf unit_sum = v_select(some, sums_load(r, ROW_SUM_TOTAL), zero);
    vf first = v_select(r->is_first, r->first, zero);
    vm is_after = v_less_i(r->document, r->position);
    v_store(b->keys + r->s, r->seen);
    v_store(b->rest_keys + r->s, v_sub(r->seen, r->with_first));
    v_store(b->rest_sum + r->s, v_select(r->is_first, rest, v_add(rest, r->first)));
    v_store(b->rest_plogp + r->s, v_select(r->is_first, plogp, v_add(plogp, own)));
    v_store(b->first + r->s, first);
    v_store(b->unit_sum + r->s, v_select(r->is_first, unit_sum, all_sum));
    v_store(b->unit_plogp + r->s, v_select(r->is_first, sums_load(r, ROW_SUM_WEIGHTED), all_plogp));
    v_store(b->first_token + r->s, v_where(is_after, first));
}

SIMD_INLINE void sums_put_sums(const struct sums_slots *r, struct row_batch *b)
{
    vf zero = v_set(0), one = v_set(1), most = v_max(r->unit, r->first);
    vf top = v_add(sums_scaled(r, ROW_SUM_TOP), r->first);
    top = v_sub(top, v_min(sums_scaled(r, ROW_SUM_EIGHTH), r->first));
    if (!r->rules->as_sent) {
        most = v_min(most, one);
        top = v_select(v_less_equal(r->seen, v_set(8)), one, v_min(top, one));
    }
    vm is_near = v_less_equal(r->gap, v_set(r->rules->local_window));
    v_store(b->squares + r->s, zero); /* own_entries */
    v_store(b->min + r->s, zero);
    v_store(b->max + r->s, most);
    v_store(b->top + r->s, top);
    v_store(b->distance + r->s, v_fma(r->first, r->gap, sums_scaled(r, ROW_SUM_DISTANCE)));
    v_store(b->largest_distance + r->s, r->farthest);
    v_store(b->local_mass + r->s,
            v_add(sums_scaled(r, ROW_SUM_LOCAL), v_select(is_near, r->first, zero)));
}

/* A[i, p + step] */
SIMD_INLINE vf sums_near(const struct sums_slots *r, int32_t step, enum row_sum sum, vf top)
{
    vi at = v_add_i(r->position, v_set_i(step));
    vf weight = v_div(v_exp_or_0(v_sub(sums_load(r, sum), top)), r->z);
    weight = v_select(r->has_rest, weight, v_set(0));
    weight = r->rules->as_sent ? weight : v_min(weight, v_set(1));
    weight = v_add(weight, v_select(v_within_i(at, r->apart, r->apart), r->first, v_set(0)));
    vm exists = v_and(v_less_i(v_set_i(-1), at), v_less_i(at, sums_place(r, ROW_PLACE_POSITIONS)));
    return v_where(exists, weight);
}

SIMD_INLINE vm sums_has_bit(const struct sums_slots *r, int32_t bit)
{
    return v_less_i(v_set_i(0), v_and_i(sums_place(r, ROW_PLACE_OCCURRENCE), v_set_i(bit)));
}

SIMD_INLINE vf sums_occurrences(const struct sums_slots *r, enum row_sum sum, int32_t with_apart)
{
    vf apart = v_select(sums_has_bit(r, with_apart), r->first, v_set(0));
    return v_where(sums_has_bit(r, ROW_OCCURRENCE_EARLIER), v_add(sums_scaled(r, sum), apart));
}

static uint32_t row_sums_all(const struct row_rules *rules, const struct row_chunk *chunk,
                             uint32_t from, struct row_scaled *scaled, struct row_batch *batch)
{
    uint32_t sound = 0;
    struct sums_slots r = {.rules = rules, .chunk = chunk, .from = from};
    for (r.s = 0; r.s < ROW_BATCH; r.s += SIMD_WIDTH) {
        sums_find(&r);
        sound |= v_mask_bits(sums_in_order(&r)) << r.s;
        sums_scale(&r, scaled);
        sums_put_rest(&r, batch);
        sums_put_sums(&r, batch);
        vf top = v_load(scaled->top + r.s);
        v_store(batch->max_logit + r.s, top);
        v_store(batch->previous + r.s, sums_near(&r, -1, ROW_SUM_PREVIOUS, top));
        v_store(batch->diagonal + r.s, sums_near(&r, 0, ROW_SUM_OWN, top));
        v_store(batch->next + r.s, sums_near(&r, 1, ROW_SUM_NEXT, top));
        v_store(batch->duplicate + r.s,
                sums_occurrences(&r, ROW_SUM_DUPLICATE, ROW_OCCURRENCE_SAME));
        v_store(batch->induction + r.s,
                sums_occurrences(&r, ROW_SUM_INDUCTION, ROW_OCCURRENCE_BEHIND));
    }
    return sound;
}

SIMD_INLINE vm v_is_finite(vf x)
{
    return v_less_equal(v_abs(x), v_set(FLT_MAX));
}

SIMD_INLINE vd v_widen_some(vm which, vf x)
{
    return v_widen(v_select(which, x, v_set(0)));
}

/* `sum` and `squares` are 0 elsewhere. */
SIMD_INLINE void sums_add_total(struct sums_total *t, vm which, vf n, vd sum, vd squares, vf min,
                                vf max)
{
    float least = v_least(v_select(which, min, v_set(INFINITY)));
    float most = v_most(v_select(which, max, v_set(-INFINITY)));
    t->n += vd_sum(v_widen_some(which, n));
    t->sum += vd_sum(sum);
    t->squares += vd_sum(squares);
    t->min = least < t->min ? least : t->min;
    t->max = most > t->max ? most : t->max;
}

/* About their shift, and then about 0. */
SIMD_INLINE void sums_add_logits(const struct sums_slots *r, vm sound, vf top,
                                 struct sums_total *into)
{
    vf n = sums_load(r, ROW_SUM_FINITE), sum = sums_load(r, ROW_SUM_LOGITS);
    vf shift = sums_load(r, ROW_SUM_SHIFT), squares = sums_load(r, ROW_SUM_LOGIT_SQUARES);
    vf smallest = sums_load(r, ROW_SUM_SMALLEST);
    vm which = v_and(v_and(sound, v_less(v_set(0), n)), v_is_finite(sum));
    which = v_and(v_and(which, v_is_finite(shift)), v_is_finite(squares));
    which = v_and(which, v_is_finite(smallest));
    vd s = v_widen_some(which, sum), by = v_widen_some(which, shift);
    vd moved = vd_mul(v_widen_some(which, n), by);
    vd about_0 = vd_add(v_widen_some(which, squares), vd_mul(by, vd_add(vd_add(s, s), moved)));
    sums_add_total(into, which, n, vd_add(s, moved), about_0, smallest, top);
}

SIMD_INLINE void sums_add_cosines(const struct sums_slots *r, vm sound, struct sums_total *into)
{
    vf n = sums_load(r, ROW_SUM_COSINE_COUNT), length = sums_load(r, ROW_SUM_QUERY_LENGTH);
    vf sum = v_div(sums_load(r, ROW_SUM_COSINES), length);
    vf most = v_div(sums_load(r, ROW_SUM_COSINE_MAX), length);
    vm which = v_and(v_and(sound, v_less(v_set(0), n)), v_less(v_set(0), length));
    which = v_and(v_and(which, v_is_finite(length)), v_and(v_is_finite(sum), v_is_finite(most)));
    sums_add_total(into, which, n, v_widen_some(which, sum), vd_zero(), v_set(-1), most);
}

static void row_sums_totals(const struct row_chunk *chunk, uint32_t from,
                            const struct row_scaled *scaled, const struct sums_counted *counted,
                            struct sums_totals *into)
{
    struct sums_slots r = {.chunk = chunk, .from = from};
    for (r.s = 0; r.s < ROW_BATCH; r.s += SIMD_WIDTH) {
        vm sound = v_mask_of_bits(counted->sound >> r.s);
        vm valid = v_mask_of_bits(counted->valid >> r.s);
        vm entries = v_mask_of_bits(counted->entries >> r.s);
        vf length = sums_load(&r, ROW_SUM_QUERY_LENGTH);
        valid = v_and(valid, v_is_finite(length));
        sums_add_total(&into->entries, entries, v_load(scaled->seen + r.s),
                       v_widen_some(entries, v_load(scaled->sum + r.s)),
                       v_widen_some(entries, v_load(scaled->square + r.s)),
                       v_load(scaled->least + r.s), v_load(scaled->most + r.s));
        sums_add_logits(&r, sound, v_load(scaled->top + r.s), &into->logits);
        sums_add_cosines(&r, sound, &into->cosines);
        sums_add_total(&into->lengths, valid, v_set(1), v_widen_some(valid, length), vd_zero(),
                       length, length);
    }
}

static uint32_t row_sums_finite(const void *x, uint32_t n, double *ret_sum)
{
    vd sum = vd_zero();
    uint32_t count = 0;
    const unsigned char *at = x;
    for (uint32_t k = 0; k < n; k += SIMD_WIDTH, at += SIMD_WIDTH * sizeof(float)) {
        uint32_t left = n - k < SIMD_WIDTH ? n - k : SIMD_WIDTH;
        vf v = left < SIMD_WIDTH ? v_load_part_as(DTYPE_F32, at, left) : v_load_as(DTYPE_F32, at);
        vm finite = v_is_finite(v);
        sum = vd_add(sum, v_widen_some(finite, v));
        count += (uint32_t)__builtin_popcount(v_mask_bits(finite) & ((1u << left) - 1));
    }
    *ret_sum = vd_sum(sum);
    return count;
}

#endif

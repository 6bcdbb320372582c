/* SPDX-License-Identifier: MIT */
/* Drift against brute force: all that it says of a window is worked out again from all values of
 * all windows so far, by the definitions (two passes for a std, the residuals of a line through all
 * points for the slope test, the cumulative sum and its extremes for Page-Hinkley, a list of all
 * keys for js). And against its own checkpoints, and a lack of memory. */
#include "tests/unit/daemon/state/drift_fixture.h"

#include "daemon/state/packed_hists.h"
#include "tests/unit/heap.h"

/* Brute force */

struct drift_series {
    double mean[WINDOWS];
    bool has[WINDOWS];
    int count;
};

/* The windows begin .. end - 1; those of them that have a value count. */
struct drift_block {
    int begin, end, count;
    double mean, std;
    int fell; /* the first window with a value, when a block was forgotten; else -1 */
};

static double brute_grain(int metric, double around)
{
    return metric == METRIC_ENTROPY ? fmax(0.05, 0.05 * fabs(around)) : 0.05;
}

/* Whether the line through the block's points climbs or descends by more than twice their spread
 * around it, or by what no spread excuses. */
static bool brute_slopes(const struct drift_series *s, const struct drift_block *block, int metric)
{
    double n = block->count, across = 0, along = 0, left = 0;
    double at = 0;
    for (int i = block->begin; i < block->end; i++) {
        if (s->has[i]) {
            double x = at++ - (n - 1) / 2;
            across += x * (s->mean[i] - block->mean);
            along += x * x;
        }
    }
    double slope = across / along, grain = brute_grain(metric, block->mean);
    at = 0;
    for (int i = block->begin; i < block->end; i++) {
        if (s->has[i]) {
            double off = s->mean[i] - (block->mean + slope * (at++ - (n - 1) / 2));
            left += off * off;
        }
    }
    return fabs(slope) * (n - 1) > fmin(fmax(2 * sqrt(left / (n - 2)), grain), 2 * grain);
}

/* The block of the windows before t that is the baseline, or the one that is not complete. */
static struct drift_block block_of(const struct drift_series *s, int t, int metric)
{
    struct drift_block block = {.fell = -1};
    for (;;) {
        double sum = 0, squares = 0;
        block.count = 0;
        for (block.end = block.begin; block.end < t && block.count < (int)rule.windows;
             block.end++) {
            if (s->has[block.end]) {
                sum += s->mean[block.end], block.count++;
            }
        }
        block.mean = sum / block.count;
        for (int i = block.begin; i < block.end; i++) {
            squares += s->has[i] ? (s->mean[i] - block.mean) * (s->mean[i] - block.mean) : 0;
        }
        block.std = sqrt(squares / (block.count - 1));
        if (block.count < (int)rule.windows || !brute_slopes(s, &block, metric)) {
            return block;
        }
        while (block.fell < 0 || !s->has[block.fell]) {
            block.fell++;
        }
        block.begin = block.end;
    }
}

/* Sum over i = from .. to of side * (x_i - mean of what was before since `level`) / std -
 * tolerance.
 */
static double cumulated(const struct drift_series *s, int level, int from, int to, double std,
                        double side)
{
    double total = 0;
    for (int i = from; i <= to; i++) {
        double sum = 0;
        int n = 0;
        for (int j = level; j < i; j++) {
            if (s->has[j]) {
                sum += s->mean[j], n++;
            }
        }
        if (s->has[i]) {
            total += side * (s->mean[i] - sum / n) / std - rule.tolerance;
        }
    }
    return total;
}

/* Where the largest of all sums that end at t begins: the first window after the extreme of the
 * cumulative sum; -1 when it does not exceed the threshold. */
static int excursion(const struct drift_series *s, int level, int from, int t, double std,
                     double side)
{
    double most = 0;
    int begin = -1;
    for (int i = t; i >= from; i--) {
        double sum = cumulated(s, level, i, t, std, side);
        if (s->has[i] && sum > most) {
            most = sum, begin = i;
        }
    }
    return most > rule.threshold ? begin : -1;
}

/* The newest change at window t: every window is judged from the last restart on. */
static double change_of(const struct drift_series *s, const struct drift_block *baseline, int t)
{
    double change = baseline->fell < 0 ? NAN : 10.0 * baseline->fell;
    int first = baseline->end, level = baseline->begin;
    for (int i = first; i <= t && baseline->count == (int)rule.windows; i++) {
        int up = excursion(s, level, first, i, baseline->std, 1);
        int down = excursion(s, level, first, i, baseline->std, -1);
        if (up < 0 && down < 0) {
            continue;
        }
        change = 10.0 * (up >= 0 ? up : down);
        level = i;
        first = i + 1;
    }
    return change;
}

static int drift_by_key(const void *a, const void *b)
{
    return *(const int32_t *)a - *(const int32_t *)b;
}

static int count_key(const int32_t *keys, int n, int32_t key)
{
    int count = 0;
    for (int i = 0; i < n; i++) {
        count += keys[i] == key;
    }
    return count;
}

/* The divergence of two lists of keys. */
static double drift_js_of(int32_t *p, int np, int32_t *q, int nq)
{
    double js = 0;
    int32_t all[(5 + 1) * ROWS];
    memcpy(all, p, (size_t)np * sizeof *p);
    memcpy(all + np, q, (size_t)nq * sizeof *q);
    qsort(all, (size_t)(np + nq), sizeof *all, drift_by_key);
    for (int i = 0; i < np + nq; i++) {
        if (i > 0 && all[i] == all[i - 1]) {
            continue;
        }
        double a = count_key(p, np, all[i]) / (double)np;
        double b = count_key(q, nq, all[i]) / (double)nq, middle = (a + b) / 2;
        js += a > 0 ? a * log(a / middle) / 2 : 0;
        js += b > 0 ? b * log(b / middle) / 2 : 0;
    }
    return js;
}

/* The divergence of head h's rows in window t against those of its baseline. */
static double brute_js(const struct drift_block *baseline, int t, int h)
{
    int32_t p[5 * ROWS], q[ROWS];
    int np = 0, nq = 0;
    for (int i = baseline->begin; i < baseline->end; i++) {
        for (int r = 0; r < ROWS; r++) {
            if (!isnan(samples[i].row[h][r])) {
                p[np++] = hist_key(samples[i].row[h][r]);
            }
        }
    }
    for (int r = 0; r < ROWS; r++) {
        if (!isnan(samples[t].row[h][r])) {
            q[nq++] = hist_key(samples[t].row[h][r]);
        }
    }
    return nq > 0 ? drift_js_of(p, np, q, nq) : NAN;
}

static struct drift_series drift_series_of(int count, int h, bool rows)
{
    struct drift_series s = {.count = count};
    for (int t = 0; t < count; t++) {
        double sum = 0;
        for (int r = 0; r < ROWS; r++) {
            sum += samples[t].row[h][r] / ROWS;
        }
        s.mean[t] = rows ? sum : samples[t].message[h];
        s.has[t] = !isnan(s.mean[t]);
    }
    return s;
}

static void assert_brute_head(const struct result_drift *got, int t, int h, int metric)
{
    bool rows = metric != METRIC_MEAN, uniform = metric == METRIC_ENTROPY_NORMALIZED;
    struct drift_series s = drift_series_of(t + 1, h, rows);
    struct drift_block baseline = block_of(&s, t, metric), after = block_of(&s, t + 1, metric);
    bool learned = baseline.count == (int)rule.windows;
    double from = learned ? baseline.mean : NAN, std = learned ? baseline.std : 0;
    from = uniform && (!learned || baseline.fell >= 0) ? 1 : from;
    assert_true(got || isnan(from) || isnan(s.mean[t]));
    if (got) {
        assert_near(got[h].delta, s.mean[t] - from, 1e-12);
        assert_near(got[h].shift, (s.mean[t] - from) / fmax(std, brute_grain(metric, from)), 1e-9);
        assert_near(got[h].js, learned && rows ? brute_js(&baseline, t, h) : NAN, 1e-12);
        assert_near(got[h].change, change_of(&s, &after, t), 0);
    }
}

static void assert_brute(const struct drift *drift, int t)
{
    for (int h = 0; h < HEADS; h++) {
        for (int m = 0; m < METRICS; m++) {
            assert_brute_head(drift_result(drift, test_metrics[m]), t, h, test_metrics[m]);
        }
    }
}

TEST(every_number_is_that_of_brute_force)
{
    for (uint64_t seed = 1; seed <= 12; seed++) {
        OWNED(drift_free) struct drift *drift = new_drift(&rule);
        fill_samples(seed);
        for (int t = 0; t < WINDOWS; t++) {
            drift_give(drift, &samples[t], 10 * (uint64_t)t, true);
            assert_brute(drift, t);
        }
    }
}

TEST(limited_histograms_are_those_of_one_pass)
{
    struct drift_rule narrow = rule;
    narrow.buckets = 9;
    OWNED(drift_free) struct drift *drift = new_drift(&narrow);
    fill_samples(3);
    int compared = 0;
    for (int t = 0; t < 30; t++) {
        drift_give(drift, &samples[t], (uint64_t)t, true);
        const struct result_drift *got = drift_result(drift, METRIC_ENTROPY);
        struct drift_series s = drift_series_of(t + 1, 2, true);
        struct drift_block baseline = block_of(&s, t, METRIC_ENTROPY);
        OWNED(dist_clear) struct dist pooled = {0}, window = {0};
        for (int i = baseline.begin; got && !isnan(got[2].js) && i <= t; i++) {
            for (int r = 0; r < ROWS && (i < baseline.end || i == t); r++) {
                assert_int_equal(dist_add(i < t ? &pooled : &window, samples[i].row[2][r]), 0);
            }
        }
        if (window.moments.n > 0) {
            dist_limit(&pooled, narrow.buckets);
            assert_near(got[2].js, dist_js(&pooled, &window), 0);
            compared++;
        }
    }
    assert_in_range(compared, 10, 29);
}

/* Kept */

static void test_drift_pack(const struct drift *drift, struct mpk_writer *writer)
{
    mpk_writer_init(writer);
    assert_int_equal(drift_pack(drift, writer), 0);
}

static void assert_same_pack(const struct drift *drift, const struct mpk_writer *want)
{
    OWNED(mpk_writer_clear) struct mpk_writer got;
    test_drift_pack(drift, &got);
    assert_int_equal(got.buffer.size, want->buffer.size);
    assert_memory_equal(got.buffer.data, want->buffer.data, want->buffer.size);
}

/* Everything there is: heads that learn still, sums under way, changes. */
static struct drift *busy_drift(int windows)
{
    struct drift *drift = new_drift(&rule);
    fill_samples(7);
    for (int t = 0; t < windows; t++) {
        drift_give(drift, &samples[t], 10 * (uint64_t)t, true);
    }
    return drift;
}

static void assert_same_results(const struct drift *a, const struct drift *b)
{
    for (int m = 0; m < METRIC_COUNT; m++) {
        assert_int_equal(!drift_result(a, m), !drift_result(b, m));
        if (drift_result(a, m)) {
            assert_memory_equal(drift_result(a, m), drift_result(b, m),
                                HEADS * sizeof(struct result_drift));
        }
    }
}

TEST(what_was_packed_goes_on_bit_for_bit)
{
    for (int windows = 0; windows < WINDOWS; windows += 3) {
        OWNED(drift_free) struct drift *drift = busy_drift(windows), *back = NULL;
        OWNED(mpk_writer_clear) struct mpk_writer packed;
        test_drift_pack(drift, &packed);
        assert_int_equal(drift_unpack(&rule, packed.buffer.data, packed.buffer.size, &back), 0);
        assert_same_pack(back, &packed);
        drift_result_clear(drift);
        assert_int_equal(drift_bytes(back), drift_bytes(drift));
        for (int t = windows; t < WINDOWS; t++) {
            drift_give(drift, &samples[t], 10 * (uint64_t)t, true);
            drift_give(back, &samples[t], 10 * (uint64_t)t, true);
            assert_same_results(drift, back);
        }
    }
}

TEST(what_was_said_of_the_newest_window_is_said_again)
{
    for (uint32_t windows = 1; windows <= 5; windows += 2) {
        struct drift_rule of = rule;
        of.windows = windows;
        OWNED(drift_free) struct drift *drift = new_drift(&of);
        fill_samples(7);
        for (int t = 0; t < WINDOWS; t++) {
            struct layer_state *state = test_drift_state_of(&samples[t], KEYS);
            OWNED(drift_free) struct drift *back = NULL;
            OWNED(mpk_writer_clear) struct mpk_writer packed;
            assert_int_equal(drift_window(drift, state, 10 * (uint64_t)t, true), 0);
            test_drift_pack(drift, &packed);
            assert_int_equal(drift_unpack(&of, packed.buffer.data, packed.buffer.size, &back), 0);
            assert_int_equal(drift_window_again(back, state, 10 * (uint64_t)t), 0);
            assert_same_results(drift, back);
            layer_state_free(&state);
        }
    }
}

/* One list of a cell in the layout of before: three heads. */
static void put_before(struct mpk_writer *writer, const char *name, double a, double b, double c)
{
    bool count = strstr(name, "count") != NULL;
    const double values[HEADS] = {a, b, c};
    mpk_put_str(writer, name);
    mpk_put_array(writer, HEADS);
    for (int h = 0; h < HEADS; h++) {
        if (count) {
            mpk_put_u64(writer, (uint64_t)values[h]);
        } else {
            mpk_put_f64(writer, values[h]);
        }
    }
}

/* A baseline of 5 windows at 2, one of 3 windows so far, and none; rows of 2 in all. */
static void pack_before(struct mpk_writer *writer)
{
    OWNED(packed_hists_clear) struct packed_hists hists = {0};
    struct hist empty = {0}, full = {0};
    hist_add(&full, 2);
    mpk_writer_init(writer);
    mpk_put_map(writer, 5);
    mpk_pair_u64(writer, "heads", HEADS);
    mpk_pair_u64(writer, "windows", 5);
    mpk_pair_bool(writer, "pinned", false);
    mpk_pair_u64(writer, "last", 90);
    mpk_put_str(writer, "metrics");
    mpk_put_map(writer, 1);
    mpk_put_str(writer, "entropy");
    mpk_put_map(writer, 11);
    put_before(writer, "count", 5, 3, 0);
    put_before(writer, "mean", 2, 2, 0);
    put_before(writer, "m2", 4, 1, 0);
    put_before(writer, "level_count", 8, 3, 0); /* a level from the first window on */
    put_before(writer, "level", 2.5, 2, 0);
    put_before(writer, "up", 0.5, 0, 0);
    put_before(writer, "up_since", 80, 0, 0);
    put_before(writer, "down", 0, 0, 0);
    put_before(writer, "down_since", 0, 0, 0);
    put_before(writer, "change", 70, NAN, NAN);
    for (int h = 0; h < HEADS; h++) {
        assert_int_equal(packed_hists_add(&hists, h < 2 ? &full : &empty), 0);
    }
    mpk_put_str(writer, "hists");
    mpk_put_bin(writer, hists.bytes, hists.size);
    hist_clear(&full);
}

TEST(a_checkpoint_of_before_keeps_what_was_learned)
{
    OWNED(mpk_writer_clear) struct mpk_writer before;
    OWNED(drift_free) struct drift *drift = NULL;
    pack_before(&before);
    assert_int_equal(drift_unpack(&rule, before.buffer.data, before.buffer.size, &drift), 0);
    assert_int_equal(learned_windows(drift), 5);
    for (int t = 10; t < 16; t++) {
        give_flat(drift, 3, 10 * (uint64_t)t);
        const struct result_drift *got = drift_result(drift, METRIC_ENTROPY);
        assert_near(got[0].delta, 1, 0);
        assert_near(got[0].shift, 1, 0); /* std 1 */
        assert_near(got[0].change, 70, 0);
        assert_near(got[0].js, log(2), 1e-15);
        for (int h = 1; h < HEADS; h++) { /* begun over, without the rows of before */
            assert_near(got[h].delta, t < 15 ? NAN : 0, 0);
            assert_near(got[h].js, t < 15 ? NAN : 0, 0);
        }
    }
}

/* Exactly as long as it is, so that ASan sees a byte read beyond. */
static int unpack_copy(const char *data, size_t size, struct drift **ret_drift)
{
    char *copy = malloc(size > 0 ? size : 1);
    assert_non_null(copy);
    if (size > 0) {
        memcpy(copy, data, size);
    }
    int code = drift_unpack(&rule, copy, size, ret_drift);
    free(copy);
    return code;
}

TEST(hostile_bytes_are_refused_or_harmless)
{
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    struct drift *drift = busy_drift(9), *back = NULL;
    OWNED(layer_state_free) struct layer_state *state = test_drift_state_of(&samples[10], KEYS);
    test_drift_pack(drift, &packed);
    for (size_t size = 0; size < packed.buffer.size; size++) {
        assert_int_equal(unpack_copy(packed.buffer.data, size, &back), ERR_STORE_FORMAT);
    }
    uint64_t seed = 1;
    for (int i = 0; i < 4000; i++) {
        size_t at = (size_t)(random_unit(&seed) * (double)packed.buffer.size);
        char was = packed.buffer.data[at];
        packed.buffer.data[at] = (char)(unsigned char)(random_unit(&seed) * 256);
        int code = unpack_copy(packed.buffer.data, packed.buffer.size, &back);
        assert_true(code == 0 || code == ERR_STORE_FORMAT);
        if (code == 0) {
            assert_int_equal(drift_window(back, state, 1000, true), 0);
            drift_free(&back);
        }
        packed.buffer.data[at] = was;
    }
    drift_free(&drift);
}

TEST(bytes_that_are_no_drift_are_refused)
{
    static const char *const documents[] = {"\xc0", "\x80", "\x01", "\x81\xa5heads\x03"};
    struct drift *drift = NULL;
    for (size_t i = 0; i < sizeof documents / sizeof *documents; i++) {
        assert_int_equal(unpack_copy(documents[i], strlen(documents[i]), &drift), ERR_STORE_FORMAT);
    }
    assert_null(drift);
}

/* Out of memory */

TEST(a_window_without_memory_has_no_effect)
{
    struct mpk_writer before;
    static const int windows[] = {0, 3, 9, 20};
    for (size_t w = 0; w < sizeof windows / sizeof *windows; w++) {
        struct drift *drift = busy_drift(windows[w]);
        struct layer_state *state = test_drift_state_of(&samples[windows[w]], KEYS);
        test_drift_pack(drift, &before);
        unsigned nth = 1;
        for (;; nth++) {
            heap_fail_at(nth);
            int code = drift_window(drift, state, 10 * (uint64_t)windows[w], true);
            bool failed = heap_has_failed();
            heap_fail_at(0);
            if (code == 0) {
                break;
            }
            assert_true(failed);
            assert_int_equal(code, ERR_MEMORY);
            assert_same_pack(drift, &before);
        }
        assert_true(nth > 2);
        mpk_writer_clear(&before);
        layer_state_free(&state);
        drift_free(&drift);
    }
}

DRIFT_TEST(pinning_without_memory_has_no_effect)
{
    struct drift_sample sample = flat(3);
    OWNED(layer_state_free) struct layer_state *state = test_drift_state_of(&sample, KEYS);
    const struct layer_state *states[] = {state, state};
    OWNED(mpk_writer_clear) struct mpk_writer before;
    give_all(drift, around_ten, 5, 0);
    test_drift_pack(drift, &before);
    int code = ERR_MEMORY;
    for (unsigned nth = 1; code != 0; nth++) {
        heap_fail_at(nth);
        code = drift_pin(drift, states, 2);
        heap_fail_at(0);
        if (code != 0) {
            assert_same_pack(drift, &before);
        }
    }
}

TEST(packing_and_unpacking_survive_a_lack_of_memory)
{
    OWNED(mpk_writer_clear) struct mpk_writer packed, broken;
    OWNED(drift_free) struct drift *drift = busy_drift(9), *back = NULL;
    test_drift_pack(drift, &packed);
    int code = ERR_MEMORY;
    for (unsigned nth = 1; code != 0; nth++) {
        heap_fail_at(nth);
        code = drift_unpack(&rule, packed.buffer.data, packed.buffer.size, &back);
        heap_fail_at(0);
        assert_true(code == 0 || code == ERR_MEMORY);
    }
    mpk_writer_init(&broken);
    heap_fail_at(1);
    assert_int_equal(drift_pack(drift, &broken), ERR_MEMORY);
    heap_fail_at(0);
}

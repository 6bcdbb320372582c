/* SPDX-License-Identifier: MIT */
#include "tests/unit/workers/rows/sums_fixture.h"

#include "workers/rows/first_key.h"

struct drawn *drawn_new(void)
{
    struct drawn *d = calloc(1, sizeof *d);
    uint64_t seed = 11;
    assert_non_null(d);
    for (size_t i = 0; i < sizeof d->q / sizeof d->q[0]; i++) {
        d->q[i] = (float)(4 * random_unit(&seed) - 2);
    }
    for (size_t i = 0; i < sizeof d->k / sizeof d->k[0]; i++) {
        d->k[i] = (float)(4 * random_unit(&seed) - 2);
    }
    for (size_t j = 0; j < SUMS_BATCH * SUMS_KEYS; j++) {
        d->documents[j] = (int32_t)(j % SUMS_KEYS / 25);
        d->tokens[j] = (int32_t)(9 * random_unit(&seed));
    }
    for (size_t i = 0; i < sizeof d->mask; i++) {
        d->mask[i] = random_unit(&seed) < 0.5;
    }
    for (uint32_t h = 0; h < SUMS_HEADS; h++) {
        d->sinks[h] = 2 * (float)h - 1;
    }
    d->length[0] = SUMS_KEYS;
    d->length[1] = 31;
    d->a = (struct attention){
        .batch = SUMS_BATCH,
        .heads = SUMS_HEADS,
        .queries = SUMS_QUERIES,
        .keys = SUMS_KEYS,
        .self = true,
        .qk = {.q = d->q, .k = d->k, .kv_heads = SUMS_KV, .head_dim = SUMS_DIM, .scale = 0.35}};
    return d;
}

void drawn_set_mask(struct drawn *d, unsigned kind)
{
    struct attention *a = &d->a;
    OWNED(scratch_clear) struct scratch scratch = {0};
    a->causal = kind == 1 || kind == 3 || kind == 6 || kind == 7;
    a->window = kind == 2 || kind == 3 ? 20 : 0;
    a->q_len = a->k_len = kind == 4 || kind == 6 ? d->length : NULL;
    a->mask = kind == 5 || kind == 9 ? d->mask : NULL;
    a->documents = kind == 6 ? d->documents : NULL;
    a->q_offset = kind == 7 ? 31 : 0;
    a->tokens = d->tokens;
    a->keys = kind == 8 ? 1 : SUMS_KEYS;
    if (kind == 9) {
        memset(d->mask, 0, sizeof d->mask / 3);
    }
    a->first = NULL;
    if (first_key_differs(a)) {
        assert_int_equal(first_key_find(a, &scratch, d->first), 0);
        a->first = d->first;
    }
}

static const float *drawn_query(const struct drawn *d, uint32_t b, uint32_t h, uint32_t i)
{
    return d->q + (((size_t)b * SUMS_HEADS + h) * d->a.queries + i) * SUMS_DIM;
}

static const float *drawn_key(const struct drawn *d, uint32_t b, uint32_t h, uint32_t j)
{
    uint32_t kv = h / (SUMS_HEADS / SUMS_KV);
    return d->k + (((size_t)b * SUMS_KV + kv) * d->a.keys + j) * SUMS_DIM;
}

static double drawn_dot(const float *x, const float *y)
{
    double sum = 0;
    for (uint32_t c = 0; c < SUMS_DIM; c++) {
        sum += (double)x[c] * (double)y[c];
    }
    return sum;
}

static double drawn_logit(const struct drawn *d, uint32_t b, uint32_t h, uint32_t i, uint32_t j)
{
    double s = d->a.qk.scale * drawn_dot(drawn_query(d, b, h, i), drawn_key(d, b, h, j));
    return d->a.qk.softcap > 0 ? d->a.qk.softcap * tanh(s / d->a.qk.softcap) : s;
}

void drawn_fill_weights(struct drawn *d, bool sinks)
{
    uint32_t key[SUMS_KEYS];
    memset(d->weights, 0, sizeof d->weights);
    for (uint32_t r = 0; r < SUMS_BATCH * SUMS_HEADS * d->a.queries; r++) {
        uint32_t i = r % d->a.queries, h = r / d->a.queries % SUMS_HEADS,
                 b = r / d->a.queries / SUMS_HEADS;
        bool is_valid = attention_query_valid(&d->a, b, i);
        uint32_t n = is_valid ? attention_valid_keys(&d->a, b, i, key) : 0;
        double *row = d->weights + (size_t)r * d->a.keys, top = -INFINITY, sum = 0;
        for (uint32_t c = 0; c < n; c++) {
            top = fmax(top, drawn_logit(d, b, h, i, key[c]));
        }
        for (uint32_t c = 0; c < n; c++) {
            row[key[c]] = exp(drawn_logit(d, b, h, i, key[c]) - top);
            sum += row[key[c]];
        }
        sum += sinks ? exp((double)d->sinks[h] - top) : 0;
        for (uint32_t c = 0; c < n; c++) {
            row[key[c]] /= sum;
        }
    }
}

float *drawn_sum(struct drawn *d, enum row_sum sum)
{
    return d->sums + (size_t)sum * d->a.batch * SUMS_HEADS * d->a.queries;
}

/* One row: its visible keys, ascending, and their logits. */
struct drawn_row {
    uint32_t b, h, i, n, key[SUMS_KEYS];
    double logit[SUMS_KEYS];
};

static bool drawn_same(const struct drawn *d, const struct drawn_row *row, uint32_t j)
{
    const int32_t *tokens = d->tokens + (size_t)row->b * d->a.keys;
    uint64_t p = attention_position(&d->a, row->i);
    return p < d->a.keys && j < p && tokens[j] == tokens[p];
}

static uint32_t drawn_apart(const struct drawn *d, const struct drawn_row *row, enum apart apart)
{
    uint32_t first = attention_first_key(&d->a, row->b, row->i);
    return apart == APART_BY_PLACE || row->n == 0 ? first : row->key[0];
}

static void drawn_put_place(struct drawn *d, const struct drawn_row *row, enum apart how)
{
    uint64_t p = attention_position(&d->a, row->i);
    uint32_t first = attention_first_key(&d->a, row->b, row->i);
    uint32_t apart = drawn_apart(d, row, how), length = attention_key_count(&d->a, row->b);
    bool with_first = false, earlier = false;
    double farthest = 0;
    for (uint32_t c = 0; c < row->n; c++) {
        with_first = with_first || row->key[c] == first;
        farthest = fmax(farthest, fabs((double)p - row->key[c]));
    }
    for (uint32_t j = 0; j < d->a.keys && p < length; j++) {
        earlier = earlier || drawn_same(d, row, j);
    }
    int32_t bits = earlier ? ROW_OCCURRENCE_EARLIER : 0;
    bits |= earlier && drawn_same(d, row, apart) ? ROW_OCCURRENCE_SAME : 0;
    bits |= earlier && apart > 0 && drawn_same(d, row, apart - 1) ? ROW_OCCURRENCE_BEHIND : 0;
    const int32_t place[ROW_PLACE_COUNT] = {
        [ROW_PLACE_POSITION] = (int32_t)p,
        [ROW_PLACE_POSITIONS] = (int32_t)attention_position_count(&d->a, row->b),
        [ROW_PLACE_FIRST] = how == APART_ALONE ? -1 : (int32_t)first,
        [ROW_PLACE_WITH_FIRST] = with_first,
        [ROW_PLACE_SEEN] = (int32_t)row->n,
        [ROW_PLACE_FARTHEST] = (int32_t)farthest,
        [ROW_PLACE_VALID] = attention_query_valid(&d->a, row->b, row->i),
        [ROW_PLACE_OCCURRENCE] = bits};
    for (int k = 0; k < ROW_PLACE_COUNT; k++) {
        d->places[((size_t)k * d->a.batch + row->b) * d->a.queries + row->i] = place[k];
    }
}

static int drawn_descending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* The sums in which the key apart does not take part. */
static void drawn_sum_rest(const struct drawn *d, const struct drawn_row *row, uint32_t apart,
                           double *sum)
{
    double largest = -INFINITY, sorted[SUMS_KEYS] = {0};
    double p = (double)attention_position(&d->a, row->i);
    uint32_t n = 0;
    for (uint32_t c = 0; c < row->n; c++) {
        bool is_rest = row->key[c] != apart;
        largest =
            is_rest && !(row->logit[c] <= largest) && !isnan(largest) ? row->logit[c] : largest;
    }
    sum[ROW_SUM_LARGEST] = largest;
    sum[ROW_SUM_PREVIOUS] = sum[ROW_SUM_OWN] = sum[ROW_SUM_NEXT] = -INFINITY;
    for (uint32_t c = 0; c < row->n; c++) {
        double j = row->key[c], s = row->logit[c], e = exp(s - largest);
        if (row->key[c] == apart) {
            sum[ROW_SUM_FIRST] = s;
            continue;
        }
        for (int k = -1; k <= 1; k++) {
            sum[ROW_SUM_OWN + k] = j == p + k ? s : sum[ROW_SUM_OWN + k];
        }
        if (!(e > 0)) {
            continue;
        }
        static const enum row_sum powers[] = {ROW_SUM_TOTAL,   ROW_SUM_SQUARE,  ROW_SUM_POWER_3,
                                              ROW_SUM_POWER_4, ROW_SUM_POWER_5, ROW_SUM_POWER_6,
                                              ROW_SUM_POWER_7};
        for (int k = 0; k < 7; k++) {
            sum[powers[k]] += pow(e, k + 1);
        }
        sum[ROW_SUM_WEIGHTED] += e * (s - largest);
        sum[ROW_SUM_DISTANCE] += e * fabs(p - j);
        sum[ROW_SUM_LOCAL] += fabs(p - j) <= d->rows.local_window ? e : 0;
        sum[ROW_SUM_DUPLICATE] += drawn_same(d, row, row->key[c]) ? e : 0;
        sum[ROW_SUM_INDUCTION] += j > 0 && drawn_same(d, row, row->key[c] - 1) ? e : 0;
        sorted[n++] = e;
    }
    qsort(sorted, n, sizeof *sorted, drawn_descending);
    for (uint32_t c = 0; c < 8 && c < n; c++) {
        sum[ROW_SUM_TOP] += sorted[c];
    }
    sum[ROW_SUM_EIGHTH] = n >= 8 ? sorted[7] : 0;
}

/* The sums over all visible keys. */
static void drawn_sum_logits(const struct drawn *d, const struct drawn_row *row, double *sum)
{
    const float *q = drawn_query(d, row->b, row->h, row->i);
    double length = sqrt(drawn_dot(q, q)), shift = NAN;
    sum[ROW_SUM_SMALLEST] = INFINITY;
    sum[ROW_SUM_COSINE_MAX] = -INFINITY;
    sum[ROW_SUM_QUERY_LENGTH] = length;
    for (uint32_t c = 0; c < row->n; c++) {
        double s = row->logit[c];
        const float *k = drawn_key(d, row->b, row->h, row->key[c]);
        double cosine = drawn_dot(q, k) / sqrt(drawn_dot(k, k));
        if (!isfinite(s)) {
            continue;
        }
        shift = isnan(shift) ? s : shift;
        sum[ROW_SUM_FINITE]++;
        sum[ROW_SUM_LOGITS] += s - (double)(float)shift;
        sum[ROW_SUM_LOGIT_SQUARES] += (s - (double)(float)shift) * (s - (double)(float)shift);
        sum[ROW_SUM_SMALLEST] = fmin(sum[ROW_SUM_SMALLEST], s);
        if (isfinite(cosine)) {
            sum[ROW_SUM_COSINES] += cosine;
            sum[ROW_SUM_COSINE_COUNT]++;
            sum[ROW_SUM_COSINE_MAX] = fmax(sum[ROW_SUM_COSINE_MAX], cosine);
        }
    }
    sum[ROW_SUM_SHIFT] = isnan(shift) ? 0 : shift;
}

static void drawn_put(struct drawn *d, const struct drawn_row *row, enum apart how)
{
    double sum[ROW_SUM_COUNT] = {0};
    uint32_t apart = drawn_apart(d, row, how);
    bool is_first = apart == attention_first_key(&d->a, row->b, row->i);
    sum[ROW_SUM_FIRST] = -INFINITY;
    drawn_sum_rest(d, row, apart, sum);
    drawn_sum_logits(d, row, sum);
    sum[ROW_SUM_APART] = is_first ? apart : -1.0 - apart;
    for (uint32_t c = 0; c < row->n; c++) {
        bool is_key = row->key[c] == attention_first_key(&d->a, row->b, row->i);
        sum[ROW_SUM_WITH_FIRST] = is_key ? 1 : sum[ROW_SUM_WITH_FIRST];
    }
    sum[ROW_SUM_SEEN] = row->n;
    sum[ROW_SUM_FARTHEST] = 0;
    for (uint32_t c = 0; c < row->n; c++) {
        double p = (double)attention_position(&d->a, row->i);
        sum[ROW_SUM_FARTHEST] = fmax(sum[ROW_SUM_FARTHEST], fabs(p - row->key[c]));
    }
    for (int s = 0; s < ROW_SUM_COUNT; s++) {
        size_t at = ((size_t)row->b * SUMS_HEADS + row->h) * d->a.queries + row->i;
        drawn_sum(d, (enum row_sum)s)[at] = (float)sum[s];
    }
    drawn_put_place(d, row, how);
}

static void drawn_begin(struct drawn *d, enum apart apart)
{
    const struct attention *a = &d->a;
    d->rows = (struct sent_sums){.sums = d->sums,
                                 .places = d->places,
                                 .key_lengths = d->key_lengths,
                                 .k_len = a->k_len,
                                 .batch = a->batch,
                                 .heads = a->heads,
                                 .rows = a->queries,
                                 .queries = a->queries,
                                 .keys = a->keys,
                                 .kv_heads = SUMS_KV,
                                 .local_window = 3,
                                 .self = a->self};
    for (int s = 0; s < ROW_SUM_COUNT; s++) {
        d->rows.column[s] = (uint8_t)(s + 1);
    }
    if (apart == APART_BY_PLACE) {
        d->rows.column[ROW_SUM_APART] = 0;
    }
    for (uint32_t at = 0; at < a->batch * SUMS_KV * a->keys; at++) {
        const float *k = d->k + (size_t)at * SUMS_DIM;
        d->key_lengths[at] = (float)sqrt(drawn_dot(k, k));
    }
}

void drawn_send(struct drawn *d, enum apart apart)
{
    drawn_begin(d, apart);
    for (uint32_t b = 0; b < d->a.batch; b++) {
        for (uint32_t h = 0; h < d->a.heads; h++) {
            for (uint32_t i = 0; i < d->a.queries; i++) {
                struct drawn_row row = {.b = b, .h = h, .i = i};
                row.n = attention_valid_keys(&d->a, b, i, row.key);
                for (uint32_t c = 0; c < row.n; c++) {
                    row.logit[c] = drawn_logit(d, b, h, i, row.key[c]);
                }
                drawn_put(d, &row, apart);
            }
        }
    }
}

void drawn_send_weights(struct drawn *d, const struct attention *a)
{
    drawn_begin(d, APART_BY_PLACE);
    d->rows.of_weights = true;
    d->rows.dtype = a->dtype;
    d->rows.dropout = a->dropout;
    d->rows.learned_sink = a->learned_sink;
    for (uint32_t r = 0; r < SUMS_BATCH * SUMS_HEADS * a->queries; r++) {
        struct drawn_row row = {.i = r % a->queries,
                                .h = r / a->queries % SUMS_HEADS,
                                .b = r / a->queries / SUMS_HEADS};
        const double *weight = (const double *)a->weights + (size_t)r * a->keys;
        row.n = attention_valid_keys(a, row.b, row.i, row.key);
        for (uint32_t c = 0; c < row.n; c++) {
            double x = weight[row.key[c]];
            bool is_sound = isfinite(x) && x >= attention_negative_bound(a->dtype);
            row.logit[c] = is_sound ? log(fmax(0, x)) : NAN;
        }
        drawn_put(d, &row, APART_BY_PLACE);
    }
}

/* SPDX-License-Identifier: MIT */
/* attention: conversions and masks.
 *
 * A row may attend to one interval of keys (length, causal bound and window are all bounds on j)
 * with holes from the explicit mask and the documents; p = q_offset + i * q_stride is the position
 * of query i:
 *
 *     j < k_len[b]      padding
 *     j <= p            causal; top-left aligned when Tq != Tk, as torch's is_causal
 *     j > p - window    window, when > 0
 *     mask[b][i][j] = 1
 *     documents[b][j] = documents[b][p]
 *
 * Positions are 64 bits wide: an offset near 2^32 is nonsense, but must not wrap around.
 *
 * Frames are little-endian, and so are the hosts attnd is built for; an element is read by memcpy,
 * since a frame inside a message may start at any address. Every conversion to f64 is exact. */
#include "workers/base/attention.h"

#include <math.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "frames are read without swapping bytes");

/* Lengths come checked; the clamp keeps every later index inside the tensor all the same. */
static uint32_t clamp_len(const int32_t *len, uint32_t b, uint32_t limit)
{
    if (!len) {
        return limit;
    }
    if (len[b] < 0) {
        return 0;
    }
    return (uint32_t)len[b] < limit ? (uint32_t)len[b] : limit;
}

uint32_t attention_query_count(const struct attention *a, uint32_t b)
{
    return clamp_len(a->q_len, b, a->queries);
}

uint32_t attention_key_count(const struct attention *a, uint32_t b)
{
    return clamp_len(a->k_len, b, a->keys);
}

uint64_t attention_position(const struct attention *a, uint32_t i)
{
    return a->q_offset + (uint64_t)i * (attention_sampled(a) ? a->q_stride : 1);
}

uint64_t attention_position_count(const struct attention *a, uint32_t b)
{
    uint64_t end = attention_position(a, attention_query_count(a, b));
    uint32_t keys = attention_key_count(a, b);
    return end < keys ? end : keys;
}

void attention_key_range(const struct attention *a, uint32_t b, uint32_t i, uint32_t *ret_begin,
                         uint32_t *ret_end)
{
    uint64_t p = attention_position(a, i);
    uint64_t begin = a->window > 0 && p >= a->window ? p - a->window + 1 : 0;
    uint32_t end = attention_key_count(a, b);
    if (a->causal && p < end) {
        end = (uint32_t)p + 1;
    }
    *ret_begin = begin < end ? (uint32_t)begin : end;
    *ret_end = end;
}

struct attention_holes attention_row_holes(const struct attention *a, uint32_t b, uint32_t i)
{
    struct attention_holes holes = {0};
    if (a->mask) {
        holes.mask = a->mask + ((size_t)b * a->queries + i) * a->keys;
    }
    if (a->documents && a->self) {
        uint64_t p = attention_position(a, i);
        holes.document = (const unsigned char *)a->documents;
        holes.document += (size_t)b * a->keys * sizeof holes.own;
        holes.none = p >= a->keys;
        holes.own = holes.none ? 0 : attention_document(holes.document, p);
    }
    return holes;
}

bool attention_query_valid(const struct attention *a, uint32_t b, uint32_t i)
{
    if (i >= attention_query_count(a, b)) {
        return false;
    }
    struct attention_holes holes = attention_row_holes(a, b, i);
    for (uint32_t j = 0; j < a->keys; j++) {
        if (attention_hole_free(&holes, j)) {
            return true;
        }
    }
    return false;
}

/* The queries by length; in self-attention one at a padding key's position is padding too. */
static uint32_t attention_extent_queries(const struct attention *a, uint32_t b)
{
    uint32_t end = attention_query_count(a, b), keys = attention_key_count(a, b);
    while (a->self && end > 0 && attention_position(a, end - 1) >= keys &&
           attention_position(a, end - 1) < a->keys) {
        end--;
    }
    return end;
}

/* The keys that the mask leaves to the queries, from the last one on: with a causal mask it sees
 * the most, and of the others only what is outside of that is looked at. */
static void attention_extent_keys(const struct attention *a, uint32_t b,
                                  struct attention_extent *extent)
{
    uint32_t first = extent->key_end, end = 0;
    for (uint32_t i = extent->query_end; i-- > extent->query;) {
        const uint8_t *row = a->mask + ((size_t)b * a->queries + i) * a->keys;
        const uint8_t *seen = memchr(row, 1, first);
        first = seen ? (uint32_t)(seen - row) : first;
        for (uint32_t j = extent->key_end; j > end; j--) {
            end = row[j - 1] == 1 ? j : end;
        }
    }
    extent->key = first < end ? first : 0;
    extent->key_end = end;
}

struct attention_extent attention_extent(const struct attention *a, uint32_t b)
{
    struct attention_extent extent = {.query_end = attention_extent_queries(a, b),
                                      .key_end = attention_key_count(a, b)};
    while (extent.query_end > 0 && !attention_query_valid(a, b, extent.query_end - 1)) {
        extent.query_end--;
    }
    while (extent.query < extent.query_end && !attention_query_valid(a, b, extent.query)) {
        extent.query++;
    }
    if (a->mask) {
        attention_extent_keys(a, b, &extent);
    }
    bool empty = extent.query >= extent.query_end || extent.key >= extent.key_end;
    return empty ? (struct attention_extent){0} : extent;
}

bool attention_shown(const struct attention *a, const struct attention_extent *extent, uint32_t b,
                     uint32_t i)
{
    return i >= extent->query && i < extent->query_end && attention_query_valid(a, b, i);
}

uint32_t attention_valid_keys(const struct attention *a, uint32_t b, uint32_t i, uint32_t *ret_keys)
{
    uint32_t begin, end, n = 0;
    attention_key_range(a, b, i, &begin, &end);
    struct attention_holes holes = attention_row_holes(a, b, i);
    for (uint32_t j = begin; j < end; j++) {
        if (attention_hole_free(&holes, j)) {
            ret_keys[n++] = j;
        }
    }
    return n;
}

/* 1 sign, 5 exponent (bias 15), 10 fraction bits. */
static double f64_from_f16(uint16_t code)
{
    uint64_t sign = (uint64_t)(code >> 15) << 63;
    uint64_t exponent = (code >> 10) & 0x1f;
    uint64_t fraction = code & 0x3ff;
    if (exponent == 0) {
        double magnitude = (double)fraction * 0x1p-24;
        return sign != 0 ? -magnitude : magnitude;
    }
    uint64_t wide = exponent == 0x1f ? 0x7ff : exponent - 15 + 1023;
    uint64_t bits = sign | wide << 52 | fraction << 42;
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The upper half of an f32. */
static double f64_from_bf16(uint16_t code)
{
    uint32_t bits = (uint32_t)code << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return (double)x;
}

void attention_load(const void *data, enum dtype dtype, size_t first, uint32_t n, double *ret)
{
    const unsigned char *p = (const unsigned char *)data + first * dtype_size(dtype);
    switch (dtype) {
    case DTYPE_F32:
        for (uint32_t j = 0; j < n; j++) {
            float x;
            memcpy(&x, p + (size_t)j * sizeof x, sizeof x);
            ret[j] = (double)x;
        }
        return;
    case DTYPE_F64:
        memcpy(ret, p, (size_t)n * sizeof *ret);
        return;
    case DTYPE_F16:
        for (uint32_t j = 0; j < n; j++) {
            uint16_t code;
            memcpy(&code, p + (size_t)j * sizeof code, sizeof code);
            ret[j] = f64_from_f16(code);
        }
        return;
    case DTYPE_BF16:
        for (uint32_t j = 0; j < n; j++) {
            uint16_t code;
            memcpy(&code, p + (size_t)j * sizeof code, sizeof code);
            ret[j] = f64_from_bf16(code);
        }
        return;
    default: /* no attention in these: refused at the door */
        for (uint32_t j = 0; j < n; j++) {
            ret[j] = NAN;
        }
    }
}

double attention_x_norm(const struct attention *a, uint32_t b, uint32_t i)
{
    double x_norm = NAN;
    if (a->qk.x_norm) {
        attention_load(a->qk.x_norm, DTYPE_F32, (size_t)b * a->queries + i, 1, &x_norm);
    }
    return x_norm > 0 && isfinite(x_norm) ? x_norm : NAN;
}

void attention_load_row(const struct attention *a, uint32_t b, uint32_t h, uint32_t i,
                        double *ret_row)
{
    size_t row = ((size_t)b * a->heads + h) * a->queries + i;
    attention_load(a->weights, a->dtype, row * a->keys, a->keys, ret_row);
}

double attention_tolerance(enum dtype dtype)
{
    return dtype == DTYPE_F16 || dtype == DTYPE_BF16 ? 2e-2 : 1e-3;
}

double attention_negative_bound(enum dtype dtype)
{
    return dtype == DTYPE_F16 || dtype == DTYPE_BF16 ? -1e-3 : -1e-6;
}

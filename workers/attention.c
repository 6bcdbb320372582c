/* SPDX-License-Identifier: MIT */
/* attention: conversions and masks.
 *
 * What a row may attend to is one interval of keys (length, causal bound and window are all bounds
 * on j) with holes from the explicit mask:
 *
 *     j < k_len[b]      padding
 *     j <= i            causal; top-left aligned when Tq != Tk, as torch's is_causal
 *     j > i - window    window, when > 0
 *     mask[b][i][j] = 1
 *
 * Frames are little-endian, and so are the hosts attnd is built for; an element is read by memcpy,
 * since a frame inside a message may start at any address. Every conversion to f64 is exact. */
#include "attention.h"

#include <math.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "frames are read without swapping bytes");

/* Lengths come checked; the clamp keeps every later index inside the tensor all the same. */
static uint32_t clamp_len(const int32_t *len, uint32_t b, uint32_t limit)
{
    if (len == NULL) {
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

static const uint8_t *mask_row(const struct attention *a, uint32_t b, uint32_t i)
{
    return a->mask == NULL ? NULL : a->mask + ((size_t)b * a->queries + i) * a->keys;
}

bool attention_query_valid(const struct attention *a, uint32_t b, uint32_t i)
{
    const uint8_t *mask = mask_row(a, b, i);
    return i < attention_query_count(a, b) && (mask == NULL || memchr(mask, 1, a->keys) != NULL);
}

uint32_t attention_valid_keys(const struct attention *a, uint32_t b, uint32_t i, uint32_t *ret_keys)
{
    uint32_t begin = a->window > 0 && i >= a->window ? i - a->window + 1 : 0;
    uint32_t end = attention_key_count(a, b);
    if (a->causal && i < end) {
        end = i + 1;
    }
    const uint8_t *mask = mask_row(a, b, i);
    uint32_t n = 0;
    for (uint32_t j = begin; j < end; j++) {
        if (mask == NULL || mask[j] == 1) {
            ret_keys[n++] = j;
        }
    }
    return n;
}

static double f64_from_bits(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
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
    return f64_from_bits(sign | wide << 52 | fraction << 42);
}

/* The upper half of an f32. */
static double f64_from_bf16(uint16_t code)
{
    uint32_t bits = (uint32_t)code << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return (double)x;
}

static void load_f32(const unsigned char *p, uint32_t n, double *ret)
{
    for (uint32_t j = 0; j < n; j++) {
        float x;
        memcpy(&x, p + (size_t)j * sizeof x, sizeof x);
        ret[j] = (double)x;
    }
}

static void load_f16(const unsigned char *p, uint32_t n, double *ret)
{
    for (uint32_t j = 0; j < n; j++) {
        uint16_t code;
        memcpy(&code, p + (size_t)j * sizeof code, sizeof code);
        ret[j] = f64_from_f16(code);
    }
}

static void load_bf16(const unsigned char *p, uint32_t n, double *ret)
{
    for (uint32_t j = 0; j < n; j++) {
        uint16_t code;
        memcpy(&code, p + (size_t)j * sizeof code, sizeof code);
        ret[j] = f64_from_bf16(code);
    }
}

/* Bytes of one element; dtype_size() of proto, restated so that the kernels link without it. */
static size_t element_bytes(enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_F64:
        return 8;
    case DTYPE_F16:
    case DTYPE_BF16:
        return 2;
    default:
        return 4;
    }
}

void attention_load_row(const struct attention *a, uint32_t b, uint32_t h, uint32_t i,
                        double *ret_row)
{
    size_t row = ((size_t)b * a->heads + h) * a->queries + i;
    const unsigned char *p = a->weights;
    p += row * a->keys * element_bytes(a->dtype);
    switch (a->dtype) {
    case DTYPE_F32:
        load_f32(p, a->keys, ret_row);
        return;
    case DTYPE_F64:
        memcpy(ret_row, p, (size_t)a->keys * sizeof *ret_row);
        return;
    case DTYPE_F16:
        load_f16(p, a->keys, ret_row);
        return;
    case DTYPE_BF16:
        load_bf16(p, a->keys, ret_row);
        return;
    default: /* no attention weights in these: refused at the door */
        for (uint32_t j = 0; j < a->keys; j++) {
            ret_row[j] = NAN;
        }
    }
}

double attention_tolerance(enum dtype dtype)
{
    return dtype == DTYPE_F16 || dtype == DTYPE_BF16 ? 2e-2 : 1e-3;
}

double attention_negative_bound(enum dtype dtype)
{
    return dtype == DTYPE_F16 || dtype == DTYPE_BF16 ? -1e-3 : -1e-6;
}

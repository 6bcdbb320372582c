/* SPDX-License-Identifier: MIT */
/* spectrum_matrix: conversions, row by row, in loops that the compiler turns into vectors.
 *
 * Elements are read by memcpy, since a frame inside a message may start at any address. Finite or
 * not is seen on the bits: among magnitudes, the largest bit pattern is the largest number, and
 * infinities and NaNs are above all others. */
#include "workers/linear/spectrum_internal.h"

#include <math.h>
#include <string.h>

/* Peaks within 2^-24 .. 2^24 are left alone: their squares, summed, are far from f32's limits. */
#define PEAK_EXPONENT 24
#define EXPONENT_MAX  1022

static bool spectrum_matrix_readable(enum dtype dtype)
{
    return dtype == DTYPE_F32 || dtype == DTYPE_F64 || dtype == DTYPE_F16 || dtype == DTYPE_BF16;
}

static const unsigned char *spectrum_matrix_row_at(const struct matrix *m, uint32_t i)
{
    return (const unsigned char *)m->data + (size_t)i * m->stride * dtype_size(m->dtype);
}

static float f32_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Finite codes only: the exponent moves from bias 15 to 127 by a product, which is exact and
 * brings denormals along. */
static float f32_from_f16(uint16_t code)
{
    float magnitude = f32_from_bits((uint32_t)(code & 0x7fff) << 13) * 0x1p112f;
    return code & 0x8000 ? -magnitude : magnitude;
}

static float f32_from_bf16(uint16_t code)
{
    return f32_from_bits((uint32_t)code << 16);
}

/* The bits of the largest magnitude among n elements. */
#define PEAK(bits)                                                                                 \
    static uint##bits##_t peak_##bits(const unsigned char *p, uint32_t n)                          \
    {                                                                                              \
        uint##bits##_t peak = 0;                                                                   \
        for (uint32_t j = 0; j < n; j++) {                                                         \
            uint##bits##_t word;                                                                   \
            memcpy(&word, p + (size_t)j * sizeof word, sizeof word);                               \
            word &= (uint##bits##_t)(UINT##bits##_MAX >> 1);                                       \
            peak = word > peak ? word : peak;                                                      \
        }                                                                                          \
        return peak;                                                                               \
    }
PEAK(16)
PEAK(32)
PEAK(64)

static double row_peak(const struct matrix *m, uint32_t i)
{
    const unsigned char *p = spectrum_matrix_row_at(m, i);
    double x;
    uint64_t bits;
    uint16_t code;
    switch (m->dtype) {
    case DTYPE_F64:
        bits = peak_64(p, m->columns);
        memcpy(&x, &bits, sizeof x);
        return x;
    case DTYPE_F32:
        return (double)f32_from_bits(peak_32(p, m->columns));
    case DTYPE_F16:
        code = peak_16(p, m->columns);
        return code < 0x7c00 ? (double)f32_from_f16(code) : NAN;
    default:
        return (double)f32_from_bf16(peak_16(p, m->columns));
    }
}

double matrix_peak(const struct matrix *m)
{
    double peak = 0;
    for (uint32_t i = 0; spectrum_matrix_readable(m->dtype) && i < m->rows; i++) {
        double x = row_peak(m, i);
        if (!isfinite(x)) {
            return NAN;
        }
        peak = x > peak ? x : peak;
    }
    return spectrum_matrix_readable(m->dtype) ? peak : (double)NAN;
}

double matrix_scale(double peak)
{
    int exponent = 0;
    frexp(peak, &exponent);
    if (exponent >= -PEAK_EXPONENT && exponent <= PEAK_EXPONENT) {
        return 1;
    }
    /* Neither the power nor its inverse leaves f64; a peak beyond comes near enough to 1. */
    exponent = exponent > EXPONENT_MAX ? EXPONENT_MAX : exponent;
    return ldexp(1, -(exponent < -EXPONENT_MAX ? -EXPONENT_MAX : exponent));
}

static void spectrum_matrix_load_f32(const unsigned char *p, enum dtype dtype, uint32_t n,
                                     float *ret)
{
    uint16_t code;
    switch (dtype) {
    case DTYPE_F32:
        memcpy(ret, p, n * sizeof *ret);
        return;
    case DTYPE_F16:
        for (uint32_t j = 0; j < n; j++) {
            memcpy(&code, p + (size_t)j * sizeof code, sizeof code);
            ret[j] = f32_from_f16(code);
        }
        return;
    default:
        for (uint32_t j = 0; j < n; j++) {
            memcpy(&code, p + (size_t)j * sizeof code, sizeof code);
            ret[j] = f32_from_bf16(code);
        }
    }
}

/* Entries [first, first + n) of row i. The scale may be beyond f32: the product is f64's. */
static void load_row_f32(const struct matrix *m, uint32_t i, uint32_t first, uint32_t n,
                         double scale, float *ret)
{
    const unsigned char *p = spectrum_matrix_row_at(m, i) + first * dtype_size(m->dtype);
    if (m->dtype == DTYPE_F64) {
        for (uint32_t j = 0; j < n; j++) {
            double x;
            memcpy(&x, p + (size_t)j * sizeof x, sizeof x);
            ret[j] = (float)(x * scale);
        }
        return;
    }
    spectrum_matrix_load_f32(p, m->dtype, n, ret);
    for (uint32_t j = 0; scale != 1 && j < n; j++) {
        ret[j] = (float)((double)ret[j] * scale);
    }
}

enum { TILE_ROWS = SPECTRUM_LANES, TILE_COLUMNS = 64 };

/* Rows [i, i + rows) and columns [j, j + columns) of m become columns and rows. */
static void load_tile(const struct matrix *m, double scale, uint32_t i, uint32_t rows, uint32_t j,
                      uint32_t columns, struct spectrum_vectors *ret)
{
    float tile[TILE_ROWS][TILE_COLUMNS];
    for (uint32_t r = 0; r < rows; r++) {
        load_row_f32(m, i + r, j, columns, scale, tile[r]);
    }
    for (uint32_t c = 0; c < columns; c++) {
        float *to = ret->data + (j + c) * ret->stride + i;
        for (uint32_t r = 0; r < rows; r++) {
            to[r] = tile[r][c];
        }
    }
}

static void load_transposed(const struct matrix *m, double scale, struct spectrum_vectors *ret)
{
    for (uint32_t i = 0; i < m->rows; i += TILE_ROWS) {
        uint32_t rows = m->rows - i < TILE_ROWS ? m->rows - i : TILE_ROWS;
        for (uint32_t j = 0; j < m->columns; j += TILE_COLUMNS) {
            uint32_t columns = m->columns - j < TILE_COLUMNS ? m->columns - j : TILE_COLUMNS;
            load_tile(m, scale, i, rows, j, columns, ret);
        }
    }
}

void matrix_load_f32(const struct matrix *m, double scale, bool transposed,
                     struct spectrum_vectors *ret)
{
    size_t used = transposed ? m->rows : m->columns;
    if (transposed) {
        load_transposed(m, scale, ret);
    }
    for (uint32_t i = 0; i < ret->count; i++) {
        float *vector = ret->data + i * ret->stride;
        if (!transposed) {
            load_row_f32(m, i, 0, m->columns, scale, vector);
        }
        memset(vector + used, 0, (ret->stride - used) * sizeof *vector);
    }
}

bool matrix_load_f64(const struct matrix *m, double *ret)
{
    if (!isfinite(matrix_peak(m))) {
        return false;
    }
    for (uint32_t i = 0; i < m->rows; i++) {
        attention_load(m->data, m->dtype, i * m->stride, m->columns, ret + (size_t)i * m->columns);
    }
    return true;
}

/* Whether entries [first, end) of row i are all zero, of either sign. */
static bool zeros(const struct matrix *m, uint32_t i, uint32_t first, uint32_t end)
{
    struct matrix part = *m;
    part.data = spectrum_matrix_row_at(m, i) + first * dtype_size(m->dtype);
    part.rows = 1;
    part.columns = end - first;
    return row_peak(&part, 0) == 0;
}

bool matrix_is_triangular(const struct matrix *m)
{
    bool lower = true, upper = true;
    for (uint32_t i = 0; i < m->rows && (lower || upper); i++) {
        lower = lower && (i + 1 >= m->columns || zeros(m, i, i + 1, m->columns));
        upper = upper && zeros(m, i, 0, i < m->columns ? i : m->columns);
    }
    return lower || upper;
}

double matrix_at(const struct matrix *m, uint32_t i, uint32_t j)
{
    double x;
    attention_load(m->data, m->dtype, i * m->stride + j, 1, &x);
    return x;
}

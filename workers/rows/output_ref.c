/* SPDX-License-Identifier: MIT */
/* output_ref: one small function per formula of KERNELS.md, key after key, compiled without
 * vectorising. */
#include "workers/rows/output_ref.h"

#include <math.h>

double output_ref_length(const double *x, uint32_t n)
{
    double largest = 0, sum = 0;
    for (uint32_t c = 0; c < n; c++) {
        double magnitude = fabs(x[c]);
        largest = magnitude > largest || isnan(magnitude) ? magnitude : largest;
    }
    if (!isfinite(largest) || !(largest > 0)) {
        return largest;
    }
    for (uint32_t c = 0; c < n; c++) {
        sum += x[c] / largest * (x[c] / largest);
    }
    return largest * sqrt(sum);
}

size_t output_ref_vector(const struct attention *a, uint32_t b, uint32_t h, uint32_t j,
                         uint32_t dim)
{
    uint32_t kv_heads = a->qk.kv_heads, kv = h / (a->heads / kv_heads);
    return (((size_t)b * kv_heads + kv) * a->keys + j) * dim;
}

/* -sum p ln p, p = share / sum of the shares; NaN when that is no distribution */
static double entropy_of_shares(const double *share, uint32_t n)
{
    double sum = 0, entropy = 0;
    for (uint32_t k = 0; k < n; k++) {
        sum += share[k];
    }
    if (!isfinite(sum) || !(sum > 0)) {
        return NAN;
    }
    for (uint32_t k = 0; k < n; k++) {
        double p = share[k] / sum;
        entropy -= p > 0 ? p * log(p) : 0;
    }
    return entropy;
}

/* |R_h A V|, and its share of |x|; the output is there. */
static void output_ref_add_write(const struct output_ref *work, const struct attention *a,
                                 struct head_block *head, uint32_t b, uint32_t h, uint32_t i)
{
    uint32_t rows = a->qk.written_dim, dim = a->qk.value_dim;
    for (uint32_t r = 0; r < rows; r++) {
        attention_load(a->qk.wo_r, DTYPE_F32, ((size_t)h * rows + r) * dim, dim, work->vector);
        work->written[r] = 0;
        for (uint32_t c = 0; c < dim; c++) {
            work->written[r] += work->vector[c] * work->output[c];
        }
    }
    double norm = output_ref_length(work->written, rows);
    moments_add_finite(&head->write_norm, norm);
    moments_add_finite(&head->residual_share, norm / attention_x_norm(a, b, i));
}

void output_ref_add(const struct output_ref *work, const struct attention *a,
                    struct head_block *head, uint32_t b, uint32_t h, uint32_t i,
                    const struct row *r)
{
    uint32_t dim = a->qk.value_dim;
    for (uint32_t c = 0; c < dim; c++) {
        work->output[c] = 0;
    }
    for (uint32_t k = 0; k < r->n; k++) {
        attention_load(a->qk.v, a->qk.v_dtype, output_ref_vector(a, b, h, r->key[k], dim), dim,
                       work->vector);
        for (uint32_t c = 0; c < dim; c++) {
            work->output[c] += r->weight[k] * work->vector[c];
        }
        double weight = r->weight[k] < 0 ? 0 : r->weight[k];
        work->share[k] = weight * output_ref_length(work->vector, dim);
    }
    double norm = output_ref_length(work->output, dim);
    moments_add_finite(&head->output_norm, norm);
    if (isfinite(norm)) {
        moments_add_finite(&head->norm_weighted_entropy, entropy_of_shares(work->share, r->n));
    }
    if (a->qk.wo_r) {
        output_ref_add_write(work, a, head, b, h, i);
    }
}

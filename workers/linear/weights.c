/* SPDX-License-Identifier: MIT */
/* weights: one projection after the other is described: its spectra from the matrix as sent, the
 * rest from a copy in f64. The R factors of its heads' slices, which the circuits need, are kept
 * until all four have been seen.
 *
 * Circuits
 * --------
 * A head's slice is written as a tall matrix with head_dim columns, [length, d]:
 *
 *     W_q, W_k, W_v  transposed rows of the slice, length = in
 *     W_o            its columns, length = out
 *
 * and with thin QR factors X = Q_x R_x, Y = Q_y R_y the circuit X Y^T = Q_x (R_x R_y^T) Q_y^T has
 * the singular values of R_x R_y^T, d x d. A slice shorter than d has an R of fewer rows. The
 * factors of W_k and W_v are per kv head, and shared by the heads that read them.
 *
 * Rank
 * ----
 * The bound s1 * max(m, n) * eps of the in x in circuit must hold for its d x d core: eps is scaled
 * by the ratio of their sizes.
 *
 * LAPACK's integers are 32 bits wide: what does not fit them is reported as out of memory. */
#include "workers/linear/weights.h"
#include "proto/err.h"
#include "workers/linear/spectrum_internal.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The shapes. */

static bool sent(const struct weights *w, enum projection p)
{
    return w->matrix[p].data != NULL;
}

/* Slices of a projection. */
static uint32_t slice_count(const struct weights *w, enum projection p)
{
    return p == PROJECTION_K || p == PROJECTION_V ? w->kv_heads : w->heads;
}

/* The side that the heads do not share out among them. */
static uint32_t slice_length(const struct projection_matrix *m, enum projection p)
{
    return p == PROJECTION_O ? m->out : m->in;
}

static bool shape_fits(const struct weights *w, enum projection p)
{
    const struct projection_matrix *m = &w->matrix[p];
    uint32_t shared = p == PROJECTION_O ? m->in : m->out;
    return m->in > 0 && m->out > 0 && shared == (uint64_t)slice_count(w, p) * w->head_dim;
}

int weights_check(const struct weights *w)
{
    if (w->heads == 0 || w->kv_heads == 0 || w->head_dim == 0 || w->heads % w->kv_heads != 0) {
        return ERR_SHAPE;
    }
    uint32_t present = 0;
    for (enum projection p = 0; p < PROJECTION_COUNT; p++) {
        if (sent(w, p) && !shape_fits(w, p)) {
            return ERR_SHAPE;
        }
        present += sent(w, p);
    }
    /* Keys and values are projected from the same states; queries, in cross-attention, from others.
     */
    if (sent(w, PROJECTION_K) && sent(w, PROJECTION_V) &&
        w->matrix[PROJECTION_K].in != w->matrix[PROJECTION_V].in) {
        return ERR_SHAPE;
    }
    return present > 0 ? 0 : ERR_SHAPE;
}

/* `count` spectra without numbers; NULL when out of memory. */
static struct spectrum *new_spectra(uint32_t count)
{
    struct spectrum *s = calloc(count, sizeof *s);
    for (uint32_t i = 0; s && i < count; i++) {
        spectrum_none(&s[i]);
    }
    return s;
}

void weights_result_clear(struct weights_result *result)
{
    for (uint32_t p = 0; p < PROJECTION_COUNT; p++) {
        free(result->projection[p].head);
        free(result->projection[p].correlation);
    }
    for (uint32_t c = 0; c < CIRCUIT_COUNT; c++) {
        free(result->circuit[c]);
    }
    *result = (struct weights_result){0};
}

/* One projection. */

/* A projection in f64, and the R factors of its slices. */
struct loaded {
    const struct projection_matrix *m;
    enum projection p;
    uint32_t slices, head_dim;
    bool spectra, whole, heads, eigenvalues; /* wanted */
    enum isa isa;
    double eps;
    bool finite;
    double *entries; /* [out][in] */
    double *r;       /* [slices][head_dim][r_rows], each column-major; NULL = not finite */
    uint32_t r_rows; /* min(slice_length, head_dim) */
};

static bool weights_all_finite(const double *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) {
            return false;
        }
    }
    return true;
}

/* Whether LAPACK's and BLAS' integers hold every length that is handed to them. */
static bool fits_lapack(const struct projection_matrix *m, uint32_t head_dim)
{
    return (uint64_t)m->in * m->out <= SIZE_MAX / sizeof(double) / 2 && m->in <= INT32_MAX / 8 &&
           m->out <= INT32_MAX / 8 && (uint64_t)m->in * head_dim <= INT32_MAX &&
           (uint64_t)m->out * head_dim <= INT32_MAX;
}

static int weights_load(struct loaded *l)
{
    const struct projection_matrix *m = l->m;
    if (!fits_lapack(m, l->head_dim)) {
        return ERR_MEMORY;
    }
    l->entries = malloc((size_t)m->out * m->in * sizeof *l->entries);
    if (!l->entries) {
        return ERR_MEMORY;
    }
    l->finite = true;
    for (uint32_t r = 0; r < m->out; r++) {
        double *row = l->entries + (size_t)r * m->in;
        attention_load(m->data, m->dtype, (size_t)r * m->in, m->in, row);
        l->finite = l->finite && weights_all_finite(row, m->in);
    }
    return 0;
}

/* The first entry of slice h, counted from the matrix's. */
static size_t slice_offset(const struct loaded *l, uint32_t h)
{
    size_t first = (size_t)h * l->head_dim;
    return l->p == PROJECTION_O ? first : first * l->m->in;
}

/* Slice h where it lies, as sent: f32 has faster ways than f64. */
static struct matrix slice_of(const struct loaded *l, uint32_t h)
{
    const unsigned char *sent_bytes = l->m->data;
    bool columns = l->p == PROJECTION_O;
    return (struct matrix){.data = sent_bytes + slice_offset(l, h) * dtype_size(l->m->dtype),
                           .dtype = l->m->dtype,
                           .rows = columns ? l->m->out : l->head_dim,
                           .columns = columns ? l->head_dim : l->m->in,
                           .stride = l->m->in};
}

static struct matrix whole_of(const struct loaded *l)
{
    return (struct matrix){.data = l->m->data,
                           .dtype = l->m->dtype,
                           .rows = l->m->out,
                           .columns = l->m->in,
                           .stride = l->m->in};
}

static int compute_spectra(const struct loaded *l, struct scratch *scratch,
                           struct projection_result *ret)
{
    struct matrix whole = whole_of(l);
    int rc = l->whole
                 ? spectrum_of_matrix(&whole, l->eps, SPECTRUM_FULL, l->isa, scratch, &ret->whole)
                 : 0;
    for (uint32_t h = 0; rc == 0 && l->heads && h < l->slices; h++) {
        struct matrix slice = slice_of(l, h);
        scratch_pause(scratch);
        rc = spectrum_of_matrix(&slice, l->eps, SPECTRUM_FULL, l->isa, scratch, &ret->head[h]);
    }
    return rc;
}

/* Adds X X^T to the upper triangle of gram, X row-major [slices][columns]. */
static void add_gram(double *gram, const double *x, uint32_t slices, uint32_t columns)
{
    cblas_dsyrk(CblasRowMajor, CblasUpper, CblasNoTrans, (blasint)slices, (blasint)columns, 1, x,
                (blasint)columns, 1, gram, (blasint)slices);
}

/* Scalar products of all pairs of flattened slices. The slices of W_o lie side by side in every
 * row, those of the others one after the other. */
static void gram_of_slices(const struct loaded *l, double *gram)
{
    memset(gram, 0, (size_t)l->slices * l->slices * sizeof *gram);
    if (l->p != PROJECTION_O) {
        add_gram(gram, l->entries, l->slices, l->head_dim * l->m->in);
        return;
    }
    for (uint32_t r = 0; r < l->m->out; r++) {
        add_gram(gram, l->entries + (size_t)r * l->m->in, l->slices, l->head_dim);
    }
}

static double weights_cosine_of(const double *gram, uint32_t slices, uint32_t g, uint32_t h)
{
    double square_g = gram[(size_t)g * slices + g], square_h = gram[(size_t)h * slices + h];
    double cosine = gram[(size_t)g * slices + h] / (sqrt(square_g) * sqrt(square_h));
    return isfinite(cosine) ? fmin(fmax(cosine, -1), 1) : NAN;
}

/* From scalar products to cosines, in place; the mean over the pairs that have one. */
static void compute_correlation(const struct loaded *l, struct projection_result *ret)
{
    double *c = ret->correlation, sum = 0;
    uint32_t n = l->slices, pairs = 0;
    gram_of_slices(l, c);
    for (uint32_t g = 0; g < n; g++) {
        for (uint32_t h = g + 1; h < n; h++) {
            double cosine = weights_cosine_of(c, n, g, h);
            c[(size_t)h * n + g] = cosine;
            sum += isnan(cosine) ? 0 : cosine;
            pairs += isnan(cosine) ? 0 : 1;
        }
    }
    for (uint32_t g = 0; g < n; g++) {
        double square = c[(size_t)g * n + g];
        c[(size_t)g * n + g] = square > 0 && isfinite(square) ? 1 : NAN;
        for (uint32_t h = g + 1; h < n; h++) {
            c[(size_t)g * n + h] = c[(size_t)h * n + g];
        }
    }
    ret->correlation_mean = pairs > 0 ? sum / pairs : NAN;
}

/* R factors. */

/* Copies slice h as a column-major [length, head_dim] matrix. */
static void copy_tall(const struct loaded *l, uint32_t h, double *ret)
{
    const double *from = l->entries + slice_offset(l, h);
    size_t length = slice_length(l->m, l->p);
    if (l->p != PROJECTION_O) {
        memcpy(ret, from, length * l->head_dim * sizeof *ret);
        return;
    }
    for (size_t r = 0; r < length; r++) {
        for (size_t c = 0; c < l->head_dim; c++) {
            ret[c * length + r] = from[r * l->m->in + c];
        }
    }
}

struct qr {
    lapack_int rows, columns, work_count;
    double *a, *tau, *work;
};

static lapack_int geqrf(const struct qr *qr, double *work, lapack_int work_count)
{
    lapack_int info = 0;
    LAPACK_dgeqrf(&qr->rows, &qr->columns, qr->a, &qr->rows, qr->tau, work, &work_count, &info);
    return info;
}

static void qr_lay(void *data, struct scratch_pieces *m)
{
    struct qr *qr = data;
    qr->a = scratch_carve(m, (uint64_t)qr->rows * (uint64_t)qr->columns, sizeof *qr->a);
    qr->tau = scratch_carve(m, (uint64_t)qr->columns, sizeof *qr->tau);
    qr->work = scratch_carve(m, (uint64_t)qr->work_count, sizeof *qr->work);
}

/* Returns 0 or ERR_MEMORY. */
static int take_qr(struct qr *qr, uint32_t rows, uint32_t columns, struct scratch *scratch)
{
    double answer = 0;
    *qr = (struct qr){.rows = (lapack_int)rows, .columns = (lapack_int)columns};
    if (geqrf(qr, &answer, -1) != 0 || !(answer >= 1 && answer < INT32_MAX)) {
        return ERR_MEMORY;
    }
    qr->work_count = (lapack_int)answer;
    return scratch_take_pieces(scratch, qr_lay, qr);
}

/* The upper triangle, the reflectors below it left out. */
static void copy_r(const struct qr *qr, uint32_t r_rows, double *ret)
{
    for (size_t c = 0; c < (size_t)qr->columns; c++) {
        for (size_t r = 0; r < r_rows; r++) {
            ret[c * r_rows + r] = r <= c ? qr->a[c * (size_t)qr->rows + r] : 0;
        }
    }
}

static double *r_of(const struct loaded *l, uint32_t slice)
{
    return l->r + (size_t)slice * l->head_dim * l->r_rows;
}

static int compute_r(struct loaded *l, struct scratch *scratch)
{
    uint32_t length = slice_length(l->m, l->p);
    l->r_rows = length < l->head_dim ? length : l->head_dim;
    struct qr qr;
    int rc = take_qr(&qr, length, l->head_dim, scratch);
    if (rc < 0) {
        return rc;
    }
    l->r = malloc((size_t)l->slices * l->head_dim * l->r_rows * sizeof *l->r);
    if (!l->r) {
        return ERR_MEMORY;
    }
    for (uint32_t h = 0; h < l->slices; h++) {
        copy_tall(l, h, qr.a);
        geqrf(&qr, qr.work, qr.work_count); /* fails for bad arguments only */
        copy_r(&qr, l->r_rows, r_of(l, h));
    }
    return 0;
}

/* Putting it together. */

static int compute_numbers(struct loaded *l, struct scratch *scratch, struct projection_result *ret)
{
    compute_correlation(l, ret);
    if (!l->spectra) {
        return 0;
    }
    int rc = compute_spectra(l, scratch, ret);
    if (rc == 0) {
        rc = compute_r(l, scratch);
    }
    if (rc == 0 && l->eigenvalues) {
        struct matrix whole = whole_of(l);
        struct moduli moduli;
        rc = lapack_moduli(&whole, scratch, &moduli);
        if (rc == 0) {
            ret->eigenvalue_min = moduli.smallest;
            ret->eigenvalue_max = moduli.largest;
        }
    }
    return rc;
}

static int compute_projection(struct loaded *l, struct scratch *scratch,
                              struct projection_result *ret)
{
    size_t cells = (size_t)l->slices * l->slices;
    ret->present = true;
    ret->heads = l->slices;
    ret->head = new_spectra(l->slices);
    ret->correlation = calloc(cells, sizeof *ret->correlation);
    if (!ret->head || !ret->correlation) {
        return ERR_MEMORY;
    }
    for (size_t i = 0; i < cells; i++) {
        ret->correlation[i] = NAN;
    }
    int rc = weights_load(l);
    if (rc == 0 && l->finite) {
        rc = compute_numbers(l, scratch, ret);
    }
    free(l->entries);
    l->entries = NULL;
    return rc;
}

/* One head's circuit from the R factors of two slices; `core` holds x->r_rows * y->r_rows. */
static int compute_circuit(const struct loaded *x, uint32_t slice_x, const struct loaded *y,
                           uint32_t slice_y, double *core, struct scratch *scratch,
                           struct spectrum *ret)
{
    uint32_t m = x->r_rows, n = y->r_rows, d = x->head_dim;
    cblas_dgemm(CblasColMajor, CblasNoTrans, CblasTrans, (blasint)m, (blasint)n, (blasint)d, 1,
                r_of(x, slice_x), (blasint)m, r_of(y, slice_y), (blasint)n, 0, core, (blasint)m);
    double size_x = slice_length(x->m, x->p), size_y = slice_length(y->m, y->p);
    double eps = fmax(x->eps, y->eps) * fmax(size_x, size_y) / (m > n ? m : n);
    /* Column-major m x n read by rows is its transpose, with the same singular values. */
    struct matrix matrix = {.data = core, .dtype = DTYPE_F64, .rows = n, .columns = m, .stride = m};
    return spectrum_of_matrix(&matrix, eps, SPECTRUM_FULL, x->isa, scratch, ret);
}

/* The circuits of all heads, x per head and y per kv head. */
static int compute_circuits(const struct weights *w, const struct loaded *x, const struct loaded *y,
                            struct scratch *scratch, struct spectrum **ret)
{
    *ret = new_spectra(w->heads);
    double *core = malloc((size_t)x->r_rows * y->r_rows * sizeof *core);
    int rc = *ret && core ? 0 : ERR_MEMORY;
    uint32_t group = w->heads / w->kv_heads;
    for (uint32_t h = 0; rc == 0 && x->finite && y->finite && h < w->heads; h++) {
        scratch_pause(scratch);
        rc = compute_circuit(x, h, y, h / group, core, scratch, &(*ret)[h]);
    }
    free(core);
    return rc;
}

/* max 0: no bound */
static bool weights_fits(const struct projection_matrix *m, uint32_t max)
{
    return max == 0 || (m->out <= max && m->in <= max);
}

/* The shorter side of a head's slice, and its circuits, count as well. */
static bool heads_fit(const struct weights *w)
{
    return w->whole_max_size == 0 || w->head_dim <= w->whole_max_size;
}

static int weights_compute_all(const struct weights *w, struct loaded l[PROJECTION_COUNT],
                               struct scratch *scratch, struct weights_result *ret)
{
    int rc = 0;
    for (enum projection p = 0; p < PROJECTION_COUNT; p++) {
        ret->projection[p] = (struct projection_result){
            .eigenvalue_min = NAN, .eigenvalue_max = NAN, .correlation_mean = NAN};
        spectrum_none(&ret->projection[p].whole);
        const struct projection_matrix *m = &w->matrix[p];
        l[p] = (struct loaded){.m = m,
                               .p = p,
                               .slices = slice_count(w, p),
                               .head_dim = w->head_dim,
                               .spectra = !w->without_spectra,
                               .whole = weights_fits(m, w->whole_max_size),
                               .heads = heads_fit(w),
                               .eigenvalues =
                                   m->out == m->in && weights_fits(m, w->eigenvalue_max_size),
                               .isa = w->isa,
                               .eps = spectrum_eps(m->dtype)};
    }
    for (enum projection p = 0; rc == 0 && p < PROJECTION_COUNT; p++) {
        scratch_pause(scratch);
        rc = sent(w, p) ? compute_projection(&l[p], scratch, &ret->projection[p]) : 0;
    }
    return rc;
}

static int compute_all_circuits(const struct weights *w, struct loaded l[PROJECTION_COUNT],
                                struct scratch *scratch, struct weights_result *ret)
{
    int rc = 0;
    if (sent(w, PROJECTION_Q) && sent(w, PROJECTION_K)) {
        rc = compute_circuits(w, &l[PROJECTION_Q], &l[PROJECTION_K], scratch,
                              &ret->circuit[CIRCUIT_QK]);
    }
    if (rc == 0 && sent(w, PROJECTION_V) && sent(w, PROJECTION_O)) {
        rc = compute_circuits(w, &l[PROJECTION_O], &l[PROJECTION_V], scratch,
                              &ret->circuit[CIRCUIT_OV]);
    }
    return rc;
}

int weights_compute(const struct weights *w, struct scratch *scratch,
                    struct weights_result *ret_result)
{
    struct loaded l[PROJECTION_COUNT];
    *ret_result = (struct weights_result){.heads = w->heads};
    int rc = weights_compute_all(w, l, scratch, ret_result);
    if (rc == 0 && !w->without_spectra && heads_fit(w)) {
        rc = compute_all_circuits(w, l, scratch, ret_result);
    }
    for (uint32_t p = 0; p < PROJECTION_COUNT; p++) {
        free(l[p].r);
    }
    if (rc < 0) {
        weights_result_clear(ret_result);
    }
    return rc;
}

/* Metrics: matrix by matrix, circuits first, the numbers of each in this order; then the mean and
 * the largest correlation of each projection. */

static const size_t matrix_numbers[] = {
    offsetof(struct spectrum, spectral_norm), offsetof(struct spectrum, condition_number),
    offsetof(struct spectrum, effective_rank_entropy), offsetof(struct spectrum, stable_rank)};
enum {
    MATRIX_NUMBERS = sizeof matrix_numbers / sizeof matrix_numbers[0],
    MATRIX_SPECTRA = (CIRCUIT_COUNT + PROJECTION_COUNT) * MATRIX_NUMBERS,
};
_Static_assert(METRIC_MATRIX_COUNT == MATRIX_SPECTRA + 2 * PROJECTION_COUNT,
               "one metric for each number");

static uint32_t slice_of_head(const struct weights_result *result,
                              const struct projection_result *projection, uint32_t head)
{
    return (uint32_t)((uint64_t)head * projection->heads / result->heads);
}

static const struct spectrum *weights_spectrum(const struct weights_result *result, int matrix,
                                               uint32_t head)
{
    if (matrix < CIRCUIT_COUNT) {
        return result->circuit[matrix] ? &result->circuit[matrix][head] : NULL;
    }
    const struct projection_result *projection = &result->projection[matrix - CIRCUIT_COUNT];
    return projection->present && projection->head
               ? &projection->head[slice_of_head(result, projection, head)]
               : NULL;
}

/* Its slice with the other slices that have one: the mean or the largest. */
static double weights_correlation(const struct weights_result *result,
                                  const struct projection_result *projection, bool largest,
                                  uint32_t head)
{
    if (!projection->present || !projection->correlation) {
        return NAN;
    }
    uint32_t own = slice_of_head(result, projection, head), count = 0;
    const double *row = projection->correlation + (size_t)own * projection->heads;
    double sum = 0, most = NAN;
    for (uint32_t g = 0; g < projection->heads; g++) {
        if (g != own && !isnan(row[g])) {
            sum += row[g];
            most = fmax(most, row[g]);
            count++;
        }
    }
    return largest ? most : count > 0 ? sum / count : NAN;
}

double weights_number(const struct weights_result *result, enum metric metric, uint32_t head)
{
    int number = (int)metric - METRIC_MATRIX_FIRST, after = number - MATRIX_SPECTRA;
    if (after >= 0) {
        return weights_correlation(result, &result->projection[after / 2], after % 2 == 1, head);
    }
    const struct spectrum *spectrum = weights_spectrum(result, number / MATRIX_NUMBERS, head);
    if (!spectrum) {
        return NAN;
    }
    size_t offset = matrix_numbers[number % MATRIX_NUMBERS];
    return *(const double *)(const void *)((const char *)spectrum + offset);
}

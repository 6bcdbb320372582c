/* SPDX-License-Identifier: MIT */
/* The map under `weights`: spectra of projection matrices and of the products of two. */
#include "proto/result_internal.h"

/* The numbers of a spectrum that a matrix has; `singular_values` follow them. */
static const struct {
    const char *name;
    size_t offset;
} fields[] = {
    {"spectral_norm", offsetof(struct spectrum, spectral_norm)},
    {"condition_number", offsetof(struct spectrum, condition_number)},
    {"rank", offsetof(struct spectrum, rank)},
    {"effective_rank", offsetof(struct spectrum, effective_rank)},
    {"effective_rank_entropy", offsetof(struct spectrum, effective_rank_entropy)},
    {"stable_rank", offsetof(struct spectrum, stable_rank)},
    {"nuclear_norm", offsetof(struct spectrum, nuclear_norm)},
};
enum { FIELDS = sizeof fields / sizeof fields[0] };

static double field_of(const struct spectrum *spectrum, unsigned field)
{
    return *(const double *)(const void *)((const char *)spectrum + fields[field].offset);
}

/* One list over the heads per number. */
static void result_weights_put_heads(struct mpk_writer *writer, const struct spectrum *head,
                                     uint32_t heads)
{
    mpk_pair_map(writer, "heads", FIELDS + 1);
    for (unsigned f = 0; f < FIELDS; f++) {
        mpk_pair_array(writer, fields[f].name, heads);
        for (uint32_t h = 0; h < heads; h++) {
            mpk_put_f64(writer, field_of(&head[h], f));
        }
    }
    mpk_pair_array(writer, "singular_values", heads);
    for (uint32_t h = 0; h < heads; h++) {
        part_vector_row(writer, VECTOR_SINGULAR_VALUES, head[h].singular_values);
    }
}

static void result_weights_put_projection(struct mpk_writer *writer, const char *name,
                                          const struct projection_result *projection)
{
    mpk_pair_map(writer, name, 4);
    mpk_pair_map(writer, "whole", FIELDS + 3);
    for (unsigned f = 0; f < FIELDS; f++) {
        mpk_pair_f64(writer, fields[f].name, field_of(&projection->whole, f));
    }
    mpk_put_str(writer, "singular_values");
    part_vector_row(writer, VECTOR_SINGULAR_VALUES, projection->whole.singular_values);
    mpk_pair_f64(writer, "eigenvalue_min", projection->eigenvalue_min);
    mpk_pair_f64(writer, "eigenvalue_max", projection->eigenvalue_max);
    result_weights_put_heads(writer, projection->head, projection->heads);
    part_matrix(writer, "head_correlation", projection->correlation, projection->heads,
                projection->heads);
    mpk_pair_f64(writer, "head_correlation_mean", projection->correlation_mean);
}

void part_weights(struct mpk_writer *writer, const struct weights_result *weights)
{
    if (!weights) {
        return;
    }
    struct mpk_open map = mpk_open(writer, "weights");
    for (unsigned p = 0; p < PROJECTION_COUNT; p++) {
        if (weights->projection[p].present) {
            result_weights_put_projection(writer, projection_name[p], &weights->projection[p]);
        }
    }
    for (unsigned c = 0; c < CIRCUIT_COUNT; c++) {
        if (!weights->circuit[c]) {
            continue;
        }
        mpk_pair_map(writer, circuit_name[c], 1);
        result_weights_put_heads(writer, weights->circuit[c], weights->heads);
    }
    mpk_close_map(writer, &map);
}

/* SPDX-License-Identifier: MIT */
/* measure_numbers: from the merged state of a message to the numbers that are published. */
#ifndef WORKERS_MEASURE_NUMBERS_H
#define WORKERS_MEASURE_NUMBERS_H

#include "workers/measure.h"
#include "workers/linear/spectra.h"

/* The results after all jobs, merged; NULL = off. */
struct measure_state {
    const struct attention *attention;
    const struct measure_plan *plan;
    const struct block *block;
    const struct similarity *similarity;
    double *gradient; /* [heads], not yet normalised */
    const struct moments *weighted;
    const struct spectra *spectra; /* of the map, or of Q K^T */
    const struct pair *head_pairs;
    const uint32_t *head_pair_count;
};

/* Bytes of the numbers of a message with so many heads. */
size_t measure_numbers_bytes(uint32_t heads, bool similarity);
/* Fills *ret_measured with pointers into *ret_storage (free) and into the state. One more pass over
 * the weights for the map weighted by importance. Returns 0 or ERR_MEMORY. */
int measure_numbers(struct measure_state *state, struct scratch *scratch,
                    struct measured *ret_measured, void **ret_storage);
/* Adds what only the map has (importance, aggregate, pairs, similarity, spectrum) to the numbers
 * that came from queries and keys; both must outlive *into. */
void measure_numbers_add_maps(struct measured *into, const struct measured *maps);

#endif

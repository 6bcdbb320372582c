/* SPDX-License-Identifier: MIT */
/* occurrence: for every position of a token sequence, the nearest earlier one with the same token.
 *
 * Following the chain p, previous[p], previous[previous[p]], ... visits all earlier occurrences.
 * Pure; any thread. */
#ifndef WORKERS_ROWS_OCCURRENCE_H
#define WORKERS_ROWS_OCCURRENCE_H

#include <stdint.h>

#define OCCURRENCE_NONE UINT32_MAX

/* Sets ret_previous[0..n) to positions or OCCURRENCE_NONE; `order` is room for 2 n elements. The
 * tokens may be unaligned. Linear in n, whatever the tokens are. */
void occurrence_link(const int32_t *tokens, uint32_t n, uint32_t *order, uint32_t *ret_previous);

#endif

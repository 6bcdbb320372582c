/* SPDX-License-Identifier: MIT */
/* first_key: the first key of the document that a row is of, which first_token and
 * entropy_sans_first are about (KERNELS.md, "First key"). It is the same for all heads. A row that
 * sees its first key sees none before it. Any thread. */
#ifndef WORKERS_ROWS_FIRST_KEY_H
#define WORKERS_ROWS_FIRST_KEY_H

#include "workers/base/attention.h"
#include "workers/base/scratch.h"

/* Whether it may be another key than key 0: in self-attention with a mask tensor or documents. */
static inline bool first_key_differs(const struct attention *a)
{
    return a->self && (a->mask || a->documents);
}

/* Sets ret_first[B][Tq], attention.first, of an attention of which it differs; 0 for rows that see
 * nothing. Reads the mask from each row's ends to the first key it sees. Returns 0 or ERR_MEMORY.
 */
int first_key_find(const struct attention *a, struct scratch *scratch, uint32_t *ret_first);

#endif

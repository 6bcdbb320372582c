/* SPDX-License-Identifier: MIT */
/* lender: memory that tensors are copied to and that attnd reads in place (PROTOCOL.md, "The
 * same-host lane"). Any thread unless it says otherwise; nothing waits. */
#ifndef CLIENTS_C_SRC_LENDER_H
#define CLIENTS_C_SRC_LENDER_H

#include "proto/memory.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct lender;
/* A buffer: taken, filled, named in at most one message, and given back. */
struct lent;

/* Lends at most bytes_max. NULL: out of memory. */
struct lender *lender_new(uint64_t bytes_max);
/* When every buffer has been given back. Accepts NULL. */
void lender_free(struct lender **lender);

/* A buffer of at least so many bytes, which *ret_data points to; NULL: none is free. Accepts NULL.
 */
struct lent *lender_take(struct lender *lender, uint64_t bytes, void **ret_data);
/* Nobody here reads or writes it any more. */
void lender_give(struct lent *lent);

/* The sending thread. */

/* Connects to the attnd at this endpoint, if it is one that takes memory (`known`), and lends it
 * what there was no buffer for. */
void lender_tend(struct lender *lender, const char *endpoint, bool known);
/* The connection, to be polled for its end only; -1: there is none. Accepts NULL. */
int lender_descriptor(struct lender *lender);
/* Writes the frame that stands for these bytes of the buffer. Whether attnd knows it: then it is
 * attnd's until that says otherwise, which may be before the call that sends the frame returns. */
bool lender_name(struct lent *lent, const void *data, uint64_t bytes,
                 struct memory_reference *ret_reference);
/* No message that names it was sent: it is ours. */
void lender_not_sent(struct lent *lent);

#endif

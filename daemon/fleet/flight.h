/* SPDX-License-Identifier: MIT */
/* flight: rows of the outbox that were handed to the servers and not acknowledged yet, and those
 * that failed and go again. A pure table, bounded by whoever fills it. A row is through when each
 * of its pieces was acknowledged. */
#ifndef DAEMON_FLEET_FLIGHT_H
#define DAEMON_FLEET_FLIGHT_H

#include <stdbool.h>
#include <stdint.h>

struct flight_row {
    uint64_t seq, turn, size;
    uint64_t put_ns;       /* when its pieces were handed over last, by the caller's clock */
    uint32_t pieces, left; /* left: not acknowledged */
    uint8_t *done;         /* [pieces]; owned */
    bool failed;           /* some piece is to go again */
};

struct flight_table {
    struct flight_row *rows; /* owned */
    uint32_t count, capacity;
    uint64_t bytes;
};

void flight_clear(struct flight_table *flight);
/* NULL when it is not there. Valid until a row is added or removed. */
struct flight_row *flight_find(struct flight_table *flight, uint64_t seq);
/* NULL when there is no memory. `seq` is not there yet. */
struct flight_row *flight_add(struct flight_table *flight, uint64_t seq, uint64_t turn,
                              uint64_t size, uint32_t pieces);
/* A piece, from 1, was acknowledged, or was not. Returns whether the row is through: then it is
 * removed. An answer for another row, or another turn, is nothing. */
bool flight_answer(struct flight_table *flight, uint64_t seq, uint64_t turn, uint32_t piece,
                   bool taken);
void flight_remove(struct flight_table *flight, uint64_t seq);
/* The failed row with the least number, or NULL. */
struct flight_row *flight_failed(struct flight_table *flight);
/* Rows that were handed over before this time will not be acknowledged any more. */
void flight_fail_before(struct flight_table *flight, uint64_t put_ns);

#endif

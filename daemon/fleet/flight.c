/* SPDX-License-Identifier: MIT */
#include "daemon/fleet/flight.h"
#include "daemon/base/grow.h"

#include <stdlib.h>

void flight_clear(struct flight_table *flight)
{
    for (uint32_t i = 0; i < flight->count; i++) {
        free(flight->rows[i].done);
    }
    free(flight->rows);
    *flight = (struct flight_table){.rows = NULL};
}

struct flight_row *flight_find(struct flight_table *flight, uint64_t seq)
{
    for (uint32_t i = 0; i < flight->count; i++) {
        if (flight->rows[i].seq == seq) {
            return &flight->rows[i];
        }
    }
    return NULL;
}

struct flight_row *flight_add(struct flight_table *flight, uint64_t seq, uint64_t turn,
                              uint64_t size, uint32_t pieces)
{
    if (!grow(&flight->rows, flight->count, &flight->capacity, sizeof *flight->rows)) {
        return NULL;
    }
    uint8_t *done = calloc(pieces, 1);
    if (!done) {
        return NULL;
    }
    struct flight_row *row = &flight->rows[flight->count++];
    *row = (struct flight_row){
        .seq = seq, .turn = turn, .size = size, .pieces = pieces, .left = pieces, .done = done};
    flight->bytes += size;
    return row;
}

void flight_remove(struct flight_table *flight, uint64_t seq)
{
    struct flight_row *row = flight_find(flight, seq);
    if (row) {
        flight->bytes -= row->size;
        free(row->done);
        *row = flight->rows[--flight->count];
    }
}

bool flight_answer(struct flight_table *flight, uint64_t seq, uint64_t turn, uint32_t piece,
                   bool taken)
{
    struct flight_row *row = flight_find(flight, seq);
    if (!row || row->turn != turn || piece < 1 || piece > row->pieces || row->done[piece - 1]) {
        return false;
    }
    row->failed = row->failed || !taken;
    row->done[piece - 1] = taken;
    row->left -= taken;
    if (row->left > 0) {
        return false;
    }
    flight_remove(flight, seq);
    return true;
}

struct flight_row *flight_failed(struct flight_table *flight)
{
    struct flight_row *first = NULL;
    for (uint32_t i = 0; i < flight->count; i++) {
        struct flight_row *row = &flight->rows[i];
        if (row->failed && (!first || row->seq < first->seq)) {
            first = row;
        }
    }
    return first;
}

void flight_fail_before(struct flight_table *flight, uint64_t put_ns)
{
    for (uint32_t i = 0; i < flight->count; i++) {
        struct flight_row *row = &flight->rows[i];
        row->failed = row->failed || row->put_ns < put_ns;
    }
}

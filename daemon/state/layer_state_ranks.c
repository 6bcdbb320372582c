/* SPDX-License-Identifier: MIT */
/* The ranks of a state, and their entropies. While all rows are of one rank its entropies are those
 * of the heads, and nothing is kept beside them; with the second rank each gets numbers of its own.
 * A state of several ranks that came without these does not know them: such rows count for no rank.
 */
#include "daemon/state/layer_state_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int layer_state_ranks_reserve(struct layer_state *state, uint32_t first, uint32_t bytes)
{
    uint32_t begin = first / 8, had = state->rank_first / 8, end = begin + bytes;
    if (state->rank_bytes > 0) {
        begin = begin < had ? begin : had;
        end = end > had + state->rank_bytes ? end : had + state->rank_bytes;
    }
    if (end - begin == state->rank_bytes) {
        return 0;
    }
    uint8_t *bits = calloc(end - begin, 1);
    if (!bits) {
        return ERR_MEMORY;
    }
    if (state->rank_bytes > 0) {
        memcpy(bits + (had - begin), state->rank_bits, state->rank_bytes);
    }
    free(state->rank_bits);
    state->rank_bits = bits;
    state->rank_first = 8 * begin;
    state->rank_bytes = end - begin;
    return 0;
}

uint32_t layer_state_ranks(const struct layer_state *state)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < state->rank_bytes; i++) {
        count += (uint32_t)__builtin_popcount(state->rank_bits[i]);
    }
    return count;
}

bool layer_state_ranks_have(const struct layer_state *state, uint32_t rank)
{
    uint32_t byte = (rank - state->rank_first) / 8;
    return rank >= state->rank_first && byte < state->rank_bytes &&
           state->rank_bits[byte] >> rank % 8 & 1;
}

/* Its first and last byte have ranks. */
bool layer_state_ranks_only(const struct layer_state *state, uint32_t *ret_rank)
{
    if (state->rank_bytes != 1 || __builtin_popcount(state->rank_bits[0]) != 1) {
        return false;
    }
    *ret_rank = state->rank_first + (uint32_t)__builtin_ctz(state->rank_bits[0]);
    return true;
}

int layer_state_ranks_entropy(const struct layer_state *state, uint32_t heads,
                              struct rank_entropy *into)
{
    uint32_t rank;
    if (!layer_state_ranks_only(state, &rank)) {
        return rank_entropy_merge(into, &state->rank_entropy, heads);
    }
    uint64_t *rows = calloc(heads, sizeof *rows);
    double *mean = calloc(heads, sizeof *mean);
    int code = rows && mean ? 0 : ERR_MEMORY;
    for (uint32_t h = 0; h < heads && !code; h++) {
        struct moments moments = stat_find(&state->head[h].stats, METRIC_ENTROPY).moments;
        rows[h] = moments.n;
        mean[h] = moments.n > 0 ? moments.mean : 0;
    }
    if (!code) {
        code = rank_entropy_add(into, rank, 0, heads, rows, mean);
    }
    free(rows);
    free(mean);
    return code;
}

/* Gives the only rank that there is numbers of its own. */
static int layer_state_ranks_split(struct layer_state *state)
{
    uint32_t rank;
    return layer_state_ranks_only(state, &rank) && state->rank_entropy.count == 0
               ? layer_state_ranks_entropy(state, state->heads, &state->rank_entropy)
               : 0;
}

int layer_state_ranks_add(struct layer_state *state, const struct message *message,
                          const struct measured *measured)
{
    uint32_t rank = message->header.rank, only;
    int code = layer_state_ranks_have(state, rank) ? 0 : layer_state_ranks_split(state);
    if (!code) {
        code = layer_state_ranks_reserve(state, rank - rank % 8, 1);
    }
    if (code) {
        return code;
    }
    state->rank_bits[(rank - state->rank_first) / 8] |= (uint8_t)(1u << rank % 8);
    if (message->header.type == MESSAGE_WEIGHTS || !measured->value[METRIC_ENTROPY] ||
        layer_state_ranks_only(state, &only)) {
        return 0;
    }
    const struct header *header = &message->header;
    uint64_t *rows = calloc(measured->heads, sizeof *rows);
    double *mean = calloc(measured->heads, sizeof *mean);
    code = rows && mean ? 0 : ERR_MEMORY;
    for (uint32_t h = 0; h < measured->heads && !code; h++) {
        const struct moments *moments = &measured->head[h].row[METRIC_ENTROPY].moments;
        bool sound = moments->n > 0 && fabs(moments->min) <= STAT_VALUE_MOST &&
                     fabs(moments->max) <= STAT_VALUE_MOST;
        rows[h] = sound ? moments->n : 0;
        mean[h] = sound ? moments->mean : 0;
    }
    if (!code) {
        code = rank_entropy_add(&state->rank_entropy, header->rank, header->head_offset,
                                measured->heads, rows, mean);
    }
    free(rows);
    free(mean);
    return code;
}

static int layer_state_ranks_unite(struct layer_state *into, const struct layer_state *from)
{
    int code = from->rank_bytes > 0
                   ? layer_state_ranks_reserve(into, from->rank_first, from->rank_bytes)
                   : 0;
    for (uint32_t i = 0; i < from->rank_bytes && !code; i++) {
        into->rank_bits[(from->rank_first - into->rank_first) / 8 + i] |= from->rank_bits[i];
    }
    return code;
}

int layer_state_ranks_merge(struct layer_state *into, const struct layer_state *const *from,
                            uint32_t count)
{
    struct layer_state all = {0}; /* of which only the ranks are used */
    uint32_t rank;
    int code = layer_state_ranks_unite(&all, into);
    for (uint32_t i = 0; i < count && !code; i++) {
        code = layer_state_ranks_unite(&all, from[i]);
    }
    if (!code && all.rank_bytes > 0 && !layer_state_ranks_only(&all, &rank)) {
        code = layer_state_ranks_split(into);
        for (uint32_t i = 0; i < count && !code; i++) {
            uint32_t heads = from[i]->heads < into->heads ? from[i]->heads : into->heads;
            code = layer_state_ranks_entropy(from[i], heads, &into->rank_entropy);
        }
    }
    if (code) {
        free(all.rank_bits);
        return code;
    }
    free(into->rank_bits);
    into->rank_bits = all.rank_bits;
    into->rank_first = all.rank_first;
    into->rank_bytes = all.rank_bytes;
    return 0;
}

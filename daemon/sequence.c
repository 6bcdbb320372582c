/* SPDX-License-Identifier: MIT */
#include "sequence.h"

#include "err.h"

#include <stdlib.h>
#include <string.h>

static int reserve(struct sequences *sequences, uint32_t count)
{
    if (count <= sequences->count)
        return 0;
    if (count < 2 * sequences->count)
        count = 2 * sequences->count;
    struct sequence *grown = realloc(sequences->of_rank, count * sizeof *grown);
    if (!grown)
        return ERR_MEMORY;
    memset(grown + sequences->count, 0, (count - sequences->count) * sizeof *grown);
    sequences->of_rank = grown;
    sequences->count = count;
    return 0;
}

int sequences_next(struct sequences *sequences, uint32_t rank_index, uint64_t seq, uint64_t dropped,
                   struct losses *ret_losses)
{
    if (reserve(sequences, rank_index + 1) != 0)
        return ERR_MEMORY;
    struct sequence *sequence = &sequences->of_rank[rank_index];
    if (sequences_passed(sequences, rank_index, seq))
        return seq + 1 == sequence->next ? ERR_SEQ_DUPLICATE : ERR_SEQ_ORDER;
    bool from_start = sequence->seen || seq == 0;
    ret_losses->joined_late = !from_start;
    ret_losses->lost = sequence->seen ? seq - sequence->next : 0;
    ret_losses->source =
        from_start && dropped > sequence->dropped ? dropped - sequence->dropped : 0;
    *sequence = (struct sequence){.seen = 1,
                                  .first = sequence->seen ? sequence->first : seq,
                                  .next = seq + 1,
                                  .dropped = dropped};
    return 0;
}

bool sequences_passed(const struct sequences *sequences, uint32_t rank_index, uint64_t seq)
{
    return rank_index < sequences->count && sequences->of_rank[rank_index].seen &&
           seq < sequences->of_rank[rank_index].next;
}

uint64_t sequences_since(const struct sequences *sequences, const struct sequences *older)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < sequences->count; i++) {
        const struct sequence *now = &sequences->of_rank[i];
        bool known = i < older->count && older->of_rank[i].seen;
        count += now->next - (known ? older->of_rank[i].next : now->first);
    }
    return count;
}

int sequences_merge(struct sequences *into, const struct sequences *from)
{
    if (reserve(into, from->count) != 0)
        return ERR_MEMORY;
    for (uint32_t i = 0; i < from->count; i++)
        if (from->of_rank[i].next > into->of_rank[i].next)
            into->of_rank[i] = from->of_rank[i];
    return 0;
}

void sequences_clear(struct sequences *sequences)
{
    free(sequences->of_rank);
    *sequences = (struct sequences){0};
}

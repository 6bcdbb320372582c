/* SPDX-License-Identifier: MIT */
#include "daemon/run/restore_counts.h"

#include "daemon/state/stored.h"

#include <string.h>

/* Copies a list whose length nobody else says. Returns how many; 0: there are none, and *ret_list
 * is unchanged. */
static uint32_t restore_list(struct stored *in, const char *key, size_t size, void *ret_list)
{
    const uint8_t *bytes = NULL;
    size_t got = 0;
    stored_bytes(in, key, &bytes, &got);
    if (got == 0) {
        return 0;
    }
    stored_copy(in, key, got / size, size, ret_list);
    return in->code ? 0 : (uint32_t)(got / size);
}

void restore_sequences(struct stored *in, const char *key, struct sequences *sequences)
{
    struct sequence *of_rank = NULL;
    uint32_t count = restore_list(in, key, sizeof *of_rank, &of_rank);
    if (count > 0) {
        sequences_clear(sequences);
        sequences->of_rank = of_rank;
        sequences->count = count;
    }
}

/* Not every run has used the reliable lane. */
void restore_reliable(struct run *run, struct stored *in, struct sequences *into)
{
    struct sequences saved = {0};
    if (in->code || !mpk_find(in->map, "reliable")) {
        return;
    }
    restore_sequences(in, "reliable", &saved);
    stored_note(in, sequences_merge(into, &saved));
    sequences_clear(&saved);
    run->reliable = true;
}

/* One with fewer reasons is from an older attnd; with more, from a newer one. */
void restore_tally(struct stored *in, const char *key, struct tally *tally)
{
    const uint8_t *bytes = NULL;
    size_t size = 0;
    stored_bytes(in, key, &bytes, &size);
    if (size > 0) {
        memcpy(tally, bytes, size < sizeof *tally ? size : sizeof *tally);
    }
}

void restore_counts(struct stored *in, struct counts *counts)
{
    stored_u64(in, "received", UINT64_MAX, &counts->received);
    stored_u64(in, "processed", UINT64_MAX, &counts->processed);
    restore_tally(in, "tally", &counts->tally);
}

/* Earlier versions did not save them. */
void restore_drop_totals(struct stored *in, struct run *run)
{
    struct drop_totals *totals = &run->drop_totals;
    if (!mpk_find(in->map, "drop_totals")) {
        return;
    }
    stored_u64(in, "found", UINT64_MAX, &run->found);
    uint32_t count = restore_list(in, "drop_totals", sizeof *totals->of_rank, &totals->of_rank);
    totals->count = count > 0 ? count : totals->count;
}

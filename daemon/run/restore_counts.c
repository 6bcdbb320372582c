/* SPDX-License-Identifier: MIT */
#include "daemon/run/restore_counts.h"

#include "daemon/state/stored.h"

#include <stdlib.h>
#include <string.h>

int restore_sequences(const msgpack_object *map, const char *key, struct sequences *sequences)
{
    const uint8_t *bytes;
    size_t size;
    int code = stored_bytes(map, key, &bytes, &size);
    if (code || size == 0) {
        return code;
    }
    if (size % sizeof *sequences->of_rank != 0) {
        return ERR_STORE_FORMAT;
    }
    sequences_clear(sequences);
    sequences->of_rank = malloc(size);
    if (!sequences->of_rank) {
        return ERR_MEMORY;
    }
    memcpy(sequences->of_rank, bytes, size);
    sequences->count = (uint32_t)(size / sizeof *sequences->of_rank);
    return 0;
}

/* Not every run has used the reliable lane. */
int restore_reliable(struct run *run, const msgpack_object *map, struct sequences *into)
{
    struct sequences saved = {0};
    if (!mpk_find(map, "reliable")) {
        return 0;
    }
    int code = restore_sequences(map, "reliable", &saved);
    code = code ? code : sequences_merge(into, &saved);
    sequences_clear(&saved);
    run->reliable = true;
    return code;
}

/* One with fewer reasons is from an older attnd; with more, from a newer one. */
int restore_tally(const msgpack_object *map, const char *key, struct tally *tally)
{
    const uint8_t *bytes;
    size_t size;
    int code = stored_bytes(map, key, &bytes, &size);
    if (!code && size > 0) {
        memcpy(tally, bytes, size < sizeof *tally ? size : sizeof *tally);
    }
    return code;
}

int restore_counts(const msgpack_object *map, struct counts *counts)
{
    int code = stored_u64(map, "received", UINT64_MAX, &counts->received);
    if (!code) {
        code = stored_u64(map, "processed", UINT64_MAX, &counts->processed);
    }
    return code ? code : restore_tally(map, "tally", &counts->tally);
}

/* Earlier versions did not save them. */
int restore_drop_totals(const msgpack_object *map, struct run *run)
{
    const uint8_t *bytes;
    size_t size;
    if (!mpk_find(map, "drop_totals")) {
        return 0;
    }
    int code = stored_u64(map, "found", UINT64_MAX, &run->found);
    if (!code) {
        code = stored_bytes(map, "drop_totals", &bytes, &size);
    }
    if (code || size == 0) {
        return code;
    }
    if (size % sizeof *run->drop_totals.of_rank != 0) {
        return ERR_STORE_FORMAT;
    }
    run->drop_totals.of_rank = malloc(size);
    if (!run->drop_totals.of_rank) {
        return ERR_MEMORY;
    }
    memcpy(run->drop_totals.of_rank, bytes, size);
    run->drop_totals.count = (uint32_t)(size / sizeof *run->drop_totals.of_rank);
    return 0;
}

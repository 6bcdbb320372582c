/* SPDX-License-Identifier: MIT */
/* A history whose file is damaged anywhere: the store goes on, in this file or in another
 * one, or says that there is no history.
 *
 * The input is a list of damages: u24 where (little-endian), u8 how many bytes, and the bytes. */
#include "tests/fuzz/fuzz.h"

#include "daemon/state/layer_state.h"
#include "daemon/store/store.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define WINDOWS 130

static char directory[64];
static uint8_t *sound; /* the file before it is damaged */
static size_t sound_size;

static void fuzz_store_path_of(const char *name, char *ret_path, size_t size)
{
    snprintf(ret_path, size, "%s/%s", directory, name);
}

static void remove_files(void)
{
    char path[512];
    DIR *files = opendir(directory);
    REQUIRE(files);
    for (struct dirent *file; (file = readdir(files));) {
        fuzz_store_path_of(file->d_name, path, sizeof path);
        if (file->d_name[0] != '.') {
            unlink(path);
        }
    }
    closedir(files);
}

static void fuzz_store_remove_all(void)
{
    remove_files();
    rmdir(directory);
    free(sound);
}

static struct store *fuzz_store_open_store(struct stats *stats)
{
    struct config config;
    struct store *store;
    config_defaults(&config);
    fuzz_store_path_of("history.db", config.history_path.text, sizeof config.history_path.text);
    config.history_states = 1;
    REQUIRE(!store_new(&config, stats, &store));
    return store;
}

static void fuzz_store_submit(struct store *store, uint64_t last, const struct mpk_writer *state)
{
    static const uint8_t run_id[RUN_BYTES] = {1};
    const struct store_run run = {"job", run_id, JOB_ACTIVE, 1, last, last, last};
    const struct store_window window = {.heads = 2,
                                        .window = {WINDOW_EPOCH, last, last, 1, 1, false},
                                        .final = true,
                                        .state = state->buffer.data,
                                        .state_size = state->buffer.size};
    struct store_batch *batch = batch_new(&run);
    REQUIRE(batch && !batch_window(batch, &window) && !batch_keep(batch, "key", "value", 5));
    store_submit(store, &batch);
}

static void fuzz_store_pack(struct mpk_writer *ret_packed)
{
    struct layer_state *state = layer_state_new(2, 8);
    REQUIRE(state);
    mpk_writer_init(ret_packed);
    REQUIRE(!layer_state_pack(state, ret_packed));
    layer_state_free(&state);
}

static void read_sound(void)
{
    char path[512];
    fuzz_store_path_of("history.db", path, sizeof path);
    FILE *file = fopen(path, "rb");
    REQUIRE(file && !fseek(file, 0, SEEK_END));
    sound_size = (size_t)ftell(file);
    sound = malloc(sound_size);
    rewind(file);
    REQUIRE(sound && fread(sound, 1, sound_size, file) == sound_size);
    fclose(file);
}

static void fuzz_store_prepare(void)
{
    struct stats stats = {0};
    struct mpk_writer state;
    /* In memory where there is such a place: the disk would be waited for. */
    snprintf(directory, sizeof directory, "%s/attnd-fuzz-XXXXXX",
             access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    REQUIRE(mkdtemp(directory));
    struct store *store = fuzz_store_open_store(&stats);
    fuzz_store_pack(&state);
    for (uint64_t last = 0; last < WINDOWS; last++) {
        fuzz_store_submit(store, last, &state);
    }
    store_free(&store);
    mpk_writer_clear(&state);
    read_sound();
    atexit(fuzz_store_remove_all);
}

static void fuzz_store_put_file(const char *name, const uint8_t *data, size_t size)
{
    char path[512];
    fuzz_store_path_of(name, path, sizeof path);
    FILE *file = fopen(path, "wb");
    REQUIRE(file && fwrite(data, 1, size, file) == size && !fclose(file));
}

static void put_damaged(const uint8_t *data, size_t len)
{
    uint8_t *damaged = malloc(sound_size);
    REQUIRE(damaged);
    memcpy(damaged, sound, sound_size);
    while (len > 4) {
        size_t at = (data[0] | (size_t)data[1] << 8 | (size_t)data[2] << 16) % sound_size;
        size_t count = data[3] < len - 4 ? data[3] : len - 4;
        memcpy(damaged + at, data + 4, count < sound_size - at ? count : sound_size - at);
        data += 4 + count;
        len -= 4 + count;
    }
    remove_files();
    fuzz_store_put_file("history.db.lock", damaged, 0); /* it has been a history */
    fuzz_store_put_file("history.db", damaged, sound_size);
    free(damaged);
}

static void see_kept(void *data, const char *job, const uint8_t *run, const char *key,
                     const void *value, size_t size)
{
    uint64_t *sum = data;
    *sum += strlen(job) + run[RUN_BYTES - 1] + strlen(key) + size;
    *sum += size ? *(const uint8_t *)value : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct stats stats = {0};
    struct mpk_writer state;
    uint64_t sum = 0;
    if (!sound) {
        fuzz_store_prepare();
    }
    put_damaged(data, len);
    fuzz_store_pack(&state);
    struct store *store = fuzz_store_open_store(&stats);
    store_each_kept(store, see_kept, &sum);
    for (uint64_t last = WINDOWS - 2; last < WINDOWS + 2; last++) {
        fuzz_store_submit(store, last, &state);
    }
    store_free(&store);
    REQUIRE(stats_get(&stats, COUNT_STORED) + stats_get(&stats, COUNT_STORE_DROPPED) == 8);
    mpk_writer_clear(&state);
    return 0;
}

/* SPDX-License-Identifier: MIT */
/* make_kept FOLDER: writes the corpus of fuzz_checkpoint, fuzz_state, fuzz_drift and fuzz_alerts,
 * each into its folder below FOLDER: what a real run keeps. */
#include "tests/fuzz/fuzz.h"

#include "tests/fuzz/trained.h"
#include "tests/unit/daemon/state/measured.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *folder;
static FILE *whole, *about;

static void make_kept_write_file(const char *kind, const char *name, const void *data, size_t size)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s/%s", folder, kind, name);
    FILE *file = fopen(path, "wb");
    REQUIRE(file && fwrite(data, 1, size, file) == size && fclose(file) == 0);
}

static void make_kept_append(FILE *file, const char *key, const void *value, size_t size)
{
    REQUIRE(size < 65536);
    putc((int)strlen(key), file);
    fputs(key, file);
    putc((int)(size & 255), file);
    putc((int)(size >> 8), file);
    REQUIRE(fwrite(value, 1, size, file) == size);
}

static void on_kept(void *data, const char *job, const uint8_t *run, const char *key,
                    const void *value, size_t size)
{
    static const struct {
        const char *prefix, *folder;
    } kinds[] = {{"alerts", "alerts"}, {"drift/", "drift"}, {"part/", "state"}};
    static char last[128];
    char name[128];
    (void)data, (void)job, (void)run;
    make_kept_append(whole, key, value, size);
    if (strncmp(key, "part/", 5) != 0 && strncmp(key, "drift/", 6) != 0) {
        make_kept_append(about, key, value, size);
    }
    snprintf(name, sizeof name, "%s", key);
    for (char *at = name; *at; at++) {
        if (strchr("/ []", *at)) {
            *at = '_';
        }
    }
    /* One of each kind and window is enough: layers and parts are alike. */
    if (strncmp(name, last, strcspn(name, "0123456789") + 3) == 0) {
        return;
    }
    strcpy(last, name);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strncmp(key, kinds[i].prefix, strlen(kinds[i].prefix)) == 0) {
            make_kept_write_file(kinds[i].folder, name, value, size);
        }
    }
}

static void make_kept_put(void *data, const struct run *run, const char *topic, uint32_t track,
                          struct mpk_writer *writer, enum result_kind kind)
{
    (void)data, (void)run, (void)topic, (void)track, (void)writer, (void)kind;
}

static struct store *make_kept_open_store(const struct config *config, struct stats *stats)
{
    struct store *store;
    REQUIRE(store_new(config, stats, &store) == 0);
    return store;
}

/* As attnd does before it is killed. */
static void make_kept_keep(const struct config *config)
{
    struct stats stats = {0};
    struct store *store = make_kept_open_store(config, &stats);
    struct result_sink sink = {.put = make_kept_put, .store = store, .stats = &stats};
    struct registry *registry = registry_new(config, &sink, NULL, NULL);
    REQUIRE(registry);
    trained_fill(registry, "job");
    registry_begin_round(registry);
    while (registry_step(registry)) {
    }
    registry_submit(registry, UINT64_C(1020000000000));
    registry_free(&registry);
    store_free(&store);
}

/* As small as states can be that have something of everything: they are changed fast. */
static void make_kept_small(const char *name, struct measured_message *made, uint32_t ranks)
{
    struct layer_state *state = layer_state_new(1, 48);
    struct mpk_writer packed;
    mpk_writer_init(&packed);
    REQUIRE(made && state);
    for (uint32_t rank = 0; rank < ranks; rank++) {
        made->message.header.rank = rank;
        REQUIRE(layer_state_add(state, &made->message, measure_result(made->measure)) == 0);
    }
    REQUIRE(layer_state_pack(state, &packed) == 0);
    make_kept_write_file("state", name, packed.buffer.data, packed.buffer.size);
    mpk_writer_clear(&packed);
    layer_state_free(&state);
    measured_message_free(&made);
}

int main(int argc, char **argv)
{
    char path[512], directory[] = "/tmp/attnd-kept-XXXXXX", command[64];
    struct stats stats = {0};
    struct config config;
    if (argc != 2 || !mkdtemp(directory)) {
        fputs("usage: make_kept FOLDER\n", stderr);
        return 2;
    }
    folder = argv[1];
    trained_config(&config);
    snprintf(config.history_path.text, sizeof config.history_path.text, "%s/history.db", directory);
    make_kept_keep(&config);
    snprintf(path, sizeof path, "%s/checkpoint/whole", folder);
    whole = fopen(path, "wb");
    snprintf(path, sizeof path, "%s/checkpoint/about", folder);
    about = fopen(path, "wb");
    REQUIRE(whole && about);
    struct measured_options options = {.batch = 1, .heads = 1, .size = 3, .sharpness = 1};
    make_kept_small("small", measured_message_new(&options, 1), 1);
    make_kept_small("small_ranks", measured_message_new(&options, 1), 3);
    make_kept_small("small_weights", measured_weights_new(1, 1), 1);
    struct store *store = make_kept_open_store(&config, &stats);
    store_each_kept(store, on_kept, NULL);
    store_free(&store);
    fclose(whole);
    fclose(about);
    snprintf(command, sizeof command, "rm -r %s", directory);
    config_clear(&config);
    return system(command) == 0 ? 0 : 1;
}

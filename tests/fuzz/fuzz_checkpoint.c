/* SPDX-License-Identifier: MIT */
/* Any keys and values as what was kept of a run: it comes back or does not; a run that does can be
 * shown, goes on for a while and leaves no memory charged.
 *
 * The input is a list: u8 length of a key, the key, u16 length of its value (little-endian), the
 * value. */
#include "tests/fuzz/fuzz.h"

#include "daemon/base/log.h"
#include "daemon/run/restore.h"
#include "daemon/run/tick.h"
#include "tests/fuzz/trained.h"

#include <stdio.h>
#include <string.h>

#define S UINT64_C(1000000000)

static struct config config;
static struct stats stats;
static struct run *runs[4];
static uint32_t run_count;

static void fuzz_checkpoint_put(void *data, const struct run *run, const char *topic,
                                uint32_t track, struct mpk_writer *writer, enum result_kind kind)
{
    (void)data, (void)run, (void)track, (void)kind;
    REQUIRE(*topic && mpk_writer_ok(writer));
    REQUIRE(mpk_check(writer->buffer.data, writer->buffer.size, &mpk_result_limits) == 0);
}

static bool fuzz_checkpoint_adopt(void *data, struct run *run)
{
    (void)data;
    if (run_count == sizeof runs / sizeof runs[0]) {
        return false;
    }
    runs[run_count++] = run;
    return true;
}

static void fuzz_checkpoint_clear(void)
{
    config_clear(&config);
}

static void fuzz_checkpoint_prepare(void)
{
    trained_config(&config);
    log_setup(LOG_ERROR, false);
    atexit(fuzz_checkpoint_clear);
}

static void fuzz_checkpoint_read_all(struct restore *restore, const uint8_t *data, size_t len)
{
    static const uint8_t id[RUN_BYTES] = {1};
    char key[256];
    while (len > 0) {
        size_t key_length = data[0];
        if (len < 1 + key_length + 2) {
            return;
        }
        memcpy(key, data + 1, key_length);
        key[key_length] = '\0';
        data += 1 + key_length;
        len -= 1 + key_length + 2;
        size_t size = data[0] | (size_t)data[1] << 8;
        size = size < len ? size : len;
        restore_value(restore, "job", id, key, data + 2, size);
        data += 2 + size;
        len -= size;
    }
}

static void go_on(struct run *run)
{
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    run_encode(run, &writer);
    REQUIRE(mpk_writer_ok(&writer));
    mpk_writer_clear(&writer);
    REQUIRE(!queue_flush(run));
    tick_run(run, 1001 * S);
    tick_run(run, 100000 * S);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct result_sink sink = {.put = fuzz_checkpoint_put, .stats = &stats, .wall_offset_ns = S};
    struct state_budget budget = {.limit = UINT64_C(1) << 30};
    if (!config.window_length) {
        fuzz_checkpoint_prepare();
    }
    run_count = 0;
    struct restore restore = {.config = &config,
                              .sink = &sink,
                              .budget = &budget,
                              .adopt = fuzz_checkpoint_adopt,
                              .now_ns = 1000 * S};
    fuzz_checkpoint_read_all(&restore, data, len);
    restore_finish(&restore);
    REQUIRE(restore.runs == run_count);
    for (uint32_t i = 0; i < run_count; i++) {
        go_on(runs[i]);
        run_free(&runs[i]);
    }
    REQUIRE(budget.used == 0);
    return 0;
}

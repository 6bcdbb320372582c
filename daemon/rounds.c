/* SPDX-License-Identifier: MIT */
/* Rounds of checkpoints save what has changed: each is packed in slices that leave time for
 * messages, and goes on only as fast as the disk.
 *
 * Trainers keep messages of the reliable lane until they are saved, within a bound. So a round
 * begins before its time when enough of them wait, at the rate at which they come: as soon as what
 * the round before has promised is written, and what it took is a small part of the time since. */
#include "daemon/base/clock.h"
#include "daemon/internal.h"

/* Checkpoints are packed in SAVER_SLICES per history.checkpoint, and take this share of the
 * loop's time at most: 20 ms every 200 ms by default. */
#define SAVER_SLICES 10
#define SAVER_SHARE  10
/* A batch is about this share of the records that may wait, of which checkpoints may use half. */
#define SAVER_BATCHES 32

/* Rounds before their time take this share of a processor at most, judged by the one before, and
 * are tried so often. */
#define EARLY_SHARE 20
#define EARLY_MS    5

static bool rounds_are_ticking(const struct daemon *daemon)
{
    return uv_is_active((const uv_handle_t *)&daemon->tick);
}

static bool rounds_are_kept(const struct daemon *daemon)
{
    const char *reason;
    return daemon->sink.store && store_path(daemon->store, &reason);
}

/* A part of a round, until the deadline, and as long as the disk keeps up: else a later slice goes
 * on. No message comes between the steps and their submit. */
static void rounds_go_on(struct daemon *daemon, uint64_t deadline_ns)
{
    uint64_t batch_bytes = config_records_bytes(&daemon->config) / SAVER_BATCHES;
    uint64_t began_ns = clock_thread_ns();
    while (daemon->round.goes_on && clock_monotonic_ns() < deadline_ns &&
           store_has_room(daemon->store, batch_bytes)) {
        do {
            daemon->round.goes_on = registry_step(daemon->registry);
        } while (daemon->round.goes_on && clock_monotonic_ns() < deadline_ns &&
                 registry_collected(daemon->registry) < batch_bytes);
        registry_submit(daemon->registry, inbox_now_ns(&daemon->inbox));
    }
    daemon->round.packing_ns += clock_thread_ns() - began_ns;
}

bool rounds_is_due(uint64_t since_ns, uint64_t cost_ns, uint64_t promised, uint64_t period_ns)
{
    return since_ns >= period_ns ||
           (promised >= PROMISES_WORTH && since_ns / EARLY_SHARE >= cost_ns);
}

/* Whether a round may begin, the last one being through. */
static bool rounds_may_begin(struct daemon *daemon, uint64_t now)
{
    uint64_t since = now - daemon->round.began_ns, period = daemon->config.history_checkpoint;
    uint64_t saving = store_saving_ns(daemon->store) - daemon->round.saving_ns;
    return rounds_is_due(since, daemon->round.packing_ns + saving, daemon->round.promised,
                         period) &&
           (since >= period || !store_is_busy(daemon->store));
}

static void rounds_on_save(uv_timer_t *timer)
{
    struct daemon *daemon = timer->data;
    uint64_t now = clock_monotonic_ns();
    if (!daemon->round.goes_on && rounds_may_begin(daemon, now)) {
        daemon->round.began_ns = now;
        daemon->round.saving_ns = store_saving_ns(daemon->store);
        daemon->round.packing_ns = daemon->round.promised = 0;
        daemon->round.goes_on = true;
        daemon->round.last = !rounds_are_ticking(daemon);
        registry_begin_round(daemon->registry);
    }
    if (!rounds_are_kept(daemon)) {
        daemon->round.goes_on = false;
    }
    rounds_go_on(daemon, now + daemon->config.history_checkpoint / SAVER_SHARE / SAVER_SLICES);
    if (!daemon->round.goes_on && daemon->round.last && !rounds_are_ticking(daemon)) {
        uv_timer_stop(timer);
    } else if (!daemon->round.goes_on && daemon->round.promised >= PROMISES_WORTH) {
        uv_timer_start(timer, rounds_on_save, EARLY_MS, uv_timer_get_repeat(timer));
    }
}

void rounds_promise(struct daemon *daemon, uint64_t bytes)
{
    bool waited = daemon->round.promised >= PROMISES_WORTH;
    daemon->round.promised += bytes;
    if (!waited && daemon->round.promised >= PROMISES_WORTH &&
        uv_is_active((const uv_handle_t *)&daemon->saver)) {
        uv_timer_start(&daemon->saver, rounds_on_save, 0, uv_timer_get_repeat(&daemon->saver));
    }
}

void rounds_start(struct daemon *daemon)
{
    uint64_t period_ms = daemon->config.history_checkpoint / SAVER_SLICES / 1000000;
    if (rounds_are_kept(daemon) && !uv_is_active((const uv_handle_t *)&daemon->saver)) {
        daemon->round.last = false;
        uv_timer_start(&daemon->saver, rounds_on_save, period_ms, period_ms);
    }
}

/* The first round may be one that was going on, and does not come back to what it has had. */
void rounds_save_all(struct daemon *daemon, uint64_t deadline_ns)
{
    for (int round = 0; round < 2 && rounds_are_kept(daemon); round++) {
        registry_begin_round(daemon->registry);
        daemon->round.goes_on = true;
        while (daemon->round.goes_on && clock_monotonic_ns() < deadline_ns) {
            rounds_go_on(daemon, deadline_ns);
            if (daemon->round.goes_on) {
                uv_sleep(1);
            }
        }
    }
}

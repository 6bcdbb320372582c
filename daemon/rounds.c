/* SPDX-License-Identifier: MIT */
/* Time on the loop thread. A tick every second while a job is active closes and shows windows.
 * Rounds of checkpoints save what has changed: each is packed in slices that leave time for
 * messages, and goes on only as fast as the disk. */
#include "daemon/base/clock.h"
#include "daemon/internal.h"

#define TICK_MS 1000
/* Checkpoints are packed in so many slices per history.checkpoint, and take this share of the
 * loop's time at most: 20 ms every 200 ms by default. */
#define SAVER_SLICES 10
#define SAVER_SHARE  10
/* A batch is about this share of history.queue, of which checkpoints may use half. */
#define SAVER_BATCHES 32

static bool rounds_are_ticking(const struct daemon *daemon)
{
    return uv_is_active((const uv_handle_t *)&daemon->tick);
}

static bool rounds_are_kept(const struct daemon *daemon)
{
    const char *reason;
    return daemon->sink.store && store_path(daemon->store, &reason);
}

static void rounds_on_tick(uv_timer_t *timer)
{
    struct daemon *daemon = timer->data;
    if (!registry_tick(daemon->registry, messages_now_ns(daemon))) {
        uv_timer_stop(timer); /* nobody is training: no wake-ups */
    }
    messages_give_up(daemon);
    daemon_limit_costs(daemon);
    control_settle(daemon->control);
}

/* A part of a round, until the deadline, and as long as the disk keeps up: else a later slice goes
 * on. No message comes between the steps and their submit. */
static void rounds_go_on(struct daemon *daemon, uint64_t deadline_ns)
{
    uint64_t batch_bytes = daemon->config.history_queue / SAVER_BATCHES;
    while (daemon->round.goes_on && clock_monotonic_ns() < deadline_ns &&
           store_has_room(daemon->store, batch_bytes)) {
        do {
            daemon->round.goes_on = registry_step(daemon->registry);
        } while (daemon->round.goes_on && clock_monotonic_ns() < deadline_ns &&
                 registry_collected(daemon->registry) < batch_bytes);
        registry_submit(daemon->registry, messages_now_ns(daemon));
    }
}

/* A round begins when history.checkpoint has passed since the last one began and that one is
 * through. */
static void rounds_on_save(uv_timer_t *timer)
{
    struct daemon *daemon = timer->data;
    uint64_t now = clock_monotonic_ns();
    bool due = now - daemon->round.began_ns >= daemon->config.history_checkpoint;
    if (!daemon->round.goes_on && due) {
        daemon->round.began_ns = now;
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
    }
}

void rounds_start(struct daemon *daemon)
{
    uint64_t period_ms = daemon->config.history_checkpoint / SAVER_SLICES / 1000000;
    if (daemon->finished || rounds_are_ticking(daemon)) {
        return;
    }
    uv_timer_start(&daemon->tick, rounds_on_tick, TICK_MS, TICK_MS);
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

/* SPDX-License-Identifier: MIT */
/* Several threads of one trainer publish through one publisher to a real attnd, which is stopped,
 * goes on, is killed and comes back. No call waits for it, and nothing is lost uncounted.
 *
 *   test_attn_threads ATTND */
#include "tests/unit/unit.h"

#include <attn/attn.h>

#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 4, HEADS = 4, TOKENS = 64, DIM = 16, WAIT_MS = 60000 };
/* A call that waits for attnd takes longer: then all are slow while it is stopped. Where the
 * machine stands still for a while, few are. */
#define SLOW_MS     100
#define QUEUE_BYTES ((uint64_t)8 << 20)

extern char **environ;
static const char *attnd_path;
static char directory[] = "/tmp/attn-threads-XXXXXX";
static float numbers[HEADS * TOKENS * TOKENS];

static uint64_t threads_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void threads_rest(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* ---- the daemon ---- */

static pid_t start_attnd(void)
{
    static const char *const sockets[] = {"ingest", "publish", "control", "tap"};
    char settings[6][160], *arguments[16] = {(char *)(uintptr_t)attnd_path};
    int count = 1;
    pid_t pid;

    for (int i = 0; i < 4; i++) {
        snprintf(settings[i], sizeof settings[i], "%s.endpoint=ipc://%s/%s", sockets[i], directory,
                 sockets[i]);
    }
    snprintf(settings[4], sizeof settings[4], "history.path=%s/history.db", directory);
    snprintf(settings[5], sizeof settings[5], "http.enabled=false");
    for (int i = 0; i < 6; i++) {
        arguments[count++] = (char *)(uintptr_t) "--set";
        arguments[count++] = settings[i];
    }
    assert_int_equal(posix_spawn(&pid, attnd_path, NULL, NULL, arguments, environ), 0);
    return pid;
}

static void end_attnd(pid_t pid, int signal)
{
    assert_int_equal(kill(pid, signal), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* ---- the trainer ---- */

struct trainer {
    attn_publisher *publisher;
    pthread_t threads[THREADS];
    _Atomic bool stop;
    _Atomic uint64_t calls, wrong, slow, step;
};

struct worker {
    struct trainer *trainer;
    uint32_t layer;
};

static int publish_tier(attn_publisher *publisher, uint32_t layer, uint64_t turn)
{
    const attn_attention attention = {.layer = layer,
                                      .weights = numbers,
                                      .batch = 1,
                                      .heads = HEADS,
                                      .queries = TOKENS,
                                      .keys = TOKENS,
                                      .causal = true};
    const attn_qk qk = {.layer = layer,
                        .q = numbers,
                        .k = numbers,
                        .batch = 1,
                        .heads = HEADS,
                        .queries = TOKENS,
                        .keys = TOKENS,
                        .head_dim = DIM};
    const attn_weights weights = {
        .layer = layer, .heads = HEADS, .head_dim = DIM, .wq = {numbers, ATTN_F32, TOKENS}};

    if (turn % 3 == 0) {
        return attn_publish_qk(publisher, &qk);
    }
    return turn % 3 == 1 ? attn_publish_weights(publisher, &weights)
                         : attn_publish_attention(publisher, &attention);
}

static bool identity_holds(attn_publisher *publisher)
{
    attn_publisher_counts counts;

    attn_publisher_stats(publisher, &counts);
    return counts.published == counts.sent + counts.skipped + counts.dropped + counts.queued &&
           counts.queued_bytes <= QUEUE_BYTES;
}

/* Everything that threads may do at the same time, once; whether all was right. */
static bool threads_turn(struct worker *worker, uint64_t number)
{
    attn_publisher *publisher = worker->trainer->publisher;
    attn_plan plan;
    int rc;

    attn_set_position(publisher, number / 1000, atomic_fetch_add(&worker->trainer->step, 1));
    (void)attn_publisher_wants(publisher, ATTN_ENCODER, worker->layer, ATTN_SELF);
    rc = publish_tier(publisher, worker->layer, number);
    if (number % 64 == 0) {
        (void)attn_publisher_plan(publisher, &plan);
        (void)attn_epoch_end(publisher);
    }
    return (rc == 0 || rc == ATTN_SKIPPED || rc == ATTN_E_DROPPED) && identity_holds(publisher);
}

static void *threads_work(void *argument)
{
    struct worker *worker = argument;
    struct trainer *trainer = worker->trainer;

    for (uint64_t number = worker->layer; !trainer->stop; number++) {
        uint64_t start = threads_now_ms();

        if (!threads_turn(worker, number)) {
            trainer->wrong++;
        }
        if (threads_now_ms() - start > SLOW_MS) {
            trainer->slow++;
        }
        trainer->calls++;
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
    }
    return NULL;
}

/* Waits until a count of the publisher has passed a bound, or all are as they are to be. */
static void threads_wait_for(struct trainer *trainer,
                             bool (*is_so)(const attn_publisher_counts *, uint64_t), uint64_t bound)
{
    uint64_t deadline = threads_now_ms() + WAIT_MS;
    attn_publisher_counts counts;

    for (;;) {
        attn_publisher_stats(trainer->publisher, &counts);
        if (is_so(&counts, bound)) {
            return;
        }
        assert_true(threads_now_ms() < deadline);
        threads_rest();
    }
}

static bool sent_more(const attn_publisher_counts *counts, uint64_t bound)
{
    return counts->sent > bound;
}

static bool dropped_more(const attn_publisher_counts *counts, uint64_t bound)
{
    return counts->dropped > bound;
}

static bool skipped_more(const attn_publisher_counts *counts, uint64_t bound)
{
    return counts->skipped > bound;
}

static attn_publisher_counts counts_of(struct trainer *trainer)
{
    attn_publisher_counts counts;

    attn_publisher_stats(trainer->publisher, &counts);
    return counts;
}

static void threads_wait_until_wanted(struct trainer *trainer, bool wanted)
{
    uint64_t deadline = threads_now_ms() + WAIT_MS;

    while (attn_publisher_wants(trainer->publisher, ATTN_ENCODER, 0, ATTN_SELF) != wanted) {
        assert_true(threads_now_ms() < deadline);
        threads_rest();
    }
}

/* ---- the story ---- */

/* Stopped with its pipe full: drops, and after a while nobody is said to want anything. */
static void stop_and_go_on(struct trainer *trainer, pid_t attnd)
{
    uint64_t calls, slow;

    assert_int_equal(kill(attnd, SIGSTOP), 0);
    calls = trainer->calls;
    slow = trainer->slow;
    threads_wait_for(trainer, dropped_more, counts_of(trainer).dropped);
    threads_wait_until_wanted(trainer, false);
    assert_true(20 * (trainer->slow - slow) < trainer->calls - calls);
    assert_int_equal(kill(attnd, SIGCONT), 0);
    threads_wait_until_wanted(trainer, true);
    threads_wait_for(trainer, sent_more, counts_of(trainer).sent + 100);
}

static pid_t kill_and_restart(struct trainer *trainer, pid_t attnd)
{
    end_attnd(attnd, SIGKILL);
    threads_wait_until_wanted(trainer, false);
    threads_wait_for(trainer, skipped_more, counts_of(trainer).skipped + 100);
    attnd = start_attnd();
    threads_wait_until_wanted(trainer, true);
    threads_wait_for(trainer, sent_more, counts_of(trainer).sent + 100);
    return attnd;
}

TEST(threads_publish_whatever_the_daemon_does)
{
    struct trainer trainer = {0};
    struct worker workers[THREADS];
    attn_publisher_options options;
    char endpoint[128];
    uint64_t start;
    pid_t attnd;

    snprintf(endpoint, sizeof endpoint, "ipc://%s/ingest", directory);
    attn_publisher_options_default(&options);
    options.endpoint = endpoint;
    options.job = "threads";
    options.every = 1;
    options.max_queued_bytes = QUEUE_BYTES;
    assert_int_equal(attn_publisher_new(&options, &trainer.publisher), 0);
    for (uint32_t i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){&trainer, i};
        assert_int_equal(pthread_create(&trainer.threads[i], NULL, threads_work, &workers[i]), 0);
    }
    threads_wait_for(&trainer, skipped_more, 100);
    attnd = start_attnd();
    threads_wait_for(&trainer, sent_more, 200);
    stop_and_go_on(&trainer, attnd);
    attnd = kill_and_restart(&trainer, attnd);
    assert_int_equal(kill(attnd, SIGSTOP), 0);
    trainer.stop = true;
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(trainer.threads[i], NULL), 0);
    }
    assert_true(identity_holds(trainer.publisher));
    start = threads_now_ms();
    attn_publisher_free(&trainer.publisher);
    assert_true(threads_now_ms() - start < options.linger_ms + WAIT_MS);
    print_message("%llu calls, %llu of them slow\n", (unsigned long long)trainer.calls,
                  (unsigned long long)trainer.slow);
    assert_int_equal(trainer.wrong, 0);
    end_attnd(attnd, SIGKILL);
}

int main(int argc, char **argv)
{
    char command[160];
    int rc;

    if (argc < 2 || !mkdtemp(directory)) {
        return EXIT_FAILURE;
    }
    attnd_path = argv[1];
    for (size_t i = 0; i < HEADS * TOKENS * TOKENS; i++) {
        numbers[i] = 1.0F / (float)TOKENS;
    }
    rc = unit_run(NULL, NULL);
    snprintf(command, sizeof command, "rm -rf '%s'", directory);
    return system(command) ? EXIT_FAILURE : rc;
}

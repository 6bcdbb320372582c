/* SPDX-License-Identifier: MIT */
#include "tests/unit/daemon/manager.h"

#include "daemon/service.h"

#include "daemon/base/clock.h"
#include "proto/err.h"

#define PATIENCE_NS UINT64_C(60000000000)

struct service_fixture {
    uv_loop_t loop;
    struct manager manager;
    struct stats stats;
    struct service *service;
    struct pulse pulse; /* of a thread beside the loop */
    bool stands;        /* it does not answer */
    uv_timer_t keep;    /* the loop goes on for it */
};

static void service_ask(void *data)
{
    struct service_fixture *f = data;
    if (!f->stands) {
        pulse_beat(&f->pulse);
    }
}

static void on_keep(uv_timer_t *timer)
{
    (void)timer;
}

static void service_start(struct service_fixture *f, const char *watchdog_usec)
{
    *f = (struct service_fixture){.stands = false};
    uv_loop_init(&f->loop);
    uv_timer_init(&f->loop, &f->keep);
    uv_timer_start(&f->keep, on_keep, 5, 5);
    manager_open(&f->manager, "@attnd-test-service");
    setenv("NOTIFY_SOCKET", f->manager.name, 1);
    if (watchdog_usec) {
        setenv("WATCHDOG_USEC", watchdog_usec, 1);
    }
    assert_int_equal(service_new(&f->loop, &f->stats, &f->service), 0);
    assert_non_null(f->service);
    service_watch(f->service, &(struct pulse_subject){"other", &f->pulse, service_ask, f});
}

static void service_end(struct service_fixture *f)
{
    service_close(f->service);
    uv_close((uv_handle_t *)&f->keep, NULL);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    service_free(&f->service);
    assert_null(f->service);
    manager_close(&f->manager);
}

#define SERVICE_TEST(name) TEST_IN(name, struct service_fixture, f, NULL, service_end)

/* Turns the loop until a datagram begins like this; those before it are passed over. */
static void service_expect(struct service_fixture *f, const char *begin)
{
    uint64_t deadline = clock_monotonic_ns() + PATIENCE_NS;
    const char *heard;
    for (;;) {
        while ((heard = manager_hear(&f->manager))) {
            if (strncmp(heard, begin, strlen(begin)) == 0) {
                return;
            }
        }
        if (clock_monotonic_ns() > deadline) {
            fail_msg("never heard %s", begin);
        }
        uv_run(&f->loop, UV_RUN_ONCE);
    }
}

/* How often this was heard in a number of milliseconds. */
static int service_count(struct service_fixture *f, const char *begin, uint64_t ms)
{
    uint64_t deadline = clock_monotonic_ns() + ms * 1000000;
    const char *heard;
    int service_count = 0;
    while (clock_monotonic_ns() < deadline) {
        uv_run(&f->loop, UV_RUN_ONCE);
        while ((heard = manager_hear(&f->manager))) {
            service_count += strncmp(heard, begin, strlen(begin)) == 0;
        }
    }
    return service_count;
}

TEST(nobody_to_tell_is_no_service)
{
    struct service *service;
    struct stats stats = {0};
    uv_loop_t loop;
    unsetenv("NOTIFY_SOCKET");
    uv_loop_init(&loop);
    assert_int_equal(service_new(&loop, &stats, &service), 0);
    assert_null(service);
    service_watch(service, NULL);
    service_ready(service);
    service_reloading(service);
    service_reloaded(service);
    service_stopping(service, 1);
    service_extend(service, 1);
    service_close(service);
    service_free(&service);
    assert_int_equal(uv_loop_close(&loop), 0); /* there was no handle */
}

TEST(a_manager_that_cannot_be_told_is_no_reason_to_end)
{
    struct service *service;
    struct stats stats = {0};
    uv_loop_t loop;
    setenv("NOTIFY_SOCKET", "nowhere", 1);
    uv_loop_init(&loop);
    assert_int_equal(service_new(&loop, &stats, &service), 0);
    assert_null(service);
    assert_int_equal(uv_loop_close(&loop), 0);
}

SERVICE_TEST(the_environment_is_not_passed_on)
{
    setenv("WATCHDOG_PID", "1", 1);
    service_start(f, "1000000");
    assert_null(getenv("NOTIFY_SOCKET"));
    assert_null(getenv("WATCHDOG_USEC"));
    assert_null(getenv("WATCHDOG_PID"));
}

SERVICE_TEST(ready_reload_and_stop)
{
    uint64_t before = clock_monotonic_ns() / 1000;
    service_start(f, NULL);
    assert_null(manager_hear(&f->manager)); /* not before it is */
    service_ready(f->service);
    assert_string_equal(manager_hear(&f->manager), "READY=1");
    assert_string_equal(manager_hear(&f->manager), "STATUS=waiting for jobs");
    service_reloading(f->service);
    const char *heard = manager_hear(&f->manager);
    assert_int_equal(strncmp(heard, "RELOADING=1\nMONOTONIC_USEC=", 27), 0);
    assert_in_range(strtoull(heard + 27, NULL, 10), before, clock_monotonic_ns() / 1000);
    service_reloaded(f->service);
    assert_string_equal(manager_hear(&f->manager), "READY=1");
    service_stopping(f->service, UINT64_C(5000000000));
    heard = manager_hear(&f->manager);
    assert_int_equal(strncmp(heard, "STOPPING=1\nSTATUS=", 18), 0);
    heard = manager_hear(&f->manager);
    assert_int_equal(strncmp(heard, "EXTEND_TIMEOUT_USEC=", 20), 0);
    assert_true(strtoull(heard + 20, NULL, 10) > 5000000);
}

SERVICE_TEST(a_stop_asks_for_time_as_long_as_the_loop_turns)
{
    service_start(f, "200000");
    service_ready(f->service);
    service_stopping(f->service, 0);
    service_expect(f, "EXTEND_TIMEOUT_USEC=");
    service_expect(f, "EXTEND_TIMEOUT_USEC=");
    service_expect(f, "EXTEND_TIMEOUT_USEC=");
}

SERVICE_TEST(the_watchdog_is_fed_while_all_turn)
{
    service_start(f, "200000");
    service_ready(f->service);
    for (int i = 0; i < 3; i++) {
        service_expect(f, "WATCHDOG=1");
    }
}

SERVICE_TEST(a_thread_that_stands_makes_it_fall_silent)
{
    service_start(f, "80000");
    service_ready(f->service);
    service_expect(f, "WATCHDOG=1");
    f->stands = true;
    service_count(f, "WATCHDOG=1", 100); /* it had been asked, and had turned, before it stood */
    assert_int_equal(service_count(f, "WATCHDOG=1", 300), 0);
    pulse_beat(&f->pulse);
    f->stands = false;
    service_expect(f, "WATCHDOG=1");
}

SERVICE_TEST(threads_that_end_are_not_missed_while_stopping)
{
    service_start(f, "80000");
    service_ready(f->service);
    f->stands = true;
    service_stopping(f->service, UINT64_C(1000000000));
    service_expect(f, "WATCHDOG=1");
    service_expect(f, "WATCHDOG=1");
}

SERVICE_TEST(a_watchdog_of_another_process_is_not_fed)
{
    setenv("WATCHDOG_PID", "1", 1);
    service_start(f, "40000");
    service_ready(f->service);
    assert_int_equal(service_count(f, "WATCHDOG=1", 150), 0);
}

SERVICE_TEST(the_status_has_rates)
{
    service_start(f, "200000");
    service_ready(f->service);
    service_expect(f, "STATUS=waiting for jobs");
    for (int i = 0; i < 7; i++) {
        stats_received(&f->stats, 1000000);
    }
    stats_drop(&f->stats, ERR_TOO_LARGE);
    service_expect(f, "STATUS=");
    assert_non_null(strstr(f->manager.heard, " messages/s, "));
    assert_null(strstr(f->manager.heard, "=0.0 messages/s"));
    assert_non_null(strstr(f->manager.heard, "; 7 received, 1 dropped"));
    service_expect(f, "STATUS=0.0 messages/s, 0.0 MB/s; 7 received, 1 dropped");
    assert_int_equal(service_count(f, "STATUS=", 150), 0); /* nothing new, nothing said */
}

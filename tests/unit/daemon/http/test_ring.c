/* SPDX-License-Identifier: MIT */
/* The event stream keeps results; how they come to it. */
#include "tests/unit/unit.h"

#include "daemon/base/feed.h"
#include "daemon/http/ring.h"

#include <pthread.h>

#define BOOT  0xab12u
#define LARGE (UINT64_C(1) << 20)

static const struct event_filter all = {.kinds = (1u << EVENT_KINDS) - 1, .visitor.jobs = "*"};

static void http_ring_put(struct ring *ring, enum event_kind kind, const char *job)
{
    ring_put(ring, BOOT, kind, job, "{}");
}

/* The http_ring_next event's text, which is kept until the http_ring_next call; NULL when there is
 * none. */
static const char *http_ring_next(const struct ring *ring, const struct event_filter *filter,
                                  uint64_t *from)
{
    static char text[256];
    bool missed;
    struct event *event = ring_next(ring, filter, from, &missed);
    if (!event) {
        return NULL;
    }
    assert_false(missed);
    snprintf(text, sizeof text, "%.*s", (int)event->size, event->text);
    event_release(&event);
    return text;
}

TEST(an_event_is_written_as_it_is_sent)
{
    OWNED(ring_clear) struct ring ring;
    uint64_t from = 1;
    ring_init(&ring, LARGE);
    ring_put(&ring, BOOT, EVENT_SUMMARY, "job", "{\"a\":1}");
    assert_string_equal(http_ring_next(&ring, &all, &from),
                        "id: 0000ab12-1\nevent: summary\ndata: {\"a\":1}\n\n");
    assert_int_equal(from, 2);
}

TEST(each_reader_has_its_own_place)
{
    OWNED(ring_clear) struct ring ring;
    uint64_t fast = 1, slow = 1;
    ring_init(&ring, LARGE);
    for (int i = 0; i < 200; i++) {
        http_ring_put(&ring, EVENT_LIVE, "job");
        assert_non_null(http_ring_next(&ring, &all, &fast));
    }
    assert_null(http_ring_next(&ring, &all, &fast));
    for (uint64_t i = 1; i <= 200; i++) {
        assert_non_null(http_ring_next(&ring, &all, &slow));
        assert_int_equal(slow, i + 1);
    }
    assert_null(http_ring_next(&ring, &all, &slow));
}

TEST(a_filter_lets_its_kinds_and_its_job_through)
{
    const struct event_filter alerts_of_b = {
        .job = "b", .kinds = 1u << EVENT_ALERT, .visitor.jobs = "*"};
    OWNED(ring_clear) struct ring ring;
    uint64_t from = 1;
    ring_init(&ring, LARGE);
    http_ring_put(&ring, EVENT_ALERT, "a");
    http_ring_put(&ring, EVENT_LIVE, "b");
    http_ring_put(&ring, EVENT_ALERT, "b");
    http_ring_put(&ring, EVENT_ALERT, "bb");
    assert_string_equal(http_ring_next(&ring, &alerts_of_b, &from),
                        "id: 0000ab12-3\nevent: alert\ndata: {}\n\n");
    assert_null(http_ring_next(&ring, &alerts_of_b, &from));
    assert_int_equal(from, 5); /* what it does not want is behind it */
}

TEST(the_oldest_leave_when_the_bytes_are_used_up)
{
    struct ring ring;
    uint64_t from = 1;
    bool missed;
    ring_init(&ring, 4096);
    for (int i = 0; i < 1000; i++) {
        http_ring_put(&ring, EVENT_LIVE, "job");
        assert_true(ring.bytes <= 4096);
    }
    assert_true(ring.oldest > 1 && ring.newest == 1000);
    assert_null(ring_next(&ring, &all, &from, &missed));
    assert_true(missed);
    assert_int_equal(from, 1001); /* it goes on at the newest, and is told once */
    assert_null(ring_next(&ring, &all, &from, &missed));
    assert_false(missed);
    from = ring.oldest;
    assert_non_null(http_ring_next(&ring, &all, &from));
    ring_clear(&ring);
    assert_int_equal(ring.bytes, 0);
}

TEST(an_event_larger_than_the_ring_is_missed)
{
    OWNED(ring_clear) struct ring ring;
    uint64_t from = 1;
    bool missed;
    char data[2000];
    memset(data, 'x', sizeof data - 1);
    data[sizeof data - 1] = '\0';
    ring_init(&ring, 1000);
    ring_put(&ring, BOOT, EVENT_LIVE, "job", data);
    assert_int_equal(ring.bytes, 0);
    assert_null(ring_next(&ring, &all, &from, &missed));
    assert_true(missed);
    http_ring_put(&ring, EVENT_LIVE, "job");
    assert_string_equal(http_ring_next(&ring, &all, &from),
                        "id: 0000ab12-2\nevent: live\ndata: {}\n\n");
}

TEST(what_nobody_heard_is_missed)
{
    OWNED(ring_clear) struct ring ring;
    uint64_t from = 2;
    bool missed;
    ring_init(&ring, LARGE);
    http_ring_put(&ring, EVENT_LIVE, "job");
    ring_skip(&ring);
    http_ring_put(&ring, EVENT_LIVE, "job");
    assert_null(ring_next(&ring, &all, &from, &missed));
    assert_true(missed);
    from = 3;
    assert_non_null(http_ring_next(&ring, &all, &from));
}

TEST(a_reader_keeps_an_event_that_has_left)
{
    struct ring ring;
    uint64_t from = 1;
    bool missed;
    ring_init(&ring, 1000);
    http_ring_put(&ring, EVENT_JOB, "first");
    struct event *event = ring_next(&ring, &all, &from, &missed);
    for (int i = 0; i < 100; i++) {
        http_ring_put(&ring, EVENT_LIVE, "job");
    }
    ring_clear(&ring);
    assert_string_equal(event->job, "first");
    assert_int_equal(event->references, 1);
    event_release(&event);
    assert_null(event);
}

/* The feed */

TEST(results_come_in_their_order)
{
    OWNED(feed_clear) struct feed feed;
    bool lost;
    feed_init(&feed, LARGE);
    assert_null(feed_take(&feed, &lost));
    for (int i = 0; i < 10; i++) {
        assert_true(feed_put(&feed, "live/a/", &i, sizeof i));
    }
    struct published *item = feed_take(&feed, &lost);
    assert_false(lost);
    for (int i = 0; i < 10; i++) {
        struct published *following = item->next;
        assert_int_equal(item->size, sizeof i);
        assert_memory_equal(item->map, &i, sizeof i);
        free(item);
        item = following;
    }
    assert_null(item);
}

TEST(a_full_feed_refuses_and_says_so_once)
{
    static const char bytes[20000];
    OWNED(feed_clear) struct feed feed;
    bool lost;
    int taken = 0;
    feed_init(&feed, 10000);
    while (feed_put(&feed, "live/a/", bytes, 1000)) {
        taken++;
    }
    assert_in_range(taken, 5, 10);
    feed_clear(&feed);
    feed_init(&feed, 10000);
    assert_true(feed_put(&feed, "live/a/", bytes, 1000));
    assert_false(feed_put(&feed, "live/a/", bytes, sizeof bytes));
    free(feed_take(&feed, &lost));
    assert_true(lost);
    assert_null(feed_take(&feed, &lost));
    assert_false(lost);
    assert_true(feed_put(&feed, "live/a/", bytes, 1000)); /* there is room again */
}

TEST(a_topic_that_is_too_long_is_refused)
{
    OWNED(feed_clear) struct feed feed;
    char topic[TOPIC_MAX + 1];
    bool lost;
    memset(topic, 'x', TOPIC_MAX);
    topic[TOPIC_MAX] = '\0';
    feed_init(&feed, LARGE);
    assert_false(feed_put(&feed, topic, "", 0));
    topic[TOPIC_MAX - 1] = '\0';
    assert_true(feed_put(&feed, topic, "", 0));
    free(feed_take(&feed, &lost));
}

#define RESULTS 20000

struct putter {
    struct feed feed;
    uint32_t refused;
};

static void *put_results(void *data)
{
    struct putter *putter = data;
    for (uint32_t i = 0; i < RESULTS; i++) {
        putter->refused += !feed_put(&putter->feed, "live/a/", &i, sizeof i);
    }
    return NULL;
}

/* How many there are; frees them. They are in order. */
static uint32_t http_ring_take(struct published *item, int64_t *last)
{
    uint32_t count = 0, number;
    while (item) {
        struct published *following = item->next;
        memcpy(&number, item->map, sizeof number);
        assert_true(number > *last);
        *last = number;
        free(item);
        item = following;
        count++;
    }
    return count;
}

TEST(nothing_is_lost_unsaid_between_threads)
{
    struct putter putter = {.refused = 0};
    pthread_t thread;
    uint32_t taken = 0;
    int64_t last = -1;
    bool lost, ever_lost = false;
    feed_init(&putter.feed, 100000);
    assert_int_equal(pthread_create(&thread, NULL, put_results, &putter), 0);
    for (int i = 0; i < 100; i++) {
        taken += http_ring_take(feed_take(&putter.feed, &lost), &last);
        ever_lost = ever_lost || lost;
    }
    pthread_join(thread, NULL);
    taken += http_ring_take(feed_take(&putter.feed, &lost), &last);
    assert_int_equal(taken + putter.refused, RESULTS);
    assert_int_equal(ever_lost || lost, putter.refused > 0);
    feed_clear(&putter.feed);
}

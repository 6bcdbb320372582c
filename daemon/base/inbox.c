/* SPDX-License-Identifier: MIT */
/* The loop takes one note at a time under the lock, which costs little beside reading it: a poster
 * waits for a few pointers at most. uv_async_send coalesces: one wake-up may stand for many notes.
 */
#include "daemon/base/inbox.h"

#include "daemon/base/clock.h"

#include <stdatomic.h>

#define TURN_NS UINT64_C(1000000)
/* Control, timers and signals wait for no longer than this and a note. */
#define ROUND_NS UINT64_C(10000000)

static void inbox_append(struct inbox *inbox, struct inbox_line *line)
{
    line->next = NULL;
    *inbox->last_line = line;
    inbox->last_line = &line->next;
}

static struct inbox_line *inbox_remove_first(struct inbox *inbox, uint64_t now_ns)
{
    struct inbox_line *line = inbox->lines;
    inbox->lines = line->next;
    inbox->turn_ends_ns = now_ns + TURN_NS;
    if (!inbox->lines) {
        inbox->last_line = &inbox->lines;
    }
    return line;
}

/* The next note, or NULL. Its line may be gone when it has been read. */
static struct note *inbox_take(struct inbox *inbox, uint64_t now_ns)
{
    struct note *note = NULL;
    pthread_mutex_lock(&inbox->lock);
    if (inbox->lines && now_ns >= inbox->turn_ends_ns) {
        inbox_append(inbox, inbox_remove_first(inbox, now_ns));
    }
    if (inbox->lines) {
        note = inbox->lines->first;
        inbox->lines->first = note->next;
        if (!note->next) {
            inbox_remove_first(inbox, now_ns);
        }
    }
    pthread_mutex_unlock(&inbox->lock);
    return note;
}

static void inbox_read(struct inbox *inbox, struct note *note)
{
    atomic_fetch_sub_explicit(&inbox->depth, 1, memory_order_relaxed);
    inbox->read(inbox->data, note);
}

static void inbox_on_wake(uv_async_t *wake)
{
    struct inbox *inbox = wake->data;
    uint64_t now_ns = clock_monotonic_ns(), end_ns = now_ns + ROUND_NS;
    inbox->oldest_ns = now_ns;
    pthread_mutex_lock(&inbox->lock);
    for (const struct inbox_line *line = inbox->lines; line; line = line->next) {
        if (line->first->posted_ns < inbox->oldest_ns) {
            inbox->oldest_ns = line->first->posted_ns;
        }
    }
    pthread_mutex_unlock(&inbox->lock);
    for (; now_ns < end_ns; now_ns = clock_monotonic_ns()) {
        struct note *note = inbox_take(inbox, now_ns);
        if (!note) {
            return;
        }
        inbox_read(inbox, note);
    }
    uv_async_send(wake);
}

int inbox_init(struct inbox *inbox, uv_loop_t *loop, inbox_reader read, void *data)
{
    *inbox = (struct inbox){.read = read, .data = data, .oldest_ns = clock_monotonic_ns()};
    inbox->last_line = &inbox->lines;
    int rc = uv_async_init(loop, &inbox->wake, inbox_on_wake);
    if (rc != 0) {
        return rc;
    }
    inbox->wake.data = inbox;
    pthread_mutex_init(&inbox->lock, NULL); /* cannot fail for a default mutex on Linux */
    return 0;
}

void inbox_post(struct inbox *inbox, struct inbox_line *line, struct note *note)
{
    line = line ? line : &inbox->own;
    note->next = NULL;
    note->posted_ns = clock_monotonic_ns();
    atomic_fetch_add_explicit(&inbox->depth, 1, memory_order_relaxed);
    pthread_mutex_lock(&inbox->lock);
    if (line->first) {
        *line->last = note;
    } else {
        line->first = note;
        inbox_append(inbox, line);
    }
    line->last = &note->next;
    pthread_mutex_unlock(&inbox->lock);
    uv_async_send(&inbox->wake);
}

uint32_t inbox_depth(struct inbox *inbox)
{
    return atomic_load_explicit(&inbox->depth, memory_order_relaxed);
}

bool inbox_is_read(struct inbox *inbox, const struct inbox_line *line)
{
    pthread_mutex_lock(&inbox->lock);
    bool is_read = !line->first;
    pthread_mutex_unlock(&inbox->lock);
    return is_read;
}

uint64_t inbox_now_ns(struct inbox *inbox)
{
    return inbox_depth(inbox) > 0 ? inbox->oldest_ns : clock_monotonic_ns();
}

void inbox_close(struct inbox *inbox)
{
    struct note *note;
    while ((note = inbox_take(inbox, 0))) {
        inbox_read(inbox, note);
    }
    uv_close((uv_handle_t *)&inbox->wake, NULL);
    pthread_mutex_destroy(&inbox->lock);
}

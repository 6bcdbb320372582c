/* SPDX-License-Identifier: MIT */
/* The reader takes the whole list under the lock and works it off unlocked, so that a poster waits
 * for a pointer swap at most. uv_async_send coalesces: one wake-up may stand for many notes. */
#include "daemon/base/inbox.h"

#include <stdatomic.h>
#include <stdbool.h>

/* Notes read per turn of the loop: enough to keep up, few enough that control, timers and signals
 * get theirs. */
#define NOTES_PER_TURN 256

static void inbox_take_all(struct inbox *inbox)
{
    pthread_mutex_lock(&inbox->lock);
    inbox->reading = inbox->first;
    inbox->first = NULL;
    inbox->last = &inbox->first;
    pthread_mutex_unlock(&inbox->lock);
}

/* Reads up to `count` notes. Returns whether there may be more. */
static bool inbox_read_some(struct inbox *inbox, int count)
{
    for (; count > 0; count--) {
        if (!inbox->reading) {
            inbox_take_all(inbox);
        }
        struct note *note = inbox->reading;
        if (!note) {
            return false;
        }
        inbox->reading = note->next;
        atomic_fetch_sub_explicit(&inbox->depth, 1, memory_order_relaxed);
        inbox->read(inbox->data, note);
    }
    return true;
}

static void inbox_on_wake(uv_async_t *wake)
{
    if (inbox_read_some(wake->data, NOTES_PER_TURN)) {
        uv_async_send(wake);
    }
}

int inbox_init(struct inbox *inbox, uv_loop_t *loop, inbox_reader read, void *data)
{
    *inbox = (struct inbox){.read = read, .data = data};
    inbox->last = &inbox->first;
    int rc = uv_async_init(loop, &inbox->wake, inbox_on_wake);
    if (rc != 0) {
        return rc;
    }
    inbox->wake.data = inbox;
    pthread_mutex_init(&inbox->lock, NULL); /* cannot fail for a default mutex on Linux */
    return 0;
}

void inbox_post(struct inbox *inbox, struct note *note)
{
    note->next = NULL;
    atomic_fetch_add_explicit(&inbox->depth, 1, memory_order_relaxed);
    pthread_mutex_lock(&inbox->lock);
    *inbox->last = note;
    inbox->last = &note->next;
    pthread_mutex_unlock(&inbox->lock);
    uv_async_send(&inbox->wake);
}

uint32_t inbox_depth(struct inbox *inbox)
{
    return atomic_load_explicit(&inbox->depth, memory_order_relaxed);
}

void inbox_close(struct inbox *inbox)
{
    while (inbox_read_some(inbox, NOTES_PER_TURN)) {
    }
    uv_close((uv_handle_t *)&inbox->wake, NULL);
    pthread_mutex_destroy(&inbox->lock);
}

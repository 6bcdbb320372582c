/* SPDX-License-Identifier: MIT */
/* The reader takes the whole list under the lock and works it off unlocked, so that a poster waits
 * for a pointer swap at most. uv_async_send coalesces: one wake-up may stand for many notes. */
#include "inbox.h"

#include <assert.h>
#include <stdatomic.h>

static struct note *take_all(struct inbox *inbox)
{
    pthread_mutex_lock(&inbox->lock);
    struct note *first = inbox->first;
    inbox->first = NULL;
    inbox->last = &inbox->first;
    pthread_mutex_unlock(&inbox->lock);
    return first;
}

static void read_all(struct inbox *inbox)
{
    struct note *next;
    for (struct note *note = take_all(inbox); note; note = next) {
        next = note->next;
        atomic_fetch_sub_explicit(&inbox->depth, 1, memory_order_relaxed);
        inbox->read(inbox->data, note);
    }
}

static void on_wake(uv_async_t *wake)
{
    read_all(wake->data);
}

int inbox_init(struct inbox *inbox, uv_loop_t *loop, inbox_reader read, void *data)
{
    *inbox = (struct inbox){.read = read, .data = data};
    inbox->last = &inbox->first;
    int rc = uv_async_init(loop, &inbox->wake, on_wake);
    if (rc != 0)
        return rc;
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
    while (inbox->first)
        read_all(inbox);
    uv_close((uv_handle_t *)&inbox->wake, NULL);
    pthread_mutex_destroy(&inbox->lock);
}

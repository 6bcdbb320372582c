/* SPDX-License-Identifier: MIT */
#include "daemon/alerts/notify_internal.h"

#include "daemon/base/clock.h"

void notify_stop_init(struct notify_stop *stop)
{
    pthread_condattr_t attributes;
    stop->at_ns = UINT64_MAX;
    pthread_mutex_init(&stop->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&stop->changed, &attributes);
    pthread_condattr_destroy(&attributes);
}

void notify_stop_clear(struct notify_stop *stop)
{
    pthread_cond_destroy(&stop->changed);
    pthread_mutex_destroy(&stop->lock);
}

void notify_stop_set(struct notify_stop *stop, uint64_t at_ns)
{
    pthread_mutex_lock(&stop->lock);
    stop->at_ns = at_ns;
    pthread_cond_broadcast(&stop->changed);
    pthread_mutex_unlock(&stop->lock);
}

uint64_t notify_stop_before(struct notify_stop *stop, uint64_t until_ns)
{
    pthread_mutex_lock(&stop->lock);
    uint64_t at = stop->at_ns;
    pthread_mutex_unlock(&stop->lock);
    return at < until_ns ? at : until_ns;
}

bool notify_stop_wait(struct notify_stop *stop, uint64_t until_ns)
{
    pthread_mutex_lock(&stop->lock);
    for (;;) {
        uint64_t end = stop->at_ns < until_ns ? stop->at_ns : until_ns;
        struct timespec time = {.tv_sec = (time_t)(end / 1000000000),
                                .tv_nsec = (long)(end % 1000000000)};
        if (clock_monotonic_ns() >= end) {
            break;
        }
        pthread_cond_timedwait(&stop->changed, &stop->lock, &time);
    }
    bool stopped = stop->at_ns <= clock_monotonic_ns();
    pthread_mutex_unlock(&stop->lock);
    return !stopped;
}

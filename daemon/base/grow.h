/* SPDX-License-Identifier: MIT */
/* Arrays that grow by one thing at a time. Any thread. */
#ifndef DAEMON_BASE_GROW_H
#define DAEMON_BASE_GROW_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Sees to room for one more than `count` things of `size` bytes in the array that *ret_array, a
 * pointer of any type, points to: a full one gets twice as much. Without memory it returns false,
 * and all stays as it was. */
static inline bool grow(void *ret_array, size_t count, uint32_t *capacity, size_t size)
{
    void *array;
    if (count < *capacity) {
        return true;
    }
    uint32_t room = *capacity ? 2 * *capacity : 8;
    memcpy(&array, ret_array, sizeof array);
    array = realloc(array, room * size);
    if (array) {
        memcpy(ret_array, &array, sizeof array);
        *capacity = room;
    }
    return array;
}

#endif

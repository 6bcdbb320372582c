/* SPDX-License-Identifier: MIT */
/* Arrays that grow. Any thread. */
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

/* The same for an array of *count things that is to have one at `index`: it grows to twice as many
 * at least, and new ones are zero. */
static inline bool grow_to(void *ret_array, uint32_t index, uint32_t *count, size_t size)
{
    char *array;
    if (index < *count) {
        return true;
    }
    uint32_t wanted = index + 1 > 2 * *count ? index + 1 : 2 * *count;
    memcpy(&array, ret_array, sizeof array);
    array = realloc(array, wanted * size);
    if (array) {
        memset(array + *count * size, 0, (wanted - *count) * size);
        memcpy(ret_array, &array, sizeof array);
        *count = wanted;
    }
    return array;
}

#endif

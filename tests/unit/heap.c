/* SPDX-License-Identifier: MIT */
/* heap: see heap.h. The names are the linker's: --wrap=f sends calls of f to __wrap_f. */
#include "tests/unit/heap.h"

#include <stddef.h>

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *memory, size_t bytes);
void *__real_aligned_alloc(size_t align, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes);

static unsigned left;
static int failed;

void heap_fail_at(unsigned nth)
{
    left = nth;
    failed = 0;
}

int heap_has_failed(void)
{
    return failed;
}

static int fails(void)
{
    if (left == 0) {
        return 0;
    }
    left--;
    failed = left == 0;
    return failed;
}

void *__wrap_malloc(size_t bytes)
{
    return fails() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    return fails() ? NULL : __real_calloc(count, bytes);
}

void *__wrap_realloc(void *memory, size_t bytes)
{
    return fails() ? NULL : __real_realloc(memory, bytes);
}

void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
    return fails() ? NULL : __real_aligned_alloc(align, bytes);
}

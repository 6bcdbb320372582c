/* SPDX-License-Identifier: MIT */
/* heap: an allocator that fails on demand, by the linker's --wrap. One thread at a time. */
#ifndef TESTS_UNIT_HEAP_H
#define TESTS_UNIT_HEAP_H

/* The `nth` allocation from now on fails (1 = the next), once; 0 = none. */
void heap_fail_at(unsigned nth);
/* Whether the failure asked for has happened. */
int heap_has_failed(void);

#endif

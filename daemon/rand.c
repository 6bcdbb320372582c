/* SPDX-License-Identifier: MIT */
/* rand as libzmq calls it in attnd: the program's own symbol comes before that of the C library.
 *
 * libzmq (4.3.4 and 4.3.5) numbers the peers without a name of a ROUTER from a number that it makes
 * of two calls of rand, which nobody seeds. With the kernel's random numbers the first number is
 * another one in each process (base/README.md, "Asserts of libzmq"). */
#include <limits.h>
#include <stdlib.h>
#include <sys/random.h>

/* By this name to the linker, as in accept.c. */
__attribute__((visibility("default"))) int rand_of_kernel(void) __asm__("rand");

int rand_of_kernel(void)
{
    unsigned number = 0;
    while (getrandom(&number, sizeof number, 0) != (ssize_t)sizeof number) {
        /* a signal came before the kernel had any */
    }
    return (int)(number & INT_MAX);
}

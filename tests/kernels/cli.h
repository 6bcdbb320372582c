/* SPDX-License-Identifier: MIT */
/* cli: what the command lines of the kernel tests have in common. They exit with 2 at the first
 * thing that is wrong: the tests that drive them are the only users. */
#ifndef TESTS_KERNELS_CLI_H
#define TESTS_KERNELS_CLI_H

#include "workers/base/isa.h"
#include "proto/tensor.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LIST_MAX 256

/* "1,2,3" */
struct list {
    uint32_t count;
    int32_t value[LIST_MAX];
};

_Noreturn void die(const char *what);
/* The memory, or out of memory. */
void *must_have(void *memory);
void parse_list(const char *text, struct list *ret);
enum dtype parse_dtype(const char *text);
/* "list" prints the instruction sets of this machine and exits. */
enum isa parse_isa(const char *text);

/* An option that is a flag or a number; the other pointer is NULL. */
struct setting {
    const char *key;
    bool *flag;
    uint32_t *number;
};
/* Whether `key` is one of them, and is set. */
bool parse_setting(const struct setting *settings, size_t count, const char *key,
                   const char *value);

/* The file at `offset` of a new buffer; it must have `bytes` bytes. */
unsigned char *read_file(const char *path, size_t bytes, size_t offset);

/* JSON with 17 digits, NaN and Infinity in Python's spelling, and -0.0 with its sign. */
void print_number(double x);
/* [x, ...] */
void print_array(const double *x, size_t n);
/* The instruction sets of this machine, a line each. */
void print_isas(void);

#endif

/* SPDX-License-Identifier: MIT */
/* cli: what the command lines of the kernel tests have in common: options KEY=VALUE, tensors in
 * files, and JSON. They exit with 2 at the first thing that is wrong: the tests that drive them are
 * the only users. Files that were read stay until the process ends. */
#ifndef TESTS_KERNELS_CLI_H
#define TESTS_KERNELS_CLI_H

#include "workers/base/attention.h"
#include "workers/base/isa.h"
#include "workers/linear/spectrum.h"
#include "workers/rows/pairs.h"
#include "workers/stats/dist.h"
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
/* Unless the code is 0 the memory was not enough. */
void must(int rc);
/* The memory, or out of memory. */
void *must_have(void *memory);

/* An option, and where its value goes. */
struct option {
    const char *key;
    void (*parse)(char *value, void *ret);
    void *ret;
};
void parse_flag(char *value, void *ret);   /* bool */
void parse_number(char *value, void *ret); /* uint32_t */
void parse_real(char *value, void *ret);   /* double */
void parse_text(char *value, void *ret);   /* char * */
void parse_list(char *value, void *ret);   /* struct list */
void parse_dtype(char *value, void *ret);  /* enum dtype */
/* enum isa; "list" prints the instruction sets of this machine and exits. */
void parse_isa(char *value, void *ret);

/* The options of attention of every tier. */
struct input {
    struct attention a;
    struct list shape, q_len, k_len, cuts;
    char *mask, *documents, *tokens;
    uint32_t offset; /* misalignment of all tensors in memory */
};
/* Takes the arguments apart by the table and by the fields of `in`, which may be NULL. */
void parse_options(int argc, char **argv, struct input *in, const struct option *options,
                   size_t count);
/* Sets the shape and the lengths, reads the mask, documents and tokens, and finds first keys. */
void input_read(struct input *in);
/* The rows where block `i` of cuts.count + 1 begins; of the one behind the last, their number. */
uint32_t input_cut(const struct input *in, uint32_t i);

/* A file of exactly `bytes` bytes, `offset` bytes into memory that ends with it; NULL without a
 * path. */
void *read_tensor(const char *path, size_t bytes, size_t offset);

/* JSON: commas come by themselves. The key is NULL in an array. Numbers have 17 digits, NaN and
 * Infinity Python's spelling, and -0.0 its sign. */
void json_open(const char *key, char bracket);
void json_close(char bracket);
void json_number(const char *key, double x);
void json_integer(const char *key, int64_t n);
void json_text(const char *key, const char *text);
void json_numbers(const char *key, const double *x, size_t n);
/* [n, mean, std, min, max] */
void json_moments(const char *key, const struct moments *m);
/* [[query, key, weight], ...] */
void json_pairs(const char *key, const struct pair *pairs, uint32_t n);
/* Each number by its name. */
void json_spectrum(const char *key, const struct spectrum *s);

/* The instruction sets of this machine, a line each. */
void print_isas(void);

#endif

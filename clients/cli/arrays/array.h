/* SPDX-License-Identifier: MIT */
/* array: the arrays in .npy, .npz and .safetensors files: their list, then the contents of the
 * selected ones.
 *
 *     array_file_open -> the lists of many files, by one array_list -> array_load of some
 *
 * Files are mapped, so that what is not looked at is not read; what is compressed or in Fortran
 * order is copied when it is loaded. Everything a file says about itself is checked before it is
 * believed: sizes that are declared must be the sizes that are there. No logging; a failure is -1
 * with one sentence (ARRAY_ERROR_MAX bytes) that does not name the file. One thread. */
#ifndef CLIENTS_CLI_ARRAYS_ARRAY_H
#define CLIENTS_CLI_ARRAYS_ARRAY_H

#include "proto/tensor.h"

#include <stdbool.h>

#define ARRAY_ERROR_MAX 1024
#define ARRAY_RANK_MAX  8
/* Longest name that is read. */
#define ARRAY_NAME_MAX 512

/* Little-endian elements; the first four are those of enum dtype. */
enum array_type {
    ARRAY_F32 = DTYPE_F32,
    ARRAY_F16 = DTYPE_F16,
    ARRAY_BF16 = DTYPE_BF16,
    ARRAY_F64 = DTYPE_F64,
    ARRAY_BOOL, /* one byte */
    ARRAY_U8,
    ARRAY_I8,
    ARRAY_U16,
    ARRAY_I16,
    ARRAY_U32,
    ARRAY_I32,
    ARRAY_U64,
    ARRAY_I64,
    ARRAY_OTHER /* nothing that can be read: big-endian, complex, objects, records */
};

/* Bytes of one element; 0 for ARRAY_OTHER. */
size_t array_type_size(enum array_type type);
/* Whether it is bool or a whole number. */
bool array_type_is_integer(enum array_type type);
/* Whether it is one of the four that weights come in; sets *ret_dtype then. */
bool array_type_dtype(enum array_type type, enum dtype *ret_dtype);

struct array_file {
    const char *path;    /* borrowed */
    const uint8_t *data; /* the whole file */
    size_t size;
    bool mapped; /* data is a mapping of ours */
    void *zip;   /* .npz: the open archive */
};

struct array {
    char *name; /* without ".npy"; of a .npy file: its name without folder and ending */
    struct array_file *file; /* borrowed */
    enum array_type type;
    char type_name[24]; /* as the file says it: "<f4", "BF16" */
    uint32_t rank;      /* 0 = a single number */
    uint64_t shape[ARRAY_RANK_MAX];
    uint64_t bytes; /* of the contents; 0 for ARRAY_OTHER */
    bool fortran;   /* the first axis runs fastest in the file */
    uint64_t offset;
    /* where the contents begin: in the file, or in the entry of a .npz */
    uint64_t entry; /* .npz: which entry */
};

/* A zeroed struct is empty. */
struct array_list {
    struct array *items; /* [count] */
    size_t count, room;
};

/* Maps a file, "-" is standard input, and appends what it holds to the list. The struct
 * must not be moved and must outlive the list. On failure *ret_file needs no array_file_close, and
 * the list is as it was. */
int array_file_open(const char *path, struct array_file *ret_file, struct array_list *list,
                    char *reterr);
/* The same for a file in memory, which is borrowed; `path` only names it. */
int array_file_read(const char *path, const void *data, size_t size, struct array_file *ret_file,
                    struct array_list *list, char *reterr);
void array_file_close(struct array_file *file);
void array_list_clear(struct array_list *list);

/* An array's contents, C-contiguous, little-endian, perhaps unaligned. */
struct array_data {
    const void *data;
    void *owned; /* NULL when the data is in the file's mapping */
};

/* The array is not ARRAY_OTHER. The data is good until array_data_clear or array_file_close. Pages
 * of a mapped archive are given back to the system as they are read, so that only the entry itself
 * takes memory. */
int array_load(const struct array *array, struct array_data *ret_data, char *reterr);
void array_data_clear(struct array_data *data);

/* "[2, 4, 16, 16]" */
#define ARRAY_SHAPE_TEXT_MAX 192
const char *array_shape_text(const struct array *array, char ret_text[ARRAY_SHAPE_TEXT_MAX]);
/* The same in memory that is good as long as the block that the macro stands in. */
#define ARRAY_SHAPE(array) array_shape_text(array, (char[ARRAY_SHAPE_TEXT_MAX]){""})

/* Writes the sentence to reterr (ARRAY_ERROR_MAX bytes); returns -1. */
int array_fail(char *reterr, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Whether a file begins as a .npy does. */
bool npy_is(const uint8_t *data, size_t size);

#endif

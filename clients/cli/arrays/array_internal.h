/* SPDX-License-Identifier: MIT */
/* array_internal: shared by file.c and the readers of the formats. */
#ifndef CLIENTS_CLI_ARRAYS_ARRAY_INTERNAL_H
#define CLIENTS_CLI_ARRAYS_ARRAY_INTERNAL_H

#include "clients/cli/arrays/array.h"

#include <jansson.h>

/* Everything that can fail returns 0, or -1 with a sentence. */

/* Appends a copy of the array under a name (not NUL-terminated; at most ARRAY_NAME_MAX). */
int array_list_add(struct array_list *list, const struct array *array, const char *name, size_t len,
                   char *reterr);

/* Drops the arrays behind the first `count`. */
void array_list_shorten(struct array_list *list, size_t count);

/* The type that a format calls so; a .npy's without the sign of its byte order. */
enum array_type array_type_parse(const char *name, bool npy);

bool array_read_u64(const json_t *value, uint64_t *ret_number);
/* Reads a list of whole numbers as the shape; false when it is none, or too long. */
bool array_read_shape(const json_t *list, struct array *array);

/* Sets array->bytes from type and shape: 0, or -1 when that is more than INT64_MAX. */
int array_measure(struct array *array, char *reterr);

/* npy: the header at the start of `data`, of which `size` bytes are there: fills type, rank, shape,
 * fortran, bytes, offset. */
#define NPY_HEADER_MAX ((size_t)1 << 20)
int npy_header(const uint8_t *data, size_t size, struct array *ret_array, char *reterr);
int npy_list(struct array_file *file, struct array_list *list, char *reterr);

bool npz_is(const uint8_t *data, size_t size);
int npz_list(struct array_file *file, struct array_list *list, char *reterr);
/* Unpacks the contents, which have array->bytes. */
int npz_load(const struct array *array, uint8_t *ret_data, char *reterr);
void npz_close(struct array_file *file);

bool safetensors_is(const uint8_t *data, size_t size);
int safetensors_list(struct array_file *file, struct array_list *list, char *reterr);

#endif

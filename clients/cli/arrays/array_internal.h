/* SPDX-License-Identifier: MIT */
/* array_internal: shared by array.c, the readers of the formats and spool.c. */
#ifndef CLIENTS_CLI_ARRAYS_ARRAY_INTERNAL_H
#define CLIENTS_CLI_ARRAYS_ARRAY_INTERNAL_H

#include "clients/cli/arrays/array.h"

/* Everything that can fail returns 0, or -1, or ERR_MEMORY, with a sentence. */

/* Appends a copy of the array under a name (not NUL-terminated; at most ARRAY_NAME_MAX). */
int array_list_add(struct array_list *list, const struct array *array, const char *name, size_t len,
                   char *reterr);

/* Sets array->bytes from type and shape: 0, or -1 when that is more than INT64_MAX. */
int array_measure(struct array *array, char *reterr);

/* npy: the header at the start of `data`, of which `size` bytes are there: fills type, rank, shape,
 * fortran, bytes, offset. */
#define NPY_HEADER_MAX ((size_t)1 << 20)
int npy_header(const uint8_t *data, size_t size, struct array *ret_array, char *reterr);
int npy_list(struct array_file *file, struct array_list *list, char *reterr);

bool npz_is(const uint8_t *data, size_t size);
int npz_list(struct array_file *file, struct array_list *list, char *reterr);
/* Decompresses the contents of an entry to ret_data[array->bytes]. */
int npz_load(const struct array *array, void *ret_data, char *reterr);
void npz_close(struct array_file *file);

bool safetensors_is(const uint8_t *data, size_t size);
int safetensors_list(struct array_file *file, struct array_list *list, char *reterr);

/* Bytes of what a pipe gives at most. */
#define SPOOL_MAX (UINT64_C(16) << 30)

/* Standard input as a descriptor that can be mapped, which the caller closes: itself when it is a
 * file, otherwise a file without a name in $TMPDIR, or /tmp, that all of it was copied to. Returns
 * 0, or -1 with a sentence (ARRAY_ERROR_MAX bytes). */
int spool_input(int *ret_fd, char *reterr);

#endif

/* SPDX-License-Identifier: MIT */
/* Mapping a file, detecting its format, loading arrays.
 *
 * The format is told by the first bytes, and only where they say nothing (a file cut short) by the
 * file's ending. The mapping is private and read-only; a file that somebody shortens meanwhile ends
 * the program with a bus error, as it does any program that maps files. */
#include "clients/cli/arrays/array_internal.h"

#include "clients/cli/base/system.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Bytes of what a pipe gives at most. */
#define SPOOL_MAX (UINT64_C(16) << 30)

/* Files --------------------------------------------------------------------------------------- */

typedef int list_reader(struct array_file *file, struct array_list *list, char *reterr);

static const struct {
    bool (*is)(const uint8_t *data, size_t size);
    const char *ending;
    list_reader *list;
} formats[] = {
    {npy_is, ".npy", npy_list},
    {npz_is, ".npz", npz_list},
    {safetensors_is, ".safetensors", safetensors_list},
};
enum { FORMAT_COUNT = sizeof formats / sizeof formats[0] };

static int list_arrays(struct array_file *file, struct array_list *list, char *reterr)
{
    size_t before = list->count;
    if (file->size == 0) {
        return array_fail(reterr, "the file is empty");
    }
    list_reader *reader = NULL;
    size_t len = strlen(file->path);
    for (int i = 0; i < FORMAT_COUNT && !reader; i++) {
        reader = formats[i].is(file->data, file->size) ? formats[i].list : NULL;
    }
    for (int i = 0; i < FORMAT_COUNT && !reader; i++) {
        size_t tail = strlen(formats[i].ending);
        bool ends = len >= tail && strcmp(file->path + len - tail, formats[i].ending) == 0;
        reader = ends ? formats[i].list : NULL;
    }
    if (!reader) {
        return array_fail(reterr, "not a .npy, .npz or .safetensors file");
    }
    int rc = reader(file, list, reterr);
    if (rc != 0) {
        array_list_shorten(list, before);
    }
    return rc;
}

int array_file_read(const char *path, const void *data, size_t size, struct array_file *ret_file,
                    struct array_list *list, char *reterr)
{
    *ret_file = (struct array_file){.path = path, .data = data, .size = size};
    int rc = list_arrays(ret_file, list, reterr);
    if (rc != 0) {
        array_file_close(ret_file);
    }
    return rc;
}

/* The descriptor is closed by the caller; the mapping stays. */
static int map(int fd, struct array_file *file, char *reterr)
{
    struct stat stat;
    if (fstat(fd, &stat) != 0) {
        return array_fail(reterr, "%s", strerror(errno));
    }
    if (S_ISDIR(stat.st_mode)) {
        return array_fail(reterr, "is a directory");
    }
    if (!S_ISREG(stat.st_mode)) {
        return array_fail(reterr, "is not a regular file");
    }
    if (stat.st_size == 0) {
        return 0;
    }
    void *data = mmap(NULL, (size_t)stat.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED && errno == ENOMEM) {
        memory_short();
    }
    if (data == MAP_FAILED) {
        return array_fail(reterr, "%s", strerror(errno));
    }
    file->data = data;
    file->size = (size_t)stat.st_size;
    file->mapped = true;
    return 0;
}

static int open_nameless(char *reterr)
{
    const char *folder = getenv("TMPDIR");
    char path[4096];
    folder = folder && *folder ? folder : "/tmp";
    snprintf(path, sizeof path, "%.4000s/attnctl-XXXXXX", folder);
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0) {
        return array_fail(reterr, "cannot make a file in %.200s: %s", folder, strerror(errno));
    }
    unlink(path);
    return fd;
}

static int spool_copy(int fd, char *reterr)
{
    static char block[1 << 16];
    uint64_t copied = 0;
    for (size_t got; (got = fread(block, 1, sizeof block, stdin)) > 0;) {
        copied += got;
        if (copied > SPOOL_MAX) {
            return array_fail(reterr, "larger than %d GiB: give a file", (int)(SPOOL_MAX >> 30));
        }
        errno = ENOSPC; /* after a short write: no signal is caught here */
        if (write(fd, block, got) != (ssize_t)got) {
            return array_fail(reterr, "cannot be kept in a temporary file: %s", strerror(errno));
        }
    }
    return ferror(stdin) ? array_fail(reterr, "%s", strerror(errno)) : 0;
}

/* Standard input as a descriptor that can be mapped: itself when it is a file, otherwise a file
 * without a name in $TMPDIR, or /tmp, that all of it was copied to: arrays are read from the end
 * too, which a pipe cannot do, and the kernel may write a file out when memory is short. */
static int spool_input(char *reterr)
{
    struct stat stat;
    if (isatty(STDIN_FILENO)) {
        return array_fail(reterr, "standard input is a terminal: give a file or a pipe");
    }
    if (fstat(STDIN_FILENO, &stat) == 0 && S_ISREG(stat.st_mode)) {
        return STDIN_FILENO;
    }
    int fd = open_nameless(reterr);
    if (fd >= 0 && spool_copy(fd, reterr) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

int array_file_open(const char *path, struct array_file *ret_file, struct array_list *list,
                    char *reterr)
{
    bool input = strcmp(path, "-") == 0;
    /* O_NONBLOCK: a pipe is refused, not waited for. */
    int fd = input ? spool_input(reterr) : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    *ret_file = (struct array_file){.path = path};
    if (fd < 0) {
        return input ? -1 : array_fail(reterr, "%s", strerror(errno));
    }
    int rc = map(fd, ret_file, reterr);
    if (fd != STDIN_FILENO) {
        close(fd);
    }
    if (rc == 0) {
        rc = list_arrays(ret_file, list, reterr);
    }
    if (rc != 0) {
        array_file_close(ret_file);
    }
    return rc;
}

void array_file_close(struct array_file *file)
{
    npz_close(file);
    if (file->mapped) {
        munmap((void *)(uintptr_t)file->data, file->size);
    }
    *file = (struct array_file){0};
}

/* Contents ------------------------------------------------------------------------------------ */

/* The contents in the order of the file. */
static int array_load_plain(const struct array *array, struct array_data *ret_data, char *reterr)
{
    if (!array->file->zip) {
        ret_data->data = array->file->data + array->offset;
        return 0;
    }
    ret_data->data = ret_data->owned = memory_new(array->bytes, 1);
    return npz_load(array, ret_data->owned, reterr);
}

int array_load(const struct array *array, struct array_data *ret_data, char *reterr)
{
    struct array_data data = {0};
    int rc = array_load_plain(array, &data, reterr);
    if (rc == 0 && array->fortran && array->rank > 1) {
        uint8_t *ordered = memory_new(array->bytes, 1);
        /* Copies an array in Fortran order to C order. The C index counts up like an odometer, its
         * last digit fastest; `from` follows it. */
        size_t size = array_type_size(array->type), stride[ARRAY_RANK_MAX], from = 0;
        uint64_t index[ARRAY_RANK_MAX] = {0};
        size_t step = size;
        for (uint32_t i = 0; i < array->rank; i++) {
            stride[i] = step;
            step *= array->shape[i];
        }
        for (uint64_t done = 0; done < array->bytes; done += size) {
            memcpy(ordered + done, (const char *)data.data + from, size);
            for (uint32_t i = array->rank; i-- > 0;) {
                from += stride[i];
                if (++index[i] < array->shape[i]) {
                    break;
                }
                from -= stride[i] * array->shape[i];
                index[i] = 0;
            }
        }
        array_data_clear(&data);
        data = (struct array_data){ordered, ordered};
    }
    if (rc != 0) {
        array_data_clear(&data);
    } else {
        *ret_data = data;
    }
    return rc;
}

void array_data_clear(struct array_data *data)
{
    free(data->owned);
    *data = (struct array_data){0};
}

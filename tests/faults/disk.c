/* SPDX-License-Identifier: MIT */
/* Operations go through to the VFS that SQLite has by default. A file that was written has an image
 * of its contents at its last sync in memory, and a list of writes and truncations since. A
 * deletion is final at once. */
#include "tests/faults/disk.h"

#include "tests/fuzz/fuzz.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SECTOR    512
#define FILES_MAX 16

struct disk_write {
    struct disk_write *next;
    int64_t at;
    int size; /* -1: the file was cut at `at` */
    uint8_t bytes[];
};

/* By name, as long as disk_begin to disk_end. */
struct disk_image {
    char path[256];
    uint8_t *synced;
    int64_t size;
    struct disk_write *first, **last;
};

struct disk_file {
    sqlite3_file base;
    struct disk_image *image; /* NULL: no database and no log */
    sqlite3_file *real;
};

static sqlite3_vfs *below, disk_vfs;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the rest */
static struct disk_image images[FILES_MAX];
static enum disk_fault wanted;
static uint64_t seen, first, times, failed, changes, seed;
static struct disk_loss *losing;
static int64_t promised;

static uint64_t disk_random(void)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return seed >> 33;
}

/* Whether this operation fails. */
static bool disk_fails(enum disk_fault fault)
{
    bool fails = false;
    pthread_mutex_lock(&lock);
    if (wanted == fault) {
        fails = ++seen >= first && seen - first < times;
        failed += fails;
    }
    pthread_mutex_unlock(&lock);
    return fails;
}

/* Images */

static void forget_writes(struct disk_image *image)
{
    for (struct disk_write *write = image->first, *next; write; write = next) {
        next = write->next;
        free(write);
    }
    image->first = NULL;
    image->last = &image->first;
}

static struct disk_image *image_of(const char *path)
{
    for (int i = 0; i < FILES_MAX; i++) {
        if (!strcmp(images[i].path, path)) {
            return &images[i];
        }
        if (!*images[i].path) {
            snprintf(images[i].path, sizeof images[i].path, "%s", path);
            images[i].last = &images[i].first;
            return &images[i];
        }
    }
    abort();
}

/* Bytes allocated for a file of `size` bytes: a sector, doubled until it holds them, as SQLite adds
 * a page at a time. */
static int64_t room_of(int64_t size)
{
    int64_t room = size ? SECTOR : 0;
    while (room < size) {
        room *= 2;
    }
    return room;
}

static void put_into(uint8_t **bytes, int64_t *size, int64_t at, const uint8_t *from, int64_t count)
{
    if (at + count > *size) {
        if (room_of(at + count) > room_of(*size)) {
            *bytes = realloc(*bytes, (size_t)room_of(at + count));
        }
        REQUIRE(*bytes);
        memset(*bytes + *size, 0, (size_t)(at + count - *size));
        *size = at + count;
    }
    memcpy(*bytes + at, from, (size_t)count);
}

static void image_sync(struct disk_image *image)
{
    for (const struct disk_write *write = image->first; write; write = write->next) {
        if (write->size >= 0) {
            put_into(&image->synced, &image->size, write->at, write->bytes, write->size);
        } else if (write->at < image->size) {
            image->size = write->at;
        }
    }
    forget_writes(image);
}

/* A file as it is after its disk has lost its power. */
static void image_copy(const struct disk_image *image, const char *directory)
{
    uint8_t *bytes = malloc((size_t)room_of(image->size) + 1);
    int64_t size = image->size;
    char path[512];
    REQUIRE(bytes);
    if (size) {
        memcpy(bytes, image->synced, (size_t)size);
    }
    for (const struct disk_write *write = image->first; write; write = write->next) {
        unsigned luck = (unsigned)disk_random() % 3; /* all, none, or each sector for itself */
        for (int at = 0; at < write->size; at += SECTOR) {
            int count = write->size - at < SECTOR ? write->size - at : SECTOR;
            if (luck == 0 || (luck == 1 && disk_random() % 2)) {
                put_into(&bytes, &size, write->at + at, write->bytes + at, count);
            }
        }
        if (write->size < 0 && luck == 0 && write->at < size) {
            size = write->at;
        }
    }
    snprintf(path, sizeof path, "%s%s", directory, strrchr(image->path, '/'));
    FILE *file = fopen(path, "wb");
    REQUIRE(file && fwrite(bytes, 1, (size_t)size, file) == (size_t)size && !fclose(file));
    free(bytes);
}

static void lose_power(void)
{
    struct disk_loss *loss = losing;
    char directory[256];
    snprintf(directory, sizeof directory, "%s/%u", loss->directory, loss->count);
    REQUIRE(!mkdir(directory, 0700));
    for (int i = 0; i < FILES_MAX && *images[i].path; i++) {
        if (images[i].size || images[i].first) {
            image_copy(&images[i], directory);
        }
    }
    loss->promise[loss->count++] = promised;
    loss->at += loss->every;
}

/* Locked. Before each change. */
static void disk_count_change(void)
{
    if (losing && changes >= losing->at && losing->count < losing->most) {
        lose_power();
    }
    changes++;
}

static void note_write(struct disk_image *image, const void *bytes, int size, int64_t at)
{
    struct disk_write *write = malloc(sizeof *write + (size_t)(size > 0 ? size : 0));
    REQUIRE(write);
    *write = (struct disk_write){.at = at, .size = size};
    if (size > 0) {
        memcpy(write->bytes, bytes, (size_t)size);
    }
    disk_count_change();
    *image->last = write;
    image->last = &write->next;
}

/* Files */

static struct disk_file *file_of(sqlite3_file *file)
{
    return (struct disk_file *)(void *)file;
}

static sqlite3_file *real_of(sqlite3_file *file)
{
    return file_of(file)->real;
}

static int disk_close(sqlite3_file *file)
{
    return real_of(file)->pMethods->xClose(real_of(file));
}

static int disk_read(sqlite3_file *file, void *to, int size, sqlite3_int64 at)
{
    if (disk_fails(DISK_READ)) {
        return SQLITE_IOERR_READ;
    }
    int code = real_of(file)->pMethods->xRead(real_of(file), to, size, at);
    if (code == SQLITE_OK && disk_fails(DISK_SHORT_READ)) {
        memset((char *)to + size / 2, 0, (size_t)(size - size / 2));
        return SQLITE_IOERR_SHORT_READ;
    }
    return code;
}

static int write_through(sqlite3_file *file, const void *from, int size, sqlite3_int64 at)
{
    struct disk_image *image = file_of(file)->image;
    if (image) {
        pthread_mutex_lock(&lock);
        note_write(image, from, size, at);
        pthread_mutex_unlock(&lock);
    }
    return real_of(file)->pMethods->xWrite(real_of(file), from, size, at);
}

static int disk_write(sqlite3_file *file, const void *from, int size, sqlite3_int64 at)
{
    if (disk_fails(DISK_WRITE)) {
        return SQLITE_IOERR_WRITE;
    }
    if (disk_fails(DISK_FULL)) {
        return SQLITE_FULL;
    }
    if (disk_fails(DISK_SHORT_WRITE)) {
        write_through(file, from, size / 2, at);
        return SQLITE_IOERR_WRITE;
    }
    return write_through(file, from, size, at);
}

static int disk_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    struct disk_image *image = file_of(file)->image;
    if (disk_fails(DISK_OTHER)) {
        return SQLITE_IOERR_TRUNCATE;
    }
    if (image) {
        pthread_mutex_lock(&lock);
        note_write(image, NULL, -1, size);
        pthread_mutex_unlock(&lock);
    }
    return real_of(file)->pMethods->xTruncate(real_of(file), size);
}

static int disk_sync(sqlite3_file *file, int flags)
{
    struct disk_image *image = file_of(file)->image;
    (void)flags;
    if (disk_fails(DISK_SYNC)) {
        return SQLITE_IOERR_FSYNC;
    }
    if (image) {
        pthread_mutex_lock(&lock);
        disk_count_change();
        image_sync(image);
        if (losing && strstr(image->path, "-wal")) {
            promised = losing->ask(losing->data);
        }
        pthread_mutex_unlock(&lock);
    }
    return SQLITE_OK;
}

static int disk_size(sqlite3_file *file, sqlite3_int64 *ret_size)
{
    return disk_fails(DISK_OTHER) ? SQLITE_IOERR_FSTAT
                                  : real_of(file)->pMethods->xFileSize(real_of(file), ret_size);
}

static int disk_lock(sqlite3_file *file, int level)
{
    return disk_fails(DISK_OTHER) ? SQLITE_IOERR_LOCK
                                  : real_of(file)->pMethods->xLock(real_of(file), level);
}

static int disk_unlock(sqlite3_file *file, int level)
{
    return real_of(file)->pMethods->xUnlock(real_of(file), level);
}

static int disk_reserved(sqlite3_file *file, int *ret_held)
{
    return real_of(file)->pMethods->xCheckReservedLock(real_of(file), ret_held);
}

static int disk_control(sqlite3_file *file, int what, void *data)
{
    return real_of(file)->pMethods->xFileControl(real_of(file), what, data);
}

static int disk_sector(sqlite3_file *file)
{
    (void)file;
    return SECTOR;
}

/* As a plain disk: nothing is atomic, or in order. */
static int disk_character(sqlite3_file *file)
{
    (void)file;
    return 0;
}

static int disk_map(sqlite3_file *file, int page, int size, int extend, void volatile **ret)
{
    return disk_fails(DISK_OTHER)
               ? SQLITE_IOERR_SHMMAP
               : real_of(file)->pMethods->xShmMap(real_of(file), page, size, extend, ret);
}

static int disk_shared_lock(sqlite3_file *file, int offset, int count, int flags)
{
    return real_of(file)->pMethods->xShmLock(real_of(file), offset, count, flags);
}

static void disk_barrier(sqlite3_file *file)
{
    real_of(file)->pMethods->xShmBarrier(real_of(file));
}

static int disk_unmap(sqlite3_file *file, int remove)
{
    return real_of(file)->pMethods->xShmUnmap(real_of(file), remove);
}

static const sqlite3_io_methods disk_methods = {
    .iVersion = 2,
    .xClose = disk_close,
    .xRead = disk_read,
    .xWrite = disk_write,
    .xTruncate = disk_truncate,
    .xSync = disk_sync,
    .xFileSize = disk_size,
    .xLock = disk_lock,
    .xUnlock = disk_unlock,
    .xCheckReservedLock = disk_reserved,
    .xFileControl = disk_control,
    .xSectorSize = disk_sector,
    .xDeviceCharacteristics = disk_character,
    .xShmMap = disk_map,
    .xShmLock = disk_shared_lock,
    .xShmBarrier = disk_barrier,
    .xShmUnmap = disk_unmap,
};

/* The file system */

static int disk_open(sqlite3_vfs *vfs, const char *path, sqlite3_file *opened, int flags,
                     int *ret_flags)
{
    struct disk_file *file = file_of(opened);
    (void)vfs;
    file->base.pMethods = NULL;
    if (disk_fails(DISK_OTHER)) {
        return SQLITE_CANTOPEN;
    }
    file->real = (sqlite3_file *)(void *)(file + 1);
    int code = below->xOpen(below, path, file->real, flags, ret_flags);
    if (code != SQLITE_OK) {
        return code;
    }
    pthread_mutex_lock(&lock);
    file->image = path && flags & (SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL)
                      ? image_of(path)
                      : NULL;
    pthread_mutex_unlock(&lock);
    file->base.pMethods = &disk_methods;
    return SQLITE_OK;
}

static int disk_delete(sqlite3_vfs *vfs, const char *path, int sync)
{
    (void)vfs;
    if (disk_fails(DISK_OTHER)) {
        return SQLITE_IOERR_DELETE;
    }
    pthread_mutex_lock(&lock);
    disk_count_change();
    struct disk_image *image = image_of(path);
    forget_writes(image);
    image->size = 0;
    pthread_mutex_unlock(&lock);
    (void)sync;
    return below->xDelete(below, path, 0);
}

void disk_begin(void)
{
    below = below ? below : sqlite3_vfs_find(NULL);
    disk_vfs = *below;
    disk_vfs.zName = "disk";
    disk_vfs.szOsFile = (int)sizeof(struct disk_file) + below->szOsFile;
    disk_vfs.xOpen = disk_open;
    disk_vfs.xDelete = disk_delete;
    changes = 0;
    seed = 1;
    disk_fail(DISK_SOUND, 0, 0);
    REQUIRE(sqlite3_vfs_register(&disk_vfs, 1) == SQLITE_OK);
}

void disk_end(void)
{
    sqlite3_vfs_unregister(&disk_vfs);
    losing = NULL;
    for (int i = 0; i < FILES_MAX; i++) {
        forget_writes(&images[i]);
        free(images[i].synced);
        images[i] = (struct disk_image){0};
    }
}

void disk_fail(enum disk_fault fault, uint64_t nth, uint64_t count)
{
    pthread_mutex_lock(&lock);
    wanted = fault;
    first = nth;
    times = count;
    seen = failed = 0;
    pthread_mutex_unlock(&lock);
}

static uint64_t read_locked(const uint64_t *count)
{
    pthread_mutex_lock(&lock);
    uint64_t value = *count;
    pthread_mutex_unlock(&lock);
    return value;
}

uint64_t disk_seen(void)
{
    return read_locked(&seen);
}

uint64_t disk_failed(void)
{
    return read_locked(&failed);
}

uint64_t disk_changes(void)
{
    return read_locked(&changes);
}

void disk_lose(struct disk_loss *loss)
{
    pthread_mutex_lock(&lock);
    losing = loss;
    promised = 0;
    pthread_mutex_unlock(&lock);
}

/* SPDX-License-Identifier: MIT */
/* A call is one of ours by its return address. The memory functions go on to glibc's own names,
 * because dlsym allocates; all others are looked up once, when they are first called.
 *
 * Blocks that live are kept in a table of addresses with linear probing, never moved: a block freed
 * leaves a mark. */
#include "tests/faults/faults.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define PUBLIC      __attribute__((visibility("default")))
#define MODULES_MAX 16
#define LIVE_MAX    (1u << 20)
#define OPEN_MAX    4096
#define GONE        ((uintptr_t)1)

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);
void *__libc_memalign(size_t align, size_t bytes);
void __libc_free(void *memory);

struct module {
    uintptr_t first, end, base;
};

static struct module modules[MODULES_MAX];
static unsigned module_count;
static struct faults own, *state = &own;
static atomic_bool armed;

/* Blocks that live */

static atomic_flag live_lock = ATOMIC_FLAG_INIT;
static struct live {
    uintptr_t address, caller;
} live[LIVE_MAX];
static uint32_t used[LIVE_MAX + 1]; /* places of the table that are or were taken */
static size_t used_count;
static atomic_bool is_open[OPEN_MAX];

static void lock_live(void)
{
    while (atomic_flag_test_and_set_explicit(&live_lock, memory_order_acquire)) {
    }
}

static void unlock_live(void)
{
    atomic_flag_clear_explicit(&live_lock, memory_order_release);
}

static size_t place_of(uintptr_t address)
{
    return (size_t)((address >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 44) % LIVE_MAX;
}

static void note_live(void *memory, uintptr_t caller)
{
    uintptr_t address = (uintptr_t)memory;
    if (!memory) {
        return;
    }
    lock_live();
    for (size_t at = place_of(address), i = 0; i < LIVE_MAX; i++, at = (at + 1) % LIVE_MAX) {
        if (live[at].address <= GONE) {
            used[used_count] = (uint32_t)at;
            used_count += !live[at].address;
            live[at] = (struct live){address, caller};
            break;
        }
    }
    unlock_live();
}

/* Returns who allocated it, or 0. */
static uintptr_t note_freed(void *memory)
{
    uintptr_t address = (uintptr_t)memory, caller = 0;
    lock_live();
    for (size_t at = place_of(address), i = 0; live[at].address && i < LIVE_MAX;
         i++, at = (at + 1) % LIVE_MAX) {
        if (live[at].address == address) {
            caller = live[at].caller;
            live[at].address = GONE;
            break;
        }
    }
    unlock_live();
    return caller;
}

static int note_open(int fd)
{
    if (fd >= 0 && fd < OPEN_MAX) {
        atomic_store(&is_open[fd], true);
    }
    return fd;
}

static void note_closed(int fd)
{
    if (fd >= 0 && fd < OPEN_MAX) {
        atomic_store(&is_open[fd], false);
    }
}

static void count_live(void)
{
    state->live = state->open = 0;
    for (size_t i = 0; i < used_count; i++) {
        if (live[used[i]].address > GONE) {
            state->live++;
            state->live_caller = live[used[i]].caller;
        }
    }
    for (size_t i = 0; i < OPEN_MAX; i++) {
        state->open += atomic_load(&is_open[i]);
    }
}

/* Whose calls */

static bool is_counted(const char *name)
{
    const char *more = getenv("FAULTS_MODULES");
    char list[256], *rest = list, *part;
    if (!*name || strstr(name, "libattn")) { /* the program has no name */
        return true;
    }
    snprintf(list, sizeof list, "%s", more ? more : "");
    while ((part = strsep(&rest, ","))) {
        if (*part && strstr(name, part)) {
            return true;
        }
    }
    return false;
}

static int add_module(struct dl_phdr_info *info, size_t size, void *data)
{
    (void)size, (void)data;
    for (int i = 0; i < info->dlpi_phnum && module_count < MODULES_MAX; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        uintptr_t first = info->dlpi_addr + header->p_vaddr;
        if (header->p_type == PT_LOAD && (header->p_flags & PF_X) && is_counted(info->dlpi_name)) {
            modules[module_count++] =
                (struct module){first, first + header->p_memsz, info->dlpi_addr};
        }
    }
    return 0;
}

static const struct module *find_module(uintptr_t caller)
{
    for (unsigned i = 0; i < module_count; i++) {
        if (caller >= modules[i].first && caller < modules[i].end) {
            return &modules[i];
        }
    }
    return NULL;
}

static uintptr_t offset_of(uintptr_t caller)
{
    const struct module *module = find_module(caller);
    return module ? caller - module->base : 0;
}

static bool is_ours(uintptr_t caller)
{
    return atomic_load_explicit(&armed, memory_order_relaxed) && find_module(caller);
}

/* Whether this call of ours is the one that fails; then errno is set. */
static bool fails(const char *what, uintptr_t caller, int error)
{
    if (!is_ours(caller)) {
        return false;
    }
    uint64_t count = __atomic_add_fetch(&state->count, 1, __ATOMIC_RELAXED);
    if (count != state->nth) {
        return false;
    }
    state->caller = offset_of(caller);
    snprintf(state->what, sizeof state->what, "%s", what);
    __atomic_store_n(&state->failed, 1, __ATOMIC_RELEASE);
    errno = error;
    return true;
}

/* Arming */

PUBLIC void faults_arm(uint64_t nth)
{
    if (module_count == 0) {
        dl_iterate_phdr(add_module, NULL);
    }
    lock_live();
    while (used_count > 0) {
        live[used[--used_count]] = (struct live){0};
    }
    unlock_live();
    for (size_t i = 0; i < OPEN_MAX; i++) {
        atomic_store(&is_open[i], false);
    }
    *state = (struct faults){.nth = nth, .pid = (uint64_t)getpid()};
    atomic_store(&armed, true);
}

PUBLIC struct faults faults_disarm(void)
{
    atomic_store(&armed, false);
    count_live();
    return *state;
}

/* Children inherit the environment, and find the file taken. */
__attribute__((constructor)) static void arm_from_file(void)
{
    const char *path = getenv("FAULTS_FILE");
    uint64_t nobody = 0, me = (uint64_t)getpid();
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) {
        return;
    }
    struct faults *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (shared == MAP_FAILED || !__atomic_compare_exchange_n(&shared->pid, &nobody, me, false,
                                                             __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
        return;
    }
    state = shared;
    faults_arm(shared->nth);
}

__attribute__((destructor)) static void report(void)
{
    if (state != &own && state->pid == (uint64_t)getpid()) {
        faults_disarm();
    }
}

/* Memory */

#define CALLER ((uintptr_t)__builtin_return_address(0))

/* Gives a block to its list when it is ours. */
static void *given(void *memory, uintptr_t caller)
{
    if (is_ours(caller)) {
        note_live(memory, offset_of(caller));
    }
    return memory;
}

PUBLIC void *malloc(size_t bytes)
{
    uintptr_t caller = CALLER;
    return fails("malloc", caller, ENOMEM) ? NULL : given(__libc_malloc(bytes), caller);
}

PUBLIC void *calloc(size_t count, size_t bytes)
{
    uintptr_t caller = CALLER;
    return fails("calloc", caller, ENOMEM) ? NULL : given(__libc_calloc(count, bytes), caller);
}

static void *real_realloc(void *memory, size_t bytes, uintptr_t caller)
{
    uintptr_t before = memory ? note_freed(memory) : 0;
    void *grown = __libc_realloc(memory, bytes);
    if (!grown && bytes > 0 && before) {
        note_live(memory, before);
    }
    return before && !is_ours(caller) ? (note_live(grown, before), grown) : given(grown, caller);
}

PUBLIC void *realloc(void *memory, size_t bytes)
{
    uintptr_t caller = CALLER;
    return fails("realloc", caller, ENOMEM) ? NULL : real_realloc(memory, bytes, caller);
}

PUBLIC void *reallocarray(void *memory, size_t count, size_t bytes)
{
    uintptr_t caller = CALLER;
    size_t all;
    if (__builtin_mul_overflow(count, bytes, &all)) {
        errno = ENOMEM;
        return NULL;
    }
    return fails("reallocarray", caller, ENOMEM) ? NULL : real_realloc(memory, all, caller);
}

PUBLIC void *aligned_alloc(size_t align, size_t bytes)
{
    uintptr_t caller = CALLER;
    return fails("aligned_alloc", caller, ENOMEM) ? NULL
                                                  : given(__libc_memalign(align, bytes), caller);
}

PUBLIC int posix_memalign(void **ret_memory, size_t align, size_t bytes)
{
    uintptr_t caller = CALLER;
    void *memory = fails("posix_memalign", caller, ENOMEM) ? NULL : __libc_memalign(align, bytes);
    if (!memory) {
        return ENOMEM;
    }
    *ret_memory = given(memory, caller);
    return 0;
}

PUBLIC void free(void *memory)
{
    if (memory && atomic_load_explicit(&armed, memory_order_relaxed)) {
        note_freed(memory);
    }
    __libc_free(memory);
}

static char *copy_text(const char *text, size_t length, uintptr_t caller)
{
    char *copy = __libc_malloc(length + 1);
    if (copy) {
        memcpy(copy, text, length);
        copy[length] = '\0';
    }
    return given(copy, caller);
}

PUBLIC char *strdup(const char *text)
{
    uintptr_t caller = CALLER;
    return fails("strdup", caller, ENOMEM) ? NULL : copy_text(text, strlen(text), caller);
}

PUBLIC char *strndup(const char *text, size_t length)
{
    uintptr_t caller = CALLER;
    return fails("strndup", caller, ENOMEM) ? NULL : copy_text(text, strnlen(text, length), caller);
}

/* System calls and what libc makes of them */

/* Defines a function of this name that fails with `value` and `error` where it `may`, else calls
 * the one behind it; `after` sees its result. */
#define CALL_IF(may, after, type, name, parameters, arguments, value, error)                       \
    PUBLIC type name parameters;                                                                   \
    PUBLIC type name parameters                                                                    \
    {                                                                                              \
        static type(*real) parameters;                                                             \
        uintptr_t caller = CALLER;                                                                 \
        if (!real) {                                                                               \
            *(void **)&real = dlsym(RTLD_NEXT, #name);                                             \
        }                                                                                          \
        return (may) && fails(#name, caller, error) ? (value) : after(real arguments);             \
    }
#define CALL(...)           CALL_IF(true, SAME, __VA_ARGS__)
#define CALL_AS(after, ...) CALL_IF(true, after, __VA_ARGS__)
#define CALL_INT(name, parameters, arguments, error)                                               \
    CALL(int, name, parameters, arguments, -1, error)
#define SAME(result) (result)
/* A descriptor of ours. */
#define OPENED(result) (is_ours(caller) ? note_open(result) : (result))

/* Calls of an event descriptor fail only when it has nothing to say. */
static atomic_bool is_event[OPEN_MAX];
#define NO_EVENT (fd < 0 || fd >= OPEN_MAX || !atomic_load(&is_event[fd]))

static int note_event(int fd)
{
    if (fd >= 0 && fd < OPEN_MAX) {
        atomic_store(&is_event[fd], true);
    }
    return note_open(fd);
}
#define EVENT(result) (is_ours(caller) ? note_event(result) : (result))

CALL_IF(NO_EVENT, SAME, ssize_t, read, (int fd, void *to, size_t size), (fd, to, size), -1, EIO)
CALL_IF(NO_EVENT, SAME, ssize_t, __read_chk, (int fd, void *to, size_t size, size_t room),
        (fd, to, size, room), -1, EIO)
CALL_IF(NO_EVENT, SAME, ssize_t, write, (int fd, const void *from, size_t size), (fd, from, size),
        -1, ENOSPC)
CALL(ssize_t, pread, (int fd, void *to, size_t size, off_t at), (fd, to, size, at), -1, EIO)
CALL(ssize_t, pread64, (int fd, void *to, size_t size, off_t at), (fd, to, size, at), -1, EIO)
CALL(ssize_t, pwrite, (int fd, const void *from, size_t size, off_t at), (fd, from, size, at), -1,
     ENOSPC)
CALL(ssize_t, pwrite64, (int fd, const void *from, size_t size, off_t at), (fd, from, size, at), -1,
     ENOSPC)
CALL_INT(fsync, (int fd), (fd), EIO)
CALL_INT(fdatasync, (int fd), (fd), EIO)
CALL_INT(ftruncate, (int fd, off_t size), (fd, size), EIO)
CALL_INT(ftruncate64, (int fd, off_t size), (fd, size), EIO)
CALL_INT(fallocate, (int fd, int mode, off_t at, off_t size), (fd, mode, at, size), ENOSPC)
CALL(int, posix_fallocate, (int fd, off_t at, off_t size), (fd, at, size), ENOSPC, ENOSPC)
CALL_INT(flock, (int fd, int how), (fd, how), ENOLCK)
CALL(void *, mmap, (void *at, size_t size, int may, int flags, int fd, off_t from),
     (at, size, may, flags, fd, from), MAP_FAILED, ENOMEM)
CALL(void *, mmap64, (void *at, size_t size, int may, int flags, int fd, off_t from),
     (at, size, may, flags, fd, from), MAP_FAILED, ENOMEM)
CALL_AS(OPENED, int, socket, (int family, int type, int protocol), (family, type, protocol), -1,
        EMFILE)
CALL_INT(bind, (int fd, __CONST_SOCKADDR_ARG to, socklen_t size), (fd, to, size), EADDRINUSE)
CALL_INT(listen, (int fd, int backlog), (fd, backlog), EADDRINUSE)
CALL_INT(connect, (int fd, __CONST_SOCKADDR_ARG to, socklen_t size), (fd, to, size), ECONNREFUSED)
CALL_AS(OPENED, int, accept, (int fd, __SOCKADDR_ARG from, socklen_t *size), (fd, from, size), -1,
        EMFILE)
CALL_AS(OPENED, int, accept4, (int fd, __SOCKADDR_ARG from, socklen_t *size, int flags),
        (fd, from, size, flags), -1, EMFILE)
CALL_INT(getsockopt, (int fd, int level, int name, void *to, socklen_t *size),
         (fd, level, name, to, size), ENOBUFS)
CALL_INT(setsockopt, (int fd, int level, int name, const void *from, socklen_t size),
         (fd, level, name, from, size), ENOBUFS)
CALL_INT(getsockname, (int fd, __SOCKADDR_ARG to, socklen_t *size), (fd, to, size), ENOBUFS)
CALL_INT(getpeername, (int fd, __SOCKADDR_ARG to, socklen_t *size), (fd, to, size), ENOBUFS)
CALL(ssize_t, send, (int fd, const void *from, size_t size, int flags), (fd, from, size, flags), -1,
     ENOBUFS)
CALL(ssize_t, sendto,
     (int fd, const void *from, size_t size, int flags, __CONST_SOCKADDR_ARG to, socklen_t length),
     (fd, from, size, flags, to, length), -1, ENOBUFS)
CALL(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags), -1,
     ENOBUFS)
CALL(ssize_t, recv, (int fd, void *to, size_t size, int flags), (fd, to, size, flags), -1, ENOMEM)
CALL(ssize_t, recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags), -1,
     ENOMEM)
CALL_AS(EVENT, int, eventfd, (unsigned count, int flags), (count, flags), -1, EMFILE)
CALL_AS(OPENED, int, memfd_create, (const char *name, unsigned flags), (name, flags), -1, EMFILE)
CALL_AS(OPENED, int, dup, (int fd), (fd), -1, EMFILE)
CALL_AS(OPENED, int, epoll_create1, (int flags), (flags), -1, EMFILE)
CALL_INT(epoll_ctl, (int fd, int what, int other, struct epoll_event *event),
         (fd, what, other, event), ENOMEM)
CALL_INT(epoll_wait, (int fd, struct epoll_event *events, int most, int ms), (fd, events, most, ms),
         EINTR)
CALL_INT(poll, (struct pollfd * fds, nfds_t count, int ms), (fds, count, ms), ENOMEM)
CALL_INT(stat, (const char *path, struct stat *to), (path, to), EACCES)
CALL_INT(stat64, (const char *path, struct stat64 *to), (path, to), EACCES)
CALL_INT(lstat, (const char *path, struct stat *to), (path, to), EACCES)
CALL_INT(lstat64, (const char *path, struct stat64 *to), (path, to), EACCES)
CALL_INT(fstat, (int fd, struct stat *to), (fd, to), EIO)
CALL_INT(fstat64, (int fd, struct stat64 *to), (fd, to), EIO)
CALL_INT(statvfs64, (const char *path, struct statvfs64 *to), (path, to), EACCES)
CALL_INT(access, (const char *path, int how), (path, how), EACCES)
CALL_INT(mkdir, (const char *path, mode_t mode), (path, mode), ENOSPC)
CALL_INT(chmod, (const char *path, mode_t mode), (path, mode), EPERM)
CALL_INT(fchmod, (int fd, mode_t mode), (fd, mode), EPERM)
CALL_INT(rename, (const char *path, const char *to), (path, to), ENOSPC)
CALL_INT(unlink, (const char *path), (path), EACCES)
CALL(FILE *, fopen, (const char *path, const char *how), (path, how), NULL, EMFILE)
CALL(FILE *, fopen64, (const char *path, const char *how), (path, how), NULL, EMFILE)
CALL(FILE *, open_memstream, (char **ret_text, size_t *ret_size), (ret_text, ret_size), NULL,
     ENOMEM)
CALL(size_t, fwrite, (const void *from, size_t size, size_t count, FILE *to),
     (from, size, count, to), 0, ENOSPC)
CALL(int, fflush, (FILE * file), (file), EOF, ENOSPC)
CALL(FILE *, fdopen, (int fd, const char *how), (fd, how), NULL, ENOMEM)
CALL(DIR *, opendir, (const char *path), (path), NULL, EMFILE)
CALL(char *, realpath, (const char *path, char *to), (path, to), NULL, ENOMEM)
CALL_INT(getrlimit64, (__rlimit_resource_t what, struct rlimit64 *to), (what, to), EPERM)
CALL_INT(setrlimit64, (__rlimit_resource_t what, const struct rlimit64 *to), (what, to), EPERM)
CALL(ssize_t, getrandom, (void *to, size_t size, unsigned flags), (to, size, flags), -1, EAGAIN)
CALL_INT(pipe2, (int fds[2], int flags), (fds, flags), EMFILE)
CALL(int, posix_spawn,
     (pid_t * pid, const char *path, const posix_spawn_file_actions_t *files,
      const posix_spawnattr_t *how, char *const *arguments, char *const *environment),
     (pid, path, files, how, arguments, environment), EAGAIN, EAGAIN)
CALL(pid_t, fork, (void), (), -1, EAGAIN)
CALL(int, pthread_create,
     (pthread_t * thread, const pthread_attr_t *how, void *(*run)(void *), void *data),
     (thread, how, run, data), EAGAIN, EAGAIN)

/* Libraries in need: their own memory and files are not ours to fail. */

enum {
    NO_MEMORY_OF_UV = -ENOMEM,
    NO_MEMORY_OF_ZLIB = -4,
    NO_MEMORY_OF_SQLITE = 7,
    IO_OF_SQLITE = 10
};

CALL(void *, zmq_ctx_new, (void), (), NULL, EMFILE)
CALL(void *, zmq_socket, (void *context, int type), (context, type), NULL, EMFILE)
CALL_INT(zmq_bind, (void *socket, const char *endpoint), (socket, endpoint), EADDRINUSE)
CALL_INT(zmq_connect, (void *socket, const char *endpoint), (socket, endpoint), EMFILE)
CALL_INT(zmq_setsockopt, (void *socket, int option, const void *from, size_t size),
         (socket, option, from, size), ENOMEM)
CALL_INT(zmq_getsockopt, (void *socket, int option, void *to, size_t *size),
         (socket, option, to, size), EINTR)
CALL_INT(zmq_socket_monitor, (void *socket, const char *endpoint, int events),
         (socket, endpoint, events), EMFILE)
CALL_INT(zmq_msg_init_size, (void *message, size_t size), (message, size), ENOMEM)
CALL_INT(zmq_msg_init_data,
         (void *message, void *data, size_t size, void (*done)(void *, void *), void *hint),
         (message, data, size, done, hint), ENOMEM)
/* A queue that is full is so for whole messages; where it is waited for, a signal comes. */
static _Thread_local bool in_parts;
enum { AT_ONCE = 1, MORE_PARTS = 2 };
#define NOT_NOW      (flags & AT_ONCE ? EAGAIN : EINTR)
#define SENT(result) note_sent(result, flags)

static int note_sent(int result, int flags)
{
    in_parts = result >= 0 && (flags & MORE_PARTS);
    return result;
}

CALL_IF(!in_parts, SENT, int, zmq_msg_send, (void *message, void *socket, int flags),
        (message, socket, flags), -1, NOT_NOW)
CALL_INT(zmq_msg_recv, (void *message, void *socket, int flags), (message, socket, flags), EINTR)
CALL_IF(!in_parts, SENT, int, zmq_send, (void *socket, const void *from, size_t size, int flags),
        (socket, from, size, flags), -1, NOT_NOW)
CALL_INT(zmq_recv, (void *socket, void *to, size_t size, int flags), (socket, to, size, flags),
         EINTR)
CALL_INT(zmq_poll, (void *items, int count, long ms), (items, count, ms), EINTR)
CALL_INT(zmq_curve_keypair, (char *ret_public, char *ret_secret), (ret_public, ret_secret), ENOTSUP)
CALL(int, uv_loop_init, (void *loop), (loop), NO_MEMORY_OF_UV, ENOMEM)
CALL(int, uv_async_init, (void *loop, void *handle, void (*run)(void *)), (loop, handle, run),
     NO_MEMORY_OF_UV, ENOMEM)
CALL(int, uv_poll_init, (void *loop, void *handle, int fd), (loop, handle, fd), NO_MEMORY_OF_UV,
     ENOMEM)
CALL(int, uv_signal_init, (void *loop, void *handle), (loop, handle), NO_MEMORY_OF_UV, ENOMEM)
CALL(int, uv_signal_start, (void *handle, void (*run)(void *, int), int number),
     (handle, run, number), NO_MEMORY_OF_UV, ENOMEM)
CALL(int, uv_queue_work, (void *loop, void *work, void (*run)(void *), void (*done)(void *, int)),
     (loop, work, run, done), NO_MEMORY_OF_UV, ENOMEM)
CALL(int, uv_thread_create, (void *thread, void (*run)(void *), void *data), (thread, run, data),
     NO_MEMORY_OF_UV, EAGAIN)
CALL(void *, json_object, (void), (), NULL, ENOMEM)
CALL(void *, json_array, (void), (), NULL, ENOMEM)
CALL(void *, json_string, (const char *text), (text), NULL, ENOMEM)
CALL(void *, json_stringn, (const char *text, size_t size), (text, size), NULL, ENOMEM)
CALL(void *, json_stringn_nocheck, (const char *text, size_t size), (text, size), NULL, ENOMEM)
CALL(void *, json_integer, (long long number), (number), NULL, ENOMEM)
CALL(void *, json_real, (double number), (number), NULL, ENOMEM)
CALL(char *, json_dumps, (const void *json, size_t flags), (json, flags), NULL, ENOMEM)
CALL(int, msgpack_unpack_next, (void *result, const char *from, size_t size, size_t *at),
     (result, from, size, at), -2, ENOMEM)
CALL(int, sqlite3_open_v2, (const char *path, void **ret, int flags, const char *vfs),
     (path, ret, flags, vfs), (*ret = NULL, NO_MEMORY_OF_SQLITE), ENOMEM)
CALL(int, sqlite3_prepare_v2,
     (void *db, const char *text, int size, void **ret, const char **ret_rest),
     (db, text, size, ret, ret_rest), (*ret = NULL, NO_MEMORY_OF_SQLITE), ENOMEM)
CALL(int, sqlite3_prepare_v3,
     (void *db, const char *text, int size, unsigned flags, void **ret, const char **ret_rest),
     (db, text, size, flags, ret, ret_rest), (*ret = NULL, NO_MEMORY_OF_SQLITE), ENOMEM)
CALL(int, sqlite3_bind_blob64,
     (void *statement, int at, const void *from, uint64_t size, void (*done)(void *)),
     (statement, at, from, size, done), NO_MEMORY_OF_SQLITE, ENOMEM)
CALL(int, sqlite3_bind_text,
     (void *statement, int at, const char *from, int size, void (*done)(void *)),
     (statement, at, from, size, done), NO_MEMORY_OF_SQLITE, ENOMEM)
CALL(int, sqlite3_exec,
     (void *db, const char *text, int (*run)(void *, int, char **, char **), void *data,
      char **ret_error),
     (db, text, run, data, ret_error), IO_OF_SQLITE, EIO)
CALL(int, sqlite3_wal_checkpoint_v2,
     (void *db, const char *name, int mode, int *ret_log, int *ret_done),
     (db, name, mode, ret_log, ret_done), IO_OF_SQLITE, EIO)
CALL(int, deflateInit_, (void *stream, int level, const char *version, int size),
     (stream, level, version, size), NO_MEMORY_OF_ZLIB, ENOMEM)
CALL(int, inflateInit_, (void *stream, const char *version, int size), (stream, version, size),
     NO_MEMORY_OF_ZLIB, ENOMEM)
CALL(int, compress2,
     (void *to, unsigned long *room, const void *from, unsigned long size, int level),
     (to, room, from, size, level), NO_MEMORY_OF_ZLIB, ENOMEM)
CALL(int, uncompress, (void *to, unsigned long *room, const void *from, unsigned long size),
     (to, room, from, size), NO_MEMORY_OF_ZLIB, ENOMEM)
CALL(void *, curl_easy_init, (void), (), NULL, ENOMEM)
CALL(void *, curl_multi_init, (void), (), NULL, ENOMEM)
CALL(void *, curl_slist_append, (void *list, const char *text), (list, text), NULL, ENOMEM)
CALL(void *, MHD_create_response_from_buffer, (size_t size, void *from, int mode),
     (size, from, mode), NULL, ENOMEM)
CALL(void *, MHD_create_response_from_buffer_with_free_callback_cls,
     (size_t size, void *from, void (*done)(void *), void *data), (size, from, done, data), NULL,
     ENOMEM)
CALL(void *, MHD_create_response_from_callback,
     (uint64_t size, size_t block, ssize_t (*run)(void *, uint64_t, char *, size_t), void *data,
      void (*done)(void *)),
     (size, block, run, data, done), NULL, ENOMEM)
CALL(int, MHD_queue_response, (void *connection, unsigned status, void *response),
     (connection, status, response), 0, ENOMEM)
CALL(int, MHD_add_response_header, (void *response, const char *name, const char *text),
     (response, name, text), 0, ENOMEM)

/* With a variable number of arguments */

#define OPEN(name)                                                                                 \
    PUBLIC int name(const char *path, int flags, ...)                                              \
    {                                                                                              \
        static int (*real)(const char *path, int flags, ...);                                      \
        uintptr_t caller = CALLER;                                                                 \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        unsigned mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, unsigned) : 0;                \
        va_end(rest);                                                                              \
        if (!real) {                                                                               \
            *(void **)&real = dlsym(RTLD_NEXT, #name);                                             \
        }                                                                                          \
        return fails(#name, caller, EMFILE) ? -1 : OPENED(real(path, flags, mode));                \
    }
OPEN(open)
OPEN(open64)

#define FCNTL(name)                                                                                \
    PUBLIC int name(int fd, int what, ...)                                                         \
    {                                                                                              \
        static int (*real)(int fd, int what, ...);                                                 \
        uintptr_t caller = CALLER;                                                                 \
        va_list rest;                                                                              \
        va_start(rest, what);                                                                      \
        void *argument = va_arg(rest, void *);                                                     \
        va_end(rest);                                                                              \
        if (!real) {                                                                               \
            *(void **)&real = dlsym(RTLD_NEXT, #name);                                             \
        }                                                                                          \
        if (fails(#name, caller, EMFILE)) {                                                        \
            return -1;                                                                             \
        }                                                                                          \
        int result = real(fd, what, argument);                                                     \
        return what == F_DUPFD || what == F_DUPFD_CLOEXEC ? OPENED(result) : result;               \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

PUBLIC int close(int fd)
{
    static int (*real)(int fd);
    if (!real) {
        *(void **)&real = dlsym(RTLD_NEXT, "close");
    }
    note_closed(fd);
    if (fd >= 0 && fd < OPEN_MAX) {
        atomic_store(&is_event[fd], false);
    }
    return real(fd);
}

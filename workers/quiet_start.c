/* SPDX-License-Identifier: MIT */
/* OpenBLAS starts a thread per processor while it is loaded, before main and whatever is set later,
 * and each of them keeps its processor busy for a tenth of a second: on a machine that trains, for
 * every attnctl. It counts the processors that the process may use, so that is one until it has
 * been loaded. Functions in .preinit_array run before the constructors of all libraries, those of
 * the program after them.
 *
 * Linking a serial OpenBLAS would not do: Debian's has the name of the threaded one, and where both
 * are installed, as beside numpy, its alternatives choose the threaded one, for pkg-config and for
 * the loader. Only an absolute run path in each program would tell them apart, until a library path
 * in the environment of a job overrides it.
 *
 * A source of the two programs, not of a library: only a program's .preinit_array counts. */
#include <sched.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The C library and what sanitizers put around it have not begun yet: raw calls of the kernel. */
#define TOO_EARLY __attribute__((no_sanitize("address", "thread", "undefined")))

static cpu_set_t allowed, one; /* all 0 */
/* Compilers run constructors ahead of time if they can, and believe that nothing has run before. */
static volatile bool narrowed;

TOO_EARLY static void quiet_start_narrow(int argc, char **argv, char **environment)
{
    size_t cpu = 0;
    (void)argc, (void)argv, (void)environment;
    if (syscall(SYS_sched_getaffinity, 0, sizeof allowed, &allowed) < 0) {
        return; /* more processors than the set has: as without this file */
    }
    while (cpu < CPU_SETSIZE && !CPU_ISSET(cpu, &allowed)) {
        cpu++;
    }
    CPU_SET(cpu, &one);
    narrowed = syscall(SYS_sched_setaffinity, 0, sizeof one, &one) == 0;
}

__attribute__((constructor)) static void widen(void)
{
    if (narrowed) {
        syscall(SYS_sched_setaffinity, 0, sizeof allowed, &allowed);
    }
}

__attribute__((section(".preinit_array"),
               used)) static void (*const before_libraries)(int, char **,
                                                            char **) = quiet_start_narrow;

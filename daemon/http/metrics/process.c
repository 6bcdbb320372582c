/* SPDX-License-Identifier: MIT */
/* The process, by the metric names that are usual with Prometheus. Numbers that cannot be read are
 * left out. */
#include "daemon/http/metrics/internal.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* Fields of /proc/self/stat, in clock ticks, pages and bytes. */
struct process {
    unsigned long user, system, virtual_bytes;
    unsigned long long start;
    long resident_pages, threads;
};

/* The name in the second field may have blanks and parentheses: the last one ends it. */
static bool read_process(struct process *process)
{
    char text[1024];
    FILE *file = fopen("/proc/self/stat", "re");
    size_t used = file ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file) {
        fclose(file);
    }
    text[used] = '\0';
    const char *at = strrchr(text, ')');
    return at && sscanf(at + 1,
                        " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d %ld "
                        "%*d %llu %lu %ld",
                        &process->user, &process->system, &process->threads, &process->start,
                        &process->virtual_bytes, &process->resident_pages) == 6;
}

/* Seconds since 1970; 0 when it cannot be told. */
static double boot_time(void)
{
    char line[256];
    unsigned long long boot = 0;
    FILE *file = fopen("/proc/stat", "re");
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "btime %llu", &boot) == 1) {
            break;
        }
    }
    if (file) {
        fclose(file);
    }
    return (double)boot;
}

static uint64_t count_descriptors(void)
{
    uint64_t count = 0;
    DIR *directory = opendir("/proc/self/fd");
    if (!directory) {
        return 0;
    }
    while (readdir(directory)) {
        count++;
    }
    closedir(directory);
    return count > 3 ? count - 3 : 0; /* ".", "..", and the directory itself */
}

void metrics_put_process(struct metrics_text *text)
{
    struct process process;
    double ticks = (double)sysconf(_SC_CLK_TCK), boot = boot_time();
    struct rlimit limit;
    metrics_one_count(text, "process_open_fds", FAMILY_GAUGE, "Open file descriptors.",
                      count_descriptors());
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        metrics_one_count(text, "process_max_fds", FAMILY_GAUGE,
                          "File descriptors that may be open.", limit.rlim_cur);
    }
    if (!read_process(&process)) {
        return;
    }
    metrics_one(text, "process_cpu_seconds", FAMILY_COUNTER, "Processor time spent.",
                (double)(process.user + process.system) / ticks);
    metrics_one_count(text, "process_virtual_memory_bytes", FAMILY_GAUGE, "Virtual memory.",
                      process.virtual_bytes);
    metrics_one_count(text, "process_resident_memory_bytes", FAMILY_GAUGE, "Resident memory.",
                      (uint64_t)process.resident_pages * (uint64_t)sysconf(_SC_PAGESIZE));
    metrics_one_count(text, "process_threads", FAMILY_GAUGE, "Threads.", (uint64_t)process.threads);
    if (boot > 0) {
        metrics_one(text, "process_start_time_seconds", FAMILY_GAUGE,
                    "When the process began, since 1970.", boot + (double)process.start / ticks);
    }
}

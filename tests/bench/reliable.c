/* SPDX-License-Identifier: MIT */
/* The publisher of reliable.py in C, by libattn; see there.
 *
 *   reliable_publisher publish LANE ADDRESS heads=N length=N layers=N seconds=N rate=N kept=N
 *
 * LANE is reliable. Prints what became of it, as publish() of reliable.py does. */
#include "tests/bench/load.h"

#include <attn/attn.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { MESSAGES_MAX = 1 << 20 };

struct reliable_bench {
    attn_publisher *publisher;
    attn_publisher_counts before;
    double seconds, rate, kept; /* s; bytes a second, 0: as there is room; bytes */
    double *at, *taken;         /* when each was published, how long it took; s */
    unsigned published, settled;
    uint64_t dropped;
};

/* The first messages that are settled are those that were published first. */
static void reliable_look(struct reliable_bench *bench)
{
    attn_publisher_counts counts;
    attn_publisher_stats(bench->publisher, &counts);
    uint64_t settled = counts.sent + counts.dropped - bench->before.sent;
    double now = load_seconds();
    for (; bench->settled < settled && bench->settled < bench->published; bench->settled++) {
        bench->taken[bench->settled] = now - bench->at[bench->settled];
    }
    bench->dropped = counts.dropped;
}

static bool reliable_may_publish(const struct reliable_bench *bench, double since, double bytes)
{
    return bench->rate > 0 ? since * bench->rate >= bench->published * bytes
                           : (bench->published - bench->settled + 1) * bytes <= bench->kept;
}

static double reliable_run(struct reliable_bench *bench, attn_attention *attention, double bytes,
                           unsigned layers)
{
    double begin = load_seconds(), end = begin + 1e-3 * LOAD_PATIENCE_MS;
    while (load_seconds() < begin + bench->seconds && bench->published < MESSAGES_MAX) {
        reliable_look(bench);
        if (!reliable_may_publish(bench, load_seconds() - begin, bytes)) {
            nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
            continue;
        }
        attn_set_position(bench->publisher, 0, 1 + bench->published / layers);
        attention->layer = bench->published % layers;
        bench->at[bench->published++] = load_seconds();
        (void)attn_publish_attention(bench->publisher, attention); /* its drops are counted */
    }
    while (bench->settled < bench->published && load_seconds() < end) {
        reliable_look(bench);
        nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    }
    return load_seconds() - begin;
}

static int reliable_ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static long reliable_peak_mib(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_maxrss / 1024;
}

static double reliable_option(int argc, char **argv, const char *name)
{
    for (int i = 4; i < argc; i++) {
        if (strncmp(argv[i], name, strlen(name)) == 0 && argv[i][strlen(name)] == '=') {
            return strtod(argv[i] + strlen(name) + 1, NULL);
        }
    }
    fprintf(stderr, "bench: %s= is missing\n", name);
    exit(2);
}

int main(int argc, char **argv)
{
    static double at[MESSAGES_MAX], taken[MESSAGES_MAX];
    struct reliable_bench bench = {.at = at, .taken = taken};
    struct load load;
    attn_publisher_options options;
    attn_attention attention;
    if (argc < 5 || strcmp(argv[2], "reliable") != 0) {
        fputs("usage: reliable_publisher publish reliable ADDRESS NAME=VALUE...\n", stderr);
        return 2;
    }
    unsigned layers = (unsigned)reliable_option(argc, argv, "layers");
    bench.seconds = reliable_option(argc, argv, "seconds");
    bench.rate = 1e6 * reliable_option(argc, argv, "rate");
    bench.kept = 1048576 * reliable_option(argc, argv, "kept");
    load_init(&load, "bench", (uint32_t)reliable_option(argc, argv, "heads"),
              (uint32_t)reliable_option(argc, argv, "length"), layers);
    attn_publisher_options_default(&options);
    options.address = argv[3];
    options.job = "bench";
    options.reliable = ATTN_RELIABLE_ALL;
    options.reliable_bytes = (uint64_t)bench.kept;
    attn_attention_default(&attention);
    attention.stack = ATTN_DECODER;
    attention.weights = load.payload;
    attention.batch = 1;
    attention.heads = load.heads;
    attention.queries = attention.keys = load.length;
    if (attn_publisher_new(&options, &bench.publisher) != ATTN_OK ||
        attn_publisher_wait(bench.publisher, LOAD_PATIENCE_MS) != ATTN_OK) {
        load_die("no attnd");
    }
    (void)attn_publish_attention(bench.publisher, &attention);
    do {
        nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
        attn_publisher_stats(bench.publisher, &bench.before);
    } while (bench.before.queued > 0);
    long mib = reliable_peak_mib();
    double bytes = (double)load_bytes(&load) + 4096; /* its topic and header */
    double seconds = reliable_run(&bench, &attention, bytes, layers);
    qsort(taken, bench.settled, sizeof *taken, reliable_ascending);
    printf("{\"seconds\": %.3f, \"messages\": %u, \"dropped\": %llu, \"ms\": [%.1f, %.1f], "
           "\"mib\": %ld}\n",
           seconds, bench.published, (unsigned long long)bench.dropped,
           1e3 * taken[bench.settled / 2], 1e3 * taken[bench.settled * 99 / 100],
           reliable_peak_mib() - mib);
    attn_publisher_free(&bench.publisher);
    load_clear(&load);
    return 0;
}

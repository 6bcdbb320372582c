/* SPDX-License-Identifier: MIT */
/* How fast attention maps go through the whole daemon, against what raw libzmq does with the same
 * messages.
 *
 * Both run in pairs, one after the other, over ipc:// with the socket settings of the wire
 * contract: a process that publishes [1,12,512,512] f32 from one buffer without copying, and either
 * a bare receiver or attnd, for which a message counts when its numbers are done. attnd runs twice
 * in each pair: it is sent frames, and it is lent memory, into which each message is copied.
 * Prints one JSON line with the medians for each of the two.
 *
 *   pipeline ATTND [PAIRS [seconds=S] [SECTION.KEY=VALUE...]]      the settings go to attnd
 *   pipeline curve [PAIRS]      the bare receiver alone, over TCP: encrypted (CURVE) and as it is
 */
#include "proto/memory.h"
#include "tests/bench/attnd.h"
#include "tests/bench/bench.h"
#include "tests/bench/load.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

enum { HEADS = 12, LENGTH = 512, RAW_MESSAGES = 200, CURVE_MESSAGES = 60, PAIRS_MAX = 99 };
enum way { FRAMES, MEMORY, WAYS };
static const char *const way_name[WAYS] = {"frames", "memory"};
#define PAYLOAD_BYTES ((double)(HEADS * LENGTH * LENGTH * sizeof(float)))
/* attnd is given about this much work per pair, unless `seconds` says how much. */
#define ATTND_SECONDS 3.0
/* As much as a client lends by default. */
#define LENT_BYTES (UINT64_C(256) << 20)

struct bench {
    const char *attnd;
    char **settings;
    int setting_count;
    double seconds;
    double rate[WAYS][PAIRS_MAX], ratio[WAYS][PAIRS_MAX];
    double cpu[WAYS][PAIRS_MAX]; /* seconds of attnd per GB, its start and end included */
    struct load load;
    void *zmq;
};

/* A run that no daemon has seen. */
static void *pipeline_open_publisher(struct bench *bench, const char *endpoint,
                                     const char *server_key)
{
    load_init(&bench->load, "bench", HEADS, LENGTH, 1);
    return load_connect_secured(bench->zmq, endpoint, server_key);
}

/* The bare receiver, a process of its own: exits when it has all messages. Says to `ready` where it
 * listens. */
static _Noreturn void receive_all(const char *endpoint, unsigned messages, const char *secret_key,
                                  int ready)
{
    char bound[128];
    size_t size = sizeof bound;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    void *zmq = zmq_ctx_new();
    void *socket = zmq_socket(zmq, ZMQ_SUB);
    if (secret_key) {
        load_set(socket, ZMQ_CURVE_SERVER, 1);
        zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, secret_key, 41);
    }
    load_set(socket, ZMQ_RCVHWM, 4);
    load_set(socket, ZMQ_RCVTIMEO, LOAD_PATIENCE_MS);
    zmq_setsockopt(socket, ZMQ_SUBSCRIBE, "", 0);
    if (zmq_bind(socket, endpoint) != 0 ||
        zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, bound, &size) != 0 ||
        write(ready, bound, size) != (ssize_t)size) {
        load_die("bind");
    }
    for (unsigned frames = 0; frames < 3 * messages; frames++) {
        zmq_msg_t frame;
        zmq_msg_init(&frame);
        if (zmq_msg_recv(&frame, socket, 0) < 0) {
            load_die("receive");
        }
        zmq_msg_close(&frame);
    }
    zmq_close(socket);
    zmq_ctx_term(zmq);
    _exit(0);
}

/* The rate of `messages` to the bare receiver; encrypted with keys. */
static double raw_rate(struct bench *bench, const char *endpoint, unsigned messages,
                       const char *server_key, const char *secret_key)
{
    char bound[128];
    int status, ready[2];
    if (pipe(ready) != 0) {
        load_die("pipe");
    }
    pid_t receiver = fork();
    if (receiver == 0) {
        receive_all(endpoint, messages, secret_key, ready[1]);
    }
    close(ready[1]);
    if (read(ready[0], bound, sizeof bound) < 1) {
        exit(1); /* it said why */
    }
    close(ready[0]);
    void *socket = pipeline_open_publisher(bench, bound, server_key);
    double start = load_seconds();
    while (bench->load.sent < messages) {
        load_publish(&bench->load, socket);
    }
    if (waitpid(receiver, &status, 0) != receiver || status != 0) {
        exit(1); /* it said why */
    }
    double elapsed = load_seconds() - start;
    zmq_close(socket);
    load_clear(&bench->load);
    return messages * PAYLOAD_BYTES / elapsed;
}

/* Processor time of the processes that have ended. */
static double cpu_of_children(void)
{
    struct rusage used;
    getrusage(RUSAGE_CHILDREN, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           1e-6 * (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

/* Memory that attnd reads in place (PROTOCOL.md, "The same-host lane"): a buffer for each message
 * that is on its way. */
struct pool {
    int fd;
    struct memory_greeting greeting;
    uint64_t bytes; /* of a buffer */
    void *data[MEMORY_BUFFERS_MAX];
    uint32_t count, free_count,
        free[MEMORY_BUFFERS_MAX]; /* the newest last: it may be in a cache */
};

static void pool_open(struct pool *pool, const char *endpoint, uint64_t bytes)
{
    const struct timeval patience = {.tv_sec = LOAD_PATIENCE_MS / 1000};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    *pool = (struct pool){.fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), .bytes = bytes};
    if (pool->fd < 0 || !memory_path(endpoint, address.sun_path) ||
        setsockopt(pool->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) != 0 ||
        connect(pool->fd, (const struct sockaddr *)&address, sizeof address) != 0 ||
        recv(pool->fd, &pool->greeting, sizeof pool->greeting, 0) !=
            (ssize_t)sizeof pool->greeting) {
        load_die("memory");
    }
}

static bool pool_may_grow(const struct pool *pool)
{
    uint64_t room = pool->greeting.bytes_max < LENT_BYTES ? pool->greeting.bytes_max : LENT_BYTES;
    return pool->count < pool->greeting.buffers_max && (pool->count + 1) * pool->bytes <= room;
}

static void pool_grow(struct pool *pool)
{
    union {
        struct cmsghdr header; /* for its alignment */
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.room = {0}};
    struct memory_record record = {MEMORY_LEND, pool->count};
    struct iovec part = {.iov_base = &record, .iov_len = sizeof record};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    int fd = memfd_create("attnd", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    void *data = MAP_FAILED;
    if (fd >= 0 && posix_fallocate(fd, 0, (off_t)pool->bytes) == 0) {
        data = mmap(NULL, pool->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    control.header = (struct cmsghdr){
        .cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    if (data == MAP_FAILED || fcntl(fd, F_ADD_SEALS, MEMORY_SEALS) != 0 ||
        sendmsg(pool->fd, &message, MSG_NOSIGNAL) != (ssize_t)sizeof record) {
        load_die("memory");
    }
    close(fd);
    pool->data[pool->count++] = data;
}

/* The number of a buffer that attnd does not read. */
static uint32_t pool_take(struct pool *pool)
{
    bool grown = false;
    for (;;) {
        bool may_grow = !grown && pool_may_grow(pool), waits = pool->free_count == 0 && !may_grow;
        struct memory_record said;
        ssize_t heard = recv(pool->fd, &said, sizeof said, waits ? 0 : MSG_DONTWAIT);
        if (heard == (ssize_t)sizeof said && said.kind == MEMORY_FREE &&
            said.buffer < pool->count && pool->free_count < pool->count) {
            pool->free[pool->free_count++] = said.buffer;
        } else if (heard >= 0 || errno != EAGAIN || waits) {
            load_die("no memory was taken");
        } else if (pool->free_count > 0) {
            return pool->free[--pool->free_count];
        } else {
            pool_grow(pool);
            grown = true;
        }
    }
}

static void pool_close(struct pool *pool)
{
    close(pool->fd);
    while (pool->count > 0) {
        munmap(pool->data[--pool->count], pool->bytes);
    }
}

/* Copies the map into memory that attnd has, and names it. */
static void publish_lent(struct bench *bench, void *socket, struct pool *pool)
{
    uint32_t buffer = pool_take(pool);
    struct memory_reference reference = {.buffer = buffer, .bytes = pool->bytes};
    zmq_msg_t frame;
    memcpy(reference.token, pool->greeting.token, sizeof reference.token);
    memcpy(pool->data[buffer], bench->load.payload, pool->bytes);
    zmq_msg_init_size(&frame, sizeof reference);
    memcpy(zmq_msg_data(&frame), &reference, sizeof reference);
    load_send(&bench->load, socket, &frame);
}

static double attnd_rate(struct bench *bench, enum way way, double *ret_cpu)
{
    struct pool pool;
    struct attnd attnd;
    double cpu_before = cpu_of_children();
    uint64_t processed = 0;
    char text[128];
    attnd_start(&attnd, bench->zmq, bench->attnd, bench->settings, bench->setting_count);
    attnd_endpoint(&attnd, "ingest", text);
    void *socket = pipeline_open_publisher(bench, text, NULL);
    double start = load_seconds();
    pool_open(&pool, text, load_bytes(&bench->load));
    while (load_seconds() - start < bench->seconds) {
        if (way == MEMORY) {
            publish_lent(bench, socket, &pool);
        } else {
            load_publish(&bench->load, socket);
        }
        attnd_pace(&bench->load, attnd.control, &processed);
    }
    attnd_settle(&bench->load, attnd.control);
    double elapsed = load_seconds() - start;
    zmq_close(socket);
    pool_close(&pool);
    attnd_stop(&attnd);
    load_clear(&bench->load);
    double bytes = (double)bench->load.sent * PAYLOAD_BYTES;
    *ret_cpu = (cpu_of_children() - cpu_before) / (bytes / 1e9);
    return bytes / elapsed;
}

static void pipeline_report(struct bench *bench, enum way way, double *raw, int pairs)
{
    printf("{\"bench\": \"pipeline\", \"way\": \"%s\", \"shape\": [1, %d, %d, %d], \"dtype\": "
           "\"f32\", "
           "\"transport\": \"ipc\", "
           "\"pairs\": %d, \"attnd_gb_per_s\": %.3f, \"raw_libzmq_gb_per_s\": %.3f, \"ratio\": "
           "%.4f, \"attnd_cpu_s_per_gb\": %.3f, \"settings\": [",
           way_name[way], HEADS, LENGTH, LENGTH, pairs,
           bench_median(bench->rate[way], (size_t)pairs) / 1e9,
           bench_median(raw, (size_t)pairs) / 1e9, bench_median(bench->ratio[way], (size_t)pairs),
           bench_median(bench->cpu[way], (size_t)pairs));
    for (int i = 0; i < bench->setting_count; i++) {
        printf("%s\"%s\"", i ? ", " : "", bench->settings[i]);
    }
    puts("]}");
}

/* Two threads of libzmq: one encrypts, the other decrypts. */
static void pipeline_curve(struct bench *bench, int pairs)
{
    double secured[PAIRS_MAX], plain[PAIRS_MAX], ratio[PAIRS_MAX];
    char public_key[41], secret_key[41];
    if (zmq_curve_keypair(public_key, secret_key) != 0) {
        load_die("curve");
    }
    for (int i = 0; i < pairs; i++) {
        const char *endpoint = "tcp://127.0.0.1:*";
        bench->zmq = zmq_ctx_new();
        secured[i] = raw_rate(bench, endpoint, CURVE_MESSAGES, public_key, secret_key);
        plain[i] = raw_rate(bench, endpoint, RAW_MESSAGES, NULL, NULL);
        ratio[i] = secured[i] / plain[i];
        zmq_ctx_term(bench->zmq);
    }
    printf("{\"bench\": \"pipeline\", \"shape\": [1, %d, %d, %d], \"dtype\": \"f32\", "
           "\"transport\": \"tcp\", \"pairs\": %d, \"curve_gb_per_s\": %.3f, "
           "\"plain_gb_per_s\": %.3f, \"ratio\": %.4f}\n",
           HEADS, LENGTH, LENGTH, pairs, bench_median(secured, (size_t)pairs) / 1e9,
           bench_median(plain, (size_t)pairs) / 1e9, bench_median(ratio, (size_t)pairs));
}

int main(int argc, char **argv)
{
    static struct bench bench;
    double raw[PAIRS_MAX];
    char endpoint[128];
    int pairs = argc > 2 ? (int)strtol(argv[2], NULL, 10) : 5;
    if (argc < 2 || pairs < 1 || pairs > PAIRS_MAX || argc > 3 + 20) {
        fputs("usage: pipeline ATTND|curve [PAIRS [seconds=S] [SECTION.KEY=VALUE...]]\n", stderr);
        return 2;
    }
    if (strcmp(argv[1], "curve") == 0) {
        pipeline_curve(&bench, pairs);
        return 0;
    }
    bench.attnd = argv[1];
    bool is_timed = argc > 3 && strncmp(argv[3], "seconds=", 8) == 0;
    bench.seconds = is_timed ? strtod(argv[3] + 8, NULL) : ATTND_SECONDS;
    bench.settings = argv + 3 + is_timed;
    bench.setting_count = argc > 3 ? argc - 3 - is_timed : 0;
    unsigned messages = 1 + (unsigned)(RAW_MESSAGES * bench.seconds / ATTND_SECONDS);
    for (int i = 0; i < pairs; i++) {
        bench.zmq = zmq_ctx_new();
        snprintf(endpoint, sizeof endpoint, "ipc://%s/raw", attnd_directory());
        raw[i] = raw_rate(&bench, endpoint, messages, NULL, NULL);
        for (enum way way = 0; way < WAYS; way++) {
            bench.rate[way][i] = attnd_rate(&bench, way, &bench.cpu[way][i]);
            bench.ratio[way][i] = bench.rate[way][i] / raw[i];
        }
        zmq_ctx_term(bench.zmq);
    }
    for (enum way way = 0; way < WAYS; way++) {
        pipeline_report(&bench, way, raw, pairs);
    }
    return 0;
}

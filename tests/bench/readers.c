/* SPDX-License-Identifier: MIT */
/* Many readers in one process: clients of the event stream over HTTP, and ZeroMQ subscribers to
 * everything. Reads until SIGTERM, then prints what came and what it cost this process.
 *
 *   readers PORT STREAMS ENDPOINT SUBSCRIBERS */
#include "tests/bench/load.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

/* Subscribers are looked at this often: a wait on a thousand sockets costs more than asking them.
 */
#define ROUND_MS 10

struct readers {
    int epoll, streams;
    void *zmq, **subscribers;
    int subscriber_count;
    uint64_t stream_bytes, events, closed, messages, message_bytes;
};

static volatile sig_atomic_t stopped;

static void readers_on_stop(int number)
{
    (void)number;
    stopped = 1;
}

static int readers_open_stream(uint16_t port)
{
    static const char request[] = "GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
        write(fd, request, sizeof request - 1) != (ssize_t)sizeof request - 1) {
        perror("readers: event stream");
        exit(1);
    }
    return fd;
}

static void open_streams(struct readers *readers, uint16_t port, int count)
{
    readers->epoll = epoll_create1(EPOLL_CLOEXEC);
    readers->streams = count;
    for (int i = 0; i < count; i++) {
        int fd = readers_open_stream(port);
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(readers->epoll, EPOLL_CTL_ADD, fd, &event);
    }
}

static void open_subscribers(struct readers *readers, const char *endpoint, int count)
{
    readers->zmq = zmq_ctx_new();
    zmq_ctx_set(readers->zmq, ZMQ_MAX_SOCKETS, count + 16);
    readers->subscribers = calloc((size_t)count + 1, sizeof *readers->subscribers);
    readers->subscriber_count = count;
    for (int i = 0; readers->subscribers && i < count; i++) {
        void *socket = zmq_socket(readers->zmq, ZMQ_SUB);
        if (!socket || zmq_setsockopt(socket, ZMQ_SUBSCRIBE, "", 0) != 0 ||
            zmq_connect(socket, endpoint) != 0) {
            load_die("subscriber");
        }
        readers->subscribers[i] = socket;
    }
}

/* By their ids. An id that is cut by the end of a read is not counted. */
static uint64_t count_events(const char *text, size_t size)
{
    uint64_t count = 0;
    for (const char *at = text; (at = memmem(at, size - (size_t)(at - text), "\nid: ", 5)); at++) {
        count++;
    }
    return count;
}

static void readers_read_stream(struct readers *readers, int fd)
{
    static char buffer[1 << 18];
    ssize_t got = read(fd, buffer, sizeof buffer);
    if (got <= 0) {
        close(fd);
        readers->closed++;
        return;
    }
    readers->stream_bytes += (uint64_t)got;
    readers->events += count_events(buffer, (size_t)got);
}

static void read_streams(struct readers *readers)
{
    struct epoll_event events[256];
    int count = epoll_wait(readers->epoll, events, 256, ROUND_MS);
    for (int i = 0; i < count; i++) {
        readers_read_stream(readers, events[i].data.fd);
    }
}

static void read_subscriber(struct readers *readers, void *socket)
{
    zmq_msg_t frame;
    zmq_msg_init(&frame);
    while (zmq_msg_recv(&frame, socket, ZMQ_DONTWAIT) >= 0) {
        readers->message_bytes += zmq_msg_size(&frame);
        readers->messages += !zmq_msg_more(&frame);
    }
    zmq_msg_close(&frame);
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void readers_report(const struct readers *readers, double seconds)
{
    printf(
        "{\"streams\": %d, \"subscribers\": %d, \"events\": %llu, \"stream_bytes\": %llu, "
        "\"streams_closed\": %llu, \"messages\": %llu, \"message_bytes\": %llu, \"seconds\": %.3f, "
        "\"cpu_seconds\": %.3f}\n",
        readers->streams, readers->subscriber_count, (unsigned long long)readers->events,
        (unsigned long long)readers->stream_bytes, (unsigned long long)readers->closed,
        (unsigned long long)readers->messages, (unsigned long long)readers->message_bytes, seconds,
        cpu_seconds());
}

/* A subscriber takes three descriptors. */
static void readers_raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return;
    }
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

int main(int argc, char **argv)
{
    struct readers readers = {.epoll = -1};
    if (argc != 5) {
        fputs("usage: readers PORT STREAMS ENDPOINT SUBSCRIBERS\n", stderr);
        return 2;
    }
    signal(SIGTERM, readers_on_stop);
    signal(SIGPIPE, SIG_IGN);
    readers_raise_descriptor_limit();
    open_streams(&readers, (uint16_t)strtoul(argv[1], NULL, 10), (int)strtol(argv[2], NULL, 10));
    open_subscribers(&readers, argv[3], (int)strtol(argv[4], NULL, 10));
    puts("ready");
    fflush(stdout);
    double start = load_seconds();
    while (!stopped) {
        read_streams(&readers);
        for (int i = 0; i < readers.subscriber_count; i++) {
            read_subscriber(&readers, readers.subscribers[i]);
        }
    }
    readers_report(&readers, load_seconds() - start);
    fflush(stdout);
    _exit(0); /* the sockets go with the process */
}

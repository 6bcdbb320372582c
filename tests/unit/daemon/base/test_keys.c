/* SPDX-License-Identifier: MIT */
/* Keys on real sockets: strangers stay out, and a socket that lets them in does not pass. */

#include "tests/unit/unit.h"

#include "daemon/base/endpoint.h"
#include "daemon/base/keys.h"
#include "daemon/base/log.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct keys_fixture {
    struct config config;
    struct stats stats;
    void *zmq, *asker; /* the latter as ZeroMQ asks the handler; NULL: not opened */
    struct keyring *keys;
    char directory[32], server[KEY_LENGTH + 1], secret[KEY_LENGTH + 1], error[CONFIG_ERROR_MAX];
};

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    assert_int_equal(chmod(path, 0600), 0);
}

static void keys_write_files(struct keys_fixture *f)
{
    assert_non_null(mkdtemp(f->directory));
    assert_int_equal(zmq_curve_keypair(f->server, f->secret), 0);
    config_defaults(&f->config);
    strcpy(f->config.control_endpoint.text, "tcp://127.0.0.1:*");
    snprintf(f->config.keys_server.text, CONFIG_TEXT_MAX, "%s/key", f->directory);
    snprintf(f->config.keys_access.text, CONFIG_TEXT_MAX, "%s/access", f->directory);
    assert_int_equal(key_write(f->config.keys_server.text, f->server, f->secret, f->error), 0);
    write_file(f->config.keys_access.text, "");
}

static void keys_remove_files(struct keys_fixture *f)
{
    unlink(f->config.keys_server.text);
    unlink(f->config.keys_access.text);
    rmdir(f->directory);
}

static void keys_begin(struct keys_fixture *f)
{
    *f =
        (struct keys_fixture){.directory = "/tmp/attnd-keys-XXXXXX", .zmq = endpoint_context_new()};
    keys_write_files(f);
    assert_int_equal(keys_new(f->zmq, &f->config, &f->stats, &f->keys, f->error), 0);
}

static void keys_end(struct keys_fixture *f)
{
    if (f->asker) {
        zmq_close(f->asker);
    }
    keys_free(&f->keys);
    assert_int_equal(zmq_ctx_term(f->zmq), 0);
    keys_remove_files(f);
}

#define KEYS_TEST(name) TEST_IN(name, struct keys_fixture, f, keys_begin, keys_end)

KEYS_TEST(a_stranger_is_refused_at_every_socket)
{
    static const struct {
        const char *key;
        int type;
    } sockets[] = {{"ingest.endpoint", ZMQ_SUB},
                   {"publish.endpoint", ZMQ_XPUB},
                   {"control.endpoint", ZMQ_ROUTER}};
    for (int i = 0; i < 3; i++) {
        char endpoint[ENDPOINT_MAX] = "tcp://*:*";
        struct endpoint_file file = {.key = NULL};
        void *socket = endpoint_bind(f->zmq,
                                     &(struct endpoint_options){.key = sockets[i].key,
                                                                .endpoint = endpoint,
                                                                .type = sockets[i].type,
                                                                .max_message = 257,
                                                                .keys = f->keys,
                                                                .ret_file = &file},
                                     f->error);
        assert_string_equal(f->error, "");
        assert_non_null(socket);
        zmq_close(socket);
    }
    assert_int_equal(stats_get(&f->stats, COUNT_KEYS_REFUSED), 0); /* a test is no attack */
}

/* libzmq lets everybody in when nobody handles the question and nobody enforces it. */
KEYS_TEST(a_socket_that_lets_anybody_in_does_not_pass)
{
    char endpoint[ENDPOINT_MAX], expected[CONFIG_ERROR_MAX];
    const int yes = 1;
    size_t size = sizeof endpoint;
    void *open = zmq_ctx_new(), *socket = zmq_socket(open, ZMQ_ROUTER);
    assert_int_equal(zmq_setsockopt(socket, ZMQ_CURVE_SERVER, &yes, sizeof yes), 0);
    assert_int_equal(zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, f->secret, sizeof f->secret), 0);
    assert_int_equal(zmq_bind(socket, "tcp://127.0.0.1:*"), 0);
    assert_int_equal(zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, endpoint, &size), 0);
    assert_int_equal(keys_test(f->keys, "control", ZMQ_ROUTER, endpoint, KEYS_SERVER, f->error),
                     -1);
    snprintf(expected, sizeof expected,
             "keys: the test of control at %s failed: an unknown key got in", endpoint);
    assert_string_equal(f->error, expected);
    zmq_close(socket);
    zmq_ctx_term(open);
}

/* Without the handler the same sockets let nobody in. */
KEYS_TEST(without_a_handler_nobody_gets_in)
{
    char endpoint[ENDPOINT_MAX], public[KEY_LENGTH + 1], secret[KEY_LENGTH + 1];
    size_t size = sizeof endpoint;
    uint16_t event = 0;
    void *lonely = zmq_ctx_new(), *socket = zmq_socket(lonely, ZMQ_ROUTER);
    assert_int_equal(keys_secure(f->keys, socket, "control", KEYS_SERVER), 0);
    assert_int_equal(zmq_bind(socket, "tcp://127.0.0.1:*"), 0);
    assert_int_equal(zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, endpoint, &size), 0);
    void *monitor = zmq_socket(lonely, ZMQ_PAIR), *client = zmq_socket(lonely, ZMQ_DEALER);
    assert_int_equal(zmq_curve_keypair(public, secret), 0);
    zmq_setsockopt(client, ZMQ_CURVE_SERVERKEY, f->server, sizeof f->server);
    zmq_setsockopt(client, ZMQ_CURVE_PUBLICKEY, public, sizeof public);
    zmq_setsockopt(client, ZMQ_CURVE_SECRETKEY, secret, sizeof secret);
    zmq_socket_monitor(client, "inproc://events",
                       ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED |
                           ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH);
    zmq_connect(monitor, "inproc://events");
    zmq_connect(client, endpoint);
    assert_int_equal(zmq_recv(monitor, &event, sizeof event, 0), 6);
    assert_int_not_equal(event, ZMQ_EVENT_HANDSHAKE_SUCCEEDED);
    zmq_close(client);
    zmq_close(monitor);
    zmq_close(socket);
    zmq_ctx_term(lonely);
}

KEYS_TEST(a_mistake_in_the_list_changes_nothing)
{
    char line[128];
    bool revoked = true;
    snprintf(line, sizeof line, "%s read *\n", f->server);
    write_file(f->config.keys_access.text, line);
    assert_int_equal(keys_reload(f->keys, &revoked, f->error), 0);
    assert_false(revoked);
    assert_int_equal(keys_count(f->keys), 1);
    write_file(f->config.keys_access.text, "x\n");
    assert_int_equal(keys_reload(f->keys, &revoked, f->error), -1);
    assert_int_equal(keys_count(f->keys), 1);
    write_file(f->config.keys_access.text, "");
    assert_int_equal(keys_reload(f->keys, &revoked, f->error), 0);
    assert_true(revoked);
    assert_int_equal(keys_count(f->keys), 0);
}

KEYS_TEST(a_frame_without_a_key_is_nobodys)
{
    OWNED(zmq_msg_close) zmq_msg_t frame;
    zmq_msg_init(&frame);
    for (int role = 0; role < ACCESS_ROLES; role++) {
        assert_false(keys_allow(f->keys, &frame, (enum access_role)role, "job"));
    }
    assert_false(keys_know(f->keys, &frame));
}

/* Asks the handler as ZeroMQ does, for a connection of the key that has this byte all over. Returns
 * whether it is refused. */
static bool keys_ask(void *asker, uint8_t byte)
{
    static const char *const frames[] = {"", "1.0", "1", "ingest", "127.0.0.1", "", "CURVE"};
    char key[32], answer[7][64] = {""};
    memset(key, byte, sizeof key);
    for (int i = 0; i < 7; i++) {
        zmq_send(asker, frames[i], strlen(frames[i]), ZMQ_SNDMORE);
    }
    zmq_send(asker, key, sizeof key, 0);
    for (int i = 0; i < 7; i++) {
        zmq_recv(asker, answer[i], sizeof answer[i] - 1, 0);
    }
    return strcmp(answer[3], "400") == 0;
}

/* The line in the log of a connection that is refused, from the count on; "" when there is none.
 * The handler logs before it answers. */
static void keys_ask_and_read(void *asker, uint8_t byte, char *ret_count, size_t size)
{
    char log[1024];
    int ends[2], stderr_fd = dup(STDERR_FILENO);
    assert_int_equal(pipe(ends), 0);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
    bool refused = keys_ask(asker, byte);
    dup2(stderr_fd, STDERR_FILENO); /* the last end to write to */
    close(stderr_fd);
    ssize_t length = read(ends[0], log, sizeof log - 1);
    close(ends[0]);
    assert_true(refused && length >= 0);
    log[length] = '\0';
    const char *count = strstr(log, " count");
    assert_true(length == 0 || count);
    snprintf(ret_count, size, "%s", count ? count : "");
}

KEYS_TEST(keys_beyond_the_table_share_one_count)
{
    enum { TABLE = 64 };
    static const char *const of_others[] = {" count_of_other_keys=1\n", " count_of_other_keys=2\n",
                                            "", " count_of_other_keys=4\n"};
    char count[128];
    f->asker = zmq_socket(f->zmq, ZMQ_DEALER);
    assert_int_equal(zmq_connect(f->asker, "inproc://zeromq.zap.01"), 0);
    for (uint8_t key = 0; key < TABLE; key++) {
        keys_ask_and_read(f->asker, key, count, sizeof count);
        assert_string_equal(count, " count=1\n");
    }
    for (uint8_t other = 0; other < 4; other++) {
        keys_ask_and_read(f->asker, TABLE + other, count, sizeof count);
        assert_string_equal(count, of_others[other]);
    }
    for (uint8_t key = 0; key < TABLE; key++) {
        keys_ask_and_read(f->asker, key, count, sizeof count);
        assert_string_equal(count, " count=2\n");
    }
    assert_int_equal(stats_get(&f->stats, COUNT_KEYS_REFUSED), 2 * TABLE + 4);
}

/* The end of a context is what a handler does not survive. */
static void keys_lose_handler(struct keys_fixture *f, int log)
{
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    dup2(log, STDERR_FILENO);
    f->zmq = endpoint_context_new();
    if (keys_new(f->zmq, &f->config, &f->stats, &f->keys, f->error) == 0) {
        zmq_ctx_shutdown(f->zmq);
        alarm(60);
        pause();
    }
    _exit(EXIT_FAILURE);
}

/* Before any other test: a process that has had threads may not fork under ThreadSanitizer. */
TEST(attnd_does_not_outlive_the_handler)
{
    OWNED(keys_remove_files) struct keys_fixture f = {.directory = "/tmp/attnd-keys-XXXXXX"};
    char log[512] = "";
    int status, ends[2];
    keys_write_files(&f);
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        keys_lose_handler(&f, ends[1]);
    }
    close(ends[1]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(read(ends[0], log, sizeof log - 1) > 0);
    close(ends[0]);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_non_null(strstr(log, "event=keys_handler_failed"));
}

TEST(without_keys_everything_is_allowed)
{
    struct config config;
    struct stats stats = {0};
    struct keyring *keys = NULL;
    char error[CONFIG_ERROR_MAX];
    config_defaults(&config);
    assert_int_equal(keys_new(NULL, &config, &stats, &keys, error), 0);
    assert_null(keys);
    assert_true(keys_allow(keys, NULL, ACCESS_ADMIN, NULL) && keys_know(keys, NULL));
}

int main(void)
{
    log_setup(LOG_WARNING, false); /* before any thread logs */
    return unit_run(NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
#include "tests/unit/cli/fake.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

void fake_put_ok(struct mpk_writer *reply, uint64_t id)
{
    mpk_put_array(reply, 4);
    mpk_put_u64(reply, 1);
    mpk_put_u64(reply, id);
    mpk_put_nil(reply);
}

void fake_put_error(struct mpk_writer *reply, uint64_t id, const char *code, const char *message)
{
    mpk_put_array(reply, 4);
    mpk_put_u64(reply, 1);
    mpk_put_u64(reply, id);
    mpk_put_map(reply, 2);
    mpk_pair_str(reply, "code", code);
    mpk_pair_str(reply, "message", message);
    mpk_put_nil(reply);
}

/* Takes [0, id, method, params] apart; a request that is none ends the test program. */
static void answer_request(struct fake *fake, const void *request, size_t size,
                           struct mpk_writer *reply)
{
    OWNED(mpk_doc_clear) struct mpk_doc doc;
    uint64_t id = 0;
    char method[64] = "";
    if (mpk_parse(request, size, &mpk_header_limits, &doc) != 0) {
        abort();
    }
    const msgpack_object_array *array = &doc.root->via.array;
    if (doc.root->type != MSGPACK_OBJECT_ARRAY || array->size != 4 ||
        array->ptr[2].type != MSGPACK_OBJECT_STR || array->ptr[3].type != MSGPACK_OBJECT_MAP) {
        abort();
    }
    mpk_get_u64(&array->ptr[1], UINT64_MAX, &id);
    snprintf(method, sizeof method, "%.*s", (int)array->ptr[2].via.str.size,
             array->ptr[2].via.str.ptr);
    fake->answer(fake, method, id, &array->ptr[3], reply);
}

/* identity, request -> identity, reply; until the context shuts down. */
static void *fake_serve(void *data)
{
    struct fake *fake = data;
    for (;;) {
        char identity[256], request[4096];
        int identity_size = zmq_recv(fake->router, identity, sizeof identity, 0);
        if (identity_size < 0) {
            return NULL;
        }
        int size = zmq_recv(fake->router, request, sizeof request, 0);
        if (size < 0) {
            return NULL;
        }
        struct mpk_writer reply;
        mpk_writer_init(&reply);
        answer_request(fake, request, (size_t)size, &reply);
        if (reply.buffer.size > 0) {
            zmq_send(fake->router, identity, (size_t)identity_size, ZMQ_SNDMORE);
            zmq_send(fake->router, reply.buffer.data, reply.buffer.size, 0);
        }
        mpk_writer_clear(&reply);
    }
}

void fake_start(struct fake *fake, fake_answer *answer)
{
    int linger_ms = 1000;
    *fake = (struct fake){.runtime = "/tmp/attnd-cli-XXXXXX", .answer = answer};
    assert_non_null(mkdtemp(fake->runtime));
    snprintf(fake->directory, sizeof fake->directory, "%s/attnd", fake->runtime);
    assert_int_equal(mkdir(fake->directory, 0700), 0);
    snprintf(fake->endpoint, sizeof fake->endpoint, "ipc://%s/control", fake->directory);
    snprintf(fake->published, sizeof fake->published, "ipc://%s/publish", fake->directory);
    fake->context = zmq_ctx_new();
    fake->router = zmq_socket(fake->context, ZMQ_ROUTER);
    fake->pub = zmq_socket(fake->context, ZMQ_XPUB);
    zmq_setsockopt(fake->router, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    zmq_setsockopt(fake->pub, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    assert_int_equal(zmq_bind(fake->router, fake->endpoint), 0);
    assert_int_equal(zmq_bind(fake->pub, fake->published), 0);
    assert_int_equal(pthread_create(&fake->thread, NULL, fake_serve, fake), 0);
}

void fake_stop(struct fake *fake)
{
    zmq_ctx_shutdown(fake->context);
    pthread_join(fake->thread, NULL);
    zmq_close(fake->router);
    zmq_close(fake->pub);
    zmq_ctx_term(fake->context);
    unlink(fake->endpoint + strlen("ipc://"));
    unlink(fake->published + strlen("ipc://"));
    rmdir(fake->directory);
    rmdir(fake->runtime);
}

static char command[1024]; /* the newest, which a failure names */

FILE *attnctl_start(const char *endpoint, const char *arguments)
{
    const char *program = getenv("ATTNCTL");
    assert_non_null(program);
    const char *option = *endpoint && !strstr(arguments, "--address") ? "--endpoint" : "";
    snprintf(command, sizeof command, "exec '%s' %s %s %s %s 2>&1", program, option,
             *option ? endpoint : "", *endpoint ? "--timeout 60" : "", arguments);
    fflush(NULL);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    return pipe;
}

void attnctl_finish(FILE *pipe, int expected_status, const char *expected_text)
{
    char text[8192];
    size_t size = fread(text, 1, sizeof text - 1, pipe);
    text[size] = '\0';
    int status = pclose(pipe);
    if (strcmp(text, expected_text) != 0 || !WIFEXITED(status) ||
        WEXITSTATUS(status) != expected_status) {
        print_error("%s\n", command);
    }
    assert_string_equal(text, expected_text);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), expected_status);
}

void fake_says(const struct fake *fake, const char *arguments, int status, const char *text)
{
    attnctl_finish(attnctl_start(fake->endpoint, arguments), status, text);
}

void fake_says_all(const struct fake *fake, const struct said *said, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        fake_says(fake, said[i].arguments, said[i].status, said[i].text);
    }
}

int fake_set_up(void **state, fake_answer *answer)
{
    static struct fake fake;
    fake_start(&fake, answer);
    *state = &fake;
    return setenv("TAIL_FROM", fake.published, 1);
}

int fake_tear_down(void **state)
{
    fake_stop(*state);
    return 0;
}

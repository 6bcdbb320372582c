/* SPDX-License-Identifier: MIT */
/* Where the five sockets are, and that TCP is refused. */
#include "tests/unit/config/helpers.h"

#define REASON                                                                                     \
    "over TCP any user of this machine, and any web page, could speak to attnd: leave it out, "    \
    "and attnd listens on Unix sockets that only its user reaches, or configure keys, or set "     \
    "insecure: true (--set insecure=true)"

static struct config endpoints_at(const char *address, const char *first, const char *second)
{
    struct config config = defaults();
    char error[CONFIG_ERROR_MAX] = "";
    if (first) {
        set(&config, first);
    }
    if (second) {
        set(&config, second);
    }
    int result = config_use_address(&config, address, "--address", error);
    assert_string_equal(error, "");
    assert_int_equal(result, 0);
    return config;
}

static void assert_at(const struct config *config, const char *ingest, const char *publish,
                      const char *control, const char *tap, const char *reliable,
                      const char *directory)
{
    assert_string_equal(config->ingest_endpoint.text, ingest);
    assert_string_equal(config->publish_endpoint.text, publish);
    assert_string_equal(config->control_endpoint.text, control);
    assert_string_equal(config->tap_endpoint.text, tap);
    assert_string_equal(config->reliable_endpoint.text, reliable);
    assert_string_equal(config->directory, directory);
}

TEST(an_address_is_where_all_are)
{
    struct config config = endpoints_at("/run/attnd/", NULL, NULL);
    assert_at(&config, "ipc:///run/attnd/ingest", "ipc:///run/attnd/publish",
              "ipc:///run/attnd/control", "ipc:///run/attnd/tap", "ipc:///run/attnd/reliable",
              "/run/attnd");
    config = endpoints_at("tcp://node:7000", "insecure=true", NULL);
    assert_at(&config, "tcp://node:7000", "tcp://node:7001", "tcp://node:7002", "tcp://node:7003",
              "tcp://node:7004", "");
}

TEST(tcp_with_keys_is_no_stranger)
{
    struct config config = endpoints_at("tcp://node:7000", "keys.server=/k", "keys.access=/a");
    assert_at(&config, "tcp://node:7000", "tcp://node:7001", "tcp://node:7002", "tcp://node:7003",
              "tcp://node:7004", "");
    assert_true(config_uses_tcp(&config));
    config = endpoints_at("/a", "keys.server=/k", "reliable.endpoint=tcp://127.0.0.1:*");
    assert_true(config_uses_tcp(&config));
    config = endpoints_at("/a", "keys.server=/k", "keys.access=/a");
    assert_false(config_uses_tcp(&config));
}

TEST(an_endpoint_that_is_named_stays)
{
    struct config config = endpoints_at("/a", "control.endpoint=ipc:///b/control", NULL);
    assert_at(&config, "ipc:///a/ingest", "ipc:///a/publish", "ipc:///b/control", "ipc:///a/tap",
              "ipc:///a/reliable", "/a");
    config = endpoints_at("/a", "insecure=true", "control.endpoint=tcp://127.0.0.1:*");
    assert_at(&config, "ipc:///a/ingest", "ipc:///a/publish", "tcp://127.0.0.1:*", "ipc:///a/tap",
              "ipc:///a/reliable", "/a");
}

TEST(the_reliable_lane_lies_beside_ingest)
{
    struct config config = endpoints_at("/a", "ingest.endpoint=ipc:///b/ingest", NULL);
    assert_string_equal(config.reliable_endpoint.text, "ipc:///b/reliable");
    config = endpoints_at("/a", "insecure=true", "ingest.endpoint=tcp://node:7000");
    assert_string_equal(config.reliable_endpoint.text, "tcp://node:7004");
    config = endpoints_at("/a", "insecure=true", "ingest.endpoint=tcp://127.0.0.1:*");
    assert_string_equal(config.reliable_endpoint.text, "tcp://127.0.0.1:*");
    config = endpoints_at("/a", "ingest.endpoint=ipc://ingest", NULL);
    assert_string_equal(config.reliable_endpoint.text, "ipc://reliable");
}

/* A directory in which no socket lies is none of attnd's. */
TEST(the_directory_counts_by_what_lies_in_it)
{
    struct config config = defaults();
    char error[CONFIG_ERROR_MAX] = "";
    set(&config, "ingest.endpoint=ipc:///b/ingest");
    set(&config, "publish.endpoint=ipc:///b/publish");
    set(&config, "control.endpoint=ipc:///b/control");
    set(&config, "tap.endpoint=ipc:///b/tap");
    set(&config, "reliable.endpoint=ipc:///b/reliable");
    assert_int_equal(config_use_address(&config, "/a", "--address", error), 0);
    assert_string_equal(config.directory, "");
    assert_int_equal(config_use_address(&config, "/b", "--address", error), 0);
    assert_string_equal(config.directory, "/b");
}

static void assert_address_refused(const char *address, const char *message)
{
    struct config config = defaults();
    char error[CONFIG_ERROR_MAX] = "";
    assert_int_equal(config_use_address(&config, address, "--address", error), -1);
    assert_string_equal(error, message);
}

TEST(a_wrong_address_names_who_gave_it)
{
    assert_address_refused("localhost:5570",
                           "--address: 'localhost:5570': write tcp://localhost:5570");
    assert_address_refused("", "--address: '': a directory is written in full, from /");
    assert_address_refused("tcp://localhost:5570", "--address: 'tcp://localhost:5570': " REASON);
}

/* The line of the file; none when it was not the file that said it. */
TEST(tcp_is_refused_where_it_is_said)
{
    static const char *const names[] = {"ingest", "publish", "control", "tap", "reliable"};
    for (int i = 0; i < 5; i++) {
        char text[128], message[CONFIG_ERROR_MAX], error[CONFIG_ERROR_MAX] = "";
        struct config config = defaults();
        snprintf(text, sizeof text, "%s.endpoint=tcp://127.0.0.1:1", names[i]);
        set(&config, text);
        assert_int_equal(config_use_address(&config, "/a", "--address", error), -1);
        snprintf(message, sizeof message, "%s.endpoint: 'tcp://127.0.0.1:1': " REASON, names[i]);
        assert_string_equal(error, message);
        config = defaults();
        snprintf(text, sizeof text, "log:\n%s:\n  endpoint: tcp://127.0.0.1:1\n", names[i]);
        assert_int_equal(load_text(&config, text, error), 0);
        assert_int_equal(config_use_address(&config, "/a", "--address", error), -1);
        snprintf(message, sizeof message, "attnd.yaml:3: %s.endpoint: 'tcp://127.0.0.1:1': " REASON,
                 names[i]);
        assert_string_equal(error, message);
        set(&config, "insecure=true");
        assert_int_equal(config_use_address(&config, "/a", "--address", error), 0);
    }
    struct config config =
        endpoints_at("/a", "http.endpoint=tcp://127.0.0.1:5580", NULL); /* not HTTP */
    assert_string_equal(config.directory, "/a");
}

TEST(what_lies_in_the_directory_moves_with_it)
{
    char error[CONFIG_ERROR_MAX] = "", path[200] = "/";
    struct config config = endpoints_at("/a", "control.endpoint=ipc:///b/control", NULL);
    assert_int_equal(config_move(&config, "/c", error), 0);
    assert_at(&config, "ipc:///c/ingest", "ipc:///c/publish", "ipc:///b/control", "ipc:///c/tap",
              "ipc:///c/reliable", "/c");
    memset(path + 1, 'x', 150);
    assert_int_equal(config_move(&config, path, error), -1);
    assert_at(&config, "ipc:///c/ingest", "ipc:///c/publish", "ipc:///b/control", "ipc:///c/tap",
              "ipc:///c/reliable", "/c");
}

/* SPDX-License-Identifier: MIT */
/* Rules between keys. */
#include "tests/unit/config/helpers.h"

/* Keys that are changed, and how they clash; NULL = they fit. */
struct checked {
    const char *settings[6], *clash;
};

static void check_all(const struct checked *checked, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct config config = defaults();
        char error[CONFIG_ERROR_MAX] = "";
        for (const char *const *setting = checked[i].settings; *setting; setting++) {
            set(&config, *setting);
        }
        int result = config_check(&config, error);
        const char *clash = checked[i].clash ? checked[i].clash : "";
        if (strcmp(error, clash) != 0 || result != (checked[i].clash ? -1 : 0)) {
            fail_msg("%s, ...: returned %d: %s\nand not: %s", checked[i].settings[0], result, error,
                     clash);
        }
    }
}

#define CHECKED(name, ...)                                                                         \
    TEST(name)                                                                                     \
    {                                                                                              \
        static const struct checked checked[] = {__VA_ARGS__};                                     \
        check_all(checked, sizeof checked / sizeof checked[0]);                                    \
    }                                                                                              \
    struct checked

CHECKED(a_message_fits_the_budget, {{"ingest.budget=1GiB", "ingest.max_message=1GiB"}, NULL},
        {{"ingest.budget=100MiB"},
         "ingest.max_message: '256MiB': larger than ingest.budget, so such a message "
         "could never be read (valid: at most 100MiB)"});

/* The line of the key to change; else of the other one, as long as no --set has replaced it. */
TEST(a_clash_has_a_line)
{
    static const struct {
        const char *text, *setting, *begins;
    } clashes[] = {
        {"ingest:\n  max_message: 1GiB\n  budget: 100MiB\n", NULL, "attnd.yaml:2: ingest.max"},
        {"ingest:\n  budget: 100MiB\n", NULL, "attnd.yaml:2: ingest.max_message: '256MiB'"},
        {"ingest:\n  budget: 1GiB\n", "ingest.budget=100MiB", "attnd.yaml: ingest.max_message"},
        {"window:\n  unit: step\n  length: 10000\n  every: 1\n", NULL,
         "attnd.yaml:4: window.every"},
        {"keys:\n  server: /k\n", NULL, "attnd.yaml:2: keys.access: needed"},
    };
    for (size_t i = 0; i < sizeof clashes / sizeof clashes[0]; i++) {
        struct config config = loaded(clashes[i].text);
        char error[CONFIG_ERROR_MAX] = "";
        if (clashes[i].setting) {
            set(&config, clashes[i].setting);
        }
        assert_int_equal(config_check(&config, error), -1);
        error[strlen(clashes[i].begins)] = '\0';
        assert_string_equal(error, clashes[i].begins);
        config_clear(&config);
    }
}

CHECKED(keys_come_together, {{"keys.server=/k", "keys.access=/a"}, NULL},
        {{"keys.server=/k"}, "keys.access: needed with keys.server"},
        {{"keys.access=/a"}, "keys.server: needed with keys.access"},
        {{"keys.server=/k", "keys.access=/a", "insecure=true"},
         "insecure: 'true': there are keys, so TCP has access control (valid: false)"});

CHECKED(the_next_key_has_an_address_of_its_own,
        {{"keys.server=/k", "keys.access=/a", "keys.next=/n", "keys.next_address=tcp://*:5574"},
         NULL},
        {{"keys.server=/k", "keys.access=/a", "keys.next=/n"},
         "keys.next_address: needed with keys.next"},
        {{"keys.server=/k", "keys.access=/a", "keys.next_address=tcp://127.0.0.1:5574"},
         "keys.next: needed with keys.next_address"},
        {{"keys.next=/n", "keys.next_address=tcp://127.0.0.1:5574"},
         "keys.server: needed with keys.next"},
        {{"keys.server=/k", "keys.access=/a", "keys.next=/n", "keys.next_address=ipc:///d/next"},
         "keys.next_address: 'ipc:///d/next': keys are for TCP (valid: tcp://host:port)"},
        {{"keys.server=/k", "keys.access=/a", "keys.next=/n",
          "keys.next_address=tcp://127.0.0.1:65533"},
         "keys.next_address: 'tcp://127.0.0.1:65533': not tcp://host:port with a port "
         "from 1 to 65531"});

#define NEXT(address)                                                                              \
    "keys.server=/k", "keys.access=/a", "keys.next=/n", "keys.next_address=" address

CHECKED(the_next_address_is_free,
        {{NEXT("tcp://10.0.0.1:5575"), "reliable.endpoint=tcp://10.0.0.1:5574"}, NULL},
        {{NEXT("tcp://10.0.0.1:5574"), "reliable.endpoint=tcp://10.0.0.2:5574"}, NULL},
        {{NEXT("tcp://10.0.0.1:5574"), "reliable.endpoint=tcp://10.0.0.1:5574"},
         "keys.next_address: 'tcp://10.0.0.1:5574': its ingest would be "
         "tcp://10.0.0.1:5574, taken by reliable.endpoint (valid: five ports in a row "
         "that are free)"},
        {{NEXT("tcp://*:5566"), "ingest.endpoint=tcp://10.0.0.1:5570"},
         "keys.next_address: 'tcp://*:5566': its reliable would be tcp://*:5570, taken "
         "by ingest.endpoint (valid: five ports in a row that are free)"},
        {{NEXT("tcp://127.0.0.1:5578"), "http.endpoint=tcp://127.0.0.1:5580"},
         "keys.next_address: 'tcp://127.0.0.1:5578': its control would be "
         "tcp://127.0.0.1:5580, taken by http.endpoint (valid: five ports in a row that "
         "are free)"});

CHECKED(every_window_is_another,
        {{"window.also=[10 steps every 5, 10 epochs every 5, 10 steps]"}, NULL},
        {{"window.also=[10 steps every 5, 10 steps every 5]"},
         "window.also: a window of 10 every 5 is there already (valid: each "
         "window once, and none of window.unit)"},
        {{"window.also=[10 steps every 5]", "window.unit=step", "window.length=10",
          "window.every=5"},
         "window.also: a window of 10 every 5 is there already (valid: each "
         "window once, and none of window.unit)"});

CHECKED(windows_of_captures_have_no_length,
        {{"window.also=[100 steps, 160 steps every 80, 60 seconds, 2 epochs]"}, NULL},
        {{"window.every=5"},
         "window.every: '5': with window.unit: auto windows have 16 captures (valid: 1, "
         "or with window.unit: epoch, step or second any number)"},
        {{"window.also=[1 epoch]"},
         "window.also: a window of 1 every 1 is there already (valid: each window once, "
         "and none of window.unit)"},
        {{"window.also=[160 steps]"},
         "window.also: a window of 160 every 160 is there already (valid: each window "
         "once, and none of window.unit)"});

CHECKED(a_window_has_at_most_64_parts, {{"window.unit=step", "window.length=64"}, NULL},
        {{"window.unit=step", "window.length=1000000", "window.every=1000000"}, NULL},
        {{"window.unit=step", "window.length=1000", "window.every=100"}, NULL},
        {{"window.unit=step", "window.length=10", "window.every=1000"}, NULL},
        {{"window.unit=step", "window.length=65"},
         "window.every: '1': a window of 65 would be kept in 65 parts of 1 (valid: "
         "at most 64 parts; for instance every 65)"},
        {{"window.unit=step", "window.length=1000", "window.every=15"},
         "window.every: '15': a window of 1000 would be kept in 200 parts of 5 "
         "(valid: at most 64 parts; for instance every 1000)"});

CHECKED(endpoints_differ,
        {{"ingest.endpoint=tcp://127.0.0.1:5570", "publish.endpoint=tcp://127.0.0.1:5570"},
         "publish.endpoint: 'tcp://127.0.0.1:5570': taken by ingest.endpoint (valid: "
         "another port or path)"},
        {{"control.endpoint=ipc:///a", "publish.endpoint=ipc:///a"},
         "control.endpoint: 'ipc:///a': taken by publish.endpoint (valid: another port or path)"});

CHECKED(a_wildcard_host_takes_the_port_on_every_address,
        {{"ingest.endpoint=tcp://127.0.0.1:5570", "control.endpoint=tcp://*:5570"},
         "control.endpoint: 'tcp://*:5570': taken by ingest.endpoint (valid: another port "
         "or path)"},
        {{"ingest.endpoint=tcp://0.0.0.0:5572", "control.endpoint=tcp://127.0.0.1:5572"},
         "control.endpoint: 'tcp://127.0.0.1:5572': taken by ingest.endpoint (valid: "
         "another port or path)"},
        {{"ingest.endpoint=tcp://127.0.0.1:5570", "control.endpoint=tcp://127.0.0.2:5570"}, NULL},
        {{"ingest.endpoint=tcp://127.0.0.1:5570", "control.endpoint=tcp://localhost:15570"}, NULL});

CHECKED(chosen_ports_never_clash,
        {{"ingest.endpoint=tcp://127.0.0.1:*", "publish.endpoint=tcp://127.0.0.1:*",
          "control.endpoint=tcp://127.0.0.1:*"},
         NULL},
        {{"ingest.endpoint=ipc://*", "publish.endpoint=ipc://*"}, NULL},
        {{"ingest.endpoint=ipc://5571", "publish.endpoint=ipc:///5571"}, NULL});

CHECKED(a_baseline_is_the_first_windows_or_a_run, {{"drift.baseline=first"}, NULL},
        {{"drift.baseline=0123456789abcdef0123456789abcdef"}, NULL},
        {{"drift.baseline=0123"},
         "drift.baseline: '0123': not a run (valid: first, or the 32 hexadecimal digits "
         "of a run)"});

CHECKED(something_is_measured,
        {{"metrics.core=false", "metrics.importance=false", "metrics.pairs=false"}, NULL},
        {{"metrics.core=false", "metrics.importance=false", "metrics.pairs=false",
          "metrics.spectrum=false"},
         "metrics: every group is off, so there is nothing to measure (valid: at least "
         "one of core, importance, pairs, similarity, spectrum on)"},
        {{"metrics.core=false", "metrics.importance=false", "metrics.pairs=false",
          "metrics.spectrum=false", "metrics.similarity=true"},
         NULL});

TEST(a_command_is_a_path_and_a_webhook_a_url)
{
    struct config config = defaults();
    char error[CONFIG_ERROR_MAX] = "";
    set(&config, "alerts.command=/usr/bin/logger -t attnd");
    set(&config, "alerts.webhook=https://example.org/hook");
    assert_int_equal(config_check(&config, error), 0);
    set(&config, "alerts.webhook=example.org/hook");
    assert_int_equal(config_check(&config, error), -1);
    assert_string_equal(error, "alerts.webhook: '...': not such a URL (valid: "
                               "http://... or https://...)");
    set(&config, "alerts.command=logger -t attnd");
    assert_int_equal(config_check(&config, error), -1);
    assert_string_equal(error, "alerts.command: 'logger ...': not an absolute path (valid: "
                               "/path/to/program, and its arguments between blanks)");
}

static void assert_public(const char *name, const char *value, const char *expected)
{
    char buffer[CONFIG_PUBLIC_MAX];
    assert_string_equal(config_public("alerts", name, value, buffer), expected);
}

TEST(nobody_is_shown_a_webhook_or_arguments)
{
    char buffer[CONFIG_PUBLIC_MAX];
    assert_public("webhook", "https://hooks.example.org/services/T0/B0/secret",
                  "https://hooks.example.org/...");
    assert_public("webhook", "http://me:secret@10.0.0.7:8080/?key=secret#x",
                  "http://10.0.0.7:8080/...");
    assert_public("webhook", "http://me:secret@example.org", "http://example.org/...");
    assert_public("webhook", "http://example.org?key=secret", "http://example.org/...");
    assert_public("webhook", "http://[::1]:5580/", "http://[::1]:5580/");
    assert_public("webhook", "https://example.org", "https://example.org");
    assert_public("webhook", "http://me:secret/@example.org/", "http://...");
    assert_public("webhook", "http://a@secret b/", "http://...");
    assert_public("webhook", "secret http://example.org", "...");
    assert_public("webhook", "", "");
    assert_public("command", "/opt/hooks/page --token secret", "page ...");
    assert_public("command", "/opt/hooks/page", "page");
    assert_public("command", "/opt/dir/ secret", " ...");
    assert_public("timeout", "10s", "10s");
    assert_string_equal(config_public("history", "command", "as it is", buffer), "as it is");
    assert_string_equal(config_public("fleet", "url", "nats://a:1,tls://me:secret@b:2", buffer),
                        "nats://a:1,tls://...@b:2");
}

CHECKED(a_fleet_needs_its_servers_and_servers_a_role,
        {{"fleet.role=node", "fleet.url=nats://a"}, NULL},
        {{"fleet.role=hub", "fleet.url=nats://a", "fleet.domains=rack-0 rack-1"}, NULL},
        {{"fleet.role=node"},
         "fleet.url: needed with fleet.role: node (valid: "
         "nats://host:4222 or tls://host:4222, several with commas)"},
        {{"fleet.url=nats://a"},
         "fleet.role: 'off': fleet.url is there, and without "
         "effect (valid: node, hub, or off without it)"},
        {{"fleet.credentials=/c"},
         "fleet.role: 'off': fleet.credentials is there, and without effect (valid: "
         "node, hub, or off without it)"},
        {{"fleet.role=node", "fleet.url=nats://a", "fleet.domains=rack-0"},
         "fleet.domains: 'rack-0': only a hub takes from other domains (valid: empty "
         "with fleet.role: node)"});

TEST(no_error_shows_a_webhook_or_arguments)
{
    char error[CONFIG_ERROR_MAX] = "", text[CONFIG_TEXT_MAX + 64];
    struct config config = defaults();
    assert_int_equal(config_set(&config, "alerts.webhook=https://example.org/secret\n", error), -1);
    assert_null(strstr(error, "secret"));
    assert_int_equal(config_set(&config, "fleet.url=nats://me:secret@host:x", error), -1);
    assert_null(strstr(error, "secret"));
    assert_non_null(strstr(error, "fleet.url: 'nats://...@host:x': the port is not 1 to 65535"));
    memset(text, 'x', sizeof text);
    memcpy(text, "alerts.command=/bin/page secret", 31);
    text[sizeof text - 1] = '\0';
    assert_int_equal(config_set(&config, text, error), -1);
    assert_null(strstr(error, "secret"));
    assert_non_null(strstr(error, "alerts.command: 'page ...': "));
}

TEST(budgets_fit_what_the_system_has)
{
    struct config config, before;
    char error[CONFIG_ERROR_MAX] = "";
    config_defaults(&config);
    before = config;
    uint64_t together = config_fit_memory(&config, UINT64_MAX);
    assert_int_equal(config.limits_state_memory, before.limits_state_memory);
    assert_int_equal(config_fit_memory(&config, together / 4), together);
    assert_int_equal(config.limits_state_memory, before.limits_state_memory / 4);
    assert_int_equal(config.ingest_max_message, config.ingest_budget);
    assert_int_equal(config_check(&config, error), 0);
    assert_true(config_fit_memory(&config, 1) <= together / 4);
    assert_int_equal(config.limits_state_memory, 1 << 20); /* its minimum */
    assert_int_equal(config_check(&config, error), 0);
}

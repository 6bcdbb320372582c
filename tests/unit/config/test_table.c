/* SPDX-License-Identifier: MIT */
/* The table: every key takes what its type takes, through --set and through a file. */
#include "tests/unit/config/helpers.h"

#include <inttypes.h>

/* "section.name=text", or the same as lines of a file, after `before`. */
static void write_key(const struct key *key, const char *text, const char *before, char *ret_set,
                      char *ret_file)
{
    if (*key->section) {
        sprintf(ret_set, "%s.%s=%s", key->section, key->name, text);
        sprintf(ret_file, "%s%s:\n\n  %s: '%s'\n", before, key->section, key->name, text);
    } else {
        sprintf(ret_set, "%s=%s", key->name, text);
        sprintf(ret_file, "%s\n\n%s: '%s'\n", before, key->name, text);
    }
}

/* Sets key `index` to `text` by --set and by file, expecting the same success, and that the value
 * reads back as `expected`. */
static void accept(int index, const char *text, const char *expected)
{
    const struct key *key = &config_keys[index];
    char assignment[1024], lines[1024], error[CONFIG_ERROR_MAX] = "", shown[VALUE_TEXT_MAX];
    struct config by_set = defaults(), by_file = defaults();
    write_key(key, text, "", assignment, lines);
    set(&by_set, assignment);
    assert_int_equal(load_text(&by_file, lines, error), 0);
    value_print(&key->rule, config_field(&by_set, index), shown);
    assert_string_equal(shown, expected);
    assert_same_config(&by_set, &by_file);
}

/* Both ways refuse `text` for the same reason, each naming its place. */
static void table_refuse(int index, const char *text, const char *reason)
{
    const struct key *key = &config_keys[index];
    const char *dot = *key->section ? "." : "";
    char valid[VALUE_VALID_MAX], assignment[1024], lines[1024], message[CONFIG_ERROR_MAX];
    value_valid(&key->rule, valid);
    write_key(key, text, "# a comment\n", assignment, lines);
    snprintf(message, sizeof message, "--set: %s%s%s: '%s': %s (valid: %s)", key->section, dot,
             key->name, text, reason, valid);
    assert_set_refused(assignment, message);
    snprintf(message, sizeof message, "attnd.yaml:4: %s%s%s: '%s': %s (valid: %s)", key->section,
             dot, key->name, text, reason, valid);
    assert_refused(lines, message);
}

static void table_check_bounds(int index, const char *unit, const char *syntax)
{
    const struct value_rule *rule = &config_keys[index].rule;
    char text[64], shown[VALUE_TEXT_MAX];
    snprintf(text, sizeof text, "%" PRIu64 "%s", rule->minimum, unit);
    value_print(rule, &rule->minimum, shown);
    accept(index, text, shown);
    snprintf(text, sizeof text, "%" PRIu64 "%s", rule->maximum, unit);
    value_print(rule, &rule->maximum, shown);
    accept(index, text, shown);
    snprintf(text, sizeof text, "%" PRIu64 "%s", rule->maximum + 1, unit);
    table_refuse(index, text, "out of range");
    if (rule->minimum > 0) {
        snprintf(text, sizeof text, "%" PRIu64 "%s", rule->minimum - 1, unit);
        table_refuse(index, text, "out of range");
    }
    table_refuse(index, "many", syntax);
    table_refuse(index, "", syntax);
}

#define NO_NUMBER  "not a number such as 0.05"
#define NO_WINDOWS "not a list of windows such as [10 epochs, 100 steps every 10]"
#define NO_LAYERS  "not patterns of layers"
#define NO_HEADS   "not a list of heads"
#define NO_NAMES   "not names between blanks"
#define NO_HOST    "the host is not a name or an address"
#define NO_PORT    "the port is not 1 to 65535"
#define NO_SCHEME  "a server does not begin with nats:// or tls://"

/* Texts of a type: how they read back, or NULL and why they are refused. */
static const struct {
    enum value_type type;
    const char *text, *expected, *reason;
} table_cases[] = {
    {VALUE_ENDPOINT, "tcp://*:7000", "tcp://*:7000", NULL},
    {VALUE_ENDPOINT, "ipc:///tmp/a b", "ipc:///tmp/a b", NULL},
    {VALUE_ENDPOINT, "", "", NULL},
    {VALUE_ENDPOINT, "7000", NULL, "not an endpoint"},
    {VALUE_ENDPOINT, "tcp://127.0.0.1:70000", NULL, "the port is not 1 to 65535 or *"},
    {VALUE_REAL, "0.125", "0.125", NULL},
    {VALUE_REAL, "0", "0", NULL},
    {VALUE_REAL, "1", "1", NULL},
    {VALUE_REAL, "1e7", NULL, "out of range"},
    {VALUE_REAL, "-0.5", NULL, "out of range"},
    {VALUE_REAL, "many", NULL, NO_NUMBER},
    {VALUE_REAL, "", NULL, NO_NUMBER},
    {VALUE_NUMBERS, "1, 0.5 -2e-3", "[1, 0.5, -0.002]", NULL},
    {VALUE_NUMBERS, "[1,0.5]", "[1, 0.5]", NULL},
    {VALUE_NUMBERS, "", "[]", NULL},
    {VALUE_NUMBERS, "[1, many]", NULL, "not a list of numbers such as [1, 0.5]"},
    {VALUE_TEXT, "/tmp/a b", "/tmp/a b", NULL},
    {VALUE_TEXT, "", "", NULL},
    {VALUE_WINDOWS, "", "[]", NULL},
    {VALUE_WINDOWS, "[10 epochs,100 steps every 10]", "[10 epochs, 100 steps every 10]", NULL},
    {VALUE_WINDOWS, "1 second", "[1 second]", NULL},
    {VALUE_WINDOWS, "2 steps every 2", "[2 steps]", NULL},
    {VALUE_WINDOWS, "[10]", NULL, NO_WINDOWS},
    {VALUE_WINDOWS, "0 steps", NULL, NO_WINDOWS},
    {VALUE_WINDOWS, "1 step,", NULL, NO_WINDOWS},
    {VALUE_WINDOWS, "1 step every", NULL, NO_WINDOWS},
    {VALUE_WINDOWS, "1 step 2 steps", NULL, NO_WINDOWS},
    {VALUE_WINDOWS, "1 s,1 step,1 step,1 step,1 step,1 step,1 step,1 step", NULL, NO_WINDOWS},
    {VALUE_WINDOWS, "1000001 steps", NULL, NO_WINDOWS},
    {VALUE_LAYERS, "decoder.3.self", "decoder.3.self", NULL},
    {VALUE_LAYERS, "decoder.*.self encoder.[0-3].?elf", "decoder.*.self encoder.[0-3].?elf", NULL},
    {VALUE_LAYERS, "", NULL, NO_LAYERS},
    {VALUE_LAYERS, "decoder.*  encoder.*", NULL, NO_LAYERS},
    {VALUE_LAYERS, "decoder.* ", NULL, NO_LAYERS},
    {VALUE_LAYERS, "decoder.*;every=1", NULL, NO_LAYERS},
    {VALUE_LAYERS, "decoder.*/", NULL, NO_LAYERS},
    {VALUE_LAYERS, "decoder.3", NULL, "names no layer"},
    {VALUE_LAYERS, "encoder.3.self decoder.03.self", NULL, "names no layer"},
    {VALUE_LAYERS, "decoder.65536.self", NULL, "names no layer"},
    {VALUE_LAYERS, "decoder.3.selfish", NULL, "names no layer"},
    {VALUE_HEADS, "0", "0", NULL},
    {VALUE_HEADS, "0-3,7,5-5", "0-3,7,5-5", NULL},
    {VALUE_HEADS, "1048575", "1048575", NULL},
    {VALUE_HEADS, "", NULL, NO_HEADS},
    {VALUE_HEADS, "3-1", NULL, NO_HEADS},
    {VALUE_HEADS, "1,", NULL, NO_HEADS},
    {VALUE_HEADS, ",1", NULL, NO_HEADS},
    {VALUE_HEADS, "1, 2", NULL, NO_HEADS},
    {VALUE_HEADS, "0-", NULL, NO_HEADS},
    {VALUE_HEADS, "-1", NULL, NO_HEADS},
    {VALUE_HEADS, "01", NULL, NO_HEADS},
    {VALUE_HEADS, "1048576", NULL, NO_HEADS},
    {VALUE_HEADS, "*,1", NULL, NO_HEADS},
    {VALUE_HEADS, "all", NULL, NO_HEADS},
    {VALUE_SERVERS, "", "", NULL},
    {VALUE_SERVERS, "nats://a, nats://b", "nats://a, nats://b", NULL},
    {VALUE_SERVERS, "nats://a-b.c:4222,tls://me:p@ss@10.0.0.1:65535,tls://[::1]:1",
     "nats://a-b.c:4222,tls://me:p@ss@10.0.0.1:65535,tls://[::1]:1", NULL},
    {VALUE_SERVERS, "localhost:4222", NULL, NO_SCHEME},
    {VALUE_SERVERS, "http://a:4222", NULL, NO_SCHEME},
    {VALUE_SERVERS, ",nats://a", NULL, NO_SCHEME},
    {VALUE_SERVERS, "nats://", NULL, "the host is missing"},
    {VALUE_SERVERS, "nats://:4222", NULL, "the host is missing"},
    {VALUE_SERVERS, "nats://a/", NULL, NO_HOST},
    {VALUE_SERVERS, "nats://*:4222", NULL, NO_HOST},
    {VALUE_SERVERS, "nats://[::1:4222", NULL, NO_HOST},
    {VALUE_SERVERS, "nats://a:", NULL, NO_PORT},
    {VALUE_SERVERS, "nats://a:0", NULL, NO_PORT},
    {VALUE_SERVERS, "nats://a:65536", NULL, NO_PORT},
    {VALUE_SERVERS, "tls://a:4222,nats://b:42x", NULL, NO_PORT},
    {VALUE_SERVERS, "nats://a:4222/", NULL, NO_PORT},
    {VALUE_DOMAINS, "", "", NULL},
    {VALUE_DOMAINS, "rack-0 Rack_1", "rack-0 Rack_1", NULL},
    {VALUE_DOMAINS, "rack-0,rack-1", NULL, NO_NAMES},
    {VALUE_DOMAINS, "rack-0  rack-1", NULL, NO_NAMES},
    {VALUE_DOMAINS, "rack.0", NULL, NO_NAMES},
    {VALUE_DOMAINS, "*", NULL, NO_NAMES},
};

/* The words of each type that has such. */
static const struct {
    enum value_type type;
    const char *const words[6];
} table_words[] = {
    {VALUE_EFFORT, {"norm", "leading", "full"}},
    {VALUE_TIER, {"auto", "raw", "rows"}},
    {VALUE_ISA, {"auto", "scalar", "portable", "avx2", "avx512"}},
    {VALUE_ROLE, {"off", "node", "hub"}},
    {VALUE_BOOL, {"true", "false"}},
    {VALUE_UNIT, {"epoch", "step", "second"}},
    {VALUE_LEVEL, {"error", "warning", "info", "debug"}},
    {VALUE_FORMAT, {"text", "json"}},
};

static unsigned check_words(int index)
{
    unsigned found = 0;
    for (size_t i = 0; i < sizeof table_words / sizeof table_words[0]; i++) {
        if (table_words[i].type != config_keys[index].rule.type) {
            continue;
        }
        for (const char *const *word = table_words[i].words; *word; word++, found++) {
            accept(index, *word, *word);
        }
        table_refuse(index, "sideways", "not one of the choices");
        table_refuse(index, "", "not one of the choices");
    }
    return found;
}

static unsigned check_cases(int index)
{
    unsigned found = 0;
    for (size_t i = 0; i < sizeof table_cases / sizeof table_cases[0]; i++) {
        if (table_cases[i].type != config_keys[index].rule.type) {
            continue;
        }
        found++;
        if (table_cases[i].expected) {
            accept(index, table_cases[i].text, table_cases[i].expected);
        } else {
            table_refuse(index, table_cases[i].text, table_cases[i].reason);
        }
    }
    return found;
}

static void check_key(int index)
{
    switch (config_keys[index].rule.type) {
    case VALUE_BYTES:
        table_check_bounds(index, "B", "not a size such as 65536, 512MiB or 10MB");
        break;
    case VALUE_DURATION:
        table_check_bounds(index, "ns", "not a duration such as 500ms, 5s, 2min or 1h");
        break;
    case VALUE_COUNT:
        table_check_bounds(index, "", "not a whole number");
        break;
    default:
        assert_true(check_words(index) + check_cases(index) > 0);
    }
}

TEST(every_key_takes_what_its_type_takes)
{
    for (int i = 0; i < KEY_COUNT; i++) {
        check_key(i);
    }
}

/* A default in its shortest form reads the same in keys.def, in the dump and in the documentation.
 */
TEST(every_default_parses_and_is_canonical)
{
    struct config config = defaults();
    for (int i = 0; i < KEY_COUNT; i++) {
        char text[VALUE_TEXT_MAX];
        value_print(&config_keys[i].rule, config_field(&config, i), text);
        assert_string_equal(text, config_keys[i].text);
    }
}

TEST(defaults_pass_the_checks)
{
    struct config config = defaults();
    char error[CONFIG_ERROR_MAX] = "";
    assert_int_equal(config_check(&config, error), 0);
    assert_string_equal(error, "");
}

TEST(fields_carry_the_types_units)
{
    struct config config = defaults();
    assert_string_equal(config.http_endpoint.text, "tcp://127.0.0.1:5580");
    assert_int_equal(config.ingest_budget, UINT64_C(512) << 20);
    assert_int_equal(config.window_timeout, UINT64_C(60000000000));
    assert_int_equal(config.window_unit, CONFIG_UNIT_AUTO);
    assert_int_equal(config.log_level, CONFIG_LEVEL_INFO);
    assert_true(config.metrics_spectrum);
}

/* A section that is split in keys.def would be printed twice. */
TEST(sections_are_contiguous_and_keys_unique)
{
    for (int i = 0; i < KEY_COUNT; i++) {
        for (int j = 0; j < i; j++) {
            bool same = strcmp(config_keys[i].section, config_keys[j].section) == 0;
            assert_false(same && config_opens_section(i));
            assert_false(same && strcmp(config_keys[i].name, config_keys[j].name) == 0);
        }
    }
}

TEST(set_needs_section_key_and_value)
{
    static const char *const bad[] = {"",          "x", "ingest.budget", "ingest=1", ".budget=1",
                                      "ingest.=1", "=", "a.b.c=1"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char message[CONFIG_ERROR_MAX];
        snprintf(message, sizeof message, "--set: '%s': not of the form section.key=value", bad[i]);
        assert_set_refused(bad[i], message);
    }
}

TEST(set_is_for_all_jobs)
{
    assert_set_refused("jobs.gpt-*.spectrum=false",
                       "--set: 'jobs.gpt-*.spectrum=false': settings of some jobs belong into a "
                       "file");
}

TEST(set_names_unknown_keys_and_guesses)
{
    assert_set_refused("window.evry=1",
                       "--set: window.evry: unknown key (valid in window: unit, length, every, "
                       "timeout, rank_grace, also, "
                       "buckets; did you mean every?)");
    assert_set_refused("window.colour=1",
                       "--set: window.colour: unknown key (valid in window: unit, length, every, "
                       "timeout, rank_grace, also, "
                       "buckets)");
    assert_set_refused(
        "windows.unit=epoch",
        "--set: windows: unknown section (valid: insecure, ingest, publish, control, http, "
        "workers, window, drift, metrics, maps, plan, limits, alerts, "
        "history, tap, reliable, keys, fleet, shutdown, log, jobs, rules; did you mean window?)");
}

/* The value may itself hold `=`. */
TEST(set_splits_at_the_first_equals_sign)
{
    struct config config = defaults();
    set(&config, "control.endpoint=ipc:///tmp/a=b");
    assert_string_equal(config.control_endpoint.text, "ipc:///tmp/a=b");
}

TEST(messages_shorten_and_clean_what_they_quote)
{
    char assignment[400] = "window.length=", message[CONFIG_ERROR_MAX];
    memset(assignment + 14, 'z', 300);
    snprintf(message, sizeof message,
             "--set: window.length: '%.80s...': not a whole number (valid: 1 to 1000000)",
             assignment + 14);
    assert_set_refused(assignment, message);
    assert_set_refused("window.length=\033[2J",
                       "--set: window.length: '?[2J': not a whole number (valid: 1 to 1000000)");
}

struct visited {
    int count;
    char first[128], last[128];
};

static void table_visit(void *data, const char *section, const char *name, const char *value)
{
    struct visited *visited = data;
    if (strncmp(section, "rules.", 6) == 0) {
        return; /* of rules: test_rules.c */
    }
    char *text = visited->count == 0 ? visited->first : visited->last;
    snprintf(text, 128, "%s.%s=%s", section, name, value);
    visited->count++;
}

TEST(each_visits_every_key_in_table_order)
{
    struct config config = defaults();
    struct visited visited = {0};
    set(&config, "log.format=json");
    config_each(&config, table_visit, &visited);
    assert_int_equal(visited.count, KEY_COUNT);
    assert_string_equal(visited.first, ".insecure=false");
    assert_string_equal(visited.last, "log.format=json");
}

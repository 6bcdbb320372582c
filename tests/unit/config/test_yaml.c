/* SPDX-License-Identifier: MIT */
/* Files: what is read, and the words and the line of every refusal. */
#include "tests/unit/config/helpers.h"

#include <sys/stat.h>

TEST(a_file_replaces_only_what_it_names)
{
    struct config config = loaded("window: {unit: step, length: 20}\n"
                                  "log:\n"
                                  "  level: \"debug\" # a comment\n");
    struct config expected = defaults();
    set(&expected, "window.unit=step");
    set(&expected, "window.length=20");
    set(&expected, "log.level=debug");
    assert_same_config(&config, &expected);
}

TEST(files_that_say_nothing_change_nothing)
{
    struct config expected = defaults();
    const char *const texts[] = {"",          "\n\n",         "# nothing\n",
                                 "---\n",     "---\n...\n",   "{}\n",
                                 "ingest:\n", "ingest: {}\n", "ingest:\n  # budget: 1GiB\nlog:\n"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct config config = loaded(texts[i]);
        assert_same_config(&config, &expected);
    }
}

TEST(a_key_of_before_is_read_over_with_a_warning_that_names_what_takes_its_place)
{
    char *told = NULL, error[CONFIG_ERROR_MAX] = "";
    size_t size;
    struct config config = defaults(), before = config;
    before.ingest_budget = 1 << 30;
    config.warnings = open_memstream(&told, &size);
    assert_int_equal(load_text(&config,
                               "tap:\n  budget: 64MiB\n"
                               "metrics:\n  spectrum_heads: [1, 2]\n"
                               "jobs: {a*: {spectrum_sample: 3}}\n"
                               "ingest:\n  receive_queue: 4\n  budget: 1GiB\n",
                               error),
                     0);
    assert_int_equal(config_set(&config, "ingest.receive_queue=4", error), 0);
    fclose(config.warnings);
    assert_string_equal(
        told,
        "attnd: attnd.yaml:2: tap.budget: '64MiB': no longer a setting (now a quarter of "
        "publish.budget)\n"
        "attnd: attnd.yaml:4: metrics.spectrum_heads: '[1,2]': no longer a setting (now all heads; "
        "metrics.spectrum_budget bounds what they cost)\n"
        "attnd: attnd.yaml:5: jobs.a*.spectrum_sample: '3': no longer a setting (now the sample of "
        "maps.sample)\n"
        "attnd: attnd.yaml:7: ingest.receive_queue: '4': no longer a setting (now ingest.budget "
        "bounds what comes)\n"
        "attnd: --set: ingest.receive_queue: '4': no longer a setting (now ingest.budget bounds "
        "what comes)\n");
    free(told);
    config_clear(&config);
    assert_same_config(&config, &before);
    assert_refused("tap:\n  budget: {}\n",
                   "attnd.yaml:2: tap.budget: expected one value, found a mapping");
}

TEST(what_is_printed_loads_to_the_same)
{
    struct config config = defaults();
    set(&config, "ingest.endpoint=ipc:///tmp/it's: a # trap:");
    set(&config, "publish.endpoint=tcp://*:*");
    set(&config, "ingest.budget=1000000001");
    set(&config, "window.timeout=1500ms");
    set(&config, "window.rank_grace=0");
    set(&config, "metrics.core=false");
    set(&config, "log.level=warning");
    char *text = printed(&config);
    OWNED(config_clear) struct config again = loaded(text);
    assert_same_config(&again, &config);
    free(text);
}

REFUSED(unknown_names_are_refused,
        {"ingest.budget: 1GiB\n",
         "attnd.yaml:1: ingest.budget: written as for --set (valid: a line `ingest:`, and below it "
         "an indented one `budget: ...`)"},
        {"log:\n  level: info\ningest:\n  budgt: 1GiB\n",
         "attnd.yaml:4: ingest.budgt: unknown key (valid in ingest: endpoint, budget, "
         "max_message, memory; did you mean budget?)"},
        {"\ningset:\n  budget: 1GiB\n",
         "attnd.yaml:2: ingset: unknown section (valid: insecure, ingest, publish, control, http, "
         "workers, window, drift, metrics, maps, plan, limits, alerts, history, "
         "tap, reliable, keys, fleet, shutdown, log, jobs, rules; did you mean ingest?)"},
        {"budget: 1GiB\n",
         "attnd.yaml:1: budget: unknown section (valid: insecure, ingest, publish, control, http, "
         "workers, window, drift, metrics, maps, plan, limits, alerts, history, "
         "tap, reliable, keys, fleet, shutdown, log, jobs, rules)"});

TEST(a_key_may_be_in_no_section)
{
    struct config config = loaded("log:\n  level: debug\ninsecure: true\n");
    assert_true(config.insecure);
    assert_refused("insecure: yes\n", "attnd.yaml:1: insecure: 'yes': not one of the choices "
                                      "(valid: false, true)");
    assert_refused("insecure: true\n\ninsecure: true\n",
                   "attnd.yaml:3: insecure: given twice (first on line 1)");
    assert_refused("insecure: {a: b}\n",
                   "attnd.yaml:1: insecure: expected one value, found a mapping");
    assert_refused(
        "insecur: true\n",
        "attnd.yaml:1: insecur: unknown section (valid: insecure, ingest, publish, "
        "control, http, workers, window, drift, metrics, maps, plan, limits, alerts, "
        "history, tap, reliable, keys, fleet, shutdown, log, jobs, rules; did you mean insecure?)");
    assert_refused("log:\n  insecure: true\n",
                   "attnd.yaml:2: log.insecure: unknown key (valid in log: level, format)");
    assert_refused("'': {insecure: true}\n",
                   "attnd.yaml:1: : unknown section (valid: insecure, ingest, publish, control, "
                   "http, workers, window, drift, metrics, maps, plan, limits, alerts, history, "
                   "tap, reliable, keys, fleet, shutdown, log, jobs, rules)");
}

REFUSED(bad_values_name_the_line_of_their_key,
        {"window:\n  length: 2\n  unit: epochs\n  every: 1\n",
         "attnd.yaml:3: window.unit: 'epochs': not one of the choices (valid: epoch, "
         "step, second, auto)"},
        {"window:\n  unit:\n\n    epochs\n",
         "attnd.yaml:2: window.unit: 'epochs': not one of the choices (valid: epoch, "
         "step, second, auto)"},
        {"ingest:\n  budget:\n",
         "attnd.yaml:2: ingest.budget: '': not a size such as 65536, 512MiB or 10MB "
         "(valid: 1MiB to 1TiB)"},
        {"ingest: {budget: 1GiB, max_message: 1B}\n",
         "attnd.yaml:1: ingest.max_message: '1B': out of range (valid: 64KiB to 16GiB)"});

REFUSED(a_name_may_be_given_once,
        {"log:\n  level: info\n  format: json\n  level: debug\n",
         "attnd.yaml:4: log.level: given twice (first on line 2)"},
        {"log:\n  level: info\nwindow:\nlog:\n  format: json\n",
         "attnd.yaml:4: log: section given twice (first on line 1)"});

REFUSED(wrong_kinds_of_nodes_are_refused,
        {"ingest\n", "attnd.yaml:1: expected sections such as `ingest:`, found a value"},
        {"- ingest\n", "attnd.yaml:1: expected sections such as `ingest:`, found a list"},
        {"ingest: 5\n", "attnd.yaml:1: ingest: expected lines of `key: value`, found a value"},
        {"ingest:\n  - budget\n",
         "attnd.yaml:1: ingest: expected lines of `key: value`, found a list"},
        {"ingest:\n  budget: [1GiB]\n",
         "attnd.yaml:2: ingest.budget: expected one value, found a list"},
        {"ingest:\n  budget:\n    size: 1GiB\n",
         "attnd.yaml:2: ingest.budget: expected one value, found a mapping"},
        {"? [a]\n: b\n", "attnd.yaml:1: expected the name of a section, found a list"},
        {"ingest:\n  ? {a: b}\n  : c\n",
         "attnd.yaml:2: ingest: expected the name of a key, found a mapping"});

TEST(lists_are_for_numbers)
{
    struct config config = loaded("metrics:\n  head_weights:\n    - 1\n    - 0.5\n");
    assert_int_equal(config.metrics_head_weights.count, 2);
    config = loaded("metrics: {head_weights: []}\n");
    assert_int_equal(config.metrics_head_weights.count, 0);
    assert_refused("metrics:\n  head_weights: [1,\n    [2]]\n",
                   "attnd.yaml:3: metrics.head_weights: expected one value, found a list");
    assert_refused("metrics:\n  head_weights: [1, a]\n",
                   "attnd.yaml:2: metrics.head_weights: '[1,a]': not a list of numbers such as [1, "
                   "0.5] (valid: at most 256 numbers)");
    assert_refused("metrics:\n  head_weights: {a: 1}\n",
                   "attnd.yaml:2: metrics.head_weights: expected one value, found a mapping");
}

/* No list of valid numbers is that long. */
TEST(endless_lists_are_refused)
{
    char *text = calloc(1, 20000);
    assert_non_null(text);
    strcpy(text, "metrics: {head_weights: [");
    for (int i = 0; i < 5000; i++) {
        strcat(text, "1, ");
    }
    strcat(text, "1]}\n");
    assert_refused(text, "attnd.yaml:1: metrics.head_weights: the list is too long");
    free(text);
}

REFUSED(broken_yaml_names_its_line,
        {"ingest:\n  budget: 1GiB\n max_message: 2\n",
         "attnd.yaml:3: not valid YAML: did not find expected key, while parsing a block mapping"},
        {"ingest:\n\tbudget: 1GiB\n",
         "attnd.yaml:2: not valid YAML: found character that cannot start any token, "
         "while scanning for the next token"},
        {"ingest: {budget: 1GiB\n",
         "attnd.yaml:2: not valid YAML: did not find expected ',' or '}', while parsing "
         "a flow mapping"});

REFUSED(bytes_that_are_not_text_name_their_line,
        {"log:\n  level: in\xff\xfe\n",
         "attnd.yaml:2: not valid YAML: invalid leading UTF-8 octet"},
        {"log:\n\n  level: \"a\001\"\n",
         "attnd.yaml:3: not valid YAML: control characters are not allowed"},
        {"log:\n  level: \"a\\0b\"\n", "attnd.yaml:2: a text holds a NUL byte"});

TEST(anchors_aliases_and_tags_are_refused)
{
    const char *anchor = "anchors and aliases are not accepted: write the value out";
    char message[CONFIG_ERROR_MAX];
    snprintf(message, sizeof message, "attnd.yaml:2: %s", anchor);
    assert_refused("log:\n  level: &l info\n", message);
    snprintf(message, sizeof message, "attnd.yaml:1: %s", anchor);
    assert_refused("log: &l {level: info}\n", message);
    assert_refused("log: *l\n",
                   "attnd.yaml:1: anchors and aliases are not accepted: write the value out, and a "
                   "text that begins with * in quotes");
    assert_refused("&a [*a, *a, *a]\n", message);
    assert_refused("log:\n  level: !!str info\n",
                   "attnd.yaml:2: tags are not accepted: write the plain value");
}

REFUSED(one_document_per_file,
        {"log:\n  level: info\n---\nlog:\n  level: debug\n",
         "attnd.yaml:3: a second document begins here (valid: one per file)"});

TEST(long_texts_are_refused)
{
    char text[2048] = "log:\n  level: ";
    size_t start = strlen(text);
    memset(text + start, 'x', 1200);
    assert_refused(text, "attnd.yaml:2: a text of 1200 bytes is too long (valid: at most 1099)");
}

/* The first level that is wrong ends the reading. */
TEST(nesting_is_refused_at_its_first_level)
{
    assert_refused("[[[[[[[[", "attnd.yaml:1: expected sections such as `ingest:`, found a list");
}

TEST(huge_files_are_refused)
{
    char *text = malloc(1048577), error[CONFIG_ERROR_MAX];
    memset(text, '\n', 1048577);
    struct config config = defaults();
    assert_int_equal(load_bytes(&config, text, 1048576, error), 0);
    assert_int_equal(load_bytes(&config, text, 1048577, error), -1);
    assert_string_equal(error, "attnd.yaml: larger than 1 MiB, so not a config file");
    free(text);
}

TEST(unreadable_files_say_why)
{
    struct config config = defaults();
    char error[CONFIG_ERROR_MAX];
    assert_int_equal(config_load(&config, "/nowhere/attnd.yaml", error), -1);
    assert_string_equal(error, "/nowhere/attnd.yaml: cannot read it: No such file or directory");
    assert_int_equal(config_load(&config, "/tmp", error), -1);
    assert_string_equal(error, "/tmp: cannot read it: Is a directory");
    assert_int_equal(config_load(&config, "/dev/zero", error), -1);
    assert_string_equal(error, "/dev/zero: larger than 1 MiB, so not a config file");
}

TEST(a_path_of_any_length_fits_the_message)
{
    char path[4000], error[CONFIG_ERROR_MAX];
    memset(path, 'p', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    struct config config = defaults();
    assert_int_equal(config_load(&config, path, error), -1);
    assert_non_null(strstr(error, "ppp: cannot read it: File name too long"));
}

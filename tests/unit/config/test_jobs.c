/* SPDX-License-Identifier: MIT */
/* The section `jobs`: settings of some jobs. */
#include "tests/unit/config/helpers.h"

static struct config for_job(const struct config *config, const char *job)
{
    return *config_for_job(config, job);
}

TEST(without_overrides_every_job_has_the_same)
{
    struct config config = defaults();
    struct config job = for_job(&config, "gpt-small");
    assert_same_config(&job, &config);
}

TEST(a_pattern_changes_the_keys_it_names)
{
    struct config config = loaded("metrics: {top_pairs: 5, pairs: false}\n"
                                  "jobs:\n"
                                  "  \"gpt-*\": {spectrum: false, similarity: true}\n"
                                  "  bert:\n"
                                  "    redundant_js: 0.125\n"
                                  "    spectrum_effort: norm\n"
                                  "    spectrum_budget: 5ms\n"
                                  "    head_weights: [1, 0.5]\n");
    struct config gpt = for_job(&config, "gpt-small"), bert = for_job(&config, "bert"),
                  other = for_job(&config, "berta");
    assert_false(gpt.metrics_spectrum);
    assert_true(gpt.metrics_similarity);
    assert_false(gpt.metrics_pairs);
    assert_int_equal(gpt.metrics_top_pairs, 5);
    assert_true(bert.metrics_spectrum);
    assert_true(bert.metrics_redundant_js == 0.125);
    assert_int_equal(bert.metrics_spectrum_effort, CONFIG_EFFORT_NORM);
    assert_int_equal(bert.metrics_spectrum_budget, 5000000);
    assert_int_equal(bert.metrics_head_weights.count, 2);
    assert_true(bert.metrics_head_weights.number[1] == 0.5);
    assert_int_equal(other.metrics_head_weights.count, 0);
    assert_true(other.metrics_spectrum);
    config_clear(&config);
    assert_null(config.jobs);
}

TEST(the_first_match_in_the_file_counts)
{
    struct config config = loaded("jobs:\n"
                                  "  gpt-debug: \n"
                                  "  'gpt-*': {top_pairs: 3}\n"
                                  "  '*': {top_pairs: 4, spectrum: false}\n");
    assert_int_equal(for_job(&config, "gpt-debug").metrics_top_pairs, 10);
    assert_int_equal(for_job(&config, "gpt-1").metrics_top_pairs, 3);
    assert_true(for_job(&config, "gpt-1").metrics_spectrum);
    assert_int_equal(for_job(&config, ".hidden").metrics_top_pairs, 4);
    config_clear(&config);
}

TEST(patterns_match_as_a_shell_does)
{
    struct config config =
        loaded("jobs: {'v[0-9].?': {top_pairs: 1}, 'v[!0-9]*': {top_pairs: 2}}\n");
    assert_int_equal(for_job(&config, "v1.x").metrics_top_pairs, 1);
    assert_int_equal(for_job(&config, "v1.xy").metrics_top_pairs, 10);
    assert_int_equal(for_job(&config, "vx").metrics_top_pairs, 2);
    config_clear(&config);
}

/* Values below the pattern's come from the file and from --set, also from one that comes later. */
TEST(overrides_win_over_set)
{
    OWNED(config_clear) struct config config = loaded("jobs: {gpt: {top_pairs: 3}}\n");
    set(&config, "metrics.top_pairs=7");
    set(&config, "metrics.spectrum=false");
    assert_int_equal(for_job(&config, "gpt").metrics_top_pairs, 3);
    assert_false(for_job(&config, "gpt").metrics_spectrum);
}

TEST(a_section_replaces_the_overrides_of_an_earlier_file)
{
    char error[CONFIG_ERROR_MAX];
    OWNED(config_clear) struct config config = loaded("jobs: {gpt: {top_pairs: 3}}\n");
    assert_int_equal(load_text(&config, "metrics: {top_pairs: 4}\n", error), 0);
    assert_int_equal(for_job(&config, "gpt").metrics_top_pairs, 3);
    assert_int_equal(load_text(&config, "jobs: {gpt: {top_pairs: x}}\n", error), -1);
    assert_int_equal(for_job(&config, "gpt").metrics_top_pairs, 3);
    assert_int_equal(load_text(&config, "jobs:\n", error), 0);
    assert_int_equal(for_job(&config, "gpt").metrics_top_pairs, 4);
}

TEST(overrides_are_printed_and_load_again)
{
    struct config config =
        loaded("jobs:\n  '*x': {head_weights: [1, 2], spectrum: false}\n  empty:\n");
    char *text = printed(&config);
    assert_non_null(strstr(text, "\njobs:\n"
                                 "  '*x':\n"
                                 "    spectrum: false\n"
                                 "    head_weights: [1, 2]\n"
                                 "  'empty': {}\n"));
    struct config again = loaded(text);
    assert_same_config(&config, &again);
    config_clear(&config);
    config_clear(&again);
    free(text);
}

static void test_jobs_visit(void *data, const char *section, const char *name, const char *value)
{
    if (strncmp(section, "jobs", 4) == 0) {
        sprintf((char *)data + strlen(data), "%s.%s=%s;", section, name, value);
    }
}

TEST(each_visits_the_overrides)
{
    char visited[256] = "";
    struct config config =
        loaded("jobs: {'a*': {spectrum: false, top_pairs: 3}, b: {core: true}}\n");
    config_each(&config, test_jobs_visit, visited);
    assert_string_equal(visited, "jobs.a*.spectrum=false;jobs.a*.top_pairs=3;jobs.b.core=true;");
    config_clear(&config);
}

REFUSED(mistakes_name_the_line_and_the_pattern,
        {"jobs:\n  \"gpt-*\":\n    spectrm: true\n",
         "attnd.yaml:3: jobs.gpt-*.spectrm: unknown key (valid in metrics: core, "
         "importance, pairs, similarity, spectrum, top_pairs, head_pairs, local_window, "
         "redundant_js, head_weights, spectrum_effort, spectrum_budget, "
         "spectrum_max_size, qk_maps_max_size, weights_max_size; "
         "did you mean spectrum?)"},
        {"jobs: {a: {top_pairs: 0}}\n",
         "attnd.yaml:1: jobs.a.top_pairs: '0': out of range (valid: 1 to 100)"},
        {"jobs:\n  a: {core: true,\n     core: true}\n",
         "attnd.yaml:3: jobs.a.core: given twice (first on line 2)"},
        {"jobs:\n  a:\n  'a': {core: true}\n",
         "attnd.yaml:3: jobs.a: given twice (first on line 2)"},
        {"jobs:\njobs:\n", "attnd.yaml:2: jobs: section given twice (first on line 1)"},
        {"jobs: {a: true}\n",
         "attnd.yaml:1: jobs.a: expected lines of `key: value`, found a value"},
        {"jobs: [a]\n", "attnd.yaml:1: jobs: expected lines of `key: value`, found a list"},
        {"jobs: {[a]: {}}\n", "attnd.yaml:1: jobs: expected a pattern of job names, found a list"},
        {"jobs:\n  *-x: {}\n",
         "attnd.yaml:2: anchors and aliases are not accepted: write the value out, and a "
         "text that begins with * in quotes"});

TEST(patterns_are_of_what_job_names_are_made_of)
{
    const char *valid = "not a pattern of job names (valid: 1 to 128 of A-Z a-z 0-9 . _ - and * ? "
                        "[ ] !)";
    char text[512], message[CONFIG_ERROR_MAX];
    snprintf(message, sizeof message, "attnd.yaml:1: jobs: 'a b': %s", valid);
    assert_refused("jobs: {'a b': {}}\n", message);
    snprintf(message, sizeof message, "attnd.yaml:1: jobs: '': %s", valid);
    assert_refused("jobs: {'': {}}\n", message);
    snprintf(text, sizeof text, "jobs: {%0129d: {}}\n", 0);
    snprintf(message, sizeof message, "attnd.yaml:1: jobs: '%080d...': %s", 0, valid);
    assert_refused(text, message);
    snprintf(text, sizeof text, "jobs: {%0128d: {top_pairs: 2}}\n", 0);
    struct config config = loaded(text);
    config_clear(&config);
}

TEST(there_are_at_most_256_patterns)
{
    char text[8192] = "jobs:\n";
    for (int i = 0; i < 256; i++) {
        sprintf(text + strlen(text), "  j%d:\n", i);
    }
    struct config config = loaded(text);
    config_clear(&config);
    strcat(text, "  more:\n");
    assert_refused(text, "attnd.yaml:258: jobs: more than 256 patterns");
}

TEST(something_is_measured_of_every_job)
{
    char error[CONFIG_ERROR_MAX] = "";
    struct config config = loaded("metrics: {importance: false, pairs: false, spectrum: false}\n"
                                  "jobs: {a: {core: false, similarity: true}, b: {core: false}}\n");
    assert_int_equal(config_check(&config, error), -1);
    assert_string_equal(
        error,
        "attnd.yaml:2: jobs.b: every group is off, so there is nothing to measure (valid: at "
        "least one of core, importance, pairs, similarity, spectrum on)");
    config_clear(&config);
}

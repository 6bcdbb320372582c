/* SPDX-License-Identifier: MIT */
/* The table of commands, and what is made of it: words that are found in a line, what was meant by
 * a slip, and what completes a word. */
#include "tests/unit/cli/fake.h"

#include "clients/cli/base/commands.h"
#include "clients/cli/help/help.h"
#include "clients/cli/base/out.h"

#define WORDS_MAX 12

/* The words behind "attnctl", in memory of their own. Returns argc. */
static int table_split(const char *text, char *copy, char **argv)
{
    int argc = 1;
    strcpy(copy, text);
    argv[0] = copy + strlen(copy); /* "" */
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " ")) {
        argv[argc++] = word;
    }
    argv[argc] = NULL;
    return argc;
}

static void assert_command_at(const char *line, int expected)
{
    char copy[256], *argv[WORDS_MAX];
    int argc = table_split(line, copy, argv);
    assert_int_equal(line_find_word(NULL, argc, argv), expected);
}

TEST(a_command_is_found_behind_options)
{
    assert_command_at("jobs", 1);
    assert_command_at("--json jobs", 2);
    assert_command_at("--endpoint ipc:///x jobs", 3);
    assert_command_at("--endpoint=ipc:///x jobs", 2);
    assert_command_at("--end ipc:///x jobs", 3);
    assert_command_at("--lengths 3,4 analyze maps.npz", 3);
    assert_command_at("--frobnicate jobs", 2);
    assert_command_at("-- jobs", 2);
    assert_command_at("--json", 2);
    assert_command_at("- jobs", 1);
}

static bool asks_help(const char *line)
{
    char copy[256], *argv[WORDS_MAX];
    int argc = table_split(line, copy, argv);
    return line_asks_help(NULL, argc, argv);
}

TEST(help_is_asked_for_by_an_option_alone)
{
    assert_true(asks_help("maps.npz --help"));
    assert_true(asks_help("-h"));
    assert_false(asks_help("--name --help"));
    assert_false(asks_help("-- --help"));
    assert_false(asks_help("help"));
}

TEST(slips_are_counted)
{
    char longest[NEAREST_FAR + 1];
    memset(longest, 'x', sizeof longest);
    longest[NEAREST_FAR] = '\0';
    assert_int_equal(nearest_distance("", ""), 0);
    assert_int_equal(nearest_distance("", "jobs"), 4);
    assert_int_equal(nearest_distance("jobs", "jobs"), 0);
    assert_int_equal(nearest_distance("jbos", "jobs"), 1);
    assert_int_equal(nearest_distance("job", "jobs"), 1);
    assert_int_equal(nearest_distance("jxbs", "jobs"), 1);
    assert_int_equal(nearest_distance("sumary", "history"), 5);
    assert_int_equal(nearest_distance(longest, longest), NEAREST_FAR);
    longest[NEAREST_FAR - 1] = '\0';
    assert_int_equal(nearest_distance(longest, longest), 0);
}

TEST(the_nearest_is_what_was_meant)
{
    assert_string_equal(command_nearest("jbos"), "jobs");
    assert_string_equal(command_nearest("sum"), "summary");
    assert_string_equal(command_nearest("analyse"), "analyze");
    assert_null(command_nearest("frobnicate"));
    assert_null(command_nearest(""));
    assert_null(command_nearest("x"));
    const struct command *jobs = command_find("jobs"), *history = command_find("history");
    assert_string_equal(command_nearest_option(history, "--windw=3"), "window");
    assert_null(command_nearest_option(jobs, "--windw=3"));
    assert_string_equal(command_nearest_option(command_find("analyze"), "--casual"), "causal");
    assert_string_equal(command_nearest_option(NULL, "--verson"), "version");
    const struct command *plot = command_find("plot");
    assert_string_equal(command_nearest_option(plot, "--cmap"), "colormap");
    assert_string_equal(command_nearest_option(plot, "--titel"), "title");
    assert_null(command_nearest_option(plot, "--cxap"));
    assert_null(command_nearest_option(plot, "--clrp"));
}

TEST(long_text_is_wrapped)
{
    char text[512], *wrapped = NULL;
    size_t size = 0, longest = 0;
    for (int i = 0; i < 40; i++) {
        strcpy(text + 5 * i, "word ");
    }
    FILE *out = open_memstream(&wrapped, &size);
    text_wrap(text, 10, 4, out);
    fclose(out);
    for (char *line = wrapped; *line; line += strcspn(line, "\n") + 1) {
        size_t length = strcspn(line, "\n") + (line == wrapped ? 10 : 0);
        assert_true(line == wrapped || strncmp(line, "    word", 8) == 0);
        longest = length > longest ? length : longest;
    }
    assert_in_range(longest, TEXT_WIDTH - 5, TEXT_WIDTH);
    free(wrapped);
}

/* Completion ------------------------------------------------------------------------------------
 */

/* Candidates for the last word, which is empty behind a blank; without what they mean. */
static void assert_completes(const char *line, const char *expected)
{
    char copy[256], *argv[WORDS_MAX], *answer = NULL, said[4096] = "";
    size_t size = 0, length = strlen(line);
    int argc = table_split(line, copy, argv);
    if (length == 0 || line[length - 1] == ' ') {
        argv[argc++] = argv[0];
    }
    FILE *out = open_memstream(&answer, &size);
    assert_int_equal(complete_print(argc - 1, argv + 1, out), CLI_OK);
    fclose(out);
    for (char *word = answer; *word; word += strcspn(word, "\n") + 1) {
        snprintf(said + strlen(said), sizeof said - strlen(said), "%.*s ",
                 (int)strcspn(word, "\t\n"), word);
    }
    free(answer);
    assert_string_equal(said, expected);
}

TEST(commands_are_completed)
{
    assert_completes("su", "summary ");
    assert_completes("--json su", "summary ");
    assert_completes("help re", "record replay ");
    assert_completes("plan ", "get set reset ");
    assert_completes("plan set x e", "every= ");
    assert_completes("plan set x every=3 la", "layers= ");
    assert_completes("plan set x every=3 t", "tier= ");
    assert_completes("bridge t", "tensorboard trackio ");
    assert_completes("tail su", "summary/ ");
    assert_completes("jobs ", "");
    assert_completes("nonsense ", "");
    assert_completes("analyze ", ":FILE ");
    assert_completes("analyze a.npz b.npz ", ":FILE ");
    assert_completes("check ", ":FILE ");
    assert_completes("check a.rec ", "");
}

TEST(options_and_their_values_are_completed)
{
    assert_completes("summary --st", "--stack ");
    assert_completes("jobs --st", "");
    assert_completes("--v", "--version ");
    assert_completes("summary --stack ", "encoder decoder ");
    assert_completes("summary --stack=de", "--stack=decoder ");
    assert_completes("--stack e", "");
    assert_completes("summary --metric mean_d", "mean_distance mean_distance_normalized ");
    assert_completes("check --rules ", ":FILE ");
    assert_completes("summary --layer ", "");
    assert_completes("analyze --groups core,sp", "core,spectrum ");
    assert_completes("show --only map,t", "map,token ");
    assert_completes("show --only=map,pairs,h", "--only=map,pairs,heads ");
    assert_completes("analyze --groups=core,sp", "--groups=core,spectrum ");
    assert_completes("analyze --spectrum l", "leading ");
    assert_completes("bridge jsonl --statistics mean,p9", "mean,p90 mean,p99 ");
}

/* --statistics is a flag of one command, and has a value of another. */
TEST(options_are_those_of_the_command)
{
    char copy[256], *argv[WORDS_MAX];
    int argc = table_split("--statistics mean jsonl", copy, argv);
    assert_int_equal(line_find_word(command_find("bridge"), argc, argv), 3);
    assert_int_equal(line_find_word(command_find("analyze"), argc, argv), 2);
    assert_completes("analyze --statistics ", ":FILE ");
    assert_completes("bridge --statistics m", "mean min max ");
}

TEST(an_unknown_option_is_found)
{
    static const struct {
        const char *line, *unknown;
    } cases[] = {{"maps.npz --causal", NULL},           {"--name --cuasal", NULL},
                 {"maps.npz --cuasal", "--cuasal"},     {"--lengths=3 --x=4", "--x=4"},
                 {"--endpoint ipc:///x", NULL},         {"-- --cuasal", NULL},
                 {"--lengths 3 --project", "--project"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char copy[256], *argv[WORDS_MAX];
        int argc = table_split(cases[i].line, copy, argv);
        const char *unknown = line_find_unknown(command_find("analyze"), argc, argv);
        if (cases[i].unknown) {
            assert_string_equal(unknown, cases[i].unknown);
        } else {
            assert_null(unknown);
        }
    }
}

TEST(a_value_is_no_command)
{
    assert_completes("--timeout jobs --endpoint", "--endpoint ");
    assert_completes("--timeout 3 su", "summary ");
    assert_completes("--summaries tail ta", "tail ");
}

/* The rows --------------------------------------------------------------------------------------
 */

TEST(every_row_is_complete)
{
    for (int i = 0; i < command_count; i++) {
        const struct command *command = &commands[i];
        char begin[64];
        assert_ptr_equal(command_find(command->name), command); /* no name twice */
        assert_true(!command->run != !command->run_alone);
        assert_true(strlen(command->help) <= 66);
        assert_non_null(command->examples[0]);
        snprintf(begin, sizeof begin, "attnctl %s", command->name);
        for (int e = 0; e < COMMAND_EXAMPLES_MAX && command->examples[e]; e++) {
            assert_int_equal(strncmp(command->examples[e], begin, strlen(begin)), 0);
        }
        const struct option_list list = command_options(command, NULL);
        assert_in_range(list.count, 1, OPTIONS_LISTED_MAX - 1);
        for (int o = 0; o < list.count; o++) {
            assert_non_null(list.option[o]->name);
            if (list.option[o]->help && list.option[o]->values) {
                assert_non_null(list.option[o]->argument); /* a flag has no value */
            }
        }
    }
}

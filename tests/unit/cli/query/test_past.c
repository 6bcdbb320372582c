/* SPDX-License-Identifier: MIT */
/* The commands about the past: their text and exit status, and what they ask, against a fake attnd
 * that answers as PROTOCOL.md says. */
#include "tests/unit/cli/fake.h"

#include "clients/cli/base/field.h"
#include "proto/result.h"
#include "tests/unit/mpk_text.h"
#include "clients/cli/base/out.h"

static const char *const statistics[] = {"mean", "std", "min", "max",  "p10",
                                         "p50",  "p90", "p99", "last", "count"};

/* Answers of the fake ----------------------------------------------------------------------------
 */

#define LAYER "'stack': 'decoder', 'layer': 3, 'site': 'self'"
#define RUN   "abcdef0123456789abcdef0123456789"

static void past_put_windows(struct mpk_writer *reply, uint64_t first, uint32_t windows)
{
    static const char *const keys[] = {"first", "last", "epoch", "step", "time_ns"};
    mpk_pair_map(reply, "windows", 6);
    for (int key = 0; key < 5; key++) {
        mpk_pair_array(reply, keys[key], windows);
        for (uint64_t i = 0; i < windows; i++) {
            mpk_put_u64(reply, key == 3 ? 10 * (first + i) : key == 0 ? first + i - 1 : first + i);
        }
    }
    mpk_pair_array(reply, "partial", windows);
    for (uint32_t i = 0; i < windows; i++) {
        mpk_put_bool(reply, i + 1 == windows);
    }
}

static void past_put_series(struct mpk_writer *reply, const msgpack_object *params)
{
    uint32_t heads = mpk_find(params, "head") ? 1 : 2;
    uint64_t from = mpk_find_u64(params, "from");
    char job[64], metric[64];
    field_text(params, "job", job, sizeof job);
    field_text(params, "metric", metric, sizeof metric);
    bool sampled = strcmp(job, "sampled") == 0, thinned = strcmp(job, "thinned") == 0;
    mpk_put_map(reply, 11u - thinned + sampled);
    if (!thinned) {
        mpk_pair_u64(reply, "rows", 18);
    }
    if (sampled) {
        mpk_pair_u64(reply, "rows_of", 288);
    }
    mpk_pair_str(reply, "job", "gpt");
    mpk_pair_str(reply, "run", RUN);
    mpk_pair_str(reply, "metric", *metric ? metric : "entropy_normalized");
    mpk_pair_str(reply, "unit", "epoch");
    mpk_pair_u64(reply, "length", 2);
    mpk_pair_u64(reply, "every", 1);
    mpk_pair_array(reply, "heads", heads);
    for (uint32_t i = 0; i < heads; i++) {
        mpk_text(reply, "{" LAYER ", 'head': %u}",
                 heads == 1 ? (unsigned)mpk_find_u64(params, "head") : i);
    }
    mpk_pair_bool(reply, "more", from < 8);
    past_put_windows(reply, from > 5 ? from : 5, from > 5 ? 1 : 3);
    uint32_t windows = from > 5 ? 1 : 3;
    mpk_pair_map(reply, "values", 10);
    for (int i = 0; i < 10; i++) {
        mpk_put_str(reply, statistics[i]);
        if (heads > 1) {
            mpk_put_array(reply, heads);
        }
        for (uint32_t head = 0; head < heads; head++) {
            double first = i == 1 ? 0 : i + head * 0.5;
            mpk_put_array(reply, windows);
            for (uint32_t j = 0; j < windows; j++) {
                mpk_put_f64(reply, first == 0 && j == 1 ? NAN : first + 0.125 * j);
            }
        }
    }
}

static void past_put_alert(struct mpk_writer *reply, enum alert_state state, bool of_run)
{
    static const uint8_t run[RUN_BYTES] = {0xab};
    struct alert_result alert = {
        .common = {"gpt", run, 3, 1200, 1},
        .rule = of_run ? "silence" : "entropy_collapse",
        .severity = of_run ? ALERT_WARNING : ALERT_CRITICAL,
        .state = state,
        .metric = "entropy_normalized",
        .has_layer = !of_run,
        .layer = {STACK_DECODER, 3, SITE_SELF},
        .head = of_run ? -1 : 2,
        .value = of_run ? NAN : 0.03125,
        .bound = 0.1,
        .since_after = 1100,
        .since_step = 1150,
        .message = of_run ? "silent" : "entropy of head 2 is low",
    };
    alert_encode(&alert, reply);
}

/* `both`: the run is silent, too, and all was told when it began. */
static void past_put_alerts(struct mpk_writer *reply, bool firing, bool ended, bool older,
                            bool both)
{
    mpk_put_map(reply, 4);
    mpk_pair_u64(reply, "older", older);
    mpk_pair_array(reply, "firing", (uint32_t)firing + both);
    if (both) {
        past_put_alert(reply, ALERT_FIRING, true);
    }
    if (firing) {
        past_put_alert(reply, ended ? ALERT_FIRING_AT_END : ALERT_FIRING, false);
    }
    mpk_pair_array(reply, "alerts", both ? 2 : 1);
    if (both) {
        past_put_alert(reply, ALERT_FIRING, false);
    }
    past_put_alert(reply, both ? ALERT_FIRING : ALERT_RESOLVED, true);
    mpk_pair_bool(reply, "more", true);
}

static void past_put_verdict(struct mpk_writer *reply, int judged, bool others)
{
    mpk_text(reply, "{'alerts': [], 'checks': {'judged': %d, 'unjudged': [%s]}}", judged,
             others ? "'head_twins', 'mine'" : "");
}

static void past_put_comparison(struct mpk_writer *reply, double distance, bool sampled)
{
    const char *means = sampled
                            ? "'mean_a': 2.5, 'mean_b': 0.25, 'delta': -2.25, 'delta_error': 0.0123"
                            : "'mean_a': 2.5, 'mean_b': 0.25, 'delta': -2.25";
    const char *windows = sampled
                              ? "'windows': 20, 'first': 80, 'last': 99, 'rows': 80, 'rows_of': 640"
                              : "'windows': 20, 'first': 80, 'last': 99, 'rows': 640";
    mpk_text(reply,
             "{'a': {'job': 'gpt', 'run': 'abcdef0123456789', %s},"
             " 'b': {'job': 'gpt', 'run': '0123456789abcdef', %s},"
             " 'heads': [{" LAYER ", 'head': 2, 'distance': %f,"
             " 'metrics': {'confidence': {'js': %f, %s}, 'entropy': {'js': %f, %s}}}],"
             " 'only_a': [], 'only_b': [{}], 'more': true}",
             windows, windows, distance, distance / 2, means, distance * 2, means);
}

static void past_put_runs(struct mpk_writer *reply)
{
    mpk_text(reply, "{'runs': [{'job': 'gpt', 'run': '" RUN "', 'state': 'ended', 'world': 1,"
                    " 'first_ns': 1700000000000000000, 'last_ns': 1700003600000000000,"
                    " 'epoch': 9, 'step': 900}], 'more': false}");
}

/* Jobs whose name is a code are refused with it. */
static bool past_refuse(const char *job, uint64_t id, struct mpk_writer *reply)
{
    static const char *const refusals[][2] = {
        {"history_off", "there is no history: it is switched off, or its database cannot be used"},
        {"query_time", "the question took longer than history.query_time"},
        {"run_unknown", "no run of gpt begins with 'b'; there are a1, a2"},
        {"job_unknown", "no such job"},
        {"argument", "from is greater than to"},
        {"method_unknown", "method is unknown"},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        if (strcmp(job, refusals[i][0]) == 0) {
            fake_put_error(reply, id, refusals[i][0], refusals[i][1]);
            return true;
        }
    }
    return false;
}

static void test_past_answer(const struct fake *fake, const char *method, uint64_t id,
                             const msgpack_object *params, struct mpk_writer *reply)
{
    char job[64], metric[64];
    (void)fake;
    field_text(params, "job", job, sizeof job);
    field_text(params, "metric", metric, sizeof metric);
    if (past_refuse(job, id, reply)) {
        return;
    }
    if (strcmp(metric, "gone") == 0 || strcmp(metric, "entrpy") == 0) {
        fake_put_error(reply, id, "no_history", "decoder.3.self has no 'gone'");
        return;
    }
    bool young = strcmp(job, "young") == 0; /* no window of it has closed */
    if (young && strcmp(method, "history") == 0) {
        fake_put_error(reply, id, "no_history", "run abcdef01 of young has no window yet");
        return;
    }
    fake_put_ok(reply, id);
    if (young && strcmp(method, "windows") == 0) {
        mpk_text(reply, "{'job': 'young', 'run': '" RUN "', 'layers': []}");
    } else if (strcmp(method, "history") == 0) {
        past_put_series(reply, params);
    } else if (strcmp(method, "windows") == 0) {
        mpk_text(reply, "{'job': 'gpt', 'run': '" RUN "', 'layers': [{" LAYER ", 'heads': 2,"
                        " 'tracks': [], 'metrics': ['entropy', 'gone', 'sink_rate']}]}");
    } else if (strcmp(method, "alerts") == 0) {
        past_put_alerts(reply, strcmp(job, "calm") != 0, strcmp(job, "dead") == 0,
                        strcmp(job, "again") == 0, *job == '\0');
    } else if (strcmp(method, "verdict") == 0) {
        past_put_verdict(reply, strcmp(job, "calm") == 0 ? 12 : 0, strcmp(job, "again") != 0);
    } else if (strcmp(method, "rules") == 0) {
        mpk_text(reply, "[{'name': 'head_twins', 'needs': 'needs matrices'}]");
    } else if (strcmp(method, "compare") == 0) {
        past_put_comparison(reply, strcmp(job, "same") == 0 ? 0 : 0.25,
                            strcmp(job, "sampled") == 0);
    } else if (strcmp(method, "runs") == 0) {
        past_put_runs(reply);
    } else {
        mpk_put_map(reply, 0);
    }
}

/* Prints the parameters it was asked with, as an unknown error. */
static void answer_params(const struct fake *fake, const char *method, uint64_t id,
                          const msgpack_object *params, struct mpk_writer *reply)
{
    (void)fake;
    if (strcmp(method, "ping") == 0) {
        fake_put_ok(reply, id);
        mpk_put_map(reply, 0);
        return;
    }
    char *text = mpk_to_json(params, 0);
    fake_put_error(reply, id, "echo", text);
    free(text);
}

#define FAKE_TEST(name) FAKE_TEST_OF(name, test_past_answer)
#define SAYS(name, ...) SAYS_OF(name, test_past_answer, __VA_ARGS__)

/* history ----------------------------------------------------------------------------------------
 */

SAYS(one_head_has_a_row_per_window,
     {"history gpt --head 2", 0,
      "gpt, run abcdef01, decoder.3.self.h2\n"
      "entropy_normalized, per 2 epochs every 1\n"
      "\n"
      "EPOCH  STEP    MEAN     STD     MIN     P10     P50     P90     MAX\n"
      "4-5      50  0.0000  0.0000  2.0000  4.0000  5.0000  6.0000  3.0000\n"
      "5-6      60       -       -  2.1250  4.1250  5.1250  6.1250  3.1250\n"
      "6-7*     70  0.2500  0.2500  2.2500  4.2500  5.2500  6.2500  3.2500\n"
      "\n"
      "P10, P50 and P90 are within 1.1 %, of widely spread values within 9.1 %\n"
      "* partial: the window was cut short, or goes on\n"
      "there are earlier windows: --count, --from and --to choose others\n"});

SAYS(all_heads_have_a_column_each,
     {"history gpt --metric entropy --from 6", 0,
      "gpt, run abcdef01, decoder.3.self\n"
      "entropy, means, per 2 epochs every 1\n"
      "\n"
      "EPOCH  STEP      h0      h1\n"
      "5-6*     60  0.0000  0.5000\n"
      "\n"
      "* partial: the window was cut short, or goes on\n"
      "there are later windows: --count, --from and --to choose others\n"});

/* std / sqrt(count), in the last window 0.25 / sqrt(9.25) */
FAKE_TEST(means_of_sampled_rows_in_the_past_have_a_standard_error)
{
    setenv("LC_ALL", "C", 1);
    fake_says(fake, "history sampled --head 2 --metric entropy | head -n 8", 0,
              "gpt, run abcdef01, decoder.3.self.h2\n"
              "entropy, per 2 epochs every 1\n"
              "of the rows taken: 18 of about 288 in the newest window, over all heads; "
              "+-: standard error, at most\n"
              "\n"
              "EPOCH  STEP             MEAN     STD     MIN     P10     P50     P90     MAX\n"
              "4-5      50      0.0000 +- 0  0.0000  2.0000  4.0000  5.0000  6.0000  3.0000\n"
              "5-6      60                -       -  2.1250  4.1250  5.1250  6.1250  3.1250\n"
              "6-7*     70  0.2500 +- 0.082  0.2500  2.2500  4.2500  5.2500  6.2500  3.2500\n");
    fake_says(fake, "history sampled --from 6 --metric max_abs_logit | head -n 5", 0,
              "gpt, run abcdef01, decoder.3.self\n"
              "max_abs_logit, means, per 2 epochs every 1\n"
              "\n"
              "EPOCH  STEP      h0      h1\n"
              "5-6*     60  0.0000  0.5000\n");
    unsetenv("LC_ALL");
}

SAYS(what_is_not_known_of_rows_any_more_is_said,
     {"history thinned --from 6 --metric entropy | head -n 6", 0,
      "gpt, run abcdef01, decoder.3.self\n"
      "entropy, means, per 2 epochs every 1\n"
      "of 9 rows of a head in the newest window; it is not known any more whether these are all\n"
      "\n"
      "EPOCH  STEP      h0      h1\n"
      "5-6*     60  0.0000  0.5000\n"});

SAYS(history_as_csv,
     {"history gpt --head 1 --csv | head -n 2", 0,
      "job,run,unit,length,every,first_unit,last_unit,epoch,step,time_ns,partial,stack,"
      "layer,site,head,metric,mean,std,min,max,p10,p50,p90,p99,last,count\n"
      "gpt,abcdef0123456789abcdef0123456789,epoch,2,1,4,5,5,50,5,false,decoder,3,self,1,"
      "entropy_normalized,0,0,2,3,4,5,6,7,8,9\n"});

SAYS_OF(what_questions_to_the_past_ask, answer_params,
        {"history gpt --run ab --stack decoder --layer 3 --site self --head 2 --metric "
         "entropy --window '1 epoch' --from 1 --to 9 --count 7",
         1,
         "attnctl: attnd refused: "
         "{\"job\":\"gpt\",\"run\":\"ab\",\"stack\":\"decoder\",\"layer\":3,\"site\":"
         "\"self\",\"metric\":\"entropy\",\"window\":\"1 epoch\",\"head\":2,\"from\":1,"
         "\"to\":9,\"limit\":7} (echo)\n"},
        {"roles gpt --site self --head 2 --window '1 epoch'", 1,
         "attnctl: attnd refused: {\"job\":\"gpt\",\"site\":\"self\",\"window\":\"1 epoch\","
         "\"head\":2} (echo)\n"},
        {"history gpt", 1, "attnctl: attnd refused: {\"job\":\"gpt\",\"limit\":20} (echo)\n"},
        {"history gpt --json", 1,
         "attnctl: attnd refused: {\"job\":\"gpt\",\"limit\":200000} (echo)\n"});

SAYS(refusals_say_what_to_do,
     {"history history_off", 1,
      "attnctl: there is no history: it is switched off, or its database cannot be used "
      "(attnd's log says why; see history.enabled, history.path in attnctl config)\n"},
     {"history query_time", 1,
      "attnctl: the question took longer than history.query_time: ask for less with "
      "--from and --to, or raise it\n"},
     {"history method_unknown", 1,
      "attnctl: method is unknown: this attnd is too old for what was asked, update attnd\n"},
     {"history run_unknown", 1, "attnctl: no run of gpt begins with 'b'; there are a1, a2\n"},
     {"history job_unknown", 1, "attnctl: no such job: 'job_unknown' (see attnctl jobs)\n"},
     {"history argument", 2, "attnctl: from is greater than to\n"},
     {"history gpt --metric gone", 1, "attnctl: decoder.3.self has no 'gone'\n"},
     {"history gpt --metric entrpy", 2,
      "attnctl: --metric: 'entrpy': not in run abcdef01 of gpt: did you mean 'entropy'?\n"});

SAYS(options_of_the_past_are_checked,
     {"history gpt --run XY", 2,
      "attnctl: --run: 'XY': not accepted (valid: the first of its 32 hexadecimal "
      "digits) (see attnctl history --help)\n"},
     {"history gpt --from -1", 2,
      "attnctl: --from: '-1': not accepted (valid: a whole number) (see attnctl history --help)\n"},
     {"history gpt --head x", 2,
      "attnctl: --head: 'x': not accepted (valid: 0 to 1048575) (see attnctl history --help)\n"},
     {"history", 2, "attnctl: JOB is missing; usage: attnctl history JOB [OPTIONS]\n"},
     {"history gpt --all", 2,
      "attnctl: --all is not an option of history (see attnctl history --help)\n"});

SAYS(a_run_is_an_option_beside_its_job,
     {"alerts --run ab", 2, "attnctl: --run needs a job: attnctl alerts JOB --run ab\n"},
     {"top --run ab", 2, "attnctl: --run needs a job: attnctl top JOB --run ab\n"},
     {"alerts gpt/ab", 2,
      "attnctl: 'gpt/ab': not a job; its run is an option: attnctl alerts gpt --run ab\n"},
     {"roles gpt/", 2,
      "attnctl: 'gpt/': not a job; its run is an option: attnctl roles gpt --run RUN\n"});

/* alerts -----------------------------------------------------------------------------------------
 */

SAYS(something_firing_is_bad_news,
     {"alerts gpt", 1,
      "SEVERITY  RUN       RULE              WHERE              STATE   VALUE    BOUND  SINCE\n"
      "critical  ab000000  entropy_collapse  decoder.3.self.h2  firing  0.03125  0.1    between "
      "steps 1100 and 1150\n"
      "\n"
      "entropy of head 2 is low\n"});

SAYS(an_alert_that_fired_at_the_end_is_bad_news,
     {"alerts dead", 1,
      "SEVERITY  RUN       RULE              WHERE              STATE          VALUE    BOUND  "
      "SINCE\n"
      "critical  ab000000  entropy_collapse  decoder.3.self.h2  firing at end  0.03125  0.1    "
      "between steps 1100 and 1150\n"
      "\n"
      "entropy of head 2 is low\n"});

SAYS(calm_is_good_news,
     {"alerts calm", 0,
      "nothing is firing; attnctl alerts --all shows earlier ones\n"
      "12 checks passed; 2 not measured:\n"
      "  head_twins: needs matrices\n"
      "  mine\n"},
     {"alerts again", 0, /* what fires is of an earlier run */
      "nothing is firing; attnctl alerts --all shows earlier ones\n"
      "No rule is in force: alerts are switched off, or none is of this job\n"
      "1 fired at the end of runs of a job of which another goes on or ended later\n"},
     {"alerts again --json >/dev/null", 0, ""},
     {"alerts calm --all", 0,
      "nothing is firing\n"
      "12 checks passed; 2 not measured:\n"
      "  head_twins: needs matrices\n"
      "  mine\n"
      "SEVERITY  RUN       RULE     WHERE    STATE     VALUE  BOUND  SINCE\n"
      "warning   ab000000  silence  the run  resolved  -      0.1    between steps 1100 and 1150\n"
      "there are earlier ones: --count shows more\n"});

SAYS(alerts_of_all_jobs_name_the_job, {"alerts | cut -c1-41", 0,
                                       "SEVERITY  JOB  RUN       RULE            \n"
                                       "critical  gpt  ab000000  entropy_collapse\n"
                                       "warning   gpt  ab000000  silence         \n"
                                       "\n"
                                       "gpt: entropy of head 2 is low\n"
                                       "gpt: silent\n"});

SAYS(all_alerts_are_one_list_with_each_once, {"alerts --all | head -n 5 | cut -c1-41", 0,
                                              "SEVERITY  JOB  RUN       RULE            \n"
                                              "critical  gpt  ab000000  entropy_collapse\n"
                                              "warning   gpt  ab000000  silence         \n"
                                              "\n"
                                              "gpt: entropy of head 2 is low\n"});

/* compare ----------------------------------------------------------------------------------------
 */

SAYS(compare_ranks_heads, {"compare gpt/ab gpt/01 --count 1", 0,
                           "a: gpt, run abcdef01, 20 windows, 80 to 99\n"
                           "b: gpt, run 01234567, 20 windows, 80 to 99\n"
                           "\n"
                           "HEAD               DISTANCE  MOST BY   JS  MEAN A  MEAN B\n"
                           "decoder.3.self.h2      0.25  entropy  0.5     2.5    0.25\n"
                           "1 head only in b\n"
                           "there are more heads: --count shows them\n"});

SAYS(runs_that_are_alike_have_no_table, {"compare same same", 0,
                                         "a: gpt, run abcdef01, 20 windows, 80 to 99\n"
                                         "b: gpt, run 01234567, 20 windows, 80 to 99\n"
                                         "no head differs\n"
                                         "1 head only in b\n"
                                         "there are more heads: --count shows them\n"});

FAKE_TEST(a_difference_of_sampled_rows_has_a_standard_error)
{
    setenv("LC_ALL", "C", 1);
    fake_says(fake, "compare sampled sampled/01 | head -n 7", 0,
              "a: gpt, run abcdef01, 20 windows, 80 to 99, 80 of about 640 rows\n"
              "b: gpt, run 01234567, 20 windows, 80 to 99, 80 of about 640 rows\n"
              "of the rows taken; +-: standard error of B - A, at most; two samples of one head "
              "have a distance, too\n"
              "\n"
              "HEAD               DISTANCE  MOST BY   JS  MEAN A  MEAN B           B - A\n"
              "decoder.3.self.h2      0.25  entropy  0.5     2.5    0.25  -2.25 +- 0.012\n"
              "1 head only in b\n");
    unsetenv("LC_ALL");
}

SAYS_OF(what_compare_asks, answer_params,
        {"compare gpt/ab bert --metric entropi", 2,
         "attnctl: --metric: 'entropi': unknown: did you mean 'entropy'?\n"},
        {"compare gpt/ab bert --metric entropy", 1,
         "attnctl: attnd refused: {\"job\":\"gpt\",\"run\":\"ab\",\"job_b\":\"bert\","
         "\"metric\":\"entropy\",\"limit\":20} (echo)\n"},
        {"compare gpt/ g/x", 2,
         "attnctl: 'gpt/': not a run (valid: JOB, or JOB/RUN with the first digits of it)\n"},
        {"compare gpt bert/XYZ", 2,
         "attnctl: 'bert/XYZ': not a run (valid: JOB, or JOB/RUN with the first digits of it)\n"});

/* export -----------------------------------------------------------------------------------------
 */

#define ROW(last, values)                                                                          \
    "gpt,abcdef0123456789abcdef0123456789,epoch,2,1," last ",decoder,3,self,0,entropy," values "\n"

/* Three pages; `gone` has nothing, and is no reason to stop. */
SAYS(export_goes_from_page_to_page,
     {"export gpt --csv --head 0 --metric entropy --metric gone", 0,
      "job,run,unit,length,every,first_unit,last_unit,epoch,step,time_ns,partial,stack,"
      "layer,site,head,metric,mean,std,min,max,p10,p50,p90,p99,last,count\n" ROW(
          "4,5,5,50,5,false", "0,0,2,3,4,5,6,7,8,9")
          ROW("5,6,6,60,6,false", ",,2.125,3.125,4.125,5.125,6.125,7.125,8.125,9.125")
              ROW("6,7,7,70,7,true", "0.25,0.25,2.25,3.25,4.25,5.25,6.25,7.25,8.25,9.25")
                  ROW("7,8,8,80,8,true", "0,0,2,3,4,5,6,7,8,9")});

SAYS(export_as_json_is_an_object_per_line,
     {"export gpt --json --head 0 --metric entropy | head -n 2 | tail -n 1", 0,
      "{\"job\":\"gpt\",\"run\":\"abcdef0123456789abcdef0123456789\",\"unit\":\"epoch\","
      "\"length\":2,\"every\":1,\"first_unit\":5,\"last_unit\":6,\"epoch\":6,\"step\":60,"
      "\"time_ns\":6,\"partial\":false,\"stack\":\"decoder\",\"layer\":3,\"site\":"
      "\"self\",\"head\":0,\"metric\":\"entropy\",\"mean\":null,\"std\":null,"
      "\"min\":2.125,\"max\":3.125,\"p10\":4.125,\"p50\":5.125,\"p90\":6.125,\"p99\":7."
      "125,\"last\":8.125,\"count\":9.125}\n"});

SAYS(export_needs_a_format_and_a_metric,
     {"export gpt", 2, "attnctl: give --csv or --json (one object per line)\n"},
     {"export gpt --json --metric nothing", 2,
      "attnctl: --metric: 'nothing': not in run abcdef01 of gpt (valid: entropy, gone, "
      "sink_rate)\n"},
     {"export gpt --json --metric entrpy", 2,
      "attnctl: --metric: 'entrpy': not in run abcdef01 of gpt: did you mean 'entropy'?\n"});

SAYS(without_a_window_no_metric_is_unknown,
     {"export young --csv", 1, "attnctl: run abcdef01 of young has no window yet\n"},
     {"export young --csv --metric nothing", 1,
      "attnctl: run abcdef01 of young has no window yet\n"},
     {"history young --metric nothing", 1, "attnctl: run abcdef01 of young has no window yet\n"});

/* runs -------------------------------------------------------------------------------------------
 */

SAYS(runs_are_listed, {"runs gpt", 0,
                       "JOB       RUN  STATE             FIRST              LAST  EPOCH  STEP\n"
                       "gpt  abcdef01  ended  2023-11-14 22:13  2023-11-14 23:13      9   900\n"});

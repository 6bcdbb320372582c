/* SPDX-License-Identifier: MIT */
/* Plans, alone and through a publisher whose daemon is a bare SUB. */
#include "tests/unit/proto/support.h"

#include "clients/c/src/plan.h"
#include "tests/unit/clients_c/publishing.h"

#include <time.h>

static const struct plan_requests nothing = {ATTN_UNSAID, ATTN_UNSAID, ATTN_UNSAID};

static void plan_add(struct prefixes *prefixes, const char *prefix)
{
    char notice[PLAN_PREFIX_MAX + 64] = "\x01";

    memcpy(notice + 1, prefix, strlen(prefix));
    assert_true(prefixes_apply(prefixes, notice, 1 + strlen(prefix)));
}

static bool plan_choose_for(const struct prefixes *prefixes, const struct plan_requests *own,
                            attn_plan *ret_plan)
{
    uint64_t malformed;

    return plan_choose(prefixes, "gpt-small", own, ret_plan, &malformed);
}

/* The plan that holds when the daemon says this. */
static attn_plan test_plan_of(const char *prefix)
{
    OWNED(prefixes_clear) struct prefixes plans = {0};
    attn_plan plan;

    plan_add(&plans, prefix);
    assert_true(plan_choose_for(&plans, &nothing, &plan));
    return plan;
}

static bool test_plan_takes(const char *layers, enum stack stack, uint32_t layer, enum site site)
{
    char prefix[PLAN_PREFIX_MAX];
    attn_plan plan;

    snprintf(prefix, sizeof prefix, "plan/0/*/layers=%s", layers);
    plan = test_plan_of(prefix);
    return plan_takes_layer(&plan, (struct layer_id){stack, layer, site});
}

static bool plan_matches(const char *pattern, const char *text)
{
    return plan_glob(pattern, strlen(pattern), text, strlen(text));
}

TEST(patterns_match_as_in_a_shell)
{
    assert_true(plan_matches("gpt-*", "gpt-small") && plan_matches("*", "") &&
                plan_matches("a*b*c", "axxbyyc"));
    assert_true(plan_matches("?pt", "gpt") && plan_matches("[a-h]pt", "gpt") &&
                plan_matches("[!a-f]pt", "gpt"));
    assert_true(plan_matches("[]x]", "]") && plan_matches("[", "[") && plan_matches("a[b", "a[b"));
    assert_true(plan_matches("[a-]", "-") && plan_matches("*.*", "a.b") &&
                plan_matches("[!]]", "a"));
    assert_false(plan_matches("gpt-*", "gpt") || plan_matches("?", "") ||
                 plan_matches("[!a-h]pt", "gpt"));
    assert_false(plan_matches("a*b", "abc") || plan_matches("", "a") || plan_matches("[z-a]", "m"));
}

/* The same pattern test_plan_takes exponential time where every star is tried again. */
TEST(a_pattern_of_stars_takes_no_time)
{
    char text[129];
    clock_t begin = clock();

    memset(text, 'a', 128);
    text[128] = '\0';
    for (int i = 0; i < 1000; i++) {
        assert_false(
            plan_matches("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*ab", text));
    }
    assert_true(clock() - begin < 2 * CLOCKS_PER_SEC);
}

TEST(every_setting_is_read)
{
    attn_plan plan = test_plan_of("plan/7/gpt-*/every=10;layers=decoder.*.self encoder.?.*;"
                                  "heads=9,0-3,2-5,7;samples=2;rows=64;colour=blue;");

    assert_int_equal(plan.every, 10);
    assert_int_equal(plan.samples, 2);
    assert_int_equal(plan.rows, 64);
    assert_int_equal(plan.range_count, 3);
    assert_int_equal(plan.ranges[0].first, 0);
    assert_int_equal(plan.ranges[0].last, 5);
    assert_int_equal(plan.ranges[1].first, 7);
    assert_int_equal(plan.ranges[2].last, 9);
    assert_string_equal(plan.layers, "decoder.*.self encoder.?.*");
    assert_true(plan_takes_step(&plan, 0) && plan_takes_step(&plan, 20));
    assert_false(plan_takes_step(&plan, 19));
}

TEST(what_a_plan_does_not_say_is_everything)
{
    attn_plan plan = test_plan_of("plan/0/*/"), everything;

    attn_plan_default(&everything);
    assert_memory_equal(&plan, &everything, sizeof plan);
    assert_int_equal(plan.every, 1);
    assert_int_equal(plan.range_count + plan.samples + plan.rows, 0);
    plan = test_plan_of("plan/0/*/every=0");
    assert_false(plan_takes_step(&plan, 0));
}

TEST(layers_match_one_of_the_patterns)
{
    assert_true(test_plan_takes("decoder.*.self", STACK_DECODER, 12, SITE_SELF));
    assert_true(
        test_plan_takes("encoder.0.self  decoder.[0-2].cross", STACK_DECODER, 2, SITE_CROSS));
    assert_false(test_plan_takes("decoder.*.self", STACK_DECODER, 12, SITE_CROSS));
    assert_false(test_plan_takes("decoder.1.self", STACK_DECODER, 12, SITE_SELF));
}

TEST(a_malformed_plan_is_ignored_as_a_whole)
{
    static const char *const bad[] = {
        "plan/",
        "plan/0",
        "plan/0/*",
        "plan//*/every=1",
        "plan/1000000/*/",
        "plan/-1/*/",
        "plan/0//every=1",
        "plan/0/*/every=x",
        "plan/0/*/every=",
        "plan/0/*/every",
        "plan/0/*/every=-1",
        "plan/0/*/every=1000000001",
        "plan/0/*/heads=",
        "plan/0/*/rows=1.5",
        "plan/0/*/heads=3-1",
        "plan/0/*/heads=1,,2",
        "plan/0/*/heads=1-",
        "plan/0/*/layers=",
        "plan/0/*/layers=  ",
        "plan/0/*/every=5;samples=\x01",
    };
    OWNED(prefixes_clear) struct prefixes plans = {0};
    uint64_t malformed;
    attn_plan plan;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        plan_add(&plans, bad[i]);
        assert_false(plan_choose(&plans, "gpt-small", &nothing, &plan, &malformed));
        assert_int_equal(malformed, i + 1);
    }
}

TEST(plans_of_other_jobs_are_left_out)
{
    OWNED(prefixes_clear) struct prefixes plans = {0};
    uint64_t malformed;
    attn_plan plan;

    plan_add(&plans, "plan/0/bert/every=nonsense");
    assert_false(plan_choose(&plans, "gpt-small", &nothing, &plan, &malformed));
    assert_int_equal(malformed, 0);
}

/* Among plans of equal order, the one that captures most often, then the smaller text. */
TEST(the_lowest_order_holds_alone)
{
    OWNED(prefixes_clear) struct prefixes plans = {0};
    attn_plan plan;

    plan_add(&plans, "plan/999999/*/every=50;samples=1");
    plan_add(&plans, "plan/3/gpt-*/every=0");
    plan_add(&plans, "plan/3/gpt-*/every=7;rows=2");
    plan_add(&plans, "plan/3/gpt-*/every=7;rows=1");
    plan_add(&plans, "plan/3/gpt-*/every=9");
    assert_true(plan_choose_for(&plans, &nothing, &plan));
    assert_int_equal(plan.every, 7);
    assert_int_equal(plan.rows, 1);
    assert_int_equal(plan.samples, 0);
    assert_true(prefixes_apply(&plans, LITERAL("\0plan/3/gpt-*/every=7;rows=1")));
    assert_true(plan_choose_for(&plans, &nothing, &plan));
    assert_int_equal(plan.rows, 2);
}

TEST(the_jobs_wishes_go_before_the_default_only)
{
    const struct plan_requests own = {5, ATTN_UNSAID, 8};
    OWNED(prefixes_clear) struct prefixes plans = {0};
    attn_plan plan;

    assert_false(plan_choose_for(&plans, &own, &plan));
    assert_int_equal(plan.every, 5);
    plan_add(&plans, "plan/999999/*/every=50;samples=1;rows=3");
    assert_true(plan_choose_for(&plans, &own, &plan));
    assert_int_equal(plan.every, 5);
    assert_int_equal(plan.samples, 1);
    assert_int_equal(plan.rows, 8);
    plan_add(&plans, "plan/999998/gpt-small/every=200;samples=1;rows=3");
    assert_true(plan_choose_for(&plans, &own, &plan));
    assert_int_equal(plan.every, 5);
    assert_int_equal(plan.rows, 8);
    assert_true(plan_choose_for(&plans, &nothing, &plan));
    assert_int_equal(plan.every, 200);
    plan_add(&plans, "plan/999997/*/every=2");
    assert_true(plan_choose_for(&plans, &own, &plan));
    assert_int_equal(plan.every, 2);
    assert_int_equal(plan.rows, 0);
}

TEST(a_prefix_that_is_too_long_is_no_plan)
{
    OWNED(prefixes_clear) struct prefixes plans = {0};
    char prefix[PLAN_PREFIX_MAX + 2];
    uint64_t malformed;
    attn_plan plan;

    memset(prefix, ' ', sizeof prefix);
    memcpy(prefix, LITERAL("plan/0/*/layers=*"));
    prefix[PLAN_PREFIX_MAX + 1] = '\0';
    plan_add(&plans, prefix);
    assert_false(plan_choose(&plans, "job", &nothing, &plan, &malformed));
    assert_int_equal(malformed, 1);
    prefix[PLAN_PREFIX_MAX] = '\0';
    plan_add(&plans, prefix);
    assert_true(plan_choose(&plans, "job", &nothing, &plan, &malformed));
}

TEST(as_many_ranges_as_a_prefix_holds_are_read)
{
    char prefix[PLAN_PREFIX_MAX + 64] = "plan/0/*/heads=0";
    size_t len = strlen(prefix);
    attn_plan plan;

    for (int head = 2; len < PLAN_PREFIX_MAX - 5; head += 2) {
        len += (size_t)snprintf(prefix + len, sizeof prefix - len, ",%d", head);
    }
    plan = test_plan_of(prefix);
    assert_in_range(plan.range_count, 250, ATTN_PLAN_RANGES_MAX);
}

/* The Python client goes by the same table. */
TEST(the_table_of_rows)
{
    char text[256];
    int lines = 0;
    FILE *table = fopen(GOLDEN_DIR "/rows.txt", "r");

    assert_non_null(table);
    for (; fgets(text, sizeof text, table); lines++) {
        uint64_t in[4], out[3];
        uint32_t first, stride, count;
        attn_plan plan;
        char *at = text;

        if (*text == '#') {
            continue;
        }
        for (int i = 0; i < 7; i++) {
            *(i < 4 ? &in[i] : &out[i - 4]) = strtoull(at, &at, 10);
        }
        attn_plan_default(&plan);
        plan.rows = (uint32_t)in[0];
        plan.every = (uint32_t)in[1];
        count = attn_plan_rows(&plan, in[2], (uint32_t)in[3], &first, &stride);
        assert_int_equal(first, out[0]);
        assert_int_equal(stride, out[1]);
        assert_int_equal(count, out[2]);
    }
    fclose(table);
    assert_true(lines > 40);
}

/* ---- through a publisher ---- */

static void wait_for_every(attn_publisher *publisher, const struct peer *peer, uint32_t every)
{
    uint64_t deadline = now_ms() + PEER_WAIT_MS;
    attn_plan plan;

    do {
        assert_true(now_ms() < deadline);
        peer_service(peer);
        rest();
        attn_publisher_plan(publisher, &plan);
    } while (plan.every != every);
}

static bool plan_wants(attn_publisher *publisher, uint64_t step, uint32_t layer)
{
    attn_set_position(publisher, 0, step);
    return attn_publisher_wants(publisher, ATTN_DECODER, layer, ATTN_SELF);
}

TEST(wanting_obeys_the_plan_and_publishing_does_not)
{
    OWNED(pair_close)
    struct pairing pair =
        PAIR("tensor/", "plan/999999/*/every=50", "plan/0/un*/every=10;layers=decoder.1.*");
    attn_plan plan;

    wait_for_every(pair.publisher, &pair.peer, 10);
    assert_int_equal(attn_publisher_plan(pair.publisher, &plan), 0);
    assert_true(plan_wants(pair.publisher, 0, 1) && plan_wants(pair.publisher, 30, 1));
    assert_false(plan_wants(pair.publisher, 31, 1) || plan_wants(pair.publisher, 30, 0));
    attn_set_position(pair.publisher, 0, 31);
    assert_int_equal(publish(pair.publisher, 0), 0);
    expect_tensor(&pair.peer, 0, 0);
}

/* Whatever happens in between, some plan holds: the new one comes before the old one goes. */
TEST(a_plan_may_change_while_the_job_runs)
{
    OWNED(pair_close) struct pairing pair = PAIR("tensor/");
    attn_plan plan;

    assert_int_equal(attn_publisher_plan(pair.publisher, &plan), ATTN_SKIPPED);
    assert_true(plan_wants(pair.publisher, 7, 0));
    peer_subscribe(&pair.peer, "plan/0/unit/every=10");
    wait_for_every(pair.publisher, &pair.peer, 10);
    assert_false(plan_wants(pair.publisher, 7, 0));
    peer_subscribe(&pair.peer, "plan/0/unit/every=7");
    wait_for_every(pair.publisher, &pair.peer, 7);
    peer_unsubscribe(&pair.peer, "plan/0/unit/every=10");
    peer_unsubscribe(&pair.peer, "plan/0/unit/every=7");
    wait_for_every(pair.publisher, &pair.peer, 1);
    assert_int_equal(attn_publisher_plan(pair.publisher, &plan), ATTN_SKIPPED);
}

TEST(the_plan_ends_with_its_daemon)
{
    struct peer peer = peer_open(ZMQ_SUB, NULL, 0);
    attn_publisher_options options = options_for(peer.endpoint);
    attn_publisher *publisher;
    char endpoint[sizeof peer.endpoint];
    struct peer next;

    options.every = 3;
    publisher = publisher_with(&options);
    peer_subscribe(&peer, "tensor/");
    peer_subscribe(&peer, "plan/5/unit/every=10");
    wait_for_every(publisher, &peer, 10);
    strcpy(endpoint, peer.endpoint);
    peer_close(&peer);
    wait_until_wanted(publisher, NULL, 0, false);
    next = peer_open(ZMQ_SUB, endpoint, 0);
    peer_subscribe(&next, "tensor/");
    wait_until_wanted(publisher, &next, 0, true);
    wait_for_every(publisher, &next, 3);
    attn_publisher_free(&publisher);
    peer_close(&next);
}

/* With the longest prefix: it must get through the bound on what comes in. */
TEST(plans_that_cannot_be_used_are_counted)
{
    OWNED(peer_close) struct peer peer = peer_open(ZMQ_SUB, NULL, 0);
    OWNED(attn_publisher_free) attn_publisher *publisher = publisher_for(&peer);
    uint64_t deadline = now_ms() + PEER_WAIT_MS;
    char longest[PLAN_PREFIX_MAX + 1] = "plan/1/unit/every=4;layers=*";

    memset(longest + strlen(longest), '*', PLAN_PREFIX_MAX - strlen(longest));
    longest[PLAN_PREFIX_MAX] = '\0';
    peer_subscribe(&peer, "tensor/");
    peer_subscribe(&peer, "plan/0/unit/every=often");
    peer_subscribe(&peer, longest);
    wait_for_every(publisher, &peer, 4);
    while (checked_counts(publisher).bad_plans == 0) {
        assert_true(now_ms() < deadline);
        rest();
    }
    assert_int_equal(checked_counts(publisher).bad_plans, 1);
}

/* SPDX-License-Identifier: MIT */
/* attnctl fleet against a fake attnd of each role. */
#include "tests/unit/cli/fake.h"
#include "tests/unit/fleet_example.h"

static void (*fleet_put)(struct mpk_writer *writer); /* set before the fake starts */

static void fleet_answer(const struct fake *fake, const char *method, uint64_t id,
                         const msgpack_object *params, struct mpk_writer *reply)
{
    (void)fake, (void)method, (void)params;
    fake_put_ok(reply, id);
    fleet_put(reply);
}

static void fleet_assert_says(void (*put)(struct mpk_writer *writer), const char *arguments,
                              int status, const char *text)
{
    OWNED(fake_stop) struct fake fake;
    fleet_put = put;
    fake_start(&fake, fleet_answer);
    attnctl_finish(attnctl_start(fake.endpoint, arguments), status, text);
}

TEST(an_attnd_alone_says_how_to_begin)
{
    fleet_assert_says(
        fleet_example_off, "fleet", 0,
        "this attnd is alone; for one view of many machines set fleet.role to node on\n"
        "each of them and to hub on one more attnd, and fleet.url to NATS servers for all\n");
    fleet_assert_says(fleet_example_off, "fleet --json", 0, "{\n  \"role\": \"off\"\n}\n");
}

TEST(a_node_that_is_cut_off_is_a_finding)
{
    fleet_assert_says(
        fleet_example_node, "fleet", 1,
        "node rank-a, id 00112233aabbccdd\n"
        "nats://rack:4222 cannot be reached (no server answers); attnd tries again\n"
        "outbox: 120 rows (24.0 MiB), 3 not sent yet (600.0 KiB), the oldest for 12.5 s\n"
        "sent: 4711 rows, 5 re-sent; lost before that: 2\n"
        "refused by the hub: window.buckets is 8, the hub's first node has 32\n");
}

TEST(a_hub_marks_nodes_and_names_who_is_missing)
{
    fleet_assert_says(
        fleet_example_hub, "fleet", 1,
        "hub head, id 00112233aabbccdd\n"
        "nats://rack:4222: connected\n"
        "parts: 40960 (3.4 GiB), 1 message waiting in the stream\n"
        "windows: 960 merged, 12 corrected\n"
        "3 messages set aside: unreadable, or of runs that there is no room for\n"
        "rank-d has windows of 10 steps every 5, this hub has none\n"
        "\n"
        "NODE        STATE       HEARD  BEHIND  UNSENT  LOST  LACKING      CLOCK\n"
        "! rank-b   silent  1 min 35 s       3      12     4        7  -3600.0 s\n"
        "! rank-c  refused       1.5 s       0       0     0        0     +0.2 s\n"
        "! rank-d  trouble       1.5 s       0       0     0        0     +0.0 s\n"
        "  rank-a       ok           -       0       0     0        0          -\n"
        "rank-c is refused: window.buckets is 8, the hub's first node has 32\n"
        "rank-d is in trouble: its history cannot be written: database or disk is full\n"
        "\n"
        "gpt-small, run abcdef01, active: 3 of 4 ranks on 2 nodes\n"
        "! 1 of 4 ranks not heard of yet\n"
        "! rank 1 of rank-b is odd in 3 of 4 layers\n"
        "! and 17 more\n"
        "  see: attnctl ranks gpt-small --run abcdef01\n"
        "  the window that ends at step 399 waits for rank-b\n"
        "! the window that ends at step 299 is without rank-b (silent), rank-c (refused)\n"
        "! 2 windows that end at step 99 to 199 are without rank-b (silent)\n"
        "\n"
        "and 2 more runs\n");
}

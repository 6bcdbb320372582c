/* SPDX-License-Identifier: MIT */
/* Nodes that speak and keep silent, and the windows that a hub makes of them. */
#include "tests/unit/daemon/fleet/fixture.h"

HUB_TEST(a_hub_has_the_windows_that_a_run_asks_for)
{
    place->config.window_length = place->config.window_every = 5;
    asked = (struct own_window){WINDOW_STEP, 2};
    for (uint64_t part = 0; part < 2; part++) {
        send_windows(place, part);
        assert_int_equal(merge_all(place), part + 1); /* again, what the loop may not have kept */
        const struct merged *merged = place->merged[place->merged_count - 1];
        assert_int_equal(merged->own_window.length, 2);
        assert_int_equal(merged->part, part);
        reopen_hub(place); /* what it knows of the run is in its file */
    }
    assert_int_equal(place->hub.counts[HUB_WINDOWS_UNKNOWN], 0);
}

HUB_TEST(windows_are_the_merge_of_their_parts)
{
    for (uint64_t part = 0; part < 3; part++) {
        for (uint32_t node = 0; node < NODES; node++) {
            assert_int_equal(merge_all(place), 0);
            send_window(place, node, part);
        }
        assert_int_equal(merge_all(place), 1);
        struct merged *merged = place->merged[part];
        struct layer_state *wanted = layer_state_new(HEADS, BUCKETS), *states[NODES];
        for (uint32_t node = 0; node < NODES; node++) {
            states[node] = new_state(node, part, HEADS, BUCKETS);
        }
        assert_int_equal(
            layer_state_merge_all(wanted, (const struct layer_state *const *)states, NODES), 0);
        struct mpk_writer got, want;
        mpk_writer_init(&got);
        mpk_writer_init(&want);
        assert_int_equal(layer_state_pack(merged->layers[0].state, &got), 0);
        assert_int_equal(layer_state_pack(wanted, &want), 0);
        assert_int_equal(got.buffer.size, want.buffer.size);
        assert_memory_equal(got.buffer.data, want.buffer.data, want.buffer.size);
        assert_int_equal(merged->part, part);
        assert_int_equal(merged->nodes, NODES);
        assert_int_equal(merged->rank_count, NODES);
        assert_int_equal(merged->missing_count, 0);
        assert_false(merged->partial);
        assert_int_equal(merged->processed, 4 * NODES);
        mpk_writer_clear(&got);
        mpk_writer_clear(&want);
        layer_state_free(&wanted);
        for (uint32_t node = 0; node < NODES; node++) {
            layer_state_free(&states[node]);
        }
    }
    for (uint32_t node = 0; node < NODES; node++) {
        send_end(place, node);
    }
    assert_int_equal(merge_all(place), 1);
    assert_int_equal(place->merged[3]->state, JOB_ENDED);
    assert_false(place->merged[3]->has_window);
    assert_int_equal(merge_all(place), 0);
}

HUB_TEST(late_parts_correct_a_window)
{
    send_windows(place, 0);
    assert_int_equal(merge_all(place), 1);
    send_window(place, 0, 1);
    send_window(place, 1, 1);
    assert_int_equal(merge_all(place), 0);
    pass_time(place, place->config.window_timeout + SECOND); /* the third is silent */
    assert_int_equal(merge_all(place), 1);
    assert_int_equal(place->merged[1]->missing_count, 1);
    assert_true(place->merged[1]->partial);
    send_window(place, 2, 1);
    assert_int_equal(merge_all(place), 0); /* more may come */
    pass_time(place, 2 * SECOND);
    assert_int_equal(merge_all(place), 1);
    assert_int_equal(place->merged[2]->revision, 1);
    assert_int_equal(place->merged[2]->nodes, NODES);
    assert_int_equal(place->merged[2]->missing_count, 0);
    assert_false(place->merged[2]->partial);
}

HUB_TEST(that_windows_are_partial_is_in_the_file)
{
    for (uint32_t node = 0; node < NODES; node++) {
        send_closed(place, node, 0);
    }
    assert_false(place->hub.runs->has_partial);
    assert_int_equal(merge_all(place), 1); /* it lacks the state of each of them */
    assert_true(place->hub.runs->has_partial);
    reopen_hub(place);
    assert_true(place->hub.runs->has_partial);
}

/* Nobody was heard: it was the hub that was cut off, and no node is silent. */
HUB_TEST(all_are_waited_for_after_a_silence_of_all)
{
    send_windows(place, 0);
    assert_int_equal(merge_all(place), 1);
    pass_time(place, 2 * place->config.window_timeout);
    send_window(place, 0, 1);
    send_window(place, 1, 1);
    assert_int_equal(merge_all(place), 0);
    send_window(place, 2, 1);
    assert_int_equal(merge_all(place), 1);
    assert_int_equal(place->merged[1]->missing_count, 0);
}

HUB_TEST(it_goes_on_from_its_file)
{
    send_window(place, 0, 0);
    send_window(place, 1, 0);
    reopen_hub(place);
    assert_int_equal(merge_all(place), 0);
    send_window(place, 2, 0);
    assert_int_equal(merge_all(place), 1);
    reopen_hub(place);
    assert_int_equal(merge_all(place), 1); /* the loop may not have kept it */
    assert_int_equal(place->merged[1]->revision, 0);
    assert_int_equal(place->merged[1]->nodes, NODES);
}

HUB_TEST(a_window_that_is_not_taken_comes_again)
{
    send_windows(place, 0);
    merge_until_idle(place);
    assert_int_equal(place->merged_count, 1);
    place->merged[0]->code = ERR_MEMORY;
    hub_merge_done(&place->hub, place->merged[0]);
    assert_int_equal(merge_all(place), 0);
    pass_time(place, 2 * SECOND);
    assert_int_equal(merge_all(place), 1);
    assert_int_equal(place->merged[1]->revision, 0);
}

HUB_TEST(what_cannot_be_merged_is_set_aside)
{
    struct hub *hub = &place->hub;
    send_part_of(place, 0, 0, HEADS, BUCKETS);
    send_part_of(place, 0, 1, HEADS + 1, BUCKETS);
    assert_int_equal(hub->counts[HUB_POISONED], 1);
    send_row(place, 0, ++place->seq[0], "\x80", 1, 1, 1);
    send_row(place, 0, ++place->seq[0], "no map at all", 13, 1, 1);
    send_row(place, 0, ++place->seq[0], "", 0, 1, 1);
    assert_int_equal(hub->counts[HUB_POISONED], 4);
    assert_int_equal(seen_low(&hub->nodes->seen), place->seq[0]); /* they are not asked for */
    send_part_of(place, 2, 0, HEADS, BUCKETS / 2);
    send_closed(place, 2, 0);
    assert_int_equal(hub->counts[HUB_POISONED], 4);
    send_closed(place, 0, 0);
    pass_time(place, place->config.window_rank_grace + SECOND);
    assert_int_equal(merge_all(place), 1);
    assert_int_equal(place->merged[0]->nodes, 1);
    assert_int_equal(place->merged[0]->missing_count, 1);
    assert_non_null(strstr(place->merged[0]->missing[0].reason, "buckets"));
}

HUB_TEST(rows_that_are_gone_are_not_waited_for)
{
    struct hub_message gone = {.node = {1}, .instance = {1}, .gone = {1, 2}};
    for (uint32_t node = 0; node < NODES; node++) {
        place->seq[node] += node == 0 ? 2 : 0; /* its window 0 never comes */
        if (node > 0) {
            send_window(place, node, 0);
        }
        send_window(place, node, 1);
    }
    assert_int_equal(merge_all(place), 0);
    assert_int_equal(hub_take(&place->hub, &gone), HUB_TAKE);
    assert_int_equal(place->hub.counts[HUB_GONE], 2);
    assert_int_equal(merge_all(place), 2);
    assert_int_equal(place->merged[0]->part, 0);
    assert_int_equal(place->merged[0]->missing_count, 1);
    assert_int_equal(place->merged[1]->missing_count, 0);
}

/* The answer to a beat of the node: "" when it is welcome. `known` says whether it is one
 * of the hub's nodes. */
static const char *answer_to(struct place *place, uint8_t node, const struct fleet_beat *beat,
                             bool known)
{
    const uint8_t id[FLEET_ID_BYTES] = {node};
    const char *refused = NULL;
    assert_int_equal(hub_take_beat(&place->hub, id, beat, &refused) != NULL, known);
    return refused;
}

HUB_TEST(a_copy_of_a_node_is_refused)
{
    msgpack_object none = {.type = MSGPACK_OBJECT_ARRAY};
    struct fleet_beat beat = {.instance = {1}, .name = "first", .runs_found = &none};
    struct hub_message copy = {
        .node = {1}, .instance = {9}, .seq = 5, .piece = 1, .pieces = 1, .data = "", .size = 0};
    assert_string_equal(answer_to(place, 1, &beat, true), "");
    assert_int_equal(hub_take(&place->hub, &copy), HUB_LATER);
    beat.instance[0] = 9;
    assert_non_null(strstr(answer_to(place, 1, &beat, false), "first"));
    pass_time(place, HUB_GONE_NS);
    assert_int_equal(hub_take(&place->hub, &copy), HUB_TAKE);
}

HUB_TEST(a_node_that_was_started_again_is_no_copy)
{
    msgpack_object none = {.type = MSGPACK_OBJECT_ARRAY};
    struct fleet_beat beat = {.instance = {1}, .file = 5, .runs_found = &none};
    answer_to(place, 1, &beat, true);
    beat.instance[0] = 2;
    beat.file = 6;
    answer_to(place, 1, &beat, false);
    beat.file = 5;
    assert_string_equal(answer_to(place, 1, &beat, true), "");
}

HUB_TEST(a_node_is_refused_while_the_run_goes_on_there)
{
    msgpack_object run[4] = {{.type = MSGPACK_OBJECT_BIN}}, runs = {.type = MSGPACK_OBJECT_ARRAY};
    run[0].via.bin.ptr = (const char *)run_id;
    run[0].via.bin.size = RUN_BYTES;
    for (int i = 1; i < 4; i++) {
        run[i].type = MSGPACK_OBJECT_POSITIVE_INTEGER;
    }
    msgpack_object one = {.type = MSGPACK_OBJECT_ARRAY};
    one.via.array.ptr = run;
    one.via.array.size = 4;
    runs.via.array.ptr = &one;
    runs.via.array.size = 1;
    struct fleet_beat beat = {.instance = {3}, .runs_found = &runs};
    send_part_of(place, 0, 0, HEADS, BUCKETS);
    send_part_of(place, 2, 0, HEADS, 2 * BUCKETS);
    assert_non_null(strstr(answer_to(place, 3, &beat, true), "window.buckets is 96 here and 48"));
    runs.via.array.size = 0;
    assert_string_equal(answer_to(place, 3, &beat, true), "");
}

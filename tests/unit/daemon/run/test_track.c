/* SPDX-License-Identifier: MIT */
/* Rules of the config as tracks, and the states of their parts. */
#include "tests/unit/unit.h"

#include "daemon/run/track.h"

struct track_fixture {
    struct config config;
    struct state_budget budget;
    struct stream *streams, *stream;
    struct track track;
};

static void track_start(struct track_fixture *f, const char *also, uint32_t index)
{
    char error[CONFIG_ERROR_MAX], setting[200];
    memset(f, 0, sizeof *f);
    config_defaults(&f->config);
    snprintf(setting, sizeof setting, "window.also=%s", also);
    assert_int_equal(config_set(&f->config, setting, error), 0);
    f->budget.limit = UINT64_C(1) << 30;
    f->stream = stream_add(&f->streams, (struct layer_id){STACK_DECODER, 3, SITE_CROSS}, 2, 1, 0);
    assert_non_null(f->stream);
    track_init(&f->track, &f->config, index, config_window(&f->config, index, 50), &f->budget, 0);
}

static void track_stop(struct track_fixture *f)
{
    track_fini(&f->track);
    stream_free_all(&f->streams, 1);
    assert_int_equal(f->budget.used, 0);
}

/* One message's worth of state in the part with this index. */
static struct layer_state *track_add(struct track_fixture *f, uint64_t index)
{
    struct window_part *part;
    struct layer_state *state;
    assert_int_equal(window_restore_part(&f->track.window, index, 0, &part), 0);
    assert_int_equal(track_state(&f->track, part, f->stream, &state), 0);
    state->messages++;
    return state;
}

TEST(a_track_is_named_after_its_rule)
{
    OWNED(track_stop) struct track_fixture f;
    track_start(&f, "[1000000 seconds every 500000]", 2);
    assert_int_equal(config_window_count(&f.config), 3);
    assert_string_equal(f.track.name, "second-1000000-500000");
    assert_int_equal(f.track.window.rule.part, 500000);
    track_stop(&f);
    track_start(&f, "[]", 1);
    assert_string_equal(f.track.name, "epoch-1-1");
    track_stop(&f);
    track_start(&f, "[]", 0);
    assert_string_equal(f.track.name, "step-800-800");
}

TEST(a_layer_is_found_again_by_its_number)
{
    OWNED(track_stop) struct track_fixture f;
    track_start(&f, "[]", 0);
    struct layer_id id = header_layer_of(f.stream->key);
    assert_int_equal(id.layer, 3);
    assert_int_equal(id.stack, STACK_DECODER);
    assert_int_equal(id.site, SITE_CROSS);
    assert_ptr_equal(stream_find(f.streams, id), f.stream);
    id.site = SITE_SELF;
    assert_null(stream_find(f.streams, id));
}

TEST(one_part_is_lent_and_several_are_merged)
{
    OWNED(track_stop) struct track_fixture f;
    const struct layer_state *found;
    OWNED(layer_state_free) struct layer_state *merged = NULL;
    track_start(&f, "[4 epochs every 1]", 2);
    struct layer_state *first = track_add(&f, 0);
    assert_int_equal(track_merge(&f.track, f.track.window.open, f.stream, &found, &merged), 0);
    assert_ptr_equal(found, first);
    assert_null(merged);
    track_add(&f, 1);
    track_add(&f, 2);
    const struct window_part *last = f.track.window.open->next->next;
    assert_int_equal(track_merge(&f.track, last, f.stream, &found, &merged), 0);
    assert_ptr_equal(found, merged);
    assert_int_equal(merged->messages, 3);
}

TEST(a_layer_without_messages_has_no_state)
{
    OWNED(track_stop) struct track_fixture f;
    const struct layer_state *found;
    struct layer_state *merged = NULL;
    track_start(&f, "[]", 0);
    track_add(&f, 0)->messages = 0;
    assert_int_equal(track_merge(&f.track, f.track.window.open, f.stream, &found, &merged), 0);
    assert_null(found);
}

TEST(states_are_charged_and_given_back)
{
    OWNED(track_stop) struct track_fixture f;
    struct layer_state *made;
    struct window_part *part;
    track_start(&f, "[]", 0);
    track_add(&f, 0);
    uint64_t used = f.budget.used;
    assert_true(used > 0);
    f.budget.limit = used;
    assert_int_equal(window_restore_part(&f.track.window, 1, 0, &part), 0);
    assert_int_equal(track_state(&f.track, part, f.stream, &made), ERR_STATE_LIMIT);
    track_free_parts(&f.track);
    assert_int_equal(f.budget.used, 0);
}

/* SPDX-License-Identifier: MIT */
/* Ranks that are odd, from window to window. */
#include "tests/unit/unit.h"

#include "daemon/fleet/hub_internal.h"

/* Windows of two rules have the same messages. */
TEST(a_rank_is_odd_in_a_row_in_windows_of_one_rule)
{
    static const uint32_t windows[] = {1, 1, 2, 2};
    struct hub_track tracks[2] = {{.row = 1}, {.row = 2}};
    struct hub_run run = {.tracks = tracks, .track_count = 2};
    struct hub_node node = {.row = 1};
    for (uint32_t i = 0; i < 4; i++) {
        struct hub_job job = {.run = &run, .track = i % 2};
        job.ranks = (struct hub_ranks){.layers = 1, .odd_count = 1};
        job.ranks.odd = calloc(1, sizeof *job.ranks.odd);
        assert_non_null(job.ranks.odd);
        *job.ranks.odd = (struct hub_odd){.rank = 3, .node = &node};
        hub_ranks_keep(&job, i / 2, i / 2);
        assert_int_equal(run.compared, i % 2);
        assert_int_equal(tracks[i % 2].ranks.odd->windows, windows[i]);
    }
    hub_ranks_clear(&tracks[0].ranks);
    hub_ranks_clear(&tracks[1].ranks);
}

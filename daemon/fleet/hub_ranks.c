/* SPDX-License-Identifier: MIT */
/* The ranks of all nodes, compared while their window is merged: asking for each layer of a run
 * later would read all its parts again. One odd window in one layer may be chance (odd_ranks.c says
 * how often), so that a rank is told of which is odd in two layers, or in two windows in a row. */
#include "daemon/fleet/hub_internal.h"
#include "daemon/state/layer_state.h"
#include "daemon/state/odd_ranks.h"
#include "proto/err.h"

#include <stdlib.h>

#define ODD_LISTED 16
#define ODD_TOLD   2

int hub_ranks_add(struct hub_job *job, int64_t node, const struct layer_state *state)
{
    struct hub_ranks_of *of = job->ranks_of;
    uint32_t count = job->ranks_of_count;
    if (count == 0 || of[count - 1].row != node) { /* they come node by node */
        of = realloc(of, (count + 1) * sizeof *of);
        if (!of) {
            return ERR_MEMORY;
        }
        of[count++] = (struct hub_ranks_of){.row = node};
        job->ranks_of = of;
        job->ranks_of_count = count;
    }
    return layer_state_ranks_entropy(state, state->heads, &of[count - 1].entropy);
}

static void hub_ranks_forget_layer(struct hub_job *job)
{
    for (uint32_t i = 0; i < job->ranks_of_count; i++) {
        rank_entropy_clear(&job->ranks_of[i].entropy);
    }
    job->ranks_of_count = 0;
}

static struct hub_odd *hub_ranks_find(const struct hub_ranks *ranks, uint32_t rank,
                                      const struct hub_node *node)
{
    for (uint32_t i = 0; i < ranks->odd_count; i++) {
        if (ranks->odd[i].rank == rank && ranks->odd[i].node == node) {
            return &ranks->odd[i];
        }
    }
    return NULL;
}

static int hub_ranks_note(struct hub_job *job, const struct odd_rank *rank, uint32_t key)
{
    struct hub_ranks *ranks = &job->ranks;
    const struct hub_member *member = hub_member_of(job->run, job->ranks_of[rank->node].row);
    if (!member) {
        return 0;
    }
    const struct hub_node *node = member->node;
    struct hub_odd *odd = hub_ranks_find(ranks, rank->means->rank, node);
    if (!odd) {
        odd = realloc(ranks->odd, (ranks->odd_count + 1) * sizeof *odd);
        if (!odd) {
            return ERR_MEMORY;
        }
        ranks->odd = odd;
        odd += ranks->odd_count++;
        *odd = (struct hub_odd){.rank = rank->means->rank, .node = node, .windows = 1};
    }
    odd->layers++;
    if (rank->distance > odd->distance) {
        odd->key = key;
        odd->head = rank->head;
        odd->distance = rank->distance;
    }
    return 0;
}

int hub_ranks_judge(struct hub_job *job, uint32_t key, uint32_t heads)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < job->ranks_of_count; i++) {
        count += job->ranks_of[i].entropy.count;
    }
    struct odd_rank *ranks = calloc(count + 1, sizeof *ranks);
    int code = ranks ? 0 : ERR_MEMORY;
    for (uint32_t i = 0, at = 0; i < job->ranks_of_count && !code; i++) {
        const struct rank_entropy *entropy = &job->ranks_of[i].entropy;
        for (uint32_t r = 0; r < entropy->count; r++) {
            ranks[at++] = (struct odd_rank){.means = &entropy->means[r], .node = i};
        }
    }
    code = code ? code : odd_ranks_judge(ranks, count, heads);
    bool compared = false;
    for (uint32_t i = 0; i < count && !code; i++) {
        compared = compared || ranks[i].distance >= 0; /* NaN: too few have its heads */
        code = ranks[i].odd ? hub_ranks_note(job, &ranks[i], key) : 0;
    }
    job->ranks.layers += compared;
    free(ranks);
    hub_ranks_forget_layer(job);
    return code;
}

static int hub_ranks_order(const void *a, const void *b)
{
    const struct hub_odd *x = a, *y = b;
    return (x->distance < y->distance) - (x->distance > y->distance);
}

void hub_ranks_keep(struct hub_job *job, uint64_t first, uint64_t last)
{
    struct hub_ranks *before = &job->run->tracks[job->track].ranks, *now = &job->ranks;
    if (now->layers == 0 || before->last > last) {
        return; /* nothing is known of it, or an old one was corrected */
    }
    now->first = first;
    now->last = last;
    job->run->compared = job->track;
    bool same = before->last == last;
    for (uint32_t i = 0; i < now->odd_count; i++) {
        const struct hub_odd *odd = hub_ranks_find(before, now->odd[i].rank, now->odd[i].node);
        now->odd[i].windows = odd ? odd->windows + !same : 1;
    }
    if (now->odd_count > 1) {
        qsort(now->odd, now->odd_count, sizeof *now->odd, hub_ranks_order);
    }
    hub_ranks_clear(before);
    *before = *now;
    *now = (struct hub_ranks){.layers = 0};
}

void hub_ranks_stop(struct hub_job *job)
{
    hub_ranks_forget_layer(job);
    free(job->ranks_of);
    job->ranks_of = NULL;
    hub_ranks_clear(&job->ranks);
}

void hub_ranks_clear(struct hub_ranks *ranks)
{
    free(ranks->odd);
    *ranks = (struct hub_ranks){.layers = 0};
}

static bool hub_ranks_tells(const struct hub_odd *odd)
{
    return odd->layers >= ODD_TOLD || odd->windows >= ODD_TOLD;
}

void hub_ranks_put(const struct hub_run *run, struct mpk_writer *writer)
{
    const struct hub_track *track = run->track_count ? &run->tracks[run->compared] : NULL;
    uint32_t told = 0;
    if (!track || track->ranks.layers == 0) {
        mpk_put_nil(writer);
        return;
    }
    const struct hub_ranks *ranks = &track->ranks;
    for (uint32_t i = 0; i < ranks->odd_count; i++) {
        told += hub_ranks_tells(&ranks->odd[i]);
    }
    mpk_put_map(writer, 8);
    mpk_pair_str(writer, "unit", window_unit_name(track->rule.unit));
    mpk_pair_u64(writer, "length", track->rule.length);
    mpk_pair_u64(writer, "every", track->rule.every);
    mpk_pair_u64(writer, "first", ranks->first);
    mpk_pair_u64(writer, "last", ranks->last);
    mpk_pair_u64(writer, "layers", ranks->layers);
    mpk_pair_u64(writer, "count", told);
    mpk_pair_array(writer, "odd", told < ODD_LISTED ? told : ODD_LISTED);
    for (uint32_t i = 0, listed = 0; i < ranks->odd_count && listed < ODD_LISTED; i++) {
        if (hub_ranks_tells(&ranks->odd[i])) {
            const struct hub_odd *odd = &ranks->odd[i];
            struct layer_id layer = header_layer_of(odd->key);
            mpk_put_map(writer, 9);
            mpk_pair_u64(writer, "rank", odd->rank);
            mpk_pair_str(writer, "node", odd->node->name);
            mpk_pair_u64(writer, "layers", odd->layers);
            mpk_pair_u64(writer, "windows", odd->windows);
            mpk_pair_str(writer, "stack", stack_name(layer.stack));
            mpk_pair_u64(writer, "layer", layer.layer);
            mpk_pair_str(writer, "site", site_name(layer.site));
            mpk_pair_u64(writer, "head", odd->head);
            mpk_pair_f64(writer, "distance", odd->distance);
            listed++;
        }
    }
}

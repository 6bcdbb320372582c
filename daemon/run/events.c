/* SPDX-License-Identifier: MIT */
#include "daemon/run/events.h"

#include "daemon/run/closing.h"

int events_take(struct run *run, struct message *message)
{
    const struct header *header = &message->header;
    uint64_t dropped = 0;
    int code = sequences_next(&run->events, message->rank_index, header->seq, header->dropped,
                              &message->losses);
    if (!code && !message->losses.found) { /* a late one tells an older total than is known */
        code = drop_totals_event(&run->drop_totals, message->rank_index, header->dropped_total,
                                 header->seq == 0, &dropped);
    }
    if (code) {
        return code;
    }
    message->losses.source += dropped;
    tally_losses(&run->counts.tally, &message->losses);
    run->found += message->losses.found;
    run->dirty = run->dirty || dropped > 0;
    for (uint32_t i = 0; header->event == EVENT_HELLO && i < header->layer_count && !code; i++) {
        struct stream *stream;
        code = header->layers[i].heads > run->config->limits_heads
                   ? ERR_HEADS_LIMIT
                   : run_stream(run, header->layers[i].id, header->layers[i].heads,
                                message->received_ns, &stream);
    }
    if (run->judge_losses && run_counts(run).tally.source > run->judged.tally.source) {
        closing_judge(run);
    }
    run->judge_losses = true;
    for (uint32_t t = 0; t < run->track_count; t++) {
        struct window *window = &run->tracks[t].window;
        if (header->event == EVENT_EPOCH_END) {
            window_epoch_end(window, message->rank_index, header->epoch);
        } else if (header->event == EVENT_BYE) {
            window_bye(window, message->rank_index, message->received_ns);
        }
    }
    if (!code) {
        run->counts.processed++;
    }
    return code;
}

int events_heed_bye(struct run *run, const struct message *message)
{
    static const struct sequences none;
    const struct header *header = &message->header;
    const struct window_rank *rank = &run->tracks[0].window.ranks[message->rank_index];
    if (!rank->bye && !rank->bye_ns) {
        return 0;
    }
    const struct stream *stream =
        header->type == MESSAGE_EVENT ? NULL : stream_find(run->streams, header->layer);
    const struct sequences *sequences = header->type == MESSAGE_EVENT ? &run->events
                                        : stream                      ? &stream->sequences
                                                                      : &none;
    if (rank->bye && sequences_passed(sequences, message->rank_index, header->seq)) {
        return ERR_ENDED;
    }
    if (sequences_goes_on(sequences, message->rank_index, header->seq)) {
        for (uint32_t t = 0; t < run->track_count; t++) {
            window_take_bye_back(&run->tracks[t].window, message->rank_index, message->received_ns);
        }
    }
    return 0;
}

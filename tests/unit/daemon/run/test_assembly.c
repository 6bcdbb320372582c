/* SPDX-License-Identifier: MIT */
/* Parts of matrices: which become whole, which are given up and which are refused. */
#include "tests/unit/unit.h"

#include "daemon/run/assembly.h"
#include "tests/unit/daemon/run/fixture.h"

/* Rows [row, row + rows) of a W_q of [2, 3] entries in f32, as rank `rank` of two has them. */
static struct sample *make_part(struct run_fixture *f, uint32_t rank, uint64_t step, uint32_t row,
                                uint32_t rows)
{
    struct sample *sample = fixture_make_weights(f, step);
    struct header *header = &sample->message.header;
    header->rank = rank;
    header->world = 2;
    f->seq[0][0]--; /* which fixture_make_weights has taken */
    header->seq = f->seq[0][rank]++;
    header->in_parts = true;
    header->kv_heads = HEADS;
    header->head_dim = 1;
    header->matrix[PROJECTION_Q] = (struct matrix_place){HEADS, 3, row, 0};
    header->tensor_count = 1;
    header->tensors[0] = (struct tensor){
        .role = TENSOR_WQ, .dtype = DTYPE_F32, .rank = 2, .shape = {rows, 3}, .bytes = rows * 12};
    sample->message.frame_count = 3;
    zmq_msg_init(&sample->message.frames[0]);
    zmq_msg_init(&sample->message.frames[1]);
    zmq_msg_init_size(&sample->message.frames[2], rows * 12);
    float *numbers = zmq_msg_data(&sample->message.frames[2]);
    for (uint32_t i = 0; i < rows * 3; i++) {
        numbers[i] = (float)(row * 3 + i);
    }
    return sample;
}

/* Sends a part; returns what queue_take gives for it. */
static struct message *take_part(struct run_fixture *f, struct sample *part)
{
    assert_false(fixture_queue(f, part));
    struct message *message = queue_take(f->run);
    assert_ptr_equal(message, &part->message);
    assert_null(queue_take(f->run));
    return message;
}

static uint64_t dropped_as(const struct run_fixture *f, int code)
{
    return run_counts(f->run).tally.dropped[err_index(code)];
}

static void free_lost(struct run_fixture *f, uint32_t count)
{
    struct message *message;
    for (; (message = assembly_take_lost(f->run)); count--) {
        assert_int_equal(message->code, ERR_INCOMPLETE);
        message_free(&message);
    }
    assert_int_equal(count, 0);
}

RUN_TEST(parts_of_matrices_are_computed_when_all_of_them_have_come)
{
    struct message *first = take_part(f, make_part(f, 1, 3, 1, 1));
    assert_int_equal(first->stage, STAGE_PART);
    assert_int_equal(run_counts(f->run).processed, 0);
    struct sample *second = make_part(f, 0, 3, 0, 1);
    OWNED(message_free) struct message *last = take_part(f, second);
    assert_int_equal(last->stage, STAGE_DETACHED);
    assert_ptr_equal(last->parts, first);
    message_gather(last);
    const float *whole = message_weights(&last->header, last).matrix[PROJECTION_Q].data;
    for (int i = 0; i < 6; i++) {
        assert_true(whole[i] == (float)i);
    }
    fixture_finish(f, second);
    queue_join(f->run, last, f->now);
    assert_int_equal(run_counts(f->run).processed, 2);
    assert_false(run_busy(f->run));
    fixture_event(f, 0, EVENT_BYE, 0);
    fixture_event(f, 1, EVENT_BYE, 0);
    assert_int_equal(f->summaries, 1);
    assert_int_equal(fixture_number(f, 0, NULL, "messages"), 1);
}

RUN_TEST(parts_that_do_not_become_whole_are_dropped_by_reason)
{
    take_part(f, make_part(f, 0, 3, 0, 1));
    /* the next step gives the one before up, and what comes of that then is too late */
    take_part(f, make_part(f, 0, 4, 0, 1));
    free_lost(f, 1);
    struct message *late = take_part(f, make_part(f, 1, 3, 1, 1));
    assert_int_equal(late->code, ERR_INCOMPLETE);
    message_free(&late);
    assert_int_equal(dropped_as(f, ERR_INCOMPLETE), 2);
    /* so are those of an epoch, in which the steps begin anew */
    struct sample *part = make_part(f, 0, 0, 0, 1);
    part->message.header.epoch = 1;
    take_part(f, part);
    free_lost(f, 1);
    late = take_part(f, make_part(f, 1, 4, 1, 1));
    assert_int_equal(late->code, ERR_INCOMPLETE);
    message_free(&late);
    assembly_give_up(f->run, UINT64_MAX);
    free_lost(f, 1);
    assert_int_equal(dropped_as(f, ERR_INCOMPLETE), 5);
}

RUN_TEST(parts_are_waited_for_from_the_first_on)
{
    struct sample *parts[] = {make_part(f, 0, 3, 0, 1), make_part(f, 1, 3, 1, 1)};
    parts[1]->message.received_ns += ASSEMBLY_PATIENCE_NS / 2;
    for (size_t i = 0; i < 2; i++) {
        parts[i]->message.header.matrix[PROJECTION_Q].out = 3; /* a row is missing */
        take_part(f, parts[i]);
    }
    tick_run(f->run, f->now + ASSEMBLY_PATIENCE_NS - 1);
    assert_true(run_busy(f->run));
    tick_run(f->run, f->now + ASSEMBLY_PATIENCE_NS);
    free_lost(f, 2);
    assert_false(run_busy(f->run));
    assert_int_equal(dropped_as(f, ERR_INCOMPLETE), 2);
    assert_int_equal(run_counts(f->run).received, 2);
}

RUN_TEST(the_end_of_a_run_gives_up_what_is_not_whole)
{
    take_part(f, make_part(f, 0, 3, 0, 1));
    fixture_event(f, 0, EVENT_BYE, 0);
    assert_true(run_busy(f->run));
    fixture_event(f, 1, EVENT_BYE, 0);
    free_lost(f, 1);
    assert_int_equal(f->run->state, JOB_ENDED);
    assert_int_equal(f->summaries, 0); /* of a layer that has no numbers */
    assert_int_equal(dropped_as(f, ERR_INCOMPLETE), 1);
}

RUN_TEST(parts_that_do_not_go_together_are_refused)
{
    take_part(f, make_part(f, 0, 3, 0, 1));
    struct sample *parts[] = {make_part(f, 1, 3, 0, 1), make_part(f, 1, 3, 1, 1),
                              make_part(f, 1, 3, 1, 1)};
    parts[1]->message.header.matrix[PROJECTION_Q].in = 4;
    parts[2]->message.header.tensors[0].dtype = DTYPE_F64;
    for (size_t i = 0; i < 3; i++) {
        OWNED(message_free) struct message *message = take_part(f, parts[i]);
        assert_int_equal(message->code, ERR_SHAPE);
    }
    assembly_give_up(f->run, UINT64_MAX);
    free_lost(f, 1);
}

RUN_TEST(no_more_parts_wait_than_there_may_be_ranks)
{
    f->config.limits_ranks = 2;
    struct sample *parts[] = {make_part(f, 0, 3, 0, 1), make_part(f, 1, 3, 1, 1),
                              make_part(f, 1, 3, 2, 1)};
    for (size_t i = 0; i < 3; i++) {
        parts[i]->message.header.matrix[PROJECTION_Q].out = 4;
        take_part(f, parts[i]);
        assert_int_equal(parts[i]->message.code, i < 2 ? 0 : ERR_RANK_LIMIT);
    }
    struct message *refused = &parts[2]->message;
    message_free(&refused);
    assembly_give_up(f->run, UINT64_MAX);
    free_lost(f, 2);
}

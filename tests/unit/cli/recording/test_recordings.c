/* SPDX-License-Identifier: MIT */
/* Files of recorded messages: written, read, cut, and what is in the way of both; and who has said
 * bye in them. */

#include "tests/unit/unit.h"

#include "proto/err.h"
#include "clients/cli/base/field.h"
#include "clients/cli/recording/internal.h"
#include "proto/header.h"
#include "proto/mpk.h"
#include "proto/playback.h"
#include "proto/ranks.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

struct fixture {
    char directory[64], path[96];
    char error[RECORDER_ERROR_MAX];
    struct recorder recorder;
    struct playback playback;
};

static int recordings_set_up(void **state)
{
    static struct fixture f;
    f = (struct fixture){.directory = "/tmp/attnd-recordings-XXXXXX"};
    assert_non_null(mkdtemp(f.directory));
    snprintf(f.path, sizeof f.path, "%s/run.rec", f.directory);
    *state = &f;
    return 0;
}

static int recordings_tear_down(void **state)
{
    struct fixture *f = *state;
    unlink(f->path);
    return rmdir(f->directory);
}

#define RECORDINGS_TEST(name)                                                                      \
    TEST_OF(name, struct fixture *f, recordings_set_up, recordings_tear_down)

static void open_recorder(struct fixture *f)
{
    assert_int_equal(recorder_open(f->path, false, 77, &f->recorder, f->error), 0);
}

/* Two frames: a topic, and `size` bytes of one value. */
static int write_message(struct fixture *f, uint64_t received_ns, size_t size)
{
    char *payload = malloc(size + 1);
    assert_non_null(payload);
    memset(payload, 'p', size);
    struct recording_frame frames[] = {{"event/gpt/", 10}, {payload, size}};
    int rc = recorder_write(&f->recorder, received_ns, frames, 2, f->error);
    free(payload);
    return rc;
}

/* A file of three messages of 100, 0 and 200000 bytes. */
static void write_three(struct fixture *f, bool pack)
{
    open_recorder(f);
    f->recorder.pack = pack;
    assert_int_equal(write_message(f, 1, 100), 0);
    assert_int_equal(write_message(f, 2, 0), 0);
    assert_int_equal(write_message(f, 3, 200000), 0);
    assert_int_equal(recorder_close(&f->recorder, f->error), 0);
}

static off_t file_size(struct fixture *f)
{
    struct stat stat_;
    assert_int_equal(stat(f->path, &stat_), 0);
    return stat_.st_size;
}

static void expect_error(struct fixture *f, const char *format)
{
    char expected[RECORDER_ERROR_MAX];
    snprintf(expected, sizeof expected, "%s: %s", f->path, format);
    assert_string_equal(f->error, expected);
}

/* Writing and reading -----------------------------------------------------------------------------
 */

static void expect_three(struct fixture *f)
{
    static const size_t sizes[] = {100, 0, 200000};
    struct recorded recorded;
    assert_int_equal(playback_open(f->path, &f->playback, f->error), 0);
    assert_true(f->playback.created_ns == 77);
    for (uint64_t i = 0; i < 3; i++) {
        assert_int_equal(playback_next(&f->playback, &recorded, f->error), PLAYBACK_MESSAGE);
        assert_true(recorded.received_ns == i + 1);
        assert_int_equal(recorded.frame_count, 2);
        assert_int_equal(recorded.frames[1].size, sizes[i]);
        for (size_t at = 0; at < sizes[i]; at++) {
            assert_int_equal(((const char *)recorded.frames[1].data)[at], 'p');
        }
    }
    assert_int_equal(playback_next(&f->playback, &recorded, f->error), PLAYBACK_END);
    assert_int_equal(playback_next(&f->playback, &recorded, f->error), PLAYBACK_END);
    assert_true(f->playback.messages == 3);
    playback_close(&f->playback);
}

/* Topics and headers; a message that is not packed has nothing more. */
RECORDINGS_TEST(messages_are_skimmed)
{
    for (int pack = 0; pack < 2; pack++) {
        struct recording_frame frames[] = {{"event/gpt/", 10}, {"header", 6}, {NULL, 0}};
        struct recorded recorded;
        char tensor[5000];
        memset(tensor, 't', sizeof tensor);
        frames[2] = (struct recording_frame){tensor, sizeof tensor};
        open_recorder(f);
        f->recorder.pack = pack == 1;
        for (int i = 0; i < 3; i++) {
            assert_int_equal(recorder_write(&f->recorder, 7, frames, 3, f->error), 0);
        }
        assert_int_equal(recorder_close(&f->recorder, f->error), 0);
        assert_int_equal(playback_open(f->path, &f->playback, f->error), 0);
        for (int i = 0; i < 3; i++) {
            uint64_t at = f->playback.at;
            assert_int_equal(playback_skim(&f->playback, &recorded, f->error), PLAYBACK_MESSAGE);
            assert_int_equal(recorded.frame_count, 3);
            assert_memory_equal(recorded.frames[0].data, "event/gpt/", 10);
            assert_memory_equal(recorded.frames[1].data, "header", 6);
            assert_int_equal(recorded.frames[2].size, sizeof tensor);
            assert_true((!recorded.frames[2].data) == (pack == 0));
            playback_seek(&f->playback, at);
            assert_int_equal(playback_next(&f->playback, &recorded, f->error), PLAYBACK_MESSAGE);
            assert_memory_equal(recorded.frames[2].data, tensor, sizeof tensor);
        }
        assert_int_equal(playback_skim(&f->playback, &recorded, f->error), PLAYBACK_END);
        playback_close(&f->playback);
        assert_int_equal(unlink(f->path), 0);
    }
    open_recorder(f); /* for the end of the test */
    assert_int_equal(recorder_close(&f->recorder, f->error), 0);
}

/* Wherever it is cut or changed, skimming ends, too. */
RECORDINGS_TEST(skimming_ends_where_the_file_is_cut)
{
    struct recorded recorded;
    write_three(f, false);
    off_t size = file_size(f);
    assert_int_equal(truncate(f->path, size - 1), 0);
    assert_int_equal(playback_open(f->path, &f->playback, f->error), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(playback_skim(&f->playback, &recorded, f->error), PLAYBACK_MESSAGE);
    }
    assert_int_equal(playback_skim(&f->playback, &recorded, f->error), PLAYBACK_CUT);
    assert_int_equal(playback_skim(&f->playback, &recorded, f->error), PLAYBACK_END);
    playback_close(&f->playback);
    FILE *file = fopen(f->path, "r+");
    assert_non_null(file);
    assert_int_equal(fseek(file, RECORDING_HEADER_BYTES + RECORDING_RECORD_BYTES, SEEK_SET), 0);
    putc(0xff, file); /* the size of the first frame */
    fclose(file);
    assert_int_equal(playback_open(f->path, &f->playback, f->error), 0);
    assert_int_equal(playback_skim(&f->playback, &recorded, f->error), PLAYBACK_DAMAGED);
    playback_close(&f->playback);
}

RECORDINGS_TEST(what_was_written_is_read)
{
    write_three(f, false);
    expect_three(f);
    assert_true(f->recorder.messages == 3 && f->recorder.payload == 3 * 10 + 200100);
    assert_true((off_t)f->recorder.bytes == file_size(f));
}

RECORDINGS_TEST(what_was_packed_is_read)
{
    write_three(f, true);
    expect_three(f);
    assert_true(file_size(f) < 2000);
}

/* Cut at any byte, the messages before it are there. */
RECORDINGS_TEST(a_cut_file_has_what_is_whole)
{
    write_three(f, true);
    for (off_t size = file_size(f) - 1; size >= RECORDING_HEADER_BYTES; size--) {
        struct recorded recorded;
        enum playback_status status;
        assert_int_equal(truncate(f->path, size), 0);
        assert_int_equal(playback_open(f->path, &f->playback, f->error), 0);
        do {
            status = playback_next(&f->playback, &recorded, f->error);
        } while (status == PLAYBACK_MESSAGE);
        assert_true(status == PLAYBACK_CUT || status == PLAYBACK_END);
        assert_true(f->playback.messages < 3);
        assert_int_equal(playback_next(&f->playback, &recorded, f->error), PLAYBACK_END);
        playback_close(&f->playback);
    }
    assert_int_equal(truncate(f->path, 31), 0);
    assert_int_equal(playback_open(f->path, &f->playback, f->error), -1);
    expect_error(f, "the file is not a recording of attnd");
}

RECORDINGS_TEST(where_it_is_cut_is_said)
{
    struct recorded recorded;
    write_three(f, false);
    assert_int_equal(truncate(f->path, 32 + 32 + 16 + 110 + 10), 0);
    assert_int_equal(playback_open(f->path, &f->playback, f->error), 0);
    assert_int_equal(playback_next(&f->playback, &recorded, f->error), PLAYBACK_MESSAGE);
    assert_int_equal(playback_next(&f->playback, &recorded, f->error), PLAYBACK_CUT);
    expect_error(f, "message 2, at byte 190: the recording ends in the middle of a record");
    playback_close(&f->playback);
}

/* A file that is still being written is read as far as it was when it was opened. */
RECORDINGS_TEST(a_file_that_grows_meanwhile)
{
    struct recorded recorded;
    open_recorder(f);
    assert_int_equal(write_message(f, 1, 10), 0);
    assert_int_equal(playback_open(f->path, &f->playback, f->error), 0);
    assert_int_equal(write_message(f, 2, 10), 0);
    assert_int_equal(playback_next(&f->playback, &recorded, f->error), PLAYBACK_MESSAGE);
    assert_int_equal(playback_next(&f->playback, &recorded, f->error), PLAYBACK_END);
    playback_close(&f->playback);
    assert_int_equal(recorder_close(&f->recorder, f->error), 0);
}

RECORDINGS_TEST(a_file_that_shrinks_meanwhile)
{
    struct recorded recorded;
    write_three(f, false);
    assert_int_equal(playback_open(f->path, &f->playback, f->error), 0);
    assert_int_equal(truncate(f->path, 100), 0);
    assert_int_equal(playback_next(&f->playback, &recorded, f->error), PLAYBACK_FAILED);
    expect_error(f, "message 1, at byte 32: the file became shorter");
    playback_close(&f->playback);
}

/* Obstacles -------------------------------------------------------------------------------------
 */

RECORDINGS_TEST(a_file_that_is_there_is_refused_unless_replaced)
{
    write_three(f, false);
    assert_int_equal(recorder_open(f->path, false, 1, &f->recorder, f->error), -1);
    expect_error(f, "File exists; choose another name, or replace it with --force");
    assert_int_equal(recorder_open(f->path, true, 1, &f->recorder, f->error), 0);
    assert_int_equal(recorder_close(&f->recorder, f->error), 0);
    assert_int_equal(file_size(f), RECORDING_HEADER_BYTES);
}

static mode_t recordings_rights_of(const struct fixture *f)
{
    struct stat file;
    assert_int_equal(stat(f->path, &file), 0);
    return file.st_mode & 0777;
}

RECORDINGS_TEST(nobody_else_reads_a_recording)
{
    mode_t mask = umask(0);
    write_three(f, false);
    assert_int_equal(recordings_rights_of(f), 0600);
    assert_int_equal(chmod(f->path, 0644), 0);
    assert_int_equal(recorder_open(f->path, true, 1, &f->recorder, f->error), 0);
    assert_int_equal(recorder_close(&f->recorder, f->error), 0);
    assert_int_equal(recordings_rights_of(f), 0600);
    umask(mask);
}

RECORDINGS_TEST(a_directory_that_is_not_there_is_said)
{
    const char *path = "/tmp/attnd-nothing-is-here/run.rec";
    assert_int_equal(recorder_open(path, false, 1, &f->recorder, f->error), -1);
    assert_string_equal(f->error, "/tmp/attnd-nothing-is-here/run.rec: No such file or directory; "
                                  "create the directory first");
    assert_int_equal(playback_open(path, &f->playback, f->error), -1);
    assert_string_equal(f->error, "/tmp/attnd-nothing-is-here/run.rec: No such file or directory");
}

/* As on a full disk: what does not fit leaves no half message behind. */
RECORDINGS_TEST(a_failed_write_leaves_whole_messages)
{
    struct rlimit before, limit;
    open_recorder(f);
    assert_int_equal(write_message(f, 1, 1000), 0);
    uint64_t whole = f->recorder.bytes;
    getrlimit(RLIMIT_FSIZE, &before);
    limit = before;
    limit.rlim_cur = whole + 500;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_int_equal(write_message(f, 2, 1000), -1);
    setrlimit(RLIMIT_FSIZE, &before);
    expect_error(f, "File too large");
    assert_true((uint64_t)file_size(f) == whole && f->recorder.messages == 1);
    assert_int_equal(write_message(f, 3, 1000), 0);
    assert_int_equal(recorder_close(&f->recorder, f->error), 0);
}

/* Ranks ----------------------------------------------------------------------------------------
 */

static void note_event(struct ranks *ranks, const char *job, uint32_t rank, enum event_type event,
                       uint64_t seq)
{
    struct header header = {.type = MESSAGE_EVENT, .event = event, .rank = rank, .world = 100};
    OWNED(mpk_writer_clear) struct mpk_writer writer;
    header.seq = seq;
    header.epoch = seq / 2;
    strcpy(header.job, job);
    mpk_writer_init(&writer);
    assert_int_equal(header_encode(&header, &writer), 0);
    struct recording_frame frames[] = {{"", 0}, {writer.buffer.data, writer.buffer.size}};
    assert_int_equal(ranks_note(ranks, frames, 2), 0);
}

TEST(the_end_is_when_every_rank_heard_of_has_said_bye)
{
    OWNED(ranks_clear) struct ranks ranks = {0};
    assert_false(ranks_all_bye(&ranks));
    for (uint32_t rank = 0; rank < 3; rank++) {
        note_event(&ranks, "gpt", rank, EVENT_HELLO, 0);
    }
    note_event(&ranks, "gpt", 1, EVENT_BYE, 1);
    note_event(&ranks, "gpt", 0, EVENT_BYE, 1);
    assert_false(ranks_all_bye(&ranks));
    note_event(&ranks, "gpt", 2, EVENT_BYE, 1);
    assert_true(ranks_all_bye(&ranks));
    note_event(&ranks, "bert", 2, EVENT_HELLO, 0);
    assert_false(ranks_all_bye(&ranks));
    assert_int_equal(ranks.count, 4);
}

TEST(where_a_rank_is_is_known)
{
    OWNED(ranks_clear) struct ranks ranks = {0};
    for (uint64_t seq = 0; seq < 7; seq++) {
        for (uint32_t rank = 0; rank < 100; rank++) {
            note_event(&ranks, "gpt", rank, EVENT_EPOCH_END, seq);
        }
    }
    assert_int_equal(ranks.count, 100);
    for (uint32_t rank = 0; rank < 100; rank++) {
        assert_int_equal(ranks.items[rank].rank, rank);
        assert_true(ranks.items[rank].event_seq == 7 && ranks.items[rank].epoch == 3);
        assert_int_equal(ranks.items[rank].world, 100);
    }
}

TEST(what_has_no_sound_header_is_nobodys)
{
    static const struct recording_frame frames[] = {{"event/gpt/", 10}, {"\x80", 1}};
    struct ranks ranks = {0};
    assert_int_equal(ranks_note(&ranks, frames, 2), 0);
    assert_int_equal(ranks_note(&ranks, frames, 1), 0);
    assert_int_equal(ranks.count, 0);
}

/* Counters ----------------------------------------------------------------------------------------
 */

TEST(reasons_of_any_name_are_json)
{
    struct mpk_writer counts;
    struct mpk_doc doc;
    char text[64] = "";
    mpk_writer_init(&counts);
    mpk_put_map(&counts, 3);
    mpk_pair_u64(&counts, "late", 2);
    mpk_pair_u64(&counts, "a\"b\\c", 1);
    mpk_pair_u64(&counts, "none", 0);
    assert_int_equal(mpk_parse(counts.buffer.data, counts.buffer.size, &mpk_result_limits, &doc),
                     0);
    for (int json = 0; json < 2; json++) {
        FILE *out = fmemopen(text, sizeof text, "w");
        assert_non_null(out);
        replay_print_dropped(NULL, doc.root, json, out);
        fclose(out);
        assert_string_equal(text, json ? "\"late\": 2, \"a?b?c\": 1" : "late 2, a?b?c 1");
    }
    mpk_doc_clear(&doc);
    mpk_writer_clear(&counts);
}

int main(void)
{
    signal(SIGXFSZ, SIG_IGN); /* a write beyond the limit fails instead */
    return unit_run(NULL, NULL);
}

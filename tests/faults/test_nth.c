/* SPDX-License-Identifier: MIT */
/* Every allocation and library call of the decoders fails once, on every golden message: it is
 * said, nothing is held, and the next attempt succeeds. */
#include "tests/faults/faults.h"

#include "clients/c/src/bounds.h"
#include "clients/c/src/plan.h"
#include "clients/c/src/result.h"
#include "daemon/state/layer_state.h"
#include "proto/err.h"
#include "tests/unit/daemon/state/measured.h"
#include "tests/unit/unit.h"

#include <dirent.h>

#define CALLS_MAX 5000

static uint8_t bytes[1 << 20];
static size_t size;

/* Each returns 0, or a code for a lack of memory or for bytes that it does not take. */
typedef int nth_attempt(void);

static int nth_header(void)
{
    struct header header;
    struct mpk_writer writer;
    const char *key;
    int code = header_decode(bytes, size, &header, &key);
    if (code) {
        return code;
    }
    mpk_writer_init(&writer);
    code = header_encode(&header, &writer);
    mpk_writer_clear(&writer);
    header_clear(&header);
    return code;
}

static int nth_json(void)
{
    struct mpk_doc doc;
    int code = mpk_parse(bytes, size, &mpk_result_limits, &doc);
    if (code) {
        return code;
    }
    char *text = mpk_to_json(doc.root, 0);
    code = text ? 0 : ERR_MEMORY;
    free(text);
    mpk_doc_clear(&doc);
    return code;
}

static int nth_state(void)
{
    struct layer_state *state = NULL;
    struct mpk_writer writer;
    int code = layer_state_unpack(bytes, size, &state);
    if (code) {
        return code;
    }
    mpk_writer_init(&writer);
    code = layer_state_pack(state, &writer);
    mpk_writer_clear(&writer);
    layer_state_free(&state);
    return code;
}

static int nth_result(void)
{
    attn_result *result = NULL;
    zmq_msg_t body;
    if (zmq_msg_init_size(&body, size) != 0) {
        return ERR_MEMORY;
    }
    memcpy(zmq_msg_data(&body), bytes, size);
    int code = result_new("live/", 5, &body, &result);
    zmq_msg_close(&body);
    if (code) {
        return code == ATTN_E_MEMORY ? ERR_MEMORY : code;
    }
    code = attn_result_json(result) ? 0 : ERR_MEMORY;
    attn_result_free(&result);
    return code;
}

/* One lost subscription is said, and the others stay. */
static int nth_notices(void)
{
    static const char notice[] = "\x01tensor/gpt-small/", other[] = "\x01"
                                                                    "event/";
    struct prefixes prefixes = {0};
    bool told = prefixes_apply(&prefixes, notice, sizeof notice - 1);
    told = prefixes_apply(&prefixes, other, sizeof other - 1) && told;
    assert_int_equal(told, prefixes.count == 2);
    prefixes_clear(&prefixes);
    return told ? 0 : ERR_MEMORY;
}

/* Returns how many calls failed. */
static unsigned fail_each_call(nth_attempt *attempt, const char *what)
{
    int sound = attempt();
    for (uint64_t nth = 1;; nth++) {
        faults_arm(nth);
        int code = attempt();
        struct faults faults = faults_disarm();
        if (faults.live || faults.open) {
            fail_msg("%s: %d blocks are held after %s %d", what, (int)faults.live, faults.what,
                     (int)nth);
        }
        if (!faults.failed) {
            assert_int_equal(code, sound);
            return (unsigned)nth - 1;
        }
        if (code != ERR_MEMORY && code != sound) {
            fail_msg("%s: %s %d gives %d", what, faults.what, (int)nth, code);
        }
        assert_true(nth < CALLS_MAX);
    }
}

TEST(every_call_of_a_decoder_fails_once)
{
    static nth_attempt *const attempts[] = {nth_header, nth_json, nth_result};
    unsigned failed = 0, files = 0;
    DIR *golden = opendir(GOLDEN_DIR);
    assert_non_null(golden);
    for (struct dirent *entry; (entry = readdir(golden));) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", GOLDEN_DIR, entry->d_name);
        FILE *file = strstr(entry->d_name, ".msgpack") ? fopen(path, "rb") : NULL;
        if (!file) {
            continue;
        }
        size = fread(bytes, 1, sizeof bytes, file);
        fclose(file);
        for (int i = 0; i < 3; i++) {
            failed += fail_each_call(attempts[i], entry->d_name);
        }
        files++;
    }
    closedir(golden);
    print_message("%u files, %u calls failed in turn\n", files, failed);
    assert_true(files > 10 && failed > 500);
}

TEST(every_call_of_a_state_fails_once)
{
    struct measured_options options = {
        .batch = 2, .heads = 3, .size = 8, .sharpness = 2.0, .seed = 1};
    struct measured_message *message = measured_message_new(&options, 1);
    struct layer_state *layer = layer_state_new(3, 48);
    struct mpk_writer writer;
    assert_int_equal(layer_state_add(layer, &message->message, measure_result(message->measure)),
                     0);
    mpk_writer_init(&writer);
    assert_int_equal(layer_state_pack(layer, &writer), 0);
    size = writer.buffer.size;
    memcpy(bytes, writer.buffer.data, size);
    mpk_writer_clear(&writer);
    layer_state_free(&layer);
    measured_message_free(&message);
    assert_true(fail_each_call(nth_state, "state") > 3);
}

TEST(every_call_of_notices_fails_once)
{
    assert_true(fail_each_call(nth_notices, "notices") > 2);
}

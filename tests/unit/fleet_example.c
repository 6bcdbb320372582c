/* SPDX-License-Identifier: MIT */
#include "tests/unit/fleet_example.h"
#include "tests/unit/mpk_text.h"

#define BUCKETS "window.buckets is 8, the hub\\u0027s first node has 32"
#define RULE    "'unit': 'step', 'length': 100, 'every': 100"

void fleet_example_off(struct mpk_writer *writer)
{
    mpk_text(writer, "{'role': 'off'}");
}

void fleet_example_node(struct mpk_writer *writer)
{
    mpk_text(writer,
             "{'role': 'node', 'name': 'rank-a', 'id': '00112233aabbccdd',"
             " 'url': 'nats://rack:4222', 'connected': false, 'error': 'nats://rack:4222 cannot be"
             " reached (no server answers); attnd tries again',"
             " 'rows': 120, 'bytes': 25165824, 'unsent': 3, 'unsent_bytes': 614400,"
             " 'oldest_unsent_s': 12.5, 'outbox_lost': 2, 'sent': 4711, 'resent': 5,"
             " 'refused': '" BUCKETS "'}");
}

static const char nodes[] =
    "{'id': '0000000000000001', 'name': 'rank-a', 'host': 'rack', 'version': '0.2.0',"
    " 'heard_s': null, 'state': 'ok', 'behind': 0, 'unsent': 0, 'unsent_bytes': 0,"
    " 'outbox_lost': 0, 'lacking': 0, 'clock_s': null, 'refused': null, 'trouble': null,"
    " 'runs': 1},"
    "{'id': '0000000000000002', 'name': 'rank-b', 'host': 'rack', 'version': '0.2.0',"
    " 'heard_s': 95.0, 'state': 'silent', 'behind': 3, 'unsent': 12, 'unsent_bytes': 12288,"
    " 'outbox_lost': 4, 'lacking': 7, 'clock_s': -3600.0, 'refused': null, 'trouble': null,"
    " 'runs': 1},"
    "{'id': '0000000000000003', 'name': 'rank-c', 'host': 'rack', 'version': '0.2.0',"
    " 'heard_s': 1.5, 'state': 'refused', 'behind': 0, 'unsent': 0, 'unsent_bytes': 0,"
    " 'outbox_lost': 0, 'lacking': 0, 'clock_s': 0.25, 'refused': '" BUCKETS "', 'trouble': null,"
    " 'runs': 1},"
    "{'id': '0000000000000004', 'name': 'rank-d', 'host': 'rack', 'version': '0.2.0',"
    " 'heard_s': 1.5, 'state': 'trouble', 'behind': 0, 'unsent': 0, 'unsent_bytes': 0,"
    " 'outbox_lost': 0, 'lacking': 0, 'clock_s': 0.0, 'refused': null,"
    " 'trouble': 'its history cannot be written: database or disk is full', 'runs': 1}";

/* Partial windows, the newest first. */
static const char example_run[] =
    "{'job': 'gpt-small', 'run': 'abcdef01230000000000000000000000', 'state': 'active',"
    " 'world': 4, 'ranks': 3, 'nodes': ['0000000000000001', '0000000000000002'],"
    " 'waiting': [{" RULE ", 'last': 399, 'for': ['rank-b']}],"
    " 'partial': [{" RULE ", 'first': 200, 'last': 299, 'revision': 1,"
    " 'missing': [{'name': 'rank-b', 'reason': 'silent'},"
    " {'name': 'rank-c', 'reason': 'refused'}]},"
    " {" RULE ", 'first': 100, 'last': 199, 'revision': 0,"
    " 'missing': [{'name': 'rank-b', 'reason': 'silent'}]},"
    " {" RULE ", 'first': 0, 'last': 99, 'revision': 0,"
    " 'missing': [{'name': 'rank-b', 'reason': 'silent'}]}],"
    " 'compared': {" RULE ", 'first': 200, 'last': 299, 'layers': 4, 'count': 18,"
    " 'odd': [{'rank': 1, 'node': 'rank-b', 'layers': 3, 'windows': 2, 'stack': 'decoder',"
    " 'layer': 2, 'site': 'self', 'head': 5, 'distance': 8.25}]}}";

void fleet_example_hub(struct mpk_writer *writer)
{
    mpk_text(writer,
             "{'role': 'hub', 'name': 'head', 'id': '00112233aabbccdd',"
             " 'url': 'nats://rack:4222', 'connected': true, 'error': null,"
             " 'rows': 40960, 'bytes': 3650722202, 'waiting': 1, 'received': 41000,"
             " 'repeated': 37, 'poisoned': 3, 'windows_unknown': 0, 'steps_disagree': 0,"
             " 'gone': 0, 'windows_lost': 0, 'runs_more': 2, 'merged': 960, 'corrected': 12,"
             " 'unknown': 'rank-d has windows of 10 steps every 5, this hub has none',"
             " 'nodes': [%s], 'runs': [%s]}",
             nodes, example_run);
}

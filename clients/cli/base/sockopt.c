/* SPDX-License-Identifier: MIT */
#include "clients/cli/base/sockopt.h"

#include <zmq.h>

void sockopt_int(void *socket, int option, int value)
{
    zmq_setsockopt(socket, option, &value, sizeof value);
}

void sockopt_frame_max(void *socket, uint64_t bytes)
{
    int64_t most = bytes < INT64_MAX ? (int64_t)bytes : INT64_MAX;
    zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &most, sizeof most);
}

/* SPDX-License-Identifier: MIT */
#include "clients/c/include/attn/attn.h"

const char *attn_strerror(int code)
{
    switch (code) {
    case ATTN_OK:
        return "no error";
    case ATTN_SKIPPED:
        return "nobody wants it";
    case ATTN_E_MEMORY:
        return "out of memory";
    case ATTN_E_ARGUMENT:
        return "an argument is out of range";
    case ATTN_E_DROPPED:
        return "the queue is full: dropped";
    case ATTN_E_TIMEOUT:
        return "timed out";
    case ATTN_E_TRANSPORT:
        return "the transport refused";
    case ATTN_E_MESSAGE:
        return "received something that is no result";
    case ATTN_E_NOT_FOUND:
        return "the result has no such number";
    case ATTN_E_REFUSED:
        return "the daemon refused";
    case ATTN_E_TOO_LARGE:
        return "larger than the daemon takes, or the daemon is too old for it: dropped";
    default:
        return "unknown error";
    }
}

const char *attn_version(void)
{
    return ATTND_VERSION;
}

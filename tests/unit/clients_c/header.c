/* SPDX-License-Identifier: MIT */
#include <attn/attn.h>

int attn_header_is_c(void);
int attn_header_is_c(void)
{
    const attn_attention attention = {.stack = ATTN_DECODER};

    return attention.stack == ATTN_DECODER ? ATTN_OK : ATTN_E_ARGUMENT;
}

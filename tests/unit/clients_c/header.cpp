// SPDX-License-Identifier: MIT
#include <attn/attn.h>

int attn_header_is_cpp();
int attn_header_is_cpp()
{
    attn_attention attention;

    attn_attention_default(&attention);
    return attention.stack == ATTN_ENCODER ? ATTN_OK : ATTN_E_ARGUMENT;
}

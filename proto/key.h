/* SPDX-License-Identifier: MIT */
/* key: CURVE keys as texts of 40 characters (Z85), and the files that hold secret ones.
 *
 * The file of a secret key begins with KEY_TITLE, since nothing else tells a secret key from a
 * public one, and has it on a line of its own; blank lines, and lines that begin with "#", do not
 * count. Any thread; no state. */
#ifndef PROTO_KEY_H
#define PROTO_KEY_H

#include <stdbool.h>
#include <stddef.h>

/* Characters of a key, without a NUL. */
#define KEY_LENGTH 40
/* How the file of a secret key begins. */
#define KEY_TITLE "# A secret key of attnd"
/* Bytes of the sentence in reterr, with the NUL. */
#define KEY_REASON_MAX 1024

/* Whether these bytes are a key: 40 characters of Z85 that stand for 32 bytes. */
bool key_is_text(const char *text, size_t length);

struct stat;

/* Why a secret in such a file is none, or NULL: nobody else may be able to read it (mode 0600 or
 * less). A file of root's may be readable by its group, because service managers hand secrets over
 * like that. */
const char *key_exposure(const struct stat *status);
/* Reads the secret key in a file that nobody else can read. Returns 0, or -1 with a sentence that
 * begins with the path. */
int key_read(const char *path, char ret_secret[KEY_LENGTH + 1], char reterr[KEY_REASON_MAX]);

/* Writes a new file (mode 0600) with a secret key, and its public key as a comment. One that is
 * there already is left alone. Returns 0, or -1 with a sentence that begins with the path. */
int key_write(const char *path, const char *public_key, const char *secret,
              char reterr[KEY_REASON_MAX]);

/* The keys of a client: its own secret one, and attnd's public one; both "" = none. */
struct key_client {
    char secret[KEY_LENGTH + 1], server[KEY_LENGTH + 1];
};
/* Reads $ATTND_KEY, the file of a secret key or that key itself, and $ATTND_SERVER_KEY, a public
 * key. Returns 0, or -1 with a sentence when they are none or only one is set. */
int key_find(struct key_client *ret_keys, char reterr[KEY_REASON_MAX]);

#endif

/* SPDX-License-Identifier: MIT */
#include "proto/key.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Five characters stand for four bytes. */
#define GROUP 5
/* A key and some lines about it. */
#define FILE_MAX 4096

static const char alphabet[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                               ".-:+=^!/*?&<>()[]{}@%$#";

bool key_is_text(const char *text, size_t length)
{
    if (length != KEY_LENGTH) {
        return false;
    }
    for (size_t i = 0; i < length; i += GROUP) {
        uint64_t group = 0;
        for (size_t j = i; j < i + GROUP; j++) {
            const char *at = text[j] ? strchr(alphabet, text[j]) : NULL;
            if (!at) {
                return false;
            }
            group = group * (sizeof alphabet - 1) + (uint64_t)(at - alphabet);
        }
        if (group > UINT32_MAX) {
            return false;
        }
    }
    return true;
}

static int key_fail(char *reterr, const char *path, const char *why)
{
    snprintf(reterr, KEY_REASON_MAX, "%.512s: %s", path, why);
    return -1;
}

const char *key_exposure(const struct stat *status)
{
    bool handed_over = status->st_uid == 0 && geteuid() != 0;
    if (!S_ISREG(status->st_mode)) {
        return "not a regular file";
    }
    if (status->st_mode & (handed_over ? S_IRWXO | S_IWGRP : S_IRWXG | S_IRWXO)) {
        return "others can read it, so it is no secret (chmod 600; better, make a new one)";
    }
    return NULL;
}

/* Returns how many lines count. ret_secret has the last one, "" when it is no key. */
static int key_find_lines(const char *text, char *ret_secret)
{
    int lines = 0;
    *ret_secret = '\0';
    for (size_t length; *text; text += length + (text[length] != '\0')) {
        length = strcspn(text, "\n");
        size_t used = length > 0 && text[length - 1] == '\r' ? length - 1 : length;
        if (used == 0 || *text == '#') {
            continue;
        }
        lines++;
        bool is_key = key_is_text(text, used);
        memcpy(ret_secret, text, is_key ? KEY_LENGTH : 0);
        ret_secret[is_key ? KEY_LENGTH : 0] = '\0';
    }
    return lines;
}

/* Why the text is no secret key, or NULL: ret_secret has the one line that counts. */
static const char *key_find_secret(const char *text, char *ret_secret)
{
    if (key_find_lines(text, ret_secret) > 1) {
        return "has more than one line that is no comment: a secret key is one, of 40 characters";
    }
    if (!*ret_secret) {
        return "has no line with a secret key of 40 characters (attnctl key new makes such a file)";
    }
    return strncmp(text, KEY_TITLE, strlen(KEY_TITLE)) == 0
               ? NULL
               : "may be a public key: a file of a secret one begins with '" KEY_TITLE
                 "' (attnctl key new makes such a file)";
}

int key_read(const char *path, char ret_secret[KEY_LENGTH + 1], char reterr[KEY_REASON_MAX])
{
    char text[FILE_MAX + 1], secret[KEY_LENGTH + 1];
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &status) != 0) {
        int rc = key_fail(reterr, path, strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return rc;
    }
    const char *why = key_exposure(&status);
    ssize_t size = why ? 0 : read(fd, text, FILE_MAX);
    if (size < 0) {
        why = strerror(errno);
    }
    close(fd);
    text[size > 0 ? size : 0] = '\0';
    why = why ? why : key_find_secret(text, secret);
    if (!why) {
        strcpy(ret_secret, secret);
    }
    explicit_bzero(text, sizeof text);
    explicit_bzero(secret, sizeof secret);
    return why ? key_fail(reterr, path, why) : 0;
}

int key_write(const char *path, const char *public_key, const char *secret,
              char reterr[KEY_REASON_MAX])
{
    char text[FILE_MAX];
    int size = snprintf(text, sizeof text, KEY_TITLE ". Its public key is\n# %s\n%s\n", public_key,
                        secret);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR);
    if (fd < 0) {
        return key_fail(reterr, path,
                        errno == EEXIST ? "is there already; keys are not replaced"
                                        : strerror(errno));
    }
    bool written = write(fd, text, (size_t)size) == size && fsync(fd) == 0;
    int error = errno;
    written = close(fd) == 0 && written;
    explicit_bzero(text, sizeof text);
    if (!written) {
        unlink(path);
        return key_fail(reterr, path, strerror(error));
    }
    return 0;
}

int key_find(struct key_client *ret_keys, char reterr[KEY_REASON_MAX])
{
    const char *own = getenv("ATTND_KEY"), *server = getenv("ATTND_SERVER_KEY");
    struct key_client keys = {.secret = ""};
    own = own ? own : "";
    server = server ? server : "";
    if (!*own != !*server) {
        return key_fail(reterr, *own ? "ATTND_SERVER_KEY" : "ATTND_KEY",
                        *own ? "not set; it is attnd's public key, beside ATTND_KEY"
                             : "not set; it is the file of this client's key, beside "
                               "ATTND_SERVER_KEY");
    }
    if (*server && !key_is_text(server, strlen(server))) {
        return key_fail(reterr, "ATTND_SERVER_KEY", "not a public key of 40 characters");
    }
    strcpy(keys.server, server);
    if (key_is_text(own, strlen(own)) && access(own, F_OK) != 0) {
        strcpy(keys.secret, own);
    } else if (*own && key_read(own, keys.secret, reterr) != 0) {
        return -1;
    }
    *ret_keys = keys;
    return 0;
}

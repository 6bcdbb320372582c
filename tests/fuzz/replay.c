/* SPDX-License-Identifier: MIT */
/* replay directory...: runs every file of the directories through LLVMFuzzerTestOneInput, whole and
 * cut at every byte, without libFuzzer. Each input has a heap block of its exact size. */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

static void replay_run(const unsigned char *data, size_t len)
{
    unsigned char *copy = malloc(len ? len : 1);

    REQUIRE(copy);
    memcpy(copy, data, len);
    LLVMFuzzerTestOneInput(copy, len);
    free(copy);
}

static int replay_file(const char *path)
{
    static unsigned char buffer[128 * 1024];
    FILE *file = fopen(path, "rb");
    size_t len;

    if (!file) {
        return -1;
    }
    len = fread(buffer, 1, sizeof buffer, file);
    fclose(file);
    replay_run(buffer, len);
    for (size_t cut = 0; cut < len && cut < 4096; cut++) {
        replay_run(buffer, cut);
    }
    return 0;
}

/* Returns the number of files, or -1. */
static int replay_directory(const char *path)
{
    DIR *directory = opendir(path);
    struct dirent *entry;
    int count = 0;

    if (!directory) {
        return -1;
    }
    while ((entry = readdir(directory)) != NULL) {
        char file[4096];

        if (entry->d_name[0] == '.') {
            continue;
        }
        snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        if (replay_file(file) != 0) {
            closedir(directory);
            return -1;
        }
        count++;
    }
    closedir(directory);
    return count;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        int count = replay_directory(argv[i]);

        if (count <= 0) {
            fprintf(stderr, "replay: nothing in %s\n", argv[i]);
            return EXIT_FAILURE;
        }
        printf("%s: %d files\n", argv[i], count);
    }
    return EXIT_SUCCESS;
}

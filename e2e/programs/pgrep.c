/* pgrep NAME: prints the ids of the processes whose command name contains NAME. */
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_named(const char *pid, const char *name) {
    char path[300], comm[64] = "";
    snprintf(path, sizeof path, "/proc/%s/comm", pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    int found = fgets(comm, sizeof comm, file) && strstr(comm, name);
    fclose(file);
    return found;
}

int main(int argc, char **argv) {
    DIR *proc = opendir("/proc");
    if (argc != 2 || !proc) return 2;
    int found = 0;
    for (struct dirent *entry; (entry = readdir(proc));) {
        if (!isdigit((unsigned char)entry->d_name[0]) || atoi(entry->d_name) == getpid()) continue;
        if (is_named(entry->d_name, argv[1])) { puts(entry->d_name); found = 1; }
    }
    return !found;
}

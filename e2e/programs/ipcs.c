/* ipcs -m: prints the ids of the shared memory segments of this IPC namespace.
   The heading has no digit in it, so that an id is never found by accident. */
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "-m") != 0) return 2;
    FILE *table = fopen("/proc/sysvipc/shm", "r");
    if (!table) { perror("ipcs: /proc/sysvipc/shm"); return 1; }
    char line[512];
    int id;
    puts("shared memory segments: id");
    fgets(line, sizeof line, table);
    while (fgets(line, sizeof line, table))
        if (sscanf(line, "%*d %d", &id) == 1) printf("%d\n", id);
    fclose(table);
    return 0;
}

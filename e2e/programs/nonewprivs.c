/* Installed with the set-user-id bit: shows whether the bit had effect. */
#include <stdio.h>
#include <unistd.h>

int main(void) {
    printf("Effective uid: %u\n", (unsigned)geteuid());
    return 0;
}

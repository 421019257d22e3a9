/* Waits to be told to end, and reaps what it inherits meanwhile. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int sig) { (void)sig; _exit(0); }

static void reap(int sig) {
    (void)sig;
    while (waitpid(-1, NULL, WNOHANG) > 0) { }
}

int main(void) {
    struct sigaction on_end = { .sa_handler = end };
    struct sigaction on_child = { .sa_handler = reap, .sa_flags = SA_NOCLDSTOP };
    sigaction(SIGTERM, &on_end, NULL);
    sigaction(SIGINT, &on_end, NULL);
    sigaction(SIGCHLD, &on_child, NULL);
    for (;;) pause();
}

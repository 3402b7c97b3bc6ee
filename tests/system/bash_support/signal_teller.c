/* Says which signals it gets, from its handlers at once, and what it reads: signal_teller "NUMBER NUMBER..." [ANYTHING].
 * At the end of its input it waits for signals; "quit" ends it with 5. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
    int number;
    const char *says;
} known[] = {
    {SIGINT, "got SIGINT\n"},   {SIGQUIT, "got SIGQUIT\n"}, {SIGUSR1, "got SIGUSR1\n"}, {SIGUSR2, "got SIGUSR2\n"},
    {SIGCONT, "got SIGCONT\n"}, {SIGTSTP, "got SIGTSTP\n"}, {SIGWINCH, "got SIGWINCH\n"},
    {50, "got 50\n"},
};

static void say(const char *text)
{
    ssize_t ignored = write(1, text, strlen(text));
    (void)ignored;
}

static void got(int number)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].number == number)
            say(known[i].says);
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_flags = SA_RESTART};
    char line[256], said[300];
    if (argc < 2)
        return 2;
    action.sa_handler = got;
    sigfillset(&action.sa_mask);
    for (char *word = strtok(argv[1], " "); word != NULL; word = strtok(NULL, " "))
        sigaction(atoi(word), &action, NULL);
    say(getpgrp() == tcgetpgrp(0) ? "ready in front\n" : "ready behind\n");
    while (fgets(line, sizeof line, stdin) != NULL) {
        snprintf(said, sizeof said, "read %s", line);
        say(said);
        if (strcmp(line, "quit\n") == 0)
            return 5;
    }
    for (;;)
        pause();
}

#include "sandboxed_shell.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "descriptors.h"
#include "group.h"
#include "signals.h"

/* The server knows these words (escalation/supervision.py). */
#define NO_DIRECTORY "its directory cannot be entered"

#define SOCKET_VARIABLE "CODEX_ESCALATE_SOCKET="

/* bash keeps its own script open here. */
#define TAKEN_BY_BASH 255

/* Above this, shells and scripts do not look for free numbers of theirs, and ulimit -n seldom is higher. */
#define HIGHEST_NUMBER 1024

static _Noreturn void report_failure(int pipe, int error, const struct text *text)
{
    struct shell_report report = {.error = error, .length = text->used};
    memcpy(report.message, text->bytes, text->used);
    write_all(pipe, &report, sizeof report);
    _exit(127);
}

static _Noreturn void fail(int pipe, int error, const char *message)
{
    struct text text;
    text_start(&text);
    text_add(&text, message);
    report_failure(pipe, error, &text);
}

/* Moves the socket out of the way of what scripts use, and returns its number; -1 if there is no room. */
static int move_rendezvous(const struct shell_start *start)
{
    int number = start->limit.rlim_cur < HIGHEST_NUMBER ? (int)start->limit.rlim_cur - 1 : HIGHEST_NUMBER - 1;
    for (; number > 2; number--) {
        if (number == TAKEN_BY_BASH)
            continue;
        if (number == start->rendezvous || fcntl(number, F_GETFD) < 0)
            break;
    }
    if (number <= 2)
        return -1;
    if (number == start->rendezvous)
        return set_close_on_exec(number, false) ? number : -1;
    return dup2(start->rendezvous, number);
}

/* The environment with the socket's number in it, once. */
static char **with_socket(char **environment, int number)
{
    static struct text variable;
    size_t count = 0, used = 0;
    while (environment[count] != NULL)
        count++;
    char **changed = malloc((count + 2) * sizeof *changed);
    if (changed == NULL)
        return NULL;
    for (size_t i = 0; i < count; i++)
        if (strncmp(environment[i], SOCKET_VARIABLE, sizeof SOCKET_VARIABLE - 1) != 0)
            changed[used++] = environment[i];
    text_start(&variable);
    text_add(&variable, SOCKET_VARIABLE);
    text_number(&variable, number);
    variable.bytes[variable.used] = '\0';
    changed[used++] = variable.bytes;
    changed[used] = NULL;
    return changed;
}

/* A group of its own, so that `kill 0` in a script does not reach us. */
static void take_group(const struct shell_start *start)
{
    setpgid(0, 0);
    if (start->terminal)
        tcsetpgrp(STDIN_FILENO, getpid()); /* from the background: SIGTTOU is blocked here */
}

/* 0 is the null device already, but would be closed. */
static bool connect_stdio(int output)
{
    return set_close_on_exec(STDIN_FILENO, false) && dup2(output, STDOUT_FILENO) >= 0 && dup2(output, STDERR_FILENO) >= 0;
}

static _Noreturn void become_shell(const struct shell_start *start, int report, pid_t parent)
{
    struct sandbox_refusal refusal;
#ifdef __linux__
    /* Should we be killed, the shell goes as well. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(127);
#else
    (void)parent;
#endif
    take_group(start);
    if (start->cwd != NULL && chdir(start->cwd) != 0)
        fail(report, errno, NO_DIRECTORY);
    if (start->output >= 0 && !connect_stdio(start->output))
        fail(report, errno, "its output could not be connected");
    int number = move_rendezvous(start);
    if (number < 0)
        fail(report, errno, "no descriptor number is free for the escalation socket; raise the descriptor limit");
    char **environment = with_socket(start->environment, number);
    if (environment == NULL)
        fail(report, ENOMEM, "no memory for the environment");
    if (!sandbox_apply(&start->sandbox, &refusal))
        report_failure(report, refusal.error, &refusal.text);
    setrlimit(RLIMIT_NOFILE, &start->limit);
    signals_hand_on(0);
    signals_block(0);
    execve(start->path, start->argv, environment);
    int error = errno;
    struct text text;
    text_start(&text);
    text_quoted(&text, start->path);
    text_add(&text, " cannot be executed");
    report_failure(report, error, &text);
}

pid_t start_shell(const struct shell_start *start, int *report)
{
    int ends[2];
    pid_t parent = getpid();
    if (!pipe_pair(ends))
        return -1;
    uint64_t mask = signals_block(SIGNALS_ALL);
    pid_t child = group_fork();
    if (child == 0)
        become_shell(start, ends[1], parent);
    int error = errno;
    if (child > 0)
        setpgid(child, child); /* whoever of us is first */
    signals_block(mask);
    close(ends[1]);
    if (child < 0)
        close(ends[0]);
    else
        *report = ends[0];
    errno = error;
    return child;
}

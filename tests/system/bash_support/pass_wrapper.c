/* A wrapper that needs no server, for tests of the patched shell alone.

   argv[1] is the file, argv[2...] its argument vector; argv[0] `codex-execve-ask:N' is ask mode: see docs/protocol.md,
   "Client behaviour". The decision is the file name under which EXEC_WRAPPER knows this program:

     pass       Run
     deny       prints `Execution denied', ends with 1
     slow       Run, after 300 ms
     held       Run, once there is a file EXEC_WRAPPER.go
     escalate   runs the program as a child and ends as that does, as the real wrapper does after ESCALATE; ask mode:
                writes `E' first
     silent     ask mode: ends with 0 and writes nothing (which must not be taken for Run); else as deny
     forged     ask mode: somebody else writes `R', but the wrapper ends with 3; else as deny
     zero       ask mode: somebody else writes four zero bytes, which must not be taken for `no error'; else as deny
     chatty     ask mode: writes the wrong byte, `r', and ends with 0; else as deny

   Each call appends `MODE FILE\n' to EXEC_WRAPPER.log if that file exists. */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define ASK "codex-execve-ask:"

extern char **environ;

static pid_t child;

static void log_call(const char *self, const char *mode, const char *file)
{
    char path[4096], line[8192];
    int fd, n;

    snprintf(path, sizeof path, "%s.log", self);
    fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fd < 0)
        return;
    n = snprintf(line, sizeof line, "%s %s\n", mode, file);
    if (write(fd, line, (size_t)n) != n)
        _exit(99);
    close(fd);
}

/* What the terminal sends reaches the child by itself. */
static void forward(int sig, siginfo_t *info, void *context)
{
    (void)context;
    if (info->si_code <= 0)
        kill(child, sig);
}

/* Ends as the child does. */
static void escalate(char **argv, int answer_fd)
{
    static const int signals[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
    static const struct rlimit no_core = {0, 0};
    struct sigaction action;
    sigset_t all, old;
    unsigned i;
    int status;

    if (answer_fd >= 0 && write(answer_fd, "E", 1) != 1)
        _exit(99);
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &old);
    child = fork();
    if (child == 0) {
#ifdef __linux__
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* the supervisor's part: a killed wrapper means the program */
#endif
        sigprocmask(SIG_SETMASK, &old, NULL);
        if (answer_fd >= 0)
            close(answer_fd);
        execve(argv[1], argv + 2, environ);
        _exit(126);
    }
    memset(&action, 0, sizeof action);
    action.sa_sigaction = forward;
    action.sa_flags = SA_SIGINFO;
    for (i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaction(signals[i], &action, NULL);
    sigprocmask(SIG_SETMASK, &old, NULL);
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            _exit(99);
    if (WIFEXITED(status))
        _exit(WEXITSTATUS(status));
    setrlimit(RLIMIT_CORE, &no_core); /* it would be ours */
    signal(WTERMSIG(status), SIG_DFL);
    raise(WTERMSIG(status));
    _exit(99);
}

static void hold(const char *self)
{
    char path[4096];

    snprintf(path, sizeof path, "%s.go", self);
    while (access(path, F_OK) != 0)
        usleep(10000);
}

int main(int argc, char **argv)
{
    const char *self = getenv("EXEC_WRAPPER");
    int answer_fd = -1;
    const char *decision;

    if (self == NULL || argc < 2)
        return 99;
    if (strncmp(argv[0], ASK, sizeof ASK - 1) == 0)
        answer_fd = atoi(argv[0] + sizeof ASK - 1);
    log_call(self, answer_fd >= 0 ? "ask" : "run", argv[1]);

    decision = strrchr(self, '/') ? strrchr(self, '/') + 1 : self;
    if (strcmp(decision, "escalate") == 0)
        escalate(argv, answer_fd);
    if (strcmp(decision, "forged") == 0 && answer_fd >= 0)
        return write(answer_fd, "R", 1) == 1 ? 3 : 99;
    if (strcmp(decision, "zero") == 0 && answer_fd >= 0)
        return write(answer_fd, "\0\0\0\0", 4) == 4 ? 1 : 99;
    if (strcmp(decision, "silent") == 0 && answer_fd >= 0)
        return 0;
    if (strcmp(decision, "chatty") == 0 && answer_fd >= 0)
        return write(answer_fd, "r", 1) == 1 ? 0 : 99;
    if (strcmp(decision, "slow") == 0)
        usleep(300000);
    else if (strcmp(decision, "held") == 0)
        hold(self);
    else if (strcmp(decision, "pass") != 0) {
        fputs("Execution denied\n", stderr);
        return 1;
    }
    if (answer_fd >= 0)
        return write(answer_fd, "R", 1) == 1 ? 0 : 99;
    execve(argv[1], argv + 2, environ);
    fprintf(stderr, "pass_wrapper: %s: %s\n", argv[1], strerror(errno));
    return errno == ENOENT ? 127 : 126;
}

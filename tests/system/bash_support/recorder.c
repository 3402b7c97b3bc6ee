/* Appends to descriptor 500 what this process received: one record for tests/system/bash_support/records.py.

   A record is a u32 with the length of the rest, then fields: u32 length, bytes. First the numbers of what follows:
   u32 argc, u32 envc, u32 open descriptors; then argv, environ, one field for each descriptor
   (`number cloexec type flags inode'), then cwd, umask, blocked and ignored signals, nice value, limits.
   Numbers are in the byte order of the host. Written with one write, so records of a pipeline do not mix. */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define RECORD_FD 500
#define MAX_FD 1100 /* the rig puts the socket below 1024; /proc may be missing, so numbers are probed */
#define MAX_RECORD (8 << 20)

extern char **environ;

static char *record;
static size_t used = sizeof(uint32_t);

static void put(const void *bytes, size_t n)
{
    if (used + n > MAX_RECORD)
        _exit(98);
    memcpy(record + used, bytes, n);
    used += n;
}

static void put_number(uint32_t n)
{
    put(&n, sizeof n);
}

static void put_field(const char *text)
{
    put_number((uint32_t)strlen(text));
    put(text, strlen(text));
}

static void put_text(const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    put_field(text);
}

static uint32_t put_descriptors(int really)
{
    struct stat st;
    uint32_t n = 0;
    int fd, flags;

    for (fd = 0; fd < MAX_FD; fd++) {
        flags = fcntl(fd, F_GETFD);
        if (flags < 0 || fstat(fd, &st) < 0)
            continue;
        n++;
        if (really)
            put_text("%d %d %o %o %llu", fd, flags & FD_CLOEXEC, (unsigned)(st.st_mode & S_IFMT),
                     (unsigned)fcntl(fd, F_GETFL), (unsigned long long)st.st_ino);
    }
    return n;
}

static void put_signals(void)
{
    char blocked[65] = "", ignored[65] = "";
    struct sigaction action;
    sigset_t mask;
    int sig;

    sigprocmask(SIG_BLOCK, NULL, &mask);
    for (sig = 1; sig < 32; sig++) {
        blocked[sig - 1] = sigismember(&mask, sig) == 1 ? '1' : '0';
        ignored[sig - 1] = sigaction(sig, NULL, &action) == 0 && action.sa_handler == SIG_IGN ? '1' : '0';
    }
    put_field(blocked);
    put_field(ignored);
}

static void put_limits(void)
{
    static const int limits[] = {RLIMIT_CORE, RLIMIT_NOFILE, RLIMIT_STACK, RLIMIT_FSIZE};
    struct rlimit limit;
    unsigned i;

    for (i = 0; i < sizeof limits / sizeof *limits; i++) {
        getrlimit(limits[i], &limit);
        put_text("%llu %llu", (unsigned long long)limit.rlim_cur, (unsigned long long)limit.rlim_max);
    }
}

int main(int argc, char **argv)
{
    char cwd[4096];
    uint32_t envc = 0, length;
    mode_t mask;
    int i;

    record = malloc(MAX_RECORD);
    if (record == NULL)
        return 98;
    while (environ[envc] != NULL)
        envc++;
    put_number((uint32_t)argc);
    put_number(envc);
    put_number(put_descriptors(0));
    for (i = 0; i < argc; i++)
        put_field(argv[i]);
    for (i = 0; environ[i] != NULL; i++)
        put_field(environ[i]);
    put_descriptors(1);
    put_field(getcwd(cwd, sizeof cwd) ? cwd : strerror(errno));
    mask = umask(0);
    put_text("%o", (unsigned)mask);
    put_signals();
    put_text("%d", getpriority(PRIO_PROCESS, 0));
    put_limits();

    length = (uint32_t)(used - sizeof length);
    memcpy(record, &length, sizeof length);
    if (write(RECORD_FD, record, used) != (ssize_t)used)
        return 97;
    return argc & 63;
}

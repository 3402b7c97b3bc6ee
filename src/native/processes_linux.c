/* All processes of this host from proc(5). */
#include "supervisor.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "inventory.h"
#include "text.h"

static int proc = -1;

bool processes_prepare(void)
{
    /* Opened now, and used as a directory: the script cannot change what we see. */
    proc = open_descriptor("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return proc >= 0 && faccessat(proc, "self/stat", R_OK, 0) == 0;
}

/* The number behind `skip` words. */
static uint64_t word(const char *text, int skip)
{
    for (; skip > 0 && text != NULL; skip--)
        text = strchr(text + 1, ' ');
    return text == NULL ? 0 : strtoull(text, NULL, 10);
}

/* proc(5), stat: "pid (name) state parent ...". The name may hold anything, parentheses too, but nothing behind it does. */
static bool parse_stat(char *status, struct process *process)
{
    const char *behind = strrchr(status, ')');
    if (behind == NULL || strlen(behind) < 5)
        return false;
    process->parent = (pid_t)word(behind, 2);
    process->group = (pid_t)word(behind, 3);
    process->started = word(behind, 20);
    process->ended = behind[2] == 'Z' || behind[2] == 'X';
    process->stopped = behind[2] == 'T' || behind[2] == 't';
    process->ours = false; /* orphans become ours: we are the subreaper */
    return true;
}

static bool read_stat(int folder, const char *path, struct process *process)
{
    char status[512];
    int file = openat(folder, path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return false;
    ssize_t got = read_some(file, status, sizeof status - 1);
    close(file);
    if (got <= 0)
        return false;
    status[got] = '\0';
    return parse_stat(status, process);
}

static const char *path_of(struct text *path, int pid, const char *file)
{
    text_start(path);
    text_number(path, pid);
    text_add(path, file);
    path->bytes[path->used] = '\0';
    return path->bytes;
}

bool process_is_stopped(pid_t pid)
{
    struct process process;
    struct text path;
    return read_stat(proc, path_of(&path, pid, "/stat"), &process) && process.stopped;
}

bool process_signal(const struct process *process, int signal)
{
    struct text path;
    struct process now;
    /* Of this folder's files none can be read, and no signal is sent, once the process is gone. */
    int folder = openat(proc, path_of(&path, process->pid, ""), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        return errno != ENOENT && errno != ESRCH && kill(process->pid, signal) == 0; /* no descriptor is free */
    bool sent = false;
    if (read_stat(folder, "stat", &now) && now.started == process->started) {
        sent = syscall(SYS_pidfd_send_signal, folder, signal, NULL, 0) == 0;
        /* Older than Linux 5.1, or refused by a filter that does not know it. */
        if (!sent && errno != ESRCH)
            sent = kill(process->pid, signal) == 0;
    }
    close(folder);
    return sent;
}

struct visitor {
    void (*each)(const struct process *process, void *context);
    void *context;
};

static void visit_number(int pid, void *context)
{
    struct visitor *visitor = context;
    struct process process = {.pid = pid};
    struct text path;
    if (read_stat(proc, path_of(&path, pid, "/stat"), &process))
        visitor->each(&process, visitor->context);
}

void processes_visit(void (*each)(const struct process *process, void *context), void *context)
{
    struct visitor visitor = {each, context};
    if (lseek(proc, 0, SEEK_SET) == 0)
        each_number(proc, -1, visit_number, &visitor);
}

/* All processes of this host through libproc. There is no subreaper: orphans belong to launchd, and only those that kept
 * our session can be told from others. */
#include "supervisor.h"

#include <libproc.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/proc.h>
#include <unistd.h>

bool processes_prepare(void)
{
    return proc_listallpids(NULL, 0) > 0;
}

static bool describe(pid_t pid, struct process *process)
{
    struct proc_bsdinfo info;
    if (proc_pidinfo(pid, PROC_PIDTBSDINFO, 0, &info, sizeof info) != (int)sizeof info)
        return false;
    process->pid = pid;
    process->parent = (pid_t)info.pbi_ppid;
    process->group = (pid_t)info.pbi_pgid;
    process->started = info.pbi_start_tvsec * 1000000 + info.pbi_start_tvusec;
    process->ended = info.pbi_status == SZOMB;
    process->stopped = info.pbi_status == SSTOP;
    process->ours = getsid(pid) == getpid();
    return true;
}

void processes_visit(void (*each)(const struct process *process, void *context), void *context)
{
    static pid_t *pids;
    static size_t room;
    struct process process;
    int expected = proc_listallpids(NULL, 0);
    size_t wanted = (expected > 0 ? (size_t)expected : 0) + 256;
    pid_t *larger = wanted > room ? realloc(pids, wanted * sizeof *pids) : NULL;
    if (larger != NULL) {
        pids = larger;
        room = wanted;
    }
    int found = proc_listallpids(pids, (int)(room * sizeof *pids));
    for (int i = 0; i < found; i++)
        if (describe(pids[i], &process))
            each(&process, context);
}

bool process_is_stopped(pid_t pid)
{
    struct process process;
    return describe(pid, &process) && process.stopped;
}

/* There is nothing to hold a process by: a moment remains between the look and the signal. */
bool process_signal(const struct process *process, int signal)
{
    struct process now;
    return describe(process->pid, &now) && now.started == process->started && kill(process->pid, signal) == 0;
}

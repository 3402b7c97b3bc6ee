/* All processes of this host through libproc. There is no subreaper: orphans belong to launchd, and only those that kept
 * our session can be told from others. */
#include "supervisor.h"

#include <libproc.h>
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
    process->ended = info.pbi_status == SZOMB;
    process->ours = getsid(pid) == getpid();
    return true;
}

bool processes_list(struct process **list, size_t *room, size_t *count)
{
    static pid_t *pids;
    static size_t pids_room;
    int expected = proc_listallpids(NULL, 0);
    size_t wanted = (expected > 0 ? (size_t)expected : 0) + 256;
    *count = 0;
    if (wanted > pids_room) {
        pid_t *larger = realloc(pids, wanted * sizeof *pids);
        struct process *more = larger == NULL ? NULL : realloc(*list, wanted * sizeof **list);
        pids = larger == NULL ? pids : larger;
        if (more == NULL)
            return false;
        *list = more;
        *room = pids_room = wanted;
    }
    int found = proc_listallpids(pids, (int)(pids_room * sizeof *pids));
    for (int i = 0; i < found && *count < *room; i++)
        if (describe(pids[i], *list + *count))
            ++*count;
    return found > 0;
}

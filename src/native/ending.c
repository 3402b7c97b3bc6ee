/* Ends all that a call has started. Each round lists every process, kills the descendants and reaps; a process that forks
 * meanwhile is found in the next one. */
#include "supervisor.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

/* Linux's PID_MAX_LIMIT; other systems stay below. */
#define PIDS_MAX 4194304u

/* What resists so long cannot be killed (another user's, or stuck in the kernel). */
#define GIVE_UP_MS 3000
#define ROUND_MS 1

/* Sets of pids; memory that is never touched is never used. */
static uint8_t descendant[PIDS_MAX / 8];
static uint8_t counted[PIDS_MAX / 8];

static bool has(const uint8_t *set, pid_t pid)
{
    return pid > 0 && (uint32_t)pid < PIDS_MAX && (set[pid / 8] >> (pid % 8) & 1) != 0;
}

static void set_to(uint8_t *set, pid_t pid, bool on)
{
    if (pid <= 0 || (uint32_t)pid >= PIDS_MAX)
        return;
    uint8_t bit = (uint8_t)(1u << (pid % 8));
    set[pid / 8] = on ? set[pid / 8] | bit : set[pid / 8] & (uint8_t)~bit;
}

bool ending_prepare(void)
{
    return processes_prepare();
}

/* Marks all descendants, parents before children however they are listed. */
static void mark_descendants(const struct process *list, size_t count)
{
    pid_t self = getpid();
    for (size_t i = 0; i < count; i++)
        set_to(descendant, list[i].pid, list[i].ours && list[i].pid != self);
    for (bool more = true; more;) {
        more = false;
        for (size_t i = 0; i < count; i++) {
            if (list[i].pid == self || has(descendant, list[i].pid) ||
                (list[i].parent != self && !has(descendant, list[i].parent)))
                continue;
            set_to(descendant, list[i].pid, true);
            more = true;
        }
    }
}

/* Kills them and returns how many were alive. */
static size_t kill_descendants(const struct process *list, size_t count, uint32_t *ended)
{
    size_t alive = 0;
    for (size_t i = 0; i < count; i++) {
        pid_t pid = list[i].pid;
        if (!has(descendant, pid))
            continue;
        /* One that has ended may have threads that have not. */
        bool killed = kill(pid, SIGKILL) == 0;
        set_to(descendant, pid, false);
        if (list[i].ended)
            continue;
        alive++;
        if (killed && !has(counted, pid)) {
            set_to(counted, pid, true);
            ++*ended;
        }
    }
    return alive;
}

uint32_t end_everything(struct supervisor *supervisor)
{
    static struct process *list;
    static size_t room;
    uint32_t ended = 0;
    int64_t give_up = now_ms() + GIVE_UP_MS;
    for (;;) {
        size_t count = 0, alive = 0;
        bool children = reap_children(supervisor);
#ifdef __linux__
        if (!children)
            return ended; /* a subreaper without children has no descendants */
#endif
        if (processes_list(&list, &room, &count)) {
            mark_descendants(list, count);
            alive = kill_descendants(list, count, &ended);
        }
        if ((!children && alive == 0) || now_ms() > give_up)
            return ended;
        poll(NULL, 0, ROUND_MS);
    }
}

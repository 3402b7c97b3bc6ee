/* Ends all that a call has started: its control group at once, where it has one, and by passes whatever else descends from
 * us. A pass looks at every process of the host. As long as passes find descendants that were not there before, all of them
 * are stopped: killed one by one they would make room, below a limit of processes, for those that fork on. Then they are
 * killed, and reaped. */
#include "supervisor.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "group.h"

/* Linux's PID_MAX_LIMIT; other systems stay below. */
#define PIDS_MAX 4194304u

/* What resists so long, while nothing else happens, cannot be killed (another user's, or stuck in the kernel). */
#define GIVE_UP_MS 3000
#define ROUND_MS 1

/* How long new ones may keep appearing before they are killed all the same. */
#define STOPPING_MS 2000

/* Sets of pids; memory that is never touched is never used. */
static uint8_t descendant[PIDS_MAX / 8];
static uint8_t known[PIDS_MAX / 8];
static uint8_t counted[PIDS_MAX / 8];

/* The descendants of the last look and of this one. */
static pid_t found[2][PIDS_MAX];
static size_t found_count[2];
static unsigned current;

/* How many had to be ended. */
static uint32_t ended;

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

static void count(pid_t pid)
{
    if (has(counted, pid))
        return;
    set_to(counted, pid, true);
    ended++;
}

bool ending_prepare(void)
{
    return processes_prepare();
}

/* One look at all processes. */
struct pass {
    pid_t self, own_group;
    pid_t group;         /* whose group was stopped last */
    int signal;          /* what the living get; 0: nothing */
    size_t alive, fresh; /* how many there are, and how many are seen for the first time */
};

/* Those that fork as fast as they can leave us a hundredth of the machine: so with one call, however many they are. All
 * members are ours, for a group lies within a session, and theirs is ours or was started by a descendant. */
static void stop_group(struct pass *pass, pid_t group)
{
    pass->group = group;
    if (group > 1 && group != pass->own_group)
        kill(-group, SIGSTOP);
}

static void visit(const struct process *process, void *context)
{
    struct pass *pass = context;
    pid_t pid = process->pid;
    bool ours = pid != pass->self &&
                (process->ours || process->parent == pass->self || has(descendant, process->parent));
    set_to(descendant, pid, ours);
    if (!ours)
        return;
    if (found_count[current] < PIDS_MAX)
        found[current][found_count[current]++] = pid;
    if (pass->signal == SIGSTOP && process->group != pass->group)
        stop_group(pass, process->group);
    /* One that has ended may have threads that have not. */
    bool sent = pass->signal != 0 && !(process->stopped && pass->signal == SIGSTOP) &&
                process_signal(process, pass->signal);
    if (process->ended)
        return;
    pass->alive++;
    pass->fresh += !has(known, pid);
    if (pass->signal != 0)
        set_to(known, pid, true);
    if (sent && pass->signal == SIGKILL)
        count(pid);
}

static void forget(unsigned which)
{
    for (size_t i = 0; i < found_count[which]; i++)
        set_to(descendant, found[which][i], false);
    found_count[which] = 0;
}

/* A child with a lower number than its parent's is only recognised by the next pass. What has ended since the last one is
 * forgotten: its number may be anybody's by now, and so may be whose parent has it. */
static struct pass look(int signal)
{
    struct pass pass = {.self = getpid(), .own_group = getpgrp(), .signal = signal};
    unsigned last = current;
    current = 1 - current;
    processes_visit(visit, &pass);
    forget(last);
    for (size_t i = 0; i < found_count[current]; i++)
        set_to(descendant, found[current][i], true);
    return pass;
}

uint32_t processes_left(struct supervisor *supervisor)
{
    bool children = reap_children(supervisor);
    if (!children && PROCESSES_ADOPTED)
        return 0;
    forget(current); /* the last look was long ago */
    look(0);
    size_t alive = look(0).alive;
    /* A child forks and ends during a look: neither may be seen. */
    return alive == 0 && children ? 1 : (uint32_t)alive;
}

uint32_t end_everything(struct supervisor *supervisor)
{
    int64_t begun = now_ms(), progress = begun;
    int signal = SIGSTOP;
    forget(current); /* as above */
    for (;;) {
        uint32_t before = ended;
        bool children = reap_children(supervisor);
        if (!children && PROCESSES_ADOPTED)
            return ended;
        group_kill(count);
        struct pass pass = look(signal);
        if (pass.fresh > 0 || ended != before)
            progress = now_ms();
        if (signal == SIGSTOP && (pass.fresh == 0 || now_ms() - begun > STOPPING_MS))
            signal = SIGKILL;
        else if (signal == SIGKILL) {
            if ((!children && pass.alive == 0) || now_ms() - progress > GIVE_UP_MS)
                return ended;
            poll(NULL, 0, ROUND_MS);
        }
    }
}

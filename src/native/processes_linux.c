/* All processes of this host from proc(5). */
#include "supervisor.h"

#include <stdlib.h>
#include <string.h>
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

struct listing {
    struct process **list;
    size_t *room, *count;
    bool failed;
};

/* "pid (name) state parent ...": the name may hold anything, parentheses too, but nothing behind it does. */
static bool read_stat(int pid, struct process *process)
{
    char status[512];
    struct text path;
    text_start(&path);
    text_number(&path, pid);
    text_add(&path, "/stat");
    path.bytes[path.used] = '\0';
    int file = openat(proc, path.bytes, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return false;
    ssize_t got = read_some(file, status, sizeof status - 1);
    close(file);
    if (got <= 0)
        return false;
    status[got] = '\0';
    const char *behind = strrchr(status, ')');
    if (behind == NULL || strlen(behind) < 5)
        return false;
    process->pid = pid;
    process->parent = (pid_t)strtol(behind + 4, NULL, 10);
    process->ended = behind[2] == 'Z' || behind[2] == 'X';
    process->ours = false; /* orphans become ours: we are the subreaper */
    return true;
}

static void add_process(int pid, void *context)
{
    struct listing *listing = context;
    if (*listing->count == *listing->room) {
        size_t room = *listing->room * 2 + 256;
        struct process *larger = realloc(*listing->list, room * sizeof *larger);
        if (larger == NULL) {
            listing->failed = true;
            return;
        }
        *listing->list = larger;
        *listing->room = room;
    }
    if (read_stat(pid, *listing->list + *listing->count))
        ++*listing->count;
}

bool processes_list(struct process **list, size_t *room, size_t *count)
{
    struct listing listing = {list, room, count, false};
    *count = 0;
    if (lseek(proc, 0, SEEK_SET) != 0)
        return false;
    return each_number(proc, add_process, &listing) && !listing.failed;
}

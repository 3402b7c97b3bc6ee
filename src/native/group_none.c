/* No control groups on this system. */
#include "group.h"

#include <unistd.h>

bool group_make(const char *path)
{
    (void)path;
    return false;
}

pid_t group_fork(void)
{
    return fork();
}

pid_t group_share(void (*become)(const void *what), const void *what, struct child_room *room)
{
    (void)room;
    pid_t child = fork();
    if (child == 0)
        become(what);
    return child;
}

void group_kill(void (*each)(pid_t member))
{
    (void)each;
}

void group_remove(void)
{
}

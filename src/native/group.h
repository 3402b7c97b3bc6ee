/* The control group of a call (cgroups(7), version 2), where the server has found a place for one: the kernel ends all
 * that is in it at once, however fast it forks and whoever it runs as. Only what a call starts is in it, never we. */
#ifndef CODEX_GROUP_H
#define CODEX_GROUP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Makes it. False: there is none here, and the other functions do without. */
bool group_make(const char *path);

/* fork(2), the child in the group. */
pid_t group_fork(void);

/* What a child that shares our memory has of its own there: a stack, and what the C library keeps for a thread. */
struct child_room {
    uint8_t thread[2048], stack[32 * 1024];
} __attribute__((aligned(16)));

/* As group_fork, but where it can be the child calls `become`, which does not return, in our own memory: nothing is copied
 * that its exec would throw away. We go on at once. Until it has exec'd or ended, the room and whatever it works with must
 * stay, and it may change nothing of ours: it allocates nothing, and writes no variable but its own. */
pid_t group_share(void (*become)(const void *what), const void *what, struct child_room *room);

/* Kills all members, after telling each of them. */
void group_kill(void (*each)(pid_t member));

/* Once nothing is left in it. */
void group_remove(void);

#endif

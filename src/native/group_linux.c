#include "group.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "descriptors.h"

/* clone(2); not in every libc's headers. */
#define INTO_CGROUP UINT64_C(0x200000000)

struct clone_arguments {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

/* A group stays busy until the kernel has let go of its last process, a moment after it was reaped. */
#define REMOVE_TRIES 50
#define REMOVE_PAUSE_MS 1

static const char *path;
static int folder = -1, kill_file = -1;

bool group_make(const char *at)
{
    if (mkdir(at, 0700) != 0)
        return false;
    path = at;
    folder = open_descriptor(at, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* Since Linux 5.14; without it a group is of no use here. */
    kill_file = folder < 0 ? -1 : openat(folder, "cgroup.kill", O_WRONLY | O_CLOEXEC);
    if (kill_file < 0)
        group_remove();
    return kill_file >= 0;
}

pid_t group_fork(void)
{
    struct clone_arguments arguments = {.flags = INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)folder};
    /* Not a fork and then a move, which waits for every processor. The child makes system calls only, until it execs. */
    pid_t child = folder < 0 ? -1 : (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
    return child >= 0 ? child : fork();
}

/* Where the C library keeps what belongs to a thread, errno for one: the thread pointer (x86-64: the psABI's %fs:0). 0 where
 * it is not known what else it wants of a thread: with all but musl, and with what runs beside it (the sanitizers). */
static uintptr_t thread_pointer(void)
{
    uintptr_t pointer = 0;
#if defined(__GLIBC__)
    return pointer;
#elif defined(__x86_64__)
    __asm__("movq %%fs:0, %0" : "=r"(pointer));
#elif defined(__aarch64__)
    __asm__("mrs %0, tpidr_el0" : "=r"(pointer));
#endif
    return pointer;
}

/* A thread of the C library's, as far as system calls need one: with an errno. 0 if that is not where it can be had. */
static uintptr_t make_thread(struct child_room *room)
{
    const intptr_t half = sizeof room->thread / 2;
    uintptr_t ours = thread_pointer(), made = (uintptr_t)(room->thread + half);
    intptr_t place = (intptr_t)((uintptr_t)&errno - ours);
    if (ours == 0 || place < -half || place > half - (intptr_t)sizeof errno)
        return 0;
    memset(room->thread, 0, sizeof room->thread);
    memcpy(room->thread + half, &made, sizeof made); /* on x86-64 it begins with its own address */
    return made;
}

/* clone3(2), the child on a stack of its own: on ours it would overwrite where we return to. Returns in the parent only. */
static long clone_onto(const struct clone_arguments *arguments, void (*become)(const void *what), const void *what)
{
#if defined(__x86_64__)
    long result;
    register void (*call)(const void *) __asm__("r12") = become;
    register const void *argument __asm__("r13") = what;
    __asm__ volatile("syscall\n\t"
                     "testq %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xorl %%ebp, %%ebp\n\t"
                     "movq %%r13, %%rdi\n\t"
                     "callq *%%r12\n\t"
                     "ud2\n"
                     "1:"
                     : "=a"(result)
                     : "0"((long)SYS_clone3), "D"(arguments), "S"(sizeof *arguments), "r"(call), "r"(argument)
                     : "rcx", "r11", "cc", "memory");
    return result;
#elif defined(__aarch64__)
    register long number __asm__("x8") = SYS_clone3;
    register const void *first __asm__("x0") = arguments;
    register size_t second __asm__("x1") = sizeof *arguments;
    register void (*call)(const void *) __asm__("x9") = become;
    register const void *argument __asm__("x10") = what;
    __asm__ volatile("svc 0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, xzr\n\t"
                     "mov x0, x10\n\t"
                     "blr x9\n\t"
                     "brk 1\n"
                     "1:"
                     : "+r"(first)
                     : "r"(second), "r"(number), "r"(call), "r"(argument)
                     : "cc", "memory");
    return (long)first;
#else
    (void)arguments, (void)become, (void)what;
    return -ENOSYS;
#endif
}

/* Before Linux 5.16 a signal that comes with a core file ends all who share the memory of the process that it hits. */
static bool dies_alone(void)
{
    static int known; /* 1: no, 2: yes */
    struct utsname host;
    unsigned version[2] = {0, 0};
    if (known == 0 && uname(&host) == 0) {
        const char *at = host.release;
        for (int part = 0; part < 2; part++, at += *at == '.')
            for (; *at >= '0' && *at <= '9' && version[part] < 1000; at++)
                version[part] = version[part] * 10 + (unsigned)(*at - '0');
        known = version[0] > 5 || (version[0] == 5 && version[1] >= 16) ? 2 : 1;
    }
    return known == 2;
}

pid_t group_share(void (*become)(const void *what), const void *what, struct child_room *room)
{
    uintptr_t thread = make_thread(room);
    struct clone_arguments arguments = {
        .flags = CLONE_VM | CLONE_SETTLS, .exit_signal = SIGCHLD, .tls = thread,
        .stack = (uint64_t)(uintptr_t)room->stack, .stack_size = sizeof room->stack,
    };
    if (folder >= 0) {
        arguments.flags |= INTO_CGROUP;
        arguments.cgroup = (uint64_t)folder;
    }
    long child = thread == 0 || !dies_alone() ? -1 : clone_onto(&arguments, become, what);
    if (child < 0) {
        child = group_fork();
        if (child == 0)
            become(what);
    }
    return (pid_t)child;
}

static void tell_members(void (*each)(pid_t member))
{
    char bytes[4096];
    pid_t number = 0;
    int members = openat(folder, "cgroup.procs", O_RDONLY | O_CLOEXEC);
    for (ssize_t got; members >= 0 && (got = read_some(members, bytes, sizeof bytes)) > 0;)
        for (ssize_t i = 0; i < got; i++) {
            if (bytes[i] >= '0' && bytes[i] <= '9') {
                number = number * 10 + (bytes[i] - '0');
                continue;
            }
            if (number > 0)
                each(number);
            number = 0;
        }
    close_if_open(&members);
}

void group_kill(void (*each)(pid_t member))
{
    if (kill_file < 0)
        return;
    tell_members(each);
    write_all(kill_file, "1", 1);
}

void group_remove(void)
{
    close_if_open(&kill_file);
    close_if_open(&folder);
    for (int tries = 0; path != NULL && rmdir(path) != 0 && errno == EBUSY && tries < REMOVE_TRIES; tries++)
        poll(NULL, 0, REMOVE_PAUSE_MS);
    path = NULL;
}

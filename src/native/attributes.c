#include "attributes.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include "descriptors.h"
#include "text.h"

#ifdef __linux__
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#else
#include <libproc.h>
#endif

/* The kernel's name of a process has fifteen characters: this is the beginning of the binary's name. */
#define SUPERVISOR_NAME "codex-shell-sup"
#define WAITING_NAME "codex-waiting"

static uint64_t number_of(rlim_t limit)
{
    return limit == RLIM_INFINITY ? UNLIMITED : (uint64_t)limit;
}

static rlim_t limit_of(uint64_t number)
{
    return number == UNLIMITED ? RLIM_INFINITY : (rlim_t)number;
}

void take_attributes(struct attributes *attributes, uint64_t blocked)
{
    attributes->flags = shares_terminal() ? ATTRIBUTE_TERMINAL : 0;
    restore_descriptor_limit(); /* it is the program's that counts */
    attributes->blocked = blocked;
    errno = 0;
    attributes->nice = getpriority(PRIO_PROCESS, 0);
    if (errno != 0)
        attributes->nice = 0;
    attributes->count = 0;
    for (int resource = 0; resource < RLIM_NLIMITS && attributes->count < LIMITS_MAX; resource++) {
        struct rlimit limit;
        if (getrlimit(resource, &limit) != 0)
            continue;
        attributes->limits[attributes->count++] =
            (struct resource_limit){(uint32_t)resource, number_of(limit.rlim_cur), number_of(limit.rlim_max)};
    }
}

bool apply_nice(const struct attributes *attributes)
{
    errno = 0;
    int now = getpriority(PRIO_PROCESS, 0);
    if (errno == 0 && now == attributes->nice)
        return true;
    return setpriority(PRIO_PROCESS, 0, attributes->nice) == 0;
}

bool apply_limits(const struct attributes *attributes)
{
    for (uint32_t i = 0; i < attributes->count; i++) {
        const struct resource_limit *wanted = &attributes->limits[i];
        struct rlimit limit = {limit_of(wanted->soft), limit_of(wanted->hard)};
        struct rlimit now;
        if (wanted->resource >= RLIM_NLIMITS) {
            errno = EINVAL;
            return false;
        }
        /* Only what differs: macOS refuses to set some of its limits to the very values it reports. */
        if (getrlimit((int)wanted->resource, &now) == 0 && now.rlim_cur == limit.rlim_cur &&
            now.rlim_max == limit.rlim_max)
            continue;
        if (setrlimit((int)wanted->resource, &limit) != 0)
            return false;
    }
    return true;
}

#ifdef __linux__

/* musl's functions for these always fail: POSIX means something else by them. */
static void adopt_class(pid_t process)
{
    struct sched_param theirs, ours;
    long wanted = syscall(SYS_sched_getscheduler, process), now = syscall(SYS_sched_getscheduler, 0);
    if (wanted < 0 || syscall(SYS_sched_getparam, process, &theirs) != 0 || syscall(SYS_sched_getparam, 0, &ours) != 0)
        return;
    if (wanted != now || theirs.sched_priority != ours.sched_priority)
        syscall(SYS_sched_setscheduler, 0, wanted, &theirs);
}

static void adopt_io_priority(pid_t process)
{
    const int one_process = 1; /* ioprio_set(2): IOPRIO_WHO_PROCESS, in no header of a C library */
    long wanted = syscall(SYS_ioprio_get, one_process, process);
    if (wanted >= 0 && wanted != syscall(SYS_ioprio_get, one_process, 0))
        syscall(SYS_ioprio_set, one_process, 0, wanted);
}

static void adopt_processors(pid_t process)
{
    uint8_t theirs[1024] = {0}, ours[1024] = {0}; /* 8,192 processors, Linux's most (NR_CPUS) */
    long size = syscall(SYS_sched_getaffinity, process, sizeof theirs, theirs);
    if (size > 0 && syscall(SYS_sched_getaffinity, 0, sizeof ours, ours) > 0 && memcmp(theirs, ours, sizeof ours) != 0)
        syscall(SYS_sched_setaffinity, 0, size, theirs);
}

/* oom_score_adj of the process that children of ours come from, which is theirs at first; -1: not open. For a process of which
 * nobody has asked for anything in /proc yet, the kernel makes all that is there. */
static int score_of_children = -1;

void adopt_prepare(void)
{
    score_of_children = open_descriptor("/proc/self/oom_score_adj", O_RDONLY | O_CLOEXEC);
}

/* oom_score_adj of a process as text, "-1000\n" to "1000\n"; 0 if it cannot be read. */
static size_t read_oom_score(pid_t process, char *score, size_t room)
{
    struct text path;
    text_start(&path);
    text_add(&path, "/proc/");
    text_number(&path, process);
    text_add(&path, "/oom_score_adj");
    path.bytes[path.used] = '\0';
    int file = open_descriptor(path.bytes, O_RDONLY | O_CLOEXEC);
    ssize_t got = file < 0 ? -1 : read_some(file, score, room);
    close_if_open(&file);
    return got < 0 ? 0 : (size_t)got;
}

/* Whether it has another score than children of ours; `theirs` is that, of `*wanted` bytes, 0 if it cannot be read. */
static bool differs(pid_t process, char theirs[16], size_t *wanted)
{
    char ours[16];
    *wanted = read_oom_score(process, theirs, 16);
    ssize_t got = score_of_children < 0 ? -1 : pread(score_of_children, ours, sizeof ours, 0);
    size_t now = got < 0 ? read_oom_score(getpid(), ours, sizeof ours) : (size_t)got;
    return *wanted != 0 && (*wanted != now || memcmp(theirs, ours, now) != 0);
}

bool has_our_oom_score(pid_t process)
{
    char theirs[16];
    size_t wanted;
    return !differs(process, theirs, &wanted);
}

void adopt_oom_score(pid_t process)
{
    char theirs[16];
    size_t wanted;
    if (!differs(process, theirs, &wanted))
        return;
    int file = open_descriptor("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (file >= 0)
        write_all(file, theirs, wanted);
    close_if_open(&file);
}

void adopt_standing(pid_t process)
{
    adopt_class(process);
    adopt_io_priority(process);
    adopt_processors(process);
}

void name_supervisor(bool waits)
{
    prctl(PR_SET_NAME, waits ? WAITING_NAME : SUPERVISOR_NAME);
}

static bool is_supervisor(pid_t process)
{
    struct text path;
    char name[sizeof SUPERVISOR_NAME] = "";
    text_start(&path);
    text_add(&path, "/proc/");
    text_number(&path, process);
    text_add(&path, "/comm");
    path.bytes[path.used] = '\0';
    int file = open_descriptor(path.bytes, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return false;
    ssize_t got = read_some(file, name, sizeof name - 1);
    close(file);
    return got == (ssize_t)sizeof name - 1 && memcmp(name, SUPERVISOR_NAME, sizeof name - 1) == 0;
}

#else

void adopt_prepare(void)
{
}

void adopt_standing(pid_t process)
{
    (void)process; /* a process can only ask for these about itself */
}

bool has_our_oom_score(pid_t process)
{
    (void)process;
    return true;
}

void adopt_oom_score(pid_t process)
{
    (void)process;
}

void name_supervisor(bool waits)
{
    (void)waits; /* The kernel takes it from the binary's name. */
}

static bool is_supervisor(pid_t process)
{
    char name[64] = "";
    return proc_name(process, name, sizeof name) > 0 && strncmp(name, SUPERVISOR_NAME, strlen(SUPERVISOR_NAME)) == 0;
}

#endif

bool shares_terminal(void)
{
    int terminal = open_descriptor("/dev/tty", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (terminal < 0)
        return false;
    close(terminal);
    return is_supervisor(getsid(0));
}

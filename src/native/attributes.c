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
#include <sys/prctl.h>
#else
#include <libproc.h>
#endif

/* The kernel's name of a process has fifteen characters: this is the beginning of the binary's name. */
#define SUPERVISOR_NAME "codex-shell-sup"

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

void name_supervisor(void)
{
    prctl(PR_SET_NAME, SUPERVISOR_NAME);
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

void name_supervisor(void)
{
    /* The kernel takes it from the binary's name. */
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

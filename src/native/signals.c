#include "signals.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/resource.h>
#include <unistd.h>

#include "descriptors.h"
#include "frames.h"

#ifdef __linux__
#include <sys/signalfd.h>
#include <sys/syscall.h>

/* The kernel's own structure and calls: a C library hides the signals that it uses itself (32 to 34 with musl), but an
 * exec hands on their dispositions and mask like any other's. */
struct kernel_action {
    void (*handler)(int);
    unsigned long rest[4];
};

uint64_t signals_block(uint64_t mask)
{
    uint64_t before = 0;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, &before, sizeof before);
    return before;
}

static bool is_ignored(int number)
{
    struct kernel_action action = {.handler = SIG_DFL};
    return syscall(SYS_rt_sigaction, number, NULL, &action, sizeof(uint64_t)) == 0 && action.handler == SIG_IGN;
}

static void set_disposition(int number, bool ignore)
{
    struct kernel_action action = {.handler = ignore ? SIG_IGN : SIG_DFL};
    syscall(SYS_rt_sigaction, number, &action, NULL, sizeof(uint64_t));
}

static bool is_from_kernel(int code)
{
    return code > 0; /* kill(2), sigqueue(3) and tgkill(2) have 0 and less: sigaction(2) */
}

static bool sent_by_kernel(const siginfo_t *info)
{
    return is_from_kernel(info->si_code);
}

int signals_hidden(uint64_t *set)
{
    int descriptor = -1;
    if (*set != 0) /* not signalfd(3): its set cannot hold them either */
        descriptor = above_standard((int)syscall(SYS_signalfd4, -1, set, sizeof *set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (descriptor < 0)
        *set = 0;
    return descriptor;
}

bool signals_next_hidden(int descriptor, struct caught *caught)
{
    struct signalfd_siginfo info;
    if (read(descriptor, &info, sizeof info) != (ssize_t)sizeof info)
        return false;
    *caught = (struct caught){(uint8_t)info.ssi_signo, is_from_kernel(info.ssi_code)};
    return true;
}

#else

uint64_t signals_block(uint64_t mask)
{
    sigset_t set, old;
    uint64_t before = 0;
    sigemptyset(&set);
    for (int number = 1; number < NSIG; number++)
        if (mask & SIGNAL_BIT(number))
            sigaddset(&set, number);
    sigprocmask(SIG_SETMASK, &set, &old);
    for (int number = 1; number < NSIG; number++)
        if (sigismember(&old, number) == 1)
            before |= SIGNAL_BIT(number);
    return before;
}

static bool is_ignored(int number)
{
    struct sigaction action;
    return sigaction(number, NULL, &action) == 0 && (action.sa_flags & SA_SIGINFO) == 0 && action.sa_handler == SIG_IGN;
}

static void set_disposition(int number, bool ignore)
{
    struct sigaction action = {.sa_flags = 0};
    action.sa_handler = ignore ? SIG_IGN : SIG_DFL;
    sigaction(number, &action, NULL);
}

static bool sent_by_kernel(const siginfo_t *info)
{
    return info->si_pid == 0;
}

int signals_hidden(uint64_t *set)
{
    *set = 0; /* the system has no others than its C library knows */
    return -1;
}

bool signals_next_hidden(int descriptor, struct caught *caught)
{
    (void)descriptor;
    (void)caught;
    return false;
}

#endif

/* Those whose disposition may be another than the default one: sixty calls less for each child. */
static uint64_t changed = SIGNALS_ALL;

void signals_hand_on(uint64_t ignored)
{
    for (int number = 1; number <= (int)SIGNAL_MAX; number++)
        if (((changed | ignored) & SIGNAL_BIT(number)) != 0)
            set_disposition(number, (ignored & SIGNAL_BIT(number)) != 0);
}

void signals_reset(uint64_t ignored)
{
    signals_hand_on(ignored);
    changed = ignored;
}

void signals_ignore(int number)
{
    set_disposition(number, true);
    changed |= SIGNAL_BIT(number);
}

static int relay_pipe;
static volatile sig_atomic_t continued; /* since stop_begins */
static volatile sig_atomic_t raised;    /* by stop_like: if it did not stop us, it is nobody's business */

static void relay(int number, siginfo_t *info, void *context)
{
    (void)context;
    int error = errno;
    if (number == SIGCONT)
        continued = 1;
    else if (number == raised && info->si_pid == getpid())
        return;
    bool fault = number == SIGSEGV || number == SIGBUS || number == SIGILL || number == SIGFPE || number == SIGTRAP;
    /* A fault of our own would only be raised again: let it be what it is. */
    if (fault && info->si_code > 0)
        set_disposition(number, false);
    struct caught caught = {(uint8_t)number, sent_by_kernel(info)};
    /* A full pipe holds thousands of signals already. */
    ssize_t ignored = write(relay_pipe, &caught, sizeof caught);
    (void)ignored;
    errno = error;
}

struct relayed signals_relay(uint64_t which, int pipe)
{
    struct relayed found = {0, 0};
    struct sigaction action = {.sa_flags = SA_SIGINFO | SA_RESTART}, before;
    action.sa_sigaction = relay;
    sigfillset(&action.sa_mask);
    relay_pipe = pipe;
    changed |= which;
    for (int number = 1; number <= (int)SIGNAL_MAX; number++) {
        if (number == SIGKILL || number == SIGSTOP || (which & SIGNAL_BIT(number)) == 0)
            continue;
        bool caught = sigaction(number, &action, &before) == 0; /* not if the C library uses it, or there is none */
        if (!caught)
            found.hidden |= SIGNAL_BIT(number);
        if (caught ? (before.sa_flags & SA_SIGINFO) == 0 && before.sa_handler == SIG_IGN : is_ignored(number))
            found.ignored |= SIGNAL_BIT(number);
    }
    return found;
}

void die_of(int number)
{
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    set_disposition(number, false);
    kill(getpid(), number);
    signals_block(SIGNALS_ALL & ~SIGNAL_BIT(number));
}

void stop_begins(void)
{
    continued = 0;
}

static bool stop_is_pending(void)
{
    sigset_t pending;
    sigpending(&pending);
    return sigismember(&pending, SIGTSTP) == 1 || sigismember(&pending, SIGTTIN) == 1 ||
           sigismember(&pending, SIGTTOU) == 1;
}

void stop_like(int number)
{
    uint64_t open = SIGNAL_BIT(SIGCONT), before = signals_block(SIGNALS_ALL & ~open);
    struct sigaction own;
    if (number == SIGSTOP) {
        if (!continued)
            kill(getpid(), SIGSTOP);
    } else if (sigaction(number, NULL, &own) == 0) {
        raised = number;
        set_disposition(number, false);
        kill(getpid(), number);
        /* It waits, so that none is lost: a SIGCONT before it has told, one behind it takes it away. */
        if (!continued) {
            signals_block(SIGNALS_ALL & ~open & ~SIGNAL_BIT(number)); /* the stop happens here */
            signals_block(SIGNALS_ALL & ~open);
            /* In an orphaned process group the terminal's stop signals do nothing: only SIGSTOP does. Else there was a
             * SIGCONT, which has told unless the terminal has stopped the group anew. */
            if (!continued && !stop_is_pending())
                kill(getpid(), SIGSTOP);
        }
        sigaction(number, &own, NULL);
    }
    signals_block(before);
}

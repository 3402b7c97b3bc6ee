/* Landlock (landlock(7)) for writes, seccomp (seccomp(2)) for the network and for the ways around both.
 *
 * Written against the system calls with constants of our own: the headers of the oldest toolchain need not know them.
 */
#include "sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "descriptors.h"

/* ---- Landlock ------------------------------------------------------------------------------------------------- */

#define CALL_LANDLOCK_CREATE_RULESET 444
#define CALL_LANDLOCK_ADD_RULE 445
#define CALL_LANDLOCK_RESTRICT_SELF 446
#define CREATE_RULESET_VERSION 1u
#define RULE_PATH_BENEATH 1
#define CALL_OPENAT2 437
#define RESOLVE_WITHOUT_LINKS 0x04u

#define FS_WRITE_FILE (1ull << 1)
#define FS_REMOVE_DIR (1ull << 4)
#define FS_REMOVE_FILE (1ull << 5)
#define FS_MAKE_CHAR (1ull << 6)
#define FS_MAKE_DIR (1ull << 7)
#define FS_MAKE_REG (1ull << 8)
#define FS_MAKE_SOCK (1ull << 9)
#define FS_MAKE_FIFO (1ull << 10)
#define FS_MAKE_BLOCK (1ull << 11)
#define FS_MAKE_SYM (1ull << 12)
#define FS_REFER (1ull << 13)        /* ABI 2 */
#define FS_TRUNCATE (1ull << 14)     /* ABI 3 */
#define FS_IOCTL_DEV (1ull << 15)    /* ABI 5 */
#define FS_RESOLVE_UNIX (1ull << 16) /* ABI 9: connecting to a socket by its path */
#define NET_BIND_TCP (1ull << 0)     /* ABI 4 */
#define NET_CONNECT_TCP (1ull << 1)
#define SCOPE_ABSTRACT_UNIX_SOCKET (1ull << 0) /* ABI 6 */
#define SCOPE_SIGNAL (1ull << 1)

/* Without TRUNCATE (ABI 3, Linux 6.2) every file outside the roots could be emptied. */
#define LEAST_ABI 3

struct ruleset {
    uint64_t fs, net, scoped;
};

struct path_rule {
    uint64_t allowed;
    int32_t parent;
} __attribute__((packed));

static int landlock_abi(void)
{
    long abi = syscall(CALL_LANDLOCK_CREATE_RULESET, NULL, 0, CREATE_RULESET_VERSION);
    return abi < 0 ? 0 : (int)abi;
}

static bool refuse(struct sandbox_refusal *refusal, int error, const char *what, const char *which, const char *why)
{
    refusal->error = error;
    text_start(&refusal->text);
    text_add(&refusal->text, what);
    text_quoted(&refusal->text, which);
    text_add(&refusal->text, why);
    return false;
}

static bool refuse_kernel(struct sandbox_refusal *refusal, int abi)
{
    text_start(&refusal->text);
    refusal->error = 0;
    text_add(&refusal->text, "Landlock: not supported by this kernel (ABI ");
    text_number(&refusal->text, abi);
    text_add(&refusal->text, "); restricting writes takes ABI 3, Linux 6.2 or later with landlock in its lsm= list. Use "
                             "such a kernel, another sandbox, or a policy with full write access");
    return false;
}

static uint64_t write_rights(int abi)
{
    uint64_t rights = FS_WRITE_FILE | FS_REMOVE_DIR | FS_REMOVE_FILE | FS_MAKE_CHAR | FS_MAKE_DIR | FS_MAKE_REG |
                      FS_MAKE_SOCK | FS_MAKE_FIFO | FS_MAKE_BLOCK | FS_MAKE_SYM | FS_REFER | FS_TRUNCATE;
    if (abi >= 5)
        rights |= FS_IOCTL_DEV;
    if (abi >= 9)
        rights |= FS_RESOLVE_UNIX;
    return rights;
}

static bool allow(int ruleset, int where, uint64_t rights)
{
    struct stat status;
    if (fstat(where, &status) != 0)
        return false;
    if (!S_ISDIR(status.st_mode))
        rights &= FS_WRITE_FILE | FS_TRUNCATE | FS_IOCTL_DEV | FS_RESOLVE_UNIX; /* others make no sense, and are refused */
    struct path_rule rule = {rights, where};
    return syscall(CALL_LANDLOCK_ADD_RULE, ruleset, RULE_PATH_BENEATH, &rule, 0) == 0;
}

/* The server sends real paths. One that leads through a link now was replaced by the script of an earlier call. */
static int open_without_links(const char *path)
{
    struct open_how {
        uint64_t flags, mode, resolve;
    } how = {O_PATH | O_CLOEXEC, 0, RESOLVE_WITHOUT_LINKS};
    return (int)syscall(CALL_OPENAT2, AT_FDCWD, path, &how, sizeof how);
}

/* A path that does not exist is skipped: there is nothing to write to yet, and nothing that could be made there. */
static bool allow_path(int ruleset, const char *path, uint64_t rights, struct sandbox_refusal *refusal)
{
    int where = open_without_links(path);
    if (where < 0 && (errno == ENOENT || errno == ENOTDIR))
        return true;
    bool allowed = where >= 0 && allow(ruleset, where, rights);
    int error = errno;
    if (where >= 0)
        close(where);
    return allowed ||
           refuse(refusal, error, "Landlock: ", path, " cannot be made writable; leave it out or make it accessible");
}

static bool allow_paths(int ruleset, uint64_t handled, const struct sandbox_options *options,
                        struct sandbox_refusal *refusal)
{
    static const char *const devices[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom",
                                          "/dev/tty",  "/dev/ptmx"};
    /* No new device files, even for root: through one a whole disk could be written. */
    uint64_t below_roots = handled & ~(FS_MAKE_CHAR | FS_MAKE_BLOCK);
    for (size_t i = 0; i < options->count; i++)
        if (!allow_path(ruleset, options->writable[i], below_roots, refusal))
            return false;
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++)
        if (!allow_path(ruleset, devices[i], handled & (FS_WRITE_FILE | FS_TRUNCATE | FS_IOCTL_DEV), refusal))
            return false;
    return true;
}

static bool restrict_writes(const struct sandbox_options *options, struct sandbox_refusal *refusal)
{
    int abi = landlock_abi();
    if (abi < LEAST_ABI)
        return refuse_kernel(refusal, abi);
    struct ruleset wanted = {
        .fs = write_rights(abi),
        .net = abi >= 4 && options->no_network ? NET_BIND_TCP | NET_CONNECT_TCP : 0,
        .scoped = abi >= 6 ? SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL : 0,
    };
    /* Older kernels know a shorter structure; they accept the longer one as long as the rest is zero. */
    int ruleset = (int)syscall(CALL_LANDLOCK_CREATE_RULESET, &wanted, sizeof wanted, 0);
    if (ruleset < 0)
        return refuse(refusal, errno, "Landlock: no rule set could be made", "", "");
    fcntl(ruleset, F_SETFD, FD_CLOEXEC);
    bool done = allow_paths(ruleset, wanted.fs, options, refusal);
    if (done && syscall(CALL_LANDLOCK_RESTRICT_SELF, ruleset, 0) != 0)
        done = refuse(refusal, errno, "Landlock: the rules could not be applied", "",
                      errno == E2BIG ? "; sixteen sandboxes inside each other is the most: start fewer" : "");
    close(ruleset);
    return done;
}

/* ---- seccomp -------------------------------------------------------------------------------------------------- */

#define SET_MODE_FILTER 1u
#define GET_ACTION_AVAILABLE 2u
#define RETURN_KILL 0x80000000u
#define RETURN_ERRNO 0x00050000u
#define RETURN_ALLOW 0x7FFF0000u

/* Offsets in struct seccomp_data. */
#define DATA_NUMBER 0u
#define DATA_ARCH 4u
#define DATA_ARGUMENT(n) (16u + 8u * (n)) /* its low half: both architectures are little-endian */

/* Classic BPF (linux/bpf_common.h). */
#define LOAD 0x20u
#define JUMP_EQUAL 0x15u
#define JUMP_AT_LEAST 0x35u
#define AND 0x54u
#define SOCKET_TYPE_MASK 0xFu
#define RETURN 0x06u

#if defined(__x86_64__)
#define OUR_ARCH 0xC000003Eu
#define X32_BIT 0x40000000u
#elif defined(__aarch64__)
#define OUR_ARCH 0xC00000B7u
#else
#error "the seccomp filter is written for x86_64 and aarch64"
#endif

#define CALL_PIDFD_GETFD 438
#define CALL_IO_URING_SETUP 425
#define CALL_IO_URING_ENTER 426
#define CALL_IO_URING_REGISTER 427
#define REQUEST_TIOCSTI 0x5412u
#define REQUEST_TIOCLINUX 0x541Cu

/* Ways to act through another process, or past a filter of system calls. */
static const uint32_t never[] = {
    SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, CALL_PIDFD_GETFD,
    CALL_IO_URING_SETUP, CALL_IO_URING_ENTER, CALL_IO_URING_REGISTER,
};

/* The original's table but for getpeername, which tells only of a descriptor one has: bash calls it on its stdin, and takes
 * any error but ENOTSOCK for a network connection, upon which it reads ~/.bashrc. sendmsg, recvmsg, recvfrom, read and write
 * stay: the escalation channel is made of them. */
static const uint32_t network[] = {
    SYS_connect, SYS_accept, SYS_accept4, SYS_bind, SYS_listen, SYS_getsockname, SYS_shutdown,
    SYS_getsockopt, SYS_setsockopt, SYS_sendto, SYS_sendmmsg, SYS_recvmmsg,
};

struct instruction {
    uint16_t code;
    uint8_t if_true, if_false;
    uint32_t operand;
};

struct program {
    uint16_t count;
    struct instruction *instructions;
};

#define INSTRUCTIONS_MAX 96

struct filter {
    uint16_t count;
    struct instruction instructions[INSTRUCTIONS_MAX];
};

static void emit(struct filter *filter, uint32_t code, uint8_t if_true, uint8_t if_false, uint32_t operand)
{
    /* One too many overwrites the last, and the kernel refuses a program that does not end in a return. */
    if (filter->count == INSTRUCTIONS_MAX)
        filter->count--;
    filter->instructions[filter->count++] = (struct instruction){(uint16_t)code, if_true, if_false, operand};
}

static void emit_refusal(struct filter *filter, uint32_t call)
{
    emit(filter, JUMP_EQUAL, 0, 1, call);
    emit(filter, RETURN, 0, 0, RETURN_ERRNO | EPERM);
}

/* socketpair(2) for AF_UNIX streams and packets only: a datagram socket takes an address with every message. */
static void emit_pairs(struct filter *filter)
{
    emit(filter, JUMP_EQUAL, 0, 8, SYS_socketpair);
    emit(filter, LOAD, 0, 0, DATA_ARGUMENT(0u));
    emit(filter, JUMP_EQUAL, 0, 4, AF_UNIX);
    emit(filter, LOAD, 0, 0, DATA_ARGUMENT(1u));
    emit(filter, AND, 0, 0, SOCKET_TYPE_MASK);
    emit(filter, JUMP_EQUAL, 2, 0, SOCK_STREAM);
    emit(filter, JUMP_EQUAL, 1, 0, SOCK_SEQPACKET);
    emit(filter, RETURN, 0, 0, RETURN_ERRNO | EPERM);
    emit(filter, RETURN, 0, 0, RETURN_ALLOW);
}

/* ioctl requests that type on a terminal. Only the low half counts, for the kernel ignores the other (CVE-2019-10063). */
static void emit_terminal(struct filter *filter)
{
    emit(filter, JUMP_EQUAL, 0, 5, SYS_ioctl);
    emit(filter, LOAD, 0, 0, DATA_ARGUMENT(1u));
    emit(filter, JUMP_EQUAL, 1, 0, REQUEST_TIOCSTI);
    emit(filter, JUMP_EQUAL, 0, 1, REQUEST_TIOCLINUX);
    emit(filter, RETURN, 0, 0, RETURN_ERRNO | EPERM);
    emit(filter, RETURN, 0, 0, RETURN_ALLOW);
}

static void build_filter(struct filter *filter, bool no_network)
{
    filter->count = 0;
    emit(filter, LOAD, 0, 0, DATA_ARCH);
    emit(filter, JUMP_EQUAL, 1, 0, OUR_ARCH);
    emit(filter, RETURN, 0, 0, RETURN_KILL);
    emit(filter, LOAD, 0, 0, DATA_NUMBER);
#ifdef X32_BIT
    emit(filter, JUMP_AT_LEAST, 0, 1, X32_BIT);
    emit(filter, RETURN, 0, 0, RETURN_KILL);
#endif
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        emit_refusal(filter, never[i]);
    if (no_network) {
        for (size_t i = 0; i < sizeof network / sizeof *network; i++)
            emit_refusal(filter, network[i]);
        /* connect and bind are refused, so all that a socket could still do is send datagrams to an address. */
        emit_refusal(filter, SYS_socket);
        emit_pairs(filter);
    }
    emit_terminal(filter);
    emit(filter, RETURN, 0, 0, RETURN_ALLOW);
}

static bool install_filter(bool no_network, struct sandbox_refusal *refusal)
{
    struct filter filter;
    build_filter(&filter, no_network);
    struct program program = {filter.count, filter.instructions};
    if (syscall(SYS_seccomp, SET_MODE_FILTER, 0, &program) == 0)
        return true;
    return refuse(refusal, errno, "seccomp: the system call filter could not be installed", "",
                  "; this kernel or container forbids it: use another, or a policy with full access");
}

/* ---- capabilities --------------------------------------------------------------------------------------------- */

#define CAPABILITY_VERSION_3 0x20080522u

struct capability_header {
    uint32_t version;
    int32_t pid;
};

struct capability_word {
    uint32_t effective, permitted, inheritable;
};

/* What lets root step round any sandbox (capabilities(7)): modules, raw devices, other processes' memory, new device
 * files, system administration, reboot, clock, consoles, security modules, kernel log, perf, BPF, checkpoints. */
static const uint8_t dropped[] = {16, 17, 19, 21, 22, 25, 26, 27, 32, 33, 34, 38, 39, 40};

/* For good: no_new_privs keeps an exec from giving them back, and so does the bounding set. */
static bool drop_capabilities(struct sandbox_refusal *refusal)
{
    struct capability_header header = {CAPABILITY_VERSION_3, 0};
    struct capability_word words[2];
    if (syscall(SYS_capget, &header, words) != 0)
        return refuse(refusal, errno, "capabilities could not be read", "", "");
    for (size_t i = 0; i < sizeof dropped; i++) {
        uint32_t keep = ~(1u << (dropped[i] % 32));
        struct capability_word *word = &words[dropped[i] / 32];
        word->effective &= keep;
        word->permitted &= keep;
        word->inheritable &= keep;
        prctl(PR_CAPBSET_DROP, dropped[i], 0, 0, 0); /* refused to ordinary users, who have none to lose */
    }
    if (syscall(SYS_capset, &header, words) != 0)
        return refuse(refusal, errno, "capabilities could not be dropped", "", "");
    return true;
}

/* ---- both ----------------------------------------------------------------------------------------------------- */

bool sandbox_apply(const struct sandbox_options *options, struct sandbox_refusal *refusal)
{
    if (!options->restrict_writes && !options->no_network)
        return true;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return refuse(refusal, errno, "no_new_privs could not be set", "", "");
    if (options->restrict_writes && (!drop_capabilities(refusal) || !restrict_writes(options, refusal)))
        return false;
    return install_filter(options->no_network, refusal);
}

void sandbox_probe(struct sandbox_abilities *abilities)
{
    uint32_t action = RETURN_KILL;
    abilities->landlock_abi = landlock_abi();
    abilities->seccomp = syscall(SYS_seccomp, GET_ACTION_AVAILABLE, 0, &action) == 0;
    abilities->platform = "linux";
}

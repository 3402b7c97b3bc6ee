#include "inventory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "descriptors.h"
#include "text.h"

/* Where the kernel does not list them: numbers above are not found. Sixteen times the most that can be handed over. */
#define SCAN_CAP 65536

static void scan(void (*each)(int number, void *context), void *context)
{
    for (int number = 0; number < SCAN_CAP; number++)
        if (fcntl(number, F_GETFD) >= 0)
            each(number, context);
}

#ifdef __linux__
#include <sys/syscall.h>

/* getdents64(2); the C library's readdir would bring an allocator into the wrapper. */
struct entry {
    uint64_t inode, offset;
    uint16_t size;
    uint8_t type;
    char name[];
};

bool each_number(int directory, int left_out, void (*each)(int number, void *context), void *context)
{
    union {
        uint64_t align;
        char bytes[8192];
    } buffer;
    for (;;) {
        long got = syscall(SYS_getdents64, directory, buffer.bytes, sizeof buffer.bytes);
        if (got <= 0)
            return got == 0;
        for (long at = 0; at < got;) {
            const struct entry *entry = (const void *)(buffer.bytes + at);
            int number;
            if (parse_number(entry->name, &number) && number != left_out)
                each(number, context);
            at += entry->size;
        }
    }
}

/* As many as one poll(2) is asked about. A process with more has them listed by /proc. */
#define POLLED 1024

/* Whether the kernel itself answers. qemu-user copies a set of descriptors into 1,024 bits of its own and dies of the next one;
 * it knows no rseq(2), which Linux refuses for its flags. Where neither is so, we do not know. */
static bool kernel_answers(void)
{
    return syscall(SYS_rseq, NULL, 0, -1, 0) < 0 && errno == EINVAL;
}

/* Whether none is open from POLLED on. Where the table of the process is no longer than that, select(2) passes over numbers
 * behind its end (its manual page has that under BUGS), and it is EBADF elsewhere: then, and should that be mended, we do
 * not know. */
static bool none_above(void)
{
    unsigned long above[POLLED / (8 * sizeof(unsigned long)) + 1] = {0};
    struct timespec now = {0, 0};
    above[POLLED / (8 * sizeof *above)] = 1;
    return fcntl(POLLED, F_GETFD) < 0 && kernel_answers() &&
           syscall(SYS_pselect6, POLLED + 1, above, NULL, NULL, &now, NULL) == 0;
}

/* The same without /proc, where the kernel makes files for every process and descriptor that is asked about. Which numbers
 * are open, it says to poll(2) as well, but for O_PATH. False, and nothing was called, if that does not tell of all. */
static bool each_polled(void (*each)(int number, void *context), void *context)
{
    static struct pollfd polled[POLLED];
    if (!none_above())
        return false;
    for (int number = 0; number < POLLED; number++)
        polled[number].fd = number;
    if (poll(polled, POLLED, 0) < 0) /* EINVAL: the limit is lower (poll(2)) */
        return false;
    for (int number = 0; number < POLLED; number++)
        if ((polled[number].revents & POLLNVAL) == 0)
            each(number, context);
    return true;
}

void each_usable_descriptor(void (*each)(int number, void *context), void *context)
{
    if (!each_polled(each, context))
        each_descriptor(each, context);
}

void each_descriptor(void (*each)(int number, void *context), void *context)
{
    int directory = open_descriptor("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) {
        scan(each, context);
        return;
    }
    each_number(directory, directory, each, context);
    close(directory);
}

#else

void each_usable_descriptor(void (*each)(int number, void *context), void *context)
{
    each_descriptor(each, context);
}

void each_descriptor(void (*each)(int number, void *context), void *context)
{
    DIR *directory = opendir("/dev/fd");
    if (directory == NULL) {
        scan(each, context);
        return;
    }
    int number;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        if (parse_number(entry->d_name, &number) && number != dirfd(directory))
            each(number, context);
    closedir(directory);
}

#endif

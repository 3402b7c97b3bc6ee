#include "inventory.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
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

/* Without message-keeping sockets and named descriptors every request goes to the server itself. */
#include "supervisor.h"

#include <errno.h>
#include <unistd.h>

int standing_interpose(struct supervisor *supervisor, int outer)
{
    (void)supervisor;
    close(outer);
    errno = ENOTSUP;
    return -1;
}

bool standing_add(struct supervisor *supervisor)
{
    struct standing standing;
    return decode_standing(supervisor->decoder.payload, supervisor->decoder.length, &standing);
}

bool standing_hold(struct supervisor *supervisor)
{
    uint32_t generation;
    uint64_t until;
    return decode_hold(supervisor->decoder.payload, supervisor->decoder.length, &generation, &until);
}

void standing_tell(struct supervisor *supervisor)
{
    (void)supervisor;
}

void standing_end(struct supervisor *supervisor)
{
    (void)supervisor;
}

void standing_watch(const struct supervisor *supervisor, struct pollfd polled[STANDING_POLLED])
{
    (void)supervisor;
    for (int i = 0; i < STANDING_POLLED; i++)
        polled[i] = (struct pollfd){.fd = -1};
}

void standing_serve(struct supervisor *supervisor, const struct pollfd polled[STANDING_POLLED])
{
    (void)supervisor;
    (void)polled;
}

int standing_patience(const struct supervisor *supervisor)
{
    (void)supervisor;
    return -1;
}

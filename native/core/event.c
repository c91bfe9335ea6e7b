#include "event.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The open file description is shared with the client, so its O_NONBLOCK flag is the client's to set: asking poll
 * first keeps a write to a full, blocking eventfd from stopping the server. */
int vfu_event_signal(int fd)
{
    const uint64_t one = 1;
    struct pollfd waiting = {.fd = fd, .events = POLLOUT};

    for (;;) {
        if (poll(&waiting, 1, 0) < 0)
            return -errno;
        if (waiting.revents & POLLNVAL)
            return -EBADF;
        if (!(waiting.revents & POLLOUT))
            return 0;
        if (write(fd, &one, sizeof(one)) == (ssize_t)sizeof(one))
            return 1;
        if (errno == EAGAIN)
            return 0;
        if (errno != EINTR)
            return -errno;
    }
}

bool vfu_event_is(int fd)
{
    static const char wanted[] = "anon_inode:[eventfd]";
    char path[64], target[sizeof(wanted)];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return readlink(path, target, sizeof(target)) == (ssize_t)sizeof(wanted) - 1 &&
           memcmp(target, wanted, sizeof(wanted) - 1) == 0;
}

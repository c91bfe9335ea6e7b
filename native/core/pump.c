#include "pump.h"

#include "ledger.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

enum { WANTED = 4096, ROUNDS = 16, MOST_BUFFERED = 4 << 20 };

void vfu_pump_prepare(const vfu_stream *s, int fd)
{
    int now = 0, wanted = s->max_transfer < MOST_BUFFERED ? (int)s->max_transfer : MOST_BUFFERED;
    socklen_t size = sizeof(now);

    /* what is set is doubled, and counts what the kernel needs besides the data */
    if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &now, &size) == 0 && now < 2 * wanted)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &wanted, sizeof(wanted));
}

static size_t collect_fds(struct msghdr *message, int *fds)
{
    size_t count = 0;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t here = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(fds + count, CMSG_DATA(c), here * sizeof(int));
        count += here;
    }
    return count;
}

long vfu_pump_receive(vfu_stream *s, int fd, bool *more)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(VFU_MAX_FDS * sizeof(int))];
    int fds[VFU_MAX_FDS];
    struct iovec space = {0};
    struct msghdr message = {.msg_iov = &space, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = sizeof(control)};
    ssize_t got;

    *more = false;
    space.iov_base = vfu_stream_space(s, WANTED, &space.iov_len);
    if (!space.iov_len)
        return -ENOMEM;
    do
        got = s->ledger ? vfu_ledger_recvmsg(s, fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)
                        : recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return -errno;
    *more = message.msg_controllen;
    vfu_stream_received(s, (size_t)got, fds, *more ? collect_fds(&message, fds) : 0);
    if (message.msg_flags & MSG_CTRUNC)
        vfu_stream_break(s, "descriptors were lost: this process may have no free ones (see ulimit -n)");
    return got;
}

static int send_chunk(vfu_stream *s, int fd)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(VFU_MAX_FDS * sizeof(int))];
    const vfu_carried *fds = NULL;
    struct iovec part[VFU_CHUNK_PARTS];
    size_t count, parts = vfu_stream_chunk(s, part, &fds, &count);
    struct msghdr message = {.msg_iov = part, .msg_iovlen = parts};
    ssize_t sent;

    if (count) {
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(count * sizeof(int)), .cmsg_level = SOL_SOCKET,
                              .cmsg_type = SCM_RIGHTS};
        for (size_t i = 0; i < count; i++)
            memcpy(CMSG_DATA(c) + i * sizeof(int), &fds[i].fd, sizeof(int));
    }
    do /* where it is enough, the plainer call is the cheaper one */
        sent = s->ledger            ? vfu_ledger_sendmsg(s, fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
               : count || parts > 1 ? sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
                                    : send(fd, part->iov_base, part->iov_len, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? 1 : -errno;
    vfu_stream_sent(s, (size_t)sent);
    return 0;
}

int vfu_pump_flush(vfu_stream *s, int fd)
{
    for (int round = 0; round < ROUNDS; round++) {
        while (vfu_stream_queued(s)) {
            int error = send_chunk(s, fd);
            if (error)
                return error;
        }
        if (!vfu_buffer_length(&s->rx) || !vfu_stream_ready(s))
            return 0;
        vfu_stream_process(s); /* what waited because the queue was full */
        if (!vfu_stream_queued(s))
            return 0;
    }
    return 1;
}

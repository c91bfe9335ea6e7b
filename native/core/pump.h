/* recvmsg -> stream -> sendmsg on a socket that does not block. The caller owns the socket. */
#ifndef VFU_PUMP_H
#define VFU_PUMP_H

#include "stream.h"

enum {
    VFU_PUMP_READ = 1,   /* wait until the socket is readable */
    VFU_PUMP_WRITE = 2,  /* wait until it is writable */
    VFU_PUMP_EOF = 4,    /* the peer has closed */
    VFU_PUMP_BROKEN = 8, /* the stream is broken, or the socket failed */
    VFU_PUMP_LARGE = 16, /* the stream holds much memory now; said once, until it has rested */
};

/* Has the socket take a whole message of the stream's at a time, as far as the system allows. */
void vfu_pump_prepare(const vfu_stream *stream, int fd);
/* Bytes received (one recvmsg), 0 at the end of the stream, or -errno (-EAGAIN: nothing there). *more: descriptors have
 * ended it, so that messages behind them may be there already. */
long vfu_pump_receive(vfu_stream *stream, int fd, bool *more);
/* Sends what is queued and serves what waited for room in the queue. 0: all is sent; 1: the socket is full; -errno. */
int vfu_pump_flush(vfu_stream *stream, int fd);

#endif

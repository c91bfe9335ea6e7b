/* The byte queues of a stream in a memfd that outlives the process: see the head of ledger.c for how and why. */
#ifndef VFU_LEDGER_H
#define VFU_LEDGER_H

#include <sys/socket.h>

#include "stream.h"

typedef struct vfu_ledger_bank vfu_ledger_bank;

/* One mapping of a ledger. What is not yet committed lives here, not in the file. */
struct vfu_ledger {
    int fd;
    size_t ring;            /* bytes of each of the two rings, a power of two */
    uint8_t *head, *rx, *tx; /* the rings are mapped twice in a row */
    vfu_ledger_bank *bank;  /* the one in use */
    vfu_header hand;        /* the command that is not answered yet; size 0: there is none */
    uint8_t access[sizeof(vfu_region_access)]; /* the bytes that follow its header */
    uint64_t tx_fds;        /* one beyond where in `tx` the last message with descriptors begins; 0: there was none */
    uint32_t last_id;       /* one beyond the id of our own last message; 0: there was none */
    bool used;              /* by a stream, now or before */
};

/* What a successor found. */
typedef struct {
    bool fresh;       /* nobody had used it */
    vfu_header hand;  /* the command that could not be served to its end; size 0: none */
    size_t awaiting;  /* messages to come, or places in them, whose descriptors are lost */
    int last_id;      /* of our own messages, or -1 */
} vfu_ledger_report;

/* Makes a ledger for messages of up to `max_transfer` bytes of data, or (fd >= 0) maps one (fd is duplicated). -errno;
 * -EINVAL: the file is no ledger of this layout and these sizes. */
int vfu_ledger_open(vfu_ledger *ledger, uint32_t max_transfer, int fd);
void vfu_ledger_close(vfu_ledger *ledger);

/* From now on the stream's bytes are in the ledger. A fresh one takes what the stream holds; else the stream, through
 * which nothing has passed, goes on where the dead process was. Not while a command is held.
 * -EINVAL: the stream is not untouched; -EBUSY: more than one message with descriptors is unsent; -ENOBUFS: too many
 * bytes wait; -EBADMSG: the file makes no sense; -ENOMEM. Then nothing has changed. */
int vfu_ledger_use(vfu_stream *stream, vfu_ledger *ledger, vfu_ledger_report *report);

/* -- what a stream that has a ledger calls ------------------------------------------------------------------------- */

void vfu_ledger_commit(vfu_stream *stream);
void vfu_ledger_take_in_hand(vfu_stream *stream, const vfu_header *header, const uint8_t *payload);
void vfu_ledger_expect(vfu_stream *stream);
void vfu_ledger_received(vfu_stream *stream, size_t length, size_t fds);
void vfu_ledger_sent(vfu_stream *stream, size_t length);
void vfu_ledger_close_gaps(vfu_stream *stream);
void vfu_ledger_adopted(vfu_stream *stream);
bool vfu_ledger_committed(const vfu_stream *stream);
/* recvmsg and sendmsg whose result the kernel itself writes into the ledger. */
ssize_t vfu_ledger_recvmsg(vfu_stream *stream, int fd, struct msghdr *message, int flags);
ssize_t vfu_ledger_sendmsg(vfu_stream *stream, int fd, const struct msghdr *message, int flags);

/* -- hooks that cost a stream without one a test ------------------------------------------------------------------- */

/* A whole message was taken out of `rx` and is about to be served. */
static inline void vfu_ledger_begin(vfu_stream *s, const vfu_header *header, const uint8_t *payload)
{
    if (s->ledger)
        vfu_ledger_take_in_hand(s, header, payload);
}

/* Its reply, if it gets one, is queued. */
static inline void vfu_ledger_answered(vfu_stream *s)
{
    if (s->ledger)
        s->ledger->hand.size = 0;
}

/* Nothing is being served; what is held stays in hand. */
static inline void vfu_ledger_rest(vfu_stream *s)
{
    if (!s->ledger)
        return;
    if (s->held.kind == VFU_HELD_NOTHING)
        s->ledger->hand.size = 0;
    vfu_ledger_commit(s);
}

/* Descriptors die with this process, so nothing is served while some are queued: their message is the one in hand. */
static inline bool vfu_ledger_waits(const vfu_stream *s)
{
    return s->ledger && vfu_fds_length(&s->tx_fds);
}

#endif

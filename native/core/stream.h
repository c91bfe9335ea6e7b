/* The one receiver of vfio-user messages, without I/O.
 *
 * Bytes go in at the tail of `rx`; vfu_stream_process frames them, serves the region commands from `region` and plain
 * DMA_MAP and DMA_UNMAP by `dma`, and hands every other message to the owner. Replies gather in `tx`. Messages are served in order. While a command is held (it
 * is answered later) or too much is queued to be sent, commands stay in `rx`; replies to our own messages are taken
 * out of the waiting bytes while a command is held, since it may depend on nothing else. What is large is not copied to
 * be sent: it is borrowed, and the owner is told when it was sent or will not be. With a ledger everything is copied.
 *
 * Descriptors belong to the message that holds the last byte received with them.
 */
#ifndef VFU_STREAM_H
#define VFU_STREAM_H

#include "buffer.h"
#include "ioas.h"
#include "table.h"
#include "wire.h"

#include <sys/uio.h>

enum {
    VFU_MAX_FDS = 253,         /* SCM_MAX_FD: the most one recvmsg brings */
    VFU_WAITING_LIMIT = 65536, /* bytes of waiting commands above which a held connection is not read */
    VFU_SMALL_BUFFER = 16384,
    VFU_SEND_LIMIT = 262144,   /* bytes queued to be sent above which nothing is served */
    VFU_CHUNK_PARTS = 16,      /* the most pieces of memory that one sendmsg takes from */
    VFU_BROKEN = 3,            /* (owner's answer) the stream means nothing any more: vfu_stream_break was called */
};

/* How one region is served: by a table, by the owner's `access`, or (both absent) not at all. */
typedef struct {
    uint64_t size;
    vfu_table *table;
    bool external;
} vfu_region;

typedef struct vfu_stream vfu_stream;
typedef struct vfu_ledger vfu_ledger;

typedef struct {
    /* A command: answer 0 after vfu_stream_reply, VFU_LATER, VFU_BROKEN, or -errno. It owns the descriptors. */
    int (*command)(void *owner, const vfu_header *header, const uint8_t *payload, size_t length, int *fds, size_t count);
    void (*reply)(void *owner, const vfu_header *header, const uint8_t *payload, size_t length, int *fds, size_t count);
    /* An access to an external region: 0, VFU_LATER or -errno; all of the cursor in one call. */
    int (*access)(void *owner, uint32_t region, vfu_cursor *cursor);
    void (*held)(void *owner); /* the answer was VFU_LATER */
    void (*repaid)(void *owner, void *lender); /* a part's bytes are done with */
} vfu_stream_ops;

/* A part of a payload. With a lender its bytes stay where they are, unchanged, until ops.repaid; without, they are
 * copied at once. */
typedef struct {
    const uint8_t *bytes;
    size_t length;
    void *lender;
} vfu_payload_part;

enum vfu_held_kind { VFU_HELD_NOTHING, VFU_HELD_COMMAND, VFU_HELD_ACCESS, VFU_HELD_MULTI };

/* What waits for its answer: a copy of all it needs, because `rx` moves on. */
typedef struct {
    enum vfu_held_kind kind;
    vfu_header header;
    vfu_region_access access;
    vfu_cursor cursor;
    uint8_t *data; /* the access's bytes, or the entries of a REGION_WRITE_MULTI */
    uint64_t entry, entries;
    int error; /* the first failed entry's errno */
} vfu_held;

struct vfu_stream {
    vfu_buffer rx, tx;
    vfu_fds rx_fds, tx_fds;
    vfu_loans tx_loans;
    uint64_t scan;  /* how far (stream offset) waiting bytes were searched for replies */
    uint64_t spent; /* bytes of replies before that which were taken in */
    bool negotiated, processing;
    bool masked_errors; /* region accesses that fail are answered: reads with all ones, writes as if they were done */
    uint32_t max_transfer;
    size_t send_limit;
    uint64_t received;
    vfu_region *region;
    size_t regions;
    uint32_t hook_region;
    vfu_ioas *dma;        /* where DMA_MAP and DMA_UNMAP go that need nobody's judgement; NULL: they all need it */
    uint64_t dma_page;    /* bytes, a power of two: what areas are made of */
    size_t dma_transfers; /* under way by messages: an unmap may concern them */
    vfu_held held;
    vfu_ledger *ledger; /* what keeps the queues when this process is killed; NULL: nothing does */
    char broken[192];
    const vfu_stream_ops *ops;
    void *owner;
};

void vfu_stream_init(vfu_stream *stream, uint32_t max_transfer, const vfu_stream_ops *ops, void *owner);
void vfu_stream_free(vfu_stream *stream);

/* Where the next bytes go: the address, and in *room how many fit: at least `wanted` (0: memory is short), and the rest of
 * a message that has begun, but few more than that. */
uint8_t *vfu_stream_space(vfu_stream *stream, size_t wanted, size_t *room);
/* `length` bytes have been put there, with these descriptors (owned from now on). */
void vfu_stream_received(vfu_stream *stream, size_t length, const int *fds, size_t count);
void vfu_stream_process(vfu_stream *stream);
/* In a callback, without a ledger: the payload that it was given stays where it is, in memory that is the caller's from
 * now on (free). */
uint8_t *vfu_stream_keep_payload(vfu_stream *stream);

void vfu_stream_break(vfu_stream *stream, const char *format, ...) __attribute__((format(printf, 2, 3)));
static inline bool vfu_stream_broken(const vfu_stream *s) { return s->broken[0] != 0; }
bool vfu_stream_wants_read(const vfu_stream *stream);
/* True while vfu_stream_process would serve another message. */
bool vfu_stream_ready(const vfu_stream *stream);

/* Bytes that wait to be sent. */
static inline size_t vfu_stream_queued(const vfu_stream *s) { return vfu_buffer_length(&s->tx) + s->tx_loans.bytes; }

/* Answers a command (nothing is sent for No_reply); descriptors are owned by the queue from now on. A message with
 * descriptors has no lent parts. */
void vfu_stream_reply(vfu_stream *stream, const vfu_header *to, const uint8_t *payload, size_t length);
void vfu_stream_reply_parts(vfu_stream *stream, const vfu_header *to, const vfu_payload_part *part, size_t parts,
                            const int *fds, size_t count);
void vfu_stream_error(vfu_stream *stream, const vfu_header *to, int error);
/* Queues a whole message of our own, its header in front in the first part. */
void vfu_stream_send(vfu_stream *stream, const vfu_payload_part *part, size_t parts, const int *fds, size_t count);

/* The held command's answer; then vfu_stream_process. */
void vfu_stream_complete_command(vfu_stream *stream, const vfu_payload_part *part, size_t parts, const int *fds, size_t count);
void vfu_stream_complete_access(vfu_stream *stream, bool stored, uint64_t value);
void vfu_stream_complete_error(vfu_stream *stream, int error);

/* What one sendmsg may carry: how many parts (up to VFU_CHUNK_PARTS) of what is queued, from its head, and the
 * descriptors that go with its first byte (they stay the queue's until vfu_stream_sent). A message with descriptors
 * travels alone. */
size_t vfu_stream_chunk(vfu_stream *stream, struct iovec *part, const vfu_carried **fds, size_t *count);
/* `length` bytes of it are sent, and its descriptors with them. */
void vfu_stream_sent(vfu_stream *stream, size_t length);
/* Tells the lenders of parts that were not queued. */
void vfu_stream_repay(vfu_stream *stream, const vfu_payload_part *part, size_t parts);
/* What is lent is copied, to be sent in its place, and its lenders are told. False: no memory. */
bool vfu_stream_copy_lent(vfu_stream *stream);
/* Nothing more is sent: every lender is told. */
void vfu_stream_forget_output(vfu_stream *stream);

/* One direction as another process continues it: bytes, and descriptors with `at` counted from the first of these. */
typedef struct {
    const uint8_t *bytes;
    size_t length;
    const vfu_carried *fds;
    size_t count;
} vfu_queue;

/* Takes out of `rx` the replies that were served before their turn, and into `tx` what is lent: then these two say all
 * that is to be done. False: no memory, and everything is as it was. */
bool vfu_stream_settle(vfu_stream *stream);
/* Fills a stream that nothing has passed through; serves nothing yet. 0: it owns the descriptors. -EINVAL (descriptors
 * without a byte, out of order, or without a whole message to be sent with), -ENOMEM, -EBUSY (more than one message
 * with descriptors is unsent, and the stream has a ledger): nothing has changed. */
int vfu_stream_adopt(vfu_stream *stream, const vfu_queue *rx, const vfu_queue *tx);

#endif

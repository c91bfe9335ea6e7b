/* How a connection's byte streams survive SIGKILL.
 *
 * The file (a memfd; a supervisor holds it too) has a ring for each direction and, before them, two banks of records.
 * A ring is mapped twice in a row, so that queued bytes are always contiguous and are never moved. Positions count the
 * bytes of a stream from its beginning; byte `at` lies in the ring at (at - base) modulo its size, and `base` changes
 * only while a queue is empty (it then begins at the ring's first page again, so that few pages are ever touched).
 *
 * What a successor has to know is four positions and the command in hand:
 *
 *   rx tail  where received bytes end          receive[] and what the kernel wrote into it
 *   tx head  where unsent bytes begin          send[], likewise
 *   rx head  where unserved messages begin  \
 *   tx tail  where queued replies end        > commit[]
 *   hand     the command between the two    /
 *
 * SIGKILL comes between two instructions, or takes effect when a system call returns: the kernel's part of a call is
 * done or was not begun, and the stores of the instructions before are in the file (the mapping is shared; interrupts
 * are precise), while none of those behind is. So a record is changed in three steps: fill the one of two that is not
 * in use; make it the one in use, by a single store of a number whose lowest bit is its index; go on. `publish` keeps
 * the compiler from moving a store from one step to another. The processor needs no more than that: the reader comes
 * after this process's death.
 *
 * Receiving. The bytes and their count must change together, but bytes leave the socket inside recvmsg and a count that
 * is returned dies in a register. So the call is recvmmsg of one message, whose header lies in receive[]: the kernel
 * itself stores the length (msg_len) there before it returns. Before it is called msg_len is 0; at any time the tail is
 * receive.at + msg_len. (The kernel's store could only fail if its page, which has just been written to, had to be
 * fetched again at that moment and the kill came while waiting for it. The data's pages may well be missing: a copy
 * that fails leaves the bytes in the socket, or is counted.) Sending is the same with sendmmsg: the head is
 * send.at + msg_len. These are called by number, as a C library may make a loop of sendmsg of them.
 *
 * Serving. A commit says at once where rx begins, where tx ends and what is in hand. It is made when a message was
 * taken out of rx (in hand: it; its predecessor's reply is queued), and when there is nothing more to serve (in hand:
 * nothing, or the held command). So every command is, in any commit, in exactly one of three places: in rx, in hand,
 * or answered in tx. Bytes beyond the committed tail are never sent (vfu_stream_chunk commits first: messages of our
 * own are committed there, if not before), and a successor does not see them. It answers what was in hand with EIO:
 * that one request may have been served already, or not, or half. Replies in hand are dropped: they answer the dead.
 *
 * Marks. While a command is held, replies behind it are taken out of their turn, and marked in rx itself. A commit that
 * moves `scan` beyond a reply comes before its mark, which is a change of one byte; a reply that was not marked in time
 * comes once more, to a successor that does not know its id.
 *
 * Descriptors die with the process. A reply that carries some is the last thing served until it is sent, and `tx_fds`
 * says where it begins; a successor that finds it unsent takes it for the request in hand. Received ones: mark[] says
 * with which bytes some came (and of the last recvmmsg, the length of the control data that the kernel stored); the
 * messages that they belong to are answered with EIO when their turn comes: such positions are kept as descriptor -1.
 *
 * Taking over, and closing gaps, change more than one record: the other bank is written, bytes are copied to where
 * nothing is queued (each ring is used to half its size), and a single store of the generation changes banks. A
 * process that is killed while it takes over leaves the ledger as it found it.
 */
#include "ledger_layout.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CONSUMED VFU_TYPE_MASK

static inline void publish(uint64_t *where, uint64_t value)
{
    atomic_signal_fence(memory_order_seq_cst);
    *(volatile uint64_t *)where = value;
    atomic_signal_fence(memory_order_seq_cst);
}

/* -- records ------------------------------------------------------------------------------------------------------- */

static void record(vfu_commit_record *c, const vfu_stream *s)
{
    const vfu_ledger *l = s->ledger;

    c->rx_head = vfu_buffer_position(&s->rx);
    c->scan = s->scan;
    c->tx_base = s->tx.base;
    c->tx_tail = vfu_ledger_end(&s->tx);
    c->tx_fds = l->tx_fds;
    c->last_id = l->last_id;
    c->hand = l->hand;
    if (l->hand.size)
        memcpy(c->access, l->access, sizeof(c->access));
}

void vfu_ledger_commit(vfu_stream *s)
{
    vfu_ledger_bank *b = s->ledger->bank;
    uint64_t next = b->commits + 1;

    record(&b->commit[next & 1], s);
    publish(&b->commits, next);
}

bool vfu_ledger_committed(const vfu_stream *s)
{
    const vfu_ledger_bank *b = s->ledger->bank;

    return b->commit[b->commits & 1].tx_tail == vfu_ledger_end(&s->tx);
}

void vfu_ledger_take_in_hand(vfu_stream *s, const vfu_header *header, const uint8_t *payload)
{
    vfu_ledger *l = s->ledger;

    l->hand = *header;
    if ((header->flags & VFU_TYPE_MASK) != VFU_TYPE_COMMAND)
        l->hand.size = 0;
    else if (header->size >= sizeof(*header) + sizeof(l->access))
        memcpy(l->access, payload, sizeof(l->access));
    vfu_ledger_commit(s);
}

bool vfu_ledger_change_banks(vfu_stream *s)
{
    vfu_ledger *l = s->ledger;
    uint64_t generation = vfu_ledger_head_of(l)->generation + 1, last = UINT64_MAX;
    vfu_ledger_bank *b = vfu_ledger_bank_of(l, generation);

    b->commits = b->receives = b->sends = b->marks = 0;
    record(&b->commit[0], s);
    b->receive[0] = (vfu_transfer_record){.base = s->rx.base, .at = vfu_ledger_end(&s->rx)};
    b->send[0] = (vfu_transfer_record){.at = vfu_buffer_position(&s->tx)};
    for (size_t i = s->rx_fds.head; i < s->rx_fds.tail; i++) {
        if (s->rx_fds.item[i].at == last)
            continue;
        if (b->marks == VFU_LEDGER_MARKS)
            return false;
        last = b->mark[b->marks++] = s->rx_fds.item[i].at;
    }
    publish(&vfu_ledger_head_of(l)->generation, generation);
    l->bank = b;
    return true;
}

/* -- moving bytes -------------------------------------------------------------------------------------------------- */

/* The next bytes will be put behind the tail. */
void vfu_ledger_expect(vfu_stream *s)
{
    vfu_ledger_bank *b = s->ledger->bank;
    uint64_t next = b->receives + 1;
    vfu_transfer_record *t = &b->receive[next & 1];

    t->base = s->rx.base;
    t->at = vfu_ledger_end(&s->rx);
    t->message.msg_len = 0;
    publish(&b->receives, next);
}

ssize_t vfu_ledger_recvmsg(vfu_stream *s, int fd, struct msghdr *message, int flags)
{
    vfu_ledger_bank *b = s->ledger->bank;
    struct mmsghdr *m = &b->receive[b->receives & 1].message;
    long got;

    m->msg_hdr = *message;
    got = syscall(SYS_recvmmsg, fd, m, 1, flags, NULL);
    if (got < 0 && errno == ECONNRESET) /* unlike recvmsg it tells this before the data that came first, but once */
        got = syscall(SYS_recvmmsg, fd, m, 1, flags, NULL);
    if (got < 0)
        return -1;
    *message = m->msg_hdr;
    return (ssize_t)m->msg_len;
}

static void mark(vfu_stream *s, size_t new)
{
    vfu_ledger_bank *b = s->ledger->bank;

    if (vfu_fds_length(&s->rx_fds) == new)
        publish(&b->marks, 0); /* nobody waits for any that came before */
    if (b->marks < VFU_LEDGER_MARKS) {
        b->mark[b->marks] = vfu_ledger_end(&s->rx) - 1;
        publish(&b->marks, b->marks + 1);
    } else if (!vfu_ledger_change_banks(s)) {
        vfu_stream_break(s, "more than %d messages with descriptors wait", VFU_LEDGER_MARKS);
    }
}

/* `length` bytes are behind the former tail, with so many descriptors, and are counted in `rx`. */
void vfu_ledger_received(vfu_stream *s, size_t length, size_t fds)
{
    vfu_ledger_bank *b = s->ledger->bank;
    struct mmsghdr *m = &b->receive[b->receives & 1].message;

    if (m->msg_len != length) { /* they did not come from a socket */
        m->msg_hdr.msg_controllen = fds;
        atomic_signal_fence(memory_order_seq_cst);
        *(volatile unsigned int *)&m->msg_len = (unsigned int)length;
    }
    if (fds)
        mark(s, fds);
}

static vfu_transfer_record *send_from(vfu_stream *s, uint64_t at)
{
    vfu_ledger_bank *b = s->ledger->bank;
    uint64_t next = b->sends + 1;
    vfu_transfer_record *t = &b->send[next & 1];

    t->at = at;
    t->message.msg_len = 0;
    publish(&b->sends, next);
    return t;
}

ssize_t vfu_ledger_sendmsg(vfu_stream *s, int fd, const struct msghdr *message, int flags)
{
    vfu_transfer_record *t = send_from(s, vfu_buffer_position(&s->tx));

    t->message.msg_hdr = *message;
    return syscall(SYS_sendmmsg, fd, &t->message, 1, flags) < 0 ? -1 : (ssize_t)t->message.msg_len;
}

/* `length` bytes are about to be taken out of `tx`. */
void vfu_ledger_sent(vfu_stream *s, size_t length)
{
    vfu_ledger_bank *b = s->ledger->bank;
    const vfu_transfer_record *t = &b->send[b->sends & 1];
    uint64_t head = vfu_buffer_position(&s->tx) + length;

    if (t->at + t->message.msg_len != head) /* they did not go to a socket */
        send_from(s, head);
}

/* What waits is copied, without the replies between, to behind itself. */
void vfu_ledger_close_gaps(vfu_stream *s)
{
    uint64_t head = vfu_buffer_position(&s->rx), start = vfu_ledger_end(&s->rx), kept = 0, size;
    uint8_t *to = s->rx.data + s->rx.tail;
    size_t i = s->rx_fds.head;
    vfu_header header;

    for (uint64_t at = head; at < start; at += size) {
        const uint8_t *message = s->rx.data + (at - s->rx.base);
        if (at < s->scan) {
            memcpy(&header, message, sizeof(header));
            size = header.size;
            if ((header.flags & VFU_TYPE_MASK) == CONSUMED)
                continue;
        } else { /* the rest, at once */
            size = start - at;
        }
        memcpy(to + kept, message, size);
        for (; i < s->rx_fds.tail && s->rx_fds.item[i].at < at + size; i++)
            s->rx_fds.item[i].at += start + kept - at;
        kept += size;
    }
    s->scan = start + (s->scan > head ? s->scan - head - s->spent : 0);
    s->spent = 0;
    s->rx.head = s->rx.tail;
    s->rx.tail += kept;
    vfu_buffer_wrap(&s->rx);
    if (!vfu_ledger_change_banks(s))
        vfu_stream_break(s, "more than %d messages with descriptors wait", VFU_LEDGER_MARKS);
}

/* The queues were filled with what another process had in them. */
void vfu_ledger_adopted(vfu_stream *s)
{
    const vfu_fds *f = &s->tx_fds;

    s->ledger->tx_fds = vfu_fds_length(f) ? f->item[f->head].at + 1 : 0;
    if (!vfu_ledger_change_banks(s))
        vfu_stream_break(s, "more than %d messages with descriptors wait", VFU_LEDGER_MARKS);
}

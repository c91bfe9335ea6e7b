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
 * Serving. A commit says at once where rx begins, where tx ends and what is in hand. It is made when a message was taken
 * out of rx (in hand: it; its predecessor's reply is queued), and when there is nothing more to serve (in hand:
 * nothing, or the held command). So every command is, in any commit, in exactly one of three places: in rx, in hand, or
 * answered in tx. Bytes beyond the committed tail are never sent (vfu_stream_chunk commits first: messages of our own are
 * committed there, if not before), and a successor does not see them. It answers what was in hand with EIO: that one
 * request may have been served already, or not, or half. Replies in hand are dropped: they answer the dead.
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
#include "ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "region.h"

enum {
    VERSION = 1, /* of the layout below */
    HEAD = 65536, /* bytes before the rings: a multiple of any page size */
    BANK = 4096,  /* where the banks begin */
    MARKS = 1024,
    SMALL_RING = 65536,       /* what a ring keeps for good of the memory that it once used */
    OWN_MESSAGES = 4 << 20,   /* bytes of DMA messages under way, and their replies, besides one of max_transfer */
    OVERHEAD = 65536,         /* headers, and the fixed parts of a few messages */
    LEAST_TRANSFER = 1 << 20, /* what is agreed with a client that names no max_data_xfer_size */
};

#define CONSUMED VFU_TYPE_MASK

static const char MAGIC[8] = "vfu-ldgr";

typedef struct {
    char magic[8];
    uint32_t version, bank_size;
    uint64_t ring;
    uint64_t generation; /* the bank in use is that of its lowest bit; 0: nobody has used it */
} ledger_head;

typedef struct {
    uint64_t rx_head, scan, tx_base, tx_tail, tx_fds;
    vfu_header hand;
    uint8_t access[sizeof(vfu_region_access)];
    uint32_t last_id;
} commit_record;

typedef struct {
    uint64_t base, at;
    struct mmsghdr message;
} transfer_record;

struct vfu_ledger_bank {
    uint64_t commits, receives, sends; /* the one in use is that of its lowest bit */
    commit_record commit[2];
    transfer_record receive[2], send[2];
    uint64_t marks, mark[MARKS];
};

_Static_assert(BANK + 2 * sizeof(vfu_ledger_bank) <= HEAD, "the banks fit before the rings");

static inline void publish(uint64_t *where, uint64_t value)
{
    atomic_signal_fence(memory_order_seq_cst);
    *(volatile uint64_t *)where = value;
    atomic_signal_fence(memory_order_seq_cst);
}

static ledger_head *head_of(const vfu_ledger *l) { return (ledger_head *)l->head; }

static vfu_ledger_bank *bank_of(const vfu_ledger *l, uint64_t generation)
{
    return (vfu_ledger_bank *)(l->head + BANK) + (generation & 1);
}

/* -- the file ------------------------------------------------------------------------------------------------------ */

static size_t ring_size(uint32_t max_transfer)
{
    uint64_t message = max_transfer < LEAST_TRANSFER ? LEAST_TRANSFER : max_transfer;
    uint64_t most = 3 * message + OWN_MESSAGES + VFU_WAITING_LIMIT + VFU_SEND_LIMIT + OVERHEAD, size = HEAD;

    while (size < 2 * most) /* used to half its size */
        size *= 2;
    return (size_t)size;
}

static int make(size_t ring)
{
    ledger_head head = {.version = VERSION, .bank_size = sizeof(vfu_ledger_bank), .ring = ring};
    int fd = memfd_create("vfuserver-ledger", MFD_CLOEXEC | MFD_ALLOW_SEALING), error;

    if (fd < 0)
        return -errno;
    memcpy(head.magic, MAGIC, sizeof(MAGIC));
    if (ftruncate(fd, (off_t)(HEAD + 2 * ring)) == 0 && pwrite(fd, &head, sizeof(head), 0) == sizeof(head) &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        return fd;
    error = errno;
    close(fd);
    return -error;
}

/* It was made by this layout, and cannot become shorter under our mapping. */
static bool fits(int fd, size_t ring)
{
    ledger_head head;
    struct stat status;

    return fstat(fd, &status) == 0 && status.st_size == (off_t)(HEAD + 2 * ring) &&
           fcntl(fd, F_GET_SEALS) >= 0 && fcntl(fd, F_GET_SEALS) & F_SEAL_SHRINK &&
           pread(fd, &head, sizeof(head), 0) == sizeof(head) && !memcmp(head.magic, MAGIC, sizeof(MAGIC)) &&
           head.version == VERSION && head.bank_size == sizeof(vfu_ledger_bank) && head.ring == ring;
}

static uint8_t *map_twice(int fd, off_t offset, size_t size)
{
    uint8_t *at = mmap(NULL, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (at == MAP_FAILED)
        return NULL;
    for (int i = 0; i < 2; i++)
        if (mmap(at + i * size, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, offset) == MAP_FAILED) {
            munmap(at, 2 * size);
            return NULL;
        }
    return at;
}

int vfu_ledger_open(vfu_ledger *l, uint32_t max_transfer, int fd)
{
    *l = (vfu_ledger){.fd = -1, .ring = ring_size(max_transfer)};
    if (fd >= 0 && !fits(fd, l->ring))
        return -EINVAL;
    l->fd = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : make(l->ring);
    if (l->fd < 0)
        return fd >= 0 ? -errno : l->fd;
    l->head = mmap(NULL, HEAD, PROT_READ | PROT_WRITE, MAP_SHARED, l->fd, 0);
    if (l->head == MAP_FAILED)
        l->head = NULL;
    l->rx = l->head ? map_twice(l->fd, HEAD, l->ring) : NULL;
    l->tx = l->rx ? map_twice(l->fd, (off_t)(HEAD + l->ring), l->ring) : NULL;
    if (!l->tx) {
        vfu_ledger_close(l);
        return -ENOMEM;
    }
    return 0;
}

void vfu_ledger_close(vfu_ledger *l)
{
    if (l->head)
        munmap(l->head, HEAD);
    if (l->rx)
        munmap(l->rx, 2 * l->ring);
    if (l->tx)
        munmap(l->tx, 2 * l->ring);
    if (l->fd >= 0)
        close(l->fd);
    *l = (vfu_ledger){.fd = -1};
}

/* -- records ------------------------------------------------------------------------------------------------------- */

static uint64_t end_of(const vfu_buffer *b) { return b->base + b->tail; }

static void record(commit_record *c, const vfu_stream *s)
{
    const vfu_ledger *l = s->ledger;

    c->rx_head = vfu_buffer_position(&s->rx);
    c->scan = s->scan;
    c->tx_base = s->tx.base;
    c->tx_tail = end_of(&s->tx);
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

    return b->commit[b->commits & 1].tx_tail == end_of(&s->tx);
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

/* The bank that is not in use says what the stream is now, and then is in use. False: too many marks. */
static bool change_banks(vfu_stream *s)
{
    vfu_ledger *l = s->ledger;
    uint64_t generation = head_of(l)->generation + 1, last = UINT64_MAX;
    vfu_ledger_bank *b = bank_of(l, generation);

    b->commits = b->receives = b->sends = b->marks = 0;
    record(&b->commit[0], s);
    b->receive[0] = (transfer_record){.base = s->rx.base, .at = end_of(&s->rx)};
    b->send[0] = (transfer_record){.at = vfu_buffer_position(&s->tx)};
    for (size_t i = s->rx_fds.head; i < s->rx_fds.tail; i++) {
        if (s->rx_fds.item[i].at == last)
            continue;
        if (b->marks == MARKS)
            return false;
        last = b->mark[b->marks++] = s->rx_fds.item[i].at;
    }
    publish(&head_of(l)->generation, generation);
    l->bank = b;
    return true;
}

/* -- moving bytes -------------------------------------------------------------------------------------------------- */

/* The next bytes will be put behind the tail. */
void vfu_ledger_expect(vfu_stream *s)
{
    vfu_ledger_bank *b = s->ledger->bank;
    uint64_t next = b->receives + 1;
    transfer_record *t = &b->receive[next & 1];

    t->base = s->rx.base;
    t->at = end_of(&s->rx);
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
    if (b->marks < MARKS) {
        b->mark[b->marks] = end_of(&s->rx) - 1;
        publish(&b->marks, b->marks + 1);
    } else if (!change_banks(s)) {
        vfu_stream_break(s, "more than %d messages with descriptors wait", MARKS);
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

static transfer_record *send_from(vfu_stream *s, uint64_t at)
{
    vfu_ledger_bank *b = s->ledger->bank;
    uint64_t next = b->sends + 1;
    transfer_record *t = &b->send[next & 1];

    t->at = at;
    t->message.msg_len = 0;
    publish(&b->sends, next);
    return t;
}

ssize_t vfu_ledger_sendmsg(vfu_stream *s, int fd, const struct msghdr *message, int flags)
{
    transfer_record *t = send_from(s, vfu_buffer_position(&s->tx));

    t->message.msg_hdr = *message;
    return syscall(SYS_sendmmsg, fd, &t->message, 1, flags) < 0 ? -1 : (ssize_t)t->message.msg_len;
}

/* `length` bytes are about to be taken out of `tx`. */
void vfu_ledger_sent(vfu_stream *s, size_t length)
{
    vfu_ledger_bank *b = s->ledger->bank;
    const transfer_record *t = &b->send[b->sends & 1];
    uint64_t head = vfu_buffer_position(&s->tx) + length;

    if (t->at + t->message.msg_len != head) /* they did not go to a socket */
        send_from(s, head);
}

/* What waits is copied, without the replies between, to behind itself. */
void vfu_ledger_close_gaps(vfu_stream *s)
{
    uint64_t start = end_of(&s->rx), kept = 0, size;
    uint8_t *to = s->rx.data + s->rx.tail;
    size_t i = s->rx_fds.head;
    vfu_header header;

    for (uint64_t at = vfu_buffer_position(&s->rx); at < start; at += size) {
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
    s->scan = s->scan > vfu_buffer_position(&s->rx) ? start + (s->scan - vfu_buffer_position(&s->rx)) - s->spent : start;
    s->spent = 0;
    s->rx.head = s->rx.tail;
    s->rx.tail += kept;
    vfu_buffer_wrap(&s->rx);
    if (!change_banks(s))
        vfu_stream_break(s, "more than %d messages with descriptors wait", MARKS);
}

/* -- taking over --------------------------------------------------------------------------------------------------- */

static void into_ring(vfu_buffer *b, uint8_t *data, size_t ring, uint64_t base, uint64_t head, uint64_t tail)
{
    size_t at = (size_t)((head - base) & (ring - 1));

    vfu_buffer_free(b);
    *b = (vfu_buffer){.data = data, .capacity = at + ring / 2, .ring = ring, .head = at, .tail = at + (size_t)(tail - head),
                      .base = head - at, .small = SMALL_RING, .used = ring};
}

/* A stream with bytes in it moves into a fresh ledger. */
static int move_in(vfu_stream *s, vfu_ledger *l)
{
    size_t unread = vfu_buffer_length(&s->rx), unsent = vfu_buffer_length(&s->tx);
    uint64_t rx = vfu_buffer_position(&s->rx), tx = vfu_buffer_position(&s->tx);
    const vfu_fds *f = &s->tx_fds;

    if (unread > l->ring / 2 || unsent > l->ring / 2)
        return -ENOBUFS;
    if (vfu_fds_length(f) && f->item[f->head].at != f->item[f->tail - 1].at)
        return -EBUSY;
    if (unread)
        memcpy(l->rx, s->rx.data + s->rx.head, unread);
    if (unsent)
        memcpy(l->tx, s->tx.data + s->tx.head, unsent);
    l->tx_fds = vfu_fds_length(f) ? f->item[f->head].at + 1 : 0;
    into_ring(&s->rx, l->rx, l->ring, rx, rx, rx + unread);
    into_ring(&s->tx, l->tx, l->ring, tx, tx, tx + unsent);
    return 0;
}

/* How many bytes of replies were taken out of their turn. */
static uint64_t spent(const vfu_stream *s)
{
    uint64_t sum = 0;
    vfu_header header;

    for (uint64_t at = vfu_buffer_position(&s->rx); at < s->scan; at += header.size) {
        memcpy(&header, s->rx.data + (at - s->rx.base), sizeof(header));
        if (header.size < sizeof(header)) /* cannot be: these were framed before */
            break;
        if ((header.flags & VFU_TYPE_MASK) == CONSUMED)
            sum += header.size;
    }
    return sum;
}

static void lose(vfu_stream *s, uint64_t at)
{
    const vfu_fds *f = &s->rx_fds;

    if (at >= vfu_buffer_position(&s->rx) && at < end_of(&s->rx) &&
        (!vfu_fds_length(f) || f->item[f->tail - 1].at < at) && !vfu_fds_push(&s->rx_fds, -1, at))
        vfu_stream_break(s, "no memory for the places of lost descriptors");
}

/* The reply with descriptors that was not sent is taken out; true: there was one, to *header. */
static bool take_out_reply(vfu_stream *s, uint64_t at, vfu_header *header)
{
    size_t before = (size_t)(at - vfu_buffer_position(&s->tx)), length = vfu_buffer_length(&s->tx);
    const uint8_t *from = s->tx.data + s->tx.head;
    uint8_t *to = s->tx.data + s->tx.tail;

    if (at < vfu_buffer_position(&s->tx) || length < sizeof(*header) || before > length - sizeof(*header))
        return false;
    memcpy(header, from + before, sizeof(*header));
    if (header->size > length - before)
        return false;
    memcpy(to, from, before);
    memcpy(to + before, from + before + header->size, length - before - header->size);
    s->tx.head = s->tx.tail;
    s->tx.tail += length - header->size;
    vfu_buffer_wrap(&s->tx); /* not consume: it might begin again where the other bank has its bytes */
    return true;
}

static void answer(vfu_stream *s, const commit_record *c, vfu_ledger_report *report)
{
    vfu_region_access access;
    vfu_header unsent;

    if (c->tx_fds && take_out_reply(s, c->tx_fds - 1, &unsent)) {
        unsent.flags = VFU_TYPE_COMMAND;
        vfu_stream_error(s, &unsent, EIO);
        report->hand = unsent;
    }
    if (!c->hand.size)
        return;
    report->hand = c->hand;
    memcpy(&access, c->access, sizeof(access));
    if ((c->hand.command == VFU_REGION_READ || c->hand.command == VFU_REGION_WRITE) &&
        c->hand.size >= sizeof(c->hand) + sizeof(access))
        vfu_region_failed(s, &c->hand, &access, EIO);
    else
        vfu_stream_error(s, &c->hand, EIO);
}

/* Where the dead process was. */
static int go_on(vfu_stream *s, vfu_ledger *l, const vfu_ledger_bank *b, vfu_ledger_report *report)
{
    const transfer_record *r = &b->receive[b->receives & 1], *t = &b->send[b->sends & 1];
    uint64_t rx_tail = r->at + r->message.msg_len, tx_head = t->at + t->message.msg_len;
    const commit_record c = b->commit[b->commits & 1];

    if (rx_tail - c.rx_head > l->ring / 2 || c.tx_tail - tx_head > l->ring / 2 || b->marks > MARKS)
        return -EBADMSG;
    into_ring(&s->rx, l->rx, l->ring, r->base, c.rx_head, rx_tail);
    into_ring(&s->tx, l->tx, l->ring, c.tx_base, tx_head, c.tx_tail);
    s->scan = c.scan < rx_tail ? c.scan : rx_tail;
    s->spent = spent(s);
    for (uint64_t i = 0; i < b->marks; i++)
        lose(s, b->mark[i]);
    if (r->message.msg_len && r->message.msg_hdr.msg_controllen)
        lose(s, rx_tail - 1);
    l->last_id = c.last_id;
    report->awaiting = vfu_fds_length(&s->rx_fds);
    answer(s, &c, report);
    return 0;
}

int vfu_ledger_use(vfu_stream *s, vfu_ledger *l, vfu_ledger_report *report)
{
    uint64_t generation = head_of(l)->generation;
    int error;

    *report = (vfu_ledger_report){.fresh = !generation};
    if (generation && (s->received || vfu_buffer_length(&s->rx) || vfu_buffer_length(&s->tx)))
        return -EINVAL;
    error = generation ? go_on(s, l, bank_of(l, generation), report) : move_in(s, l);
    if (error)
        return error;
    s->ledger = l;
    l->used = true;
    report->last_id = (int)l->last_id - 1;
    if (!change_banks(s))
        vfu_stream_break(s, "more than %d messages with descriptors wait", MARKS);
    return 0;
}

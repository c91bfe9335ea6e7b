/* How a stream comes to use a ledger: a fresh one, or that of a process which was killed (see the head of ledger.c). */
#include <errno.h>
#include <string.h>

#include "ledger_layout.h"
#include "region.h"

enum { SMALL_RING = 65536 }; /* what a ring keeps for good of the memory that it once used */

#define CONSUMED VFU_TYPE_MASK

static void into_ring(vfu_buffer *b, uint8_t *data, size_t ring, uint64_t base, uint64_t head, uint64_t tail)
{
    size_t at = (size_t)((head - base) & (ring - 1));

    vfu_buffer_free(b);
    *b = (vfu_buffer){.data = data, .ring = ring, .head = at, .tail = at + (size_t)(tail - head), .base = head - at,
                      .small = SMALL_RING, .used = ring};
    vfu_buffer_wrap(b);
}

/* A stream with bytes in it moves into a fresh ledger. */
static int move_in(vfu_stream *s, vfu_ledger *l)
{
    size_t unread = vfu_buffer_length(&s->rx), unsent = vfu_stream_queued(s);
    uint64_t rx = vfu_buffer_position(&s->rx), tx = vfu_buffer_position(&s->tx);
    const vfu_fds *f = &s->tx_fds;

    if (unread > l->ring / 2 || unsent > l->ring / 2)
        return -ENOBUFS;
    if (vfu_fds_length(f) && f->item[f->head].at != f->item[f->tail - 1].at)
        return -EBUSY;
    if (!vfu_stream_copy_lent(s))
        return -ENOMEM;
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

    if (at >= vfu_buffer_position(&s->rx) && at < vfu_ledger_end(&s->rx) &&
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

static void answer(vfu_stream *s, const vfu_commit_record *c, vfu_ledger_report *report)
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
    const vfu_transfer_record *r = &b->receive[b->receives & 1], *t = &b->send[b->sends & 1];
    uint64_t rx_tail = r->at + r->message.msg_len, tx_head = t->at + t->message.msg_len;
    const vfu_commit_record c = b->commit[b->commits & 1];

    if (rx_tail - c.rx_head > l->ring / 2 || c.tx_tail - tx_head > l->ring / 2 || b->marks > VFU_LEDGER_MARKS)
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
    uint64_t generation = vfu_ledger_head_of(l)->generation;
    int error;

    *report = (vfu_ledger_report){.fresh = !generation};
    if (generation && (s->received || vfu_buffer_length(&s->rx) || vfu_stream_queued(s)))
        return -EINVAL;
    error = generation ? go_on(s, l, vfu_ledger_bank_of(l, generation), report) : move_in(s, l);
    if (error)
        return error;
    s->ledger = l;
    l->used = true;
    report->last_id = (int)l->last_id - 1;
    if (!vfu_ledger_change_banks(s))
        vfu_stream_break(s, "more than %d messages with descriptors wait", VFU_LEDGER_MARKS);
    return 0;
}

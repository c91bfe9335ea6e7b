#include <stdlib.h>
#include <string.h>

#include "ledger.h"

void vfu_stream_repay(vfu_stream *s, const vfu_payload_part *part, size_t parts)
{
    for (size_t i = 0; i < parts; i++)
        if (part[i].lender)
            s->ops->repaid(s->owner, part[i].lender);
}

/* A part that stays where it is. What a ledger keeps is in its ring. */
static bool lent(const vfu_stream *s, const vfu_payload_part *part)
{
    return part->lender && !s->ledger;
}

static size_t copied_bytes(const vfu_stream *s, const vfu_payload_part *part, size_t parts)
{
    size_t bytes = 0;

    for (size_t i = 0; i < parts; i++)
        bytes += lent(s, &part[i]) ? 0 : part[i].length;
    return bytes;
}

static void append(vfu_stream *s, const void *bytes, size_t length)
{
    if (length)
        memcpy(s->tx.data + s->tx.tail, bytes, length);
    s->tx.tail += length;
}

static void lend(vfu_stream *s, const vfu_payload_part *part)
{
    vfu_loan loan = {.at = s->tx.base + s->tx.tail, .bytes = part->bytes, .length = part->length,
                     .lender = part->lender};

    if (vfu_loans_push(&s->tx_loans, &loan))
        return;
    vfu_stream_break(s, "no memory for a message");
    vfu_stream_repay(s, part, 1);
}

/* Queues a header, if there is one, and parts as one message. */
static void enqueue(vfu_stream *s, const vfu_header *header, const vfu_payload_part *part, size_t parts, const int *fds,
                    size_t count)
{
    size_t fixed = header ? sizeof(*header) : 0, length = fixed + copied_bytes(s, part, parts);
    uint64_t start;

    if (!vfu_buffer_reserve(&s->tx, length)) {
        vfu_stream_break(s, "no memory for a message of %zu bytes", length);
        vfu_fds_close(fds, count);
        vfu_stream_repay(s, part, parts);
        return;
    }
    start = s->tx.base + s->tx.tail;
    for (size_t i = 0; i < count; i++)
        if (!vfu_fds_push(&s->tx_fds, fds[i], start))
            vfu_fds_close(&fds[i], 1);
    if (count && s->ledger)
        s->ledger->tx_fds = start + 1;
    append(s, header, fixed);
    for (size_t i = 0; i < parts; i++) {
        if (lent(s, &part[i]))
            lend(s, &part[i]);
        else
            append(s, part[i].bytes, part[i].length);
    }
    if (s->ledger)
        vfu_stream_repay(s, part, parts);
}

void vfu_stream_reply_parts(vfu_stream *s, const vfu_header *to, const vfu_payload_part *part, size_t parts, const int *fds,
                            size_t count)
{
    vfu_header header = {.id = to->id, .command = to->command, .size = sizeof(header), .flags = VFU_TYPE_REPLY};

    if (to->flags & VFU_NO_REPLY) {
        vfu_fds_close(fds, count);
        vfu_stream_repay(s, part, parts);
    } else {
        for (size_t i = 0; i < parts; i++)
            header.size += (uint32_t)part[i].length;
        enqueue(s, &header, part, parts, fds, count);
    }
    vfu_ledger_answered(s);
}

void vfu_stream_reply(vfu_stream *s, const vfu_header *to, const uint8_t *payload, size_t length)
{
    vfu_payload_part part = {.bytes = payload, .length = length};

    vfu_stream_reply_parts(s, to, &part, 1, NULL, 0);
}

void vfu_stream_error(vfu_stream *s, const vfu_header *to, int error)
{
    vfu_header header = {.id = to->id, .command = to->command, .size = sizeof(header),
                         .flags = VFU_TYPE_REPLY | VFU_ERROR, .error = (uint32_t)error};

    if (!(to->flags & VFU_NO_REPLY))
        enqueue(s, &header, NULL, 0, NULL, 0);
    vfu_ledger_answered(s);
}

void vfu_stream_send(vfu_stream *s, const vfu_payload_part *part, size_t parts, const int *fds, size_t count)
{
    vfu_header header;

    if (s->ledger) {
        memcpy(&header, part->bytes, sizeof(header));
        s->ledger->last_id = header.id + 1u;
    }
    enqueue(s, NULL, part, parts, fds, count);
}

/* -- what is taken out ----------------------------------------------------------------------------------------------- */

size_t vfu_stream_chunk(vfu_stream *s, struct iovec *part, const vfu_carried **fds, size_t *count)
{
    const vfu_carried *item = s->tx_fds.item + s->tx_fds.head;
    const vfu_loan *loan = s->tx_loans.item + s->tx_loans.head, *last = s->tx_loans.item + s->tx_loans.tail;
    uint64_t at = vfu_buffer_position(&s->tx), end = s->tx.base + s->tx.tail, stop;
    size_t left = vfu_fds_length(&s->tx_fds), parts = 0;
    vfu_header header;

    *count = 0;
    if (s->ledger && !vfu_ledger_committed(s))
        vfu_ledger_commit(s);
    if (left && item->at == at && (loan == last || loan->at > at)) {
        while (*count < left && item[*count].at == at)
            (*count)++;
        *fds = item;
        memcpy(&header, s->tx.data + s->tx.head, sizeof(header));
        part[0] = (struct iovec){.iov_base = s->tx.data + s->tx.head, .iov_len = header.size};
        return 1;
    }
    if (left && item->at < end)
        end = item->at;
    for (; parts < VFU_CHUNK_PARTS; at = stop) {
        if (loan < last && loan->at == at) {
            part[parts++] = (struct iovec){.iov_base = (void *)loan->bytes, .iov_len = loan->length};
            stop = at;
            loan++;
            continue;
        }
        stop = loan < last && loan->at < end ? loan->at : end;
        if (stop == at)
            break;
        part[parts++] = (struct iovec){.iov_base = s->tx.data + (at - s->tx.base), .iov_len = (size_t)(stop - at)};
    }
    return parts;
}

/* `most` bytes of the first loan are sent, or all of it; how many. */
static size_t sent_of_loan(vfu_stream *s, vfu_loan *loan, size_t most)
{
    size_t length = most < loan->length ? most : loan->length;

    loan->bytes += length;
    loan->length -= length;
    s->tx_loans.bytes -= length;
    if (!loan->length) {
        void *lender = loan->lender;
        s->tx_loans.head++;
        s->ops->repaid(s->owner, lender);
    }
    return length;
}

void vfu_stream_sent(vfu_stream *s, size_t length)
{
    int gone[VFU_MAX_FDS];

    if (s->ledger) /* nothing is lent */
        vfu_ledger_sent(s, length);
    while (length) {
        vfu_loan *loan = vfu_loans_first(&s->tx_loans);
        uint64_t from = vfu_buffer_position(&s->tx);
        size_t part = vfu_buffer_length(&s->tx);

        if (loan && loan->at == from) {
            length -= sent_of_loan(s, loan, length);
            continue;
        }
        if (loan && loan->at - from < part)
            part = (size_t)(loan->at - from);
        if (part > length)
            part = length;
        if (vfu_fds_length(&s->tx_fds))
            vfu_fds_close(gone, vfu_fds_take(&s->tx_fds, from + 1, gone, VFU_MAX_FDS));
        vfu_buffer_consume(&s->tx, part);
        length -= part;
    }
}

/* Descriptors lie behind every loan that comes before their byte. */
static void make_room_for_loans(vfu_stream *s)
{
    for (size_t i = s->tx_fds.head; i < s->tx_fds.tail; i++) {
        vfu_carried *c = &s->tx_fds.item[i];
        uint64_t at = c->at;
        for (size_t n = s->tx_loans.head; n < s->tx_loans.tail && s->tx_loans.item[n].at <= at; n++)
            c->at += s->tx_loans.item[n].length;
    }
}

bool vfu_stream_copy_lent(vfu_stream *s)
{
    size_t ahead = s->tx_loans.bytes, end;
    vfu_loans gone = s->tx_loans;

    if (gone.head == gone.tail)
        return true;
    if (!vfu_buffer_reserve(&s->tx, ahead))
        return false;
    make_room_for_loans(s);
    end = s->tx.tail;
    s->tx.tail += ahead;
    for (size_t i = gone.tail; i-- > gone.head;) { /* from the end, so that nothing is moved twice */
        size_t from = (size_t)(gone.item[i].at - s->tx.base);
        memmove(s->tx.data + from + ahead, s->tx.data + from, end - from);
        ahead -= gone.item[i].length;
        memcpy(s->tx.data + from + ahead, gone.item[i].bytes, gone.item[i].length);
        end = from;
    }
    s->tx_loans = (vfu_loans){0};
    for (size_t i = gone.head; i < gone.tail; i++)
        s->ops->repaid(s->owner, gone.item[i].lender);
    free(gone.item);
    return true;
}

void vfu_stream_forget_output(vfu_stream *s)
{
    vfu_loan *loan;

    while ((loan = vfu_loans_first(&s->tx_loans)))
        sent_of_loan(s, loan, loan->length);
    free(s->tx_loans.item);
    s->tx_loans = (vfu_loans){0};
    vfu_buffer_free(&s->tx);
    vfu_fds_free(&s->tx_fds);
}

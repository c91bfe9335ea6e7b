/* A stream that begins with what another process had not done yet. */
#include <errno.h>
#include <string.h>

#include "ledger.h"

/* Descriptors are in order, and each lies beside a byte. */
static bool ordered(const vfu_queue *q)
{
    for (size_t i = 0; i < q->count; i++)
        if (q->fds[i].at >= q->length || (i && q->fds[i - 1].at > q->fds[i].at))
            return false;
    return true;
}

/* How many descriptors go with the same byte as number `first`. */
static size_t together(const vfu_queue *q, size_t first)
{
    size_t i = first;

    while (i < q->count && q->fds[i].at == q->fds[first].at)
        i++;
    return i - first;
}

/* What is sent with descriptors is a whole message, which vfu_stream_chunk finds by its header. */
static bool sendable(const vfu_queue *q)
{
    uint64_t end = 0;
    vfu_header header;

    for (size_t i = 0, group; i < q->count; i += group) {
        uint64_t at = q->fds[i].at;
        group = together(q, i);
        if (at < end || q->length - at < sizeof(header) || group > VFU_MAX_FDS)
            return false;
        memcpy(&header, q->bytes + at, sizeof(header));
        if (header.size < sizeof(header) || header.size > q->length - at)
            return false;
        end = at + header.size;
    }
    return true;
}

static bool fill(vfu_buffer *buffer, vfu_fds *fds, const vfu_queue *q)
{
    if (!vfu_buffer_reserve(buffer, q->length))
        return false;
    for (size_t i = 0; i < q->count; i++)
        if (!vfu_fds_push(fds, q->fds[i].fd, buffer->base + buffer->tail + q->fds[i].at))
            return false;
    if (q->length)
        memcpy(buffer->data + buffer->tail, q->bytes, q->length);
    buffer->tail += q->length;
    return true;
}

/* Lets go of what fill() took, which stays the caller's. */
static void empty(vfu_buffer *buffer, vfu_fds *fds)
{
    fds->head = fds->tail;
    vfu_fds_free(fds);
    if (buffer->ring)
        buffer->tail = buffer->head;
    else
        vfu_buffer_free(buffer);
}

int vfu_stream_adopt(vfu_stream *s, const vfu_queue *rx, const vfu_queue *tx)
{
    if (!ordered(rx) || !ordered(tx) || !sendable(tx))
        return -EINVAL;
    if (s->ledger && tx->count && tx->fds[0].at != tx->fds[tx->count - 1].at)
        return -EBUSY;
    if (fill(&s->rx, &s->rx_fds, rx) && fill(&s->tx, &s->tx_fds, tx)) {
        if (s->ledger)
            vfu_ledger_adopted(s);
        return 0;
    }
    empty(&s->rx, &s->rx_fds);
    empty(&s->tx, &s->tx_fds);
    return -ENOMEM;
}

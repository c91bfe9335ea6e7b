#include <string.h>

#include "ledger.h"

/* Queues header and payload as one message. */
static void enqueue(vfu_stream *s, const vfu_header *header, const void *payload, size_t length, const int *fds,
                    size_t count)
{
    uint64_t start;

    if (!vfu_buffer_reserve(&s->tx, sizeof(*header) + length)) {
        vfu_stream_break(s, "no memory for a message of %zu bytes", length);
        vfu_fds_close(fds, count);
        return;
    }
    start = s->tx.base + s->tx.tail;
    for (size_t i = 0; i < count; i++)
        if (!vfu_fds_push(&s->tx_fds, fds[i], start))
            vfu_fds_close(&fds[i], 1);
    if (count && s->ledger)
        s->ledger->tx_fds = start + 1;
    memcpy(s->tx.data + s->tx.tail, header, sizeof(*header));
    if (length)
        memcpy(s->tx.data + s->tx.tail + sizeof(*header), payload, length);
    s->tx.tail += sizeof(*header) + length;
}

void vfu_stream_reply(vfu_stream *s, const vfu_header *to, const uint8_t *payload, size_t length, const int *fds,
                      size_t count)
{
    vfu_header header = {.id = to->id, .command = to->command, .size = (uint32_t)(sizeof(header) + length),
                         .flags = VFU_TYPE_REPLY};

    if (to->flags & VFU_NO_REPLY)
        vfu_fds_close(fds, count);
    else
        enqueue(s, &header, payload, length, fds, count);
    vfu_ledger_answered(s);
}

void vfu_stream_error(vfu_stream *s, const vfu_header *to, int error)
{
    vfu_header header = {.id = to->id, .command = to->command, .size = sizeof(header),
                         .flags = VFU_TYPE_REPLY | VFU_ERROR, .error = (uint32_t)error};

    if (!(to->flags & VFU_NO_REPLY))
        enqueue(s, &header, NULL, 0, NULL, 0);
    vfu_ledger_answered(s);
}

void vfu_stream_send(vfu_stream *s, const uint8_t *message, size_t length, const int *fds, size_t count)
{
    vfu_header header;

    memcpy(&header, message, sizeof(header));
    enqueue(s, &header, message + sizeof(header), length - sizeof(header), fds, count);
    if (s->ledger)
        s->ledger->last_id = header.id + 1u;
}

size_t vfu_stream_chunk(vfu_stream *s, const uint8_t **bytes, const vfu_carried **fds, size_t *count)
{
    const vfu_carried *item = s->tx_fds.item + s->tx_fds.head;
    size_t left = vfu_fds_length(&s->tx_fds), length = vfu_buffer_length(&s->tx);
    uint64_t position = vfu_buffer_position(&s->tx);
    vfu_header header;

    *bytes = s->tx.data + s->tx.head;
    *count = 0;
    if (s->ledger && !vfu_ledger_committed(s))
        vfu_ledger_commit(s);
    if (!left || !length)
        return length;
    if (item->at > position)
        return (size_t)(item->at - position);
    while (*count < left && item[*count].at == position)
        (*count)++;
    *fds = item;
    memcpy(&header, *bytes, sizeof(header));
    return header.size;
}

void vfu_stream_sent(vfu_stream *s, size_t length)
{
    int gone[VFU_MAX_FDS];
    uint64_t from = vfu_buffer_position(&s->tx);

    if (length && vfu_fds_length(&s->tx_fds))
        vfu_fds_close(gone, vfu_fds_take(&s->tx_fds, from + 1, gone, VFU_MAX_FDS));
    if (s->ledger)
        vfu_ledger_sent(s, length);
    vfu_buffer_consume(&s->tx, length);
}


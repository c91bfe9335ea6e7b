#include "dma.h"
#include "ledger.h"
#include "region.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONSUMED = 0xf };

/* The part of a message that is not data, by command: what a message may be larger than max_data_xfer_size. */
static uint32_t fixed_part(uint16_t command)
{
    switch (command) {
    case VFU_REGION_READ:
    case VFU_REGION_WRITE:
    case VFU_DMA_READ:
    case VFU_DMA_WRITE: return sizeof(vfu_header) + sizeof(vfu_region_access);
    case VFU_MIG_DATA_READ:
    case VFU_MIG_DATA_WRITE: return sizeof(vfu_header) + 8;
    default: return sizeof(vfu_header) + 4096;
    }
}

/* -- life -------------------------------------------------------------------------------------------------------- */

void vfu_stream_init(vfu_stream *s, uint32_t max_transfer, const vfu_stream_ops *ops, void *owner)
{
    memset(s, 0, sizeof(*s));
    vfu_buffer_init(&s->rx, VFU_SMALL_BUFFER);
    vfu_buffer_init(&s->tx, VFU_SMALL_BUFFER);
    s->max_transfer = max_transfer;
    s->send_limit = VFU_SEND_LIMIT;
    s->ops = ops;
    s->owner = owner;
}

void vfu_stream_free(vfu_stream *s)
{
    vfu_stream_forget_output(s);
    vfu_buffer_free(&s->rx);
    vfu_fds_free(&s->rx_fds);
    vfu_held_clear(&s->held);
    free(s->region);
    s->region = NULL;
    s->regions = 0;
    s->ledger = NULL;
}

void vfu_stream_break(vfu_stream *s, const char *format, ...)
{
    va_list arguments;

    if (s->broken[0])
        return;
    va_start(arguments, format);
    vsnprintf(s->broken, sizeof(s->broken), format, arguments);
    va_end(arguments);
}

/* -- framing ----------------------------------------------------------------------------------------------------- */

static void give_command(vfu_stream *s, const vfu_header *header, uint8_t *payload, size_t length, int *fds, size_t count)
{
    int answer;

    if (vfu_dma_command(s, header, payload, length, fds, count))
        return;
    answer = s->ops->command(s->owner, header, payload, length, fds, count);
    if (answer == VFU_LATER)
        vfu_stream_hold(s, VFU_HELD_COMMAND, header);
    else if (answer < 0)
        vfu_stream_error(s, header, -answer);
}

static void dispatch(vfu_stream *s, const vfu_header *header, uint8_t *payload, int *fds, size_t count)
{
    size_t length = header->size - sizeof(*header);

    s->received++;
    if ((header->flags & VFU_TYPE_MASK) == VFU_TYPE_REPLY) {
        s->ops->reply(s->owner, header, payload, length, fds, count);
        return;
    }
    if (!s->negotiated && header->command != VFU_VERSION) {
        vfu_stream_break(s, "command %u came before VERSION", header->command);
        vfu_fds_close(fds, count);
        return;
    }
    if (header->command != VFU_REGION_READ && header->command != VFU_REGION_WRITE &&
        header->command != VFU_REGION_WRITE_MULTI) {
        give_command(s, header, payload, length, fds, count);
        return;
    }
    if (count) {
        vfu_fds_close(fds, count);
        vfu_stream_error(s, header, EINVAL);
    } else if (header->command == VFU_REGION_WRITE_MULTI) {
        vfu_region_write_multi(s, header, payload, length);
    } else {
        vfu_region_access_command(s, header, payload, length);
    }
}

/* The header of the message at stream offset `at`, if all of it has come. Breaks the stream on one that cannot be. */
static bool frame(vfu_stream *s, uint64_t at, vfu_header *header)
{
    size_t have = (size_t)(s->rx.base + s->rx.tail - at);
    uint64_t limit;

    if (have < sizeof(*header))
        return false;
    memcpy(header, s->rx.data + (at - s->rx.base), sizeof(*header));
    limit = (uint64_t)s->max_transfer + fixed_part(header->command);
    if (header->size < sizeof(*header) || header->size > limit) {
        vfu_stream_break(s, "command %u has a message size of %u bytes, must be 16 to %llu", header->command,
                         header->size, (unsigned long long)limit);
        return false;
    }
    /* only what was searched already can carry our own mark */
    if ((header->flags & VFU_TYPE_MASK) > VFU_TYPE_REPLY &&
        !((header->flags & VFU_TYPE_MASK) == CONSUMED && at < s->scan)) {
        vfu_stream_break(s, "command %u has message type %u, must be 0 (command) or 1 (reply)", header->command,
                         header->flags & VFU_TYPE_MASK);
        return false;
    }
    return have >= header->size;
}

static size_t take_fds(vfu_stream *s, uint64_t end, int *fds)
{
    return vfu_fds_length(&s->rx_fds) ? vfu_fds_take(&s->rx_fds, end, fds, VFU_MAX_FDS) : 0;
}

/* Descriptors of the waiting messages before a reply stay theirs; only those inside [start, end) are the reply's. */
static size_t take_fds_inside(vfu_stream *s, uint64_t start, uint64_t end, int *fds)
{
    vfu_fds kept = {0};
    size_t count = 0;

    for (size_t i = s->rx_fds.head; i < s->rx_fds.tail; i++) {
        const vfu_carried *c = &s->rx_fds.item[i];
        if (c->at >= start && c->at < end && count < VFU_MAX_FDS)
            fds[count++] = c->fd;
        else if (!vfu_fds_push(&kept, c->fd, c->at))
            vfu_stream_break(s, "no memory for descriptors");
    }
    free(s->rx_fds.item);
    s->rx_fds = kept;
    return count;
}

static void shift_fds(vfu_stream *s, uint64_t start, uint64_t end, uint64_t down)
{
    for (size_t i = s->rx_fds.head; i < s->rx_fds.tail; i++)
        if (s->rx_fds.item[i].at >= start && s->rx_fds.item[i].at < end)
            s->rx_fds.item[i].at -= down;
}

/* Moves what waits over the replies between, so that these cost no memory however many there are. */
static void close_gaps(vfu_stream *s)
{
    uint8_t *data = s->rx.data;
    uint64_t gone = 0;
    vfu_header header;

    if (s->ledger) {
        vfu_ledger_close_gaps(s);
        return;
    }

    for (uint64_t at = vfu_buffer_position(&s->rx); at < s->scan; at += header.size) {
        uint8_t *message = data + (at - s->rx.base);
        memcpy(&header, message, sizeof(header));
        if ((header.flags & VFU_TYPE_MASK) == CONSUMED) {
            gone += header.size;
        } else {
            memmove(message - gone, message, header.size);
            shift_fds(s, at, at + header.size, gone);
        }
    }
    uint8_t *rest = data + (s->scan - s->rx.base);
    memmove(rest - gone, rest, (size_t)(data + s->rx.tail - rest));
    shift_fds(s, s->scan, UINT64_MAX, gone);
    s->rx.tail -= gone;
    s->scan -= gone;
    s->spent = 0;
}

bool vfu_stream_settle(vfu_stream *s)
{
    if (!vfu_stream_copy_lent(s))
        return false;
    if (s->spent)
        close_gaps(s);
    return true;
}

/* Descriptors of a message that came to a process which was killed. */
static bool lost(const int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (fds[i] < 0)
            return true;
    return false;
}

/* A message cannot be served because its descriptors are lost; a reply to the process that is dead needs no answer. */
static void refuse(vfu_stream *s, const vfu_header *header, const int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (fds[i] >= 0)
            vfu_fds_close(&fds[i], 1);
    s->received++;
    if ((header->flags & VFU_TYPE_MASK) == VFU_TYPE_COMMAND)
        vfu_stream_error(s, header, EIO);
}

/* While a command is held, replies to our own messages are taken out of what waits, and marked as consumed. */
static void scan_for_replies(vfu_stream *s)
{
    int fds[VFU_MAX_FDS];
    vfu_header header;

    if (s->scan < vfu_buffer_position(&s->rx))
        s->scan = vfu_buffer_position(&s->rx);
    while (s->held.kind != VFU_HELD_NOTHING && !vfu_stream_broken(s) && frame(s, s->scan, &header)) {
        uint8_t *message = s->rx.data + (s->scan - s->rx.base);
        uint64_t start = s->scan;
        s->scan += header.size;
        if ((header.flags & VFU_TYPE_MASK) != VFU_TYPE_REPLY)
            continue;
        if (s->ledger)
            vfu_ledger_commit(s);
        vfu_header marked = header;
        marked.flags |= CONSUMED;
        memcpy(message, &marked, sizeof(marked));
        size_t count = vfu_fds_length(&s->rx_fds) ? take_fds_inside(s, start, s->scan, fds) : 0;
        s->spent += header.size;
        if (count && lost(fds, count))
            refuse(s, &header, fds, count);
        else
            dispatch(s, &header, message + sizeof(header), fds, count);
        if (s->spent >= VFU_WAITING_LIMIT)
            close_gaps(s);
    }
}

bool vfu_stream_ready(const vfu_stream *s)
{
    return !vfu_stream_broken(s) && s->held.kind == VFU_HELD_NOTHING && vfu_stream_queued(s) <= s->send_limit &&
           !vfu_ledger_waits(s);
}

void vfu_stream_process(vfu_stream *s)
{
    int fds[VFU_MAX_FDS];
    vfu_header header;

    if (s->processing)
        return;
    s->processing = true;
    for (;;) {
        if (s->held.kind != VFU_HELD_NOTHING)
            scan_for_replies(s);
        if (!vfu_stream_ready(s) || !frame(s, vfu_buffer_position(&s->rx), &header))
            break;
        size_t count = take_fds(s, vfu_buffer_position(&s->rx) + header.size, fds);
        uint8_t *payload = s->rx.data + s->rx.head + sizeof(header);
        /* not consumed until it is served: the payload must stay where it is */
        s->rx.head += header.size;
        vfu_ledger_begin(s, &header, payload);
        if ((header.flags & VFU_TYPE_MASK) == CONSUMED)
            s->spent -= header.size;
        else if (count && lost(fds, count))
            refuse(s, &header, fds, count);
        else
            dispatch(s, &header, payload, fds, count);
        vfu_buffer_consume(&s->rx, 0);
    }
    vfu_ledger_rest(s);
    s->processing = false;
}

uint8_t *vfu_stream_keep_payload(vfu_stream *s)
{
    uint8_t *memory;

    if (!vfu_buffer_give_away(&s->rx, &memory))
        vfu_stream_break(s, "no memory for what waits");
    return memory;
}

uint8_t *vfu_stream_space(vfu_stream *s, size_t wanted, size_t *room)
{
    size_t length = vfu_buffer_length(&s->rx), most = s->rx.small;
    vfu_header header;

    if (length >= sizeof(header)) {
        memcpy(&header, s->rx.data + s->rx.head, sizeof(header));
        if (header.size > length && header.size - length > wanted)
            wanted = header.size - length;
    }
    /* what is read of the next message behind a large one would have to be moved; a ring need not be touched so far */
    if (most < wanted)
        most = wanted;
    *room = vfu_buffer_reserve(&s->rx, wanted) ? s->rx.capacity - s->rx.tail : 0;
    if (*room > most)
        *room = most;
    if (s->ledger)
        vfu_ledger_expect(s);
    return s->rx.data + s->rx.tail;
}

void vfu_stream_received(vfu_stream *s, size_t length, const int *fds, size_t count)
{
    s->rx.tail += length;
    for (size_t i = 0; i < count; i++)
        if (!vfu_fds_push(&s->rx_fds, fds[i], s->rx.base + s->rx.tail - 1))
            vfu_fds_close(&fds[i], 1);
    if (s->ledger)
        vfu_ledger_received(s, length, count);
    if (vfu_fds_length(&s->rx_fds) > 2 * VFU_MAX_FDS && s->held.kind == VFU_HELD_NOTHING &&
        vfu_stream_queued(s) <= s->send_limit)
        vfu_stream_break(s, "more than %d descriptors came with one message", 2 * VFU_MAX_FDS);
}

/* Bytes of whole commands that wait for the held one. What follows may be a reply that this one needs to end, so it
 * does not count before it is all here. */
static uint64_t waiting_bytes(const vfu_stream *s)
{
    uint64_t position = vfu_buffer_position(&s->rx);

    return s->scan > position ? s->scan - position - s->spent : 0;
}

bool vfu_stream_wants_read(const vfu_stream *s)
{
    bool waiting = waiting_bytes(s) >= VFU_WAITING_LIMIT || vfu_fds_length(&s->rx_fds) > VFU_MAX_FDS;

    if (vfu_stream_broken(s) || vfu_stream_queued(s) > s->send_limit || vfu_ledger_waits(s))
        return false;
    return s->held.kind == VFU_HELD_NOTHING || !waiting;
}

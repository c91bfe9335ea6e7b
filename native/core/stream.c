#include "stream.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONSUMED = 0xf, ON_STACK = 64 };

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
    s->send_limit = 262144;
    s->ops = ops;
    s->owner = owner;
}

static void held_clear(vfu_held *held)
{
    free(held->data);
    *held = (vfu_held){0};
}

void vfu_stream_free(vfu_stream *s)
{
    vfu_buffer_free(&s->rx);
    vfu_buffer_free(&s->tx);
    vfu_fds_free(&s->rx_fds);
    vfu_fds_free(&s->tx_fds);
    held_clear(&s->held);
    free(s->region);
    s->region = NULL;
    s->regions = 0;
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

/* -- sending ----------------------------------------------------------------------------------------------------- */

static void close_all(const int *fds, size_t count)
{
    vfu_fds garbage = {0};

    for (size_t i = 0; i < count; i++)
        if (!vfu_fds_push(&garbage, fds[i], 0))
            abort(); /* sixteen bytes could not be had: nothing sensible is left to do */
    vfu_fds_free(&garbage);
}

/* Queues header and payload as one message. */
static void enqueue(vfu_stream *s, const vfu_header *header, const void *payload, size_t length, const int *fds,
                    size_t count)
{
    uint64_t start;

    if (!vfu_buffer_reserve(&s->tx, sizeof(*header) + length)) {
        vfu_stream_break(s, "no memory for a message of %zu bytes", length);
        close_all(fds, count);
        return;
    }
    start = s->tx.base + s->tx.tail;
    for (size_t i = 0; i < count; i++)
        if (!vfu_fds_push(&s->tx_fds, fds[i], start))
            close_all(&fds[i], 1);
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
        close_all(fds, count);
    else
        enqueue(s, &header, payload, length, fds, count);
}

void vfu_stream_error(vfu_stream *s, const vfu_header *to, int error)
{
    vfu_header header = {.id = to->id, .command = to->command, .size = sizeof(header),
                         .flags = VFU_TYPE_REPLY | VFU_ERROR, .error = (uint32_t)error};

    if (!(to->flags & VFU_NO_REPLY))
        enqueue(s, &header, NULL, 0, NULL, 0);
}

void vfu_stream_send(vfu_stream *s, const uint8_t *message, size_t length, const int *fds, size_t count)
{
    vfu_header header;

    memcpy(&header, message, sizeof(header));
    enqueue(s, &header, message + sizeof(header), length - sizeof(header), fds, count);
}

size_t vfu_stream_chunk(const vfu_stream *s, const uint8_t **bytes, const vfu_carried **fds, size_t *count)
{
    const vfu_carried *item = s->tx_fds.item + s->tx_fds.head;
    size_t left = vfu_fds_length(&s->tx_fds), length = vfu_buffer_length(&s->tx);
    uint64_t position = vfu_buffer_position(&s->tx);
    vfu_header header;

    *bytes = s->tx.data + s->tx.head;
    *count = 0;
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
        close_all(gone, vfu_fds_take(&s->tx_fds, from + 1, gone, VFU_MAX_FDS));
    vfu_buffer_consume(&s->tx, length);
}

/* -- region accesses --------------------------------------------------------------------------------------------- */

static int serve(vfu_stream *s, uint32_t region, vfu_cursor *cursor)
{
    const vfu_region *r;

    if (region >= s->regions || cursor->count == 0)
        return -EINVAL;
    r = &s->region[region];
    if (cursor->offset > r->size || cursor->count > r->size - cursor->offset)
        return -EINVAL;
    s->hook_region = region;
    if (r->table)
        return vfu_table_access(r->table, cursor);
    return r->external ? s->ops->access(s->owner, region, cursor) : -EINVAL;
}

static void hold(vfu_stream *s, enum vfu_held_kind kind, const vfu_header *header)
{
    s->held.kind = kind;
    s->held.header = *header;
    s->scan = vfu_buffer_position(&s->rx);
    s->ops->held(s->owner);
}

static void access_answer(vfu_stream *s, const vfu_header *header, const vfu_region_access *access, const uint8_t *data,
                          int answer)
{
    vfu_header reply = {.id = header->id, .command = header->command, .flags = VFU_TYPE_REPLY};
    size_t length = header->command == VFU_REGION_READ ? access->count : 0;

    if (answer < 0) {
        vfu_stream_error(s, header, -answer);
        return;
    }
    if (header->flags & VFU_NO_REPLY)
        return;
    reply.size = (uint32_t)(sizeof(reply) + sizeof(*access) + length);
    if (!vfu_buffer_reserve(&s->tx, reply.size)) {
        vfu_stream_break(s, "no memory for a reply of %u bytes", reply.size);
        return;
    }
    memcpy(s->tx.data + s->tx.tail, &reply, sizeof(reply));
    memcpy(s->tx.data + s->tx.tail + sizeof(reply), access, sizeof(*access));
    if (length)
        memcpy(s->tx.data + s->tx.tail + sizeof(reply) + sizeof(*access), data, length);
    s->tx.tail += reply.size;
}

/* The access's own bytes, on the heap, so that they outlive the message they came in. */
static void hold_access(vfu_stream *s, const vfu_header *header, const vfu_region_access *access, const vfu_cursor *c)
{
    uint8_t *data = malloc(access->count);

    if (!data) {
        vfu_stream_break(s, "no memory to hold an access of %u bytes", access->count);
        return;
    }
    memcpy(data, c->data, access->count);
    s->held.access = *access;
    s->held.cursor = *c;
    s->held.cursor.data = data;
    s->held.data = data;
    hold(s, VFU_HELD_ACCESS, header);
}

static void region_access(vfu_stream *s, const vfu_header *header, const uint8_t *payload, size_t length)
{
    bool write = header->command == VFU_REGION_WRITE;
    uint8_t small[ON_STACK] = {0}, *data = small;
    vfu_region_access access;
    int answer;

    if (length < sizeof(access)) {
        vfu_stream_error(s, header, EINVAL);
        return;
    }
    memcpy(&access, payload, sizeof(access));
    if (access.count > s->max_transfer || length != sizeof(access) + (write ? access.count : 0)) {
        vfu_stream_error(s, header, EINVAL);
        return;
    }
    if (write)
        data = (uint8_t *)payload + sizeof(access);
    else if (access.count > ON_STACK && !(data = calloc(1, access.count))) {
        vfu_stream_error(s, header, ENOMEM);
        return;
    }
    vfu_cursor cursor = {.offset = access.offset, .count = access.count, .data = data, .write = write};
    answer = serve(s, access.region, &cursor);
    if (answer == VFU_LATER)
        hold_access(s, header, &access, &cursor);
    else
        access_answer(s, header, &access, data, answer);
    if (!write && data != small)
        free(data);
}

/* -- REGION_WRITE_MULTI: a list of writes, each as if it had come alone ------------------------------------------- */

static bool multi_valid(const vfu_stream *s, const uint8_t *entries, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        vfu_write_multi_entry e;
        memcpy(&e, entries + i * sizeof(e), sizeof(e));
        if (e.region >= s->regions || e.count == 0 || e.count > VFU_MULTI_DATA)
            return false;
        if (e.offset > s->region[e.region].size || e.count > s->region[e.region].size - e.offset)
            return false;
    }
    return true;
}

static void multi_answer(vfu_stream *s, const vfu_header *header, uint64_t count, int error)
{
    vfu_write_multi done = {.count = count};

    if (error)
        vfu_stream_error(s, header, error);
    else
        vfu_stream_reply(s, header, (const uint8_t *)&done, sizeof(done), NULL, 0);
}

/* Goes on from `held.entry`; the entries lie at `entries`. VFU_LATER: held.cursor waits. */
static int multi_run(vfu_stream *s, uint8_t *entries)
{
    vfu_held *h = &s->held;

    for (; h->entry < h->entries; h->entry++) {
        uint8_t *at = entries + h->entry * sizeof(vfu_write_multi_entry);
        vfu_write_multi_entry e;
        memcpy(&e, at, sizeof(e));
        h->cursor = (vfu_cursor){.offset = e.offset, .count = e.count, .write = true,
                                 .data = at + offsetof(vfu_write_multi_entry, data)};
        int answer = serve(s, e.region, &h->cursor);
        if (answer == VFU_LATER)
            return VFU_LATER;
        if (answer < 0 && !h->error)
            h->error = -answer;
    }
    return VFU_DONE;
}

static void region_write_multi(vfu_stream *s, const vfu_header *header, uint8_t *payload, size_t length)
{
    size_t bytes = length - sizeof(vfu_write_multi);
    vfu_write_multi multi;

    if (length < sizeof(multi)) {
        vfu_stream_error(s, header, EINVAL);
        return;
    }
    memcpy(&multi, payload, sizeof(multi));
    payload += sizeof(multi);
    if (bytes % sizeof(vfu_write_multi_entry) || bytes / sizeof(vfu_write_multi_entry) != multi.count ||
        !multi_valid(s, payload, multi.count)) {
        vfu_stream_error(s, header, EINVAL);
        return;
    }
    s->held = (vfu_held){.entries = multi.count};
    if (multi_run(s, payload) != VFU_LATER) {
        multi_answer(s, header, multi.count, s->held.error);
        held_clear(&s->held);
        return;
    }
    s->held.data = malloc(bytes);
    if (!s->held.data) {
        vfu_stream_break(s, "no memory to hold %zu bytes of writes", bytes);
        return;
    }
    memcpy(s->held.data, payload, bytes);
    s->held.cursor.data = s->held.data + (s->held.cursor.data - payload);
    hold(s, VFU_HELD_MULTI, header);
}

/* -- framing ----------------------------------------------------------------------------------------------------- */

static void give_command(vfu_stream *s, const vfu_header *header, uint8_t *payload, size_t length, int *fds, size_t count)
{
    int answer = s->ops->command(s->owner, header, payload, length, fds, count);

    if (answer == VFU_LATER)
        hold(s, VFU_HELD_COMMAND, header);
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
        close_all(fds, count);
        return;
    }
    if (header->command != VFU_REGION_READ && header->command != VFU_REGION_WRITE &&
        header->command != VFU_REGION_WRITE_MULTI) {
        give_command(s, header, payload, length, fds, count);
        return;
    }
    if (count) {
        close_all(fds, count);
        vfu_stream_error(s, header, EINVAL);
    } else if (header->command == VFU_REGION_WRITE_MULTI) {
        region_write_multi(s, header, payload, length);
    } else {
        region_access(s, header, payload, length);
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
        vfu_header marked = header;
        marked.flags |= CONSUMED;
        memcpy(message, &marked, sizeof(marked));
        size_t count = vfu_fds_length(&s->rx_fds) ? take_fds_inside(s, start, s->scan, fds) : 0;
        dispatch(s, &header, message + sizeof(header), fds, count);
    }
}

bool vfu_stream_ready(const vfu_stream *s)
{
    return !vfu_stream_broken(s) && s->held.kind == VFU_HELD_NOTHING && vfu_buffer_length(&s->tx) <= s->send_limit;
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
        if ((header.flags & VFU_TYPE_MASK) != CONSUMED)
            dispatch(s, &header, payload, fds, count);
        vfu_buffer_consume(&s->rx, 0);
    }
    s->processing = false;
}

uint8_t *vfu_stream_space(vfu_stream *s, size_t wanted, size_t *room)
{
    vfu_header header;

    if (vfu_buffer_length(&s->rx) >= sizeof(header)) {
        /* the rest of a message that has begun fits in one go */
        memcpy(&header, s->rx.data + s->rx.head, sizeof(header));
        if (header.size > vfu_buffer_length(&s->rx) && header.size - vfu_buffer_length(&s->rx) > wanted)
            wanted = header.size - vfu_buffer_length(&s->rx);
    }
    *room = vfu_buffer_reserve(&s->rx, wanted) ? s->rx.capacity - s->rx.tail : 0;
    return s->rx.data + s->rx.tail;
}

void vfu_stream_received(vfu_stream *s, size_t length, const int *fds, size_t count)
{
    s->rx.tail += length;
    for (size_t i = 0; i < count; i++)
        if (!vfu_fds_push(&s->rx_fds, fds[i], s->rx.base + s->rx.tail - 1))
            close_all(&fds[i], 1);
    if (vfu_fds_length(&s->rx_fds) > 2 * VFU_MAX_FDS && s->held.kind == VFU_HELD_NOTHING &&
        vfu_buffer_length(&s->tx) <= s->send_limit)
        vfu_stream_break(s, "more than %d descriptors came with one message", 2 * VFU_MAX_FDS);
}

bool vfu_stream_wants_read(const vfu_stream *s)
{
    bool waiting = vfu_buffer_length(&s->rx) >= VFU_WAITING_LIMIT || vfu_fds_length(&s->rx_fds) > VFU_MAX_FDS;

    if (vfu_stream_broken(s) || vfu_buffer_length(&s->tx) > s->send_limit)
        return false;
    return s->held.kind == VFU_HELD_NOTHING || !waiting;
}

/* -- answers that come later ------------------------------------------------------------------------------------- */

static void release_held(vfu_stream *s)
{
    held_clear(&s->held);
    vfu_stream_process(s);
}

void vfu_stream_complete_command(vfu_stream *s, const uint8_t *payload, size_t length, const int *fds, size_t count)
{
    vfu_held *h = &s->held;

    if (h->kind == VFU_HELD_COMMAND) {
        vfu_stream_reply(s, &h->header, payload, length, fds, count);
    } else if (h->kind == VFU_HELD_ACCESS && h->header.command == VFU_REGION_READ && length == h->access.count) {
        access_answer(s, &h->header, &h->access, payload, 0);
        close_all(fds, count);
    } else {
        close_all(fds, count);
        vfu_stream_complete_error(s, EIO);
        return;
    }
    release_held(s);
}

/* A whole access to an external region was answered without a value: its bytes stay as they are. */
static int resume(vfu_stream *s, uint32_t region, bool stored, uint64_t value)
{
    vfu_cursor *c = &s->held.cursor;

    s->hook_region = region;
    if (s->region[region].table)
        return vfu_table_resume(s->region[region].table, c, stored, value);
    return c->write ? VFU_DONE : -EIO;
}

static void complete_multi(vfu_stream *s, bool stored, uint64_t value, int error)
{
    vfu_held *h = &s->held;
    vfu_write_multi_entry e;
    int answer;

    memcpy(&e, h->data + h->entry * sizeof(e), sizeof(e));
    answer = error ? -error : resume(s, e.region, stored, value);
    if (answer < 0 && !h->error)
        h->error = -answer;
    if (answer != VFU_LATER) {
        h->entry++;
        answer = multi_run(s, h->data);
    }
    if (answer == VFU_LATER) {
        s->ops->held(s->owner);
        return;
    }
    multi_answer(s, &h->header, h->entries, h->error);
    release_held(s);
}

void vfu_stream_complete_access(vfu_stream *s, bool stored, uint64_t value)
{
    vfu_held *h = &s->held;
    int answer;

    if (h->kind == VFU_HELD_MULTI) {
        complete_multi(s, stored, value, 0);
        return;
    }
    if (h->kind == VFU_HELD_COMMAND) {
        vfu_stream_complete_command(s, NULL, 0, NULL, 0);
        return;
    }
    answer = resume(s, h->access.region, stored, value);
    if (answer == VFU_LATER) {
        s->ops->held(s->owner);
        return;
    }
    access_answer(s, &h->header, &h->access, h->data, answer);
    release_held(s);
}

void vfu_stream_complete_error(vfu_stream *s, int error)
{
    if (s->held.kind == VFU_HELD_MULTI) {
        complete_multi(s, false, 0, error);
        return;
    }
    vfu_stream_error(s, &s->held.header, error);
    release_held(s);
}

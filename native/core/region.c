#include "region.h"

#include "ledger.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { ON_STACK = 4096 }; /* all of configuration space */

void vfu_held_clear(vfu_held *held)
{
    free(held->data);
    *held = (vfu_held){0};
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

void vfu_stream_hold(vfu_stream *s, enum vfu_held_kind kind, const vfu_header *header)
{
    s->held.kind = kind;
    s->held.header = *header;
    s->ops->held(s->owner);
}

/* Data NULL: all ones. With `masked_errors` a failed access is answered like one to a device that is not there. */
static void access_answer(vfu_stream *s, const vfu_header *header, const vfu_region_access *access, const uint8_t *data,
                          int answer)
{
    vfu_header reply = {.id = header->id, .command = header->command, .flags = VFU_TYPE_REPLY};
    size_t length = header->command == VFU_REGION_READ ? access->count : 0;

    if (answer < 0 && (!s->masked_errors || access->count > s->max_transfer)) {
        vfu_stream_error(s, header, -answer);
        return;
    }
    if (header->flags & VFU_NO_REPLY)
        return;
    if (answer < 0)
        data = NULL;
    reply.size = (uint32_t)(sizeof(reply) + sizeof(*access) + length);
    if (!vfu_buffer_reserve(&s->tx, reply.size)) {
        vfu_stream_break(s, "no memory for a reply of %u bytes", reply.size);
        return;
    }
    memcpy(s->tx.data + s->tx.tail, &reply, sizeof(reply));
    memcpy(s->tx.data + s->tx.tail + sizeof(reply), access, sizeof(*access));
    if (length && data)
        memcpy(s->tx.data + s->tx.tail + sizeof(reply) + sizeof(*access), data, length);
    else if (length)
        memset(s->tx.data + s->tx.tail + sizeof(reply) + sizeof(*access), 0xff, length);
    s->tx.tail += reply.size;
    vfu_ledger_answered(s);
}

void vfu_region_failed(vfu_stream *s, const vfu_header *header, const vfu_region_access *access, int error)
{
    access_answer(s, header, access, NULL, -error);
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
    vfu_stream_hold(s, VFU_HELD_ACCESS, header);
}

/* -- writes that are served together: only neighbours, so nothing waits and nothing is reordered ------------------- */

static bool may_join(const vfu_stream *s, uint32_t region, const vfu_cursor *c)
{
    return c->write && region < s->regions && s->region[region].table && vfu_table_joins(s->region[region].table, c);
}

static void join(vfu_cursor *c, uint8_t *data)
{
    if (!c->joined)
        c->earlier = c->data;
    c->stride = (uint32_t)(data - c->data);
    c->joined++;
    c->data = data;
}

/* The message behind this one, to *header, if it is the same posted write but for its data, or is it and wants a reply. */
static bool same_follows(const vfu_stream *s, vfu_header *header, const uint8_t *payload)
{
    const uint8_t *at = s->rx.data + s->rx.head;
    vfu_header next;

    if (header->flags != VFU_NO_REPLY || vfu_buffer_length(&s->rx) < header->size || vfu_fds_length(&s->rx_fds))
        return false;
    memcpy(&next, at, sizeof(next));
    if (next.command != header->command || next.size != header->size || next.flags & ~(uint32_t)VFU_NO_REPLY ||
        memcmp(at + sizeof(next), payload, sizeof(vfu_region_access)) != 0)
        return false;
    *header = next;
    return true;
}

/* Takes these in, too; *header becomes the last one's, which is answered for all. Not with a ledger: what is in hand when
 * the process is killed is lost, and that is one command. */
static void join_messages(vfu_stream *s, vfu_header *header, const uint8_t *payload, vfu_cursor *c)
{
    while (!s->ledger && same_follows(s, header, payload)) {
        join(c, c->data + header->size);
        s->rx.head += header->size;
        s->received++;
    }
}

static void serve_access(vfu_stream *s, vfu_header header, const uint8_t *payload, const vfu_region_access *access,
                         uint8_t *data)
{
    vfu_cursor cursor = {.offset = access->offset, .count = access->count, .data = data,
                         .write = header.command == VFU_REGION_WRITE};
    int answer;

    if (may_join(s, access->region, &cursor))
        join_messages(s, &header, payload, &cursor);
    answer = serve(s, access->region, &cursor);
    if (answer == VFU_LATER)
        hold_access(s, &header, access, &cursor);
    else
        access_answer(s, &header, access, data, answer);
}

void vfu_region_access_command(vfu_stream *s, const vfu_header *header, const uint8_t *payload, size_t length)
{
    bool write = header->command == VFU_REGION_WRITE;
    uint8_t small[ON_STACK], *data = small;
    vfu_region_access access;

    if (length < sizeof(access)) {
        vfu_stream_error(s, header, EINVAL);
        return;
    }
    memcpy(&access, payload, sizeof(access));
    if (access.count > s->max_transfer || length != sizeof(access) + (write ? access.count : 0)) {
        access_answer(s, header, &access, NULL, -EINVAL);
        return;
    }
    if (write)
        data = (uint8_t *)payload + sizeof(access);
    else if (access.count <= ON_STACK)
        memset(small, 0, access.count);
    else if (!(data = calloc(1, access.count))) {
        vfu_stream_error(s, header, ENOMEM);
        return;
    }
    serve_access(s, *header, payload, &access, data);
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
        vfu_stream_reply(s, header, (const uint8_t *)&done, sizeof(done));
}

/* Takes in the entries behind this one that are the same write but for their data: `held.entry` is the last of them. */
static void join_entries(vfu_held *h, const uint8_t *entries)
{
    const size_t place = offsetof(vfu_write_multi_entry, data);

    for (; h->entry + 1 < h->entries; h->entry++) {
        const uint8_t *at = entries + h->entry * sizeof(vfu_write_multi_entry);
        if (memcmp(at, at + sizeof(vfu_write_multi_entry), place) != 0)
            return;
        join(&h->cursor, h->cursor.data + sizeof(vfu_write_multi_entry));
    }
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
        if (may_join(s, e.region, &h->cursor))
            join_entries(h, entries);
        int answer = serve(s, e.region, &h->cursor);
        if (answer == VFU_LATER)
            return VFU_LATER;
        if (answer < 0 && !h->error)
            h->error = -answer;
    }
    return VFU_DONE;
}

void vfu_region_write_multi(vfu_stream *s, const vfu_header *header, uint8_t *payload, size_t length)
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
        vfu_held_clear(&s->held);
        return;
    }
    s->held.data = malloc(bytes);
    if (!s->held.data) {
        vfu_stream_break(s, "no memory to hold %zu bytes of writes", bytes);
        return;
    }
    memcpy(s->held.data, payload, bytes);
    s->held.cursor.data = s->held.data + (s->held.cursor.data - payload);
    vfu_stream_hold(s, VFU_HELD_MULTI, header);
}

/* -- answers that come later ------------------------------------------------------------------------------------- */

static void release_held(vfu_stream *s)
{
    vfu_held_clear(&s->held);
    vfu_stream_process(s);
}

void vfu_stream_complete_command(vfu_stream *s, const vfu_payload_part *part, size_t parts, const int *fds, size_t count)
{
    vfu_held *h = &s->held;

    if (h->kind == VFU_HELD_COMMAND) {
        vfu_stream_reply_parts(s, &h->header, part, parts, fds, count);
        release_held(s);
        return;
    }
    vfu_fds_close(fds, count);
    if (h->kind == VFU_HELD_ACCESS && h->header.command == VFU_REGION_READ && parts == 1 &&
        part->length == h->access.count) {
        access_answer(s, &h->header, &h->access, part->bytes, 0);
        vfu_stream_repay(s, part, parts);
        release_held(s);
    } else {
        vfu_stream_repay(s, part, parts);
        vfu_stream_complete_error(s, EIO);
    }
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
    if (s->held.kind == VFU_HELD_ACCESS)
        access_answer(s, &s->held.header, &s->held.access, NULL, -error);
    else
        vfu_stream_error(s, &s->held.header, error);
    release_held(s);
}

#include "buffer.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { QUIET_USES = 256 };

void vfu_buffer_init(vfu_buffer *buffer, size_t small)
{
    memset(buffer, 0, sizeof(*buffer));
    buffer->small = small;
}

void vfu_buffer_free(vfu_buffer *buffer)
{
    if (!buffer->ring)
        free(buffer->data);
    vfu_buffer_init(buffer, buffer->small);
}

static void rewind_to_head(vfu_buffer *b)
{
    if (b->head == 0)
        return;
    memmove(b->data, b->data + b->head, vfu_buffer_length(b));
    b->base += b->head;
    b->tail -= b->head;
    b->head = 0;
}

bool vfu_buffer_reserve(vfu_buffer *b, size_t size)
{
    size_t needed = vfu_buffer_length(b) + size, capacity = b->capacity ? b->capacity : b->small;
    uint8_t *data;

    if (b->capacity - b->tail >= size)
        return true;
    if (b->ring)
        return false;
    rewind_to_head(b);
    if (b->capacity >= needed)
        return true;
    while (capacity < needed)
        capacity += capacity / 2;
    data = realloc(b->data, capacity);
    if (!data)
        return false;
    b->data = data;
    b->capacity = capacity;
    return true;
}

void vfu_buffer_wrap(vfu_buffer *b)
{
    if (b->head >= b->ring) {
        b->head -= b->ring;
        b->tail -= b->ring;
        b->base += b->ring;
    }
    b->capacity = b->head + b->ring / 2;
}

/* Gives back the pages behind the small part, once they have not been used for long. */
static void shrink_ring(vfu_buffer *b, size_t used)
{
    if (b->used < used)
        b->used = used;
    b->quiet = b->used > b->small && used <= b->small ? b->quiet + 1 : 0;
    if (b->quiet > QUIET_USES) {
        madvise(b->data + b->small, b->ring - b->small, MADV_REMOVE);
        b->used = b->quiet = 0;
    }
}

/* apart, so that the other kind costs no more */
__attribute__((noinline)) static void ring_consumed(vfu_buffer *b)
{
    size_t used = b->tail;

    if (b->head == b->tail) {
        b->base += b->head;
        b->head = b->tail = 0;
        shrink_ring(b, used);
    }
    vfu_buffer_wrap(b);
}

/* The allocator may keep what it is given, but not the pages in it. */
static void drop_pages(const vfu_buffer *b)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), start = ((uintptr_t)b->data + page - 1) & ~(page - 1);
    uintptr_t end = ((uintptr_t)b->data + b->capacity) & ~(page - 1);

    if (start < end)
        madvise((void *)start, end - start, MADV_DONTNEED);
}

void vfu_buffer_rest(vfu_buffer *b)
{
    if (!vfu_buffer_large(b) || vfu_buffer_length(b))
        return;
    b->base += b->head;
    drop_pages(b);
    free(b->data);
    b->data = NULL;
    b->capacity = b->head = b->tail = b->quiet = 0;
}

void vfu_buffer_consume(vfu_buffer *b, size_t size)
{
    size_t used = b->tail;

    b->head += size;
    if (b->ring) {
        ring_consumed(b);
        return;
    }
    if (b->head < b->tail)
        return;
    b->base += b->head;
    b->head = b->tail = 0;
    b->quiet = b->capacity > b->small && used <= b->small ? b->quiet + 1 : 0;
    if (b->quiet > QUIET_USES)
        vfu_buffer_rest(b);
}

bool vfu_buffer_give_away(vfu_buffer *b, uint8_t **memory)
{
    size_t length = vfu_buffer_length(b);
    const uint8_t *queued = b->data + b->head;

    *memory = b->data;
    b->base += b->head;
    b->data = NULL;
    b->capacity = b->head = b->tail = 0;
    if (!length)
        return true;
    if (!vfu_buffer_reserve(b, length))
        return false;
    memcpy(b->data, queued, length);
    b->tail = length;
    return true;
}

bool vfu_loans_push(vfu_loans *l, const vfu_loan *loan)
{
    if (l->head) {
        memmove(l->item, l->item + l->head, (l->tail - l->head) * sizeof(*l->item));
        l->tail -= l->head;
        l->head = 0;
    }
    if (l->tail == l->capacity) {
        size_t capacity = l->capacity ? 2 * l->capacity : 8;
        vfu_loan *item = realloc(l->item, capacity * sizeof(*item));
        if (!item)
            return false;
        l->item = item;
        l->capacity = capacity;
    }
    l->item[l->tail++] = *loan;
    l->bytes += loan->length;
    return true;
}

bool vfu_fds_push(vfu_fds *f, int fd, uint64_t at)
{
    if (f->tail == f->capacity) {
        size_t capacity = f->capacity ? 2 * f->capacity : 16;
        vfu_carried *item = realloc(f->item, capacity * sizeof(*item));
        if (!item)
            return false;
        f->item = item;
        f->capacity = capacity;
    }
    f->item[f->tail++] = (vfu_carried){.at = at, .fd = fd};
    return true;
}

size_t vfu_fds_take(vfu_fds *f, uint64_t end, int *into, size_t room)
{
    size_t taken = 0;

    while (f->head < f->tail && f->item[f->head].at < end) {
        int fd = f->item[f->head++].fd;
        if (taken < room)
            into[taken++] = fd;
        else
            close(fd);
    }
    if (f->head == f->tail)
        f->head = f->tail = 0;
    return taken;
}

void vfu_fds_close(const int *fds, size_t count)
{
    while (count--)
        close(fds[count]);
}

void vfu_fds_free(vfu_fds *f)
{
    while (f->head < f->tail)
        close(f->item[f->head++].fd);
    free(f->item);
    *f = (vfu_fds){0};
}

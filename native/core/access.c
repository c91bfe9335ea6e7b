#include "access.h"

#include <errno.h>
#include <sys/uio.h>

enum {
    PIECES_AT_ONCE = 64, /* of one preadv: as many as fit on the stack */
    ALSO_UNPROVEN = 4,   /* beside VFU_PROT_*: a mapping that nobody has compared is used */
};

/* -- what an access touches ----------------------------------------------------------------------------------------- */

/* The area that holds `iova`; false: none. */
static bool area_at(const vfu_ioas *ioas, uint64_t iova, vfu_area *area)
{
    return vfu_areas_at(&ioas->areas, vfu_areas_reaching(&ioas->areas, iova), area) && area->iova <= iova;
}

int vfu_ioas_extent(const vfu_ioas *ioas, uint64_t iova, uint64_t length, uint32_t prot, vfu_extent *e)
{
    uint64_t into, room;
    vfu_source *source;
    vfu_area a;

    if (!area_at(ioas, iova, &a))
        return -EFAULT;
    if ((a.prot & prot) != prot)
        return -EPERM;
    into = iova - a.iova;
    room = a.size - into;
    *e = (vfu_extent){.iova = iova, .length = length < room ? length : room};
    if (!a.use)
        return 0;
    source = a.use->source;
    if (vfu_source_dead(source))
        return -EFAULT;
    if (a.use->trust == VFU_REFUSED)
        return 0;
    e->access = source->access;
    e->unproven = a.use->trust == VFU_UNPROVEN;
    e->source = source;
    e->offset = a.offset + into;
    e->address = source->base ? source->base + (e->offset - source->start) : NULL;
    return 0;
}

static int reachable(const vfu_extent *e, uint32_t flags)
{
    return e->access == VFU_ACCESS_MESSAGES || (e->unproven && !(flags & ALSO_UNPROVEN)) ? -ENOTCONN : 0;
}

static bool beyond(uint64_t iova, uint64_t length)
{
    return length && vfu_last(iova, length) < iova;
}

static int check(const vfu_ioas *ioas, uint64_t iova, uint64_t length, uint32_t flags)
{
    vfu_extent e;
    int error = beyond(iova, length) ? -EFAULT : 0;

    for (uint64_t done = 0; !error && done < length; done += e.length) {
        error = vfu_ioas_extent(ioas, iova + done, length - done, flags & (VFU_PROT_READ | VFU_PROT_WRITE), &e);
        if (!error)
            error = reachable(&e, flags);
    }
    return error;
}

static void mark(const vfu_ioas *ioas, uint64_t iova, uint64_t length)
{
    if (ioas->dirty)
        vfu_dirty_mark(ioas->dirty, iova, length);
}

/* -- copies --------------------------------------------------------------------------------------------------------- */

/* One direction of a copy: the first extent is known, the others were checked. It fails only where a file was cut. */
static int transfer(const vfu_ioas *ioas, vfu_extent e, uint8_t *buffer, uint64_t length, bool to_space)
{
    uint64_t iova = e.iova;
    int error = 0;

    for (uint64_t done = 0;;) {
        error = to_space ? vfu_source_write(e.source, e.offset, buffer + done, e.length)
                         : vfu_source_read(e.source, e.offset, buffer + done, e.length);
        done += e.length;
        if (error || done == length)
            return error;
        error = vfu_ioas_extent(ioas, iova + done, length - done, 0, &e);
        if (error)
            return error;
    }
}

/* An access that lies in one area, as most do, is looked up once. */
static int move(vfu_ioas *ioas, uint64_t iova, uint8_t *buffer, uint64_t length, uint32_t flags)
{
    uint32_t prot = flags & (VFU_PROT_READ | VFU_PROT_WRITE);
    int error = vfu_ioas_enter(ioas);
    vfu_extent e;

    if (error)
        return error;
    if (!length) {
        vfu_ioas_leave(ioas);
        return 0;
    }
    error = beyond(iova, length) ? -EFAULT : vfu_ioas_extent(ioas, iova, length, prot, &e);
    if (!error)
        error = reachable(&e, flags);
    if (!error && e.length < length)
        error = check(ioas, iova + e.length, length - e.length, flags);
    if (!error) {
        error = transfer(ioas, e, buffer, length, flags & VFU_PROT_WRITE);
        if (flags & VFU_PROT_WRITE)
            mark(ioas, iova, length); /* a write that failed in the middle has written something */
    }
    vfu_ioas_leave(ioas);
    return error;
}

int vfu_ioas_read(vfu_ioas *ioas, uint64_t iova, void *to, uint64_t length)
{
    return move(ioas, iova, to, length, VFU_PROT_READ);
}

int vfu_ioas_write(vfu_ioas *ioas, uint64_t iova, const void *from, uint64_t length)
{
    return move(ioas, iova, (uint8_t *)from, length, VFU_PROT_WRITE);
}

int vfu_ioas_read_unproven(vfu_ioas *ioas, uint64_t iova, void *to, uint64_t length)
{
    return move(ioas, iova, to, length, VFU_PROT_READ | ALSO_UNPROVEN);
}

int vfu_ioas_write_unproven(vfu_ioas *ioas, uint64_t iova, const void *from, uint64_t length)
{
    return move(ioas, iova, (uint8_t *)from, length, VFU_PROT_WRITE | ALSO_UNPROVEN);
}

int vfu_ioas_copy(vfu_ioas *ioas, uint64_t source, uint64_t destination, uint64_t length)
{
    vfu_extent in, out;
    int error = vfu_ioas_enter(ioas);

    if (error)
        return error;
    error = check(ioas, source, length, VFU_PROT_READ);
    if (!error)
        error = check(ioas, destination, length, VFU_PROT_WRITE);
    for (uint64_t done = 0; !error && done < length; done += out.length) {
        error = vfu_ioas_extent(ioas, source + done, length - done, 0, &in);
        if (!error)
            error = vfu_ioas_extent(ioas, destination + done, in.length, 0, &out);
        if (!error)
            error = vfu_source_copy(in.source, in.offset, out.source, out.offset, out.length);
        if (!error)
            mark(ioas, destination + done, out.length);
    }
    vfu_ioas_leave(ioas);
    return error;
}

/* -- single accesses ------------------------------------------------------------------------------------------------ */

typedef struct {
    enum vfu_operation operation;
    unsigned size;
    void *at;
    uint64_t operand, expected, old;
} Single;

#define SINGLE(type)                                                                                                   \
    do {                                                                                                               \
        type *at = s->at, operand = (type)s->operand, old = (type)s->expected;                                         \
        switch (s->operation) {                                                                                        \
        case VFU_LOAD: old = __atomic_load_n(at, __ATOMIC_ACQUIRE); break;                                             \
        case VFU_STORE: __atomic_store_n(at, operand, __ATOMIC_RELEASE); break;                                        \
        case VFU_SWAP: old = __atomic_exchange_n(at, operand, __ATOMIC_SEQ_CST); break;                                \
        case VFU_ADD: old = __atomic_fetch_add(at, operand, __ATOMIC_SEQ_CST); break;                                  \
        case VFU_OR: old = __atomic_fetch_or(at, operand, __ATOMIC_SEQ_CST); break;                                    \
        case VFU_AND: old = __atomic_fetch_and(at, operand, __ATOMIC_SEQ_CST); break;                                  \
        case VFU_COMPARE:                                                                                              \
            __atomic_compare_exchange_n(at, &old, operand, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                 \
            break;                                                                                                     \
        }                                                                                                              \
        s->old = old;                                                                                                  \
    } while (0)

static void single(void *argument)
{
    Single *s = argument;

    switch (s->size) {
    case 1: SINGLE(uint8_t); break;
    case 2: SINGLE(uint16_t); break;
    case 4: SINGLE(uint32_t); break;
    default: SINGLE(uint64_t); break;
    }
}

int vfu_ioas_atomic(vfu_ioas *ioas, enum vfu_operation operation, uint64_t iova, unsigned size, uint64_t operand,
                    uint64_t expected, uint64_t *old)
{
    uint32_t prot = (operation == VFU_STORE ? 0 : VFU_PROT_READ) | (operation == VFU_LOAD ? 0 : VFU_PROT_WRITE);
    Single s = {.operation = operation, .size = size, .operand = operand, .expected = expected};
    vfu_extent e;
    int error;

    if ((size != 1 && size != 2 && size != 4 && size != 8) || iova % size)
        return -EINVAL;
    error = vfu_ioas_enter(ioas);
    if (error)
        return error;
    error = vfu_ioas_extent(ioas, iova, size, prot, &e);
    if (!error && (e.access != VFU_ACCESS_MAPPED || e.unproven))
        error = -ENOTCONN;
    if (!error && (e.length < size || (uintptr_t)e.address % size))
        error = -EINVAL;
    if (!error) {
        s.at = e.address;
        error = vfu_guarded(single, &s);
        if (prot & VFU_PROT_WRITE)
            mark(ioas, iova, size);
    }
    vfu_ioas_leave(ioas);
    *old = s.old;
    return error;
}

/* -- between a file and the space ------------------------------------------------------------------------------------ */

/* Where a list of pieces is gone through: so many bytes into the first. */
typedef struct {
    const vfu_piece *piece;
    size_t left;
    uint64_t into;
} Walk;

static void advance(Walk *w, uint64_t bytes)
{
    w->into += bytes;
    while (w->left && w->into >= w->piece->length) {
        w->into -= w->piece->length;
        w->piece++;
        w->left--;
    }
}

/* The next extents as an iovec; how many, or -errno. */
static int gather(const vfu_ioas *ioas, Walk w, struct iovec *vector)
{
    vfu_extent e;
    int count = 0;

    for (advance(&w, 0); w.left && count < PIECES_AT_ONCE; advance(&w, e.length)) {
        int error = vfu_ioas_extent(ioas, w.piece->iova + w.into, w.piece->length - w.into, 0, &e);
        if (error)
            return error;
        if (e.access != VFU_ACCESS_MAPPED || e.unproven)
            return -ENOTCONN;
        vector[count++] = (struct iovec){.iov_base = e.address, .iov_len = e.length};
    }
    return count;
}

static void mark_walked(const vfu_ioas *ioas, Walk w, uint64_t bytes)
{
    for (advance(&w, 0); bytes && w.left;) {
        uint64_t part = w.piece->length - w.into < bytes ? w.piece->length - w.into : bytes;
        mark(ioas, w.piece->iova + w.into, part);
        bytes -= part;
        advance(&w, part);
    }
}

/* The kernel met a page that is not there: which of the files is it? The caller's buffer cannot be, it is ours. */
static void find_cut(const vfu_ioas *ioas, Walk w)
{
    vfu_extent e;

    for (advance(&w, 0); w.left; advance(&w, e.length)) {
        if (vfu_ioas_extent(ioas, w.piece->iova + w.into, w.piece->length - w.into, 0, &e) < 0)
            return;
        if (e.source)
            vfu_source_cut(e.source);
    }
}

/* How many bytes moved, or -errno. */
static ssize_t move_vector(int fd, const struct iovec *vector, int count, off_t offset, bool to_space)
{
    ssize_t moved;

    do
        moved = to_space ? preadv(fd, vector, count, offset) : pwritev(fd, vector, count, offset);
    while (moved < 0 && errno == EINTR);
    return moved < 0 ? -errno : moved;
}

static ssize_t vector_io(const vfu_ioas *ioas, int fd, Walk w, off_t offset, bool to_space)
{
    struct iovec vector[PIECES_AT_ONCE];
    ssize_t total = 0;

    for (;;) {
        int count = gather(ioas, w, vector);
        if (count <= 0)
            return count < 0 ? count : total;
        ssize_t moved = move_vector(fd, vector, count, offset + total, to_space);
        if (moved == -EFAULT)
            find_cut(ioas, w);
        if (moved <= 0)
            return moved < 0 ? moved : total;
        if (to_space)
            mark_walked(ioas, w, (uint64_t)moved);
        total += moved;
        advance(&w, (uint64_t)moved);
    }
}

static ssize_t file_io(vfu_ioas *ioas, int fd, const vfu_piece *piece, size_t count, off_t offset, bool to_space)
{
    ssize_t result = vfu_ioas_enter(ioas);

    if (result)
        return result;
    for (size_t i = 0; !result && i < count; i++)
        result = check(ioas, piece[i].iova, piece[i].length, to_space ? VFU_PROT_WRITE : VFU_PROT_READ);
    if (!result)
        result = vector_io(ioas, fd, (Walk){.piece = piece, .left = count}, offset, to_space);
    vfu_ioas_leave(ioas);
    return result;
}

ssize_t vfu_ioas_preadv(vfu_ioas *ioas, int fd, const vfu_piece *piece, size_t count, off_t offset)
{
    return file_io(ioas, fd, piece, count, offset, true);
}

ssize_t vfu_ioas_pwritev(vfu_ioas *ioas, int fd, const vfu_piece *piece, size_t count, off_t offset)
{
    return file_io(ioas, fd, piece, count, offset, false);
}

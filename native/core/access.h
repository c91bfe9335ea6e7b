/* Accesses to an address space: everything is checked before the first byte moves, and marked dirty after the last. */
#ifndef VFU_ACCESS_H
#define VFU_ACCESS_H

#include <sys/types.h>

#include "ioas.h"

/* A piece of an access that lies in one area. */
typedef struct {
    uint64_t iova, length;
    enum vfu_access access; /* how its bytes are reached */
    bool unproven;          /* mapped, but who knows what: compare with what a message says */
    vfu_source *source;     /* NULL: it has no file */
    uint64_t offset;        /* in the source */
    uint8_t *address;       /* where it is mapped, or NULL */
} vfu_extent;

/* The next piece of an access at `iova`, at most `length` long. 0, -EFAULT (nothing there, or its file was cut) or
 * -EPERM. Call with the space's lock held. */
int vfu_ioas_extent(const vfu_ioas *ioas, uint64_t iova, uint64_t length, uint32_t prot, vfu_extent *extent);

/* 0, or -VFU_NOT_MASTER, -VFU_STOPPED (asked where the lock is held, as for every access below), -EFAULT, -EPERM, -EIO
 * (a file refuses), or -ENOTCONN: a piece of it is reached by messages, or is unproven. */
int vfu_ioas_read(vfu_ioas *ioas, uint64_t iova, void *to, uint64_t length);
int vfu_ioas_write(vfu_ioas *ioas, uint64_t iova, const void *from, uint64_t length);
int vfu_ioas_copy(vfu_ioas *ioas, uint64_t source, uint64_t destination, uint64_t length);

/* The same where a file is not proven: its mapping is used all the same. For who compares. */
int vfu_ioas_read_unproven(vfu_ioas *ioas, uint64_t iova, void *to, uint64_t length);
int vfu_ioas_write_unproven(vfu_ioas *ioas, uint64_t iova, const void *from, uint64_t length);

/* One access of 1, 2, 4 or 8 bytes, naturally aligned and in mapped memory: it happens at once. */
enum vfu_operation {
    VFU_LOAD,
    VFU_STORE,
    VFU_SWAP,
    VFU_ADD,
    VFU_OR,
    VFU_AND,
    VFU_COMPARE, /* stores `operand` if `expected` was there */
};

/* *old: what was there before. Errors as above, -EINVAL (size or alignment); file I/O areas are -ENOTCONN. */
int vfu_ioas_atomic(vfu_ioas *ioas, enum vfu_operation operation, uint64_t iova, unsigned size, uint64_t operand,
                    uint64_t expected, uint64_t *old);

/* Between a file of the device's own and `count` pieces of the space, without a copy in between: how many bytes moved
 * (fewer only at the end of the file), or -errno: of the file, or as above. */
typedef struct {
    uint64_t iova, length;
} vfu_piece;

ssize_t vfu_ioas_preadv(vfu_ioas *ioas, int fd, const vfu_piece *piece, size_t count, off_t offset);
ssize_t vfu_ioas_pwritev(vfu_ioas *ioas, int fd, const vfu_piece *piece, size_t count, off_t offset);

#endif

/* An I/O address space: areas [iova, iova + size) over page sources.
 *
 * A page source is a file mapped once for the whole process, however many areas of however many spaces use it; an
 * area is a piece of it, or a range that only messages reach (no source). Lock order: a space's lock, then the
 * registry's. Copies hold the space's lock shared, so an unmap waits until they are through.
 */
#ifndef VFU_IOAS_H
#define VFU_IOAS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    VFU_PROT_READ = 1,
    VFU_PROT_WRITE = 2,
};

typedef struct vfu_source vfu_source;

typedef struct {
    uint64_t iova, size;
    uint64_t offset; /* in the source */
    vfu_source *source;
    uint32_t prot;
} vfu_area;

typedef struct {
    pthread_rwlock_t lock;
    vfu_area *area; /* sorted by iova */
    size_t count, capacity, limit;
    uint64_t bytes;
} vfu_ioas;

typedef struct {
    uint64_t iova, length;
    bool mapped;
} vfu_extent;

int vfu_ioas_init(vfu_ioas *ioas, size_t limit);
void vfu_ioas_free(vfu_ioas *ioas);

/* 0, or -EINVAL, -EEXIST, -ENOSPC, -EPERM (a read-only file asked to be writable), -ENOMEM, mmap's errno. */
int vfu_ioas_map(vfu_ioas *ioas, uint64_t iova, uint64_t size, uint32_t prot, int fd, uint64_t offset);
/* How many areas were removed, or -ENOENT, -EINVAL. An end of exactly 2^64 is legal. */
long vfu_ioas_unmap(vfu_ioas *ioas, uint64_t iova, uint64_t size);
size_t vfu_ioas_clear(vfu_ioas *ioas);

/* The next extent of an access at `iova`, at most `length` long. 0, -EFAULT or -EPERM. Call with the lock held. */
int vfu_ioas_extent(const vfu_ioas *ioas, uint64_t iova, uint64_t length, uint32_t prot, vfu_extent *extent,
                    uint8_t **address);
/* Copies between the space and a buffer; 0, -EFAULT (unmapped, reached by messages only, or the file was cut), -EPERM.
 * All of it is checked before the first byte moves. */
int vfu_ioas_read(vfu_ioas *ioas, uint64_t iova, void *to, uint64_t length);
int vfu_ioas_write(vfu_ioas *ioas, uint64_t iova, const void *from, uint64_t length);
int vfu_ioas_copy(vfu_ioas *ioas, uint64_t source, uint64_t destination, uint64_t length);

#endif

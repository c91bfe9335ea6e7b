/* An I/O address space: areas [iova, iova + size) over page sources.
 *
 * A page source is a file mapped (or kept open for file I/O) once for the whole process, however many areas of however
 * many spaces use it; an area is a piece of it, or a range that only messages reach (no source). Lock order: a space's lock, then the
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

/* How an area's bytes are reached. */
enum vfu_access {
    VFU_ACCESS_MESSAGES = 0, /* not here: by DMA_READ and DMA_WRITE */
    VFU_ACCESS_MAPPED = 1,
    VFU_ACCESS_FILE = 2, /* by pread and pwrite on the client's descriptor */
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
    size_t files; /* areas that are reached by file I/O, where every access is a system call */
    uint64_t bytes;
} vfu_ioas;

/* A piece of an access that lies in one area. */
typedef struct {
    uint64_t iova, length;
    const vfu_source *source; /* NULL: only messages reach it */
    uint64_t offset;          /* in the source */
} vfu_extent;

int vfu_ioas_init(vfu_ioas *ioas, size_t limit);
void vfu_ioas_free(vfu_ioas *ioas);

/* Adds an area over a file, reached in the first of `ways` (enum vfu_access, or'ed together) that the file allows, or
 * (fd < 0) by messages. 0, or -EINVAL, -EEXIST, -ENOSPC, -EPERM (the file was not opened for that), -ENOMEM, mmap's
 * errno. */
int vfu_ioas_map(vfu_ioas *ioas, uint64_t iova, uint64_t size, uint32_t prot, int fd, uint64_t offset, uint32_t ways);
/* How many areas were removed, or -ENOENT, -EINVAL. An end of exactly 2^64 is legal. */
long vfu_ioas_unmap(vfu_ioas *ioas, uint64_t iova, uint64_t size);
size_t vfu_ioas_clear(vfu_ioas *ioas);

/* The next extent of an access at `iova`, at most `length` long. 0, -EFAULT or -EPERM. Call with the lock held. */
int vfu_ioas_extent(const vfu_ioas *ioas, uint64_t iova, uint64_t length, uint32_t prot, vfu_extent *extent);
/* Copies between the space and a buffer; 0, -EFAULT (unmapped, reached by messages only, or the file was cut), -EPERM,
 * -EIO (a file refuses). Areas and permissions are checked before the first byte moves. */
int vfu_ioas_read(vfu_ioas *ioas, uint64_t iova, void *to, uint64_t length);
int vfu_ioas_write(vfu_ioas *ioas, uint64_t iova, const void *from, uint64_t length);
int vfu_ioas_copy(vfu_ioas *ioas, uint64_t source, uint64_t destination, uint64_t length);

#endif

/* Page sources: clients' files that areas lie in, counted by whoever uses them.
 *
 * A source is mapped once for the whole process, or it is read and written by file I/O; either way it keeps one
 * descriptor. It is found again by (device, inode, permission, how it is reached). A file whose pages have vanished (it
 * was cut) makes its source dead for good: nothing goes through it any more, and the same file mapped again is a new one.
 * A foreign source is a mapping that somebody else made and will unmap: it has no descriptor and is never found again.
 */
#ifndef VFU_SOURCE_H
#define VFU_SOURCE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "guard.h"

enum {
    VFU_PROT_READ = 1,
    VFU_PROT_WRITE = 2,
};

/* How the bytes of an area are reached. */
enum vfu_access {
    VFU_ACCESS_MESSAGES = 0, /* not here: by DMA_READ and DMA_WRITE */
    VFU_ACCESS_MAPPED = 1,
    VFU_ACCESS_FILE = 2, /* by pread and pwrite on the client's descriptor */
};

typedef struct vfu_source {
    struct vfu_source *next;
    uint64_t id; /* never used twice in a process */
    dev_t device;
    ino_t inode;
    bool sized; /* taken whole and found again; a file without a size (a device, a dma-buf) is taken by pieces */
    uint32_t prot;
    enum vfu_access access;
    bool foreign;           /* somebody else's mapping: not ours to unmap */
    int fd;                 /* our own; -1 where it is foreign */
    uint8_t *base;          /* where it is mapped, or NULL */
    uint64_t start, length; /* the bytes of the file that are reached */
    size_t users;
    vfu_range *guard;
    atomic_bool dead;
} vfu_source;

/* A source that has bytes [offset, offset + size), reached in the first of these `ways` (enum vfu_access, or'ed
 * together) that the file allows: mapped, then file I/O. NULL with *error = -errno. The caller keeps `fd`. */
vfu_source *vfu_source_get(int fd, uint64_t offset, uint64_t size, uint32_t prot, uint32_t ways, int *error);
/* A source whose pages are gone from the start, of no file; NULL: no memory. */
vfu_source *vfu_source_lost(void);
/* A source over shared memory that somebody else has mapped at `base` (a page's begin); its last user must be gone before
 * the mapping is. NULL with *error = -ENOMEM. */
vfu_source *vfu_source_foreign(void *base, uint64_t size, uint32_t prot, int *error);
/* One more user of a source that has one. */
void vfu_source_hold(vfu_source *source);
void vfu_source_put(vfu_source *source);

/* True once pages of it have vanished. */
bool vfu_source_dead(vfu_source *source);
/* Looks at the file itself, for whoever was told EFAULT by the kernel; true if the file ends before what is mapped. */
bool vfu_source_cut(vfu_source *source);

/* Moves bytes between the source and a buffer: 0, -EFAULT (the file was cut) or -EIO (it refuses file I/O). */
int vfu_source_read(const vfu_source *source, uint64_t offset, void *to, uint64_t length);
int vfu_source_write(const vfu_source *source, uint64_t offset, const void *from, uint64_t length);
/* Moves bytes between two sources. */
int vfu_source_copy(vfu_source *from, uint64_t at, vfu_source *to, uint64_t offset, uint64_t length);

/* Calls `visit` for every source of the process, until it returns false. */
void vfu_sources(bool (*visit)(void *argument, const vfu_source *source), void *argument);

#endif

/* An I/O address space: areas [iova, iova + size) over page sources, or over memory that only messages reach.
 *
 * Lock order: a space's lock, then the registry's of the sources, then the guard's. Accesses hold the space's lock
 * shared, so a change of the areas waits until they are through, and comes before those that wait for it.
 */
#ifndef VFU_IOAS_H
#define VFU_IOAS_H

#include <pthread.h>

#include "areas.h"
#include "dirty.h"
#include "gate.h"
#include "source.h"

/* Whether a file that can be mapped is what the client itself sees. */
enum vfu_trust {
    VFU_TRUSTED,
    VFU_UNPROVEN, /* not known yet: its areas are reached by whoever compares */
    VFU_REFUSED,  /* the client has a private copy: its areas are reached by messages */
};

/* One source in one space. */
struct vfu_use {
    vfu_source *source;
    size_t areas;
    enum vfu_trust trust;
};

typedef struct vfu_pin vfu_pin;

typedef struct {
    pthread_rwlock_t lock;
    const vfu_gate *gate; /* of the device that uses the space; NULL: it may always */
    vfu_areas areas;
    vfu_use **use;
    size_t uses, use_capacity;
    size_t files; /* areas that are reached by file I/O, where every access is a system call */
    uint64_t bytes;
    vfu_span *allowed, *reserved; /* sorted; no allowed span: everything is allowed */
    size_t alloweds, reserveds;
    enum vfu_trust new_files; /* what a file is when it is seen for the first time */
    vfu_dirty *dirty;         /* while writes are logged */
    uint64_t unreported;      /* dirty pages that were unmapped before anybody asked */
    vfu_pin *pins;
    size_t pinned;
    size_t max_areas, max_pins;
    uint64_t max_bytes;
} vfu_ioas;

int vfu_ioas_init(vfu_ioas *ioas);
void vfu_ioas_free(vfu_ioas *ioas);

/* What an access is refused with by the gate: no errno, so that nothing else means the same. */
enum {
    VFU_NOT_MASTER = 0x10000, /* bus mastering is off */
    VFU_STOPPED,
};

/* Takes the lock shared, if the gate lets the device master the bus now: 0, or -VFU_NOT_MASTER, -VFU_STOPPED. */
int vfu_ioas_enter(vfu_ioas *ioas);
void vfu_ioas_leave(vfu_ioas *ioas);
/* What the gate says, for who holds the lock. */
int vfu_ioas_permitted(const vfu_ioas *ioas);
/* Waits until accesses under way are through: those that come later see the gate as it is now (S2.33). */
void vfu_ioas_drain(vfu_ioas *ioas);

/* Adds an area over a file, reached in the first of `ways` (enum vfu_access, or'ed together) that the file allows, or
 * (fd < 0) by messages. 0, or -EINVAL (empty, a wrap, reserved or not allowed, the file is too short), -EEXIST,
 * -ENOSPC (too many, or too many bytes), -EPERM (the file was not opened for that), -ENOMEM, mmap's errno. */
int vfu_ioas_map(vfu_ioas *ioas, uint64_t iova, uint64_t size, uint32_t prot, int fd, uint64_t offset, uint32_t ways);
/* Adds an area over shared memory that somebody else has mapped at `memory`, and keeps mapped until the area is removed
 * and views of it are revoked. Errors as above. */
int vfu_ioas_map_foreign(vfu_ioas *ioas, uint64_t iova, uint64_t size, uint32_t prot, uint8_t *memory);
/* The lowest free IOVA above 0 for `size` bytes at this alignment (a power of two); -ENOSPC. */
int vfu_ioas_hole(vfu_ioas *ioas, uint64_t size, uint64_t alignment, uint64_t *iova);
/* Gives another space the same areas at another address: every one that lies in [from, from + size), which must be
 * covered whole. 0, -ENOENT (a hole, or an area is cut), or as map; then nothing is added. */
int vfu_ioas_share(vfu_ioas *ioas, uint64_t from, uint64_t size, vfu_ioas *with, uint64_t to, uint32_t prot);

/* How many areas were removed, or -ENOENT (none, or one is cut: then none is removed), -EINVAL. An end of exactly 2^64
 * is legal. Views of the range stay as they are: see vfu_pins_revoke. */
long vfu_ioas_unmap(vfu_ioas *ioas, uint64_t iova, uint64_t size);
/* The same, if nobody has to be waited for: -EBUSY if accesses are under way, or there are views. */
long vfu_ioas_unmap_at_once(vfu_ioas *ioas, uint64_t iova, uint64_t size);
size_t vfu_ioas_clear(vfu_ioas *ioas);

/* Replaces the list of allowed or of reserved spans (any order): 0, -EINVAL (first >= last, overlap), -EADDRINUSE (an
 * area, or an allowed span, lies where it could not any more), -ENOMEM. */
int vfu_ioas_allow(vfu_ioas *ioas, const vfu_span *span, size_t spans);
int vfu_ioas_reserve(vfu_ioas *ioas, const vfu_span *span, size_t spans);

/* What is known about a file of this space from now on; -ENOENT if it has no area here. */
int vfu_ioas_trust(vfu_ioas *ioas, uint64_t source, enum vfu_trust trust);

/* Starts logging writes: 0, -EALREADY, -EINVAL (first >= last, overlap), -ENOMEM. */
int vfu_ioas_log(vfu_ioas *ioas, const vfu_span *span, size_t spans);
/* 0, or -ENOENT: writes are not logged. */
int vfu_ioas_log_stop(vfu_ioas *ioas);
/* As vfu_dirty_report, views that can be written included; -ENOENT: writes are not logged, -EINVAL: `iova` lies inside
 * a page of 4 KiB. */
int vfu_ioas_report(vfu_ioas *ioas, uint64_t iova, uint64_t pages, unsigned shift, uint8_t *bitmap);

/* An area as another process takes it over. */
typedef struct {
    uint64_t iova, size, offset;
    uint32_t prot, way; /* enum vfu_access; with a source, VFU_ACCESS_MESSAGES says that its pages have vanished */
    uint64_t source;    /* 0: only messages reach it */
} vfu_area_record;

/* A file in which areas lie. */
typedef struct {
    uint64_t source;
    int fd; /* lent */
    uint32_t prot, way;
    enum vfu_trust trust;
} vfu_file_record;

typedef struct {
    vfu_area_record *area; /* in order of IOVA; who takes them over does not write there */
    size_t areas;
    vfu_file_record *file;
    size_t files;
} vfu_ioas_record;

/* All areas and their files, to be freed by the caller; -ENOTSUP (one lies over somebody else's mapping), -ENOMEM. Nothing
 * changes. */
int vfu_ioas_carry(vfu_ioas *ioas, vfu_ioas_record *record);
/* Puts them into an empty space; sorts record->file. 0, -EBUSY (not empty), -EINVAL (areas out of order, or without
 * their file), or as map: then it is still empty. A file that was cut meanwhile makes its areas those of a dead one. */
int vfu_ioas_adopt(vfu_ioas *ioas, vfu_ioas_record *record);

typedef struct {
    vfu_span *span, *run; /* what is logged; what is dirty, as vfu_dirty_runs */
    size_t spans, runs;
    uint64_t unreported;
} vfu_log_record;

/* The log, to be freed by the caller: 0, -ENOENT (writes are not logged), -ENOMEM. Nothing is taken. */
int vfu_ioas_carry_log(vfu_ioas *ioas, vfu_log_record *record);
/* Starts logging where it was: 0, or as vfu_ioas_log, -EINVAL also for a run that ends before it begins. */
int vfu_ioas_adopt_log(vfu_ioas *ioas, const vfu_log_record *record);

#endif

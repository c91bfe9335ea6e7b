#include "source.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "file.h"

enum { BOUNCE = 16384, SHARE_OF_DESCRIPTORS = 4 };

/* What is asked for: bytes [offset, offset + size) of a file, reached in one way. */
typedef struct {
    int fd;
    struct stat st;
    bool sized;
    uint64_t offset, size;
    uint32_t prot;
    enum vfu_access access;
} Wanted;

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static vfu_source *registry;
static size_t descriptors; /* that sources keep */
static uint64_t last_id;

/* -- the registry -------------------------------------------------------------------------------------------------- */

static vfu_source **link_to(const vfu_source *source)
{
    vfu_source **link = &registry;

    while (*link != source)
        link = &(*link)->next;
    return link;
}

static void put_first(vfu_source *source)
{
    source->next = registry;
    registry = source;
}

static bool fits(vfu_source *s, const Wanted *w)
{
    return s->sized && s->inode == w->st.st_ino && s->device == w->st.st_dev && s->prot == w->prot &&
           s->access == w->access && s->start + s->length >= w->offset + w->size && !vfu_source_dead(s);
}

/* What was found comes first in the list: the next map is nearly always of the same file. */
static vfu_source *find(const Wanted *w)
{
    vfu_source *s = registry;

    while (s && !fits(s, w))
        s = s->next;
    if (s && s != registry) {
        *link_to(s) = s->next;
        put_first(s);
    }
    return s;
}

void vfu_sources(bool (*visit)(void *argument, const vfu_source *source), void *argument)
{
    pthread_mutex_lock(&registry_lock);
    for (vfu_source *s = registry; s; s = s->next) {
        vfu_source_dead(s); /* a fault tells the guard first */
        if (!visit(argument, s))
            break;
    }
    pthread_mutex_unlock(&registry_lock);
}

/* -- life ---------------------------------------------------------------------------------------------------------- */

/* Clients choose how many files they bring; the server needs descriptors for everything else. */
static bool too_many_descriptors(void)
{
    struct rlimit limit;

    return getrlimit(RLIMIT_NOFILE, &limit) == 0 && descriptors >= limit.rlim_cur / SHARE_OF_DESCRIPTORS;
}

static int keep_file(vfu_source *s, int fd)
{
    if (too_many_descriptors())
        return -ENOSPC;
    s->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (s->fd < 0)
        return -errno;
    descriptors++;
    return 0;
}

static int map_file(vfu_source *s)
{
    int protection = PROT_READ | (s->prot & VFU_PROT_WRITE ? PROT_WRITE : 0);
    void *base = mmap(NULL, s->length, protection, MAP_SHARED | MAP_NORESERVE, s->fd, (off_t)s->start);

    if (base == MAP_FAILED)
        return errno == EACCES ? -EPERM : -errno;
    s->base = base;
    s->guard = vfu_guard_add(base, s->length, VFU_FAULT_RETURNS);
    return s->guard ? 0 : -ENOMEM;
}

static void drop(vfu_source *s)
{
    if (s->guard)
        vfu_guard_remove(s->guard);
    if (s->base && !s->foreign)
        munmap(s->base, s->length);
    if (s->fd >= 0) {
        close(s->fd);
        descriptors--;
    }
    free(s);
}

/* Files that have a size are taken whole, so that every later area of the file is a table insert. Others (a device, a
 * dma-buf) are taken piece by piece. */
static vfu_source *make(const Wanted *w, int *error)
{
    vfu_source *s = malloc(sizeof(*s));

    if (!s) {
        *error = -ENOMEM;
        return NULL;
    }
    *s = (vfu_source){.device = w->st.st_dev, .inode = w->st.st_ino, .prot = w->prot, .access = w->access,
                      .sized = w->sized, .fd = -1, .start = w->sized ? 0 : w->offset,
                      .length = w->sized ? (uint64_t)w->st.st_size : w->size};
    *error = keep_file(s, w->fd);
    if (!*error && w->access == VFU_ACCESS_MAPPED)
        *error = map_file(s);
    if (*error) {
        drop(s);
        return NULL;
    }
    s->id = ++last_id;
    put_first(s);
    return s;
}

static vfu_source *get_in_one_way(Wanted *w, enum vfu_access access, uint32_t prot, int *error)
{
    vfu_source *s;

    w->access = access;
    w->prot = access == VFU_ACCESS_MAPPED ? prot | VFU_PROT_READ : prot; /* a mapping is always readable */
    *error = vfu_file_permits(w->fd, w->prot & VFU_PROT_READ, w->prot & VFU_PROT_WRITE);
    if (!*error && access == VFU_ACCESS_FILE)
        *error = vfu_file_check(w->fd, w->prot & VFU_PROT_WRITE);
    if (*error)
        return NULL;
    pthread_mutex_lock(&registry_lock);
    s = find(w);
    if (!s)
        s = make(w, error);
    if (s)
        s->users++;
    pthread_mutex_unlock(&registry_lock);
    return s;
}

vfu_source *vfu_source_get(int fd, uint64_t offset, uint64_t size, uint32_t prot, uint32_t ways, int *error)
{
    Wanted w = {.fd = fd, .offset = offset, .size = size};
    vfu_source *s = NULL;

    if (fstat(fd, &w.st) < 0) {
        *error = -errno;
        return NULL;
    }
    w.sized = vfu_file_has_size(fd, &w.st);
    *error = -EINVAL;
    if (offset > INT64_MAX || size > INT64_MAX - offset || (w.sized && offset + size > (uint64_t)w.st.st_size))
        return NULL;
    if (ways & VFU_ACCESS_MAPPED)
        s = get_in_one_way(&w, VFU_ACCESS_MAPPED, prot, error);
    if (!s && ways & VFU_ACCESS_FILE)
        s = get_in_one_way(&w, VFU_ACCESS_FILE, prot, error);
    return s;
}

static vfu_source *registered(vfu_source *s)
{
    pthread_mutex_lock(&registry_lock);
    s->id = ++last_id;
    put_first(s);
    pthread_mutex_unlock(&registry_lock);
    return s;
}

vfu_source *vfu_source_lost(void)
{
    vfu_source *s = malloc(sizeof(*s));

    if (!s)
        return NULL;
    *s = (vfu_source){.access = VFU_ACCESS_MAPPED, .fd = -1, .users = 1, .dead = true};
    return registered(s);
}

vfu_source *vfu_source_foreign(void *base, uint64_t size, uint32_t prot, int *error)
{
    vfu_source *s = malloc(sizeof(*s));
    vfu_range *guard = s ? vfu_guard_add(base, size, VFU_FAULT_RETURNS) : NULL;

    if (!guard) {
        free(s);
        *error = -ENOMEM;
        return NULL;
    }
    *s = (vfu_source){.prot = prot, .access = VFU_ACCESS_MAPPED, .foreign = true, .fd = -1, .base = base, .length = size,
                      .users = 1, .guard = guard};
    return registered(s);
}

void vfu_source_hold(vfu_source *source)
{
    pthread_mutex_lock(&registry_lock);
    source->users++;
    pthread_mutex_unlock(&registry_lock);
}

void vfu_source_put(vfu_source *source)
{
    pthread_mutex_lock(&registry_lock);
    if (--source->users == 0) {
        *link_to(source) = source->next;
        drop(source);
    }
    pthread_mutex_unlock(&registry_lock);
}

/* -- death --------------------------------------------------------------------------------------------------------- */

bool vfu_source_dead(vfu_source *s)
{
    if (s->guard && vfu_guard_hit(s->guard))
        atomic_store_explicit(&s->dead, true, memory_order_relaxed);
    return atomic_load_explicit(&s->dead, memory_order_relaxed);
}

bool vfu_source_cut(vfu_source *s)
{
    struct stat st;

    if (s->sized && fstat(s->fd, &st) == 0 && (uint64_t)st.st_size < s->length)
        atomic_store_explicit(&s->dead, true, memory_order_relaxed);
    return vfu_source_dead(s);
}

/* -- moving bytes -------------------------------------------------------------------------------------------------- */

static uint8_t *mapped_at(const vfu_source *source, uint64_t offset)
{
    return source->base + (offset - source->start);
}

int vfu_source_read(const vfu_source *source, uint64_t offset, void *to, uint64_t length)
{
    return source->base ? vfu_guard_copy(to, mapped_at(source, offset), length)
                        : vfu_file_read(source->fd, offset, to, length);
}

int vfu_source_write(const vfu_source *source, uint64_t offset, const void *from, uint64_t length)
{
    return source->base ? vfu_guard_copy(mapped_at(source, offset), from, length)
                        : vfu_file_write(source->fd, source->sized, offset, from, length);
}

static int copy_between_files(const vfu_source *from, uint64_t at, const vfu_source *to, uint64_t offset, uint64_t length)
{
    uint8_t bounce[BOUNCE];
    int error = 0;

    for (uint64_t done = 0, part; !error && done < length; done += part) {
        part = length - done < BOUNCE ? length - done : BOUNCE;
        error = vfu_file_read(from->fd, at + done, bounce, part);
        if (!error)
            error = vfu_file_write(to->fd, to->sized, offset + done, bounce, part);
    }
    return error;
}

int vfu_source_copy(vfu_source *from, uint64_t at, vfu_source *to, uint64_t offset, uint64_t length)
{
    vfu_source *mapped = from->base ? from : to;
    int error;

    if (from->base)
        error = vfu_source_write(to, offset, mapped_at(from, at), length);
    else if (to->base)
        error = vfu_file_read(from->fd, at, mapped_at(to, offset), length);
    else
        return copy_between_files(from, at, to, offset, length);
    if (error == -EFAULT)
        vfu_source_cut(mapped); /* the kernel may have met the missing page, without a signal */
    return error;
}

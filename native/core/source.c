#include "source.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "guard.h"

struct vfu_source {
    vfu_source *next;
    dev_t device;
    ino_t inode;
    bool writable, shared; /* shared: found again by (device, inode, writable) */
    uint8_t *base;
    uint64_t start, length; /* the bytes of the file that are mapped */
    size_t users;
};

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static vfu_source *registry;

static vfu_source *find(const struct stat *st, bool writable, uint64_t end)
{
    for (vfu_source *s = registry; s; s = s->next)
        if (s->shared && s->inode == st->st_ino && s->device == st->st_dev && s->writable == writable &&
            s->start + s->length >= end)
            return s;
    return NULL;
}

/* Regular files are mapped whole, so that every later area of the file is a table insert. What has no size of its own
 * (a device, a dma-buf) is mapped piece by piece. */
static vfu_source *map_file(int fd, const struct stat *st, uint64_t offset, uint64_t size, bool writable, int *error)
{
    bool shared = S_ISREG(st->st_mode);
    vfu_source *s = calloc(1, sizeof(*s));

    vfu_guard_install();
    if (!s) {
        *error = -ENOMEM;
        return NULL;
    }
    *s = (vfu_source){.device = st->st_dev, .inode = st->st_ino, .writable = writable, .shared = shared,
                      .start = shared ? 0 : offset, .length = shared ? (uint64_t)st->st_size : size};
    s->base = mmap(NULL, s->length, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED | MAP_NORESERVE, fd,
                   (off_t)s->start);
    if (s->base == MAP_FAILED) {
        *error = errno == EACCES ? -EPERM : -errno;
        free(s);
        return NULL;
    }
    s->next = registry;
    registry = s;
    return s;
}

vfu_source *vfu_source_get(int fd, uint64_t offset, uint64_t size, uint32_t prot, int *error)
{
    bool writable = prot & VFU_PROT_WRITE;
    struct stat st;
    vfu_source *s;

    if (fstat(fd, &st) < 0) {
        *error = -errno;
        return NULL;
    }
    if (offset > INT64_MAX || size > INT64_MAX - offset ||
        (S_ISREG(st.st_mode) && offset + size > (uint64_t)st.st_size)) {
        *error = -EINVAL;
        return NULL;
    }
    pthread_mutex_lock(&registry_lock);
    s = find(&st, writable, offset + size);
    if (!s)
        s = map_file(fd, &st, offset, size, writable, error);
    if (s)
        s->users++;
    pthread_mutex_unlock(&registry_lock);
    return s;
}

void vfu_source_put(vfu_source *source)
{
    vfu_source **link = &registry;

    pthread_mutex_lock(&registry_lock);
    if (--source->users == 0) {
        while (*link != source)
            link = &(*link)->next;
        *link = source->next;
        munmap(source->base, source->length);
        free(source);
    }
    pthread_mutex_unlock(&registry_lock);
}

uint8_t *vfu_source_at(const vfu_source *source, uint64_t offset)
{
    return source->base + (offset - source->start);
}

#include "remap.h"

#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guard.h"

enum { PROTECTION = PROT_READ | PROT_WRITE };

/* What the file itself may refuse is met elsewhere first: a mapping over another one is begun by removing that. */
static int try_elsewhere(size_t size, int fd)
{
    void *base = mmap(NULL, size, PROTECTION, MAP_SHARED, fd, 0);

    if (base == MAP_FAILED)
        return -errno;
    munmap(base, size);
    return 0;
}

int vfu_remap(void *base, size_t size, int fd)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct stat st;
    int error;

    if (!size || size % page || (uintptr_t)base % page)
        return -ERANGE;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (st.st_size < 0 || (uint64_t)st.st_size < size)
        return -EFBIG;
    if (vfu_guard_covers(base, size)) /* its owner would take a fault in it, or its end, for that of another file */
        return -EBUSY;
    error = try_elsewhere(size, fd);
    if (error)
        return error;
    return mmap(base, size, PROTECTION, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED ? -errno : 0;
}

#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/statfs.h>
#include <unistd.h>

bool vfu_file_has_size(int fd, const struct stat *st)
{
    struct statfs fs;

    if (!S_ISREG(st->st_mode) || st->st_size)
        return S_ISREG(st->st_mode);
    return !(fstatfs(fd, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC);
}

int vfu_file_permits(int fd, bool read, bool write)
{
    int flags = fcntl(fd, F_GETFL), mode = flags & O_ACCMODE;

    if (flags < 0)
        return -errno;
    return flags & O_PATH || (read && mode == O_WRONLY) || (write && mode == O_RDONLY) ? -EPERM : 0;
}

int vfu_file_check(int fd, bool write)
{
    int flags = fcntl(fd, F_GETFL);
    char nothing;

    if (flags < 0 || (write && flags & O_APPEND))
        return -EINVAL;
    if ((flags & O_ACCMODE) == O_WRONLY)
        return pwrite(fd, &nothing, 0, 0) < 0 ? -EINVAL : 0;
    return pread(fd, &nothing, 0, 0) < 0 ? -EINVAL : 0;
}

/* What a read or write that did not move a byte means to a device. */
static int failure(ssize_t moved)
{
    return moved == 0 || errno == EFAULT ? -EFAULT : -EIO;
}

int vfu_file_read(int fd, uint64_t offset, void *to, uint64_t length)
{
    for (uint64_t done = 0; done < length;) {
        ssize_t moved = pread(fd, (char *)to + done, length - done, (off_t)(offset + done));
        if (moved < 0 && errno == EINTR)
            continue;
        if (moved <= 0)
            return failure(moved);
        done += (uint64_t)moved;
    }
    return 0;
}

/* The client still holds the descriptor: it may cut the file, or set O_APPEND, at any time. */
static bool would_grow(int fd, uint64_t end)
{
    struct stat st;

    return fcntl(fd, F_GETFL) & O_APPEND || fstat(fd, &st) < 0 || end > (uint64_t)st.st_size;
}

int vfu_file_write(int fd, bool sized, uint64_t offset, const void *from, uint64_t length)
{
    for (uint64_t done = 0; done < length;) {
        if (sized && would_grow(fd, offset + length))
            return -EFAULT;
        ssize_t moved = pwrite(fd, (const char *)from + done, length - done, (off_t)(offset + done));
        if (moved < 0 && errno == EINTR)
            continue;
        if (moved <= 0)
            return failure(moved);
        done += (uint64_t)moved;
    }
    return 0;
}

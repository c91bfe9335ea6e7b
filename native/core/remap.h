/* Memory that becomes a file's where it lies: whoever has its address sees the file from then on. */
#ifndef VFU_REMAP_H
#define VFU_REMAP_H

#include <stddef.h>

/* Maps the file, from its start, shared and to be written, over [base, base + size). 0; -ERANGE (no whole pages),
 * -EFBIG (the file is shorter), -EBUSY (somebody's guarded mapping), or fstat's or mmap's errno: nothing has changed.
 * Nobody may touch the memory meanwhile. */
int vfu_remap(void *base, size_t size, int fd);

#endif

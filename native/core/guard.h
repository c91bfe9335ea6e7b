/* Copies that survive the memory under them: a file that was cut after it was mapped raises SIGBUS at the next touch. */
#ifndef VFU_GUARD_H
#define VFU_GUARD_H

#include <stddef.h>

/* Installs the SIGBUS handler, once. Whatever is not ours is passed to the handler it found. */
void vfu_guard_install(void);

/* memmove that returns -EFAULT instead of dying when either side has no page. 0: all of it was copied. */
int vfu_guard_copy(void *to, const void *from, size_t size);

#endif

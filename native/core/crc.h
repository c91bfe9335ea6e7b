/* The CRC-32 of zlib, by the processor's carry-less multiplication where it has that, else by tables; and copies that
 * cost no more with it than without. */
#ifndef VFU_CRC_H
#define VFU_CRC_H

#include <stddef.h>
#include <stdint.h>

/* The CRC of bytes whose CRC is `crc` (0: none) followed by these, which are copied `into` a place of as many bytes
 * that is elsewhere; NULL: they are not. What is copied is what the CRC is of, whoever writes to them meanwhile. */
uint32_t vfu_crc32(uint32_t crc, uint8_t *into, const uint8_t *bytes, size_t length);

#endif

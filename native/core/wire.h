/* The vfio-user wire structs that the core itself reads and writes, host-endian as the specification says.
 * A test ties every size and offset to the construct declarations (binding/structs.c lists them). */
#ifndef VFU_WIRE_H
#define VFU_WIRE_H

#include <stdint.h>

enum vfu_command {
    VFU_VERSION = 1,
    VFU_DMA_MAP = 2,
    VFU_DMA_UNMAP = 3,
    VFU_GET_INFO = 4,
    VFU_GET_REGION_INFO = 5,
    VFU_GET_REGION_IO_FDS = 6,
    VFU_GET_IRQ_INFO = 7,
    VFU_SET_IRQS = 8,
    VFU_REGION_READ = 9,
    VFU_REGION_WRITE = 10,
    VFU_DMA_READ = 11,
    VFU_DMA_WRITE = 12,
    VFU_DEVICE_RESET = 13,
    VFU_REGION_WRITE_MULTI = 15,
    VFU_DEVICE_FEATURE = 16,
    VFU_MIG_DATA_READ = 17,
    VFU_MIG_DATA_WRITE = 18,
};

enum {
    VFU_TYPE_MASK = 0xf,
    VFU_TYPE_COMMAND = 0,
    VFU_TYPE_REPLY = 1,
    VFU_NO_REPLY = 1u << 4,
    VFU_ERROR = 1u << 5,
};

typedef struct {
    uint16_t id;
    uint16_t command;
    uint32_t size; /* of the whole message, this header included */
    uint32_t flags;
    uint32_t error;
} vfu_header;

typedef struct {
    uint64_t offset;
    uint32_t region;
    uint32_t count;
} vfu_region_access;

typedef struct {
    uint64_t count;
} vfu_write_multi;

enum { VFU_MULTI_DATA = 8 };

typedef struct {
    uint64_t offset;
    uint32_t region;
    uint32_t count; /* at most VFU_MULTI_DATA */
    uint8_t data[VFU_MULTI_DATA];
} vfu_write_multi_entry;

typedef struct {
    uint64_t address;
    uint64_t count;
} vfu_dma_access;

typedef struct {
    uint32_t argsz;
    uint32_t flags;
    uint64_t offset; /* in the file */
    uint64_t address;
    uint64_t size;
} vfu_dma_map;

typedef struct {
    uint32_t argsz;
    uint32_t flags;
    uint64_t address;
    uint64_t size;
} vfu_dma_unmap;

_Static_assert(sizeof(vfu_header) == 16, "message header");
_Static_assert(sizeof(vfu_region_access) == 16, "region access");
_Static_assert(sizeof(vfu_write_multi_entry) == 24, "one write of REGION_WRITE_MULTI");
_Static_assert(sizeof(vfu_dma_access) == 16, "DMA access");
_Static_assert(sizeof(vfu_dma_map) == 32, "DMA_MAP");
_Static_assert(sizeof(vfu_dma_unmap) == 24, "DMA_UNMAP");

#endif

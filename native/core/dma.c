#include "dma.h"

#include <string.h>

enum {
    PERMISSIONS = VFU_PROT_READ | VFU_PROT_WRITE,
    MMAP = 1 << 2,
    FILE_IO = 1 << 3,
    MODES = MMAP | FILE_IO,
    FILE_PAGE = 4096, /* what an offset is a multiple of where the file is mapped */
};

static bool whole_pages(const vfu_stream *s, uint64_t address, uint64_t size)
{
    return size && !((address | size) & (s->dma_page - 1)) && vfu_last(address, size) >= address;
}

/* Ways to reach the memory behind a descriptor, by the mode bits: none are those of clients from before them. */
static uint32_t ways_of(uint32_t flags)
{
    return (flags & MMAP || !(flags & MODES) ? VFU_ACCESS_MAPPED : 0) | (flags & FILE_IO ? VFU_ACCESS_FILE : 0);
}

static bool map(vfu_stream *s, const uint8_t *payload, size_t length, const int *fds, size_t count)
{
    uint32_t ways;
    vfu_dma_map m;

    if (length < sizeof(m) || count > 1)
        return false;
    memcpy(&m, payload, sizeof(m));
    ways = ways_of(m.flags);
    if (m.argsz < sizeof(m) || m.flags & ~(uint32_t)(PERMISSIONS | MODES) || !(m.flags & PERMISSIONS) ||
        !whole_pages(s, m.address, m.size))
        return false;
    if (count ? ways & VFU_ACCESS_MAPPED && m.offset % FILE_PAGE : m.flags & MODES)
        return false;
    return vfu_ioas_map(s->dma, m.address, m.size, m.flags & PERMISSIONS, count ? fds[0] : -1, m.offset, ways) == 0;
}

static bool unmap(vfu_stream *s, const uint8_t *payload, size_t length)
{
    vfu_dma_unmap u;

    if (length < sizeof(u) || s->dma_transfers)
        return false;
    memcpy(&u, payload, sizeof(u));
    return u.argsz >= sizeof(u) && !u.flags && whole_pages(s, u.address, u.size) &&
           vfu_ioas_unmap_at_once(s->dma, u.address, u.size) > 0;
}

bool vfu_dma_command(vfu_stream *s, const vfu_header *header, const uint8_t *payload, size_t length, int *fds,
                     size_t count)
{
    if (!s->dma)
        return false;
    if (header->command == VFU_DMA_MAP && map(s, payload, length, fds, count)) {
        vfu_fds_close(fds, count);
        vfu_stream_reply(s, header, NULL, 0);
        return true;
    }
    if (header->command == VFU_DMA_UNMAP && !count && unmap(s, payload, length)) {
        vfu_stream_reply(s, header, payload, sizeof(vfu_dma_unmap));
        return true;
    }
    return false;
}

/* What a ledger's file holds: see the head of ledger.c. A change of it is a new VFU_LEDGER_VERSION. */
#ifndef VFU_LEDGER_LAYOUT_H
#define VFU_LEDGER_LAYOUT_H

#include <stdatomic.h>

#include "ledger.h"

enum {
    VFU_LEDGER_VERSION = 1,  /* of this layout */
    VFU_LEDGER_HEAD = 65536, /* bytes before the rings: a multiple of any page size */
    VFU_LEDGER_BANKS = 4096, /* where the banks begin */
    VFU_LEDGER_MARKS = 1024,
};

typedef struct {
    char magic[8];
    uint32_t version, bank_size;
    uint64_t ring;
    uint64_t generation; /* the bank in use is that of its lowest bit; 0: nobody has used it */
} vfu_ledger_head;

typedef struct {
    uint64_t rx_head, scan, tx_base, tx_tail, tx_fds;
    vfu_header hand;
    uint8_t access[sizeof(vfu_region_access)];
    uint32_t last_id;
} vfu_commit_record;

typedef struct {
    uint64_t base, at;
    struct mmsghdr message;
} vfu_transfer_record;

struct vfu_ledger_bank {
    uint64_t commits, receives, sends; /* the one in use is that of its lowest bit */
    vfu_commit_record commit[2];
    vfu_transfer_record receive[2], send[2];
    uint64_t marks, mark[VFU_LEDGER_MARKS];
};

_Static_assert(VFU_LEDGER_BANKS + 2 * sizeof(vfu_ledger_bank) <= VFU_LEDGER_HEAD, "the banks fit before the rings");

static inline vfu_ledger_head *vfu_ledger_head_of(const vfu_ledger *l) { return (vfu_ledger_head *)l->head; }

static inline vfu_ledger_bank *vfu_ledger_bank_of(const vfu_ledger *l, uint64_t generation)
{
    return (vfu_ledger_bank *)(l->head + VFU_LEDGER_BANKS) + (generation & 1);
}

static inline uint64_t vfu_ledger_end(const vfu_buffer *b) { return b->base + b->tail; }

/* The other bank says what the stream is now, and then is the one in use. False: too many marks. */
bool vfu_ledger_change_banks(vfu_stream *stream);

#endif

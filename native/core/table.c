#include "table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "registers are little endian, and so are the hosts we serve");

uint64_t vfu_width_mask(uint32_t width)
{
    return width >= 8 ? UINT64_MAX : (UINT64_C(1) << (8 * width)) - 1;
}

uint64_t vfu_load(const uint8_t *from, uint32_t width)
{
    switch (width) {
    case 1: return *from;
    case 2: { uint16_t v; memcpy(&v, from, 2); return v; }
    case 4: { uint32_t v; memcpy(&v, from, 4); return v; }
    default: { uint64_t v; memcpy(&v, from, 8); return v; }
    }
}

void vfu_store(uint8_t *to, uint32_t width, uint64_t value)
{
    switch (width) {
    case 1: *to = (uint8_t)value; break;
    case 2: { uint16_t v = (uint16_t)value; memcpy(to, &v, 2); break; }
    case 4: { uint32_t v = (uint32_t)value; memcpy(to, &v, 4); break; }
    default: memcpy(to, &value, 8);
    }
}

/* The number of rows that start at or before `offset`. */
static size_t rows_up_to(const vfu_layout *layout, uint64_t offset)
{
    size_t low = 0, high = layout->rows;

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (layout->row[middle].offset <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

size_t vfu_layout_find(const vfu_layout *layout, uint64_t offset)
{
    size_t after = rows_up_to(layout, offset);

    return after && offset < layout->row[after - 1].end ? after - 1 : SIZE_MAX;
}

uint8_t *vfu_table_bytes(const vfu_table *table, size_t row, uint32_t element)
{
    const vfu_row *r = &table->layout->row[row];
    uint8_t *base = table->memory[row] ? table->memory[row] : table->bank + r->slot;

    return base + (size_t)element * r->width;
}

/* Sets the cursor's piece at its present position; the row is SIZE_MAX in a gap. */
static void next_piece(const vfu_layout *layout, vfu_cursor *c)
{
    uint64_t at = c->offset + c->done, left = c->count - c->done;
    size_t after = rows_up_to(layout, at);
    const vfu_row *r = after ? &layout->row[after - 1] : NULL;
    uint64_t start = at, end;

    c->element = 0;
    if (r && at < r->end) {
        c->row = after - 1;
        if (r->flags & VFU_ROW_MEMORY) {
            c->step = c->width = (uint32_t)(left < r->end - at ? left : r->end - at);
            c->shift = 0;
            return;
        }
        c->element = (uint32_t)((at - r->offset) / r->width);
        start = r->offset + (uint64_t)c->element * r->width;
        end = start + r->width;
    } else {
        c->row = SIZE_MAX;
        end = after < layout->rows ? layout->row[after].offset : layout->size;
    }
    c->shift = (uint32_t)(at - start) * 8;
    for (c->width = 8; at % c->width || c->width > left || c->width > end - at; c->width /= 2)
        ;
    c->step = c->width;
}

static bool strict_allows(const vfu_layout *layout, vfu_cursor probe)
{
    while (probe.done < probe.count) {
        next_piece(layout, &probe);
        if (probe.row != SIZE_MAX) {
            const vfu_row *r = &layout->row[probe.row];
            if (r->flags & VFU_ROW_STRICT && !(r->flags & VFU_ROW_MEMORY) && probe.width != r->width)
                return false;
        }
        probe.done += probe.step;
    }
    return true;
}

static void memory_piece(vfu_table *t, vfu_cursor *c, bool running)
{
    const vfu_row *r = &t->layout->row[c->row];
    uint8_t *bytes = vfu_table_bytes(t, c->row, 0) + (c->offset + c->done - r->offset);

    if (!c->write)
        memcpy(c->data + c->done, bytes, c->width);
    else if (running && !(r->flags & VFU_ROW_READ_ONLY))
        memcpy(bytes, c->data + c->done, c->width);
}

static void gap_piece(vfu_table *t, vfu_cursor *c, bool running)
{
    uint64_t value = c->write ? vfu_load(c->data + c->done, c->width) : 0;

    t->undeclared += running; /* the count is state that a model may show: a stopped device's does not change (S3.9) */
    if (!c->write)
        memset(c->data + c->done, 0, c->width);
    if (t->hooks && t->hooks->undeclared)
        t->hooks->undeclared(t->owner, c->offset + c->done, c->width, c->write, value);
}

static void finish_read(vfu_table *t, vfu_cursor *c, bool stored, uint64_t value, bool running)
{
    const vfu_row *r = &t->layout->row[c->row];
    uint8_t *bytes = vfu_table_bytes(t, c->row, c->element);
    uint64_t kept = vfu_load(bytes, r->width);

    if (stored)
        value = kept & r->readable;
    if (r->read_clear && running)
        vfu_store(bytes, r->width, kept & ~(r->read_clear & (vfu_width_mask(c->width) << c->shift)));
    vfu_store(c->data + c->done, c->width, value >> c->shift);
}

/* A hook's value is stored as it is; otherwise what was written goes through the row's masks. */
static void finish_write(vfu_table *t, vfu_cursor *c, bool stored, uint64_t value)
{
    const vfu_row *r = &t->layout->row[c->row];
    uint8_t *bytes = vfu_table_bytes(t, c->row, c->element);

    if (stored) {
        uint64_t lanes = vfu_width_mask(c->width) << c->shift;
        uint64_t in = c->incoming & lanes, store = r->store & lanes;
        value = vfu_load(bytes, r->width);
        value = (value & ~store) | (in & store);
        value = (value & ~(in & r->write_1_clear)) | (in & r->write_1_set);
        if (r->flags & VFU_ROW_COUNT)
            value++;
    }
    vfu_store(bytes, r->width, value);
}

/* Halves of a split register wait in the latch. True: the register is complete, the cursor's piece is all of it. */
static bool split_complete(vfu_table *t, vfu_cursor *c, const vfu_row *r)
{
    uint64_t lanes = vfu_width_mask(c->width) << c->shift;
    bool high = c->shift >= 32, completes = c->width == 8 || high == !!(r->flags & VFU_ROW_SPLIT_HIGH);

    if (!t->latched[c->row])
        t->latch[c->row] = vfu_load(vfu_table_bytes(t, c->row, c->element), r->width);
    t->latch[c->row] = (t->latch[c->row] & ~lanes) | (c->incoming & lanes);
    t->latched[c->row] = !completes;
    c->incoming = t->latch[c->row];
    c->width = 8;
    c->shift = 0;
    return completes;
}

static int register_read(vfu_table *t, vfu_cursor *c, bool running)
{
    const vfu_row *r = &t->layout->row[c->row];
    uint64_t value = 0;
    int answer = VFU_STORED;

    if (r->flags & VFU_ROW_READ_HOOK && running)
        answer = t->hooks->read(t->owner, c->row, c->element, &value);
    if (answer < 0 || answer == VFU_LATER)
        return answer;
    finish_read(t, c, answer == VFU_STORED, value, running);
    return VFU_DONE;
}

static int register_write(vfu_table *t, vfu_cursor *c)
{
    const vfu_row *r = &t->layout->row[c->row];
    int answer = VFU_STORED;
    uint64_t value;

    c->incoming = vfu_load(c->data + c->done, c->width) << c->shift;
    if (r->flags & (VFU_ROW_SPLIT_HIGH | VFU_ROW_SPLIT_LOW) && !split_complete(t, c, r))
        return VFU_DONE;
    if (r->flags & VFU_ROW_WRITE_HOOK) {
        uint64_t lanes = vfu_width_mask(c->width) << c->shift;
        uint64_t keep = vfu_load(vfu_table_bytes(t, c->row, c->element), r->width) & ~(r->write_1_clear | r->write_1_set);
        value = (keep & ~lanes) | (c->incoming & lanes);
        answer = t->hooks->write(t->owner, c, &value);
        c->joined = 0;
        if (answer < 0 || answer == VFU_LATER)
            return answer;
    }
    finish_write(t, c, answer == VFU_STORED, value);
    return VFU_DONE;
}

static int one_piece(vfu_table *t, vfu_cursor *c)
{
    bool running = vfu_gate_open(t->gate, VFU_GATE_RUNNING);

    if (c->row == SIZE_MAX) {
        gap_piece(t, c, running);
        return VFU_DONE;
    }
    if (t->layout->row[c->row].flags & VFU_ROW_MEMORY) {
        memory_piece(t, c, running);
        return VFU_DONE;
    }
    if (!c->write)
        return register_read(t, c, running);
    if (running)
        return register_write(t, c);
    vfu_gate_refuse(t->gate);
    return VFU_DONE;
}

bool vfu_table_joins(const vfu_table *t, const vfu_cursor *c)
{
    size_t row = t->layout->joins ? vfu_layout_find(t->layout, c->offset) : SIZE_MAX;
    const vfu_row *r = row == SIZE_MAX ? NULL : &t->layout->row[row];

    return r && r->flags & (VFU_ROW_LATEST | VFU_ROW_ALL) && c->count == r->width &&
           (c->offset - r->offset) % r->width == 0 && vfu_gate_open(t->gate, t->needs | VFU_GATE_RUNNING);
}

int vfu_table_access(vfu_table *t, vfu_cursor *c)
{
    if (c->count == 0 || c->offset > t->layout->size || c->count > t->layout->size - c->offset)
        return -EINVAL;
    if (!c->checked && t->layout->strict && !strict_allows(t->layout, *c))
        return -EINVAL;
    c->checked = true;
    if (!vfu_gate_open(t->gate, t->needs)) {
        if (!c->write)
            memset(c->data + c->done, 0xff, c->count - c->done);
        c->done = c->count;
        vfu_gate_refuse(t->gate);
        return VFU_DONE;
    }
    while (c->done < c->count) {
        next_piece(t->layout, c);
        int answer = one_piece(t, c);
        if (answer != VFU_DONE)
            return answer;
        c->done += c->step;
    }
    return VFU_DONE;
}

int vfu_table_resume(vfu_table *t, vfu_cursor *c, bool stored, uint64_t value)
{
    if (c->write)
        finish_write(t, c, stored, value);
    else
        finish_read(t, c, stored, value, true);
    c->done += c->step;
    return c->done < c->count ? vfu_table_access(t, c) : VFU_DONE;
}

int vfu_table_init(vfu_table *t, const vfu_layout *layout)
{
    size_t rows = layout->rows ? layout->rows : 1;

    t->layout = layout;
    t->bank = malloc(layout->bank_size ? layout->bank_size : 1);
    t->memory = calloc(rows, sizeof(*t->memory));
    t->latch = calloc(rows, sizeof(*t->latch));
    t->latched = calloc(rows, sizeof(*t->latched));
    if (!t->bank || !t->memory || !t->latch || !t->latched) {
        vfu_table_free(t);
        return -ENOMEM;
    }
    vfu_table_reset(t);
    return 0;
}

void vfu_table_free(vfu_table *t)
{
    free(t->bank);
    free(t->memory);
    free(t->latch);
    free(t->latched);
    t->bank = NULL;
    t->memory = NULL;
    t->latch = NULL;
    t->latched = NULL;
}

void vfu_table_reset(vfu_table *t)
{
    if (t->layout->bank_size) /* a region of plain memory alone has no stored values, and NULL for them */
        memcpy(t->bank, t->layout->reset, t->layout->bank_size);
    memset(t->latched, 0, t->layout->rows * sizeof(*t->latched));
    t->undeclared = 0;
}

/* The C structs of the wire as data, so that a test can tie them to the construct declarations. */
#include <stddef.h>

#include "binding.h"

#include "../core/wire.h"

typedef struct {
    const char *structure, *field;
    size_t size, offset, width;
} Field;

#define FIELD(name, type, field) {name, #field, sizeof(type), offsetof(type, field), sizeof(((type *)0)->field)}

static const Field fields[] = {
    FIELD("header", vfu_header, id),
    FIELD("header", vfu_header, command),
    FIELD("header", vfu_header, size),
    FIELD("header", vfu_header, flags),
    FIELD("header", vfu_header, error),
    FIELD("region_access", vfu_region_access, offset),
    FIELD("region_access", vfu_region_access, region),
    FIELD("region_access", vfu_region_access, count),
    FIELD("write_multi", vfu_write_multi, count),
    FIELD("write_multi_entry", vfu_write_multi_entry, offset),
    FIELD("write_multi_entry", vfu_write_multi_entry, region),
    FIELD("write_multi_entry", vfu_write_multi_entry, count),
    FIELD("write_multi_entry", vfu_write_multi_entry, data),
    FIELD("dma_access", vfu_dma_access, address),
    FIELD("dma_access", vfu_dma_access, count),
    FIELD("dma_map", vfu_dma_map, argsz),
    FIELD("dma_map", vfu_dma_map, flags),
    FIELD("dma_map", vfu_dma_map, offset),
    FIELD("dma_map", vfu_dma_map, address),
    FIELD("dma_map", vfu_dma_map, size),
    FIELD("dma_unmap", vfu_dma_unmap, argsz),
    FIELD("dma_unmap", vfu_dma_unmap, flags),
    FIELD("dma_unmap", vfu_dma_unmap, address),
    FIELD("dma_unmap", vfu_dma_unmap, size),
};

static int add_field(PyObject *dict, const Field *f)
{
    PyObject *entry = PyDict_GetItemString(dict, f->structure), *place;
    int result = -1;

    if (!entry) {
        entry = Py_BuildValue("(n{})", (Py_ssize_t)f->size);
        if (!entry || PyDict_SetItemString(dict, f->structure, entry) < 0) {
            Py_XDECREF(entry);
            return -1;
        }
        Py_DECREF(entry);
    }
    place = Py_BuildValue("(nn)", (Py_ssize_t)f->offset, (Py_ssize_t)f->width);
    if (place)
        result = PyDict_SetItemString(PyTuple_GET_ITEM(entry, 1), f->field, place);
    Py_XDECREF(place);
    return result;
}

PyObject *structs_dict(void)
{
    PyObject *dict = PyDict_New();

    for (size_t i = 0; dict && i < sizeof(fields) / sizeof(*fields); i++)
        if (add_field(dict, &fields[i]) < 0)
            Py_CLEAR(dict);
    return dict;
}

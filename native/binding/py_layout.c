#include "binding.h"

static void layout_dealloc(LayoutObject *self)
{
    PyMem_Free(self->layout.row);
    PyMem_Free(self->layout.reset);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static int parse_row(PyObject *item, Py_ssize_t index, vfu_row *row, PyObject **image)
{
    unsigned long long offset, readable, read_clear, store, w1c, w1s;
    unsigned int width, count, flags;

    if (!PyArg_ParseTuple(item, "KIIO!KKKKKI;a register row has ten fields", &offset, &width, &count, &PyBytes_Type,
                          image, &readable, &read_clear, &store, &w1c, &w1s, &flags))
        return -1;
    if (width != 1 && width != 2 && width != 4 && width != 8) {
        PyErr_Format(DeclarationError, "row %zd: the width must be 1, 2, 4 or 8, not %u", index, width);
        return -1;
    }
    if (count == 0 || offset % width) {
        PyErr_Format(DeclarationError, "row %zd: the count must be at least 1 and offset %llu a multiple of %u", index,
                     offset, width);
        return -1;
    }
    bool external = flags & VFU_ROW_MEMORY && PyBytes_GET_SIZE(*image) == 0;
    if (!external && (uint64_t)PyBytes_GET_SIZE(*image) != (uint64_t)width * count) {
        PyErr_Format(DeclarationError, "row %zd: the reset image must be %llu bytes, not %zd", index,
                     (uint64_t)width * count, PyBytes_GET_SIZE(*image));
        return -1;
    }
    if (flags & (VFU_ROW_SPLIT_HIGH | VFU_ROW_SPLIT_LOW) && (width != 8 || count != 1)) {
        PyErr_Format(DeclarationError, "row %zd: only one register of 8 bytes can be split", index);
        return -1;
    }
    if (flags & (VFU_ROW_LATEST | VFU_ROW_ALL) &&
        (!(flags & VFU_ROW_WRITE_HOOK) || flags & (VFU_ROW_SPLIT_HIGH | VFU_ROW_SPLIT_LOW | VFU_ROW_COUNT) || w1c || w1s)) {
        PyErr_Format(DeclarationError, "row %zd: writes are joined for a hook, of a register that stores what is written",
                     index);
        return -1;
    }
    *row = (vfu_row){.offset = offset, .end = offset + (uint64_t)width * count, .width = width, .count = count,
                     .readable = readable, .read_clear = read_clear, .store = store, .write_1_clear = w1c,
                     .write_1_set = w1s, .flags = flags, .external = external};
    return 0;
}

static int check_place(const vfu_layout *layout, const vfu_row *row, Py_ssize_t index)
{
    if (row->end > layout->size || row->end < row->offset) {
        PyErr_Format(DeclarationError, "row %zd: [%llu, %llu) must lie inside the region of %llu bytes", index,
                     row->offset, row->end, layout->size);
        return -1;
    }
    if (index && row->offset < layout->row[index - 1].end) {
        PyErr_Format(DeclarationError, "row %zd: offset %llu must not lie in or before row %zd", index, row->offset,
                     index - 1);
        return -1;
    }
    return 0;
}

static int add_row(vfu_layout *layout, PyObject *item, Py_ssize_t index)
{
    vfu_row *row = &layout->row[index];
    PyObject *image;
    size_t bytes;
    uint8_t *grown;

    if (parse_row(item, index, row, &image) < 0 || check_place(layout, row, index) < 0)
        return -1;
    row->slot = (layout->bank_size + 7) & ~(size_t)7;
    bytes = (size_t)PyBytes_GET_SIZE(image);
    grown = PyMem_Realloc(layout->reset, row->slot + bytes);
    if (!grown) {
        PyErr_NoMemory();
        return -1;
    }
    layout->reset = grown;
    memset(grown + layout->bank_size, 0, row->slot - layout->bank_size);
    memcpy(grown + row->slot, PyBytes_AS_STRING(image), bytes);
    layout->bank_size = row->slot + bytes;
    layout->strict |= !!(row->flags & VFU_ROW_STRICT);
    layout->joins |= !!(row->flags & (VFU_ROW_LATEST | VFU_ROW_ALL));
    layout->rows++;
    return 0;
}

static int layout_init(LayoutObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"size", "rows", NULL};
    PyObject *rows, *list;
    unsigned long long size;
    int result = 0;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "KO:Layout", names, &size, &rows))
        return -1;
    if (self->layout.row) {
        PyErr_SetString(LocalError, "a layout is immutable");
        return -1;
    }
    list = PySequence_Fast(rows, "rows must be a sequence");
    if (!list)
        return -1;
    self->layout.size = size;
    self->layout.row = PyMem_Calloc((size_t)PySequence_Fast_GET_SIZE(list) + 1, sizeof(vfu_row));
    if (!self->layout.row) {
        PyErr_NoMemory();
        result = -1;
    }
    for (Py_ssize_t i = 0; result == 0 && i < PySequence_Fast_GET_SIZE(list); i++)
        result = add_row(&self->layout, PySequence_Fast_GET_ITEM(list, i), i);
    Py_DECREF(list);
    return result;
}

static PyObject *layout_index_at(LayoutObject *self, PyObject *object)
{
    unsigned long long offset = PyLong_AsUnsignedLongLong(object);
    size_t row;

    if (PyErr_Occurred())
        return NULL;
    row = vfu_layout_find(&self->layout, offset);
    return row == SIZE_MAX ? PyLong_FromLong(-1) : PyLong_FromSize_t(row);
}

static PyObject *get_size(LayoutObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromUnsignedLongLong(self->layout.size);
}

static PyObject *get_bank_size(LayoutObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromSize_t(self->layout.bank_size);
}

static PyMethodDef methods[] = {
    {"index_at", (PyCFunction)layout_index_at, METH_O, "The index of the row that covers an offset, or -1."},
    {0},
};

static PyGetSetDef getset[] = {
    {"size", (getter)get_size, NULL, "bytes of the region", NULL},
    {"bank_size", (getter)get_bank_size, NULL, "bytes of values per instance", NULL},
    {0},
};

PyTypeObject LayoutType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vfuserver._core.Layout",
    .tp_doc = "An immutable register map.",
    .tp_basicsize = sizeof(LayoutObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)layout_init,
    .tp_dealloc = (destructor)layout_dealloc,
    .tp_methods = methods,
    .tp_getset = getset,
};

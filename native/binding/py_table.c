#include "binding.h"

#include <errno.h>

/* -- life -------------------------------------------------------------------------------------------------------- */

static int table_traverse(TableObject *self, visitproc visit, void *arg)
{
    Py_VISIT(self->layout);
    Py_VISIT(self->gate);
    Py_VISIT(self->on_undeclared);
    for (size_t i = 0; self->hooks && i < self->table.layout->rows; i++) {
        Py_VISIT(self->hooks[i].read);
        Py_VISIT(self->hooks[i].write);
    }
    return 0;
}

static int table_clear(TableObject *self)
{
    Py_CLEAR(self->on_undeclared);
    for (size_t i = 0; self->hooks && i < self->table.layout->rows; i++) {
        Py_CLEAR(self->hooks[i].read);
        Py_CLEAR(self->hooks[i].write);
    }
    return 0;
}

static void table_dealloc(TableObject *self)
{
    PyObject_GC_UnTrack(self);
    table_clear(self);
    for (size_t i = 0; i < self->memories; i++)
        PyBuffer_Release(&self->memory[i]);
    PyMem_Free(self->memory);
    PyMem_Free(self->hooks);
    vfu_table_free(&self->table);
    Py_XDECREF(self->layout);
    Py_XDECREF(self->gate);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static long row_of(TableObject *self, PyObject *key)
{
    long row = PyLong_AsLong(key);

    if (row == -1 && PyErr_Occurred())
        return -1;
    if (row < 0 || (size_t)row >= self->table.layout->rows) {
        PyErr_Format(PyExc_IndexError, "there is no row %ld", row);
        return -1;
    }
    return row;
}

static int one_hook(PyObject *object, PyObject **slot)
{
    if (object == Py_None)
        return 0;
    if (!PyCallable_Check(object)) {
        PyErr_Format(DeclarationError, "a hook must be callable, not %R", object);
        return -1;
    }
    *slot = Py_NewRef(object);
    return 0;
}

static int take_hooks(TableObject *self, PyObject *hooks)
{
    PyObject *key, *value;
    Py_ssize_t position = 0;

    while (hooks && PyDict_Next(hooks, &position, &key, &value)) {
        long row = row_of(self, key);
        PyObject *read, *write;
        if (row < 0 || !PyArg_ParseTuple(value, "OO;hooks are (read, write)", &read, &write))
            return -1;
        if (one_hook(read, &self->hooks[row].read) < 0 || one_hook(write, &self->hooks[row].write) < 0)
            return -1;
    }
    for (size_t i = 0; i < self->table.layout->rows; i++) {
        uint32_t flags = self->table.layout->row[i].flags;
        if ((flags & VFU_ROW_READ_HOOK && !self->hooks[i].read) || (flags & VFU_ROW_WRITE_HOOK && !self->hooks[i].write)) {
            PyErr_Format(DeclarationError, "row %zu declares a hook and was given none", i);
            return -1;
        }
    }
    return 0;
}

static int check_memory(TableObject *self)
{
    for (size_t i = 0; i < self->table.layout->rows; i++) {
        if (self->table.layout->row[i].external && !self->table.memory[i]) {
            PyErr_Format(DeclarationError, "row %zu is external memory and was given none", i);
            return -1;
        }
    }
    return 0;
}

static int take_memory(TableObject *self, PyObject *memory)
{
    PyObject *key, *value;
    Py_ssize_t position = 0;

    if (!memory)
        return check_memory(self);
    self->memory = PyMem_Calloc((size_t)PyDict_Size(memory) + 1, sizeof(*self->memory));
    if (!self->memory) {
        PyErr_NoMemory();
        return -1;
    }
    while (PyDict_Next(memory, &position, &key, &value)) {
        long row = row_of(self, key);
        const vfu_row *r;
        if (row < 0 || PyObject_GetBuffer(value, &self->memory[self->memories], PyBUF_WRITABLE) < 0)
            return -1;
        r = &self->table.layout->row[row];
        self->memories++;
        if (!(r->flags & VFU_ROW_MEMORY) || (uint64_t)self->memory[self->memories - 1].len < r->end - r->offset) {
            PyErr_Format(DeclarationError, "row %ld must be a MEMORY row and its buffer at least %llu bytes", row,
                         r->end - r->offset);
            return -1;
        }
        self->table.memory[row] = self->memory[self->memories - 1].buf;
    }
    return check_memory(self);
}

static int table_init(TableObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"layout", "hooks", "memory", "gate", "needs", NULL};
    PyObject *layout, *hooks = NULL, *memory = NULL, *gate = Py_None;
    unsigned int needs = 0;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|O!$O!OI:Table", names, &LayoutType, &layout, &PyDict_Type, &hooks,
                                     &PyDict_Type, &memory, &gate, &needs))
        return -1;
    if (gate != Py_None && !PyObject_TypeCheck(gate, &GateType)) {
        PyErr_Format(PyExc_TypeError, "gate must be a Gate, not %R", gate);
        return -1;
    }
    if (self->layout) {
        PyErr_SetString(LocalError, "a table is initialised once");
        return -1;
    }
    self->layout = (LayoutObject *)Py_NewRef(layout);
    if (vfu_table_init(&self->table, &self->layout->layout) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    self->hooks = PyMem_Calloc(self->table.layout->rows + 1, sizeof(*self->hooks));
    if (!self->hooks) {
        PyErr_NoMemory();
        return -1;
    }
    if (gate != Py_None) {
        self->gate = (GateObject *)Py_NewRef(gate);
        self->table.gate = &self->gate->gate;
    }
    self->table.needs = needs;
    self->table.hooks = &table_hooks;
    self->table.owner = self;
    return take_hooks(self, hooks) < 0 ? -1 : take_memory(self, memory);
}

/* -- accesses without a stream ------------------------------------------------------------------------------------ */

static PyObject *raise_access(TableObject *self, int answer, const vfu_cursor *cursor)
{
    PyObject *cause = stray;

    stray = NULL;
    if (answer == VFU_LATER) {
        Py_XDECREF(cause);
        PyErr_Format(LocalError, "the register at %llu is asynchronous: only a connection can wait for it",
                     cursor->offset + cursor->done);
        return NULL;
    }
    if (cause && PyErr_GivenExceptionMatches(cause, CommandError)) {
        PyErr_SetObject((PyObject *)Py_TYPE(cause), cause);
        Py_DECREF(cause);
        return NULL;
    }
    raise_errno(CommandError, -answer, "%s of %u bytes at %llu of a region of %llu bytes",
                cursor->write ? "write" : "read", cursor->count, (unsigned long long)cursor->offset,
                (unsigned long long)self->table.layout->size);
    if (cause) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        PyErr_NormalizeException(&type, &value, &traceback);
        PyException_SetCause(value, cause);
        PyErr_Restore(type, value, traceback);
    }
    return NULL;
}

static int access_directly(TableObject *self, vfu_cursor *cursor)
{
    StreamObject *outer = serving;
    int answer;

    serving = NULL;
    answer = vfu_table_access(&self->table, cursor);
    serving = outer;
    return answer;
}

static PyObject *table_read(TableObject *self, PyObject *args)
{
    unsigned long long offset;
    unsigned int count;
    PyObject *bytes;

    if (!PyArg_ParseTuple(args, "KI:read", &offset, &count))
        return NULL;
    vfu_cursor cursor = {.offset = offset, .count = count};
    if (offset > self->table.layout->size || count > self->table.layout->size - offset)
        return raise_access(self, -EINVAL, &cursor);
    bytes = PyBytes_FromStringAndSize(NULL, count);
    if (!bytes)
        return NULL;
    cursor.data = (uint8_t *)PyBytes_AS_STRING(bytes);
    int answer = access_directly(self, &cursor);
    if (answer == VFU_DONE)
        return bytes;
    Py_DECREF(bytes);
    return raise_access(self, answer, &cursor);
}

static PyObject *table_write(TableObject *self, PyObject *args)
{
    unsigned long long offset;
    Py_buffer data;

    if (!PyArg_ParseTuple(args, "Ky*:write", &offset, &data))
        return NULL;
    vfu_cursor cursor = {.offset = offset, .count = (uint32_t)data.len, .data = data.buf, .write = true};
    int answer = data.len > UINT32_MAX ? -EINVAL : access_directly(self, &cursor);
    PyBuffer_Release(&data);
    if (answer != VFU_DONE)
        return raise_access(self, answer, &cursor);
    Py_RETURN_NONE;
}

/* -- stored values ------------------------------------------------------------------------------------------------ */

static uint8_t *element_at(TableObject *self, long row, unsigned long element)
{
    if (row < 0 || (size_t)row >= self->table.layout->rows || element >= self->table.layout->row[row].count) {
        PyErr_Format(PyExc_IndexError, "there is no row %ld element %lu", row, element);
        return NULL;
    }
    return vfu_table_bytes(&self->table, (size_t)row, (uint32_t)element);
}

static PyObject *table_get(TableObject *self, PyObject *const *args, Py_ssize_t count)
{
    long row;
    unsigned long element = 0;
    uint8_t *bytes;

    if (count < 1 || count > 2)
        return PyErr_Format(PyExc_TypeError, "get takes a row and perhaps an element");
    row = PyLong_AsLong(args[0]);
    if (count == 2)
        element = PyLong_AsUnsignedLong(args[1]);
    if (PyErr_Occurred() || !(bytes = element_at(self, row, element)))
        return NULL;
    return PyLong_FromUnsignedLongLong(vfu_load(bytes, self->table.layout->row[row].width));
}

static PyObject *table_set(TableObject *self, PyObject *const *args, Py_ssize_t count)
{
    long row;
    unsigned long element;
    unsigned long long value;
    uint8_t *bytes;

    if (count != 3)
        return PyErr_Format(PyExc_TypeError, "set takes a row, an element and a value");
    row = PyLong_AsLong(args[0]);
    element = PyLong_AsUnsignedLong(args[1]);
    value = PyLong_AsUnsignedLongLong(args[2]);
    if (PyErr_Occurred() || !(bytes = element_at(self, row, element)))
        return NULL;
    if (value > vfu_width_mask(self->table.layout->row[row].width))
        return PyErr_Format(PyExc_ValueError, "a register of %u bytes cannot hold %R",
                            self->table.layout->row[row].width, args[2]);
    vfu_store(bytes, self->table.layout->row[row].width, value);
    Py_RETURN_NONE;
}

static PyObject *table_reset(TableObject *self, PyObject *unused)
{
    (void)unused;
    vfu_table_reset(&self->table);
    Py_RETURN_NONE;
}

static PyObject *table_snapshot(TableObject *self, PyObject *key)
{
    long row = row_of(self, key);

    if (row < 0)
        return NULL;
    const vfu_row *r = &self->table.layout->row[row];
    return PyBytes_FromStringAndSize((char *)vfu_table_bytes(&self->table, (size_t)row, 0),
                                     (Py_ssize_t)(r->end - r->offset));
}

static PyObject *table_restore(TableObject *self, PyObject *args)
{
    PyObject *key;
    Py_buffer data;
    long row;

    if (!PyArg_ParseTuple(args, "Oy*:restore", &key, &data))
        return NULL;
    row = row_of(self, key);
    if (row >= 0 && (uint64_t)data.len != self->table.layout->row[row].end - self->table.layout->row[row].offset) {
        PyErr_Format(PyExc_ValueError, "row %ld has %llu bytes, not %zd", row,
                     self->table.layout->row[row].end - self->table.layout->row[row].offset, data.len);
        row = -1;
    }
    if (row >= 0)
        memcpy(vfu_table_bytes(&self->table, (size_t)row, 0), data.buf, (size_t)data.len);
    PyBuffer_Release(&data);
    if (row < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *table_latched(TableObject *self, PyObject *key)
{
    long row = row_of(self, key);

    if (row < 0)
        return NULL;
    if (!self->table.latched[row])
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(self->table.latch[row]);
}

static PyObject *table_latch(TableObject *self, PyObject *args)
{
    PyObject *key, *value;
    unsigned long long half;
    long row;

    if (!PyArg_ParseTuple(args, "OO:latch", &key, &value) || (row = row_of(self, key)) < 0)
        return NULL;
    half = value == Py_None ? 0 : PyLong_AsUnsignedLongLong(value);
    if (PyErr_Occurred())
        return NULL;
    self->table.latch[row] = half;
    self->table.latched[row] = value != Py_None;
    Py_RETURN_NONE;
}

static PyObject *get_undeclared(TableObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromUnsignedLongLong(self->table.undeclared);
}

static int set_undeclared(TableObject *self, PyObject *value, void *closure)
{
    unsigned long long count = value ? PyLong_AsUnsignedLongLong(value) : 0;

    (void)closure;
    if (PyErr_Occurred())
        return -1;
    self->table.undeclared = count;
    return 0;
}

static PyObject *get_on_undeclared(TableObject *self, void *closure)
{
    (void)closure;
    return Py_NewRef(self->on_undeclared ? self->on_undeclared : Py_None);
}

static int set_on_undeclared(TableObject *self, PyObject *value, void *closure)
{
    (void)closure;
    Py_XSETREF(self->on_undeclared, value && value != Py_None ? Py_NewRef(value) : NULL);
    return 0;
}

static PyObject *get_layout(TableObject *self, void *closure)
{
    (void)closure;
    return Py_NewRef((PyObject *)self->layout);
}

static PyMethodDef methods[] = {
    {"read", (PyCFunction)table_read, METH_VARARGS, "read(offset, count) -> bytes, as a client's REGION_READ."},
    {"write", (PyCFunction)table_write, METH_VARARGS, "write(offset, data), as a client's REGION_WRITE."},
    {"get", (PyCFunction)(void (*)(void))table_get, METH_FASTCALL, "get(row, element=0): the stored value."},
    {"set", (PyCFunction)(void (*)(void))table_set, METH_FASTCALL, "set(row, element, value): stores a value."},
    {"reset", (PyCFunction)table_reset, METH_NOARGS, "Every value back to its reset image."},
    {"snapshot", (PyCFunction)table_snapshot, METH_O, "All bytes of a row."},
    {"restore", (PyCFunction)table_restore, METH_VARARGS, "restore(row, data): all bytes of a row."},
    {"latched", (PyCFunction)table_latched, METH_O, "The value that waits for a split register's other half."},
    {"latch", (PyCFunction)table_latch, METH_VARARGS, "latch(row, value): sets that, None for nothing."},
    {0},
};

static PyGetSetDef getset[] = {
    {"undeclared", (getter)get_undeclared, (setter)set_undeclared, "accesses to undeclared offsets", NULL},
    {"on_undeclared", (getter)get_on_undeclared, (setter)set_on_undeclared, "called at each of them", NULL},
    {"layout", (getter)get_layout, NULL, "the Layout", NULL},
    {0},
};

PyTypeObject TableType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vfuserver._core.Table",
    .tp_doc = "One instance's registers behind a layout.",
    .tp_basicsize = sizeof(TableObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)table_init,
    .tp_traverse = (traverseproc)table_traverse,
    .tp_clear = (inquiry)table_clear,
    .tp_dealloc = (destructor)table_dealloc,
    .tp_methods = methods,
    .tp_getset = getset,
};

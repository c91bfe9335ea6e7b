/* Registers with hooks: one vectorcall with plain ints, and what may come back. */
#include "binding.h"

#include <errno.h>

/* A hook raised: its errno if it is a CommandError, else EIO and the exception goes to whoever serves. */
static int hook_failed(TableObject *self, size_t row, uint32_t element)
{
    const vfu_row *r = &self->table.layout->row[row];
    PyObject *exception;
    int error = take_exception(&exception);

    if (serving && !error)
        stream_hook_error(serving, (int)serving->stream.hook_region, r->offset + (uint64_t)element * r->width, exception);
    if (serving)
        Py_DECREF(exception);
    else
        Py_XSETREF(stray, exception);
    return -(error ? error : EIO);
}

/* What a hook returned: an int in range, None, or an object that means "later". Steals `result`. */
static int hook_result(TableObject *self, size_t row, uint32_t element, PyObject *result, uint64_t *value)
{
    uint64_t limit = vfu_width_mask(self->table.layout->row[row].width);

    if (!result)
        return hook_failed(self, row, element);
    if (result == Py_None) {
        Py_DECREF(result);
        return VFU_STORED;
    }
    if (!PyLong_Check(result)) {
        Py_XSETREF(*(serving ? &serving->later : &stray), result);
        return VFU_LATER;
    }
    *value = PyLong_AsUnsignedLongLong(result);
    if (PyErr_Occurred() || *value > limit) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "the hook's value must be 0 to %llu, not %R", (unsigned long long)limit, result);
        Py_DECREF(result);
        return hook_failed(self, row, element);
    }
    Py_DECREF(result);
    return VFU_DONE;
}

/* What a write hook is told: the value, or all that were written one after the other. */
static PyObject *written(const vfu_row *r, const vfu_cursor *c, uint64_t value)
{
    PyObject *list, *number = PyLong_FromUnsignedLongLong(value);

    if (!(r->flags & VFU_ROW_ALL) || !number)
        return number;
    list = PyList_New((Py_ssize_t)c->joined + 1);
    if (!list) {
        Py_DECREF(number);
        return NULL;
    }
    PyList_SET_ITEM(list, c->joined, number);
    for (uint32_t i = 0; i < c->joined; i++) {
        number = PyLong_FromUnsignedLongLong(vfu_load(c->earlier + (size_t)i * c->stride, r->width));
        if (!number) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, i, number);
    }
    return list;
}

/* Steals `value`, which is NULL for a read. */
static PyObject *call_hook(PyObject *hook, bool array, uint32_t element, PyObject *value)
{
    PyObject *arguments[3] = {NULL}, *result = NULL;
    size_t count = 0;

    if (array)
        arguments[++count] = PyLong_FromUnsignedLong(element);
    if (value)
        arguments[++count] = value;
    if (!PyErr_Occurred())
        result = PyObject_Vectorcall(hook, arguments + 1, count | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    for (size_t i = 1; i <= count; i++)
        Py_XDECREF(arguments[i]);
    return result;
}

static int read_hook(void *owner, size_t row, uint32_t element, uint64_t *value)
{
    TableObject *self = owner;
    bool array = self->table.layout->row[row].count > 1;

    need_gil();
    if (!self->hooks[row].read)
        return VFU_STORED; /* the garbage collector has taken the device apart */
    return hook_result(self, row, element, call_hook(self->hooks[row].read, array, element, NULL), value);
}

static int write_hook(void *owner, const vfu_cursor *c, uint64_t *value)
{
    TableObject *self = owner;
    const vfu_row *r = &self->table.layout->row[c->row];
    PyObject *told, *result = NULL;

    need_gil();
    if (!self->hooks[c->row].write)
        return VFU_STORED;
    told = written(r, c, *value);
    if (told)
        result = call_hook(self->hooks[c->row].write, r->count > 1, c->element, told);
    return hook_result(self, c->row, c->element, result, value);
}

static void undeclared_hook(void *owner, uint64_t offset, uint32_t width, bool write, uint64_t value)
{
    TableObject *self = owner;
    PyObject *result, *what;

    if (!self->on_undeclared)
        return;
    need_gil();
    what = write ? PyLong_FromUnsignedLongLong(value) : Py_NewRef(Py_None);
    result = what ? PyObject_CallFunction(self->on_undeclared, "KIN", offset, width, what) : NULL;
    if (!result)
        PyErr_WriteUnraisable(self->on_undeclared);
    Py_XDECREF(result);
}

const vfu_hooks table_hooks = {.read = read_hook, .write = write_hook, .undeclared = undeclared_hook};

/* Copies of buffers, and checksums. Large ones are made without the GIL. */
#include "binding.h"

#include "../core/copy.h"
#include "../core/crc.h"

enum { WORTH_RELEASING = 65536 };

static PyObject *crc_of(unsigned int crc, void *into, const Py_buffer *data)
{
    if (data->len < WORTH_RELEASING)
        return PyLong_FromUnsignedLong(vfu_crc32(crc, into, data->buf, (size_t)data->len));
    Py_BEGIN_ALLOW_THREADS;
    crc = vfu_crc32(crc, into, data->buf, (size_t)data->len);
    Py_END_ALLOW_THREADS;
    return PyLong_FromUnsignedLong(crc);
}

PyObject *core_crc32(PyObject *module, PyObject *args)
{
    unsigned int crc = 0;
    PyObject *result;
    Py_buffer data;

    (void)module;
    if (!PyArg_ParseTuple(args, "y*|I:crc32", &data, &crc))
        return NULL;
    result = crc_of(crc, NULL, &data);
    PyBuffer_Release(&data);
    return result;
}

static bool fits(const Py_buffer *into, const Py_buffer *data)
{
    if (into->len == data->len)
        return true;
    PyErr_Format(PyExc_ValueError, "a place for %zd bytes cannot take %zd", into->len, data->len);
    return false;
}

PyObject *core_copy_crc32(PyObject *module, PyObject *args)
{
    PyObject *result = NULL;
    unsigned int crc = 0;
    Py_buffer into, data;

    (void)module;
    if (!PyArg_ParseTuple(args, "w*y*|I:copy_crc32", &into, &data, &crc))
        return NULL;
    if (fits(&into, &data))
        result = crc_of(crc, into.buf, &data);
    PyBuffer_Release(&into);
    PyBuffer_Release(&data);
    return result;
}

PyObject *core_copy_far(PyObject *module, PyObject *args)
{
    Py_buffer into, data;
    bool fit;

    (void)module;
    if (!PyArg_ParseTuple(args, "w*y*:copy_far", &into, &data))
        return NULL;
    fit = fits(&into, &data);
    if (fit) {
        Py_BEGIN_ALLOW_THREADS;
        vfu_copy_far(into.buf, data.buf, (size_t)data.len);
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&into);
    PyBuffer_Release(&data);
    return fit ? Py_NewRef(Py_None) : NULL;
}

PyObject *core_snapshot(PyObject *module, PyObject *args)
{
    PyObject *copy, *value = NULL, *result = NULL;
    unsigned int crc = 0;
    Py_buffer data;

    (void)module;
    if (!PyArg_ParseTuple(args, "y*|I:snapshot", &data, &crc))
        return NULL;
    copy = PyBytes_FromStringAndSize(NULL, data.len);
    if (copy)
        value = crc_of(crc, PyBytes_AS_STRING(copy), &data);
    if (value)
        result = PyTuple_Pack(2, copy, value);
    Py_XDECREF(copy);
    Py_XDECREF(value);
    PyBuffer_Release(&data);
    return result;
}

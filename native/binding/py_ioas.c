#include "binding.h"

#include <errno.h>

#include "../core/source.h"

enum { LARGE = 65536 }; /* copies of this size and more give up the GIL, and everything that may be file I/O */

typedef struct {
    PyObject_HEAD
    vfu_ioas ioas;
    GateObject *gate;
    bool ready;
} IoasObject;

static int ioas_init(IoasObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"gate", "max_areas", NULL};
    PyObject *gate = Py_None;
    Py_ssize_t limit = 65535;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O$n:Ioas", names, &gate, &limit))
        return -1;
    if (gate != Py_None && !PyObject_TypeCheck(gate, &GateType)) {
        PyErr_Format(PyExc_TypeError, "gate must be a Gate, not %R", gate);
        return -1;
    }
    if (self->ready) {
        PyErr_SetString(LocalError, "an address space is initialised once");
        return -1;
    }
    if (vfu_ioas_init(&self->ioas, (size_t)limit) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    self->gate = gate == Py_None ? NULL : (GateObject *)Py_NewRef(gate);
    self->ready = true;
    return 0;
}

static void ioas_dealloc(IoasObject *self)
{
    if (self->ready)
        vfu_ioas_free(&self->ioas);
    Py_XDECREF(self->gate);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *ioas_map(IoasObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"iova", "size", "prot", "fd", "offset", "ways", NULL};
    unsigned long long iova, size, offset = 0;
    unsigned int prot, ways = VFU_ACCESS_MAPPED;
    int fd = -1, error;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "KKI|iKI:map", names, &iova, &size, &prot, &fd, &offset, &ways))
        return NULL;
    error = vfu_ioas_map(&self->ioas, iova, size, prot, fd, offset, ways);
    if (error)
        return raise_errno(CommandError, -error, "cannot map %llu bytes at IOVA %#llx (file offset %#llx, prot %u, "
                           "ways %u)", size, iova, offset, prot, ways);
    Py_RETURN_NONE;
}

static PyObject *ioas_unmap(IoasObject *self, PyObject *args)
{
    unsigned long long iova, size;
    long removed;

    if (!PyArg_ParseTuple(args, "KK:unmap", &iova, &size))
        return NULL;
    removed = vfu_ioas_unmap(&self->ioas, iova, size);
    if (removed < 0)
        return raise_errno(CommandError, (int)-removed, "no whole mapping lies in %llu bytes at IOVA %#llx", size, iova);
    return PyLong_FromLong(removed);
}

static PyObject *ioas_clear(IoasObject *self, PyObject *unused)
{
    (void)unused;
    return PyLong_FromSize_t(vfu_ioas_clear(&self->ioas));
}

static PyObject *ioas_areas(IoasObject *self, PyObject *unused)
{
    PyObject *list = PyList_New(0);

    (void)unused;
    for (size_t i = 0; list && i < self->ioas.count; i++) {
        const vfu_area *a = &self->ioas.area[i];
        PyObject *item = Py_BuildValue("KKIi", a->iova, a->size, a->prot, (int)vfu_source_access(a->source));
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

/* -- accesses ----------------------------------------------------------------------------------------------------- */

static PyObject *dma_failed(int error, unsigned long long iova, unsigned long long length, const char *what)
{
    const char *why = error == -EPERM ? "permission denied"
                      : error == -EIO ? "the client's file refuses"
                                      : "the range is not mapped, or only messages reach it, or its file was cut";

    return raise_errno(DmaError, -error, "%s %llu bytes at IOVA %#llx: %s", what, length, iova, why);
}

/* What COMMAND and the migration machine say at this very moment: a thread may have asked earlier (S2.33). */
static bool may_master(IoasObject *self, unsigned long long iova, unsigned long long length)
{
    const vfu_gate *gate = self->gate ? &self->gate->gate : NULL;

    if (vfu_gate_open(gate, VFU_GATE_MASTER | VFU_GATE_RUNNING))
        return true;
    if (vfu_gate_open(gate, VFU_GATE_MASTER))
        raise_errno(DmaError, EBUSY, "DMA of %llu bytes at IOVA %#llx: the device is stopped", length, iova);
    else
        raise_errno(DmaError, EPERM, "DMA of %llu bytes at IOVA %#llx: bus mastering is off (COMMAND bit 2)", length,
                    iova);
    return false;
}

static int one_extent(IoasObject *self, PyObject *list, unsigned long long iova, unsigned long long left, unsigned prot,
                      vfu_extent *extent)
{
    int error = vfu_ioas_extent(&self->ioas, iova, left, prot, extent);
    PyObject *item;

    if (error) {
        dma_failed(error, iova, left, prot & VFU_PROT_WRITE ? "cannot write" : "cannot read");
        return -1;
    }
    item = Py_BuildValue("KKO", extent->iova, extent->length, extent->source ? Py_True : Py_False);
    if (!item || PyList_Append(list, item) < 0) {
        Py_XDECREF(item);
        return -1;
    }
    Py_DECREF(item);
    return 0;
}

static PyObject *ioas_plan(IoasObject *self, PyObject *args)
{
    unsigned long long iova, length;
    unsigned int prot;
    vfu_extent extent;
    PyObject *list;

    if (!PyArg_ParseTuple(args, "KKI:plan", &iova, &length, &prot) || !may_master(self, iova, length))
        return NULL;
    if (length && iova + (length - 1) < iova)
        return dma_failed(-EFAULT, iova, length, "cannot reach");
    list = PyList_New(0);
    for (unsigned long long done = 0; list && done < length; done += extent.length)
        if (one_extent(self, list, iova + done, length - done, prot, &extent) < 0)
            Py_CLEAR(list);
    return list;
}

static bool keeps_gil(const IoasObject *self, Py_ssize_t length)
{
    return length < LARGE && !self->ioas.files;
}

static int read_some(IoasObject *self, unsigned long long iova, void *to, Py_ssize_t length)
{
    int error;

    if (keeps_gil(self, length))
        return vfu_ioas_read(&self->ioas, iova, to, (uint64_t)length);
    Py_BEGIN_ALLOW_THREADS
    error = vfu_ioas_read(&self->ioas, iova, to, (uint64_t)length);
    Py_END_ALLOW_THREADS
    return error;
}

static PyObject *ioas_read(IoasObject *self, PyObject *args)
{
    unsigned long long iova;
    Py_ssize_t length;
    PyObject *bytes;
    int error;

    if (!PyArg_ParseTuple(args, "Kn:read", &iova, &length) || !may_master(self, iova, (unsigned long long)length))
        return NULL;
    bytes = PyBytes_FromStringAndSize(NULL, length);
    if (!bytes)
        return NULL;
    error = read_some(self, iova, PyBytes_AS_STRING(bytes), length);
    if (!error)
        return bytes;
    Py_DECREF(bytes);
    return dma_failed(error, iova, (unsigned long long)length, "cannot read");
}

static PyObject *ioas_read_into(IoasObject *self, PyObject *args)
{
    unsigned long long iova;
    Py_buffer buffer;
    int error = 1;

    if (!PyArg_ParseTuple(args, "Kw*:read_into", &iova, &buffer))
        return NULL;
    if (may_master(self, iova, (unsigned long long)buffer.len))
        error = read_some(self, iova, buffer.buf, buffer.len);
    if (error < 0)
        dma_failed(error, iova, (unsigned long long)buffer.len, "cannot read");
    PyBuffer_Release(&buffer);
    if (error)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *ioas_write(IoasObject *self, PyObject *args)
{
    unsigned long long iova;
    Py_buffer buffer;
    int error = 1;

    if (!PyArg_ParseTuple(args, "Ky*:write", &iova, &buffer))
        return NULL;
    if (may_master(self, iova, (unsigned long long)buffer.len)) {
        if (keeps_gil(self, buffer.len)) {
            error = vfu_ioas_write(&self->ioas, iova, buffer.buf, (uint64_t)buffer.len);
        } else {
            Py_BEGIN_ALLOW_THREADS
            error = vfu_ioas_write(&self->ioas, iova, buffer.buf, (uint64_t)buffer.len);
            Py_END_ALLOW_THREADS
        }
    }
    if (error < 0)
        dma_failed(error, iova, (unsigned long long)buffer.len, "cannot write");
    PyBuffer_Release(&buffer);
    if (error)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *ioas_copy(IoasObject *self, PyObject *args)
{
    unsigned long long source, destination, length;
    int error;

    if (!PyArg_ParseTuple(args, "KKK:copy", &source, &destination, &length) || !may_master(self, source, length))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    error = vfu_ioas_copy(&self->ioas, source, destination, length);
    Py_END_ALLOW_THREADS
    if (error)
        return dma_failed(error, source, length, "cannot copy");
    Py_RETURN_NONE;
}

static PyObject *get_count(IoasObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromSize_t(self->ioas.count);
}

static PyObject *get_bytes(IoasObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromUnsignedLongLong(self->ioas.bytes);
}

static PyMethodDef methods[] = {
    {"map", (PyCFunction)(void (*)(void))ioas_map, METH_VARARGS | METH_KEYWORDS,
     "map(iova, size, prot, fd=-1, offset=0, ways=ACCESS_MAPPED): adds an area."},
    {"unmap", (PyCFunction)ioas_unmap, METH_VARARGS, "unmap(iova, size): removes every area wholly inside."},
    {"clear", (PyCFunction)ioas_clear, METH_NOARGS, "Removes every area; how many there were."},
    {"areas", (PyCFunction)ioas_areas, METH_NOARGS, "(iova, size, prot, access) of every area, in order."},
    {"plan", (PyCFunction)ioas_plan, METH_VARARGS, "plan(iova, length, prot): the access cut at area borders."},
    {"read", (PyCFunction)ioas_read, METH_VARARGS, "read(iova, length) -> bytes"},
    {"read_into", (PyCFunction)ioas_read_into, METH_VARARGS, "read_into(iova, buffer)"},
    {"write", (PyCFunction)ioas_write, METH_VARARGS, "write(iova, data)"},
    {"copy", (PyCFunction)ioas_copy, METH_VARARGS, "copy(source, destination, length), both IOVAs"},
    {0},
};

static PyGetSetDef getset[] = {
    {"count", (getter)get_count, NULL, "areas", NULL},
    {"mapped", (getter)get_bytes, NULL, "bytes in all areas", NULL},
    {0},
};

PyTypeObject IoasType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vfuserver._core.Ioas",
    .tp_doc = "An I/O address space over files mapped once.",
    .tp_basicsize = sizeof(IoasObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)ioas_init,
    .tp_dealloc = (destructor)ioas_dealloc,
    .tp_methods = methods,
    .tp_getset = getset,
};

/* An address space as data, for the process that goes on with its connection. */
#include "py_ioas.h"

#include <errno.h>
#include <stdlib.h>

_Static_assert(sizeof(vfu_area_record) == 40, "packed as _core.pyi says");

/* -- areas ---------------------------------------------------------------------------------------------------------- */

static PyObject *file_list(const vfu_ioas_record *r)
{
    PyObject *list = PyList_New(0);

    for (size_t i = 0; list && i < r->files; i++) {
        const vfu_file_record *f = &r->file[i];
        PyObject *item = Py_BuildValue("KiIII", (unsigned long long)f->source, f->fd, f->prot, f->way, (unsigned)f->trust);
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

PyObject *ioas_carry(IoasObject *self, PyObject *unused)
{
    vfu_ioas_record r;
    PyObject *result;
    int error = vfu_ioas_carry(&self->ioas, &r);

    (void)unused;
    if (error == -ENOTSUP)
        PyErr_SetString(LocalError, "an area over memory that somebody else has mapped cannot be carried: it has no file");
    else if (error)
        PyErr_NoMemory();
    if (error)
        return NULL;
    result = Py_BuildValue("y#N", (const char *)r.area, (Py_ssize_t)(r.areas * sizeof(*r.area)), file_list(&r));
    free(r.area);
    free(r.file);
    return result;
}

static int take_file(PyObject *item, vfu_file_record *file)
{
    unsigned int prot, way, trust;
    unsigned long long source;
    int fd;

    if (!PyTuple_Check(item)) {
        PyErr_Format(PyExc_TypeError, "a file is (source, fd, prot, way, trust), not %R", item);
        return -1;
    }
    if (!PyArg_ParseTuple(item, "KiIII;a file is (source, fd, prot, way, trust)", &source, &fd, &prot, &way, &trust))
        return -1;
    *file = (vfu_file_record){.source = source, .fd = fd, .prot = prot, .way = way, .trust = (enum vfu_trust)trust};
    return 0;
}

static int take_files(PyObject *sequence, vfu_ioas_record *r)
{
    PyObject *tuple = PySequence_Tuple(sequence);
    size_t count = tuple ? (size_t)PyTuple_GET_SIZE(tuple) : 0;

    r->file = tuple ? PyMem_New(vfu_file_record, count + 1) : NULL;
    if (tuple && !r->file)
        PyErr_NoMemory();
    while (!PyErr_Occurred() && r->files < count &&
           take_file(PyTuple_GET_ITEM(tuple, (Py_ssize_t)r->files), &r->file[r->files]) == 0)
        r->files++;
    Py_XDECREF(tuple);
    return PyErr_Occurred() ? -1 : 0;
}

/* The records where they lie, or in *copy if that is no place for them: to be freed with PyMem_Free. */
static int take_areas(const Py_buffer *data, vfu_ioas_record *r, void **copy)
{
    if (data->len % (Py_ssize_t)sizeof(*r->area)) {
        PyErr_Format(PyExc_ValueError, "an area takes %zu bytes, these are %zd", sizeof(*r->area), data->len);
        return -1;
    }
    r->area = data->buf;
    if ((uintptr_t)data->buf % _Alignof(vfu_area_record)) {
        r->area = *copy = PyMem_Malloc((size_t)data->len);
        if (!*copy) {
            PyErr_NoMemory();
            return -1;
        }
        memcpy(*copy, data->buf, (size_t)data->len);
    }
    r->areas = (size_t)data->len / sizeof(*r->area);
    return 0;
}

PyObject *ioas_adopt(IoasObject *self, PyObject *args)
{
    vfu_ioas_record r = {0};
    void *copy = NULL;
    Py_buffer data;
    PyObject *files;
    int error = 0;

    if (!PyArg_ParseTuple(args, "y*O:adopt", &data, &files))
        return NULL;
    if (take_areas(&data, &r, &copy) == 0 && take_files(files, &r) == 0)
        error = vfu_ioas_adopt(&self->ioas, &r);
    PyBuffer_Release(&data);
    PyMem_Free(copy);
    PyMem_Free(r.file);
    if (error == -EBUSY)
        PyErr_SetString(LocalError, "an address space must be empty to take over another one's areas");
    else if (error)
        raise_errno(CommandError, -error, "cannot take over %zu areas over %zu files", r.areas, r.files);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

/* -- the log of writes ---------------------------------------------------------------------------------------------- */

static PyObject *span_list(const vfu_span *span, size_t spans)
{
    PyObject *list = PyList_New(0);

    for (size_t i = 0; list && i < spans; i++) {
        PyObject *item = Py_BuildValue("KK", (unsigned long long)span[i].iova, (unsigned long long)span[i].last);
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

PyObject *ioas_carry_log(IoasObject *self, PyObject *unused)
{
    vfu_log_record r;
    PyObject *result;
    int error = vfu_ioas_carry_log(&self->ioas, &r);

    (void)unused;
    if (error)
        return error == -ENOENT ? Py_NewRef(Py_None) : PyErr_NoMemory();
    result = Py_BuildValue("NNK", span_list(r.span, r.spans), span_list(r.run, r.runs), (unsigned long long)r.unreported);
    free(r.span);
    free(r.run);
    return result;
}

PyObject *ioas_adopt_log(IoasObject *self, PyObject *args)
{
    vfu_log_record r = {0};
    unsigned long long unreported;
    PyObject *spans, *runs;
    int error = 0;

    if (!PyArg_ParseTuple(args, "OOK:adopt_log", &spans, &runs, &unreported))
        return NULL;
    r.unreported = unreported;
    r.span = take_spans(spans, &r.spans);
    r.run = r.span ? take_spans(runs, &r.runs) : NULL;
    if (r.run)
        error = vfu_ioas_adopt_log(&self->ioas, &r);
    PyMem_Free(r.span);
    PyMem_Free(r.run);
    if (error)
        raise_errno(CommandError, -error, "cannot log writes to %zu ranges with %zu dirty runs", r.spans, r.runs);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

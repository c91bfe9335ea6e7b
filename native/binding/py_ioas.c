/* An address space: its areas, its limits, what is known about its files, its log of writes. */
#include "py_ioas.h"

#include <errno.h>
#include <stdlib.h>

#include "../core/pin.h"

enum { PAGE = 4096 };

static int ioas_init(IoasObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"gate", "max_areas", "max_pins", "max_bytes", NULL};
    PyObject *gate = Py_None;
    Py_ssize_t areas = 65535, pins = 1024;
    unsigned long long bytes = UINT64_MAX;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O$nnK:Ioas", names, &gate, &areas, &pins, &bytes))
        return -1;
    if (gate != Py_None && !PyObject_TypeCheck(gate, &GateType)) {
        PyErr_Format(PyExc_TypeError, "gate must be a Gate, not %R", gate);
        return -1;
    }
    if (self->ready) {
        PyErr_SetString(LocalError, "an address space is initialised once");
        return -1;
    }
    if (vfu_ioas_init(&self->ioas) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    self->ioas.max_areas = (size_t)areas;
    self->ioas.max_pins = (size_t)pins;
    self->ioas.max_bytes = bytes;
    self->gate = gate == Py_None ? NULL : (GateObject *)Py_NewRef(gate);
    self->ioas.gate = self->gate ? &self->gate->gate : NULL;
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

/* -- areas ---------------------------------------------------------------------------------------------------------- */

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
        return raise_errno(CommandError, -error,
                           "cannot map %llu bytes at IOVA %#llx (file offset %#llx, prot %u, ways %u)", size, iova,
                           offset, prot, ways);
    Py_RETURN_NONE;
}

static PyObject *ioas_map_foreign(IoasObject *self, PyObject *args)
{
    unsigned long long iova, size, memory;
    unsigned int prot;
    int error;

    if (!PyArg_ParseTuple(args, "KKIK:map_foreign", &iova, &size, &prot, &memory))
        return NULL;
    error = vfu_ioas_map_foreign(&self->ioas, iova, size, prot, (uint8_t *)(uintptr_t)memory);
    if (error)
        return raise_errno(CommandError, -error, "cannot map %llu bytes of somebody else's at IOVA %#llx (prot %u)", size,
                           iova, prot);
    Py_RETURN_NONE;
}

static PyObject *ioas_hole(IoasObject *self, PyObject *args)
{
    unsigned long long size, alignment = PAGE;
    uint64_t iova;
    int error;

    if (!PyArg_ParseTuple(args, "K|K:hole", &size, &alignment))
        return NULL;
    error = vfu_ioas_hole(&self->ioas, size, alignment, &iova);
    if (error)
        return raise_errno(CommandError, -error, "no free range of %llu bytes at alignment %llu", size, alignment);
    return PyLong_FromUnsignedLongLong(iova);
}

static PyObject *ioas_share(IoasObject *self, PyObject *args)
{
    unsigned long long from, size, to;
    IoasObject *with;
    unsigned int prot;
    int error;

    if (!PyArg_ParseTuple(args, "KKO!KI:share", &from, &size, &IoasType, &with, &to, &prot))
        return NULL;
    error = vfu_ioas_share(&self->ioas, from, size, &with->ioas, to, prot);
    if (error)
        return raise_errno(CommandError, -error, "cannot share %llu bytes at IOVA %#llx as %#llx (prot %u)", size, from,
                           to, prot);
    Py_RETURN_NONE;
}

static PyObject *ioas_unmap(IoasObject *self, PyObject *args)
{
    unsigned long long iova, size;
    long removed;

    if (!PyArg_ParseTuple(args, "KK:unmap", &iova, &size))
        return NULL;
    Py_BEGIN_ALLOW_THREADS /* copies under way are waited for */
    removed = vfu_ioas_unmap(&self->ioas, iova, size);
    Py_END_ALLOW_THREADS
    if (removed < 0)
        return raise_errno(CommandError, (int)-removed, "no whole mapping lies in %llu bytes at IOVA %#llx", size, iova);
    return PyLong_FromLong(removed);
}

static PyObject *ioas_clear(IoasObject *self, PyObject *unused)
{
    size_t removed;

    (void)unused;
    Py_BEGIN_ALLOW_THREADS
    removed = vfu_ioas_clear(&self->ioas);
    Py_END_ALLOW_THREADS
    return PyLong_FromSize_t(removed);
}

static PyObject *ioas_drain(IoasObject *self, PyObject *unused)
{
    (void)unused;
    Py_BEGIN_ALLOW_THREADS
    vfu_ioas_drain(&self->ioas);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

typedef struct {
    vfu_area area;
    unsigned long long source;
    int access;
} Listed;

/* A copy of areas, `most` at most: Python must not allocate under the lock, a collection may run a finaliser that
 * unmaps. */
static Listed *list_areas(vfu_ioas *ioas, uint64_t iova, size_t most, size_t *count)
{
    vfu_place place;
    Listed *listed;
    size_t i = 0;

    pthread_rwlock_rdlock(&ioas->lock);
    if (most > ioas->areas.count)
        most = ioas->areas.count;
    place = vfu_areas_reaching(&ioas->areas, iova);
    listed = malloc((most + 1) * sizeof(*listed));
    for (; listed && i < most; i++, place = vfu_areas_next(&ioas->areas, place)) {
        vfu_area *a = &listed[i].area;
        listed[i] = (Listed){0};
        if (!vfu_areas_at(&ioas->areas, place, a))
            break;
        if (a->use) {
            listed[i].source = a->use->source->id;
            listed[i].access = a->use->trust == VFU_REFUSED ? VFU_ACCESS_MESSAGES : (int)a->use->source->access;
        }
    }
    pthread_rwlock_unlock(&ioas->lock);
    *count = i;
    return listed;
}

static PyObject *ioas_areas(IoasObject *self, PyObject *args)
{
    Py_ssize_t most = PY_SSIZE_T_MAX;
    unsigned long long iova = 0;
    PyObject *list;
    Listed *listed;
    size_t count;

    if (!PyArg_ParseTuple(args, "|Kn:areas", &iova, &most))
        return NULL;
    list = PyList_New(0);
    listed = list ? list_areas(&self->ioas, iova, most < 0 ? 0 : (size_t)most, &count) : NULL;
    if (list && !listed) {
        Py_CLEAR(list);
        PyErr_NoMemory();
    }
    for (size_t i = 0; list && i < count; i++) {
        const Listed *l = &listed[i];
        PyObject *item = Py_BuildValue("KKIiKK", l->area.iova, l->area.size, l->area.prot, l->access, l->source,
                                       l->area.offset);
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    free(listed);
    return list;
}

/* -- addresses ------------------------------------------------------------------------------------------------------ */

vfu_span *take_spans(PyObject *object, size_t *count)
{
    PyObject *list = PySequence_Tuple(object);
    vfu_span *span = NULL;

    if (!list)
        return NULL;
    *count = (size_t)PyTuple_GET_SIZE(list);
    span = PyMem_New(vfu_span, *count + 1);
    if (!span)
        PyErr_NoMemory();
    for (size_t i = 0; span && i < *count; i++) {
        PyObject *item = PyTuple_GET_ITEM(list, (Py_ssize_t)i);
        unsigned long long first, last;
        if (!PyTuple_Check(item))
            PyErr_Format(PyExc_TypeError, "a span is (first, last), not %R", item);
        if (PyErr_Occurred() || !PyArg_ParseTuple(item, "KK;a span is (first, last)", &first, &last)) {
            PyMem_Free(span);
            span = NULL;
            break;
        }
        span[i] = (vfu_span){first, last};
    }
    Py_DECREF(list);
    return span;
}

static PyObject *set_spans(IoasObject *self, PyObject *object, int (*set)(vfu_ioas *, const vfu_span *, size_t),
                           const char *what)
{
    size_t count;
    vfu_span *span = take_spans(object, &count);
    int error;

    if (!span)
        return NULL;
    error = set(&self->ioas, span, count);
    PyMem_Free(span);
    if (error)
        return raise_errno(CommandError, -error, "cannot %s %zu ranges of IOVAs", what, count);
    Py_RETURN_NONE;
}

static PyObject *ioas_allow(IoasObject *self, PyObject *spans)
{
    return set_spans(self, spans, vfu_ioas_allow, "allow");
}

static PyObject *ioas_reserve(IoasObject *self, PyObject *spans)
{
    return set_spans(self, spans, vfu_ioas_reserve, "reserve");
}

/* -- files ---------------------------------------------------------------------------------------------------------- */

static PyObject *ioas_trust(IoasObject *self, PyObject *args)
{
    unsigned long long source;
    unsigned int trust;
    int error;

    if (!PyArg_ParseTuple(args, "KI:trust", &source, &trust))
        return NULL;
    error = trust > VFU_REFUSED ? -EINVAL : vfu_ioas_trust(&self->ioas, source, trust);
    if (error)
        return raise_errno(CommandError, -error, "source %llu has no area here, or %u is no trust", source, trust);
    Py_RETURN_NONE;
}

static PyObject *ioas_files(IoasObject *self, PyObject *args)
{
    Py_ssize_t most = PY_SSIZE_T_MAX;
    PyObject *list;

    if (!PyArg_ParseTuple(args, "|n:files", &most))
        return NULL;
    list = PyList_New(0);
    for (Py_ssize_t i = 0;; i++) { /* one at a time, as list_areas says why */
        unsigned long long id = 0;
        vfu_use use = {0};
        pthread_rwlock_rdlock(&self->ioas.lock);
        bool more = i < most && (size_t)i < self->ioas.uses;
        if (more) {
            use = *self->ioas.use[i];
            id = use.source->id;
        }
        pthread_rwlock_unlock(&self->ioas.lock);
        if (!list || !more)
            return list;
        PyObject *item = Py_BuildValue("KnI", id, (Py_ssize_t)use.areas, (unsigned)use.trust);
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
}

/* -- the log of writes ---------------------------------------------------------------------------------------------- */

static PyObject *ioas_log(IoasObject *self, PyObject *spans)
{
    return set_spans(self, spans, vfu_ioas_log, "log writes to");
}

static PyObject *ioas_log_stop(IoasObject *self, PyObject *unused)
{
    int error = vfu_ioas_log_stop(&self->ioas);

    (void)unused;
    return error ? raise_errno(CommandError, -error, "writes are not logged") : Py_NewRef(Py_None);
}

static PyObject *ioas_report(IoasObject *self, PyObject *args)
{
    unsigned long long iova, pages;
    unsigned int shift;
    PyObject *bitmap;
    int error;

    if (!PyArg_ParseTuple(args, "KKI:report", &iova, &pages, &shift))
        return NULL;
    if (shift < VFU_PAGE_SHIFT || shift > 63 || pages > (UINT64_MAX >> shift) + (iova == 0) ||
        (pages && vfu_last(iova, pages << shift) < iova))
        return raise_errno(CommandError, EINVAL, "%llu pages of 1 << %u bytes at %#llx", pages, shift, iova);
    bitmap = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)((pages + 63) / 64 * 8));
    if (!bitmap)
        return NULL;
    memset(PyByteArray_AS_STRING(bitmap), 0, (size_t)PyByteArray_GET_SIZE(bitmap));
    error = vfu_ioas_report(&self->ioas, iova, pages, shift, (uint8_t *)PyByteArray_AS_STRING(bitmap));
    if (!error)
        return bitmap;
    Py_DECREF(bitmap);
    return raise_errno(CommandError, -error, error == -ENOENT ? "writes are not logged" : "%#llx is inside a page", iova);
}

/* -- views ---------------------------------------------------------------------------------------------------------- */

static PyObject *views_in(IoasObject *self, PyObject *args, size_t (*count)(vfu_ioas *, uint64_t, uint64_t))
{
    unsigned long long iova, last;

    if (!PyArg_ParseTuple(args, "KK", &iova, &last))
        return NULL;
    return PyLong_FromSize_t(count(&self->ioas, iova, last));
}

static PyObject *ioas_pinned(IoasObject *self, PyObject *args)
{
    return views_in(self, args, vfu_pins_in);
}

static PyObject *ioas_revoke(IoasObject *self, PyObject *args)
{
    return views_in(self, args, vfu_pins_revoke);
}

/* -- the type ------------------------------------------------------------------------------------------------------- */

static PyObject *get_count(IoasObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromSize_t(self->ioas.areas.count);
}

static PyObject *get_bytes(IoasObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromUnsignedLongLong(self->ioas.bytes);
}

static PyObject *get_pins(IoasObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromSize_t(self->ioas.pinned);
}

static PyObject *get_logging(IoasObject *self, void *closure)
{
    (void)closure;
    return PyBool_FromLong(self->ioas.dirty != NULL);
}

static PyObject *get_unreported(IoasObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromUnsignedLongLong(self->ioas.unreported);
}

static PyObject *get_new_files(IoasObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromLong(self->ioas.new_files);
}

static int set_new_files(IoasObject *self, PyObject *value, void *closure)
{
    long trust = value ? PyLong_AsLong(value) : -1;

    (void)closure;
    if (trust < VFU_TRUSTED || trust > VFU_REFUSED) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "must be TRUSTED, UNPROVEN or REFUSED");
        return -1;
    }
    self->ioas.new_files = (enum vfu_trust)trust;
    return 0;
}

#define ACCESS(name, doc) {#name, (PyCFunction)ioas_##name, METH_VARARGS, doc},

static PyMethodDef methods[] = {
    {"map", (PyCFunction)(void (*)(void))ioas_map, METH_VARARGS | METH_KEYWORDS,
     "map(iova, size, prot, fd=-1, offset=0, ways=ACCESS_MAPPED): adds an area."},
    {"map_foreign", (PyCFunction)ioas_map_foreign, METH_VARARGS,
     "map_foreign(iova, size, prot, address): adds an area over memory that somebody else has mapped."},
    {"hole", (PyCFunction)ioas_hole, METH_VARARGS, "hole(size, alignment=4096): the lowest free IOVA."},
    {"share", (PyCFunction)ioas_share, METH_VARARGS, "share(iova, size, other, other_iova, prot)"},
    {"unmap", (PyCFunction)ioas_unmap, METH_VARARGS, "unmap(iova, size): removes every area wholly inside."},
    {"clear", (PyCFunction)ioas_clear, METH_NOARGS, "Removes every area and view; how many areas there were."},
    {"drain", (PyCFunction)ioas_drain, METH_NOARGS, "Waits until accesses under way are through."},
    {"areas", (PyCFunction)ioas_areas, METH_VARARGS, "areas(iova=0, most=all) -> areas in order"},
    {"allow", (PyCFunction)ioas_allow, METH_O, "allow(spans): the IOVAs that may be mapped."},
    {"reserve", (PyCFunction)ioas_reserve, METH_O, "reserve(spans): IOVAs that must not be mapped."},
    {"trust", (PyCFunction)ioas_trust, METH_VARARGS, "trust(source, trust): what is known about a file."},
    {"files", (PyCFunction)ioas_files, METH_VARARGS, "files(most=all): (source, areas, trust) of files in use."},
    {"log", (PyCFunction)ioas_log, METH_O, "log(spans): from now on writes are logged."},
    {"log_stop", (PyCFunction)ioas_log_stop, METH_NOARGS, "No more."},
    {"report", (PyCFunction)ioas_report, METH_VARARGS, "report(iova, pages, shift) -> bitmap"},
    {"carry", (PyCFunction)ioas_carry, METH_NOARGS, "carry() -> (areas, files)"},
    {"adopt", (PyCFunction)ioas_adopt, METH_VARARGS, "adopt(areas, files): what carry() gave."},
    {"carry_log", (PyCFunction)ioas_carry_log, METH_NOARGS, "carry_log() -> (spans, runs, unreported), or None"},
    {"adopt_log", (PyCFunction)ioas_adopt_log, METH_VARARGS, "adopt_log(spans, runs, unreported)"},
    {"pinned", (PyCFunction)ioas_pinned, METH_VARARGS, "pinned(iova, last): how many views touch it."},
    {"revoke", (PyCFunction)ioas_revoke, METH_VARARGS, "revoke(iova, last): ends the views that touch it."},
    IOAS_ACCESSES(ACCESS)
    {0},
};

static PyGetSetDef getset[] = {
    {"count", (getter)get_count, NULL, "areas", NULL},
    {"mapped", (getter)get_bytes, NULL, "bytes in all areas", NULL},
    {"pins", (getter)get_pins, NULL, "views", NULL},
    {"logging", (getter)get_logging, NULL, "whether writes are logged", NULL},
    {"unreported", (getter)get_unreported, NULL, "dirty pages that were unmapped before a report", NULL},
    {"new_files", (getter)get_new_files, (setter)set_new_files, "what a file is when it is first seen", NULL},
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

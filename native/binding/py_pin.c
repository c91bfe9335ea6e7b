/* A view of pages of an address space. Its buffer may outlive the view's validity: it then shows zeros. */
#include "py_ioas.h"

#include <errno.h>

#include "../core/pin.h"

typedef struct {
    PyObject_HEAD
    IoasObject *space; /* alive while the view is on its list */
    vfu_pin *pin;
} PinObject;

static int pin_init(PinObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"ioas", "iova", "length", "prot", NULL};
    unsigned long long iova, length;
    unsigned int prot;
    IoasObject *space;
    int error;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O&O&I:Pin", names, &IoasType, &space, take_u64, &iova,
                                     take_u64, &length, &prot))
        return -1;
    if (self->pin) {
        PyErr_SetString(LocalError, "a view is initialised once");
        return -1;
    }
    self->pin = vfu_pin_new(&space->ioas, iova, length, prot, &error);
    if (!self->pin) {
        dma_failed(error, iova, length, "cannot pin");
        return -1;
    }
    self->space = (IoasObject *)Py_NewRef(space);
    return 0;
}

static void pin_dealloc(PinObject *self)
{
    if (self->pin)
        vfu_pin_free(self->pin);
    Py_XDECREF(self->space);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static int pin_getbuffer(PinObject *self, Py_buffer *view, int flags)
{
    bool writable = self->pin && self->pin->prot & VFU_PROT_WRITE;

    if (!self->pin) {
        PyErr_SetString(LocalError, "this view was never made");
        view->obj = NULL;
        return -1;
    }
    return PyBuffer_FillInfo(view, (PyObject *)self, self->pin->view, (Py_ssize_t)self->pin->length, !writable, flags);
}

static PyObject *pin_revoke(PinObject *self, PyObject *unused)
{
    (void)unused;
    if (self->pin)
        vfu_pin_revoke(self->pin);
    Py_RETURN_NONE;
}

static PyObject *get_valid(PinObject *self, void *closure)
{
    (void)closure;
    return PyBool_FromLong(self->pin && vfu_pin_valid(self->pin));
}

static PyObject *get_faulted(PinObject *self, void *closure)
{
    (void)closure;
    return PyBool_FromLong(self->pin && vfu_guard_hit(self->pin->guard));
}

static PyMethodDef methods[] = {
    {"revoke", (PyCFunction)pin_revoke, METH_NOARGS, "Puts zeros in place of the pages. Idempotent."},
    {0},
};

static PyGetSetDef getset[] = {
    {"valid", (getter)get_valid, NULL, "false once it was revoked or has faulted", NULL},
    {"faulted", (getter)get_faulted, NULL, "true once a touch met a page that is gone", NULL},
    {0},
};

static PyBufferProcs buffer = {.bf_getbuffer = (getbufferproc)pin_getbuffer};

PyTypeObject PinType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vfuserver._core.Pin",
    .tp_doc = "A view of pages of an address space.",
    .tp_basicsize = sizeof(PinObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)pin_init,
    .tp_dealloc = (destructor)pin_dealloc,
    .tp_methods = methods,
    .tp_getset = getset,
    .tp_as_buffer = &buffer,
};

/* The payload of a message where it was received: whoever has a view of it keeps that memory, else it is received into
 * again. */
#include "py_stream.h"

#include <stdlib.h>

typedef struct {
    PyObject_HEAD
    const uint8_t *bytes; /* NULL: nobody had a view when it was done with */
    Py_ssize_t length, views;
    uint8_t *memory; /* its own, once it was kept */
} BodyObject;

static int body_get(BodyObject *self, Py_buffer *view, int flags)
{
    if (!self->bytes) {
        PyErr_SetString(PyExc_BufferError, "the message is done with");
        return -1;
    }
    if (PyBuffer_FillInfo(view, (PyObject *)self, (void *)self->bytes, self->length, 1, flags) < 0)
        return -1;
    self->views++;
    return 0;
}

static void body_release(BodyObject *self, Py_buffer *view)
{
    (void)view;
    self->views--;
}

static void body_dealloc(BodyObject *self)
{
    free(self->memory);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyBufferProcs as_buffer = {.bf_getbuffer = (getbufferproc)body_get,
                                  .bf_releasebuffer = (releasebufferproc)body_release};

PyTypeObject BodyType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vfuserver._core.Body",
    .tp_doc = "The payload of a message, where it was received.",
    .tp_basicsize = sizeof(BodyObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)body_dealloc,
    .tp_as_buffer = &as_buffer,
};

PyObject *body_of(const uint8_t *bytes, size_t length)
{
    BodyObject *self = PyObject_New(BodyObject, &BodyType);

    if (!self)
        return NULL;
    self->bytes = bytes;
    self->length = (Py_ssize_t)length;
    self->views = 0;
    self->memory = NULL;
    return (PyObject *)self;
}

void done_with_body(vfu_stream *stream, PyObject *object)
{
    BodyObject *self = (BodyObject *)object;

    if (self->views)
        self->memory = vfu_stream_keep_payload(stream);
    else
        self->bytes = NULL;
    Py_DECREF(object);
}

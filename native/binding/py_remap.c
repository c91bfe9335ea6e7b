/* Memory that becomes a file's, for whoever takes over a device with its BARs. */
#include "binding.h"

#include <errno.h>

#include "../core/remap.h"

/* Mistakes of the caller; any other errno is the system's. */
static const struct {
    int error;
    const char *text;
} mistakes[] = {
    {-ERANGE, "the memory must be whole pages, not %zd bytes at %p"},
    {-EFBIG, "the file must be as long as the memory, %zd bytes at %p"},
    {-EBUSY, "memory that shows a client's file must stay, %zd bytes at %p"},
};

static void fail(int error, const Py_buffer *buffer)
{
    for (size_t i = 0; i < sizeof(mistakes) / sizeof(*mistakes); i++)
        if (mistakes[i].error == error) {
            PyErr_Format(PyExc_ValueError, mistakes[i].text, buffer->len, buffer->buf);
            return;
        }
    errno = -error;
    PyErr_SetFromErrno(PyExc_OSError);
}

PyObject *core_remap(PyObject *module, PyObject *args)
{
    Py_buffer buffer;
    PyObject *object;
    int fd, error;

    (void)module;
    if (!PyArg_ParseTuple(args, "Oi:remap", &object, &fd) || PyObject_GetBuffer(object, &buffer, PyBUF_WRITABLE) < 0)
        return NULL;
    error = vfu_remap(buffer.buf, (size_t)buffer.len, fd);
    if (error)
        fail(error, &buffer);
    PyBuffer_Release(&buffer);
    return error ? NULL : Py_NewRef(Py_None);
}

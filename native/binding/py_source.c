/* The page sources of the process as data, for whoever looks at a server. */
#include "py_ioas.h"

#include <stdlib.h>

typedef struct {
    vfu_source *copy;
    size_t count, room, most;
} Listing;

/* The registry's lock is held: nothing of Python may run. */
static bool add_copy(void *argument, const vfu_source *source)
{
    Listing *l = argument;

    if (l->count == l->most)
        return false;
    if (l->count == l->room) {
        size_t room = l->room ? 2 * l->room : 16;
        vfu_source *copy = realloc(l->copy, room * sizeof(*copy));
        if (!copy)
            return false;
        l->copy = copy;
        l->room = room;
    }
    memcpy(&l->copy[l->count++], source, sizeof(*source));
    return true;
}

static PyObject *describe(const vfu_source *s)
{
    return Py_BuildValue("{sKsKsKsIsisKsnsO}", "id", (unsigned long long)s->id, "device", (unsigned long long)s->device,
                         "inode", (unsigned long long)s->inode, "prot", s->prot, "access", (int)s->access, "bytes",
                         (unsigned long long)s->length, "users", (Py_ssize_t)s->users, "dead",
                         s->dead ? Py_True : Py_False);
}

PyObject *core_sources(PyObject *module, PyObject *args)
{
    Py_ssize_t most = PY_SSIZE_T_MAX;
    Listing l = {0};
    PyObject *list;

    (void)module;
    if (!PyArg_ParseTuple(args, "|n:sources", &most))
        return NULL;
    list = PyList_New(0);
    l.most = most < 0 ? 0 : (size_t)most;
    vfu_sources(add_copy, &l);
    for (size_t i = 0; list && i < l.count; i++) {
        PyObject *item = describe(&l.copy[i]);
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    free(l.copy);
    return list;
}

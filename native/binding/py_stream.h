/* What the two halves of the stream's binding share. */
#ifndef VFU_PY_STREAM_H
#define VFU_PY_STREAM_H

#include "binding.h"

extern const vfu_stream_ops stream_ops;

/* The raised exception as an answer: a CommandError's errno; a PeerError breaks the stream; else EIO and the log. */
int stream_failed(StreamObject *stream);
int stream_failed_at(StreamObject *stream, int region, uint64_t offset); /* the log names the access */

/* A message as Python gives it: buffers one after another. What is large is lent, and goes back by stream_ops.repaid;
 * release_parts is for the others. Stays where it is: it may point into itself. */
typedef struct {
    vfu_payload_part *part, single;
    Py_buffer *buffer, its_buffer;
    size_t parts;
} Parts;

/* `object` is a buffer, or a list of them; nothing is lent unless `may_lend`. -1: an exception, and nothing is held. */
int parts_from(PyObject *object, bool may_lend, Parts *parts);
void release_parts(Parts *parts);

/* A reply as Python gives it: None, bytes or a view, a list of buffers, or (bytes, fds). */
typedef struct {
    Parts payload;
    int fds[VFU_MAX_FDS];
    size_t count;
} Answer;

/* 1: it is a reply, release its payload; 0: something else; -1: an exception. */
int parse_answer(PyObject *result, Answer *answer);
/* Duplicates the descriptors of a message; how many, or -1 with an exception and nothing kept. */
Py_ssize_t duplicate_fds(PyObject *sequence, int *fds);
/* Bytes that a message was received into. When the message is done with, views of them may still be there. */
PyObject *body_of(const uint8_t *bytes, size_t length);
void done_with_body(vfu_stream *stream, PyObject *body);
extern PyTypeObject BodyType;
PyObject *fd_list(const int *fds, size_t count);
PyObject *stream_use(StreamObject *stream, PyObject *ledger);

/* A stream that another process goes on with. */
PyObject *stream_carry(StreamObject *stream, PyObject *unused);
PyObject *stream_adopt(StreamObject *stream, PyObject *args);
PyObject *stream_serve(StreamObject *stream, PyObject *unused);

#endif

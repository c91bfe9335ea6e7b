#include "copy.h"

#include <string.h>

#if defined(__SSE2__)

#include <emmintrin.h>

enum { LINE = 64, PART = 16 };

/* Whole lines, to a place that begins a line. */
static void copy_lines(uint8_t *into, const uint8_t *bytes, size_t length)
{
    for (size_t at = 0; at < length; at += LINE)
#pragma GCC unroll 4
        for (size_t part = at; part < at + LINE; part += PART)
            _mm_stream_si128((__m128i *)(into + part), _mm_loadu_si128((const __m128i *)(bytes + part)));
    _mm_sfence();
}

void vfu_copy_far(uint8_t *into, const uint8_t *bytes, size_t length)
{
    size_t before = -(uintptr_t)into % LINE, lines;

    if (before > length)
        before = length;
    lines = (length - before) / LINE * LINE;
    memcpy(into, bytes, before);
    copy_lines(into + before, bytes + before, lines);
    memcpy(into + before + lines, bytes + before + lines, length - before - lines);
}

#else

void vfu_copy_far(uint8_t *into, const uint8_t *bytes, size_t length)
{
    memcpy(into, bytes, length);
}

#endif

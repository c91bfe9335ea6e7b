#include "crc.h"

#include <pthread.h>
#include <string.h>

/* Everywhere below `crc` is the register as it is between bytes: zlib shows its complement. */

/* -- by tables ------------------------------------------------------------------------------------------------------ */

#define POLYNOMIAL 0xedb88320u

enum { SLICES = 8, PIECE = 16384 };

static uint32_t table[SLICES][256]; /* [n][byte]: what a byte gives with n zero bytes behind it */

static void make_tables(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ POLYNOMIAL : crc >> 1;
        table[0][byte] = crc;
    }
    for (int n = 1; n < SLICES; n++)
        for (int byte = 0; byte < 256; byte++)
            table[n][byte] = table[n - 1][byte] >> 8 ^ table[0][table[n - 1][byte] & 0xff];
}

static uint32_t slice(uint32_t crc, const uint8_t *b)
{
    crc ^= (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
    return table[7][crc & 0xff] ^ table[6][crc >> 8 & 0xff] ^ table[5][crc >> 16 & 0xff] ^ table[4][crc >> 24] ^
           table[3][b[4]] ^ table[2][b[5]] ^ table[1][b[6]] ^ table[0][b[7]];
}

static uint32_t by_tables(uint32_t crc, const uint8_t *bytes, size_t length)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, make_tables);
    for (; length >= SLICES; bytes += SLICES, length -= SLICES)
        crc = slice(crc, bytes);
    while (length--)
        crc = crc >> 8 ^ table[0][(crc ^ *bytes++) & 0xff];
    return crc;
}

static uint32_t copy_by_tables(uint32_t crc, uint8_t *into, const uint8_t *bytes, size_t length)
{
    if (!into)
        return by_tables(crc, bytes, length);
    while (length) {
        size_t piece = length < PIECE ? length : PIECE;
        memcpy(into, bytes, piece);
        crc = by_tables(crc, into, piece);
        into += piece;
        bytes += piece;
        length -= piece;
    }
    return crc;
}

/* -- by folding ----------------------------------------------------------------------------------------------------- */

#if defined(__x86_64__) && defined(__GNUC__) && !defined(VFU_NO_FOLDING)

#include <immintrin.h>

/* V. Gopal and others, "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction" (Intel, 2009). Bytes
 * are a polynomial; 128 bits of it that lie n bits before others are moved onto them when their halves are multiplied
 * by x^(n+32) and x^(n-32) modulo the CRC's polynomial. Factors are bit-reflected, as the CRC is. What is left in the
 * end are bytes that have the same CRC, from a register of 0 on. */

#define NARROW __attribute__((target("pclmul,sse4.1")))
#define WIDE __attribute__((target("vpclmulqdq,avx2")))
#define INLINE static inline __attribute__((always_inline))

enum { LANES = 8, LANE = 16, BLOCK = LANES * LANE, WIDE_LANE = 32, WIDE_BLOCK = LANES * WIDE_LANE };

#define AHEAD_128 _mm_set_epi64x(0x0ccaa009e, 0x1751997d0) /* n = 128 */
#define AHEAD_1024 _mm_set_epi64x(0x14a7fe880, 0x1e88ef372)
#define AHEAD_2048 _mm_set_epi64x(0x1322d1430, 0x11542778a)

NARROW INLINE __m128i fold(__m128i lane, __m128i factors, __m128i onto)
{
    __m128i low = _mm_clmulepi64_si128(lane, factors, 0x00), high = _mm_clmulepi64_si128(lane, factors, 0x11);

    return _mm_xor_si128(_mm_xor_si128(low, high), onto);
}

/* The lane at `bytes`, copied to the same place of `into`. */
NARROW INLINE __m128i lane_at(uint8_t *into, const uint8_t *bytes, size_t at)
{
    __m128i lane = _mm_loadu_si128((const __m128i *)(bytes + at));

    if (into)
        _mm_storeu_si128((__m128i *)(into + at), lane);
    return lane;
}

/* `length` is whole blocks, at least one. */
NARROW INLINE uint32_t narrow(uint32_t crc, uint8_t *into, const uint8_t *bytes, size_t length)
{
    __m128i lane[LANES], block = AHEAD_1024, next = AHEAD_128;
    uint8_t left[LANE];

    for (int i = 0; i < LANES; i++)
        lane[i] = lane_at(into, bytes, (size_t)i * LANE);
    lane[0] = _mm_xor_si128(lane[0], _mm_cvtsi32_si128((int)crc));
    for (size_t at = BLOCK; at < length; at += BLOCK)
#pragma GCC unroll 8
        for (int i = 0; i < LANES; i++)
            lane[i] = fold(lane[i], block, lane_at(into, bytes, at + (size_t)i * LANE));
    for (int i = 1; i < LANES; i++)
        lane[0] = fold(lane[0], next, lane[i]);
    _mm_storeu_si128((__m128i *)left, lane[0]);
    return by_tables(0, left, LANE);
}

NARROW static uint32_t by_narrow(uint32_t crc, uint8_t *into, const uint8_t *bytes, size_t length)
{
    return into ? narrow(crc, into, bytes, length) : narrow(crc, NULL, bytes, length);
}

WIDE INLINE __m256i wide_fold(__m256i lane, __m256i factors, __m256i onto)
{
    __m256i low = _mm256_clmulepi64_epi128(lane, factors, 0x00), high = _mm256_clmulepi64_epi128(lane, factors, 0x11);

    return _mm256_xor_si256(_mm256_xor_si256(low, high), onto);
}

WIDE INLINE __m256i wide_lane_at(uint8_t *into, const uint8_t *bytes, size_t at)
{
    __m256i lane = _mm256_loadu_si256((const __m256i *)(bytes + at));

    if (into)
        _mm256_storeu_si256((__m256i *)(into + at), lane);
    return lane;
}

/* `length` is whole wide blocks, at least one. */
WIDE INLINE uint32_t wide(uint32_t crc, uint8_t *into, const uint8_t *bytes, size_t length)
{
    __m256i lane[LANES], block = _mm256_broadcastsi128_si256(AHEAD_2048);
    uint8_t left[WIDE_BLOCK];

    for (int i = 0; i < LANES; i++)
        lane[i] = wide_lane_at(into, bytes, (size_t)i * WIDE_LANE);
    lane[0] = _mm256_xor_si256(lane[0], _mm256_set_epi64x(0, 0, 0, (long long)crc));
    for (size_t at = WIDE_BLOCK; at < length; at += WIDE_BLOCK)
#pragma GCC unroll 8
        for (int i = 0; i < LANES; i++)
            lane[i] = wide_fold(lane[i], block, wide_lane_at(into, bytes, at + (size_t)i * WIDE_LANE));
    for (int i = 0; i < LANES; i++)
        _mm256_storeu_si256((__m256i *)(left + (size_t)i * WIDE_LANE), lane[i]);
    return by_narrow(0, NULL, left, WIDE_BLOCK);
}

WIDE static uint32_t by_wide(uint32_t crc, uint8_t *into, const uint8_t *bytes, size_t length)
{
    return into ? wide(crc, into, bytes, length) : wide(crc, NULL, bytes, length);
}

static size_t worth_narrow(size_t length)
{
    return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1") ? length / BLOCK * BLOCK : 0;
}

static size_t worth_wide(size_t length)
{
    return worth_narrow(length) && __builtin_cpu_supports("vpclmulqdq") && __builtin_cpu_supports("avx2")
               ? length / WIDE_BLOCK * WIDE_BLOCK
               : 0;
}

#else

#define worth_narrow(length) 0
#define worth_wide(length) 0
#define by_narrow copy_by_tables
#define by_wide copy_by_tables

#endif

typedef uint32_t Way(uint32_t crc, uint8_t *into, const uint8_t *bytes, size_t length);

static size_t go(Way *way, uint32_t *crc, uint8_t **into, const uint8_t **bytes, size_t length)
{
    if (!length)
        return 0;
    *crc = way(*crc, *into, *bytes, length);
    *bytes += length;
    if (*into)
        *into += length;
    return length;
}

uint32_t vfu_crc32(uint32_t crc, uint8_t *into, const uint8_t *bytes, size_t length)
{
    crc = ~crc;
    length -= go(by_wide, &crc, &into, &bytes, worth_wide(length));
    length -= go(by_narrow, &crc, &into, &bytes, worth_narrow(length));
    go(copy_by_tables, &crc, &into, &bytes, length);
    return ~crc;
}

/* What the threads of the stress test share. */
#ifndef STRESS_H
#define STRESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

extern atomic_bool stop;

/* One line on stderr, and the end, unless `good`. */
void must(bool good, const char *what, long got);

/* A space of its own, whose gate a thread opens and closes while devices write to it (S2.33). */
void gated_set_up(void);
void gated_write(uint64_t dice);
void *gatekeeper(void *unused);
/* Frees it; how often it was closed. */
unsigned long long gated_end(void);

#endif

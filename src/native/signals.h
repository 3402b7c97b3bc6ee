/* Signal sets as 64-bit words (bit n-1 is signal n), and signals as bytes in a pipe. */
#ifndef CODEX_SIGNALS_H
#define CODEX_SIGNALS_H

#include <stdbool.h>
#include <stdint.h>

#define SIGNALS_ALL UINT64_MAX
#define SIGNAL_BIT(number) (UINT64_C(1) << ((number) - 1))

/* Sets the mask of blocked signals and returns the one before. */
uint64_t signals_block(uint64_t mask);

/* Every disposition becomes the default one, or "ignore" for those in the set. From the first call on, all others are only
 * to be changed by the functions here. */
void signals_reset(uint64_t ignored);
/* The same in a child that is about to exec, and may live in its parent's memory: there nothing is noted. */
void signals_hand_on(uint64_t ignored);
void signals_ignore(int number);

/* A caught signal in the pipe. `from_kernel`: sent by the terminal or the kernel, not by kill(2). */
struct caught {
    uint8_t number;
    uint8_t from_kernel;
};

/* Of the set: what was ignored before, and what cannot be caught. */
struct relayed {
    uint64_t ignored, hidden;
};

/* Has the signals of the set written to the pipe, which must not block, as struct caught. */
struct relayed signals_relay(uint64_t which, int pipe);

/* For those that signals_relay cannot catch because the C library keeps them for itself (musl: 32 to 34, and 34 is what
 * kill(1) calls RTMIN). As long as the set stays blocked they can be read from the descriptor. -1 and an empty set if there
 * are none. */
int signals_hidden(uint64_t *set);
/* What signals_hidden says of the next one. False if there is none. */
bool signals_next_hidden(int descriptor, struct caught *caught);

/* Dies of this signal, without a core file of ours. Returns if the signal does not kill. */
void die_of(int number);

/* Stops like this signal stops, unless a relayed SIGCONT has come since stop_begins; returns when continued. */
void stop_begins(void);
void stop_like(int number);

#endif

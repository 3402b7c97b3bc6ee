/* Numbers that a directory lists: open descriptors, processes. */
#ifndef CODEX_INVENTORY_H
#define CODEX_INVENTORY_H

#include <stdbool.h>
#include <stddef.h>

/* Calls `each` for every open descriptor but those used here; in no order. `each` may close what it is called with.
 * Reads the kernel's list, or, where there is none, tries every number up to a cap. */
void each_descriptor(void (*each)(int number, void *context), void *context);

/* The same but perhaps for those that only name a file (O_PATH), and faster. */
void each_usable_descriptor(void (*each)(int number, void *context), void *context);

/* The numeric names in a directory that is open for reading, but for one. Linux only. */
bool each_number(int directory, int left_out, void (*each)(int number, void *context), void *context);

#endif

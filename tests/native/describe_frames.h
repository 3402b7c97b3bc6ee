/* What the decoder of src/native/frames.c makes of any bytes, as text: for tests and fuzzing, in one process or another.
 *
 * One line for each frame: its name and its fields as NAME=VALUE; bytes other than letters, digits and _./=:- as %XX;
 * lists separated by commas and closed by ";". Each is then encoded anew and compared with what came. The last line is
 * "state STATE", or "error: ..." for what is no frame.
 */
#ifndef CODEX_DESCRIBE_FRAMES_H
#define CODEX_DESCRIBE_FRAMES_H

#include "frames.h"

/* The error that only a fault of the codec gives. */
#define ENCODED_DIFFERENTLY "the frame is encoded differently"

/* Who reads, and in which state of the session. */
struct place {
    enum reader reader;
    enum session_state state;
};

/* READER or READER:STATE, as decode_frames.c says; false if there is no such place. */
bool find_place(const char *name, struct place *place);

/* Feeds `size` bytes, `chunk` (at least 1) at a time; false if an error ended it. Not for threads. */
bool describe(const uint8_t *input, size_t size, size_t chunk, struct place place);

/* The text of the last describe, until the next one; no NUL at its end. */
const char *description(size_t *size);

#endif

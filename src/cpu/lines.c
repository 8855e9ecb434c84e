#include "cpu/lines.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

bool mfai_lines_open(mfai_lines_t *lines, const char *path) {
    lines->begin = lines->end = 0;
    lines->file = open(path, O_RDONLY | O_CLOEXEC);
    return lines->file >= 0;
}

void mfai_lines_close(const mfai_lines_t *lines) { close(lines->file); }

/* Moves what is left to the front and reads more behind it, leaving room for a NUL; false at the end. */
static bool fill(mfai_lines_t *lines) {
    memmove(lines->buffer, lines->buffer + lines->begin, lines->end - lines->begin);
    lines->end -= lines->begin;
    lines->begin = 0;
    ssize_t count;
    do
        count = read(lines->file, lines->buffer + lines->end, sizeof lines->buffer - 1 - lines->end);
    while (count < 0 && errno == EINTR);
    if (count <= 0)
        return false;
    lines->end += (size_t)count;
    return true;
}

char *mfai_lines_next(mfai_lines_t *lines) {
    bool too_long = false;
    for (;;) {
        char *line = lines->buffer + lines->begin;
        char *newline = memchr(line, '\n', lines->end - lines->begin);
        if (newline == NULL && lines->end - lines->begin == sizeof lines->buffer - 1) {
            too_long = true;
            lines->begin = lines->end;
        }
        if (newline == NULL && fill(lines))
            continue;
        if (newline == NULL) { /* the last line may end without one */
            newline = lines->buffer + lines->end;
            line = lines->buffer + lines->begin;
            lines->begin = lines->end;
            if (line == newline || too_long)
                return NULL;
        } else {
            lines->begin = (size_t)(newline + 1 - lines->buffer);
        }
        if (!too_long) {
            *newline = '\0';
            return line;
        }
        too_long = false; /* that was the rest of it */
    }
}

/* Reads a text file line by line, without memory of the heap and with little of the stack. */
#ifndef MFA_CPU_LINES_H
#define MFA_CPU_LINES_H

#include <stdbool.h>
#include <stddef.h>

enum { MFAI_LINE_SIZE = 512 };

typedef struct {
    int file;
    size_t begin, end; /* of what is in the buffer and not handed out yet */
    char buffer[MFAI_LINE_SIZE];
} mfai_lines_t;

bool mfai_lines_open(mfai_lines_t *lines, const char *path);

/* The next line that fits the buffer, without its newline and valid until the next call; NULL at the end. */
char *mfai_lines_next(mfai_lines_t *lines);

void mfai_lines_close(const mfai_lines_t *lines);

#endif

/* The run-time part of blocks, by clang's "Block Implementation Specification". GNUstep's does not recognise the blocks
   of today's compilers and leaves them on the stack, and libBlocksRuntime does not retain the objects that a block
   captures; on Apple a copied block does. */
#import <Foundation/Foundation.h>

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <Block.h>

enum {
    REFERENCES = 0xffff,
    ON_HEAP = 1 << 24,
    HAS_HELPERS = 1 << 25,
    IS_GLOBAL = 1 << 28,
};

/* What a field of a block or of a __block variable is. */
enum {
    FIELD_OBJECT = 3,
    FIELD_BLOCK = 7,
    FIELD_VARIABLE = 8,
};

struct descriptor {
    unsigned long reserved, size;
    void (*copy)(void *to, const void *from);
    void (*dispose)(const void *block);
};

struct block {
    void *isa;
    atomic_int flags;
    int reserved;
    void (*invoke)(void);
    const struct descriptor *descriptor;
};

/* A __block variable; its value follows. */
struct variable {
    void *isa;
    struct variable *current; /* itself, or its copy on the heap */
    atomic_int flags;
    int size;
    void (*copy)(struct variable *to, struct variable *from);
    void (*dispose)(struct variable *variable);
};

/* Compilers put the address of one of these into each block. */
void *_NSConcreteStackBlock[32], *_NSConcreteMallocBlock[32], *_NSConcreteGlobalBlock[32];

void _Block_object_assign(void *field, const void *value, int kind);
void _Block_object_dispose(const void *value, int kind);

static void *heap_copy(const void *from, size_t size) {
    void *copy = malloc(size);
    if (!copy)
        abort(); /* the language leaves no way to report it */
    return memcpy(copy, from, size);
}

void *_Block_copy(const void *original) {
    struct block *block = (struct block *)original;
    if (!block || block->flags & IS_GLOBAL)
        return block;
    if (block->flags & ON_HEAP) {
        ++block->flags;
        return block;
    }
    struct block *copy = heap_copy(block, block->descriptor->size);
    copy->isa = _NSConcreteMallocBlock;
    copy->flags = (copy->flags & ~REFERENCES) | ON_HEAP | 1;
    if (copy->flags & HAS_HELPERS)
        copy->descriptor->copy(copy, block);
    return copy;
}

void _Block_release(const void *original) {
    struct block *block = (struct block *)original;
    if (!block || !(block->flags & ON_HEAP) || (--block->flags & REFERENCES) > 0)
        return;
    if (block->flags & HAS_HELPERS)
        block->descriptor->dispose(block);
    free(block);
}

static struct variable *copy_variable(struct variable *variable) {
    struct variable *current = variable->current;
    if (current->flags & ON_HEAP) {
        ++current->flags;
        return current;
    }
    struct variable *copy = heap_copy(current, (size_t)current->size);
    copy->flags = (copy->flags & ~REFERENCES) | ON_HEAP | 2; /* the block's, and the scope's that made it */
    copy->current = current->current = copy;
    if (copy->flags & HAS_HELPERS)
        copy->copy(copy, current);
    return copy;
}

static void release_variable(struct variable *variable) {
    struct variable *current = variable->current;
    if (!(current->flags & ON_HEAP) || (--current->flags & REFERENCES) > 0)
        return;
    if (current->flags & HAS_HELPERS)
        current->dispose(current);
    free(current);
}

void _Block_object_assign(void *field, const void *value, int kind) {
    const void *kept = value;
    if (kind == FIELD_OBJECT)
        kept = [(id)value retain];
    else if (kind == FIELD_BLOCK)
        kept = _Block_copy(value);
    else if (kind == FIELD_VARIABLE)
        kept = copy_variable((struct variable *)value);
    memcpy(field, &kept, sizeof kept);
}

void _Block_object_dispose(const void *value, int kind) {
    if (kind == FIELD_OBJECT)
        [(id)value release];
    else if (kind == FIELD_BLOCK)
        _Block_release(value);
    else if (kind == FIELD_VARIABLE)
        release_variable((struct variable *)value);
}

/* A hidden name, which no other library can take over. */
extern __typeof(_Block_copy) own_block_copy __attribute__((alias("_Block_copy"), visibility("hidden")));

__attribute__((constructor)) static void check_link_order(void) {
    if (dlsym(RTLD_DEFAULT, "_Block_copy") != (void *)own_block_copy) {
        fputs("libMetal has to be linked before gnustep-base and BlocksRuntime, whose blocks do not work\n", stderr);
        abort();
    }
}

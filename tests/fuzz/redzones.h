/* Test side: what sanitizers have to know of the workspace, whose redzones build.py puts in. */
#ifndef INSTAR_FUZZ_REDZONES_H
#define INSTAR_FUZZ_REDZONES_H

#include "amend/workspace.h"

#ifndef __has_feature
#define __has_feature(feature) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

#if __has_feature(memory_sanitizer)
#include <sanitizer/msan_interface.h>
#else
#define __msan_poison(address, size) ((void)(address), (void)(size))
#endif

#define POISON(zone) ASAN_POISON_MEMORY_REGION(zone, sizeof(zone))

/* No part of these runs into the next one. */
static inline void poison_image(struct qcow2_memory *image)
{
    POISON(image->redzone0);
    POISON(image->redzone1);
    POISON(image->redzone2);
    POISON(image->redzone3);
    POISON(image->redzone4);
    POISON(image->redzone5);
    POISON(image->redzone6);
    POISON(image->redzone7);
    POISON(image->redzone8);
}

static inline void poison_redzones(struct planner_workspace *workspace)
{
    struct books_memory *books = &workspace->books;
    poison_image(&workspace->image);
    POISON(books->redzone0);
    POISON(books->redzone1);
    POISON(books->redzone2);
    POISON(workspace->redzone0);
    POISON(workspace->redzone1);
    POISON(workspace->redzone2);
    POISON(workspace->redzone3);
    POISON(workspace->redzone4);
}

/* What earlier runs left behind is no better than what was never written. */
static inline void forget(void *memory, size_t size)
{
    __msan_poison(memory, size);
}

#endif

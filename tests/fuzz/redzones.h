/* Test side: what sanitizers have to know of the workspace, whose redzones build.py puts in. */
#ifndef INSTAR_FUZZ_REDZONES_H
#define INSTAR_FUZZ_REDZONES_H

#include "amend/planner.h"

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

/* No part of the workspace runs into the next one. */
static inline void poison_redzones(struct planner_workspace *workspace)
{
    ASAN_POISON_MEMORY_REGION(workspace->redzone0, sizeof(workspace->redzone0));
    ASAN_POISON_MEMORY_REGION(workspace->redzone1, sizeof(workspace->redzone1));
    ASAN_POISON_MEMORY_REGION(workspace->redzone2, sizeof(workspace->redzone2));
    ASAN_POISON_MEMORY_REGION(workspace->redzone3, sizeof(workspace->redzone3));
    ASAN_POISON_MEMORY_REGION(workspace->redzone4, sizeof(workspace->redzone4));
    ASAN_POISON_MEMORY_REGION(workspace->redzone5, sizeof(workspace->redzone5));
    ASAN_POISON_MEMORY_REGION(workspace->redzone6, sizeof(workspace->redzone6));
    ASAN_POISON_MEMORY_REGION(workspace->redzone7, sizeof(workspace->redzone7));
    ASAN_POISON_MEMORY_REGION(workspace->redzone8, sizeof(workspace->redzone8));
    ASAN_POISON_MEMORY_REGION(workspace->redzone9, sizeof(workspace->redzone9));
    ASAN_POISON_MEMORY_REGION(workspace->redzone10, sizeof(workspace->redzone10));
    ASAN_POISON_MEMORY_REGION(workspace->redzone11, sizeof(workspace->redzone11));
}

/* What earlier runs left behind is no better than what was never written. */
static inline void forget_workspace(struct planner_workspace *workspace)
{
    __msan_poison(workspace, sizeof(*workspace));
}

#endif

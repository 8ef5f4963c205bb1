/* Pure, either side: the memory of the planner. */
#ifndef INSTAR_WORKSPACE_H
#define INSTAR_WORKSPACE_H

#include <stdbool.h>
#include <stdint.h>

#include "amend/books.h"
#include "amend/expand.h"
#include "amend/recode.h"
#include "qcow2/image.h"

/* Need not be initialised. What each change of the header uses is first: a kept machine has it at hand. */
struct planner_workspace {
    union { /* the header is laid out when all tables have been changed */
        uint8_t new_header[HEADER_SIZE];
        struct io_sectors few;
    };
    struct qcow2_memory image;
    struct books_memory books;
    struct table_set zero_tables;
    union { /* never of one amend */
        union expansion_memory expansion;
        struct recode_memory recode;
    };
};

#endif

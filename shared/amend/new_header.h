/* Pure, either side: the bytes of the amended header, wherever its parts are to lie. */
#ifndef INSTAR_NEW_HEADER_H
#define INSTAR_NEW_HEADER_H

#include <stdbool.h>
#include <stdint.h>

#include "amend/target.h"
#include "qcow2/extensions.h"

/* The header as it will be. */
struct new_header {
    struct qcow2_image *image;
    const struct target *target;
    uint8_t *bytes;      /* HEADER_SIZE bytes of memory */
    bool atomic;         /* the switch to it is the write of one sector */
    uint32_t fields_end; /* where the extensions start if they move, else 0 */
};

/* A run of bytes in the header cluster. */
struct span {
    uint32_t start;
    uint32_t end;
};

/* An extension of the new header; `size` counts its header and padding too. */
struct piece {
    uint32_t type;
    uint32_t length;
    uint32_t size;
    const uint8_t *data;
};

/* A place in the extensions of the new header: new ones come first, then those that are carried. */
struct cursor {
    uint32_t fresh;
    uint32_t at; /* in the old header */
};

bool changes_version(const struct new_header *new);

/* Where the old header has the backing file name. */
struct span name_span(const struct qcow2_header *h);
/* Whether the name stays where it is; if the extensions end before it, they will end at `end`. */
bool name_stays(const struct new_header *new, uint32_t end);
/* Of the name as it will be, in bytes. */
uint32_t name_size(const struct new_header *new);

/* Whether an extension of the old header is one of the new header too. */
bool is_carried(const struct new_header *new, const struct extension *extension);
struct cursor first_piece(const struct new_header *new);
/* The extension at the cursor, which goes on to the next one. False: there is none. */
bool next_piece(const struct new_header *new, struct cursor *cursor, struct piece *piece);
/* Of all extensions of the new header, in bytes. */
uint32_t extensions_size(const struct new_header *new);

/* Start the new header: sector 0 with the target's fields and nothing after them, except for a name
 * that stays there; the rest as it is. */
void start_header(struct new_header *new, bool keep_name);
/* Put the target's fields, those that its version has. */
void put_fields(struct new_header *new);
/* Put the extensions from the cursor on at `to`, with clean padding, as long as they end before
 * `limit`; returns where the last one ends. */
uint32_t put_extensions(struct new_header *new, uint32_t to, struct cursor from, uint32_t limit);
/* An extension that covers [at, end) with whatever is there, for readers to skip. */
void put_filler(struct new_header *new, uint32_t at, uint32_t end);
/* Put what ends the extensions at `at`; returns where it ends itself. */
uint32_t put_end_marker(struct new_header *new, uint32_t at);
/* Put the backing file name, if there shall be one, at `at`; one that has to move has been read. */
void put_name(struct new_header *new, uint32_t at);

#endif

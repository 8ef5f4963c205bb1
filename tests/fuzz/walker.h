/* Test side: a second opinion on what a header cluster says and which of its bytes it needs. */
#ifndef INSTAR_FUZZ_WALKER_H
#define INSTAR_FUZZ_WALKER_H

#include "sparse.h"

#define HEADER_LIMIT 0x10000u
#define NAME_MAX_SIZE 1023u

struct view {
    uint8_t head[HEADER_LIMIT + 8]; /* the first `loaded` bytes of the image; behind it all is zero */
    uint32_t loaded;
    uint32_t version;
    uint64_t cluster_size;
    uint32_t header_length;
    uint64_t extensions_limit;
    uint64_t extensions_end; /* the end marker included, if there is one */
    bool has_name;
    uint32_t without[4]; /* set by who compares: extensions of these types do not count */
    uint64_t name_offset;
    uint32_t name_size;
    uint8_t name[NAME_MAX_SIZE];
};

/* Look at a header that a reader can open; ends the process if it is not one. */
void view_header(const struct sparse *image, struct view *view);

/* Whether both have the same name and, but for feature names, the same extensions in this order. */
bool same_name(const struct view *one, const struct view *other);
bool same_extensions(const struct view *one, const struct view *other);

bool has_bitmaps(const struct view *view);
/* Whether this is the text of a kind; of several the last one counts, up to a NUL. */
bool has_text(const struct view *view, uint32_t type, const uint8_t *bytes, uint32_t length);

/* The bytes that extensions other than feature names take, padding included. */
uint64_t carried_bytes(const struct view *view);

/* Whether the header refers to any byte of [offset, offset + length) that `data` would change. */
bool changes_referred(const struct sparse *image, const struct view *view, uint64_t offset,
                      uint32_t length, const uint8_t *data);

/* Whether a version 3 header could be reached from this version 2 header by one sector. */
bool fits_one_sector_switch(const struct view *view);

#endif

/* Pure, either side: what the planner's parts know of each other. */
#ifndef INSTAR_INTERNAL_H
#define INSTAR_INTERNAL_H

#include "planner.h"
#include "qcow2.h"

/* The header's fields, with those that version 2 lacks at the values the specification gives them. */
struct qcow2_header {
    uint32_t version;
    uint64_t backing_file_offset;
    uint32_t backing_file_size; /* 0 where there is no backing file, whatever the field says */
    uint32_t cluster_bits;
    uint64_t size;
    uint32_t crypt_method;
    uint32_t l1_size;
    uint64_t l1_table_offset;
    uint64_t refcount_table_offset;
    uint32_t refcount_table_clusters;
    uint32_t nb_snapshots;
    uint64_t snapshots_offset;
    uint64_t incompatible_features;
    uint64_t compatible_features;
    uint64_t autoclear_features;
    uint32_t refcount_order;
    uint32_t header_length;
    uint32_t compression_type;

    uint32_t cluster_size;
    uint32_t extensions_limit; /* no extension reaches beyond it: the backing file name, or the end */
    uint32_t extensions_end;   /* behind the end marker, or extensions_limit if there is none */
    bool has_bitmaps;          /* a bitmaps extension, consistent or not */
};

/* One header extension, at `offset` in the header; `size` counts its header and padding too. */
struct extension {
    uint32_t offset;
    uint32_t type;
    uint32_t length;
    uint32_t size;
};

struct planner {
    const struct AmendConfig *config;
    const struct image_io *io;
    struct planner_workspace *workspace;
    struct verdict *verdict;
    bool unsound; /* something was refused that keeps the tables from being followed */
    struct qcow2_header header;
    uint32_t header_loaded; /* bytes of workspace->old_header that have been read */
    uint32_t target_version;
    bool target_lazy;
};

/* Note a reason to refuse; of one reason, and of all, only so many are kept. */
void refuse(struct planner *planner, uint32_t reason, uint32_t error, uint64_t detail0,
            uint64_t detail1, uint64_t detail2);

/* Read whole sectors; what lies beyond the image's end reads as zeros. False: refused, I/O error. */
bool read_image(struct planner *planner, uint64_t offset, uint8_t *buffer, uint32_t length);

/* Whether [offset, offset + length) lies behind the header cluster and inside the image, whose last
 * cluster counts as whole: qemu leaves it short. */
bool inside_image(const struct planner *planner, uint64_t offset, uint64_t length);

/* header.c: parse and judge all that a reader of the image depends on. False: what follows the
 * header cannot be looked at. */
bool parse_header(struct planner *planner);

/* extensions.c: have the header's bytes up to `end` in the workspace. False: refused. */
bool load_header(struct planner *planner, uint64_t end);
bool parse_extensions(struct planner *planner);
/* Step to the next extension; start with *at = header_length. False: no more. For parsed headers. */
bool next_extension(const struct planner *planner, uint32_t *at, struct extension *extension);

/* tables.c: judge the snapshot table; returns how many L1 entries all snapshots have. */
uint64_t check_snapshots(struct planner *planner);
/* Look for what version 2 lacks in every L2 table; for tables that have been found good. */
void scan_for_downgrade(struct planner *planner, uint64_t snapshot_l1_entries);

/* layout.c: lay out the header for the target version. False: refused, no room. */
bool plan_version_change(struct planner *planner, struct amend_plan *plan);
void plan_feature_change(struct planner *planner, struct amend_plan *plan);

#endif

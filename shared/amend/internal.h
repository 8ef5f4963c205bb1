/* Pure, either side: what the planner's parts know of each other. */
#ifndef INSTAR_INTERNAL_H
#define INSTAR_INTERNAL_H

#include "amend/planner.h"
#include "qcow2/qcow2.h"

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
    uint32_t nb_bitmaps;       /* these three are set for a consistent one only */
    uint64_t bitmap_directory_offset;
    uint64_t bitmap_directory_size; /* in bytes */
    uint64_t crypto_offset;         /* of the LUKS header; both are 0 if there is none */
    uint64_t crypto_length;         /* in bytes */
};

/* One header extension, at `offset` in the header; `size` counts its header and padding too. */
struct extension {
    uint32_t offset;
    uint32_t type;
    uint32_t length;
    uint32_t size;
};

/* A part of the image in memory, as it is before `phase`; changed sectors are staged when the window
 * moves on. */
struct window {
    uint8_t *data;
    uint32_t size;        /* multiple of 512, up to PLANNER_WINDOW_SIZE */
    uint32_t phase;       /* the view, as in image_io.read */
    uint32_t write_phase; /* where changes belong */
    bool any_order;       /* of what is looked at, none of which crosses a multiple of `size` */
    bool loaded;
    uint64_t offset; /* of the data in the image */
    uint64_t changed[PLANNER_WINDOW_SIZE / 512 / 64]; /* a bit for each sector */
};

/* The image's refcounts, which an amend reads, raises and lowers. */
struct refcounts {
    struct window table;    /* the refcount table as it will be */
    struct window disk;     /* refcounts as they are */
    struct window prepared; /* with the clusters that are newly taken */
    struct window released; /* with those that are given up too */
    uint64_t table_offset;
    uint64_t table_entries;
    uint64_t disk_blocks; /* the image's entries reach to here: no block is named behind */
    uint64_t blocks;      /* the same with the new blocks */
    uint64_t next;        /* the first cluster that may be free */
    uint64_t total;       /* at most so many clusters are taken in all */
    uint64_t expected;    /* and so many of these are still to come */
    bool table_moved;
    bool any_released;
    uint64_t last_table; /* the L2 table whose refcount was looked up last; 0: none */
    uint32_t last_table_users;
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
    bool drop_bitmaps;         /* the amended header has no bitmaps extension */
    bool header_alone;         /* all L2 tables say so: nothing else is in the header's cluster */
    uint64_t end;              /* of the image with all clusters taken so far, multiple of 512 */
    uint64_t snapshots_size;   /* of the snapshot table in bytes */
    uint64_t snapshots_needed; /* of one that version 3 takes; 0 if the present one will do */
    uint64_t new_snapshots_offset; /* of the table with all that; 0 if there is none */
    uint64_t l1_entries;       /* of all L1 tables together */
    struct window snapshots;
    struct refcounts refcounts;
    uint32_t segment_count; /* in workspace->scratch.segments */
    uint32_t segments_sent;
    uint64_t staged;    /* bytes of all writes, with those that were written again */
    uint64_t work_left; /* of config->work_max */
};

/* Note a reason to refuse; of one reason, and of all, only so many are kept. */
void refuse(struct planner *planner, uint32_t reason, uint32_t error, uint64_t detail0,
            uint64_t detail1, uint64_t detail2);

/* storage.c. Of all these, false or null means refused: an I/O error, or out of bounds. */

/* Do work that takes as long as reading so many bytes. False: refused, that is too much. */
bool spend(struct planner *planner, uint64_t bytes);

/* Read whole sectors as they are before `phase`; behind the image's end come zeros. */
bool read_image(struct planner *planner, uint32_t phase, uint64_t offset, uint8_t *buffer,
                uint32_t length);
bool read_ranges(struct planner *planner, uint32_t phase, const struct io_range *ranges,
                 uint32_t count);
bool write_image(struct planner *planner, uint32_t phase, uint64_t offset, uint8_t *data,
                 uint32_t length);

/* Ranges to be written together. */
struct write_list {
    uint32_t phase;
    uint32_t count;
    struct io_range ranges[PLANNER_RANGES_MAX];
};
bool add_write(struct planner *planner, struct write_list *list, uint64_t offset, uint8_t *data,
               uint32_t length);
bool flush_writes(struct planner *planner, struct write_list *list);

/* Have `length` bytes at `offset` in the window; they stay until the next call. */
uint8_t *look(struct planner *planner, struct window *window, uint64_t offset, uint32_t length);
bool is_in_window(const struct window *window, uint64_t offset, uint32_t length);
/* Note that bytes within the sector at `offset` of the image, which the window has, are changed. */
void mark_changed(struct window *window, uint64_t offset);
bool flush_window(struct planner *planner, struct window *window);

/* Zero one cluster in INSTAR_PHASE_PREPARE, as far as the image reaches. */
bool zero_cluster(struct planner *planner, uint64_t offset);
bool flush_zeroes(struct planner *planner);

/* Whether [offset, offset + length) lies behind the header cluster and inside the image, whose last
 * cluster counts as whole: qemu leaves it short. */
bool inside_image(const struct planner *planner, uint64_t offset, uint64_t length);
/* The same for a cluster, which must be aligned. */
bool is_cluster(const struct planner *planner, uint64_t offset);

/* Whether the image may become so large, in bytes. */
bool may_extend_to(const struct planner *planner, uint64_t end);
/* Count the bytes up to `end` as part of the image. False: it may not grow so far. */
bool extend_to(struct planner *planner, uint64_t end);

/* overlap.c: uses of a cluster are AMEND_USE_*. False: refused. */

/* Whether nothing of [offset, offset + length), which is for `use`, belongs to the header or to a
 * table that it or an extension names, unless that is the same use. */
bool is_free_of_tables(struct planner *planner, uint64_t offset, uint64_t length, uint32_t use);
/* The same for a cluster of a table, which by its refcount has no other user either. Only where
 * refcounts are at hand. */
bool is_exclusive(struct planner *planner, uint64_t offset, uint32_t use);
/* Whether the data of this compressed cluster do not begin in the header's cluster. */
bool is_apart_from_header(struct planner *planner, const uint8_t *entry);
/* Whether nothing but the header is in its cluster; `empty` says that there are only zeros where it
 * would be overwritten. */
bool is_header_alone(struct planner *planner, bool empty);

/* header.c: parse and judge all that a reader of the image depends on. False: what follows the
 * header cannot be looked at. */
bool parse_header(struct planner *planner);

/* extensions.c: have the header's bytes up to `end` in the workspace. False: refused. */
bool load_header(struct planner *planner, uint64_t end);
bool parse_extensions(struct planner *planner);
/* Step to the next extension; start with *at = header_length. False: no more. For parsed headers. */
bool next_extension(const struct planner *planner, uint32_t *at, struct extension *extension);

/* snapshots.c */

/* An entry of the snapshot table ("Snapshots"). */
struct snapshot {
    uint64_t l1_table_offset;
    uint32_t l1_size;
    uint32_t extra_data_size;
    uint64_t vm_state_size;
    uint64_t disk_size;
    uint32_t text_size; /* of id and name in bytes */
    uint32_t size;      /* of the entry in bytes, padding included */
};

/* Judge the snapshot table. */
void check_snapshots(struct planner *planner);
/* Read the entry at byte `at` of the snapshot table. False: refused. */
bool read_snapshot(struct planner *planner, uint64_t at, struct snapshot *snapshot);
/* Whether the L1 table of snapshot `number`, from 1, may be followed. False: refused. */
bool check_l1_table(struct planner *planner, const struct snapshot *snapshot, uint32_t number);
/* Stage a copy of the snapshot table with all the extra data that version 3 wants. */
bool rewrite_snapshots(struct planner *planner);

/* walk.c: visit every L2 table that is allocated, and perhaps some of them twice. */
struct walk {
    struct planner *planner;
    uint32_t phase;   /* the view of L2 tables, as in image_io.read */
    bool snapshots;   /* look at the snapshots' L2 tables too */
    bool active;      /* the tables being visited are the active L1 table's */
    uint64_t progress_from, progress_total; /* 0: report none */
    /* L2 tables, or parts of them, in workspace->batch. False: the walk ends. */
    bool (*visit)(struct walk *walk, const struct io_range *part);
    void *context;

    uint64_t done, told; /* L1 entries, and of how many of them the last progress told */
    bool any_seen; /* workspace->seen holds tables of this walk */
    uint64_t batch_bytes;
    uint32_t range_count;
    struct io_range ranges[PLANNER_RANGES_MAX];
    uint64_t active_first; /* where in the active L1 table workspace->other_table is from */
    bool active_loaded;
    uint32_t queued; /* short L1 tables in workspace->table */
    struct io_range queue[PLANNER_RANGES_MAX];
};
bool walk_tables(struct walk *walk);

/* expand.c */

/* Look for what version 2 lacks in every L2 table; for tables that have been found good. Returns
 * how many zero clusters there are, and sets *allocated to how many of them have a cluster. */
uint64_t scan_for_downgrade(struct planner *planner, uint64_t *allocated);
/* Stage what turns all zero clusters into something that version 2 knows and that reads the same. */
bool expand_zero_clusters(struct planner *planner, uint64_t zero_clusters, uint64_t allocated);

/* expand.c, for detach.c */

/* The L2 table that the entry at this place of the image is in. */
static inline uint64_t table_of(const struct planner *planner, uint64_t place)
{
    return place & ~(uint64_t)(planner->header.cluster_size - 1);
}
bool is_zero_cluster(const uint8_t *entry);
bool is_encrypted(const struct planner *planner);
/* Let `change` work on each entry of an L2 table's part that it `concerns`, and stage the sectors with
 * changed entries. */
bool change_part(struct walk *walk, const struct io_range *part, uint32_t phase,
                 bool (*concerns)(const uint8_t *entry),
                 bool (*change)(struct walk *walk, uint64_t place, uint8_t *entry));
/* Stage the sector at byte `at` of the part, unless it belongs to another table too. */
bool add_table_sector(struct planner *planner, struct write_list *list, const struct io_range *part,
                      uint64_t at);

/* detach.c: turn zero clusters that share their host cluster into plain ones. False: refused.
 * *flags_needed: a table that is not active gave up a cluster that has one user left. */
bool detach_zero_clusters(struct planner *planner, bool *flags_needed);
/* Refuse, as the L2 entry at this place of the image is not valid; returns false. */
bool refuse_entry(struct planner *planner, uint64_t place, uint64_t entry);
/* Set OFLAG_COPIED where the active L2 tables are the one user that is left. False: refused. */
bool set_copied_flags(struct planner *planner);

/* refcounts.c: for images with refcounts of 16 bits. False: refused. */

/* Get ready; at most `expected` clusters will be taken besides those of the refcounts' own. */
bool start_refcounts(struct planner *planner, uint64_t expected);
/* Refuse, as a cluster has a refcount that cannot be, and needs another one; returns false. */
bool refuse_refcount(struct planner *planner, uint64_t offset, uint32_t found, uint32_t needed);
/* The refcount of the cluster at `offset` as it is on the disk. */
bool get_refcount(struct planner *planner, uint64_t offset, uint32_t *refcount);
/* Whether that takes no read now. */
bool has_refcount(const struct planner *planner, uint64_t offset);
/* The refcount of an L2 table, of which many entries in a row ask. */
bool get_table_refcount(struct planner *planner, uint64_t offset, uint32_t *refcount);
/* The refcount of any cluster at the end of the amend, as far as has been planned. */
bool get_final_refcount(struct planner *planner, uint64_t offset, uint32_t *refcount);
/* Take `references` of this use off the refcount of the cluster at `offset` in INSTAR_PHASE_RELEASE. */
bool release_cluster(struct planner *planner, uint64_t offset, uint32_t references, uint32_t use);
/* Give up the clusters of a table, which must have no other use. */
bool release_clusters(struct planner *planner, uint64_t offset, uint64_t bytes, uint32_t use);
/* Stage all that is still in memory, and the refcount table's new place in the old header. */
bool finish_refcounts(struct planner *planner);

/* allocate.c: take `count` free clusters in a row; *offset is the first one's place. */
bool allocate_clusters(struct planner *planner, uint64_t count, uint32_t references,
                       uint64_t *offset);
/* refcounts.c, for allocate.c alone: an entry of the refcount table, 0 or a cluster of the image. */
bool get_block(struct planner *planner, uint64_t index, uint64_t *offset);
bool set_block(struct planner *planner, uint64_t index, uint64_t offset);
/* A refcount with the clusters that are taken already; UINT32_MAX where no block covers it. */
bool get_prepared_refcount(struct planner *planner, uint64_t offset, uint32_t *refcount);
bool take_cluster(struct planner *planner, uint64_t offset, uint32_t refcount);
bool flush_refcounts(struct planner *planner);
uint32_t entries_per_block(const struct planner *planner);

/* bitmaps.c: give up all clusters of persistent bitmaps. False: refused. */
bool release_bitmaps(struct planner *planner);
/* Note the names of all bitmaps, as many as fit, for the message. */
void name_bitmaps(struct planner *planner);

/* layout.c: lay out the header for the target version. False: refused, no room. */
bool plan_version_change(struct planner *planner, struct amend_plan *plan);
bool plan_feature_change(struct planner *planner, struct amend_plan *plan);

#endif

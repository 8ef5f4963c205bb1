/* The contract between host and guest: all that the two sides may say to each other, written once.
 *
 * Both sides read this file: the guest is compiled with it, and the host's view (instar.abi) is
 * generated from it when the package is built. So it holds nothing but integer literals and structs
 * of fixed-width fields without padding; all fields are little-endian. Changing a number or a field
 * breaks an old guest on a new host: raise INSTAR_ABI_VERSION with it. Lists marked append-only
 * only ever grow at their end.
 */
#ifndef INSTAR_ABI_H
#define INSTAR_ABI_H

#include <stdint.h>

/* The version stands in an ELF note of each payload image and in the CallTable; it must be equal. */
#define INSTAR_ABI_VERSION 9
#define INSTAR_NOTE_TYPE 1 /* of the note named "instar", whose descriptor is the version, a u32 */

/* Guest memory. Guest-virtual equals guest-physical; what is not listed here is not mapped. A run may
 * have more RAM than the least, in steps of it: all that is more belongs to the DMA window. What every
 * run touches lies without gaps within eight pages at a multiple of eight: KVM maps so many at a fault. */
#define INSTAR_RAM_SIZE 0x200000
#define INSTAR_RAM_MAX 0x4000000
#define INSTAR_QUEUE_ADDR 0x8000       /* the block queue, then the transmit queue */
#define INSTAR_QUEUE_PAGES_SIZE 0x2000
#define OPERATION_CONFIG_ADDR 0xa000   /* the request: AmendConfig and options; read-only to the guest */
#define OPERATION_CONFIG_SIZE 0x1000
#define INSTAR_STACK_ADDR 0xb000       /* it ends at a page that cannot be written, and starts at an unmapped one */
#define INSTAR_STACK_SIZE 0x4000
#define INSTAR_CORE_ADDR 0x10000       /* the executor image */
#define INSTAR_CORE_LIMIT 0x8000       /* its largest memory extent, .bss included */
#define INSTAR_CALL_TABLE_ADDR 0x10000 /* read-only, the first bytes of the executor image */
#define INSTAR_OPERATION_ADDR 0x18000  /* the operation image */
#define INSTAR_OPERATION_LIMIT 0x30000 /* its largest memory extent, .bss included */
#define INSTAR_DMA_ADDR 0x48000        /* the DMA window, to the end of RAM: no buffer may lie outside */

/* What every run reads first is in the DMA window before the guest starts, which spares it an exit: a list
 * of parts of the image, as requests to read in INSTAR_PHASE_PREPARE would fill them. They are its head,
 * up to two sectors, and a part of a table. A part of length 0 is none. */
#define INSTAR_AHEAD_TABLE_ADDR 0x48000 /* what is in the part of a table */
#define INSTAR_AHEAD_TABLE_MAX 0x10000  /* bytes of it */
#define INSTAR_AHEAD_ADDR 0x58000       /* struct AheadPart, INSTAR_AHEAD_PARTS times */
#define INSTAR_AHEAD_PARTS 4
#define INSTAR_AHEAD_DATA_ADDR 0x58200  /* what is in the other parts */
#define INSTAR_AHEAD_END 0x59600
#define INSTAR_AHEAD_HEAD_SIZE 0x1000   /* bytes of the head, or all whole sectors of a shorter image */

struct AheadPart {
    uint64_t offset; /* in the image: a multiple of 512 */
    uint32_t length; /* bytes: a multiple of 512 */
    uint32_t addr;   /* in guest memory */
};

/* The I/O ports that the guest may write; every other access is a fault. */
#define INSTAR_PORT_EXIT 0xf4     /* u8: ends a run that has no result; why */
#define INSTAR_PORT_NOTIFY 0xe0   /* u8: the index of a virtqueue that has new buffers, or both */
#define INSTAR_PORT_SERIAL 0x3f8  /* u8: the 16550's transmit register */

/* Virtqueues: virtio 1.2, 2.7 "Split Virtqueues"; no negotiation, all addresses agreed here. */
#define INSTAR_BLOCK_QUEUE 0
#define INSTAR_BLOCK_QUEUE_SIZE 128
#define INSTAR_BLOCK_DESC_ADDR 0x8000
#define INSTAR_BLOCK_AVAIL_ADDR 0x8800
#define INSTAR_BLOCK_USED_ADDR 0x8c00
#define INSTAR_TRANSMIT_QUEUE 1
#define INSTAR_TRANSMIT_QUEUE_SIZE 4
#define INSTAR_TRANSMIT_DESC_ADDR 0x9400
#define INSTAR_TRANSMIT_AVAIL_ADDR 0x9480
#define INSTAR_TRANSMIT_USED_ADDR 0x94c0
#define INSTAR_BOTH_QUEUES 2              /* the block queue, and then the transmit queue */
#define INSTAR_BLOCK_REQUEST_MAX 0x100000 /* bytes of data in one block request */
#define INSTAR_TRANSMIT_MAX 4096          /* bytes in one transmit buffer */

/* Block requests (virtio 1.2, 5.2.6): IN, OUT and WRITE_ZEROES, and one of our own. The word that virtio
 * reserves in the request's header carries a phase. OUT: the phase that the data belongs to. IN: what
 * is seen is the image with all phases below that one; what WRITE_ZEROES zeroes is not seen.
 * WRITE_ZEROES: INSTAR_PHASE_PREPARE; its sector is 0, and its segments have no flags.
 * INSTAR_BLOCK_SCATTER: an OUT to sectors that lie anywhere; its sector is 0, and before its buffer of data
 * comes one with the number of each sector, a u64.
 *
 * Nothing reaches the image while the guest runs. The host commits the phases in ascending order,
 * and a barrier lies between two of them: an image is to be valid, and to read the same, after all
 * phases below one and after any part of that one. */
#define INSTAR_BLOCK_SCATTER 0x10000  /* beyond the types that virtio has */
#define INSTAR_PHASE_PREPARE 0        /* where nothing refers to; refcounts from 0 up; zeroing */
#define INSTAR_PHASE_REFCOUNT_TABLE 1 /* entries for new refcount blocks, or the table's new place */
#define INSTAR_PHASE_MAPPING 2        /* L2 entries: zero clusters become what version 2 knows */
#define INSTAR_PHASE_SWITCH 3         /* the amended header: sector 0 */
#define INSTAR_PHASE_RELEASE 4        /* refcounts of what nothing refers to any more */
#define INSTAR_PHASE_FLAGS 5          /* OFLAG_COPIED of what the release has left to one user */
#define INSTAR_PHASE_COUNT 6
#define INSTAR_ZEROES_SEGMENTS_MAX 4096 /* in one WRITE_ZEROES request */
#define INSTAR_SEGMENTS_MAX 0x100000    /* in all; one that begins where the last ends is none */
#define INSTAR_STAGED_MAX 0x10100000    /* bytes of all OUT requests together: L2 tables of 2 TiB */

/* The request for one amend. The current_* fields are what the host read at fixed offsets of the
 * header; the guest reads the header itself and refuses if the two disagree. */
#define AMEND_CONFIG_MAGIC 0x414d4e44
#define AMEND_FORMAT_QCOW2 2
#define AMEND_FLAG_QUIET 1          /* 2 to 16 were options before version 4, and are not used again */
#define AMEND_FLAG_PROGRESS 32      /* send FRAME_PROGRESS while scanning */
#define AMEND_FLAG_DROP_BITMAPS 64  /* a downgrade removes persistent bitmaps */
#define AMEND_FLAG_FIXED_SIZE 128   /* a block device: max_growth is 0 and cannot be raised */
#define AMEND_FLAG_SHRINK 256       /* the disk may lose what lies beyond its new end */
#define AMEND_FLAG_CHANGE_BACKING 512 /* a backing file or format that differs is a change */
/* One of these makes a run that changes no option: refcounts and flags become what the tables say. */
#define AMEND_FLAG_REPAIR 1024       /* of an image that is dirty, which then is not */
#define AMEND_FLAG_REPAIR_LEAKS 2048 /* of any, where refcounts are too high; flags, if that was all */
#define AMEND_FLAG_REPAIR_ALL 4096   /* of any */
#define AMEND_FLAG_KEYS 8192 /* the host is to change keyslots: say whether the image allows it */

/* A guest refuses rather than do more work than work_max, in bytes read. Whatever else the host
 * does for it counts as the bytes that it could read in that time. */
#define AMEND_DOORBELL_WORK 0x38000
#define AMEND_REQUEST_WORK 0x8000 /* each block request */
#define AMEND_SECTOR_WORK 0x8000  /* each sector that is written */

struct AmendConfig {
    uint32_t magic;         /* IN */
    uint32_t target_format; /* IN */
    uint32_t flags;         /* IN: AMEND_FLAG_* */
    uint32_t sector_size;   /* IN: 512 */
    uint32_t cluster_size;  /* IN: bytes; 0 where the header's cluster_bits are out of range */
    uint32_t current_version;                /* IN */
    uint32_t current_refcount_bits;          /* IN */
    uint32_t pad;                            /* IN: 0 */
    uint64_t current_incompatible_features;  /* IN: 0 for version 2 */
    uint64_t current_compatible_features;    /* IN: 0 for version 2 */
    uint64_t virtual_size;                   /* IN: bytes */
    uint64_t image_size;                     /* IN: bytes of the file or block device */
    uint64_t current_autoclear_features;     /* IN: 0 for version 2 */
    uint64_t max_growth;                     /* IN: bytes by which the file may grow */
    uint64_t work_max;                       /* IN: bytes, see AMEND_*_WORK */
    uint64_t read_along[2]; /* IN: offsets of sectors that were read ahead, see AheadPart; 0: none */
    uint32_t options_size;                   /* IN: bytes of the option records that follow */
    uint32_t options_pad;                    /* IN: 0 */
    uint64_t backing_size; /* IN: bytes that the backing file has at most; BACKING_SIZE_UNKNOWN */
    uint8_t reserved[8];                     /* IN: 0 */
};

#define BACKING_SIZE_UNKNOWN 0xffffffffffffffff

/* Options and their values. What is asked for follows the AmendConfig in its page; what holds in the end
 * comes in FRAME_OPTIONS, but for bytes: those the host reads in the header itself. A record is an
 * OptionRecord, `length` bytes of value, and zeros up to a multiple of 8. Keys ascend, so that none
 * comes twice. Keys and kinds are append-only. */
#define OPTION_KIND_FLAG 1   /* u64: 0 or 1 */
#define OPTION_KIND_NUMBER 2 /* u64 */
#define OPTION_KIND_BYTES 3  /* without a NUL */
#define OPTION_BYTES_MAX 2048
#define OPTION_COMPAT 1         /* number: 2 or 3, the header's version */
#define OPTION_LAZY_REFCOUNTS 2 /* flag */
#define OPTION_BACKING_FILE 3   /* up to 1023 bytes; none: no backing file */
#define OPTION_BACKING_FMT 4    /* up to 15 bytes */
#define OPTION_DATA_FILE 5      /* bytes; none: no name */
#define OPTION_DATA_FILE_RAW 6  /* flag */
#define OPTION_REFCOUNT_BITS 7  /* number: 1, 2, 4, 8, 16, 32 or 64 */
#define OPTION_SIZE 8           /* number: bytes of the disk; not together with other options */
#define OPTION_KEY_MAX 8

struct OptionRecord {
    uint16_t key;    /* IN, OUT: OPTION_* */
    uint16_t kind;   /* IN, OUT: OPTION_KIND_* */
    uint32_t length; /* IN, OUT: bytes of the value; 8 of a flag or number */
};

/* The verdict. Errors are append-only; 2 is not used again. */
#define AMEND_RESULT_MAGIC 0x414d5253
#define AMEND_ACTION_NOOP 0
#define AMEND_ACTION_AMENDED 1
#define AMEND_OK 0
#define AMEND_ERROR_UNSUPPORTED_FORMAT 1
#define AMEND_ERROR_DOWNGRADE_BLOCKED 3
#define AMEND_ERROR_REFCOUNT_WIDTH 4
#define AMEND_ERROR_LAZY_NEEDS_V3 5
#define AMEND_ERROR_HEADER_MISMATCH 6
#define AMEND_ERROR_PARSE_FAILED 7
#define AMEND_ERROR_DIRTY 8
#define AMEND_ERROR_EXTENSION_RELOCATION 9
#define AMEND_ERROR_WRITE_FAILED 10
#define AMEND_ERROR_SCRATCH_TOO_SMALL 11
#define AMEND_ERROR_OVERFLOW 12
#define AMEND_ERROR_READ_FAILED 13
#define AMEND_ERROR_UNSUPPORTED_FEATURE 14
#define AMEND_ERROR_WORK_LIMIT 15
#define AMEND_ERROR_SIZE 16
#define AMEND_ERROR_BACKING_FILE 17
#define AMEND_ERROR_DATA_FILE 18
#define AMEND_ERROR_REPAIR 19
#define AMEND_ERROR_ENCRYPTION 20

struct AmendResult {
    uint32_t magic;                    /* OUT */
    uint32_t target_format;            /* OUT */
    uint32_t action;                   /* OUT: AMEND_ACTION_* */
    uint32_t error;                    /* OUT: AMEND_OK, or the first refusal's error */
    uint32_t resulting_version;        /* OUT */
    uint32_t resulting_lazy_refcounts; /* OUT: 0 or 1 */
    uint32_t atomic;                   /* OUT: 1 if the switch is one sector */
    uint32_t refusal_count;            /* OUT: the AmendRefusals that follow in FRAME_REFUSALS */
    uint64_t resulting_incompatible_features; /* OUT */
    uint64_t resulting_compatible_features;   /* OUT */
    uint64_t resulting_autoclear_features;    /* OUT */
    uint64_t reserved;                        /* OUT: 0 */
};

/* One reason to refuse. Reasons are append-only from the first release on; the details of each are named in vmm/base/reasons.py. */
#define REFUSAL_MAX 64
#define REFUSAL_BAD_MAGIC 1
#define REFUSAL_BAD_VERSION 2
#define REFUSAL_TRUNCATED_HEADER 3
#define REFUSAL_CLUSTER_BITS 4
#define REFUSAL_HEADER_LENGTH 5
#define REFUSAL_UNKNOWN_INCOMPATIBLE 6
#define REFUSAL_DIRTY 7
#define REFUSAL_CORRUPT 8
#define REFUSAL_REFCOUNT_ORDER 9
#define REFUSAL_REFCOUNT_TABLE 10
#define REFUSAL_L1_TABLE 11
#define REFUSAL_L1_TOO_SMALL 12
#define REFUSAL_SNAPSHOT_TABLE 13
#define REFUSAL_BACKING_FILE 14
#define REFUSAL_EXTENSIONS 15
#define REFUSAL_CRYPT_METHOD 16
#define REFUSAL_CRYPTO_EXTENSION 17
#define REFUSAL_COMPRESSION_TYPE 18
#define REFUSAL_SUBCLUSTERS 19
#define REFUSAL_RAW_WITHOUT_DATA_FILE 20
#define REFUSAL_BITMAPS_EXTENSION 21
#define REFUSAL_VIRTUAL_SIZE 22
#define REFUSAL_HEADER_MISMATCH 23
#define REFUSAL_LAZY_NEEDS_V3 24
#define REFUSAL_DOWNGRADE_REFCOUNT_WIDTH 25
#define REFUSAL_DOWNGRADE_DATA_FILE 26
#define REFUSAL_DOWNGRADE_EXTENDED_L2 27
#define REFUSAL_DOWNGRADE_BITMAPS 28
#define REFUSAL_DOWNGRADE_SNAPSHOT_SIZE 29
#define REFUSAL_DOWNGRADE_SNAPSHOT_VM_STATE 30
#define REFUSAL_DOWNGRADE_COMPRESSED_CLUSTERS 31
#define REFUSAL_L2_TABLE 32
#define REFUSAL_NO_ROOM 33
#define REFUSAL_HEADER_TOO_LARGE 34
#define REFUSAL_READ_FAILED 35
#define REFUSAL_WRITE_FAILED 36
#define REFUSAL_GROWTH 37
#define REFUSAL_DEVICE_FULL 38
#define REFUSAL_L2_ENTRY 39
#define REFUSAL_REFCOUNT 40
#define REFUSAL_DOWNGRADE_ENCRYPTED_ZEROES 41
#define REFUSAL_REFCOUNT_TABLE_FULL 42
#define REFUSAL_SNAPSHOT_TABLE_FULL 43
#define REFUSAL_BITMAPS 44
#define REFUSAL_OVERLAP 45    /* the host may find it too */
#define REFUSAL_WORK_LIMIT 46 /* the host may find it too */
#define REFUSAL_CHANGE_LIMIT 47
#define REFUSAL_SNAPSHOT_EXTRA_DATA 48
#define REFUSAL_SIZE_LIMIT 50
#define REFUSAL_RESIZE_V2_SNAPSHOTS 51
#define REFUSAL_SHRINK_NOT_ALLOWED 52
#define REFUSAL_GROW_OVER_BACKING_V2 53
#define REFUSAL_GROW_HEAD_OVER_BACKING 54
#define REFUSAL_SIZE_DATA_FILE 55
#define REFUSAL_SIZE_BITMAPS 56
#define REFUSAL_BITMAP_IN_USE 57
#define REFUSAL_SIZE_DIFFERENCE 58 /* the host finds it */
#define REFUSAL_RESIZE_SNAPSHOT_SIZE 59
#define REFUSAL_BACKING_CHANGE 60
#define REFUSAL_BACKING_FMT_MISSING 61
#define REFUSAL_BACKING_FILE_MISSING 62
#define REFUSAL_BACKING_RAW 63
#define REFUSAL_BACKING_ITSELF 64 /* the host finds it */
#define REFUSAL_NO_DATA_FILE 65
#define REFUSAL_DATA_FILE_RAW 66
#define REFUSAL_REFCOUNT_BITS_V2 70
#define REFUSAL_REFCOUNT_OVERFLOW 71
#define REFUSAL_REFCOUNT_BITS_APART 72
#define REFUSAL_REPAIR_ENTRY 80
#define REFUSAL_REPAIR_EXTENSION 81
#define REFUSAL_REPAIR_REFCOUNTS 82
#define REFUSAL_REPAIR_TOO_LARGE 83
#define REFUSAL_NOT_ENCRYPTED 90
#define REFUSAL_NOT_LUKS 91
#define REFUSAL_LUKS_REGION 92
/* Those that follow the host finds; the guest sees nothing of the LUKS header. */
#define REFUSAL_LUKS_TRUNCATED 93
#define REFUSAL_LUKS_MAGIC 94
#define REFUSAL_LUKS_VERSION 95
#define REFUSAL_LUKS_CIPHER 96
#define REFUSAL_LUKS_HEADER 97
#define REFUSAL_LUKS_ITERATIONS 98
#define REFUSAL_LUKS_ITER_TIME 99
#define REFUSAL_LUKS_PASSWORD 100
#define REFUSAL_LUKS_NO_SLOT 101
#define REFUSAL_LUKS_SLOT_IN_USE 102
#define REFUSAL_LUKS_SLOT_INACTIVE 103
#define REFUSAL_LUKS_SLOT_MISMATCH 104
#define REFUSAL_LUKS_NO_MATCH 105
#define REFUSAL_LUKS_LAST_SLOT 106
#define REFUSAL_LUKS_ALL_SLOTS 107
#define REFUSAL_LUKS_ONLY_SLOT 108

/* What a cluster is used for: the second and third detail of REFUSAL_OVERLAP. Append-only. */
#define AMEND_USE_UNKNOWN 0
#define AMEND_USE_HEADER 1
#define AMEND_USE_REFCOUNT_TABLE 2
#define AMEND_USE_REFCOUNT_BLOCK 3
#define AMEND_USE_L1_TABLE 4
#define AMEND_USE_L2_TABLE 5
#define AMEND_USE_SNAPSHOT_TABLE 6
#define AMEND_USE_SNAPSHOT_L1_TABLE 7
#define AMEND_USE_DATA 8
#define AMEND_USE_COMPRESSED 9
#define AMEND_USE_ZERO_CLUSTER 10
#define AMEND_USE_CRYPTO_HEADER 11
#define AMEND_USE_BITMAP_DIRECTORY 12
#define AMEND_USE_BITMAP 13 /* a bitmap table, or what it names */
#define AMEND_USE_NEW 14    /* counted as free, and taken */

struct AmendRefusal {
    uint32_t reason;    /* OUT: REFUSAL_* */
    uint32_t error;     /* OUT: AMEND_ERROR_* */
    uint64_t detail[3]; /* OUT: by reason; 0 where it has none */
};

/* Serial framing: a FrameHeader, then length bytes of payload. */
#define FRAME_MAGIC 0x52464e49
#define FRAME_RESULT 1   /* one AmendResult; ends the run */
#define FRAME_REFUSALS 2 /* AmendRefusals, before the FRAME_RESULT that counts them */
#define FRAME_PROGRESS 3 /* one AmendProgress */
#define FRAME_NAMES 4    /* bitmap names for a refusal, each a u16 length and its bytes; before the
                          * FRAME_REFUSALS, at most one */
#define FRAME_SNAPSHOTS 5 /* what the snapshots in refusals are called, each a u32 number as in the
                           * refusal, u16 sizes of ID and name, and these, cut to the sizes below;
                           * before the FRAME_REFUSALS, at most one */
#define FRAME_OPTIONS 6 /* a record for each option that is not bytes; before a FRAME_RESULT without
                         * refusals */
#define SNAPSHOT_ID_MAX 63
#define SNAPSHOT_NAME_MAX 255
#define FRAME_PAYLOAD_MAX 3584

struct FrameHeader {
    uint32_t magic;  /* OUT */
    uint32_t type;   /* OUT: FRAME_* */
    uint32_t length; /* OUT: bytes of payload */
    uint32_t crc;    /* OUT: CRC-32 (IEEE 802.3) of type, length and payload */
};

struct AmendProgress {
    uint64_t done;  /* OUT: L1 entries looked at, in all passes so far */
    uint64_t total; /* OUT: L1 entries to look at, as far as is known; may rise */
};

/* The request of an operation that only looks, in the place of an AmendConfig. Such an operation stages
 * nothing; its faults of the image are AmendRefusals, in FRAME_REFUSALS. */
#define INSPECT_CONFIG_MAGIC 0x494e5350
#define INSPECT_FLAG_QUIET 1
#define INSPECT_FLAG_PROGRESS 2 /* send FRAME_PROGRESS */

struct InspectConfig {
    uint32_t magic;      /* IN */
    uint32_t flags;      /* IN: INSPECT_FLAG_* */
    uint64_t image_size; /* IN: bytes of the file or block device */
    uint64_t work_max;   /* IN: bytes, see AMEND_*_WORK */
    uint64_t reserved;   /* IN: 0 */
};

/* What the operation "info" says. Names and records come before the FRAME_INFO, which ends the run. */
#define FRAME_INFO 16          /* one InfoResult */
#define FRAME_INFO_TEXT 17     /* u32s, INFO_TEXT_* and an offset in that text, and bytes */
#define FRAME_INFO_FEATURES 18 /* InfoFeatures, of bits that are set and not known */
#define FRAME_INFO_SNAPSHOTS 19 /* each an InfoSnapshot, its ID and its name */
#define FRAME_INFO_BITMAPS 20   /* each an InfoBitmap and its name */
#define FRAME_INFO_LUKS 21      /* the first INFO_LUKS_SIZE bytes of the LUKS header */
#define INFO_RESULT_MAGIC 0x494e464f
#define INFO_TEXT_BACKING_FILE 1
#define INFO_TEXT_BACKING_FORMAT 2
#define INFO_TEXT_DATA_FILE 3
#define INFO_LUKS_SIZE 592
#define INFO_SNAPSHOT_ID_MAX 127   /* bytes that are told of an ID, */
#define INFO_SNAPSHOT_NAME_MAX 255 /* and of a name, as qemu has them */
#define INFO_RECORDS_MAX 0xc0000   /* bytes of records that are told; of the rest, how many */

/* What could be read. */
#define INFO_READ_HEADER 1
#define INFO_READ_EXTENSIONS 2
#define INFO_READ_SNAPSHOTS 4
#define INFO_READ_BITMAPS 8 /* or there are none that are valid */

struct InfoResult {
    uint32_t magic;          /* OUT */
    uint32_t refusal_count;  /* OUT: the AmendRefusals in FRAME_REFUSALS */
    uint32_t read;           /* OUT: INFO_READ_* */
    uint32_t nb_bitmaps;     /* OUT: that the extension counts; 0 if it is not valid */
    uint32_t snapshots_told; /* OUT: records of each kind */
    uint32_t bitmaps_told;   /* OUT */
    uint64_t crypto_offset;  /* OUT: of the LUKS header; 0 if there is none */
    uint64_t reserved;       /* OUT: 0 */
};

/* An entry of the feature name table. */
struct InfoFeature {
    uint8_t kind; /* OUT: 0 incompatible, 1 compatible, 2 autoclear */
    uint8_t bit;  /* OUT */
    uint8_t name[46]; /* OUT: padded with NULs */
};

struct InfoSnapshot {
    uint64_t l1_table_offset; /* OUT */
    uint64_t vm_state_size;   /* OUT: bytes */
    uint64_t disk_size;       /* OUT: bytes */
    uint64_t vm_clock_nsec;   /* OUT */
    uint64_t icount;          /* OUT: 2^64 - 1 if there is none */
    uint32_t date_sec;        /* OUT */
    uint32_t date_nsec;       /* OUT */
    uint32_t l1_size;         /* OUT: entries */
    uint16_t id_size;         /* OUT: bytes that are told */
    uint16_t name_size;       /* OUT: bytes that are told */
};

struct InfoBitmap {
    uint64_t table_offset;    /* OUT */
    uint32_t table_entries;   /* OUT */
    uint32_t flags;           /* OUT: as in the bitmap directory */
    uint32_t granularity_bits; /* OUT */
    uint32_t name_size;       /* OUT: bytes */
};

/* What the operation "check" says. Records come before the FRAME_CHECK, which ends the run. */
#define FRAME_CHECK 22          /* one CheckResult */
#define FRAME_CHECK_FINDINGS 23 /* CheckFindings: the first of them */
#define CHECK_RESULT_MAGIC 0x4348434b

/* The memory in which it counts. The host gives a run as much RAM as all clusters of the image
 * take, as far as there can be so much; with less, the guest counts one window of them after
 * another. */
#define CHECK_MEMORY_RESERVED 0x1d0000 /* bytes of RAM that are not for counts, at most */
#define CHECK_COUNT_BYTES 3            /* of a cluster, where refcounts have up to 16 bits, */
#define CHECK_WIDE_COUNT_BYTES 5       /* and where they have more */
#define CHECK_COUNT_UNIT 4096          /* clusters; a window has room for a multiple of them */

/* Kinds of findings; append-only. Their details are named in vmm/inspect/findings.py. */
#define CHECK_REGION_OUTSIDE 1
#define CHECK_REFCOUNT_OVERFLOW 2
#define CHECK_L1_RESERVED 3
#define CHECK_L2_TABLE_UNALIGNED 4
#define CHECK_L2_RESERVED 5
#define CHECK_COMPRESSED_COPIED 6
#define CHECK_COMPRESSED_DATA_FILE 7
#define CHECK_COMPRESSED_SUBCLUSTERS 8
#define CHECK_SUBCLUSTERS 9
#define CHECK_CLUSTER_UNALIGNED 10
#define CHECK_UNALLOCATED_SUBCLUSTERS 11
#define CHECK_SNAPSHOT_UNALIGNED 12
#define CHECK_SNAPSHOT_SIZE 13
#define CHECK_SNAPSHOT_DATA_FILE 14
#define CHECK_SNAPSHOT_INCOMPLETE 15
#define CHECK_BLOCK_RESERVED 16
#define CHECK_BLOCK_UNALIGNED 17
#define CHECK_BLOCK_OUTSIDE 18
#define CHECK_BLOCK_REFCOUNT 19
#define CHECK_CLUSTER_REFCOUNT 20
#define CHECK_CLUSTER_LEAKED 21
#define CHECK_L2_TABLE_COPIED 22
#define CHECK_CLUSTER_COPIED 23
#define CHECK_BITMAP 24
#define CHECK_BITMAP_ENTRY 25
#define CHECK_BLOCK_UNREADABLE 26
#define CHECK_OVERLAP 27
#define CHECK_BITMAP_TABLE 28
#define CHECK_BITMAP_NAME 29
#define CHECK_KIND_MAX 29

struct CheckFinding {
    uint32_t kind;      /* OUT: CHECK_* */
    uint32_t pad;       /* OUT: 0 */
    uint64_t detail[3]; /* OUT: by kind */
};

struct CheckResult {
    uint32_t magic;               /* OUT */
    uint32_t refusal_count;       /* OUT: in FRAME_REFUSALS; what is more than "dirty" or "corrupt" kept
                                   * the image from being checked */
    uint64_t check_errors;        /* OUT: numbers of findings, as qemu-img counts them */
    uint64_t corruptions;         /* OUT */
    uint64_t leaks;               /* OUT */
    uint64_t overlaps;            /* OUT: CHECK_OVERLAP, which qemu-img does not look for */
    uint64_t total_clusters;      /* OUT: of the disk */
    uint64_t allocated_clusters;  /* OUT */
    uint64_t fragmented_clusters; /* OUT */
    uint64_t compressed_clusters; /* OUT */
    uint64_t image_end_offset;    /* OUT: bytes */
    uint64_t findings_told;       /* OUT */
};

#endif

"""Rows for the reasons to refuse, by their numbers, and for several at once. Test side.

Read by rows.py, which says how; beside the rows of the table, which have most reasons already.
"""

TEXT = r"""
refuse/truncated-v2: compat=1.1
    create -o compat=0.10 t.qcow2 64M; truncate t.qcow2 71
    => changed | truncated_header | file_must_be_whole
refuse/truncated-to-the-magic: compat=1.1
    create t.qcow2 64M; truncate t.qcow2 8
    => refused | truncated_header
refuse/header-length-beyond-cluster: compat=1.1
    create -o cluster_size=512 t.qcow2 64M; poke set header_length 520
    => refused | header_length
refuse/all-incompatible-bits: lazy_refcounts=on
    create t.qcow2 64M; poke set incompatible_features 0xffffffffffffffe0
    => refused | unknown_incompatible_features
refuse/refcount-table-too-large: compat=1.1
    create t.qcow2 64M; poke set refcount_table_clusters 129
    => refused | refcount_table
refuse/refcount-table-unaligned: compat=1.1
    create t.qcow2 64M; poke set refcount_table_offset 0x10200
    => refused | refcount_table
refuse/l1-table-too-large: compat=1.1
    create t.qcow2 64M; poke set l1_size 4194305
    => refused | l1_table
refuse/l1-table-unaligned: compat=1.1
    create t.qcow2 64M; poke set l1_table_offset 0x30200
    => refused | l1_table
refuse/l1-table-missing: compat=1.1
    create t.qcow2 64M; poke set l1_size 0
    => refused | l1_too_small
refuse/extended-l2-needs-more-l1: compat=1.1
    create -o extended_l2=on t.qcow2 1G; poke set l1_size 3
    => refused | l1_too_small
refuse/snapshot-table-unaligned: compat=1.1
    create t.qcow2 64M; snapshot -c s t.qcow2; poke set snapshots_offset 0x50200
    => refused | snapshot_table
refuse/too-many-snapshots: compat=1.1
    create t.qcow2 64M; poke set nb_snapshots 65537
    => refused | snapshot_table
refuse/snapshot-extra-data-too-long: compat=1.1
    create t.qcow2 64M; snapshot -c s t.qcow2; poke snapshot 0 extra_data_size 1025
    => refused | snapshot_extra_data
refuse/snapshot-l1-too-large: compat=0.10
    create t.qcow2 64M; snapshot -c s t.qcow2; poke snapshot 0 l1_size 4194305
    => refused | snapshot_table
refuse/backing-name-beyond-cluster: compat=1.1
    create -o compat=0.10,cluster_size=512 t.qcow2 64M;
    poke set backing_file_offset 504; poke set backing_file_size 9
    => refused | backing_file
refuse/backing-format-too-long: compat=1.1
    create t.qcow2 64M; poke ext e2792aca abcdefghijklmnop
    => refused | header_extension
refuse/extension-over-the-name: compat=1.1
    create -o compat=0.10 t.qcow2 64M; poke ext 11111111 one; poke backing x;
    poke set backing_file_offset 82
    => refused | header_extension
refuse/extension-head-cut-by-the-name: compat=1.1
    create -o compat=0.10 t.qcow2 64M; poke ext 11111111 one; poke backing x;
    poke set backing_file_offset 92; poke bytes 88 22222222
    => refused | header_extension
refuse/crypt-method-huge: compat=0.10
    create t.qcow2 64M; poke set crypt_method 0xffffffff
    => refused | crypt_method
refuse/luks-without-extension: compat=0.10
    create t.qcow2 64M; poke set crypt_method 2
    => refused | crypto_extension
refuse/luks-extension-short: compat=0.10
    create t.qcow2 64M; poke ext 0537be77 short; poke set crypt_method 2
    => refused | crypto_extension
refuse/luks-extension-unaligned: compat=0.10
    create t.qcow2 64M; poke ext 0537be77 0123456789abcdef; poke set crypt_method 2
    => refused | crypto_extension
refuse/compression-type-unknown: compat=0.10
    create t.qcow2 64M; poke or incompatible_features 8; poke bytes 104 02
    => refused | compression_type
refuse/compression-bit-without-type: compat=0.10
    create t.qcow2 64M; poke or incompatible_features 8
    => refused | compression_type
refuse/subclusters-too-small: lazy_refcounts=on
    create -o cluster_size=8k t.qcow2 1M; poke or incompatible_features 0x10
    => refused | extended_l2_cluster_size
refuse/bitmaps-extension-short: lazy_refcounts=on
    create t.qcow2 64M; poke ext 23852875 short; poke or autoclear_features 1
    => refused | bitmaps_extension
refuse/bitmaps-extension-short-and-stale: lazy_refcounts=on
    create t.qcow2 64M; poke ext 23852875 short
    => refused | bitmaps_extension
refuse/no-bitmaps: lazy_refcounts=on
    create t.qcow2 64M; bitmap --add t.qcow2 b0; poke bytes 512 00000000
    => refused | bitmaps_extension
refuse/too-many-bitmaps: lazy_refcounts=on
    create t.qcow2 64M; bitmap --add t.qcow2 b0; poke bytes 512 00010000
    => refused | bitmaps_extension
refuse/bitmaps-reserved: lazy_refcounts=on
    create t.qcow2 64M; bitmap --add t.qcow2 b0; poke bytes 516 00000001
    => refused | bitmaps_extension
refuse/bitmap-directory-too-large: lazy_refcounts=on
    create t.qcow2 64M; bitmap --add t.qcow2 b0; poke bytes 520 0000000004000001
    => refused | bitmaps_extension
refuse/bitmap-directory-unaligned: lazy_refcounts=on
    create t.qcow2 64M; bitmap --add t.qcow2 b0; poke bytes 534 0200
    => refused | bitmaps_extension
refuse/virtual-size: compat=1.1
    create t.qcow2 64M; poke set size 0x8000000000000000
    => refused | virtual_size
refuse/l2-tables-named-twice: compat=0.10
    create -o cluster_size=512 t.qcow2 4M; io -c 'write 0 512' t.qcow2; poke repeat-l1
    => changed | amended
refuse/refcount-bits-of-version-2: refcount_bits=32
    create -o compat=0.10 t.qcow2 64M
    => refused | refcount_bits_v2
refuse/refcount-overflow: refcount_bits=1
    create t.qcow2 64M; io -c 'write 0 64k' t.qcow2; snapshot -c s1 t.qcow2; snapshot -c s2 t.qcow2
    => refused | refcount_overflow
refuse/refcount-overflow-of-compressed-data: refcount_bits=1
    write r.img a 1000000; convert -c -f raw -O qcow2 r.img t.qcow2
    => refused | refcount_overflow
refuse/refcount-bits-with-snapshots: compat=1.1,refcount_bits=8
    create -o compat=0.10,cluster_size=8k t.qcow2 1M; snapshot -c s1 t.qcow2;
    poke snapshot-extra 8
    => changed | amended
refuse/several-in-the-header: compat=0.10
    create -o lazy_refcounts=on t.qcow2 64M; poke set incompatible_features 0x23;
    poke set crypt_method 3; poke set autoclear_features 2
    => refused | unknown_incompatible_features dirty corrupt raw_without_data_file crypt_method
refuse/several-in-the-geometry: compat=0.10
    create t.qcow2 64M; poke set header_length 100; poke set size 0x8000000000000000;
    poke set backing_file_offset 70000; poke or incompatible_features 1
    => refused | header_length backing_file virtual_size dirty
refuse/several-tables: compat=0.10
    create t.qcow2 64M; poke set refcount_table_clusters 0; poke set refcount_order 7;
    poke set l1_table_offset 1; poke set l1_size 0; poke set snapshots_offset 1
    => refused | refcount_table refcount_order l1_table l1_too_small snapshot_table
refuse/several-for-a-downgrade: compat=0.10,lazy_refcounts=on
    create -o refcount_bits=8,extended_l2=on,data_file=d.raw t.qcow2 8M; bitmap --add t.qcow2 b0
    => refused, changed | lazy_needs_v3 downgrade_refcount_width downgrade_data_file
    downgrade_extended_l2 downgrade_bitmaps | refusal_leaves_nothing
refuse/dirty-and-not-to-be-downgraded: compat=0.10
    create -o refcount_bits=8,lazy_refcounts=on t.qcow2 8M; bitmap --add t.qcow2 b0;
    poke or incompatible_features 1
    => refused, changed | dirty downgrade_refcount_width downgrade_bitmaps
    | refusal_leaves_nothing
refuse/several-in-the-tables: compat=0.10
    write r.img a 65536; convert -c -f raw -O qcow2 -o compression_type=zstd r.img t.qcow2;
    io -c 'write -z 0 64k' t.qcow2; snapshot -c s1 t.qcow2; snapshot -c s2 t.qcow2;
    resize t.qcow2 128k; poke snapshot 1 large_vm_state_size 0x200000000
    => refused | downgrade_snapshot_size downgrade_snapshot_vm_state
refuse/several-snapshots: compat=1.1
    create -o compat=0.10,cluster_size=8k t.qcow2 1M; snapshot -c s1 t.qcow2;
    snapshot -c s2 t.qcow2; poke snapshot-extra 8
    => changed | amended
"""

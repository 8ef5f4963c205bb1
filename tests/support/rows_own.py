"""Rows of our own, beside those of the table of qemu's behaviour. Test side.

Read by rows.py, which says how. Most were found by comparing random damage.
"""

TEXT = r"""
fmt/qcow: compat=1.1
    create -f qcow t.qcow2 1M
    => refused | not_qcow2
fmt/qed: compat=1.1
    create -f qed t.qcow2 1M
    => refused | not_qcow2
fmt/vdi: compat=1.1
    create -f vdi t.qcow2 1M
    => refused | not_qcow2
fmt/vhdx: compat=1.1
    create -f vhdx t.qcow2 1M
    => refused | not_qcow2
fmt/vpc: compat=1.1
    create -f vpc t.qcow2 1M
    => refused | not_qcow2
fmt/vmdk: compat=1.1
    create -f vmdk t.qcow2 1M
    => refused | not_qcow2
fmt/parallels: compat=1.1
    create -f parallels t.qcow2 1M
    => refused | not_qcow2
fmt/raw: compat=1.1
    create -f raw t.qcow2 1M
    => refused | not_qcow2
fmt/f-raw: -f raw compat=1.1
    create t.qcow2 64M
    => refused | unsupported_format
fmt/f-vmdk: -f vmdk compat=1.1
    create -f vmdk t.qcow2 1M
    => refused | unsupported_format
own/size-not-512-up: compat=1.1
    create -o compat=0.10 t.qcow2 64M; poke set size 67108964
    => changed | amended | virtual_size_kept
own/end-marker-with-length: lazy_refcounts=on
    create -o cluster_size=4k t.qcow2 64M; poke bytes 116 ffffffff
    => refused | header_extension
own/backing-name-in-header: compat=1.1
    create t.qcow2 64M; poke set backing_file_offset 8
    => changed | backing_file | backing_name_in_header
own/header-length-unaligned: lazy_refcounts=on
    create -o cluster_size=4k t.qcow2 64M; poke set header_length 113
    => changed | header_length | header_length_unaligned
own/data-file-missing: lazy_refcounts=on
    create -o data_file=d.raw t.qcow2 8M; rm d.raw
    => refused | amended | data_file_not_opened
own/refcount-table-in-cluster-0: compat=0.10
    create t.qcow2 64M; poke set refcount_table_offset 0
    => changed | refcount_table | file_must_be_whole
own/refcount-table-outside: compat=0.10
    create t.qcow2 64M; poke set refcount_table_offset 0x10000000
    => changed | refcount_table | file_must_be_whole
own/l1-table-outside: compat=0.10
    create t.qcow2 64M; poke set l1_table_offset 0x10000000
    => changed | l1_table | file_must_be_whole
own/l1-table-in-cluster-0: compat=0.10
    create t.qcow2 64M; poke set l1_table_offset 0
    => changed | l1_table | file_must_be_whole
own/snapshot-table-outside: lazy_refcounts=on
    create t.qcow2 64M; snapshot -c s t.qcow2; poke set snapshots_offset 0x10000000
    => changed | snapshot_table | file_must_be_whole
own/l2-table-outside: compat=0.10
    create t.qcow2 64M; poke bytes 0x30000 8000000010000000
    => changed | l2_table | file_must_be_whole
own/up-v2-malformed-bitmaps: compat=1.1
    create -o compat=0.10 t.qcow2 64M; poke ext 23852875 short
    => refused | bitmaps_extension
own/bitmap-directory-broken: lazy_refcounts=on
    create t.qcow2 64M; bitmap --add t.qcow2 b0; poke bytes 512 00000002
    => refused | amended | bitmap_directory_not_read
own/v2-with-bitmaps-up: compat=1.1
    create -o compat=0.10 t.qcow2 64M; poke extfill 23852875 24
    => changed | amended | stale_bitmaps_kept
own/empty-snapshot-l1: compat=0.10
    create t.qcow2 0; snapshot -c s t.qcow2
    => refused | amended | empty_snapshot_l1
own/extensions-beyond-64k: compat=0.10
    create -o cluster_size=2M t.qcow2 64M; poke extfill 11111111 70000
    => changed | header_too_large | header_limit
own/zstd-in-snapshot-only: compat=0.10
    write r.img a 65536; convert -c -f raw -O qcow2 -o compression_type=zstd r.img t.qcow2;
    snapshot -c s t.qcow2; io -c 'write -P 9 0 64k' t.qcow2
    => changed / refused | downgrade_compressed_clusters | zstd_in_snapshots_blocks / -
own/zlib-in-snapshot-only: compat=0.10
    write r.img a 65536; convert -c -f raw -O qcow2 r.img t.qcow2;
    snapshot -c s t.qcow2; io -c 'write -P 9 0 64k' t.qcow2
    => changed | amended
own/zero-among-compressed: compat=0.10
    write r.img a 5242880; convert -c -f raw -O qcow2 r.img t.qcow2;
    io -c 'write -z 4480k 64k' t.qcow2
    => changed | amended
own/refcounts-not-read: compat=0.10
    create t.qcow2 64M; io -c 'write -P 9 0 64k' t.qcow2; poke set refcount_table_offset 0x30000
    => refused | amended | refcounts_not_read
own/noop-everything: compat=1.1,lazy_refcounts=on
    create -o lazy_refcounts=on t.qcow2 64M
    => unchanged | noop
own/noop-v2: compat=0.10,lazy_refcounts=off
    create -o compat=0.10 t.qcow2 64M
    => unchanged | noop
own/overlapping-options: compat=1.1,lazy_refcounts=off
    create -o lazy_refcounts=on t.qcow2 64M
    => changed | amended
"""

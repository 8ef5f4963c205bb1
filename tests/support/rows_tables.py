"""The table of qemu's behaviour: tables, snapshots, bitmaps, backing files. Test side.

Read by rows.py, which says how; a row's name is its name in the table.
"""

TEXT = r"""
zero/down-nobacking: compat=0.10
    create t.qcow2 64M;
    io -c 'write -P 5 0 256k' -c 'write -z 64k 64k' -c 'write -z -u 1M 64k' t.qcow2
    => changed | amended
zero/down-backing: compat=0.10
    create b.qcow2 64M; io -c 'write -P 9 0 4M' b.qcow2; create -b b.qcow2 -F qcow2 t.qcow2;
    io -c 'write -z 0 64k' -c 'write -z 1M 128k' -c 'write -P 5 2M 64k' -c 'write -z 2M 64k' t.qcow2
    => changed | amended
zero/down-backing-shorter: compat=0.10
    create b.qcow2 1M; create -b b.qcow2 -F qcow2 t.qcow2 4M; io -c 'write -z 0 4M' t.qcow2
    => changed | amended
zero/down-snapshot: compat=0.10
    create t.qcow2 64M;
    io -c 'write -P 5 0 128k' -c 'write -z 0 64k' -c 'write -z 2M 64k' t.qcow2;
    snapshot -c s t.qcow2; io -c 'write -P 6 0 64k' t.qcow2
    => changed | amended
zero/down-snapshot-backing: compat=0.10
    create b.qcow2 64M; io -c 'write -P 9 0 4M' b.qcow2; create -b b.qcow2 -F qcow2 t.qcow2;
    io -c 'write -z 0 128k' t.qcow2; snapshot -c s t.qcow2
    => changed | amended
zero/down-prealloc: compat=0.10
    create -o preallocation=metadata t.qcow2 4M; io -c 'write -z 0 1M' t.qcow2
    => changed | amended
zero/up-v2: compat=1.1
    create -o compat=0.10 t.qcow2 64M; io -c 'write -z 0 64k' t.qcow2
    => changed | amended
zero/down-p: compat=0.10
    create t.qcow2 4G; io -c 'write -z 0 64k' -c 'write -z 1G 64k' -c 'write -z 3G 64k' t.qcow2
    => changed | amended
snap/up-v2: compat=1.1
    create -o compat=0.10 t.qcow2 64M; io -c 'write -P 1 0 64k' t.qcow2; snapshot -c s1 t.qcow2;
    snapshot -c s2 t.qcow2
    => changed | amended
snap/up-v2-no-extra: compat=1.1
    create -o compat=0.10 t.qcow2 64M; io -c 'write -P 1 0 64k' t.qcow2; snapshot -c s1 t.qcow2;
    snapshot -c s2 t.qcow2; poke snapshot-extra 0
    => changed | amended
snap/up-v2-extra8: compat=1.1
    create -o compat=0.10 t.qcow2 64M; snapshot -c s1 t.qcow2; snapshot -c s2 t.qcow2;
    poke snapshot-extra 8
    => changed | amended
snap/up-v2-extra16: compat=1.1
    create -o compat=0.10 t.qcow2 64M; snapshot -c s1 t.qcow2; snapshot -c s2 t.qcow2;
    poke snapshot-extra 16
    => changed | amended
snap/v3-extra0: compat=1.1
    create t.qcow2 64M; snapshot -c s1 t.qcow2; snapshot -c s2 t.qcow2; poke snapshot-extra 0
    => unchanged | noop
snap/v3-extra40: compat=1.1
    create t.qcow2 64M; snapshot -c s1 t.qcow2; snapshot -c s2 t.qcow2; poke snapshot-extra 40
    => unchanged | noop
snap/down: compat=0.10
    create t.qcow2 64M; snapshot -c s1 t.qcow2; snapshot -c s2 t.qcow2
    => changed | amended
snap/down-resized: compat=0.10
    create t.qcow2 64M; snapshot -c s1 t.qcow2; snapshot -c s2 t.qcow2; resize t.qcow2 128M
    => refused | downgrade_snapshot_size
snap/down-resized-up-zero: compat=0.10
    create t.qcow2 64M; io -c 'write -z 0 64k' t.qcow2; snapshot -c s1 t.qcow2;
    snapshot -c s2 t.qcow2; resize t.qcow2 128M
    => refused | downgrade_snapshot_size
bm/noop: compat=1.1
    create t.qcow2 64M; bitmap --add t.qcow2 b0; bitmap --add --disable t.qcow2 b1;
    io -c 'write -P 1 0 1M' t.qcow2
    => changed | noop | no_op_writes_nothing
bm/lazy: lazy_refcounts=on
    create t.qcow2 64M; bitmap --add t.qcow2 b0; bitmap --add --disable t.qcow2 b1;
    io -c 'write -P 1 0 1M' t.qcow2
    => changed | amended
bm/down: compat=0.10
    create t.qcow2 64M; bitmap --add t.qcow2 b0; bitmap --add --disable t.qcow2 b1;
    io -c 'write -P 1 0 1M' t.qcow2
    => changed | downgrade_bitmaps | bitmaps_block
bm/autoclear-off: compat=1.1
    create t.qcow2 64M; bitmap --add t.qcow2 b0; bitmap --add --disable t.qcow2 b1;
    io -c 'write -P 1 0 1M' t.qcow2; poke set autoclear_features 0
    => changed | noop | stale_bitmaps_kept
bm/inconsistent-down: compat=0.10
    create t.qcow2 64M; bitmap --add t.qcow2 b0; bitmap --add --disable t.qcow2 b1;
    io -c 'write -P 1 0 1M' t.qcow2; crash
    => changed | downgrade_bitmaps | bitmaps_block
back/missing: compat=1.1
    create b.qcow2 64M; create -b b.qcow2 -F qcow2 t.qcow2; rm b.qcow2
    => refused | noop | backing_file_not_opened
back/long-name-up: compat=1.1
    deep-backing 1M; create -o compat=0.10 -b @deep -F qcow2 t.qcow2 1M
    => changed | amended
back/long-name-512-up: compat=1.1
    create b.qcow2 1M; create -o compat=0.10,cluster_size=512 -b b.qcow2 -F qcow2 t.qcow2 1M;
    poke extfill 11111111 376
    => refused | no_room
back/overflow-4k-up: compat=1.1
    create b.qcow2 1M; create -o compat=0.10,cluster_size=4k -b b.qcow2 -F qcow2 t.qcow2 1M;
    poke extfill 11111111 3960
    => refused | no_room
back/overflow-8k-up: compat=1.1
    create -o compat=0.10,cluster_size=8k t.qcow2 1M; poke extfill 11111111 7800
    => refused | amended | feature_names_not_added
back/overflow-up-snap: compat=1.1
    create -o compat=0.10,cluster_size=8k t.qcow2 1M; snapshot -c s1 t.qcow2;
    snapshot -c s2 t.qcow2; poke snapshot-extra 0; poke extfill 11111111 7800
    => refused, changed | amended | feature_names_not_added
back/overflow-noop-v3: compat=1.1
    create -o cluster_size=8k t.qcow2 1M; poke delext 6803f857; poke extfill 11111111 7800
    => refused | noop | feature_names_not_added
back/overflow-exact: compat=1.1
    create -o compat=0.10,cluster_size=512 t.qcow2 1M; poke extfill 11111111 384
    => changed | amended
back/overflow-exact+8: compat=1.1
    create -o compat=0.10,cluster_size=512 t.qcow2 1M; poke extfill 11111111 392
    => refused | no_room
corrupt/l1-unaligned: compat=0.10
    create t.qcow2 64M; io -c 'write 0 64k' t.qcow2; poke bytes 0x30000 8000000000042a00
    => refused, changed | l2_table | refusal_leaves_nothing
corrupt/zero-prealloc-unaligned: compat=0.10
    create t.qcow2 64M; io -c 'write 0 64k' t.qcow2; poke bytes 0x40000 8000000000052a01
    => refused, changed | l2_entry | refusal_leaves_nothing
corrupt/l1-unaligned-up: compat=1.1
    create -o compat=0.10 t.qcow2 64M; io -c 'write 0 64k' t.qcow2;
    poke bytes 0x30000 8000000000042a00
    => changed | amended
corrupt/zero-over-header: compat=0.10
    create t.qcow2 64M; io -c 'write 0 64k' t.qcow2; poke bytes 0x40000 8000000000000001
    => changed | amended
corrupt/zero-over-l1: compat=0.10
    create t.qcow2 64M; io -c 'write 0 64k' t.qcow2; poke bytes 0x40000 8000000000030001
    => refused, changed | overlap | refusal_leaves_nothing
corrupt/zero-beyond-eof: compat=0.10
    create t.qcow2 64M; io -c 'write 0 64k' t.qcow2; poke bytes 0x40000 8000000100000001
    => changed | l2_entry | zeroes_inside
corrupt/snap-l1: compat=0.10
    create t.qcow2 64M; io -c 'write 0 512' t.qcow2; snapshot -c s t.qcow2;
    poke bytes 0x70000 0000000000400200
    => refused | snapshot_table
corrupt/reftable-0: compat=1.1
    create t.qcow2 64M; poke set refcount_table_clusters 0
    => refused | refcount_table
corrupt/l1-small: compat=1.1
    create t.qcow2 4G; poke set l1_size 1
    => refused | l1_too_small
corrupt/cluster-bits: compat=1.1
    create t.qcow2 64M; poke bytes 20 00000016
    => refused | cluster_bits
corrupt/cluster-bits-8: compat=1.1
    create t.qcow2 64M; poke bytes 20 00000008
    => refused | cluster_bits
corrupt/backing-offset: compat=1.1
    create t.qcow2 64M; poke set backing_file_offset 70000
    => refused | backing_file
corrupt/backing-len: compat=1.1
    create t.qcow2 64M; poke set backing_file_offset 600; poke set backing_file_size 1024
    => refused | backing_file
corrupt/ext-too-long: compat=1.1
    create t.qcow2 64M; poke bytes 116 00ffffff
    => refused | header_extension
corrupt/refcount-order: compat=1.1
    create t.qcow2 64M; poke set refcount_order 7
    => refused | refcount_order
corrupt/no-end-marker: compat=1.1
    create -o cluster_size=512 t.qcow2 64M; poke extfill 11111111 384
    => unchanged | noop
shared/zero-on-snapshot-cluster: compat=0.10
    create t.qcow2 64M; io -c 'write -P 5 0 256k' t.qcow2; snapshot -c s t.qcow2;
    io -c 'write -z 0 128k' t.qcow2
    => changed | amended
v2/l2-reserved-bit: compat=1.1
    create -o compat=0.10 t.qcow2 64M; io -c 'write -P 5 0 64k' t.qcow2;
    poke bytes 0x40000 8000000000050001
    => changed | amended
env/raw-file: compat=1.1
    truncate t.qcow2 1048576
    => refused | not_qcow2
env/f-qcow2-on-raw: -f qcow2 compat=1.1
    truncate t.qcow2 1048576
    => refused | not_qcow2
env/empty: -f qcow2 compat=1.1
    truncate t.qcow2 0
    => refused | not_qcow2
env/vmdk: compat=1.1
    create -f vmdk t.qcow2 1M
    => refused | not_qcow2
env/truncated: compat=1.1
    create t.qcow2 64M; truncate t.qcow2 100
    => refused | truncated_header
"""

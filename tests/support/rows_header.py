"""The table of qemu's behaviour: headers, feature bits, data files, encryption. Test side.

Read by rows.py, which says how; a row's name is its name in the table.
"""

TEXT = r"""
hdr/noop-other-feature-table: compat=1.1
    create t.qcow2 64M; poke names 0 9 mine
    => changed | noop | no_op_writes_nothing
hdr/noop-no-feature-table: compat=1.1
    create t.qcow2 64M; poke delext 6803f857
    => changed | noop | no_op_writes_nothing
hdr/noop-hdr104: compat=1.1
    create t.qcow2 64M; poke hdr104
    => changed | noop | no_op_writes_nothing
hdr/noop-unknown-exts: compat=1.1
    create t.qcow2 64M; poke ext 11111111 one; poke ext 22222222 two; poke ext 33333333 three
    => changed | noop | no_op_writes_nothing
hdr/dup-unknown-ext: compat=1.1
    create t.qcow2 64M; poke ext 11111111 one; poke ext 11111111 two
    => changed | noop | no_op_writes_nothing
hdr/down-unknown-exts: compat=0.10
    create t.qcow2 64M; poke ext 11111111 one; poke ext 22222222 two
    => changed | amended | extension_order_kept
hdr/up-unknown-exts: compat=1.1
    create -o compat=0.10 t.qcow2 64M; poke ext 11111111 one; poke ext 22222222 two
    => changed | amended | extension_order_kept
hdr/unknown-fields-noop: compat=1.1
    create t.qcow2 64M; poke grow 16 0xab
    => unchanged | noop
hdr/unknown-fields-down-zero: compat=0.10
    create b.qcow2 64M; create -b b.qcow2 -F qcow2 t.qcow2; poke grow 8 0
    => changed | amended | unknown_header_fields_dropped
hdr/unknown-fields-down: compat=0.10
    create t.qcow2 64M; poke grow 8 0xab
    => changed | amended | unknown_header_fields_dropped
hdr/header-length-huge: compat=1.1
    create t.qcow2 64M; poke set header_length 70000
    => refused | header_length
hdr/header-length-96: compat=1.1
    create t.qcow2 64M; poke set header_length 96
    => refused | header_length
hdr/header-length-unaligned: compat=1.1
    create t.qcow2 64M; poke set header_length 107
    => refused | header_length
hdr/backing-no-fmt-up: compat=1.1
    create b.qcow2 64M; create -o compat=0.10 t.qcow2 64M; poke backing b.qcow2
    => changed | amended
hdr/backing-at-end-of-cluster: compat=1.1
    create b.qcow2 64M; create -o compat=0.10 t.qcow2 64M; poke backing-at-end b.qcow2
    => changed | amended
hdr/backing-offset-0-size-5: compat=1.1
    create -o compat=0.10 t.qcow2 64M; poke set backing_file_size 5
    => changed | amended
hdr/backing-size-0: compat=1.1
    create -o compat=0.10 t.qcow2 64M; poke backing x; poke set backing_file_size 0
    => changed | amended
hdr/compression-type-set-bit-missing: compat=1.1
    create t.qcow2 64M; poke bytes 104 01
    => refused | compression_type
hdr/padding-nonzero: compat=1.1
    create t.qcow2 64M; poke bytes 105 01020304050607
    => changed | noop | no_op_writes_nothing
hdr/size-not-512: compat=1.1
    create t.qcow2 64M; poke set size 67108964
    => changed | noop | virtual_size_kept
hdr/version-4: compat=1.1
    create t.qcow2 64M; poke set version 4
    => refused | version
hdr/version-1: compat=1.1
    create t.qcow2 64M; poke set version 1
    => refused | not_qcow2
feat/incompat-5: lazy_refcounts=on
    create t.qcow2 64M; poke or incompatible_features 0x20
    => refused | unknown_incompatible_features
feat/incompat-40: lazy_refcounts=on
    create t.qcow2 64M; poke or incompatible_features 0x10000000000
    => refused | unknown_incompatible_features
feat/incompat-named: lazy_refcounts=on
    create t.qcow2 64M; poke or incompatible_features 0x200; poke names 0 9 future-thing
    => refused | unknown_incompatible_features
feat/compat-unknown: lazy_refcounts=off
    create t.qcow2 64M; poke or compatible_features 0xf0
    => unchanged | noop
feat/compat-unknown-lazy: lazy_refcounts=on
    create t.qcow2 64M; poke or compatible_features 0xf0
    => changed | amended
feat/compat-unknown-down: compat=0.10
    create t.qcow2 64M; poke or compatible_features 0xf0
    => changed | amended
feat/autoclear-unknown: compat=1.1
    create t.qcow2 64M; poke or autoclear_features 0xf0
    => changed | noop | no_op_writes_nothing
feat/autoclear-unknown-down: compat=0.10
    create t.qcow2 64M; poke or autoclear_features 0xf0
    => changed | amended
feat/autoclear-raw-without-datafile: compat=1.1
    create t.qcow2 64M; poke or autoclear_features 2
    => refused | raw_without_data_file
feat/autoclear-bitmaps-without-ext: compat=1.1
    create t.qcow2 64M; poke or autoclear_features 1
    => unchanged | noop
feat/autoclear-bitmaps-without-ext-down: compat=0.10
    create t.qcow2 64M; poke or autoclear_features 1
    => changed | amended
feat/corrupt: lazy_refcounts=on
    create t.qcow2 64M; poke or incompatible_features 2
    => refused | corrupt
feat/corrupt-down: compat=0.10
    create t.qcow2 64M; poke or incompatible_features 2
    => refused | corrupt
feat/corrupt-noop: compat=1.1
    create t.qcow2 64M; poke or incompatible_features 2
    => refused | corrupt
feat/dirty-noop: compat=1.1
    create -o lazy_refcounts=on t.qcow2 64M; crash -c 'write -P 7 0 128k' -c flush
    => changed | dirty | dirty_refused
feat/dirty-lazy-off: lazy_refcounts=off
    create -o lazy_refcounts=on t.qcow2 64M; crash -c 'write -P 7 0 128k' -c flush
    => changed | dirty | dirty_refused
feat/dirty-down: compat=0.10
    create -o lazy_refcounts=on t.qcow2 64M; crash -c 'write -P 7 0 128k' -c flush
    => changed | dirty | dirty_refused
feat/dirty-q: compat=1.1
    create -o lazy_refcounts=on t.qcow2 64M; crash -c 'write -P 7 0 128k' -c flush
    => changed | dirty | dirty_refused
feat/dirty-without-lazy: compat=1.1
    create t.qcow2 64M; poke or incompatible_features 1
    => changed | dirty | dirty_refused
feat/lazy-down: compat=0.10
    create -o lazy_refcounts=on t.qcow2 64M
    => changed | amended
feat/lazy-down-with-lazy-on: compat=0.10,lazy_refcounts=on
    create -o lazy_refcounts=on t.qcow2 64M
    => changed | lazy_needs_v3 | lazy_on_with_downgrade
feat/lazy-on-and-down: compat=0.10,lazy_refcounts=on
    create t.qcow2 64M
    => refused | lazy_needs_v3
feat/lazy-on-v2: lazy_refcounts=on
    create -o compat=0.10 t.qcow2 64M
    => refused | lazy_needs_v3
feat/lazy-off-v2: lazy_refcounts=off
    create -o compat=0.10 t.qcow2 64M
    => unchanged | noop
feat/lazy-on-v2-up: compat=1.1,lazy_refcounts=on
    create -o compat=0.10 t.qcow2 64M
    => changed | amended
feat/lazy-on-v2-explicit: compat=0.10,lazy_refcounts=on
    create -o compat=0.10 t.qcow2 64M
    => refused | lazy_needs_v3
feat/lazy-off-and-down: compat=0.10,lazy_refcounts=off
    create -o lazy_refcounts=on t.qcow2 64M
    => changed | amended
feat/extl2-down: compat=0.10
    create -o extended_l2=on,cluster_size=64k t.qcow2 64M
    => refused | downgrade_extended_l2
feat/extl2-noop: lazy_refcounts=on
    create -o extended_l2=on t.qcow2 64M
    => changed | amended
feat/zstd-noop: lazy_refcounts=on
    create -o compression_type=zstd t.qcow2 64M
    => changed / refused | amended | - / no_zstd_in_5_2
feat/zstd-down-empty: compat=0.10
    create -o compression_type=zstd t.qcow2 64M
    => changed / refused | amended | - / no_zstd_in_5_2
feat/zstd-down-compressed: compat=0.10
    write r.img a 1000000; truncate r.img 67108864;
    convert -c -f raw -O qcow2 -o compression_type=zstd r.img t.qcow2
    => refused | downgrade_compressed_clusters
feat/zstd-down-plain: compat=0.10
    create -o compression_type=zstd t.qcow2 64M; io -c 'write -P 3 0 1M' t.qcow2
    => changed / refused | amended | - / no_zstd_in_5_2
feat/zstd-down-compressed-zero: compat=0.10
    write r.img a 1000000; truncate r.img 67108864;
    convert -c -f raw -O qcow2 -o compression_type=zstd r.img t.qcow2;
    io -c 'write -z 2M 64k' t.qcow2
    => refused, changed / refused | downgrade_compressed_clusters
    | refusal_leaves_nothing / -
feat/zstd-snap-compressed: compat=0.10
    write r.img a 1000000; truncate r.img 67108864;
    convert -c -f raw -O qcow2 -o compression_type=zstd r.img t.qcow2; snapshot -c s t.qcow2;
    io -c 'write -P 9 0 2M' -c 'discard 0 64M' t.qcow2
    => changed / refused | downgrade_compressed_clusters
    | zstd_in_snapshots_blocks / -
feat/zlib-down-compressed: compat=0.10
    write r.img a 1000000; convert -c -f raw -O qcow2 r.img t.qcow2
    => changed | amended
x/vmstate-4g: compat=0.10
    create t.qcow2 64M; snapshot -c s1 t.qcow2; poke snapshot 0 large_vm_state_size 0x200000000
    => refused | downgrade_snapshot_vm_state
x/garbage-after-header: compat=1.1
    create t.qcow2 64M; poke bytes 0x8000 deadbeef
    => changed | noop | no_op_writes_nothing
x/v2-garbage-72: compat=1.1
    create -o compat=0.10 t.qcow2 64M; poke bytes 0x100 deadbeefdeadbeef
    => changed | amended
x/backing-nul: compat=1.1
    create b.qcow2 64M; create -o compat=0.10 t.qcow2 64M; poke backing 'b.qcow2\0zzz'
    => changed | amended | strings_kept
x/fmt-nul: compat=1.1
    create b.qcow2 64M; create -o compat=0.10 -b b.qcow2 -F qcow2 t.qcow2;
    poke bytes 80 7261770000
    => changed | amended | strings_kept
x/dup-fmt-ext: compat=1.1
    create b.qcow2 64M; create -o compat=0.10 -b b.qcow2 -F qcow2 t.qcow2; poke ext e2792aca raw
    => changed | amended | strings_kept
x/fmt-without-backing: compat=1.1
    create -o compat=0.10 t.qcow2 64M; poke ext e2792aca raw
    => changed | amended
x/crypto-ext-without-luks: compat=1.1
    create t.qcow2 64M; poke ext 0537be77 0123456789abcdef
    => refused | crypto_extension
x/fmt-empty: compat=1.1
    create -o compat=0.10 t.qcow2 64M; poke ext e2792aca ''
    => changed | amended
x/fmt-unknown: compat=1.1
    create b.qcow2 64M; create -o compat=0.10 -b b.qcow2 -F qcow2 t.qcow2;
    poke bytes 80 666f6f6f6f
    => refused | amended | backing_file_not_opened
x/crypt-method-3: compat=1.1
    create t.qcow2 64M; poke set crypt_method 3
    => refused | crypt_method
x/compat-reserved-autoclear-lazy: lazy_refcounts=on
    create t.qcow2 64M; poke or autoclear_features 4
    => changed | amended
df/down: compat=0.10
    create -o data_file=d.raw t.qcow2 8M
    => refused | downgrade_data_file
df/noop: compat=1.1
    create -o data_file=d.raw t.qcow2 8M
    => unchanged | noop
df/raw-noop: compat=1.1
    create -o data_file=d.raw,data_file_raw=on t.qcow2 8M
    => unchanged | noop
df/ext-without-bit: compat=1.1
    create t.qcow2 64M; poke ext 44415441 ghost.raw
    => changed | noop | data_file_extension_kept
df/v2-ext: compat=1.1
    create -o compat=0.10 t.qcow2 64M; poke ext 44415441 ghost.raw
    => changed | amended | data_file_extension_kept
rc/8-down: compat=0.10
    create -o refcount_bits=8 t.qcow2 64M
    => refused | downgrade_refcount_width
luks/no-secret: compat=0.10
    create --object secret,id=s0,data=hunter2
    -o encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10 t.qcow2 4M
    => refused | amended | no_secret_needed
aes/no-secret: compat=0.10
    create --object secret,id=s0,data=hunter2 -o encrypt.format=aes,encrypt.key-secret=s0 t.qcow2 4M
    => refused | amended | no_secret_needed
"""

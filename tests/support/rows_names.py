"""Rows about names: backing files, data files, and `rebase -u`. Test side.

Read by rows.py, which says how.
"""

TEXT = r"""
back/same-both: backing_file=b.qcow2,backing_fmt=qcow2
    create b.qcow2 64M; create -b b.qcow2 -F qcow2 t.qcow2
    => unchanged | noop
back/same-file-only: backing_file=b.qcow2
    create b.qcow2 64M; create -b b.qcow2 -F qcow2 t.qcow2
    => refused / unchanged | backing_change | - / backing_file_confirmed
back/same-fmt-only: backing_fmt=qcow2
    create b.qcow2 64M; create -b b.qcow2 -F qcow2 t.qcow2
    => refused / unchanged | backing_change | - / backing_file_confirmed
back/other: backing_file=c.qcow2,backing_fmt=qcow2
    create b.qcow2 64M; create -b b.qcow2 -F qcow2 t.qcow2
    => refused / changed | backing_change | - / backing_file_confirmed
back/empty: backing_file=
    create b.qcow2 64M; create -b b.qcow2 -F qcow2 t.qcow2
    => refused / changed | backing_change | - / backing_file_confirmed
back/empty-none: backing_file=
    create t.qcow2 64M
    => refused / changed | backing_change | - / backing_file_confirmed
back/fmt-raw: backing_file=b.qcow2,backing_fmt=raw
    create b.qcow2 64M; create -b b.qcow2 -F qcow2 t.qcow2
    => refused / changed | backing_change | - / backing_file_confirmed
back/name-alone: backing_file=b.qcow2
    create b.qcow2 64M; create -o compat=0.10 t.qcow2 64M; poke backing b.qcow2
    => unchanged | noop
back/nul: backing_file=b.qcow2,backing_fmt=qcow2
    create b.qcow2 64M; create -o compat=0.10 -b b.qcow2 -F qcow2 t.qcow2;
    poke set backing_file_size 8
    => changed | noop | no_op_writes_nothing
back/refused-after-upgrade: compat=1.1,backing_file=x
    create -o compat=0.10 t.qcow2 64M
    => refused, changed / changed | backing_change | refusal_leaves_nothing / backing_file_confirmed
back/confirmed-with-upgrade: compat=1.1,backing_file=b.qcow2,backing_fmt=qcow2
    create b.qcow2 64M; create -o compat=0.10 -b b.qcow2 -F qcow2 t.qcow2
    => changed | amended
back/key-alone: backing_file
    create t.qcow2 64M
    => refused / changed | usage | - / key_alone_is_no_name
df/name: data_file=e.raw
    create -o data_file=d.raw t.qcow2 8M; write e.raw x 8388608
    => changed | amended
df/name-missing-file: data_file=nosuch.raw
    create -o data_file=d.raw t.qcow2 8M
    => changed | amended
df/name-empty: data_file=
    create -o data_file=d.raw t.qcow2 8M
    => changed | amended
df/name-same: data_file=d.raw
    create -o data_file=d.raw t.qcow2 8M
    => unchanged | noop
df/name-json: data_file=json:{}
    create -o data_file=d.raw t.qcow2 8M
    => changed | amended
df/old-missing: data_file=e.raw
    create -o data_file=d.raw t.qcow2 8M; rm d.raw
    => refused | amended | data_file_not_opened
df/none: data_file=x
    create t.qcow2 64M
    => refused | no_data_file
df/none-empty: data_file=
    create t.qcow2 64M
    => refused | no_data_file
df/none-v2-up: compat=1.1,data_file=x
    create -o compat=0.10 t.qcow2 64M
    => refused | no_data_file
df/key-alone: data_file
    create -o data_file=d.raw t.qcow2 8M
    => changed | usage | key_alone_is_no_name
df/overflow: data_file=@long
    create -o data_file=d.raw,cluster_size=512 t.qcow2 1M; poke extfill 11111111 256
    => refused | no_room
df/raw-on: data_file_raw=on
    create -o data_file=d.raw t.qcow2 8M
    => refused | data_file_raw
df/raw-on-none: data_file_raw=on
    create t.qcow2 8M
    => refused | data_file_raw
df/raw-on-again: data_file_raw=on
    create -o data_file=d.raw,data_file_raw=on t.qcow2 8M
    => unchanged | noop
df/raw-off: data_file_raw=off
    create -o data_file=d.raw,data_file_raw=on t.qcow2 8M
    => changed | amended
df/raw-off-none: data_file_raw=off
    create t.qcow2 8M
    => unchanged | noop
df/raw-off-name: data_file_raw=off,data_file=e.raw,lazy_refcounts=on
    create -o data_file=d.raw,data_file_raw=on t.qcow2 8M; write e.raw x 8388608
    => changed | amended
rebase/other: rebase -b c.qcow2 -F qcow2
    create b.qcow2 64M; create -b b.qcow2 -F qcow2 t.qcow2; create c.qcow2 64M
    => changed | amended
rebase/v2: rebase -b c.qcow2 -F qcow2
    create b.qcow2 64M; create -o compat=0.10 -b b.qcow2 -F qcow2 t.qcow2; create c.qcow2 64M
    => changed | amended
rebase/same: rebase -b b.qcow2 -F qcow2
    create b.qcow2 64M; create -b b.qcow2 -F qcow2 t.qcow2
    => unchanged | noop
rebase/new-missing: rebase -b nosuch -F raw
    create b.qcow2 64M; create -b b.qcow2 -F qcow2 t.qcow2
    => changed | amended
rebase/old-missing: rebase -b c.qcow2 -F qcow2
    create b.qcow2 64M; create -b b.qcow2 -F qcow2 t.qcow2; create c.qcow2 64M; rm b.qcow2
    => changed | amended
rebase/from-none: rebase -b c.qcow2 -F qcow2
    create t.qcow2 64M; create c.qcow2 64M
    => changed | amended
rebase/to-none: rebase -b ''
    create b.qcow2 64M; create -b b.qcow2 -F qcow2 t.qcow2
    => changed | amended
rebase/to-none-v2: rebase -b '' -F raw
    create b.qcow2 64M; create -o compat=0.10 -b b.qcow2 -F qcow2 t.qcow2
    => changed | amended
rebase/none-to-none: rebase -b ''
    create t.qcow2 64M
    => unchanged | noop
rebase/longest: rebase -b @deep -F raw
    create b.qcow2 64M; create -b b.qcow2 -F qcow2 t.qcow2
    => changed | amended
rebase/longest-512: rebase -b @deep -F raw
    create b.qcow2 1M; create -o cluster_size=512 -b b.qcow2 -F qcow2 t.qcow2 1M
    => refused | no_room
rebase/json: rebase -b 'json:{"driver":"null-co"}' -F raw
    create b.qcow2 64M; create -b b.qcow2 -F qcow2 t.qcow2
    => changed | amended
rebase/data-snapshots: rebase -b c.qcow2 -F qcow2
    create b.qcow2 64M; create -b b.qcow2 -F qcow2 t.qcow2; create c.qcow2 64M;
    io -c 'write -P 5 1M 192k' t.qcow2; snapshot -c s t.qcow2; bitmap --add t.qcow2 b0
    => changed | amended
rebase/raw-data-file: rebase -b c.qcow2 -F qcow2
    create -o data_file=d.raw,data_file_raw=on t.qcow2 8M; create c.qcow2 8M
    => refused | backing_raw
rebase/data-file: rebase -b c.qcow2 -F qcow2
    create -o data_file=d.raw t.qcow2 8M; create c.qcow2 8M
    => changed | amended
rebase/extended-l2: rebase -b c.qcow2 -F qcow2
    create -o extended_l2=on t.qcow2 8M; create c.qcow2 8M
    => changed | amended
rebase/no-name: rebase -F raw
    create b.qcow2 64M; create -b b.qcow2 -F qcow2 t.qcow2
    => changed | usage | rebase_needs_a_name
rebase/no-format: rebase -b c.qcow2
    create b.qcow2 64M; create -b b.qcow2 -F qcow2 t.qcow2; create c.qcow2 64M
    => refused / changed | usage | - / backing_file_needs_format
rebase/unknown-format: rebase -b c.qcow2 -F foo
    create b.qcow2 64M; create -b b.qcow2 -F qcow2 t.qcow2
    => refused | usage
rebase/protocol-format: rebase -b c.qcow2 -F file
    create b.qcow2 64M; create -b b.qcow2 -F qcow2 t.qcow2; create c.qcow2 64M
    => changed | usage | backing_format_is_a_format
rebase/force-share: rebase -U -b c.qcow2 -F qcow2
    create b.qcow2 64M; create -b b.qcow2 -F qcow2 t.qcow2; create c.qcow2 64M
    => changed | usage | rebase_is_not_shared
rebase/corrupt: rebase -b c.qcow2 -F qcow2
    create t.qcow2 64M; create c.qcow2 64M; poke or incompatible_features 2
    => refused | corrupt
rebase/unknown-autoclear: rebase -b c.qcow2 -F qcow2
    create t.qcow2 64M; create c.qcow2 64M; poke or autoclear_features 4
    => changed | amended
"""

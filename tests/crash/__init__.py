"""What a crash can leave behind, rebuilt and judged. Test side of the trust boundary.

    recording = record(instar("-o", "compat=1.1"), image)   # every write and barrier, by strace
    for state in crash_states(original, recording.operations):   # every file a crash could leave
        ...
    tally = Judge(original_path, amended_path, [newest]).judge(states)   # old, new or broken

`recorder` watches a real command at the system calls, `states` rebuilds, `reading` tells by the
forge's parser what a header means, `verdict` asks qemu-img too, `cases` are the images.
"""

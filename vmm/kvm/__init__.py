"""Host side: Python's binding to /dev/kvm (Linux, Documentation/virt/kvm/api.rst), x86-64 only.

It knows nothing of instar: one class per kind of file descriptor, one method per ioctl, under the
kernel's names. Errors are OSError with the kernel's errno.
"""

"""Host side: the virtual machine monitor. Trusted; every byte from the guest is hostile to it.

docs/architecture.md walks through the modules in the order in which an amend passes them.
"""

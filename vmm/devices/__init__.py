"""Host side: the only code that reads what the guest wrote: memory, queues, disk, serial."""

"""Host side: the keyslots of LUKS1: reads 592 bytes at fixed places, and plans what changes a slot.

Nothing here is imported unless keys are to change. The header's bytes are hostile, and so is what
an area holds; no secret goes further than this room (docs/decisions/).
"""

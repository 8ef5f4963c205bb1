"""Keyslots that instar changes, qemu-img and cryptsetup use, and the other way round. Test side.

`tests/support/luks.py` makes encrypted images with either, and says which passphrases open them.
"""

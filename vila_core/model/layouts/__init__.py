"""Layouts of other libraries' checkpoints: found, read and written, bit for bit.

Importing this package needs no torch; its modules do.
"""

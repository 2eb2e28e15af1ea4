"""Checks a folder of tiles from the specification alone (C2SP tlog-tiles, RFC 6962): tiles, entry bundles, checkpoint.

Shares no code with the journal. Usage: tiles.py FOLDER VKEY_FILE
"""

import os
import sys

from note import Key, sha256

folder, key_file = sys.argv[1:]


def node(left, right):
    return sha256(b"\x01" + left + right)


def read(level, index, width):
    groups = [f"{index % 1000:03}"]
    while index >= 1000:
        index //= 1000
        groups.insert(0, f"x{index % 1000:03}")
    path = os.path.join(folder, "tile", str(level), *groups)
    if width < 256:
        path = os.path.join(path + ".p", str(width))
    with open(path, "rb") as tile:
        return tile.read()


def level(number, count):
    """All hashes of a level of tiles: one for each 256^number leaves."""
    hashes = []
    for index in range((count + 255) // 256):
        width = min(256, count - 256 * index)
        tile = read(number, index, width)
        assert len(tile) == 32 * width, f"tile {index} of level {number} has {len(tile)} bytes"
        hashes += [tile[at:at + 32] for at in range(0, len(tile), 32)]
    return hashes


def root(hashes):
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return node(root(hashes[:split]), root(hashes[split:]))


with open(os.path.join(folder, "checkpoint"), encoding="utf-8", newline="\n") as file:
    size, signed, rest = Key(key_file).first_checkpoint(file.read())
assert rest == "", "more than one checkpoint"
leaves = level(0, size)
assert root(leaves) == signed, "level 0 does not have the signed root"
number, below, count = 1, leaves, size // 256
while count:
    here = level(number, count)
    for index, value in enumerate(here):
        assert value == root(below[256 * index:256 * (index + 1)]), f"hash {index} of level {number}"
    number, below, count = number + 1, here, count // 256
for index in range((size + 255) // 256):
    bundle = read("entries", index, min(256, size - 256 * index))
    at = entry = 0
    while at < len(bundle):
        length = int.from_bytes(bundle[at:at + 2], "big")
        line = bundle[at + 2:at + 2 + length]
        assert sha256(b"\x00" + line) == leaves[256 * index + entry], f"entry {256 * index + entry}"
        at, entry = at + 2 + length, entry + 1
    assert entry == min(256, size - 256 * index), f"bundle {index} has {entry} entries"
print(f"records: {size}, levels: {number}")

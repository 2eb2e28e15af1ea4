"""Checks each record of an excerpt from its written format alone: roots of ranges by RFC 6962, section 2.1.

Shares no code with the journal. Usage: excerpt.py EXCERPT VKEY_FILE
"""

import base64
import json
import sys

from note import Key, sha256


def split(length):
    return 1 << ((length - 1).bit_length() - 1)


def root_over(index, leaf, first, end, hashes):
    """The root over the records of a range, with that leaf in it."""
    if end - first == 1:
        return leaf
    middle = first + split(end - first)
    if index < middle:
        left, right = root_over(index, leaf, first, middle, hashes), hashes[(middle, end)]
    else:
        left, right = hashes[(first, middle)], root_over(index, leaf, middle, end, hashes)
    return sha256(b"\x01" + left + right)


key = Key(sys.argv[2])
with open(sys.argv[1], "rb") as file:
    lines = file.read().split(b"\n")
assert lines.pop(0) == b"portcullis-excerpt@v1"
count = int(lines.pop(0).removeprefix(b"records "))
records, lines = lines[:count], lines[count:]
count = int(lines.pop(0).removeprefix(b"hashes "))
hashes = {}
for line in lines[:count]:
    first, end, encoded = line.split(b" ")
    hashes[(int(first), int(end))] = base64.b64decode(encoded)
lines = lines[count:]
assert lines.pop(0) == b""
size, root, rest = key.first_checkpoint(b"\n".join(lines).decode())
assert not rest, "more than one checkpoint"
before = -1
for record in records:
    index, line = record.split(b" ", 1)
    index = int(index)
    assert before < index < size and json.loads(line)["seq"] == index
    before = index
    assert root_over(index, sha256(b"\x00" + line), 0, size, hashes) == root, f"record {index}"
print(f"{len(records)} records of {size}")

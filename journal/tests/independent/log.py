"""Checks a log from its written format alone: chain, Merkle roots (RFC 6962), signed notes (C2SP), Ed25519 by OpenSSL.

Shares no code with the journal. Usage: log.py DIR VKEY_FILE
"""

import glob
import json
import os
import sys

from note import Key, sha256

directory, key_file = sys.argv[1:]

# Chain.
lines = []
for path in sorted(glob.glob(os.path.join(directory, "*.jsonl"))):
    assert int(os.path.basename(path)[:12]) == len(lines), path
    with open(path, "rb") as segment:
        lines += segment.read().splitlines()
prev = "0" * 64
for number, line in enumerate(lines):
    record = json.loads(line)
    assert record["seq"] == number, f"sequence at {number}"
    assert record["prev"] == prev, f"chain at {number}"
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert canonical.encode() == line, f"record {number} is not in canonical form"
    prev = sha256(line).hex()

# Merkle tree, by the recursive definition of RFC 6962 section 2.1, with memory for whole subtrees.
known = {}


def root(start, end):
    if (start, end) not in known:
        if end - start == 1:
            value = sha256(b"\x00" + lines[start])
        else:
            split = 1
            while split * 2 < end - start:
                split *= 2
            value = sha256(b"\x01" + root(start, start + split) + root(start + split, end))
        known[start, end] = value
    return known[start, end]


key = Key(key_file)
with open(os.path.join(directory, "checkpoints"), encoding="utf-8", newline="\n") as file:
    rest = file.read()
checked = 0
while rest:
    size, root_hash, rest = key.first_checkpoint(rest)
    assert root_hash == root(0, size), f"root over {size}"
    checked += 1
assert size == len(lines), "the last checkpoint does not cover the log"
print(f"records: {len(lines)}, signatures: {checked}")

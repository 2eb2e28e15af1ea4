"""Checks a proof from its written format alone: Merkle paths by the algorithms of RFC 9162, section 2.1.3.2 and 2.1.4.2.

Shares no code with the journal. Usage: proof.py PROOF VKEY_FILE [OLD_CHECKPOINT]
"""

import base64
import sys

from note import Key, sha256


def node(left, right):
    return sha256(b"\x01" + left + right)


key = Key(sys.argv[2])
with open(sys.argv[1], encoding="utf-8", newline="\n") as file:
    head, note = file.read().split("\n\n", 1)
size, root, rest = key.first_checkpoint(note)
assert not rest, "more than one checkpoint"
head = head.split("\n")

if len(sys.argv) == 3:
    assert head[0] == "c2sp.org/tlog-proof@v1"
    record = base64.b64decode(head[1].removeprefix("extra "))
    index = int(head[2].removeprefix("index "))
    path = [base64.b64decode(line) for line in head[3:]]
    assert index < size
    fn, sn, value = index, size - 1, sha256(b"\x00" + record)
    for sibling in path:
        assert sn > 0
        if fn & 1 or fn == sn:
            value = node(sibling, value)
            while fn & 1 == 0 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            value = node(value, sibling)
        fn, sn = fn >> 1, sn >> 1
    assert sn == 0 and value == root
    print(f"record {index} of {size}")
else:
    with open(sys.argv[3], encoding="utf-8", newline="\n") as file:
        old, old_root, _ = key.first_checkpoint(file.read())
    assert int(head[0].removeprefix("old ")) == old
    path = [base64.b64decode(line) for line in head[1:]]
    assert 0 < old < size and path
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    fn, sn = old - 1, size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for sibling in path[1:]:
        assert sn > 0
        if fn & 1 or fn == sn:
            fr, sr = node(sibling, fr), node(sibling, sr)
            while fn & 1 == 0 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node(sr, sibling)
        fn, sn = fn >> 1, sn >> 1
    assert sn == 0 and fr == old_root and sr == root
    print(f"from {old} to {size}")

"""Checks a log from its written format alone: chain, Merkle roots (RFC 6962), signed notes (C2SP), Ed25519 by OpenSSL.

Shares no code with the journal. Usage: independent.py DIR VKEY_FILE
"""

import base64
import glob
import hashlib
import json
import os
import subprocess
import sys
import tempfile

directory, key_file = sys.argv[1:]


def sha256(data):
    return hashlib.sha256(data).digest()


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


# Keys and notes.
name, key_id, data = open(key_file).read().strip().split("+", 2)
public = base64.b64decode(data)
assert public[0] == 1, "not Ed25519"
assert sha256(name.encode() + b"\n" + public)[:4].hex() == key_id
with open(os.path.join(directory, "checkpoints"), encoding="utf-8", newline="\n") as file:
    rest = file.read()
checked = 0
with tempfile.TemporaryDirectory() as temporary:
    pem = os.path.join(temporary, "key.pem")
    # SubjectPublicKeyInfo of Ed25519, RFC 8410.
    der = bytes.fromhex("302a300506032b6570032100") + public[1:]
    with open(pem, "w") as out:
        out.write(f"-----BEGIN PUBLIC KEY-----\n{base64.b64encode(der).decode()}\n-----END PUBLIC KEY-----\n")
    while rest:
        text, rest = rest.split("\n\n", 1)
        signature, _, rest = rest.partition("\n")
        text += "\n"
        origin, size, root_hash = text.splitlines()
        dash, signer, blob = signature.split(" ")
        blob = base64.b64decode(blob)
        assert (dash, signer, origin) == ("\u2014", name, name)
        assert blob[:4].hex() == key_id
        for file, content in (("text", text.encode()), ("signature", blob[4:])):
            with open(os.path.join(temporary, file), "wb") as out:
                out.write(content)
        subprocess.run(
            ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", pem, "-rawin",
             "-in", os.path.join(temporary, "text"), "-sigfile", os.path.join(temporary, "signature")],
            check=True, stdout=subprocess.DEVNULL)
        assert base64.b64decode(root_hash) == root(0, int(size)), f"root over {size}"
        checked += 1
assert int(size) == len(lines), "the last checkpoint does not cover the log"
print(f"records: {len(lines)}, signatures: {checked}")

"""Checks the signature of a manifest from its written format alone, and prints its digests and names.

Shares no code with the journal. Usage: manifest.py MANIFEST VKEY_FILE
"""

import base64
import sys

from note import Key

key = Key(sys.argv[2])
with open(sys.argv[1], encoding="utf-8", newline="\n") as file:
    text, signature = file.read().rsplit("\n\n", 1)
dash, signer, blob = signature.removesuffix("\n").split(" ")
blob = base64.b64decode(blob)
assert (dash, signer) == ("\u2014", key.name) and blob[:4].hex() == key.id
key.check(text + "\n", blob[4:])

lines = text.split("\n")
fields = dict(line[2:].split(" ", 1) for line in lines[1:9])
assert lines[0] == "# portcullis-manifest@v1"
assert list(fields) == ["log", "records", "session", "user", "time", "scope", "below", "files"]
assert fields["log"] == key.name
files = lines[9:]
assert len(files) == 2 * int(fields["files"])
for facts, line in zip(files[::2], files[1::2]):
    size, time, records = facts.removeprefix("# ").split(", ")[:3]
    digest, name = line.removeprefix("# ").split("  ", 1)
    print(digest, name, size, time, records)

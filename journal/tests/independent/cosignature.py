"""Checks cosigned checkpoints from their written format alone (C2SP tlog-cosignature, cosignature/v1); Ed25519 by OpenSSL.

Shares no code with the journal. Usage: cosignature.py NOTES LOG_VKEY_FILE WITNESS_VKEY_FILE...
"""

import base64
import sys

from note import Key

log = Key(sys.argv[2])
witnesses = [Key(path, 4) for path in sys.argv[3:]]
with open(sys.argv[1], encoding="utf-8", newline="\n") as file:
    rest = file.read()
places = []
while rest:
    text, _, rest = rest.partition("\n\n")
    text += "\n"
    origin, size, _ = text.splitlines()[:3]
    assert origin == log.name
    signatures = []
    while rest.startswith("\u2014 "):
        line, _, rest = rest.partition("\n")
        _, name, blob = line.split(" ")
        signatures.append((name, base64.b64decode(blob)))

    def of(key):
        return [blob[4:] for name, blob in signatures if name == key.name and blob[:4].hex() == key.id]

    log.check(text, of(log)[0])
    by = 0
    for witness in witnesses:
        for blob in of(witness):
            assert len(blob) == 72
            time = int.from_bytes(blob[:8], "big")
            assert 0 < time < 1 << 63
            witness.check(f"cosignature/v1\ntime {time}\n{text}", blob[8:])
            by += 1
    assert by, f"nobody cosigned {size} records"
    places.append(int(size))
assert places, "no checkpoint"
print(f"cosigned: {len(places)}, up to {max(places)}")

"""Reads hidden paths from the written format alone: tokens by RFC 2104, sealed boxes as libsodium documents them.

X25519 by RFC 7748, Poly1305 by RFC 8439, XSalsa20 by "Extending the Salsa20 nonce". Shares no code with the gateway.
Usage: hidden.py SEGMENT PATH_KEY AUDITOR_SECRET; prints a JSON object a line: the opened fields of each record.
"""

import base64
import hashlib
import hmac
import json
import re
import struct
import sys

P = 2**255 - 19


def x25519(scalar, point):
    k = bytearray(scalar)
    k[0] &= 248
    k[31] = k[31] & 127 | 64
    k = int.from_bytes(k, "little")
    x1 = int.from_bytes(point, "little") & (2**255 - 1)
    x2, z2, x3, z3, swap = 1, 0, x1, 1, 0
    for t in reversed(range(255)):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a, b * b, d * a, c * b
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


def rounds(words):
    def mix(at, one, other, by):
        total = (words[one] + words[other]) & 0xFFFFFFFF
        words[at] ^= (total << by | total >> (32 - by)) & 0xFFFFFFFF

    for _ in range(10):
        for a, b, c, d in ((0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11),
                           (0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14)):
            mix(b, a, d, 7)
            mix(c, b, a, 9)
            mix(d, c, b, 13)
            mix(a, d, c, 18)


def state(key, nonce):
    sigma = struct.unpack("<4I", b"expand 32-byte k")
    k, n = struct.unpack("<8I", key), struct.unpack("<4I", nonce)
    return [sigma[0], *k[:4], sigma[1], *n, sigma[2], *k[4:], sigma[3]]


def hsalsa20(key, nonce):
    words = state(key, nonce)
    rounds(words)
    return struct.pack("<8I", *(words[at] for at in (0, 5, 10, 15, 6, 7, 8, 9)))


def xsalsa20(key, nonce, length):
    key, out = hsalsa20(key, nonce[:16]), b""
    while len(out) < length:
        words = state(key, nonce[16:] + struct.pack("<Q", len(out) // 64))
        first = list(words)
        rounds(words)
        out += struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(first, words)))
    return out[:length]


def poly1305(key, message):
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for at in range(0, len(message), 16):
        total = (total + int.from_bytes(message[at:at + 16] + b"\x01", "little")) * r % (2**130 - 5)
    return ((total + int.from_bytes(key[16:], "little")) % 2**128).to_bytes(16, "little")


def open_box(secret, box):
    ephemeral, tag, box = box[:32], box[32:48], box[48:]
    public = x25519(secret, (9).to_bytes(32, "little"))
    nonce = hashlib.blake2b(ephemeral + public, digest_size=24).digest()
    stream = xsalsa20(hsalsa20(x25519(secret, ephemeral), bytes(16)), nonce, 32 + len(box))
    assert poly1305(stream[:32], box) == tag, "the box is not sealed to this key"
    plain = bytes(a ^ b for a, b in zip(box, stream[32:]))
    assert len(plain) % 64 == 0
    return plain.rstrip(b"\0").removesuffix(b"\x80")


def token(key, path):
    names = path.split(b"/")
    out = []
    for name in names:
        whole = hmac.new(key, name, hashlib.sha256).digest()[:16]
        plain = name in (b"", b".", b"..")
        out.append(name.decode() if plain else base64.urlsafe_b64encode(whole).rstrip(b"=").decode())
    extension = re.fullmatch(rb".+(\.[A-Za-z][A-Za-z0-9]{0,7})", names[-1], re.DOTALL)
    return "hmac:" + "/".join(out) + (extension[1].decode() if extension else "")


key = open(sys.argv[2], "rb").read()
secret = base64.b64decode(open(sys.argv[3]).read().strip().removeprefix("auditor-secret:"))
assert len(key) == len(secret) == 32
for line in open(sys.argv[1], "rb"):
    body = json.loads(line)["body"]
    opened = {}
    for name, value in body.items():
        if name.endswith("_sealed"):
            name = name.removesuffix("_sealed")
            plain = open_box(secret, base64.b64decode(value))
            opened[name] = plain.hex()
            if name.startswith("path"):
                assert body[name] == token(key, plain), f"{body[name]} is not the token of {plain}"
    print(json.dumps(opened))

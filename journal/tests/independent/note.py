"""Signed checkpoints (C2SP signed-note, tlog-checkpoint) from their written format alone; Ed25519 by OpenSSL."""

import base64
import hashlib
import os
import subprocess
import tempfile


def sha256(data):
    return hashlib.sha256(data).digest()


class Key:
    """The public half of a key, as its `.pub` file has it: 1 is the kind of a log's, 4 that of a witness's."""

    def __init__(self, path, kind=1):
        self.name, self.id, data = open(path).read().strip().split("+", 2)
        public = base64.b64decode(data)
        assert public[0] == kind and len(public) == 33, "not Ed25519, or another kind of key"
        assert sha256(self.name.encode() + b"\n" + public)[:4].hex() == self.id
        # SubjectPublicKeyInfo of Ed25519, RFC 8410.
        der = bytes.fromhex("302a300506032b6570032100") + public[1:]
        self.pem = f"-----BEGIN PUBLIC KEY-----\n{base64.b64encode(der).decode()}\n-----END PUBLIC KEY-----\n"

    def first_checkpoint(self, notes):
        """Size and root of the first note, which has to be signed by this key, and the text behind it."""
        text, rest = notes.split("\n\n", 1)
        signature, _, rest = rest.partition("\n")
        text += "\n"
        origin, size, root = text.splitlines()
        dash, signer, blob = signature.split(" ")
        blob = base64.b64decode(blob)
        assert (dash, signer, origin) == ("\u2014", self.name, self.name)
        assert blob[:4].hex() == self.id
        self.check(text, blob[4:])
        return int(size), base64.b64decode(root), rest

    def check(self, text, signature):
        """Fails unless this key signed the text."""
        with tempfile.TemporaryDirectory() as folder:
            paths = {}
            for name, content in (("key", self.pem.encode()), ("text", text.encode()), ("signature", signature)):
                paths[name] = os.path.join(folder, name)
                with open(paths[name], "wb") as out:
                    out.write(content)
            subprocess.run(
                ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", paths["key"], "-rawin",
                 "-in", paths["text"], "-sigfile", paths["signature"]],
                check=True, stdout=subprocess.DEVNULL)

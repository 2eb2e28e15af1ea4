"""One SFTP session with libcurl. Orders come as JSON on standard input."""

import json
import os
import sys
import tempfile

import pycurl

orders = json.load(sys.stdin)
base = f'sftp://{orders["host"]}:{orders["port"]}'

known_hosts = tempfile.NamedTemporaryFile("w")
known_hosts.write(f'[{orders["host"]}]:{orders["port"]} {orders["host_key"]}\n')
known_hosts.flush()

curl = pycurl.Curl()


def perform(path, **options):
    """One transfer; libcurl keeps the connection from one to the next."""
    curl.reset()
    options = {
        "URL": base + path,
        "USERNAME": orders["user"],
        "PASSWORD": orders["password"] or orders["code"],
        "SSH_AUTH_TYPES": pycurl.SSH_AUTH_KEYBOARD,
        "SSH_KNOWNHOSTS": known_hosts.name,
        "TIMEOUT": 60,
        "PROXY": "",
        **options,
    }
    if orders["key"]:
        options["SSH_AUTH_TYPES"] |= pycurl.SSH_AUTH_PUBLICKEY
        options["SSH_PRIVATE_KEYFILE"] = orders["key"]
        options["SSH_PUBLIC_KEYFILE"] = orders["certificate"] or orders["key"] + ".pub"
    for name, value in options.items():
        curl.setopt(getattr(pycurl, name), value)
    curl.perform()


def command(folder, *words):
    perform(folder, NOBODY=True, QUOTE=[" ".join(words)])


for verb, *paths in orders["steps"]:
    if verb in ("put", "resume"):
        local, remote = paths
        with open(local, "rb") as source:

            def seek(offset, whence):
                source.seek(offset, whence)
                return pycurl.SEEKFUNC_OK

            perform(
                remote,
                UPLOAD=True,
                READDATA=source,
                SEEKFUNCTION=seek,
                INFILESIZE_LARGE=os.path.getsize(local),
                # -1: from where the file there ends.
                RESUME_FROM_LARGE=-1 if verb == "resume" else 0,
            )
    elif verb == "get":
        remote, local = paths
        with open(local, "wb") as target:
            perform(remote, WRITEDATA=target)
    elif verb == "list":
        perform(paths[0] + "/", WRITEFUNCTION=lambda data: sys.stdout.write(data.decode()) and None)
    else:
        name = {"remove": "rm"}.get(verb, verb)
        command("/", name, *paths)
curl.close()

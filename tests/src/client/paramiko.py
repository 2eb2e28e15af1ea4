"""One SFTP session with paramiko. Orders come as JSON on standard input."""

import json
import socket
import sys

import paramiko

orders = json.load(sys.stdin)


def answer(_title, _instructions, prompts):
    return [
        orders["code"] if "One-time" in prompt else orders["password"]
        for prompt, _echo in prompts
    ]


sock = socket.create_connection((orders["host"], orders["port"]), timeout=20)
if orders["key"]:
    # The plain Transport asks for the authentication service again before the second method,
    # and the server answers that request once only.
    transport = paramiko.ServiceRequestingTransport(sock)
else:
    transport = paramiko.Transport(sock)
transport.start_client(timeout=20)
key = transport.get_remote_server_key()
if f"{key.get_name()} {key.get_base64()}" != orders["host_key"]:
    sys.exit("the host key is another one")


def show_key():
    key = paramiko.PKey.from_path(orders["key"])
    return transport.auth_publickey(orders["user"], key)


if orders["key_comes_last"]:
    left = transport.auth_interactive(orders["user"], answer)
    if "publickey" not in left:
        sys.exit(f"after the password the server wants {left}")
    left = show_key()
    if left:
        sys.exit(f"after the key the server wants {left}")
else:
    left = show_key() if orders["key"] else ["keyboard-interactive"]
    if left and "keyboard-interactive" not in left:
        sys.exit(f"after the key the server wants {left}")
    while left:
        left = transport.auth_interactive(orders["user"], answer)

sftp = paramiko.SFTPClient.from_transport(transport)
for verb, *paths in orders["steps"]:
    if verb == "list":
        for entry in sftp.listdir_attr(*paths):
            print(entry)
    elif verb == "check":
        with sftp.open(*paths) as file:
            print(file.check("sha256").hex())
    elif verb == "resume":
        local, remote = paths
        size = sftp.stat(remote).st_size
        with open(local, "rb") as source, sftp.open(remote, "ab") as there:
            source.seek(size)
            there.write(source.read())
    elif verb == "rename":
        sftp.posix_rename(*paths)
    else:
        getattr(sftp, verb)(*paths)
sftp.close()
transport.close()

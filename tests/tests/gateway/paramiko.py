"""Logins with paramiko as its users write them. Orders come as JSON on standard input."""

import json
import logging
import socket
import sys
import time

import paramiko

orders = json.load(sys.stdin)
# What a connection that ends says about itself is no finding.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


def client(**secrets):
    made = paramiko.SSHClient()
    made.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    made.connect(
        orders["host"],
        orders["port"],
        username=orders["user"],
        look_for_keys=False,
        allow_agent=False,
        timeout=20,
        auth_timeout=20,
        **secrets,
    )
    return made


def started(kind):
    sock = socket.create_connection((orders["host"], orders["port"]), timeout=20)
    transport = kind(sock)
    transport.start_client(timeout=20)
    return transport


def key():
    return paramiko.Ed25519Key.from_private_key_file(orders["key"])


def password_with_code():
    """The plain client, which knows the method `password` and one text."""
    print(client(password=orders["password"] + orders["code"]).open_sftp().listdir("/"))


def key_alone():
    print(client(pkey=key()).open_sftp().listdir("/"))


def both_prompts_at_once():
    transport = started(paramiko.Transport)
    rounds = []

    def answer(_title, _instructions, prompts):
        rounds.append([prompt for prompt, _echo in prompts])
        return [orders["password"], orders["code"]]

    transport.auth_interactive(orders["user"], answer)
    print(rounds)
    print(paramiko.SFTPClient.from_transport(transport).listdir("/"))


def wrong_password_after_key():
    """A wrong password takes no method off the list, and a second try finds the key still shown."""
    transport = started(paramiko.ServiceRequestingTransport)
    left = transport.auth_publickey(orders["user"], key())
    try:
        transport.auth_password(orders["user"], "wrong-Secret-1234", fallback=False)
    except paramiko.BadAuthenticationType as gone:
        sys.exit(f"after {left} the list is {gone.allowed_types}")
    except paramiko.AuthenticationException:
        pass
    left = transport.auth_password(orders["user"], orders["password"], fallback=False)
    print("in" if transport.is_authenticated() else f"left {left}")


def another_service_after_key():
    """What was shown is bound to the service: who asks for another is cut off."""
    transport = started(paramiko.ServiceRequestingTransport)
    transport.auth_publickey(orders["user"], key())
    request = paramiko.Message()
    request.add_byte(b"\x32")
    for text in [orders["user"], "ssh-other", "password"]:
        request.add_string(text)
    request.add_boolean(False)
    request.add_string(orders["password"])
    transport._send_message(request)
    begun = time.monotonic()
    while transport.is_active() and time.monotonic() - begun < 60:
        time.sleep(0.05)
    print("open" if transport.is_active() else "closed")


def password_while_locked():
    """A check that can't end: the database is held by somebody else."""
    import sqlite3

    transport = started(paramiko.ServiceRequestingTransport)
    transport.auth_publickey(orders["user"], key())
    other = sqlite3.connect(orders["database"], isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    begun = time.monotonic()
    try:
        transport.auth_password(orders["user"], orders["password"], fallback=False)
        print("in")
    except (paramiko.SSHException, EOFError):
        print("cut after", time.monotonic() - begun)
    other.execute("ROLLBACK")


globals()[orders["flow"]]()

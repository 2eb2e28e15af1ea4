"""A mail server that keeps each mail as a line of JSON.

Arguments: address, port, user, password, certificate, key, file, and then any of
  implicit no-starttls refuse=ADDRESS
"""

import json
import signal
import ssl
import sys

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

address, port, user, password, certificate, key, kept = sys.argv[1:8]
modes = set(sys.argv[8:])
refused = {mode.split("=", 1)[1] for mode in modes if mode.startswith("refuse=")}


class Keeper:
    async def handle_RCPT(self, server, session, envelope, recipient, options):
        if recipient in refused:
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(recipient)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        mail = {
            "is_encrypted": session.ssl is not None or "implicit" in modes,
            "user": session.auth_data,
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "text": envelope.content.decode("ascii"),
        }
        with open(kept, "a") as file:
            file.write(json.dumps(mail) + "\n")
        return "250 OK"


def authenticate(server, session, envelope, mechanism, given):
    good = LoginPassword(user.encode(), password.encode())
    return AuthResult(success=given == good, auth_data=user)


context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(certificate, key)
encryption = {}
if "implicit" in modes:
    # Version 1.4 knows only of its own STARTTLS.
    encryption = {"ssl_context": context, "auth_require_tls": False}
elif "no-starttls" not in modes:
    encryption = {"tls_context": context, "require_starttls": True}
controller = Controller(
    Keeper(),
    hostname=address,
    port=int(port),
    authenticator=authenticate,
    auth_required="no-starttls" not in modes,
    **encryption,
)
controller.start()
print("ready", flush=True)
signal.sigwait({signal.SIGTERM, signal.SIGINT})

"""An FTP server that can be made to know less, or to list in old forms.

Arguments: address, port, home, user, password, and then any of
  no-mlsd no-size no-mdtm no-mfmt no-rest no-appe no-epsv no-feat no-chmod dos eplf vms latin1
  certificate=FILE key=FILE
"""

import os
import stat
import sys
import time

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.filesystems import AbstractedFS
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import ThreadedFTPServer

address, port, home, user, password = sys.argv[1:6]
modes = set(sys.argv[6:])
named = dict(mode.split("=", 1) for mode in modes if "=" in mode)

WITHOUT = {
    "no-mlsd": ["MLSD", "MLST"],
    "no-size": ["SIZE"],
    "no-mdtm": ["MDTM"],
    "no-mfmt": ["MFMT"],
    "no-rest": ["REST"],
    "no-appe": ["APPE"],
    "no-epsv": ["EPSV"],
    "no-feat": ["FEAT"],
    "no-chmod": ["SITE CHMOD"],
}


class Listed(AbstractedFS):
    """Lists as Windows, publicfile or VMS do."""

    def format_list(self, basedir, listing, ignore_err=True):
        for name in listing:
            status = os.lstat(os.path.join(basedir, name))
            folder = stat.S_ISDIR(status.st_mode)
            moment = time.gmtime(status.st_mtime)
            if "dos" in modes:
                size = "       <DIR>          " if folder else "%21d " % status.st_size
                line = time.strftime("%m-%d-%y  %I:%M%p", moment) + size + name
            elif "eplf" in modes:
                kind = "/," if folder else "r,s%d," % status.st_size
                line = "+i1.%d,m%d,%s\t%s" % (status.st_ino, status.st_mtime, kind, name)
            else:
                shown = name + (".DIR;1" if folder else ";1")
                line = "%s  1/3  %s  [LAB,GATEWAY]  (RWED,RWED,RE,)" % (
                    shown,
                    time.strftime("%d-%b-%Y %H:%M:%S", moment).upper(),
                )
            yield (line + "\r\n").encode("utf8", "surrogateescape")


handler = FTPHandler
if "certificate" in named:
    from pyftpdlib.handlers import TLS_FTPHandler

    handler = TLS_FTPHandler
    handler.certfile = named["certificate"]
    handler.keyfile = named["key"]
    handler.tls_control_required = True
    handler.tls_data_required = True


class Less(handler):
    proto_cmds = {
        name: value
        for name, value in handler.proto_cmds.items()
        if not any(name in WITHOUT.get(mode, ()) for mode in modes)
    }


if modes & {"dos", "eplf", "vms"}:
    Less.abstracted_fs = Listed
if "latin1" in modes:
    Less.encoding = "latin-1"
authorizer = DummyAuthorizer()
authorizer.add_user(user, password, home, perm="elradfmwMT")
Less.authorizer = authorizer
Less.use_gmt_times = True
# A refused command is not a reason to be slow.
Less.auth_failed_timeout = 0
ThreadedFTPServer((address, int(port)), Less).serve_forever()

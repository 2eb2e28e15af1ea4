"""One SFTP session with asyncssh. Orders come as JSON on standard input."""

import asyncio
import json
import sys

import asyncssh

orders = json.load(sys.stdin)


class Client(asyncssh.SSHClient):
    asked = False

    def kbdint_auth_requested(self):
        # Once: with the password acknowledged it would ask for the code again, before the key.
        if self.asked:
            return None
        self.asked = True
        return ""

    def kbdint_challenge_received(self, _name, _instructions, _language, prompts):
        return [
            orders["code"] if "One-time" in prompt else orders["password"]
            for prompt, _echo in prompts
        ]


async def main():
    options = asyncssh.SSHClientConnectionOptions(
        client_factory=Client,
        username=orders["user"],
        client_keys=[orders["key"]] if orders["key"] else None,
        known_hosts=asyncssh.import_known_hosts(
            f'[{orders["host"]}]:{orders["port"]} {orders["host_key"]}\n'
        ),
        agent_path=None,
        preferred_auth="keyboard-interactive,publickey" if orders["key_comes_last"] else (),
        config=None,
    )
    async with asyncssh.connect(orders["host"], orders["port"], options=options) as connection:
        async with connection.start_sftp_client() as sftp:
            for verb, *paths in orders["steps"]:
                if verb == "list":
                    for entry in await sftp.readdir(*paths):
                        print(entry.longname or entry.filename)
                elif verb == "resume":
                    local, remote = paths
                    with open(local, "rb") as source:
                        source.seek((await sftp.stat(remote)).size)
                        async with sftp.open(remote, "ab") as there:
                            await there.write(source.read())
                else:
                    await getattr(sftp, verb)(*paths)


asyncio.run(main())

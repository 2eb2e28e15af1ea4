// One SFTP session with ssh2. Orders come as JSON on standard input.
"use strict";

const fs = require("fs");
const { promisify } = require("util");
const { pipeline } = require("stream/promises");
const { Client } = require("ssh2");

const orders = JSON.parse(fs.readFileSync(0, "utf8"));
const client = new Client();

client.on("keyboard-interactive", (_name, _instructions, _language, prompts, answer) =>
  answer(prompts.map(({ prompt }) => (prompt.includes("One-time") ? orders.code : orders.password))),
);

function connected() {
  return new Promise((resolve, reject) => {
    client.on("ready", resolve).on("error", reject).connect({
      host: orders.host,
      port: orders.port,
      username: orders.user,
      privateKey: orders.key ? fs.readFileSync(orders.key) : undefined,
      tryKeyboard: true,
      authHandler: orders.key_comes_last ? ["keyboard-interactive", "publickey"] : undefined,
      hostVerifier: (key) => key.toString("base64") === orders.host_key.split(" ")[1],
    });
  });
}

async function main() {
  await connected();
  const sftp = await promisify(client.sftp.bind(client))();
  const ask = (name, ...words) => promisify(sftp[name].bind(sftp))(...words);
  const names = { put: "fastPut", get: "fastGet", remove: "unlink", rename: "rename", mkdir: "mkdir", rmdir: "rmdir" };
  for (const [verb, ...paths] of orders.steps) {
    if (verb === "list") {
      for (const entry of await ask("readdir", ...paths)) {
        console.log(entry.longname);
      }
    } else if (verb === "resume") {
      const [local, remote] = paths;
      const { size } = await ask("stat", remote);
      await pipeline(fs.createReadStream(local, { start: size }), sftp.createWriteStream(remote, { flags: "a" }));
    } else {
      await ask(names[verb], ...paths);
    }
  }
  client.end();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});

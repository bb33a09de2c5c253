// A host in Node, using only its built-in modules: node node.mjs FOLDER [COMMAND …]
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

const [folder, ...command] = process.argv.slice(2);
const [program, ...flags] = command.length > 0 ? command : ["locara-sidecar", "serve"];
const sidecar = spawn(program, flags, { stdio: ["pipe", "pipe", "inherit"] });
const send = (message) => sidecar.stdin.write(`${JSON.stringify({ jsonrpc: "2.0", ...message })}\n`);

const manifest = {
  schema: "locara/v1",
  name: "example",
  publisher: "example",
  version: "1.0.0",
  modalities: ["text-to-image"],
  capabilities: { models: ["pocket"], fs: { "user-folder": "write" } },
};
const clientInfo = { name: "example", version: "1.0.0" };
const session = { protocolVersion: 1, clientInfo, manifest, grants: { "user-folder": folder } };
const prompt = "a large yellow star in the center of a blue background";

// What each answer triggers; a call's messages come on the channel that it names.
const first = { steps: 4, output: { path: "star.png" } };
const answers = {
  1: () => send({ id: 2, method: "image.generate", params: { prompt, channel: 1, options: first } }),
  2: ({ images }) => {
    console.log(`saved ${images[0].path}`);
    send({ id: 3, method: "image.generate", params: { prompt, channel: 2, options: { steps: 200 } } });
  },
  3: (_, error) => {
    console.log(`cancelled: ${error.data.kind}`);
    send({ id: 4, method: "image.generate", params: { prompt, options: { steps: 0 } } });
  },
  4: (_, error) => {
    console.log(`error: ${error.data.kind} at ${error.data.path}`);
    sidecar.stdin.end(); // this ends the sidecar
  },
};

function onStep(channel, { phase, step, steps, preview }) {
  if (phase !== "denoising" || step === 0) return;
  if (channel === 2) return step === 1 && send({ method: "$/cancelRequest", params: { id: 3 } });
  const size = preview ? Buffer.from(preview.data, "base64").length : 0;
  console.log(`step ${step} of ${steps}, preview of ${size} bytes`);
}

send({ id: 1, method: "initialize", params: session });
for await (const line of createInterface({ input: sidecar.stdout })) {
  const { id, result, error, params } = JSON.parse(line);
  if (params?.message) onStep(params.channel, params.message);
  else if (id) answers[id](result, error);
}

// A host in Node with the package @locara/image: node node_package.mjs FOLDER [COMMAND …]
import { InvalidParams, Sidecar } from "@locara/image/node";

const [folder, ...command] = process.argv.slice(2);
const sidecar = await Sidecar.start({
  command: command.length > 0 ? command : ["locara-sidecar", "serve"],
  manifest: {
    schema: "locara/v1",
    name: "example",
    publisher: "example",
    version: "1.0.0",
    modalities: ["text-to-image"],
    capabilities: { models: ["pocket"], fs: { "user-folder": "write" } },
  },
  grants: { "user-folder": folder },
});
const prompt = "a large yellow star in the center of a blue background";

const call = sidecar.image.generate({ prompt, options: { steps: 4, output: { path: "star.png" } } });
for await (const { phase, step, steps, preview } of call) {
  if (phase !== "denoising" || step === 0) continue;
  const size = preview ? Buffer.from(preview.data, "base64").length : 0;
  console.log(`step ${step} of ${steps}, preview of ${size} bytes`);
}
console.log(`saved ${(await call).images[0].path}`);

const controller = new AbortController();
const onStep = ({ step }) => step === 1 && controller.abort();
try {
  await sidecar.image.generate({ prompt, options: { steps: 200 }, signal: controller.signal, onStep });
} catch (error) {
  console.log(`cancelled: ${error.kind}`);
}

try {
  await sidecar.image.generate({ prompt, options: { steps: 0 } });
} catch (error) {
  if (error instanceof InvalidParams) console.log(`error: ${error.kind} at ${error.path}`);
}
await sidecar.close();

// The page's package: what it requests from the plugin, and what npm packs.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { mockConvertFileSrc, mockIPC } from "@tauri-apps/api/mocks";

const HERE = fileURLToPath(new URL("..", import.meta.url));
Object.assign(globalThis, { window: globalThis });
Object.assign(globalThis, { __TAURI_INTERNALS__: {} });
const { files, giveToken, pictureUrl, CapabilityDenied, image, models, jobs } = await import("../dist-js/index.js");

/** Acts as the plugin: records each request, and answers with it. */
function plugin(answer) {
  const asked = [];
  mockIPC((command, payload) => {
    asked.push([command, payload]);
    return answer;
  });
  return asked;
}

test("a pick is requested with what a page may specify, and returns a handle", async () => {
  const picked = { handle: "file-1", name: "a.png", bytes: 3 };
  const asked = plugin(picked);
  assert.deepEqual(await files.pickImage({ title: "Which one?" }), picked);
  assert.deepEqual(await files.pickOutput({ fileName: "b.png" }), picked);
  await files.release("file-1");
  assert.deepEqual(asked, [
    ["plugin:locara-diffusion|pick_image", { params: { title: "Which one?" } }],
    ["plugin:locara-diffusion|pick_output", { params: { fileName: "b.png" } }],
    ["plugin:locara-diffusion|release_file", { params: { handle: "file-1" } }],
  ]);
  plugin(null);
  assert.equal(await files.pickImage(), null);
});

test("a pick fails with the same error classes as every other call", async () => {
  const data = { kind: "CapabilityDenied", retryable: false, declare: {} };
  mockIPC(() => Promise.reject({ code: -32001, message: "No.", kind: "CapabilityDenied", data }));
  await assert.rejects(files.pickImage(), CapabilityDenied);
});

test("a token goes to the plugin, and a refusal comes back as an error of its kind", async () => {
  const asked = plugin(null);
  await giveToken("a-token");
  assert.deepEqual(asked, [["plugin:locara-diffusion|give_token", { params: { token: "a-token" } }]]);
  const data = { kind: "Busy", retryable: true };
  mockIPC(() => Promise.reject({ code: -32000, message: "A call is under way.", kind: "Busy", data }));
  await assert.rejects(giveToken("a-token"), { kind: "Busy", retryable: true, message: "A call is under way." });
});

test("a picture has a URL: its own data, or its file in the asset protocol", () => {
  mockConvertFileSrc("linux");
  const picture = { mimeType: "image/png", width: 1, height: 1, bytes: 3, sha256: "", seed: 1 };
  assert.equal(pictureUrl({ ...picture, data: "iVBO", path: "/a/b.png" }), "data:image/png;base64,iVBO");
  assert.equal(pictureUrl({ ...picture, path: "/a/b c.png" }), "asset://localhost/%2Fa%2Fb%20c.png");
  assert.throws(() => pictureUrl({ ...picture, handle: "file-1" }), TypeError);
});

test("the whole API is there", () => {
  assert.equal(typeof image.generate, "function");
  assert.equal(typeof models.list, "function");
  assert.equal(typeof jobs.attach, "function");
});

test("the packed package installs with its peers into an empty project, with its types", { timeout: 180_000 }, (t) => {
  const project = mkdtempSync(join(tmpdir(), "locara-guest-"));
  t.after(() => rmSync(project, { recursive: true, force: true }));
  const pack = (folder) => {
    const told = execFileSync("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", project], {
      cwd: folder,
      encoding: "utf8",
    });
    return JSON.parse(told)[0];
  };
  const ours = pack(HERE);
  const strays = ours.files.map(({ path }) => path).filter((path) => !/^dist-js\/[\w-]+\.(js|d\.ts)$/.test(path));
  assert.deepEqual(strays.sort(), ["LICENSE", "README.md", "package.json"]);
  const packages = [pack(join(HERE, "../../protocol/typescript")), ours].map(({ filename }) => `./${filename}`);
  writeFileSync(join(project, "package.json"), JSON.stringify({ name: "empty", private: true, type: "module" }));
  const { version } = JSON.parse(readFileSync(join(HERE, "node_modules/@tauri-apps/api/package.json"), "utf8"));
  const quiet = ["--prefer-offline", "--no-audit", "--no-fund", "--ignore-scripts"];
  execFileSync("npm", ["install", ...quiet, ...packages, `@tauri-apps/api@${version}`], { cwd: project });
  const page = readFileSync(join(HERE, "examples/minimal/src/main.ts"), "utf8");
  writeFileSync(join(project, "page.ts"), page);
  writeFileSync(
    join(project, "typed.ts"),
    `import { files, image, pictureUrl, type DiffusionStep } from "tauri-plugin-locara-diffusion-api";
const picked = await files.pickImage();
if (picked) {
  const onStep = (step: DiffusionStep) => step.progress;
  const { images } = await image.edit({ prompt: "a", image: { handle: picked.handle }, onStep });
  const url: string = pictureUrl(images[0]!);
  // @ts-expect-error there is no such option
  await files.pickImage({ path: url });
}
`,
  );
  const options = ["--strict", "--noEmit", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom"];
  const tsc = join(HERE, "node_modules/typescript/bin/tsc");
  execFileSync(process.execPath, [tsc, ...options, "--skipLibCheck", "--types", "", "typed.ts", "page.ts"], {
    cwd: project,
    stdio: "inherit",
  });
});

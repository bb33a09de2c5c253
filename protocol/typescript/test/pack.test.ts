// The package as npm packs it, installed into an empty project, without a registry.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { folder, HERE, MANIFEST, PROGRAM } from "./support.js";

const npm = process.platform === "win32" ? "npm.cmd" : "npm";
const SCRIPT = `
import { image, setClient, CapabilityDenied } from "@locara/image";
import { Sidecar } from "@locara/image/node";

const [program, pictures, manifest] = process.argv.slice(2) as [string, string, string];
await using sidecar = await Sidecar.start({
  command: [program, "serve", "--engine", "fake"],
  manifest: JSON.parse(manifest),
  grants: { "user-folder": pictures },
});
// @ts-expect-error a member that does not exist
const misspeltManifest = () => Sidecar.start({ manifest: { schema: "locara/v1", name: "a", publisher: "b", version: "1", modalitys: [] } });
setClient(sidecar);
let steps = 0;
const result = await image.generate({ prompt: "a lake", options: { model: "pocket", steps: 3 }, onStep: (step) => { steps = step.step; } });
const path: string | undefined = result.images[0]?.path;
// @ts-expect-error an option that does not exist
const misspelt = image.generate({ prompt: "a lake", options: { stepz: 3 } });
const reason = await misspelt.catch((error: Error) => error.name);
const denied = await image.generate({ prompt: "a lake", options: { model: "sd3.5-medium" } }).catch((error: unknown) => error instanceof CapabilityDenied);
console.log(JSON.stringify({ path, steps, reason, denied }));
`;

/** The declarations that the page's snippets assume. */
const AROUND = `
import type { DiffusionStep, PreviewImage } from "@locara/image";
import manifest from "./locara.json" with { type: "json" };
declare const onStep: (step: DiffusionStep) => void;
declare function show(...what: (number | PreviewImage | undefined)[]): void;
`;

test("npm pack installs into an empty project, with its types, and works there", { timeout: 180_000 }, (t) => {
  const project = folder(t, "project");
  const packed = execFileSync(npm, ["pack", "--json", "--ignore-scripts", "--pack-destination", project], {
    cwd: HERE,
    encoding: "utf8",
  });
  const [{ filename, files }] = JSON.parse(packed) as [{ filename: string; files: { path: string }[] }];
  const strays = files
    .map(({ path }) => path)
    .filter((path) => !/^(dist\/[\w-]+\.(js|d\.ts)|package\.json|README\.md|LICENSE)$/.test(path));
  assert.deepEqual(strays, []);
  for (const wanted of ["dist/index.js", "dist/node.d.ts", "README.md", "LICENSE"])
    assert.ok(
      files.some(({ path }) => path === wanted),
      wanted,
    );

  writeFileSync(join(project, "package.json"), JSON.stringify({ name: "empty", private: true, type: "module" }));
  execFileSync(npm, ["install", "--offline", "--no-audit", "--no-fund", "--ignore-scripts", `./${filename}`], {
    cwd: project,
  });
  assert.ok(!existsSync(join(project, "node_modules/@tauri-apps")), "the peer is optional");
  const installed = JSON.parse(readFileSync(join(project, "node_modules/@locara/image/package.json"), "utf8"));
  assert.equal(installed.dependencies, undefined);

  writeFileSync(join(project, "app.ts"), SCRIPT);
  writeFileSync(join(project, "locara.json"), JSON.stringify(MANIFEST));
  const shown = [...readFileSync(join(HERE, "README.md"), "utf8").matchAll(/```ts\n(.*?)```/gs)].map(
    ([, code]) => code,
  );
  assert.ok(shown.length >= 3);
  for (const [number, code] of shown.entries()) writeFileSync(join(project, `shown${number}.ts`), `${AROUND}${code}`);
  const options = ["--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,esnext.disposable,dom"];
  const types = ["--types", "node", "--typeRoots", join(HERE, "node_modules/@types")];
  execFileSync(
    process.execPath,
    [
      join(HERE, "node_modules/typescript/bin/tsc"),
      ...options,
      ...types,
      "app.ts",
      ...shown.map((_, number) => `shown${number}.ts`),
    ],
    {
      cwd: project,
      stdio: "inherit",
    },
  );
  const said = execFileSync(process.execPath, ["app.js", PROGRAM, folder(t), JSON.stringify(MANIFEST)], {
    cwd: project,
    encoding: "utf8",
  });
  const { path, ...rest } = JSON.parse(said) as { path: string };
  assert.match(path, /\.png$/);
  assert.deepEqual(rest, { steps: 3, reason: "InvalidParams", denied: true });
});

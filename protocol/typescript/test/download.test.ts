// Downloads from a hub on loopback: complete, with progress; cancelled and resumed; gated; denied.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { after, test } from "node:test";
import {
  CapabilityDenied,
  type DownloadProgress,
  LicenseNotAccepted,
  RequestCancelled,
  type Sidecar,
} from "@locara/image/node";
import { command, failure, folder, MANIFEST, opened, PROGRAM, REPOSITORY } from "./support.js";

const place = folder({ after }, "hub");

async function served(): Promise<{ hub: string; catalogue: string; program: ChildProcess }> {
  const program = spawn(join(dirname(PROGRAM), "python"), ["-m", "support.served_models", place], {
    cwd: join(REPOSITORY, "tests"),
    stdio: ["pipe", "pipe", "inherit"],
  });
  const [line] = (await once(createInterface(program.stdout), "line")) as [string];
  return { ...(JSON.parse(line) as { hub: string; catalogue: string }), program };
}

const { hub, catalogue, program } = await served();
after(() => program.stdin?.end());

/** A session of an app that declares the hub's models, with its own empty cache. */
async function session(test: Parameters<typeof opened>[0], ...flags: string[]): Promise<Sidecar> {
  const { HF_HUB_OFFLINE: _, HF_TOKEN: __, ...environment } = process.env;
  const home = folder(test, "home");
  const { sidecar } = await opened(test, {
    command: command("fake", "--cache-dir", join(home, "cache"), "--catalogue", catalogue, ...flags),
    env: { ...environment, HF_ENDPOINT: hub, HF_HOME: join(home, "hf") },
    manifest: { ...MANIFEST, capabilities: { models: ["open", "gated"] } },
  });
  return sidecar;
}

test("a model is downloaded completely, with progress, and is then installed", async (t) => {
  const sidecar = await session(t, "--allow-downloads");
  assert.equal((await sidecar.models.get("open")).installed, false);
  const seen: DownloadProgress[] = [];
  const done = await sidecar.models.download({ model: "open", onProgress: (progress) => seen.push(progress) });
  assert.equal(seen[0]?.phase, "resolving");
  const last = seen.at(-1);
  assert.deepEqual([last?.bytes, last?.bytes], [last?.totalBytes, done.bytes]);
  const bytes = seen.filter(({ phase }) => phase === "downloading").map((one) => one.bytes);
  assert.ok(new Set(bytes).size > 2, `the reported bytes: ${bytes}`);
  assert.deepEqual(
    bytes,
    [...bytes].sort((a, b) => a - b),
  );
  const model = await sidecar.models.get("open");
  assert.deepEqual([model.installed, model.digest], [true, done.digest]);
  assert.equal((await sidecar.models.verify({ model: "open" })).ok, true);
  assert.deepEqual(sidecar.open, { requests: 0, channels: 0 });
});

test("a cancelled download resumes where it stopped", async (t) => {
  const sidecar = await session(t, "--allow-downloads");
  const controller = new AbortController();
  // the configurations, which come first, are fetched again after a cancel; they have less than 1 kB
  const onProgress = ({ bytes }: DownloadProgress) => bytes > 10_000 && controller.abort();
  const cancelled = await failure(sidecar.models.download({ model: "open", signal: controller.signal, onProgress }));
  assert.ok(cancelled instanceof RequestCancelled);
  assert.equal((await sidecar.models.get("open")).installed, false);
  let first: number | undefined;
  for await (const { phase, bytes } of sidecar.models.download({ model: "open" })) {
    if (phase === "downloading") first ??= bytes;
  }
  assert.ok(first !== undefined && first > 0, `it began at ${first} bytes`);
  assert.equal((await sidecar.models.get("open")).installed, true);
});

test("a gated model is LicenseNotAccepted with the page to accept it on; without permission it is CapabilityDenied", async (t) => {
  const allowed = await session(t, "--allow-downloads");
  const gated = await failure(allowed.models.download({ model: "gated" }));
  assert.ok(gated instanceof LicenseNotAccepted);
  assert.deepEqual([gated.kind, gated.retryable], ["LicenseNotAccepted", false]);
  assert.match(String(gated.data["url"]), /org\/gated/);
  const undeclared = await failure(allowed.models.download({ model: "pocket" }));
  assert.ok(undeclared instanceof CapabilityDenied);
  assert.deepEqual([undeclared.data.reason, undeclared.data.resource], ["notDeclared", "pocket"]);
  assert.deepEqual(undeclared.data.declare, { capabilities: { models: ["pocket"] } });
  const denied = await failure((await session(t)).models.download({ model: "open" }));
  assert.ok(denied instanceof CapabilityDenied);
  assert.deepEqual([denied.data.reason, denied.retryable], ["hostFlag", false]);
});

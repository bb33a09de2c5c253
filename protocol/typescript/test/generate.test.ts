// image.generate and image.edit against the real daemon with the fake engine.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import {
  CapabilityDenied,
  type DiffusionStep,
  dataUrl,
  InvalidParams,
  inline,
  RequestCancelled,
} from "@locara/image/node";
import { failure, gate, opened, PROMPT, stepsOf } from "./support.js";

const { sidecar, pictures } = await opened({ after });

test("await gives the result, onStep every step with its preview, the last one with progress 1", async () => {
  const steps: DiffusionStep[] = [];
  const result = await sidecar.image.generate({
    prompt: PROMPT,
    options: { model: "pocket", steps: 6, seed: 7 },
    onStep: (step) => steps.push(step),
  });
  assert.ok(existsSync(result.images[0]?.path ?? ""));
  assert.deepEqual(stepsOf(steps), [1, 2, 3, 4, 5, 6]);
  assert.equal(steps.at(-1)?.progress, 1);
  const preview = steps.find((step) => step.preview)?.preview;
  assert.match(dataUrl(preview ?? assert.fail("no preview")), /^data:image\/webp;base64,UklGR/);
  assert.deepEqual(sidecar.open, { requests: 0, channels: 0 });
});

test("iterating gives the same steps, and the call can also be awaited", async () => {
  const call = sidecar.image.generate({ prompt: PROMPT, options: { steps: 5 } });
  const steps: DiffusionStep[] = [];
  for await (const step of call) steps.push(step);
  assert.deepEqual(stepsOf(steps), [1, 2, 3, 4, 5]);
  assert.equal(steps.at(-1)?.progress, 1);
  assert.equal((await call).images.length, 1);
  assert.throws(() => call[Symbol.asyncIterator](), TypeError);
});

test("messages have one consumer", async () => {
  const call = sidecar.image.generate({ prompt: PROMPT, onStep: () => {} });
  assert.throws(() => call[Symbol.asyncIterator](), /go to its callback/);
  await call;
});

test("a signal cancels a running call, which is answered with the finished images", async () => {
  const controller = new AbortController();
  const call = sidecar.image.generate({
    prompt: "fake:slow=300 a lake",
    options: { steps: 2, count: 16 },
    signal: controller.signal,
    onStep: ({ image, step }) => image === 2 && step === 1 && controller.abort(),
  });
  const error = await failure(call);
  assert.ok(error instanceof RequestCancelled);
  assert.deepEqual(
    [error.kind, error.code, error.name, error.retryable],
    ["RequestCancelled", -32800, "AbortError", true],
  );
  assert.ok(error.images.length >= 1 && error.images.length < 16);
  assert.ok(existsSync(error.images[0]?.path ?? ""));
  assert.deepEqual(sidecar.open, { requests: 0, channels: 0 });
});

test("a signal cancels a call that waits for its turn, and no other", async () => {
  const controller = new AbortController();
  const started = gate();
  const first = sidecar.image.generate({ prompt: "fake:slow=150 a", options: { steps: 8 }, onStep: started.open });
  await started.opened;
  const queued = sidecar.image.generate({
    prompt: "b",
    signal: controller.signal,
    onStep: ({ phase }) => phase === "queued" && controller.abort(),
  });
  assert.ok((await failure(queued)) instanceof RequestCancelled);
  assert.equal((await first).images.length, 1);
});

test("with a signal that is already aborted, nothing is sent", async () => {
  const before = await sidecar.jobs.list();
  const error = await failure(sidecar.image.generate({ prompt: PROMPT, signal: AbortSignal.abort() }));
  assert.ok(error instanceof RequestCancelled);
  assert.deepEqual(await sidecar.jobs.list(), before);
});

test("an abort after the end changes nothing, and the signal keeps no listener", async () => {
  const controller = new AbortController();
  const { signal } = controller;
  let listeners = 0;
  const [add, remove] = [signal.addEventListener.bind(signal), signal.removeEventListener.bind(signal)];
  signal.addEventListener = (...given: Parameters<typeof add>) => {
    listeners += 1;
    add(...given);
  };
  signal.removeEventListener = (...given: Parameters<typeof remove>) => {
    listeners -= 1;
    remove(...given);
  };
  const result = await sidecar.image.generate({ prompt: PROMPT, signal });
  assert.equal(listeners, 0);
  controller.abort();
  assert.equal(result.images.length, 1);
  assert.equal((await sidecar.image.generate({ prompt: PROMPT })).images.length, 1);
});

test("leaving the loop cancels the call", async () => {
  const call = sidecar.image.generate({ prompt: "fake:slow=200 a", options: { steps: 100 } });
  for await (const step of call) if (step.step === 1) break;
  assert.ok((await failure(call)) instanceof RequestCancelled);
});

for (const [how, thrower] of [
  ["throws", () => assert.fail("mine")],
  ["rejects", () => Promise.reject(new Error("mine"))],
] as const) {
  test(`when onStep ${how}, the call is cancelled and rejects with that error`, async () => {
    const call = sidecar.image.generate({ prompt: "fake:slow=200 a", options: { steps: 100 }, onStep: thrower });
    assert.match(String(await failure(call)), /mine/);
    const [job] = await sidecar.jobs.list();
    assert.equal(job?.state, "cancelled");
  });
}

test("errors are instances of their kind and name what is wrong", async () => {
  const denied = await failure(sidecar.image.generate({ prompt: PROMPT, options: { model: "sd3.5-medium" } }));
  assert.ok(denied instanceof CapabilityDenied);
  assert.equal(denied.data.reason, "notDeclared");
  assert.deepEqual(denied.data.declare, { capabilities: { models: ["sd3.5-medium"] } });
  const invalid = await failure(sidecar.image.generate({ prompt: PROMPT, options: { steps: 0 } }));
  assert.ok(invalid instanceof InvalidParams);
  assert.equal(invalid.path, "$.options.steps");
  const crashed = await failure(sidecar.image.generate({ prompt: "fake:crash=denoising a" }));
  assert.deepEqual([(crashed as Error).name, (crashed as RequestCancelled).retryable], ["EngineCrashed", true]);
  assert.deepEqual(sidecar.open, { requests: 0, channels: 0 });
});

test("a loop throws the call's error", async () => {
  const loop = async () => {
    for await (const _ of sidecar.image.generate({ prompt: "fake:oom a" }));
  };
  assert.equal(((await failure(loop())) as Error).name, "InsufficientMemory");
});

test("a picture is edited from a granted folder, inline, and as a picked file", async () => {
  const output = { path: "first.png" };
  const { images } = await sidecar.image.generate({ prompt: PROMPT, options: { model: "pocket", output } });
  const path = images[0]?.path ?? "";
  const options = { model: "pocket", strength: 0.5, steps: 4, seed: 1 };
  const named = await sidecar.image.edit({
    prompt: "green",
    image: { root: "user-folder", path: "first.png" },
    options,
  });
  const sent = await sidecar.image.edit({ prompt: "green", image: inline(readFileSync(path), "image/png"), options });
  const first = { root: "user-folder", path: "first.png" };
  const listed = await sidecar.image.edit({ prompt: "green", images: [first], options });
  assert.equal(listed.images[0]?.sha256, named.images[0]?.sha256);
  const two = await failure(sidecar.image.edit({ prompt: "green", images: [first, first], options }));
  assert.equal((two as InvalidParams).path, "$.images");
  const read = await sidecar.host.pickFile(path, "read");
  const target = join(pictures, "picked.png");
  const write = await sidecar.host.pickFile(target, "write");
  const steps: DiffusionStep[] = [];
  const picked = await sidecar.image.edit({
    prompt: "green",
    image: { handle: read.handle },
    options: { ...options, output: { handle: write.handle } },
    onStep: (step) => steps.push(step),
  });
  assert.equal(read.name, "first.png");
  const bytes = await sidecar.host.pickBytes("first.png", readFileSync(path));
  assert.equal(bytes.bytes, read.bytes);
  const handed = await sidecar.image.edit({ prompt: "green", image: { handle: bytes.handle }, options });
  assert.equal(handed.images[0]?.sha256, picked.images[0]?.sha256);
  assert.equal(named.images[0]?.sha256, sent.images[0]?.sha256);
  assert.equal(named.images[0]?.sha256, picked.images[0]?.sha256);
  assert.ok(existsSync(target));
  assert.ok(stepsOf(steps).length > 0);
  await sidecar.host.releaseFile(read.handle);
  const again = await failure(sidecar.image.edit({ prompt: "green", image: { handle: read.handle }, options }));
  assert.equal((again as InvalidParams).path, "$.image.handle");
});

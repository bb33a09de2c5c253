// Slow consumers: memory is bounded, the last step arrives, and nobody else waits.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { DiffusionStep } from "@locara/image/core";
import { end, frame, result, Scripted, step } from "./scripted.js";
import { failure, gate, opened } from "./support.js";

const MANY = 20_000;

/** A call of which many steps come at once; the last one has progress 1. */
function flood(sidecar: Scripted, onStep?: (step: DiffusionStep) => unknown) {
  const call = sidecar.client.image.generate({ prompt: "a", onStep });
  const { id, channel } = sidecar.request("image.generate");
  const preview = { data: "x".repeat(4000) };
  const finish = () => {
    sidecar.say(frame(channel, MANY, step(MANY, { progress: 1 })), end(channel, MANY + 1), result(id));
  };
  for (let index = 0; index < MANY; index++)
    sidecar.say(frame(channel, index, step(index, { preview: { ...preview, index } })));
  return { call, finish };
}

test("a slow onStep gets one step at a time, in order, the last one before the result, and the rest are merged", async () => {
  const sidecar = new Scripted();
  const seen: DiffusionStep[] = [];
  const first = gate();
  let busy = false;
  const { call, finish } = flood(sidecar, async (step) => {
    assert.equal(busy, false);
    busy = true;
    seen.push(step);
    await (seen.length === 1 ? first.opened : new Promise(setImmediate));
    busy = false;
  });
  finish();
  let settled = false;
  void call.finally(() => {
    settled = true;
  });
  await new Promise(setImmediate);
  assert.deepEqual([seen.length, settled], [1, false]);
  first.open();
  await call;
  const steps = seen.map((message) => message.step);
  assert.deepEqual(steps.slice(0, 3), [0, 1, 2]);
  assert.deepEqual(
    steps,
    [...steps].sort((a, b) => a - b),
  );
  assert.deepEqual([seen.at(-1)?.step, seen.at(-1)?.progress], [MANY, 1]);
  assert.equal((seen.at(-1)?.preview as { index?: number } | undefined)?.index, MANY - 1, "the latest preview stays");
  assert.ok(steps.length <= 66, `${steps.length} steps waited`);
});

test("a quick onStep gets every one of them", async () => {
  const sidecar = new Scripted();
  const seen: number[] = [];
  const { call, finish } = flood(sidecar, ({ step }) => seen.push(step));
  finish();
  await call;
  assert.deepEqual(
    seen,
    Array.from({ length: MANY + 1 }, (_, index) => index),
  );
});

test("a call whose steps nobody consumes keeps few of them", async () => {
  const sidecar = new Scripted();
  global.gc?.();
  const before = process.memoryUsage().heapUsed;
  const { call, finish } = flood(sidecar);
  global.gc?.();
  const grown = process.memoryUsage().heapUsed - before;
  assert.ok(global.gc !== undefined, "run with --expose-gc");
  assert.ok(grown < 8e6, `${grown} bytes for ${MANY} steps of 4,000`);
  const seen: number[] = [];
  finish();
  for await (const { step } of call) seen.push(step);
  assert.ok(seen.length <= 65);
  assert.equal(seen.at(-1), MANY);
});

test("a preview of another image is not kept", async () => {
  const sidecar = new Scripted();
  const call = sidecar.client.image.generate({ prompt: "a" });
  const { id, channel } = sidecar.request("image.generate");
  for (let index = 0; index < 64; index++) sidecar.say(frame(channel, index, step(index, { preview: { index } })));
  sidecar.say(frame(channel, 64, step(0, { image: 2 })), end(channel, 65), result(id));
  const seen: DiffusionStep[] = [];
  for await (const message of call) seen.push(message);
  assert.deepEqual([seen.at(-1)?.image, seen.at(-1)?.preview], [2, undefined]);
});

test("while one onStep never returns, other calls of the real daemon are answered, and an abort is heard", async (t) => {
  const { sidecar } = await opened(t);
  const controller = new AbortController();
  const stuck = gate();
  const entered = gate();
  const call = sidecar.image.generate({
    prompt: "fake:slow=50 a",
    options: { steps: 200 },
    signal: controller.signal,
    onStep: () => {
      entered.open();
      return stuck.opened;
    },
  });
  await entered.opened;
  for (let number = 0; number < 20; number++) await sidecar.system.ping();
  controller.abort();
  while ((await sidecar.jobs.list())[0]?.state !== "cancelled") await new Promise((resolve) => setTimeout(resolve, 20));
  stuck.open();
  assert.equal(((await failure(call)) as Error).name, "AbortError");
});

// The embedded model on the torch engine: a real picture.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import type { DiffusionStep } from "@locara/image/node";
import { RequestCancelled } from "@locara/image/node";
import { failure, opened, stepsOf } from "./support.js";

test("pocket draws with previews, makes the same file from the same seed, and stops when cancelled", {
  timeout: 180_000,
}, async (t) => {
  const { sidecar } = await opened(t, { engine: "torch" });
  const steps: DiffusionStep[] = [];
  const request = { prompt: "a large yellow star in the center of a blue background", options: { seed: 7, steps: 8 } };
  const first = await sidecar.image.generate({ ...request, onStep: (step) => steps.push(step) });
  const [image] = first.images;
  const file = readFileSync(image?.path ?? "");
  assert.equal(createHash("sha256").update(file).digest("hex"), image?.sha256);
  assert.deepEqual([first.model.id, first.model.engine, file.subarray(1, 4).toString()], ["pocket", "torch", "PNG"]);
  assert.deepEqual(stepsOf(steps), [1, 2, 3, 4, 5, 6, 7, 8]);
  const { preview } = steps.find(({ step }) => step === 1) ?? {};
  assert.equal(
    Buffer.from(preview?.data ?? "", "base64")
      .subarray(8, 12)
      .toString(),
    "WEBP",
  );
  const again = await sidecar.image.generate({ ...request, options: { ...request.options, preview: { mode: "off" } } });
  assert.equal(again.images[0]?.sha256, image?.sha256);
  const controller = new AbortController();
  const onStep = ({ step }: DiffusionStep) => step === 1 && controller.abort();
  const call = sidecar.image.generate({
    prompt: "a red star",
    options: { steps: 200 },
    onStep,
    signal: controller.signal,
  });
  assert.ok((await failure(call)) instanceof RequestCancelled);
});

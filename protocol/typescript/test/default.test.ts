// The package's own `image` outside a web view, where no client has been set.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Call, ClientError, image, jobs, models } from "@locara/image";
import { failure } from "./support.js";

test("without a client every call says what is missing, and a loop does not wait forever", async () => {
  const loop = async () => {
    for await (const _ of image.generate({ prompt: "a" }));
  };
  const controller = new AbortController();
  const aborted = image.generate({ prompt: "a", signal: controller.signal });
  controller.abort();
  for (const call of [image.generate({ prompt: "a" }), loop(), jobs.attach("job-1"), models.list(), aborted]) {
    const error = await failure(call);
    assert.ok(error instanceof ClientError);
    assert.match(error.message, /setClient|command failed/);
  }
});

test("an error thrown while sending is the call's error, in a loop, too", async () => {
  const call = new Call<object, object>(() => {
    throw new RangeError("no");
  });
  const loop = async () => {
    for await (const _ of call);
  };
  assert.ok((await failure(loop())) instanceof RangeError);
  assert.ok((await failure(call)) instanceof RangeError);
});

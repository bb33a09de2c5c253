// What cannot be sent fails its own call at once, and no other; errors in a host's callbacks break nothing.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { ClientError, type GenerateResult, type SidecarGoneError } from "@locara/image/core";
import { Sidecar } from "@locara/image/node";
import { frame, result, Scripted, step } from "./scripted.js";
import { failure } from "./support.js";

const opened = (sidecar: Scripted, maxLineBytes: number) => {
  const answer = sidecar.connection.start("initialize", { protocolVersion: 1 }).answer;
  sidecar.say(result(sidecar.request("initialize").id, { capabilities: { limits: { maxLineBytes } } }));
  return answer;
};

test("a lone surrogate is sent as U+FFFD: the sidecar refuses a line that contains one, without its id", () => {
  const sidecar = new Scripted();
  void sidecar.client.image.generate({ prompt: "a \ud83d, \\ud83d, 😀 and \u2028" });
  assert.equal(sidecar.request("image.generate").params["prompt"], "a \ufffd, \\ud83d, 😀 and \u2028");
});

test("a line that is longer than the sidecar accepts is not sent, and its call fails", async () => {
  const sidecar = new Scripted();
  await opened(sidecar, 1000);
  for (const prompt of ["x".repeat(1000), "é".repeat(480)]) {
    const before = sidecar.written.length;
    const error = await failure(sidecar.client.image.generate({ prompt, onStep() {} }));
    assert.ok(error instanceof ClientError);
    assert.match(error.message, /image.generate cannot be sent: its line has [0-9]+ bytes, the sidecar accepts 1000/);
    assert.equal(sidecar.written.length, before);
  }
  void sidecar.client.image.generate({ prompt: "é".repeat(400) });
  assert.equal(sidecar.request("image.generate").params["prompt"], "é".repeat(400));
});

test("until the sidecar has reported its limit, the contract's 16 MiB apply", async () => {
  const sidecar = new Scripted();
  const error = await failure(sidecar.client.image.generate({ prompt: "x".repeat(16 * 1024 * 1024) }));
  assert.match((error as Error).message, /the sidecar accepts 16777216/);
});

test("a message that is nested deeper than the sidecar accepts is not sent, and its call fails", async () => {
  const sidecar = new Scripted();
  const nested = (levels: number): unknown => (levels === 0 ? '[{"\\\\' : [{ a: nested(levels - 1) }]);
  const ask = (levels: number) =>
    sidecar.client.image.generate({ prompt: "]".repeat(80), options: { seed: nested(levels) as number } });
  void ask(30); // with the request, its params and their options that is 63 deep
  assert.equal(sidecar.request("image.generate").params["prompt"], "]".repeat(80));
  const before = sidecar.written.length;
  const error = await failure(ask(31));
  assert.ok(error instanceof ClientError);
  assert.match(error.message, /image.generate cannot be sent: it is nested deeper than 64 levels/);
  assert.equal(sidecar.written.length, before);
});

test("params that JSON cannot express fail their call, and the others go on", async () => {
  const sidecar = new Scripted();
  const ping = sidecar.client.system.ping();
  const circular: Record<string, unknown> = {};
  circular["itself"] = circular;
  for (const seed of [1n, circular]) {
    const error = await failure(
      sidecar.client.image.generate({ prompt: "a", options: { seed: seed as unknown as number } }),
    );
    assert.ok(error instanceof ClientError);
    assert.match(error.message, /cannot be sent/);
  }
  sidecar.say(result(1, { fine: true }));
  assert.deepEqual(await ping, { fine: true });
  assert.deepEqual(sidecar.connection.open, { requests: 0, channels: 0 });
});

test("a callback that throws loses no lines of other calls", async () => {
  const sidecar = new Scripted();
  const thrown: unknown[] = [];
  const take = (error: unknown) => thrown.push(error);
  const ours = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException").on("uncaughtException", take);
  try {
    const raw = sidecar.connection.start("image.generate", { prompt: "a" }, () => {
      throw new RangeError("mine");
    });
    const { channel } = sidecar.request("image.generate");
    const ping = sidecar.client.system.ping();
    sidecar.say(frame(channel, 0, step(1)), result(sidecar.request("ping").id, { fine: true }));
    assert.deepEqual(await ping, { fine: true });
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(thrown.map(String), ["RangeError: mine"]);
    raw.answer.catch(() => {});
  } finally {
    process.removeListener("uncaughtException", take);
    for (const one of ours) process.on("uncaughtException", one);
  }
});

test("the parameters of a result can be read, and sent again", () => {
  const again = ({ parameters }: GenerateResult) => ({ prompt: parameters["prompt"], options: parameters["options"] });
  const drawn = { parameters: { prompt: "a", options: { seed: 7 } } } as unknown as GenerateResult;
  assert.deepEqual(again(drawn), { prompt: "a", options: { seed: 7 } });
});

test("a start can be abandoned, before it begins and while nothing is answered", async () => {
  const command = [process.execPath, "-e", "process.stdin.resume()"] as const;
  const aborted = (await failure(Sidecar.start({ command, signal: AbortSignal.abort() }))) as SidecarGoneError;
  assert.match(aborted.message, /abandoned/);
  const controller = new AbortController();
  const starting = Sidecar.start({ command, signal: controller.signal });
  controller.abort(new Error("enough"));
  const error = (await failure(starting)) as SidecarGoneError;
  assert.equal(error.name, "SidecarGoneError");
  assert.equal((error.cause as Error).message, "enough");
});

test("a process without free descriptors gets an error, and goes on", { skip: process.platform === "win32" }, () => {
  const host = `
    const { Sidecar } = await import("@locara/image/node");
    const { openSync } = await import("node:fs");
    try { for (;;) openSync("/dev/null"); } catch {}
    try { await Sidecar.start({ command: ["/bin/cat"] }); } catch (error) { console.log(error.name); }
    await new Promise((resolve) => setTimeout(resolve, 50));
    console.log("alive");`;
  const script = 'ulimit -n 64 && exec "$0" --input-type=module -e "$1"';
  const done = spawnSync("/bin/sh", ["-c", script, process.execPath, host], { encoding: "utf8" });
  assert.equal(done.stdout, "SidecarGoneError\nalive\n", done.stderr);
  assert.equal(done.status, 0);
});

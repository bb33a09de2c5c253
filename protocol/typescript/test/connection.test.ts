// The connection with valid and invalid output of a sidecar; without a process.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ProtocolViolationError, QueueFull, RemoteError, SidecarGoneError } from "@locara/image/core";
import { end, frame, result, Scripted, step } from "./scripted.js";
import { failure, until } from "./support.js";

const generate = (sidecar: Scripted, onStep: (step: object) => unknown = () => {}) => {
  const call = sidecar.client.image.generate({ prompt: "a", onStep });
  return { call, ...sidecar.request("image.generate") };
};

test("lines may arrive in pieces of any size, several at once, with CRLF, and with blank lines between them", async () => {
  const sidecar = new Scripted();
  const pings = [sidecar.client.system.ping(), sidecar.client.system.ping(), sidecar.client.system.ping()];
  const lines =
    '{"jsonrpc":"2.0","id":1,"result":{"a":"äöü€😀"}}\r\n\n{"jsonrpc":"2.0","id":3,"result":{"a":3}}\n{"id":2,"result":{"a":2}}\n';
  for (const byte of new TextEncoder().encode(lines)) sidecar.raw(Uint8Array.of(byte));
  assert.deepEqual(await Promise.all(pings), [{ a: "äöü€😀" }, { a: 2 }, { a: 3 }]);
  assert.deepEqual(sidecar.violations, []);
});

test("a line that is too long is dropped and reported, and the next one is handled", async () => {
  const sidecar = new Scripted(1000);
  const ping = sidecar.client.system.ping();
  for (let part = 0; part < 100; part++) sidecar.raw("x".repeat(100));
  sidecar.raw("\n");
  sidecar.say(result(1, { fine: true }));
  assert.deepEqual(await ping, { fine: true });
  assert.equal(sidecar.violations.length, 1);
});

for (const [what, text] of [
  ["noise", "Loading weights: 100%\n"],
  ["no object", "[1]\n"],
  ["not UTF-8", Buffer.from('{"jsonrpc":"2.0","id":1,"result":{"fine":"\xff"}}\n', "latin1")],
  ["an answer to no request", '{"jsonrpc":"2.0","id":99,"result":{}}\n'],
  ["an id as a string", '{"jsonrpc":"2.0","id":"1","result":{}}\n'],
  [
    "a frame on no channel",
    '{"jsonrpc":"2.0","method":"DiffusionStep","params":{"channel":9,"index":0,"message":{}}}\n',
  ],
  ["a notification without params", '{"jsonrpc":"2.0","method":"Hello"}\n'],
] as const) {
  test(`${what} is a violation, and calls go on`, async () => {
    const sidecar = new Scripted();
    const ping = sidecar.client.system.ping();
    sidecar.raw(text);
    sidecar.say(result(1, { fine: true }));
    assert.deepEqual(await ping, { fine: true });
    assert.equal(sidecar.violations.length, 1);
  });
}

test("a gap in the indexes fails the call, once it is answered", async () => {
  const sidecar = new Scripted();
  const seen: object[] = [];
  const { call, id, channel } = generate(sidecar, (step) => seen.push(step));
  sidecar.say(frame(channel, 0, step(1)), frame(channel, 2, step(3)), end(channel, 3), result(id));
  assert.ok((await failure(call)) instanceof ProtocolViolationError);
  assert.deepEqual(seen, [step(1)]);
  assert.deepEqual(sidecar.violations, [`Channel ${channel}: index 2 came where 1 was expected.`]);
});

test("an end frame with a wrong count, or a missing one, fails the call", async () => {
  for (const last of [[end(1, 2)], []]) {
    const sidecar = new Scripted();
    const { call, id, channel } = generate(sidecar);
    sidecar.say(frame(channel, 0, step(1)), ...last, result(id));
    assert.ok((await failure(call)) instanceof ProtocolViolationError);
    assert.deepEqual(sidecar.connection.open, { requests: 0, channels: 0 });
  }
});

test("a frame after the end reaches nobody and fails the call", async () => {
  const sidecar = new Scripted();
  const seen: object[] = [];
  const { call, id, channel } = generate(sidecar, (step) => seen.push(step));
  sidecar.say(end(channel, 0), frame(channel, 0, step(1)), result(id));
  assert.ok((await failure(call)) instanceof ProtocolViolationError);
  assert.deepEqual(seen, []);
  assert.equal(sidecar.violations.length, 1);
});

test("a frame after the answer reaches nobody, and the answer counts", async () => {
  const sidecar = new Scripted();
  const seen: object[] = [];
  const { call, id, channel } = generate(sidecar, (step) => seen.push(step));
  sidecar.say(end(channel, 0), result(id), frame(channel, 0, step(1)));
  assert.deepEqual(await call, { images: [] });
  assert.deepEqual(seen, []);
  assert.deepEqual(sidecar.violations, [`A frame came on channel ${channel}, which is not open.`]);
});

test("an answer that is neither a result object nor an error fails the call", async () => {
  for (const answer of [
    {},
    { result: [1] },
    { result: null },
    { error: "no" },
    { error: { code: "x", message: "y" } },
  ]) {
    const sidecar = new Scripted();
    const ping = sidecar.client.system.ping();
    sidecar.say({ id: 1, ...answer });
    assert.ok((await failure(ping)) instanceof ProtocolViolationError);
  }
});

test("an error has the class of its kind, or of its code if it has no kind; an unknown kind has no class", async () => {
  const sidecar = new Scripted();
  const told = async (error: object) => {
    const ping = sidecar.client.system.ping();
    sidecar.say({ id: sidecar.request("ping").id, error });
    return (await failure(ping)) as RemoteError;
  };
  const full = await told({ code: -32013, message: "Full.", data: { kind: "QueueFull", retryable: true } });
  assert.ok(full instanceof QueueFull && full.retryable && full.message === "Full.");
  assert.ok((await told({ code: -32013, message: "Full." })) instanceof QueueFull);
  const later = await told({ code: -32099, message: "New.", data: { kind: "Tired", retryable: false, hours: 8 } });
  assert.ok(later instanceof RemoteError);
  assert.deepEqual([later.kind, later.name, later.retryable, later.data["hours"]], ["Tired", "Tired", false, 8]);
  const hostile = await told({ code: -32099, message: "x", data: { kind: "toString", retryable: false } });
  assert.equal(hostile.constructor, RemoteError);
});

test("when the sidecar is gone, all calls in flight fail, loops included, and so do later ones", async () => {
  const sidecar = new Scripted();
  const ping = failure(sidecar.client.system.ping());
  const { call, channel } = generate(sidecar);
  const loop = (async () => {
    for await (const _ of sidecar.client.image.generate({ prompt: "b" }));
  })();
  const attached = failure(sidecar.client.jobs.attach("job-1"));
  sidecar.say(frame(channel, 0, step(1)));
  sidecar.connection.close(new SidecarGoneError("gone"));
  for (const error of await Promise.all([ping, failure(call), failure(loop), attached]))
    assert.ok(error instanceof SidecarGoneError);
  assert.ok((await failure(sidecar.client.system.ping())) instanceof SidecarGoneError);
  assert.ok((await failure(sidecar.client.image.generate({ prompt: "c" }))) instanceof SidecarGoneError);
  assert.deepEqual(sidecar.connection.open, { requests: 0, channels: 0 });
  assert.deepEqual(sidecar.violations, []);
});

test("attach waits for the end frame, then asks for the result", async () => {
  const sidecar = new Scripted();
  const seen: object[] = [];
  const controller = new AbortController();
  const call = sidecar.client.jobs.attach("job-1", { onStep: (step) => seen.push(step), signal: controller.signal });
  const attach = sidecar.request("jobs.attach");
  sidecar.say(frame(attach.channel, 0, step(3)), { id: attach.id, result: { jobId: "job-1", state: "running" } });
  controller.abort();
  assert.deepEqual(sidecar.request("image.cancel").params, { jobId: "job-1" });
  sidecar.say(frame(attach.channel, 1, step(4)));
  await new Promise(setImmediate);
  assert.throws(() => sidecar.request("jobs.result"));
  sidecar.say(end(attach.channel, 2));
  await new Promise(setImmediate);
  sidecar.say(result(sidecar.request("jobs.result").id, { images: [1] }));
  assert.deepEqual(await call, { images: [1] });
  assert.deepEqual(seen, [step(3), step(4)]);
});

test("an attach that is refused leaves no channel open", async () => {
  const sidecar = new Scripted();
  const call = sidecar.client.jobs.attach("job-9");
  const error = {
    code: -32602,
    message: "No such job.",
    data: { kind: "InvalidParams", retryable: false, path: "$.jobId" },
  };
  sidecar.say({ id: sidecar.request("jobs.attach").id, error });
  assert.equal(((await failure(call)) as RemoteError).path, "$.jobId");
  assert.deepEqual(sidecar.connection.open, { requests: 0, channels: 0 });
});

test("an attach whose job runs fails when the sidecar is gone", async () => {
  const sidecar = new Scripted();
  const call = sidecar.client.jobs.attach("job-1");
  sidecar.say({ id: sidecar.request("jobs.attach").id, result: { jobId: "job-1", state: "running" } });
  await new Promise(setImmediate);
  sidecar.connection.close();
  assert.ok((await failure(call)) instanceof SidecarGoneError);
});

test("no more than the limit is kept of a line that never ends", async () => {
  const sidecar = new Scripted(1024 * 1024);
  global.gc?.();
  const before = process.memoryUsage().arrayBuffers;
  for (let part = 0; part < 200; part++) sidecar.raw(new Uint8Array(256 * 1024).fill(120));
  assert.ok(global.gc !== undefined, "run with --expose-gc");
  await until(() => {
    global.gc?.(); // frees buffers some time later
    return process.memoryUsage().arrayBuffers - before < 8e6;
  }, "52 MB are freed");
  sidecar.raw("\n");
  assert.deepEqual(sidecar.violations, ["A line is too long, or not UTF-8."]);
});

test("each call has its own id and channel", () => {
  const sidecar = new Scripted();
  const calls = [1, 2, 3].map(() => generate(sidecar));
  assert.equal(new Set(calls.map(({ id }) => id)).size, 3);
  assert.equal(new Set(calls.map(({ channel }) => channel)).size, 3);
  for (const { call } of calls) call.catch(() => {});
  sidecar.connection.close();
});

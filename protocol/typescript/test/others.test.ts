// Third-party clients, unmodified: vscode-jsonrpc, with a line reader and writer written here, and json-rpc-2.0.

import assert from "node:assert/strict";
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { type TestContext, test } from "node:test";
import { JSONRPCClient, JSONRPCErrorException, JSONRPCServer, JSONRPCServerAndClient } from "json-rpc-2.0";
import {
  AbstractMessageReader,
  AbstractMessageWriter,
  CancellationTokenSource,
  createMessageConnection,
  type DataCallback,
  type Message,
  type MessageReader,
  type MessageWriter,
  ResponseError,
} from "vscode-jsonrpc/node";
import { command, failure, folder, MANIFEST, PROMPT } from "./support.js";

const SLOW = { prompt: "fake:slow=60000 a lake", channel: 2 };

interface Frame {
  channel: number;
  index: number;
  message?: { phase: string; step: number };
  end?: boolean;
}

/** A daemon with plain pipes, and the params that open a session. */
function daemon(t: TestContext) {
  const [program, ...flags] = command();
  const child = spawn(program, flags, {
    stdio: ["pipe", "pipe", "ignore"],
  }) as unknown as ChildProcessWithoutNullStreams;
  const ended = new Promise((resolve) => child.on("close", resolve));
  t.after(async () => {
    child.stdin.end();
    await ended;
  });
  const clientInfo = { name: "other", version: "1" };
  return {
    child,
    session: { protocolVersion: 1, clientInfo, manifest: MANIFEST, grants: { "user-folder": folder(t) } },
  };
}

class LineReader extends AbstractMessageReader implements MessageReader {
  constructor(readonly child: ChildProcessWithoutNullStreams) {
    super();
  }

  listen(callback: DataCallback) {
    const lines = createInterface({ input: this.child.stdout });
    lines.on("line", (line) => callback(JSON.parse(line) as Message));
    lines.on("close", () => this.fireClose());
    return { dispose: () => lines.close() };
  }
}

class LineWriter extends AbstractMessageWriter implements MessageWriter {
  constructor(readonly child: ChildProcessWithoutNullStreams) {
    super();
  }

  async write(message: Message) {
    this.child.stdin.write(`${JSON.stringify(message)}\n`);
  }

  end() {
    this.child.stdin.end();
  }
}

/** The messages on a call's channel: all indexes in order, then the end. */
function judge(frames: Frame[], steps: number) {
  assert.deepEqual(
    frames.map(({ index }) => index),
    frames.map((_, place) => place),
  );
  assert.ok(frames.at(-1)?.end);
  const finished = frames.filter(({ message }) => message?.phase === "denoising" && message.step > 0);
  assert.deepEqual(
    finished.map(({ message }) => message?.step),
    Array.from({ length: steps }, (_, step) => step + 1),
  );
}

test("vscode-jsonrpc generates with progress, cancels and gets errors", async (t) => {
  const { child, session } = daemon(t);
  const connection = createMessageConnection(new LineReader(child), new LineWriter(child));
  const frames: Frame[] = [];
  let onFrame = (_: Frame) => {};
  connection.onNotification("DiffusionStep", (frame: Frame) => {
    frames.push(frame);
    onFrame(frame);
  });
  connection.listen();
  await connection.sendRequest("initialize", session);
  const params = { prompt: PROMPT, channel: 1, options: { steps: 5 } };
  const { images } = await connection.sendRequest<{ images: unknown[] }>("image.generate", params);
  assert.equal(images.length, 1);
  judge(frames, 5);

  const source = new CancellationTokenSource();
  onFrame = ({ message }) => message?.phase === "denoising" && source.cancel();
  const cancelled = await failure(connection.sendRequest("image.generate", SLOW, source.token));
  assert.ok(cancelled instanceof ResponseError);
  assert.deepEqual([cancelled.code, (cancelled.data as { kind: string }).kind], [-32800, "RequestCancelled"]);

  const wrong = await failure(connection.sendRequest("image.generate", { prompt: "a", options: { steps: 0 } }));
  assert.ok(wrong instanceof ResponseError);
  assert.deepEqual([wrong.code, (wrong.data as { path: string }).path], [-32602, "$.options.steps"]);
  assert.equal(((await failure(connection.sendRequest("image.paint", {}))) as ResponseError<unknown>).code, -32601);
  await connection.sendRequest("shutdown");
  connection.dispose();
});

test("json-rpc-2.0 generates with progress, cancels and gets errors", async (t) => {
  const { child, session } = daemon(t);
  let id = 0;
  const client = new JSONRPCClient(
    (message) => void child.stdin.write(`${JSON.stringify(message)}\n`),
    () => ++id,
  );
  const peer = new JSONRPCServerAndClient(new JSONRPCServer(), client);
  const frames: Frame[] = [];
  let onFrame = (_: Frame) => {};
  peer.addMethod("DiffusionStep", (frame: Frame) => {
    frames.push(frame);
    onFrame(frame);
  });
  createInterface({ input: child.stdout }).on(
    "line",
    (line) => void peer.receiveAndSend(JSON.parse(line), undefined, undefined),
  );
  await peer.request("initialize", session);
  const { images } = await peer.request("image.generate", { prompt: PROMPT, channel: 1, options: { steps: 5 } });
  assert.equal(images.length, 1);
  judge(frames, 5);

  onFrame = ({ message }) => message?.phase === "denoising" && peer.notify("$/cancelRequest", { id }, undefined);
  const cancelled = await failure(peer.request("image.generate", SLOW));
  assert.ok(cancelled instanceof JSONRPCErrorException);
  assert.deepEqual([cancelled.code, cancelled.data.kind], [-32800, "RequestCancelled"]);

  const wrong = await failure(peer.request("image.generate", { prompt: "a", options: { steps: 0 } }));
  assert.ok(wrong instanceof JSONRPCErrorException);
  assert.deepEqual([wrong.code, wrong.data.path], [-32602, "$.options.steps"]);
  assert.equal(((await failure(peer.request("image.paint", {}))) as JSONRPCErrorException).code, -32601);
});

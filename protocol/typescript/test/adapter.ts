// The adapter of this package's Node client for `locara-conformance host`; its form is in protocol/conformance/README.md.

import { createInterface } from "node:readline";
import {
  Call,
  type MethodName,
  ProtocolViolationError,
  RemoteError,
  Sidecar,
  SidecarGoneError,
} from "@locara/image/node";

interface Step {
  do: "open" | "start" | "messages" | "cancel" | "result" | "pause" | "close";
  call?: string;
  method?: MethodName;
  params?: object;
  stream?: boolean;
  slowMs?: number;
  count?: number;
  withinMs?: number;
  ms?: number;
}

const wait = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** A call, and what its caller has seen. */
class Watched {
  readonly seen: unknown[] = [];
  readonly controller = new AbortController();
  readonly answer: Promise<object>;
  #more = () => {};

  constructor(sidecar: Sidecar | undefined, { method = "ping", params = {}, stream, slowMs = 0 }: Step) {
    const onMessage = (message: unknown) => {
      if (slowMs > 0) return wait(slowMs).then(() => this.#see(message));
      return this.#see(message);
    };
    const call = new Call<object, unknown>(
      (take) => {
        if (sidecar === undefined) throw new SidecarGoneError("There is no session.");
        return sidecar.transport().start(method, params, stream ? take : undefined);
      },
      { onMessage, signal: this.controller.signal },
    );
    this.answer = Promise.resolve(call);
    this.answer.catch(() => {}); // a later step reads it
  }

  #see(message: unknown): void {
    this.seen.push(message);
    this.#more();
  }

  async count(least: number): Promise<number> {
    while (this.seen.length < least) {
      await new Promise<void>((resolve) => {
        this.#more = resolve;
      });
    }
    return this.seen.length;
  }
}

class Timeout extends Error {}

class Adapter {
  #sidecar: Sidecar | undefined;
  readonly #calls = new Map<string, Watched>();

  constructor(readonly command: [string, ...string[]]) {}

  async do(step: Step): Promise<object> {
    const call = this.#calls.get(step.call ?? "");
    switch (step.do) {
      case "open":
        this.#sidecar = await Sidecar.start({ command: this.command });
        return { ok: this.#sidecar.session };
      case "start":
        this.#calls.set(step.call ?? "", new Watched(this.#sidecar, step));
        return { ok: {} };
      case "messages":
        return { ok: { count: await call?.count(step.count ?? 0) } };
      case "cancel":
        call?.controller.abort();
        return { ok: {} };
      case "result": {
        const told = await answered(call?.answer, step.withinMs);
        return { ...told, messages: call?.seen };
      }
      case "pause":
        await wait(step.ms ?? 0);
        return { ok: {} };
      case "close":
        return { ok: { status: (await this.#sidecar?.close())?.status ?? null } };
    }
  }
}

async function answered(answer: Promise<object> | undefined, withinMs: number | undefined): Promise<object> {
  try {
    const late =
      withinMs === undefined ? [] : [wait(withinMs).then(() => Promise.reject(new Timeout("No answer in time.")))];
    return { ok: await Promise.race([answer, ...late]) };
  } catch (error) {
    return { error: described(error) };
  }
}

function described(error: unknown): object {
  const { message } = error as Error;
  if (error instanceof RemoteError) {
    const { code, kind, retryable, data } = error;
    return { type: "remote", message, code, kind, retryable, data };
  }
  if (error instanceof ProtocolViolationError) return { type: "violation", message };
  if (error instanceof SidecarGoneError) return { type: "gone", message, status: error.status };
  if (error instanceof Timeout) return { type: "timeout", message };
  throw error;
}

for await (const line of createInterface({ input: process.stdin })) {
  const { sidecar, steps } = JSON.parse(line) as { sidecar: [string, ...string[]]; steps: Step[] };
  const adapter = new Adapter(sidecar);
  for (const [number, step] of steps.entries()) {
    const told = await adapter.do(step).catch((error: unknown) => ({ error: described(error) }));
    const line = `${JSON.stringify({ step: number, ...told })}\n`;
    await new Promise((resolve) => process.stdout.write(line, resolve));
  }
  process.exit(0);
}

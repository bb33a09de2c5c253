// The API in a Tauri web view: each call is a command of the plugin, each long call has its own Channel.
//
// This module defines the names and arguments of the plugin's commands. README.md says what the plugin must do for them.

import { Channel, invoke } from "@tauri-apps/api/core";
import { Client } from "./client.js";
import {
  ClientError,
  fromWire,
  isWireError,
  ProtocolViolationError,
  SidecarGoneError,
  type WireError,
} from "./errors.js";
import type { MethodName, Sent, Transport } from "./transport.js";

export * from "./core.js";

/** How long to wait for messages that were sent before the answer but arrive after it. */
const LATE_MS = 2000;

/** The command of a method: `image.generate` → `generate`, `models.list` → `models_list`. */
export function commandOf(method: string): string {
  return method
    .replace(/^image\./, "")
    .replaceAll(".", "_")
    .replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/**
 * Runs a command of the plugin.
 *
 * @returns its answer.
 * @throws ClientError of the kind with which the command rejects.
 */
export async function runCommand(
  command: string,
  payload: Record<string, unknown>,
  plugin = "locara-diffusion",
): Promise<unknown> {
  try {
    return await invoke(`plugin:${plugin}|${command}`, payload);
  } catch (error) {
    if (isWireError(error)) throw fromCommand(error);
    throw new ClientError(typeof error === "string" ? error : "The command failed.", { cause: error });
  }
}

/** Creates the error of a kind; some are the plugin's own, about the sidecar rather than from it. */
function fromCommand(error: WireError): ClientError {
  const { kind, status, signal } = (error.data ?? {}) as { kind?: string; status?: unknown; signal?: unknown };
  if (kind === "ProtocolViolation") return new ProtocolViolationError(error.message);
  if (kind !== "SidecarGone") return fromWire(error);
  return new SidecarGoneError(error.message, {
    status: typeof status === "number" ? status : null,
    signal: typeof signal === "string" ? signal : null,
  });
}

/** The answer of a long call's command: the result, and how many messages were sent before it. */
interface LongAnswer {
  result: unknown;
  messages: number;
}

export class TauriTransport implements Transport {
  readonly #plugin: string | undefined;
  /** Distinguishes this page's calls from those made before a reload. */
  readonly #page = `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;
  #lastId = 0;

  constructor(plugin?: string) {
    this.#plugin = plugin;
  }

  start(method: MethodName, params: object, onMessage?: (message: unknown) => void): Sent {
    if (onMessage === undefined) return { answer: this.#invoke(commandOf(method), { params }), cancel: () => {} };
    return this.#long(commandOf(method), params, onMessage);
  }

  attach(jobId: string, onMessage: (message: unknown) => void): Sent {
    return this.#long("jobs_attach", { jobId }, onMessage);
  }

  #long(command: string, params: object, onMessage: (message: unknown) => void): Sent {
    const requestId = `${this.#page}-${++this.#lastId}`;
    const arrivals = new Arrivals(onMessage);
    const answer = this.#invoke(command, { params, requestId, channel: arrivals.channel }).then(async (answer) => {
      const { result, messages } = answer as LongAnswer;
      await arrivals.reached(messages);
      return result;
    });
    return {
      answer: answer.finally(() => arrivals.stop()),
      cancel: () => void this.#invoke("cancel_request", { requestId }).catch(() => {}),
    };
  }

  #invoke(command: string, payload: Record<string, unknown>): Promise<unknown> {
    return runCommand(command, payload, this.#plugin);
  }
}

/** Counts the messages of one Channel. An answer takes another path, so it may overtake them. */
class Arrivals {
  readonly channel: Channel<unknown>;
  #count = 0;
  #due = Number.POSITIVE_INFINITY;
  #complete: (() => void) | undefined;

  constructor(onMessage: (message: unknown) => void) {
    this.channel = new Channel<unknown>();
    this.channel.onmessage = (message) => {
      this.#count += 1;
      onMessage(message);
      if (this.#count >= this.#due) this.#complete?.();
    };
  }

  /** Waits until that many have arrived, but not forever. */
  async reached(messages: number): Promise<void> {
    if (!(this.#count < messages)) return;
    this.#due = messages;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, LATE_MS);
      this.#complete = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** From now on drops the messages. */
  stop(): void {
    this.channel.onmessage = () => {};
  }
}

/** The API over the plugin's commands. */
export function tauriClient(plugin?: string): Client {
  return new Client(new TauriTransport(plugin));
}

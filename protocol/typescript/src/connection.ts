// JSON-RPC 2.0 over lines, without I/O: who opens the pipe writes what it is given and feeds what it reads.
//
// Owned here: the requests in flight, the channels, and what the contract says about them. What breaks it (a hole in the
// indexes, an answer before the end frame, a line that is no message) is told to `onViolation`, and fails the call that it is
// about; the others go on.

import { ClientError, fromWire, isWireError, ProtocolViolationError, SidecarGoneError } from "./errors.js";
import { LineSplitter } from "./lines.js";
import type { MethodName, Sent, Transport } from "./transport.js";

export interface ConnectionOptions {
  /** Writes one line; its end is added already. What it throws is taken for the end of the connection. */
  write: (line: string) => void;
  /** What the sidecar did against the contract. */
  onViolation?: ((violation: ProtocolViolationError) => void) | undefined;
  /** The longest line that is taken; 64 MiB. */
  maxLineBytes?: number | undefined;
}

interface Request {
  readonly channel: number | undefined;
  readonly settle: (answer: { value: unknown } | { error: ClientError }) => void;
}

/** The messages of one channel until its end frame. */
class Channel {
  count = 0;
  problem: ProtocolViolationError | undefined;
  readonly ended: Promise<void>;
  #end!: () => void;
  isEnded = false;

  constructor(
    readonly number: number,
    readonly onMessage: (message: unknown) => void,
  ) {
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
  }

  end(problem?: ProtocolViolationError): void {
    this.isEnded = true;
    this.problem = problem;
    this.#end();
  }
}

const MAX_CHANNEL = 0xffff_ffff;

export class Connection implements Transport {
  readonly #options: ConnectionOptions;
  readonly #splitter: LineSplitter;
  readonly #requests = new Map<number, Request>();
  readonly #channels = new Map<number, Channel>();
  #lastId = 0;
  #lastChannel = 0;
  #gone: ClientError | undefined;
  #maxSentBytes = 16 * 1024 * 1024;

  constructor(options: ConnectionOptions) {
    this.#options = options;
    this.#splitter = new LineSplitter(options.maxLineBytes);
  }

  start(method: MethodName, params: object, onMessage?: (message: unknown) => void): Sent {
    const channel = onMessage && this.#openChannel(onMessage);
    const id = ++this.#lastId;
    const given = channel ? { ...params, channel: channel.number } : params;
    const answer = this.#request(id, method, given, channel?.number);
    if (method === "initialize") answer.then((opened) => this.#heedLimit(opened)).catch(() => {});
    return { answer, cancel: () => this.notify("$/cancelRequest", { id }) };
  }

  attach(jobId: string, onMessage: (message: unknown) => void): Sent {
    const cancel = () => void this.start("image.cancel", { jobId }).answer.catch(() => {});
    return { answer: this.#attached(jobId, this.#openChannel(onMessage)), cancel };
  }

  /** Sends a notification, if the sidecar is still there. */
  notify(method: string, params?: object): void {
    if (this.#gone === undefined) this.#write(lineOf({ jsonrpc: "2.0", method, ...(params && { params }) }));
  }

  /** Takes what was read, in pieces of any size. */
  receive(chunk: Uint8Array): void {
    for (const line of this.#splitter.feed(chunk)) {
      if (line === undefined) this.#violation("A line is too long, or not UTF-8.");
      else if (line.trim() !== "") this.#line(line);
    }
  }

  /** Ends the connection: fails what is in flight, and all calls from now on. */
  close(reason: ClientError = new SidecarGoneError("The connection was closed.")): void {
    if (this.#gone !== undefined) return;
    this.#gone = reason;
    for (const request of this.#requests.values()) request.settle({ error: reason });
    this.#requests.clear();
    for (const channel of this.#channels.values()) channel.end();
    this.#channels.clear();
  }

  /** How many requests and channels are open. */
  get open(): { requests: number; channels: number } {
    return { requests: this.#requests.size, channels: this.#channels.size };
  }

  #request(id: number, method: MethodName, params: object, channel?: number): Promise<unknown> {
    if (this.#gone !== undefined) {
      if (channel !== undefined) this.#channels.delete(channel);
      return Promise.reject(this.#gone);
    }
    let line: string;
    try {
      line = lineOf({ jsonrpc: "2.0", id, method, params });
      const size = sizeOf(line, this.#maxSentBytes);
      if (size > this.#maxSentBytes)
        throw new RangeError(`its line takes ${size} bytes, the sidecar takes ${this.#maxSentBytes}`);
      if (depthOf(line) > MAX_DEPTH) throw new RangeError(`it is nested deeper than ${MAX_DEPTH} levels`);
    } catch (cause) {
      if (channel !== undefined) this.#channels.delete(channel);
      const why = cause instanceof Error ? cause.message : String(cause);
      return Promise.reject(new ClientError(`${method} cannot be sent: ${why}`, { cause }));
    }
    const answer = new Promise<unknown>((resolve, reject) => {
      const settle: Request["settle"] = (answer) => ("error" in answer ? reject(answer.error) : resolve(answer.value));
      this.#requests.set(id, { channel, settle });
    });
    this.#write(line);
    return answer;
  }

  async #attached(jobId: string, channel: Channel): Promise<unknown> {
    try {
      await this.#request(++this.#lastId, "jobs.attach", { jobId, channel: channel.number });
      await channel.ended;
      if (channel.problem !== undefined) throw channel.problem;
    } finally {
      this.#channels.delete(channel.number);
    }
    return await this.#request(++this.#lastId, "jobs.result", { jobId });
  }

  #openChannel(onMessage: (message: unknown) => void): Channel {
    do this.#lastChannel = this.#lastChannel === MAX_CHANNEL ? 0 : this.#lastChannel + 1;
    while (this.#channels.has(this.#lastChannel));
    const channel = new Channel(this.#lastChannel, onMessage);
    this.#channels.set(channel.number, channel);
    return channel;
  }

  /** What is longer would be refused without its id, and its call would wait for ever. */
  #heedLimit(opened: unknown): void {
    const { capabilities } = opened as { capabilities?: { limits?: { maxLineBytes?: unknown } } };
    const most = capabilities?.limits?.maxLineBytes;
    if (typeof most === "number" && most > 0) this.#maxSentBytes = most;
  }

  #write(line: string): void {
    try {
      this.#options.write(`${line}\n`);
    } catch (cause) {
      this.close(new SidecarGoneError("The sidecar takes no input any more.", { cause }));
    }
  }

  #line(line: string): void {
    let message: unknown;
    try {
      message = JSON.parse(line);
    } catch {
      this.#violation("A line on stdout is not JSON.");
      return;
    }
    if (typeof message !== "object" || message === null || Array.isArray(message))
      this.#violation("A line is no message.");
    else if ("method" in message) this.#frame(message as { params?: unknown });
    else this.#answer(message as { id?: unknown; result?: unknown; error?: unknown });
  }

  #answer({ id, result, error }: { id?: unknown; result?: unknown; error?: unknown }): void {
    const request = this.#requests.get(id as number);
    if (request === undefined) {
      this.#violation(`An answer came for ${JSON.stringify(id)}, which no call has as its id.`);
      return;
    }
    this.#requests.delete(id as number);
    const channel = this.#channels.get(request.channel as number);
    if (channel !== undefined) {
      if (!channel.isEnded) channel.end(this.#violation(`Channel ${channel.number} had no end before its answer.`));
      this.#channels.delete(channel.number);
    }
    if (isWireError(error)) request.settle({ error: fromWire(error) });
    else if (channel?.problem !== undefined) request.settle({ error: channel.problem });
    else if (typeof result === "object" && result !== null && !Array.isArray(result)) request.settle({ value: result });
    else request.settle({ error: this.#violation("An answer has neither a result that is an object nor an error.") });
  }

  #frame({ params }: { params?: unknown }): void {
    const { channel: number, index, end, message } = (params ?? {}) as Record<string, unknown>;
    const channel = this.#channels.get(number as number);
    if (channel?.problem !== undefined) return; // told already
    if (channel === undefined) {
      this.#violation(`A frame came on channel ${JSON.stringify(number)}, which is not open.`);
    } else if (channel.isEnded) {
      channel.problem = this.#violation(`A frame came after the end of channel ${channel.number}.`);
    } else if (index !== channel.count) {
      channel.end(
        this.#violation(
          `Channel ${channel.number}: index ${JSON.stringify(index)} came where ${channel.count} was expected.`,
        ),
      );
    } else if (end === true) {
      channel.end();
    } else {
      channel.count += 1;
      apart(() => channel.onMessage(message));
    }
  }

  #violation(sentence: string): ProtocolViolationError {
    const violation = new ProtocolViolationError(sentence);
    apart(() => this.#options.onViolation?.(violation));
    return violation;
  }
}

/** JSON, with U+FFFD for halves of characters, as where a web page sends text: the sidecar takes no line with one. */
function lineOf(message: object): string {
  return JSON.stringify(message, (_name, value: unknown) =>
    typeof value === "string" ? value.replace(/\p{Surrogate}/gu, "\ufffd") : value,
  );
}

/** How deep the sidecar takes messages to be nested; it answers a deeper one without its id. */
const MAX_DEPTH = 64;

/** How deep JSON is nested, its texts left out. */
function depthOf(line: string): number {
  let [depth, deepest] = [0, 0];
  for (let at = 0; at < line.length; at += 1) {
    const character = line[at];
    if (character === '"') at = endOfText(line, at);
    else if (character === "{" || character === "[") deepest = Math.max(deepest, ++depth);
    else if (character === "}" || character === "]") depth -= 1;
  }
  return deepest;
}

/** Where the text that begins at a place ends; a picture's may be megabytes long. */
function endOfText(line: string, start: number): number {
  for (let end = line.indexOf('"', start + 1); end !== -1; end = line.indexOf('"', end + 1)) {
    let before = end;
    while (line[before - 1] === "\\") before -= 1;
    if ((end - before) % 2 === 0) return end;
  }
  return line.length;
}

/** Bytes in UTF-8, counted only where it matters. */
function sizeOf(line: string, most: number): number {
  return line.length > most || line.length * 3 <= most ? line.length : new TextEncoder().encode(line).length;
}

/**
 * Calls what a host gave. What it throws is uncaught, like all that a callback throws, but a moment later: the lines that
 * were read with this one are others', and are taken first.
 */
export function apart(callback: () => void): void {
  try {
    callback();
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

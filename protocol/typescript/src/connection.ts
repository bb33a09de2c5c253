// JSON-RPC 2.0 over lines, without I/O: the owner of the pipes writes the lines that it gets, and passes on what it reads.
//
// This module tracks the requests in flight and their channels, and enforces the contract's rules about them. A violation (a
// gap in the indexes, an answer before the end frame, a line that is not a message) is reported to `onViolation`, and fails
// the call that it is about; the others go on.

import { ClientError, fromWire, isWireError, ProtocolViolationError, SidecarGoneError } from "./errors.js";
import { LineSplitter } from "./lines.js";
import type { MethodName, Sent, Transport } from "./transport.js";

export interface ConnectionOptions {
  /** Writes one line, which includes its ending. If it throws, the connection has ended. */
  write: (line: string) => void;
  /** Called with each violation of the contract by the sidecar. */
  onViolation?: ((violation: ProtocolViolationError) => void) | undefined;
  /** The longest accepted line, in bytes (64 MiB). */
  maxLineBytes?: number | undefined;
}

interface Request {
  readonly channel: number | undefined;
  readonly settle: (answer: { value: unknown } | { error: ClientError }) => void;
}

/** The messages of one channel, up to its end frame. */
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

  /** Handles bytes that were read, in pieces of any size. */
  receive(chunk: Uint8Array): void {
    for (const line of this.#splitter.feed(chunk)) {
      if (line === undefined) this.#violation("A line is too long, or not UTF-8.");
      else if (line.trim() !== "") this.#line(line);
    }
  }

  /** Ends the connection: fails the calls in flight, and all later ones. */
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
        throw new RangeError(`its line has ${size} bytes, the sidecar accepts ${this.#maxSentBytes}`);
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

  /** Notes the sidecar's limit: it refuses longer lines without their id, and their calls would wait forever. */
  #heedLimit(opened: unknown): void {
    const { capabilities } = opened as { capabilities?: { limits?: { maxLineBytes?: unknown } } };
    const most = capabilities?.limits?.maxLineBytes;
    if (typeof most === "number" && most > 0) this.#maxSentBytes = most;
  }

  #write(line: string): void {
    try {
      this.#options.write(`${line}\n`);
    } catch (cause) {
      this.close(new SidecarGoneError("The sidecar no longer accepts input.", { cause }));
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
      this.#violation("A line is not a message.");
    else if ("method" in message) this.#frame(message as { params?: unknown });
    else this.#answer(message as { id?: unknown; result?: unknown; error?: unknown });
  }

  #answer({ id, result, error }: { id?: unknown; result?: unknown; error?: unknown }): void {
    const request = this.#requests.get(id as number);
    if (request === undefined) {
      this.#violation(`An answer came for the id ${JSON.stringify(id)}, which no call has.`);
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
    if (channel?.problem !== undefined) return; // reported already
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

/** Encodes JSON with U+FFFD for lone surrogates, as web pages send text: the sidecar accepts no line with one. */
function lineOf(message: object): string {
  return JSON.stringify(message, (_name, value: unknown) =>
    typeof value === "string" ? value.replace(/\p{Surrogate}/gu, "\ufffd") : value,
  );
}

/** How deeply nested a message the sidecar accepts; it answers a deeper one without its id. */
const MAX_DEPTH = 64;

/** Returns how deeply JSON is nested, ignoring its strings. */
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

/** Returns the end of the string that begins at `start`; a picture's may be megabytes long. */
function endOfText(line: string, start: number): number {
  for (let end = line.indexOf('"', start + 1); end !== -1; end = line.indexOf('"', end + 1)) {
    let before = end;
    while (line[before - 1] === "\\") before -= 1;
    if ((end - before) % 2 === 0) return end;
  }
  return line.length;
}

/** Returns the length in UTF-8, counted only near the limit. */
function sizeOf(line: string, most: number): number {
  return line.length > most || line.length * 3 <= most ? line.length : new TextEncoder().encode(line).length;
}

/**
 * Calls a host's callback. An error that it throws is uncaught, as for any callback, but a moment later: other calls' lines
 * that were read together with this one are handled first.
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

// The sidecar as a child process of Node.
//
// This module owns the process. stderr is always read, line by line, so the sidecar never waits for it. When the process
// ends, so do all calls, with the end of its log in the error. To close it, stdin is closed: it answers what runs and exits
// within 2 seconds, or is killed.

import { type ChildProcess, type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { Client, HostApi } from "./client.js";
import { apart, Connection } from "./connection.js";
import { ClientError, ProtocolViolationError, SidecarGoneError } from "./errors.js";
import { type InitializeParams, type InitializeResult, type Manifest, PROTOCOL_VERSION } from "./schema.js";

export * from "./core.js";

const CLOSE_MS = 2000;
/** How long to read on after it has ended: a process that it left behind may hold its pipes open. */
const LAST_WORDS_MS = 1000;
const STDERR_KEPT = 8192;

/** The manifest as TypeScript types an imported JSON file: strings are any string. The sidecar checks it. */
type Imported<T> = T extends string
  ? string
  : T extends boolean
    ? boolean
    : T extends object
      ? { [K in keyof T]: Imported<T[K]> }
      : T;

export interface SidecarOptions {
  /** The command to run; by default `["locara-sidecar", "serve"]`. */
  command?: readonly [string, ...string[]] | undefined;
  /** The app's `locara.json`. Without it nothing is granted. */
  manifest?: Manifest | Imported<Manifest> | undefined;
  /** Root name → absolute folder: `{"user-folder": "/home/a/Pictures/App"}`. */
  grants?: Record<string, string> | undefined;
  clientInfo?: { name: string; version: string } | undefined;
  /** The token for gated downloads. */
  auth?: { token: string } | undefined;
  /** The child's environment; by default this process's own. */
  env?: NodeJS.ProcessEnv | undefined;
  cwd?: string | undefined;
  /** Abandons the start, for a program that never answers. It has no effect once the session is open. */
  signal?: AbortSignal | undefined;
  /** The process whose end also ends the sidecar, for a host behind a wrapper; by default this process; none if null. */
  processId?: number | null | undefined;
  /** Called with each line of its log: a JSON object, or as text any other line. */
  onLog?: ((line: unknown) => void) | undefined;
  /** Called with each violation of the contract by the sidecar. */
  onViolation?: ((violation: ProtocolViolationError) => void) | undefined;
}

export interface Exit {
  status: number | null;
  signal: NodeJS.Signals | null;
}

export class Sidecar extends Client {
  readonly host: HostApi;
  /** Settles when the process has ended; never rejects. */
  readonly exited: Promise<Exit>;
  #session: InitializeResult | undefined;
  readonly #connection: Connection;
  readonly #process: ChildProcess;

  private constructor(options: SidecarOptions) {
    const [program, ...flags] = options.command ?? ["locara-sidecar", "serve"];
    const child = spawned(program, flags, options);
    const connection = new Connection({
      write: (line) => void child.stdin.write(line),
      onViolation: options.onViolation,
    });
    super(connection);
    this.host = new HostApi(() => connection);
    this.#connection = connection;
    this.#process = child;
    const log = new Log(options.onLog);
    child.stdin.on("error", () => {}); // it is gone; "close" reports that
    child.stdout.on("data", (chunk: Buffer) => connection.receive(chunk));
    child.stdout.on("end", () => void this.close()); // a process that has closed its output is useless
    child.stderr.setEncoding("utf8").on("data", (text: string) => log.take(text));
    this.exited = new Promise((resolve) => {
      const gone = (sentence: string, exit: Exit, cause?: unknown) => {
        connection.close(new SidecarGoneError(sentence, { ...exit, stderr: log.end, cause }));
        for (const pipe of [child.stdin, child.stdout, child.stderr]) pipe.destroy();
        resolve(exit);
      };
      const ended = (status: number | null, signal: NodeJS.Signals | null) =>
        gone(`The sidecar ended with ${signal ?? `status ${status}`}.`, { status, signal });
      child.on("error", (error) => {
        if (child.pid === undefined) gone(`${program} cannot be started.`, { status: null, signal: null }, error);
      });
      child.on("close", ended); // after everything that it wrote was read
      child.on("exit", (status, signal) => setTimeout(() => ended(status, signal), LAST_WORDS_MS).unref());
    });
  }

  /**
   * Spawns a sidecar and opens a session with it.
   *
   * @throws SidecarGoneError if it cannot be started, or ends, or the start is abandoned; RemoteError if it refuses the
   * session.
   */
  static async start(options: SidecarOptions = {}): Promise<Sidecar> {
    if (options.signal?.aborted)
      throw new SidecarGoneError("The start was abandoned.", { cause: options.signal.reason });
    const sidecar = new Sidecar(options);
    const { manifest, grants, auth, clientInfo = { name: "@locara/image", version: "0.1.0" } } = options;
    const given = manifest && { ...manifest };
    const params = { protocolVersion: PROTOCOL_VERSION, clientInfo, manifest: given, grants, auth } as InitializeParams;
    if (options.processId !== null) params.processId = options.processId ?? process.pid;
    const giveUp = () => {
      sidecar.#connection.close(new SidecarGoneError("The start was abandoned.", { cause: options.signal?.reason }));
    };
    options.signal?.addEventListener("abort", giveUp, { once: true });
    try {
      const session = (await sidecar.#connection.start("initialize", params).answer) as InitializeResult;
      if (session.protocolVersion !== PROTOCOL_VERSION) {
        throw new ProtocolViolationError(
          `The sidecar speaks version ${session.protocolVersion}, which was not offered.`,
        );
      }
      sidecar.#session = session;
    } catch (error) {
      await sidecar.close();
      throw error;
    } finally {
      options.signal?.removeEventListener("abort", giveUp);
    }
    return sidecar;
  }

  /** The result of `initialize`: versions, capabilities and limits, and what the app was granted. */
  get session(): InitializeResult {
    if (this.#session === undefined) throw new ClientError("The session is not open.");
    return this.#session;
  }

  get pid(): number | undefined {
    return this.#process.pid;
  }

  /** How many requests and channels are open: none if no call is in flight. */
  get open(): { requests: number; channels: number } {
    return this.#connection.open;
  }

  /** Ends the sidecar: closes its stdin and waits; after 2 seconds it is killed. Calls in flight are answered or fail. */
  async close(): Promise<Exit> {
    this.#process.stdin?.end();
    const timer = setTimeout(() => this.#process.kill("SIGKILL"), CLOSE_MS);
    try {
      return await this.exited;
    } finally {
      clearTimeout(timer);
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close().then(() => {});
  }
}

/**
 * @throws SidecarGoneError if no descriptors are left for its pipes: Node then creates a child without them, and reports why
 * only a moment later. Any other failure to start arrives as the child's "error".
 */
function spawned(program: string, flags: string[], { env, cwd }: SidecarOptions): ChildProcessWithoutNullStreams {
  const child: ChildProcess = spawn(program, flags, { stdio: ["pipe", "pipe", "pipe"], env, cwd, windowsHide: true });
  if (child.stdin && child.stdout && child.stderr) return child as ChildProcessWithoutNullStreams;
  child.on("error", () => {}); // otherwise it would end this process
  throw new SidecarGoneError(`${program} cannot be started: no descriptors are left for its pipes.`);
}

/** stderr in lines, and its end. */
class Log {
  end = "";
  #rest = "";
  readonly #onLog: ((line: unknown) => void) | undefined;

  constructor(onLog: ((line: unknown) => void) | undefined) {
    this.#onLog = onLog;
  }

  take(text: string): void {
    this.end = (this.end + text).slice(-STDERR_KEPT);
    if (this.#onLog === undefined) return;
    const lines = (this.#rest + text).split("\n");
    this.#rest = (lines.pop() ?? "").slice(-1024 * 1024);
    const onLog = this.#onLog;
    for (const line of lines) if (line !== "") apart(() => onLog(parsed(line)));
  }
}

function parsed(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return line;
  }
}

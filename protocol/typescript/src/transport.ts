// What a client needs from the transport that carries its calls: lines to a process, or commands of a Tauri plugin.

import type { Methods } from "./schema.js";

export type MethodName = keyof Methods;
export type Params<N extends MethodName> = Own<Methods[N]["params"]>;
/** `Omit` applied to each form of an object separately: applied to their union it would mix them. */
type Own<T> = T extends unknown ? Omit<T, "channel" | "_meta"> : never;
export type Result<N extends MethodName> = Methods[N]["result"];
export type Message<N extends MethodName> = Methods[N]["message"];

/** A request that has been sent. */
export interface Sent {
  /** Settles once, after `onMessage` got the last message; rejects with a ClientError. */
  readonly answer: Promise<unknown>;
  /** Cancels the request. It is still answered. */
  cancel(): void;
}

export interface Transport {
  /**
   * Sends a request.
   *
   * @param onMessage called with the messages of a long call, in order; without it the call has none.
   */
  start(method: MethodName, params: object, onMessage?: (message: unknown) => void): Sent;

  /** Follows a job: its further messages, and the answer of its own call. Cancelling this cancels the job. */
  attach(jobId: string, onMessage: (message: unknown) => void): Sent;
}

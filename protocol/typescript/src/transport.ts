// What a client needs of whatever carries its calls: lines to a process, or commands of a Tauri plugin.

import type { Methods } from "./schema.js";

export type MethodName = keyof Methods;
export type Params<N extends MethodName> = Own<Methods[N]["params"]>;
/** Each of the forms of an object by itself: `Omit` of them together would be neither. */
type Own<T> = T extends unknown ? Omit<T, "channel" | "_meta"> : never;
export type Result<N extends MethodName> = Methods[N]["result"];
export type Message<N extends MethodName> = Methods[N]["message"];

/** A request that has been sent. */
export interface Sent {
  /** Settles once, after the last message was given to `onMessage`; rejects with a ClientError. */
  readonly answer: Promise<unknown>;
  /** Asks for an early end. The answer still comes. */
  cancel(): void;
}

export interface Transport {
  /**
   * Sends a request.
   *
   * @param onMessage is given the messages of a long call, in order; without it the call has none.
   */
  start(method: MethodName, params: object, onMessage?: (message: unknown) => void): Sent;

  /** Has a job's further messages, and the answer of its own call. To cancel it is to cancel the job. */
  attach(jobId: string, onMessage: (message: unknown) => void): Sent;
}

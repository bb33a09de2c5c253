// A call in flight: a promise of its result, and an async iterable of its messages.

import { RequestCancelled } from "./errors.js";
import { Mailbox } from "./mailbox.js";
import type { Sent } from "./transport.js";

export interface CallOptions<M> {
  /**
   * Called with each message. If it returns a promise, the next message waits for it. Messages that arrive faster than
   * it handles them are merged, and the last one always arrives before the call settles. If it throws, the call is
   * cancelled and rejects with that error.
   */
  onMessage?: ((message: M) => unknown) | undefined;
  /** Cancels the call. It is still answered: with RequestCancelled, or with its result if that was already available. */
  signal?: AbortSignal | undefined;
}

/**
 * `await` it for the result, or iterate over its messages: the loop ends after the last one, and throws if the call
 * fails. Leaving the loop early cancels the call.
 */
export class Call<R, M> implements Promise<R>, AsyncIterable<M> {
  readonly [Symbol.toStringTag] = "Call";
  readonly #result: Promise<R>;
  readonly #mailbox = new Mailbox<M>();
  readonly #onMessage: ((message: M) => unknown) | undefined;
  #sent: Sent | undefined;
  #taking: Promise<void> | undefined;
  #failed: { error: unknown } | undefined;
  #iterated = false;

  constructor(send: (onMessage: (message: unknown) => void) => Sent, options: CallOptions<M> = {}) {
    this.#onMessage = options.onMessage;
    this.#result = this.#run(send, options.signal);
  }

  /** Cancels the call; see {@link CallOptions.signal}. After the call's end it does nothing. */
  cancel(): void {
    this.#sent?.cancel();
  }

  // biome-ignore lint/suspicious/noThenProperty: a call is a promise
  then<A = R, B = never>(
    onFulfilled?: ((result: R) => A | PromiseLike<A>) | null,
    // biome-ignore lint/suspicious/noExplicitAny: as a Promise has it
    onRejected?: ((reason: any) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    return this.#result.then(onFulfilled, onRejected);
  }

  // biome-ignore lint/suspicious/noExplicitAny: as a Promise has it
  catch<B = never>(onRejected?: ((reason: any) => B | PromiseLike<B>) | null): Promise<R | B> {
    return this.#result.catch(onRejected);
  }

  finally(onFinally?: (() => void) | null): Promise<R> {
    return this.#result.finally(onFinally);
  }

  /** @throws TypeError if the messages go to a callback, or to another loop. */
  [Symbol.asyncIterator](): AsyncIterator<M, void> {
    if (this.#onMessage !== undefined) throw new TypeError("The messages of this call go to its callback.");
    if (this.#iterated) throw new TypeError("The messages of a call can be consumed only once.");
    this.#iterated = true;
    this.#result.catch(() => {}); // the loop throws the error
    return {
      next: async () => {
        const value = await this.#mailbox.next();
        if (value !== undefined) return { done: false, value };
        await this.#result;
        return { done: true, value: undefined };
      },
      return: async () => {
        this.#mailbox.discard();
        this.cancel();
        return { done: true, value: undefined };
      },
    };
  }

  async #run(send: (onMessage: (message: unknown) => void) => Sent, signal: AbortSignal | undefined): Promise<R> {
    if (signal?.aborted) {
      this.#mailbox.close();
      throw RequestCancelled.unsent();
    }
    const abort = () => this.cancel();
    signal?.addEventListener("abort", abort, { once: true });
    const [answer] = await Promise.allSettled([this.#begin(send)]);
    signal?.removeEventListener("abort", abort);
    this.#sent = undefined;
    await this.#taking;
    this.#mailbox.close();
    if (this.#failed !== undefined) throw this.#failed.error;
    if (answer.status === "rejected") throw answer.reason;
    return answer.value as R;
  }

  /** Sends at once; an error thrown while sending becomes the call's answer. */
  async #begin(send: (onMessage: (message: unknown) => void) => Sent): Promise<unknown> {
    this.#sent = send((message) => this.#arrived(message as M));
    return await this.#sent.answer;
  }

  #arrived(message: M): void {
    this.#mailbox.put(message);
    if (this.#onMessage !== undefined && this.#taking === undefined) this.#take(this.#onMessage);
  }

  /** Passes the waiting messages to the callback: all at once, as long as it returns no promise. */
  #take(onMessage: (message: M) => unknown): void {
    try {
      for (let message = this.#mailbox.shift(); message !== undefined; message = this.#mailbox.shift()) {
        const done = onMessage(message);
        if (isPromise(done)) {
          this.#taking = this.#takeSlowly(onMessage, done);
          return;
        }
      }
    } catch (error) {
      this.#fail(error);
    }
  }

  async #takeSlowly(onMessage: (message: M) => unknown, first: Promise<unknown>): Promise<void> {
    try {
      await first;
      for (let message = this.#mailbox.shift(); message !== undefined; message = this.#mailbox.shift()) {
        await onMessage(message);
      }
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#taking = undefined;
    }
  }

  #fail(error: unknown): void {
    this.#failed = { error };
    this.#mailbox.discard();
    this.cancel();
  }
}

function isPromise(value: unknown): value is Promise<unknown> {
  return typeof (value as { then?: unknown } | null | undefined)?.then === "function";
}

// The browser's side of the bridge: a Transport over a WebSocket.

import {
  fromWire,
  type MethodName,
  type Sent,
  SidecarGoneError,
  type Transport,
  type WireError,
} from "@locara/image/core";
import type { Down, Up } from "../protocol.js";

interface Open {
  resolve: (result: unknown) => void;
  reject: (error: unknown) => void;
  onMessage: ((message: unknown) => void) | undefined;
}

export class BridgeTransport implements Transport {
  readonly #socket: WebSocket;
  readonly #ready: Promise<void>;
  readonly #open = new Map<number, Open>();
  #lastId = 0;

  constructor(url: string) {
    this.#socket = new WebSocket(url);
    this.#ready = new Promise((resolve) => {
      this.#socket.onopen = () => resolve();
    });
    this.#socket.onmessage = ({ data }) => this.#came(JSON.parse(data as string) as Down);
    this.#socket.onclose = () => {
      for (const { reject } of this.#open.values()) reject(new SidecarGoneError("The bridge is closed."));
      this.#open.clear();
    };
  }

  start(method: MethodName, params: object, onMessage?: (message: unknown) => void): Sent {
    return this.#send((id) => ({ id, method, params, long: onMessage !== undefined }), onMessage);
  }

  attach(jobId: string, onMessage: (message: unknown) => void): Sent {
    return this.#send((id) => ({ id, attach: jobId }), onMessage);
  }

  /** Makes the host reopen its session with this token. */
  async give(token: string): Promise<void> {
    await this.#send((id) => ({ id, token }), undefined).answer;
  }

  #send(up: (id: number) => Up, onMessage: ((message: unknown) => void) | undefined): Sent {
    const id = ++this.#lastId;
    const answer = new Promise((resolve, reject) => this.#open.set(id, { resolve, reject, onMessage }));
    const say = (message: Up) => void this.#ready.then(() => this.#socket.send(JSON.stringify(message)));
    say(up(id));
    return { answer, cancel: () => say({ cancel: id }) };
  }

  #came(down: Down): void {
    const call = this.#open.get(down.id);
    if (call === undefined) return;
    if ("message" in down) {
      call.onMessage?.(down.message);
      return;
    }
    this.#open.delete(down.id);
    if ("result" in down) call.resolve(down.result);
    else if ("gone" in down) call.reject(new SidecarGoneError(down.gone));
    else call.reject(fromWire(down.error as WireError));
  }
}

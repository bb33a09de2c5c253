// A bridge for tests only: it serves the page over HTTP and its calls over a WebSocket, with the Node client and the real
// daemon behind both. It does for a browser what the Tauri plugin does for a web view, and also refuses the host's own calls.

import { readFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join, normalize } from "node:path";
import { type MethodName, RemoteError, type Sent, Sidecar, type SidecarOptions } from "@locara/image/node";
import { type WebSocket, WebSocketServer } from "ws";
import type { Down, Up } from "./protocol.js";

const TYPES: Record<string, string> = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".css": "text/css",
  ".png": "image/png",
  ".webp": "image/webp",
};

export class Bridge {
  sidecar: Sidecar;
  /** The page's requests, in order. */
  readonly asked: { method: string; params: object }[] = [];
  readonly #server: Server;
  readonly #sockets: WebSocketServer;
  readonly #options: SidecarOptions;

  private constructor(sidecar: Sidecar, options: SidecarOptions, server: Server) {
    this.sidecar = sidecar;
    this.#options = options;
    this.#server = server;
    this.#sockets = new WebSocketServer({ server });
    this.#sockets.on("connection", (socket) => this.#connected(socket));
  }

  /** Starts a daemon and serves the built page; pictures of the folder are below `/pictures/`. */
  static async start(page: string, pictures: string, options: SidecarOptions): Promise<Bridge> {
    const sidecar = await Sidecar.start(options);
    const server = createServer((request, response) => {
      const path = normalize(decodeURIComponent(new URL(request.url ?? "/", "http://bridge").pathname));
      const inPictures = path.startsWith("/pictures/");
      const file = inPictures ? join(pictures, path.slice(10)) : join(page, path === "/" ? "index.html" : path);
      readFile(file).then(
        (bytes) => response.writeHead(200, { "content-type": TYPES[extname(file)] ?? "text/plain" }).end(bytes),
        () => response.writeHead(404).end(),
      );
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return new Bridge(sidecar, options, server);
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/`;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets.clients) socket.terminate();
    this.#server.closeAllConnections();
    this.#server.close();
    await this.sidecar.close();
  }

  #connected(socket: WebSocket): void {
    const running = new Map<number, Sent>();
    const down = (message: Down) => socket.readyState === socket.OPEN && socket.send(JSON.stringify(message));
    socket.on("message", (data) => {
      const up = JSON.parse(String(data)) as Up;
      if ("cancel" in up) running.get(up.cancel)?.cancel();
      else void this.#answer(up, running, down);
    });
  }

  async #answer(up: Exclude<Up, { cancel: number }>, running: Map<number, Sent>, down: (message: Down) => void) {
    const { id } = up;
    try {
      if ("token" in up) {
        await this.#reopen(up.token);
        down({ id, result: {} });
        return;
      }
      const sent = this.#sent(up, (message) => down({ id, message }));
      running.set(id, sent);
      down({ id, result: await sent.answer });
    } catch (error) {
      if (error instanceof RemoteError) {
        const { code, message, data } = error;
        down({ id, error: { code, message, data } });
      } else down({ id, gone: error instanceof Error ? error.message : String(error) });
    } finally {
      running.delete(id);
    }
  }

  #sent(up: Exclude<Up, { cancel: number } | { token: string }>, onMessage: (message: unknown) => void): Sent {
    const transport = this.sidecar.transport();
    if ("attach" in up) return transport.attach(up.attach, onMessage);
    if (up.method.startsWith("host.") || up.method === "initialize") throw new Error(`${up.method} is the host's own`);
    this.asked.push(up);
    return transport.start(up.method as MethodName, up.params, up.long ? onMessage : undefined);
  }

  async #reopen(token: string): Promise<void> {
    await this.sidecar.close();
    this.sidecar = await Sidecar.start({ ...this.#options, auth: { token } });
  }
}

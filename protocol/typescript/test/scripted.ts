// A sidecar that sends what a test scripts: lines in memory.

import type { ProtocolViolationError } from "@locara/image/core";
import { Client, Connection } from "@locara/image/core";

export interface Written {
  id?: number;
  method: string;
  params: Record<string, unknown>;
}

export class Scripted {
  readonly written: Written[] = [];
  readonly violations: string[] = [];
  readonly connection: Connection;
  readonly client: Client;

  constructor(maxLineBytes?: number) {
    this.connection = new Connection({
      write: (line) => void this.written.push(JSON.parse(line)),
      onViolation: (violation: ProtocolViolationError) => void this.violations.push(violation.message),
      maxLineBytes,
    });
    this.client = new Client(this.connection);
  }

  /** The latest request of a method. */
  request(method: string): Written & { id: number; channel: number } {
    const found = this.written.filter((message) => message.method === method).at(-1);
    if (found?.id === undefined) throw new Error(`no ${method} was sent`);
    return { ...found, id: found.id, channel: found.params["channel"] as number };
  }

  say(...messages: object[]): void {
    this.raw(messages.map((message) => `${JSON.stringify({ jsonrpc: "2.0", ...message })}\n`).join(""));
  }

  raw(text: string | Uint8Array): void {
    this.connection.receive(typeof text === "string" ? new TextEncoder().encode(text) : text);
  }
}

export const frame = (channel: number, index: number, message: object) => ({
  method: "DiffusionStep",
  params: { channel, index, message },
});
export const end = (channel: number, index: number) => ({
  method: "DiffusionStep",
  params: { channel, index, end: true },
});
export const result = (id: number, value: object = { images: [] }) => ({ id, result: value });
export const step = (number: number, more: object = {}) => ({ phase: "denoising", image: 1, step: number, ...more });

// What the page and the bridge say to each other, one JSON text a WebSocket message.

export type Up =
  | { id: number; method: string; params: object; long: boolean }
  | { id: number; attach: string }
  | { id: number; token: string }
  | { cancel: number };

export type Down = { id: number } & (
  | { message: unknown }
  | { result: unknown }
  | { error: unknown }
  | { gone: string }
);

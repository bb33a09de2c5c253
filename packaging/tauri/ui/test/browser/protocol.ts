// The messages between the page and the bridge, one JSON text per WebSocket message.

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

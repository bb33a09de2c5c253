// For custom transports: JSON-RPC over lines without I/O, and the API on top of it.

export { Call, type CallOptions } from "./call.js";
export * from "./client.js";
export { Connection, type ConnectionOptions } from "./connection.js";
export * from "./errors.js";
export { dataUrl, inline } from "./pictures.js";
export type * from "./schema.js";
export { CODES, PROTOCOL_VERSION } from "./schema.js";
export type { Message, MethodName, Params, Result, Sent, Transport } from "./transport.js";

// Errors as classes. A sidecar's error is an instance of its kind's class, so both `instanceof` and `kind` identify it.

import { CODES, type ImageResult } from "./schema.js";

export type ErrorKind = keyof typeof CODES;

/** Base of all errors of calls, except those that the caller's own `onStep` throws. */
export class ClientError extends Error {
  override name = "ClientError";
}

/** The sidecar is gone: it ended, or could not be started. `status` and `signal` are set if known. */
export class SidecarGoneError extends ClientError {
  override name = "SidecarGoneError";
  readonly status: number | null;
  readonly signal: string | null;
  /** The end of what it wrote to stderr. */
  readonly stderr: string;

  constructor(
    message: string,
    end: { status?: number | null; signal?: string | null; stderr?: string; cause?: unknown } = {},
  ) {
    super(message, end.cause === undefined ? undefined : { cause: end.cause });
    this.status = end.status ?? null;
    this.signal = end.signal ?? null;
    this.stderr = end.stderr ?? "";
  }
}

/** The sidecar sent something that the contract forbids. */
export class ProtocolViolationError extends ClientError {
  override name = "ProtocolViolationError";
}

/** The members that every error's `data` has, and any others. */
export interface ErrorData {
  kind: string;
  retryable: boolean;
  [member: string]: unknown;
}

/** The error object on the wire, or a Tauri command's rejection. */
export interface WireError {
  code: number;
  message: string;
  data?: Partial<ErrorData>;
}

/** The sidecar answered with an error. `kind` is one of {@link ErrorKind}, or a later version's. */
export class RemoteError extends ClientError {
  readonly kind: ErrorKind | (string & {});
  readonly code: number;
  readonly data: ErrorData;

  constructor(wire: WireError) {
    super(wire.message);
    const kind = wire.data?.kind ?? kindOf(wire.code) ?? "InternalError";
    this.kind = kind;
    this.name = kind;
    this.code = wire.code;
    this.data = { ...wire.data, kind, retryable: wire.data?.retryable === true };
  }

  /** Whether the same request may succeed if it is sent again. */
  get retryable(): boolean {
    return this.data.retryable;
  }

  /** For InvalidParams, and other errors about one member: its path, from `$`. */
  get path(): string | undefined {
    const { path } = this.data as { path?: unknown };
    return typeof path === "string" ? path : undefined;
  }

  /** The images that were finished before an image job was cancelled or failed. */
  get images(): ImageResult[] {
    const { images } = this.data as { images?: unknown };
    return Array.isArray(images) ? (images as ImageResult[]) : [];
  }
}

export class ParseError extends RemoteError {}
export class InvalidRequest extends RemoteError {}
export class MethodNotFound extends RemoteError {}
export class InvalidParams extends RemoteError {}
export class InternalError extends RemoteError {}

/** The call was cancelled. Its `name` is `AbortError`, as for everything that an AbortSignal ends. */
export class RequestCancelled extends RemoteError {
  constructor(wire: WireError) {
    super(wire);
    this.name = "AbortError";
  }

  /** For a call that was cancelled before it was sent. */
  static unsent(): RequestCancelled {
    const data = { kind: "RequestCancelled", retryable: true, images: [] };
    return new RequestCancelled({
      code: CODES.RequestCancelled,
      message: "The call was cancelled before it was sent.",
      data,
    });
  }
}

/** The app's manifest or the host does not grant this. */
export class CapabilityDenied extends RemoteError {
  declare readonly data: ErrorData & {
    /** What was requested, for example `model` or `fs.user-folder`. */
    capability: string;
    resource: string;
    reason: "notDeclared" | "noHostGrant" | "hostFlag" | "digestMismatch";
    /** The manifest fragment that would grant everything that the call lacks. */
    declare?: Record<string, unknown>;
    /** What the host must supply. */
    host?: unknown;
  };
}

export class NotInitialized extends RemoteError {}
export class ModelNotFound extends RemoteError {}
export class ModelNotInstalled extends RemoteError {}
export class ModelIncomplete extends RemoteError {}
export class IntegrityError extends RemoteError {}
export class DownloadFailed extends RemoteError {}
export class LicenseNotAccepted extends RemoteError {}
export class InsufficientMemory extends RemoteError {}
export class InsufficientDisk extends RemoteError {}
export class EngineUnavailable extends RemoteError {}
export class EngineCrashed extends RemoteError {}
export class QueueFull extends RemoteError {}
export class StorageError extends RemoteError {}
export class EngineStalled extends RemoteError {}
export class UnsupportedProtocolVersion extends RemoteError {}
export class InvalidImage extends RemoteError {}
export class InvalidOutput extends RemoteError {}

/** The class of each kind; the compiler rejects this table if the contract has another kind. */
const CLASSES: Record<ErrorKind, new (wire: WireError) => RemoteError> = {
  ParseError,
  InvalidRequest,
  MethodNotFound,
  InvalidParams,
  InternalError,
  RequestCancelled,
  CapabilityDenied,
  NotInitialized,
  ModelNotFound,
  ModelNotInstalled,
  ModelIncomplete,
  IntegrityError,
  DownloadFailed,
  LicenseNotAccepted,
  InsufficientMemory,
  InsufficientDisk,
  EngineUnavailable,
  EngineCrashed,
  QueueFull,
  StorageError,
  EngineStalled,
  UnsupportedProtocolVersion,
  InvalidImage,
  InvalidOutput,
};

function kindOf(code: number): ErrorKind | undefined {
  return (Object.keys(CODES) as ErrorKind[]).find((kind) => CODES[kind] === code);
}

/** Whether `value` has the shape of a wire error. */
export function isWireError(value: unknown): value is WireError {
  if (typeof value !== "object" || value === null) return false;
  const { code, message, data } = value as Partial<Record<keyof WireError, unknown>>;
  return (
    Number.isInteger(code) &&
    typeof message === "string" &&
    (data === undefined || (typeof data === "object" && data !== null))
  );
}

/** Creates the error for a wire error's kind, or for its code if it names no kind. */
export function fromWire(wire: WireError): RemoteError {
  const kind = wire.data?.kind ?? kindOf(wire.code) ?? "InternalError";
  const Known = Object.hasOwn(CLASSES, kind) ? CLASSES[kind as ErrorKind] : RemoteError;
  return new Known(wire);
}

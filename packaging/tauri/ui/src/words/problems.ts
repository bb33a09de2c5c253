// What went wrong, and what can be done about it. The sidecar's own sentence comes first; this adds a title and next steps.

import { CapabilityDenied, RemoteError, SidecarGoneError } from "@locara/image/core";
import { bytes } from "./numbers.js";

export interface Problem {
  readonly title: string;
  readonly message: string;
  /** Remedies, each a sentence or a phrase. */
  readonly advice: readonly string[];
  /** Whether the same request may succeed when it is sent again. */
  readonly retryable: boolean;
}

const TITLES: Record<string, string> = {
  CapabilityDenied: "This app may not do that",
  DownloadFailed: "The download stopped",
  EngineCrashed: "The engine crashed",
  EngineStalled: "The engine hung and was stopped",
  EngineUnavailable: "The engine cannot run here",
  InsufficientDisk: "Not enough room on the disk",
  InsufficientMemory: "Not enough memory",
  IntegrityError: "The model's files are damaged",
  InvalidImage: "The picture cannot be read",
  InvalidOutput: "The model made no usable picture",
  InvalidParams: "An option is not possible",
  LicenseNotAccepted: "The licence is not accepted yet",
  ModelIncomplete: "Files of the model are missing",
  ModelNotFound: "There is no such model",
  ModelNotInstalled: "The model is not installed",
  QueueFull: "Too many pictures are waiting",
  StorageError: "The file could not be read or written",
};

export function explain(error: unknown): Problem {
  if (error instanceof SidecarGoneError) {
    return {
      title: "The image service has ended",
      message: error.message,
      advice: ["Try again: the app starts it anew. Pictures that were saved are still there."],
      retryable: true,
    };
  }
  if (!(error instanceof RemoteError)) {
    const message = error instanceof Error ? error.message : "Something unexpected happened.";
    return { title: "Something went wrong", message, advice: [], retryable: false };
  }
  const { reason } = error.data as Record<string, unknown>;
  if (reason === "updated") {
    return {
      title: "The app was updated",
      message: error.message,
      advice: ["Try again: the image service starts anew. Files have to be picked again."],
      retryable: true,
    };
  }
  const title = TITLES[error.kind] ?? "Something went wrong";
  return { title, message: error.message, advice: advice(error), retryable: error.retryable };
}

function advice(error: RemoteError): string[] {
  const { needed, available, suggestions } = error.data as Record<string, unknown>;
  const figures =
    typeof needed === "number" && typeof available === "number"
      ? [`${bytes(needed)} are needed, ${bytes(available)} are free.`]
      : [];
  switch (error.kind) {
    case "EngineCrashed":
      return [`${last(error)}It starts anew with the next picture. Finished pictures are safe.`];
    case "EngineStalled":
      return ["It starts anew with the next picture. Finished pictures are safe."];
    case "InsufficientDisk":
      return [...figures, "Free some room, then go on: what has arrived is kept."];
    case "InsufficientMemory": {
      const helps = Array.isArray(suggestions) ? suggestions.filter((one) => typeof one === "string") : [];
      return helps.length > 0 ? [...figures, `What would help: ${helps.join(", ")}.`] : figures;
    }
    case "DownloadFailed":
      return ["What has arrived is kept: the next try goes on from there."];
    case "QueueFull":
      return ["Wait for one to finish, or cancel some."];
    case "InvalidOutput":
      return ["Another seed, or fewer steps, may help."];
    case "ModelNotInstalled":
    case "ModelIncomplete":
    case "IntegrityError":
      return ["Download it in the list of models."];
    default:
      return [];
  }
}

/** How an engine died, if known. */
function last({ data }: RemoteError): string {
  const { signal, status, phase } = data as Record<string, unknown>;
  const how = signal ?? (status === undefined || status === null ? undefined : `status ${status}`);
  if (how === undefined) return "";
  return `It ended with ${how}${typeof phase === "string" ? ` while ${phase}` : ""}. `;
}

/** What a refused call lacks, for the person who can add it. */
export interface Lacking {
  /** Who must change something. */
  readonly who: "manifest" | "host" | "model";
  readonly sentence: string;
  /** The fragment of `locara.json` that would allow the call. */
  readonly fragment?: string;
  /** What the host must supply. */
  readonly host?: string;
}

export function lacking({ data }: CapabilityDenied): Lacking {
  const { reason, declare, host } = data;
  const given = {
    ...(declare && { fragment: JSON.stringify(declare, null, 2) }),
    ...(host !== undefined && host !== null && { host: hostWords(host) }),
  };
  switch (reason) {
    case "notDeclared":
      return { who: "manifest", sentence: "The app's locara.json does not declare it. This would:", ...given };
    case "noHostGrant":
      return { who: "host", sentence: "The app declares it, but no folder was granted for it.", ...given };
    case "hostFlag":
      return { who: "host", sentence: "The app was built without leave for it.", ...given };
    case "digestMismatch":
      return { who: "model", sentence: "The installed model is not the one that the app names.", ...given };
    default:
      return { who: "host", sentence: "It was refused.", ...given };
  }
}

function hostWords(host: unknown): string {
  const { flags } = host as { flags?: unknown };
  return Array.isArray(flags) ? flags.join(" ") : JSON.stringify(host, null, 2);
}

export const isDenied = (error: unknown): error is CapabilityDenied => error instanceof CapabilityDenied;

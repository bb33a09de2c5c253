// Whether a model fits this machine, in words with numbers.

import { type EngineInfo, type Model, type ModelFit, RemoteError } from "@locara/image/core";
import type { Transfer } from "../store/models.js";
import { bytes } from "./numbers.js";

export interface FitWords {
  readonly verdict: "fits" | "tight" | "no" | "unknown" | "engine";
  /** A word or two. */
  readonly short: string;
  readonly sentence: string;
}

/** The precision of the weights, in plain words. */
function form({ quantization }: ModelFit): string {
  return quantization === "none" ? "" : ` with ${quantization === "8bit" ? "8-bit" : "4-bit"} weights`;
}

export function fitOf(model: Model, engines: readonly EngineInfo[] = []): FitWords {
  if (!model.runnable || (engines.length > 0 && !engines.some(({ available }) => available))) {
    return { verdict: "engine", short: "No engine", sentence: "No engine on this machine draws with it." };
  }
  const best = model.recommended ?? smallest(model.fit);
  if (best === undefined) {
    return {
      verdict: "unknown",
      short: "Memory unknown",
      sentence: "How much memory it needs is not known beforehand.",
    };
  }
  const [needed, available] = [bytes(best.peak), bytes(best.available)];
  if (best.fit === "fits") {
    return { verdict: "fits", short: "Fits", sentence: `Needs ${needed}${form(best)}; ${available} are free.` };
  }
  if (best.fit === "tight") {
    const sentence = `Needs ${needed}${form(best)}, and ${available} are free: close other programs first.`;
    return { verdict: "tight", short: "Tight", sentence };
  }
  const sentence = `Needs at least ${needed}${form(best)}; this machine can give ${available}.`;
  return { verdict: "no", short: "Does not fit", sentence };
}

function smallest(fits: readonly ModelFit[]): ModelFit | undefined {
  return [...fits].sort((a, b) => a.peak - b.peak)[0];
}

/** The model to suggest: the first in the catalogue's order that fits; failing that, the first that barely fits. */
export function suggested(models: readonly Model[]): Model | undefined {
  const runnable = models.filter((model) => model.runnable);
  return (
    runnable.find(({ recommended }) => recommended?.fit === "fits") ??
    runnable.find(({ recommended }) => recommended?.fit === "tight")
  );
}

/**
 * Says why a model that is not installed does not fit on the disk; undefined if it fits, if that is not known, or if its failed
 * download already says so. The download may still be attempted: it need not write what an earlier one left, or files that
 * another model shares.
 */
export function roomWords(
  model: Model,
  freeBytes: number | undefined,
  transfer: Transfer | undefined,
): string | undefined {
  if (freeBytes === undefined || model.installed || transfer?.state === "running") return undefined;
  const { progress, error } = transfer ?? {};
  if (error instanceof RemoteError && error.kind === "InsufficientDisk") return undefined;
  const needed = progress?.totalBytes ? progress.totalBytes - progress.bytes : model.downloadBytes;
  return needed > freeBytes
    ? `Needs ${bytes(needed)} on the disk, where ${bytes(freeBytes)} are free: make room first.`
    : undefined;
}

// A job's progress in words: in full on the screen, in fewer words for a screen reader.

import type { DownloadProgress } from "@locara/image/core";
import type { Job } from "../store/job.js";
import { bytes, duration, percent, remaining } from "./numbers.js";
import { explain } from "./problems.js";

const PHASES = {
  queued: "Waiting for its turn",
  loading: "Loading the model",
  encoding: "Reading the prompt",
  denoising: "Drawing",
  decoding: "Finishing",
  saving: "Saving",
} as const;

/** One line about the job. */
export function statusOf(job: Job): string {
  const { state, step } = job;
  if (job.stopping) return "Cancelling…";
  if (state === "sending") return "Asking the engine…";
  if (state === "failed") return explain(job.error).title;
  if (state === "cancelled")
    return job.images.length > 0 ? `Cancelled; ${count(job.images.length)} finished` : "Cancelled";
  if (state === "done") return doneWords(job);
  if (step === undefined) return PHASES.queued;
  const which = step.images > 1 ? `Picture ${step.image} of ${step.images} · ` : "";
  const what = step.phase === "denoising" ? `Step ${step.step} of ${step.steps}` : PHASES[step.phase];
  return `${which}${what}${step.etaMs === undefined ? "" : ` · ${remaining(step.etaMs)} left`}`;
}

const count = (pictures: number) => (pictures === 1 ? "one picture is" : `${pictures} pictures are`);

function doneWords({ result, images }: Job): string {
  const [first] = images;
  const took = result ? `Done in ${duration(result.timings.totalMs)}` : "Done";
  return first ? `${took} · ${first.width} × ${first.height} · seed ${first.seed}` : took;
}

/** What is worth saying aloud; changes only at phases and quarters. */
export function spoken(job: Job | undefined): string {
  if (job === undefined) return "";
  const { state, step } = job;
  if (state === "done") return "The picture is finished.";
  if (state !== "running" || step === undefined) return statusOf(job);
  if (step.phase !== "denoising") return PHASES[step.phase];
  return `Drawing: ${Math.floor(step.progress * 4) * 25} %`;
}

const TRANSFER = {
  resolving: "Asking for the list of files",
  downloading: "Downloading",
  verifying: "Checking what has arrived",
  publishing: "Installing",
} as const;

/** `3.1 GB of 16.3 GB · 12.0 MB a second · about 18 min left`. */
export function transferWords({ phase, bytes: there, totalBytes, bytesPerSecond, etaMs }: DownloadProgress): string {
  const amount = totalBytes > 0 ? `${bytes(there)} of ${bytes(totalBytes)}` : "";
  if (phase !== "downloading") return [TRANSFER[phase], amount].filter(Boolean).join(" · ");
  const pace = bytesPerSecond > 0 ? `${bytes(bytesPerSecond)} a second` : "";
  return [amount, pace, etaMs === undefined ? "" : `${remaining(etaMs)} left`].filter(Boolean).join(" · ");
}

export function transferSpoken({ phase, bytes: there, totalBytes }: DownloadProgress): string {
  if (phase !== "downloading" || totalBytes === 0) return TRANSFER[phase];
  return `Downloading: ${percent(Math.floor((there / totalBytes) * 10) / 10)}`;
}

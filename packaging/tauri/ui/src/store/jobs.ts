// This page's jobs. They live here, not in a component, so that no picture is lost when a component is unmounted. After a
// reload, jobs that the sidecar still knows are found again, with their previews and results.

import type { Call, DiffusionStep, GenerateResult, JobAnswer, JobInfo, Model } from "@locara/image/core";
import type { ImageClient } from "../client.js";
import { asked, failed, finished, found, isOpen, type Job, type JobRequest, sized, stepped } from "./job.js";
import { Observable } from "./observable.js";

/** How many ended jobs are kept: their pictures may be in memory. */
export const KEPT = 60;

/** Newest first. */
export class JobStore extends Observable<readonly Job[]> {
  readonly #client: ImageClient;
  readonly #calls = new Map<string, Call<JobAnswer, DiffusionStep>>();
  #lastKey = 0;
  #restored: Promise<void> | undefined;

  constructor(client: ImageClient) {
    super([]);
    this.#client = client;
  }

  /** Requests a picture of that size; returns its key. Errors are in the job. */
  start(request: JobRequest, size: { width: number; height: number }): string {
    const job = asked(`here-${++this.#lastKey}`, request, size);
    this.set([job, ...this.get()]);
    const onStep = (step: DiffusionStep) => this.#change(job.key, (now) => stepped(now, step));
    const { image } = this.#client;
    this.#follow(
      job.key,
      request.kind === "generate"
        ? image.generate({ ...request.params, onStep })
        : image.edit({ ...request.params, onStep }),
    );
    return job.key;
  }

  /** Cancels a job. Its answer still comes; finished pictures stay. */
  cancel(key: string): void {
    const call = this.#calls.get(key);
    if (call === undefined) return;
    this.#change(key, (job) => ({ ...job, stopping: true }));
    call.cancel();
  }

  /** Removes a job that has ended. */
  dismiss(key: string): void {
    this.set(this.get().filter((job) => job.key !== key || isOpen(job)));
  }

  /** Finds the jobs from before a reload, once: follows the open ones, fetches the results of the others. */
  restore(models: readonly Model[]): Promise<void> {
    this.#restored ??= this.#restore(models);
    return this.#restored;
  }

  async #restore(models: readonly Model[]): Promise<void> {
    let listed: JobInfo[];
    try {
      listed = await this.#client.jobs.list();
    } catch {
      return; // nothing to find; the next call will show what is wrong
    }
    const known = new Set(this.get().map(({ jobId }) => jobId));
    const ours = listed.filter(({ jobId, method }) => method.startsWith("image.") && !known.has(jobId));
    const jobs = ours.map((info) => ({ info, job: found(info, models) }));
    const open = jobs.filter(({ info }) => info.state === "queued" || info.state === "running").reverse();
    const done = jobs.filter(({ info }) => info.state === "done");
    this.set([...this.get(), ...open.map(({ job }) => job)]);
    for (const { info, job } of open) {
      const shape = sized(info) ? (now: Job) => now : shaped;
      const onStep = (step: DiffusionStep) => this.#change(job.key, (now) => shape(stepped(now, step)));
      this.#follow(job.key, this.#client.jobs.attach(info.jobId, { onStep }));
    }
    const results = await Promise.allSettled(done.map(({ info }) => this.#client.jobs.result(info.jobId)));
    const ended = done.flatMap(({ job }, at) => {
      const result = results[at];
      return result?.status === "fulfilled" ? [finished(job, result.value as GenerateResult)] : [];
    });
    this.set([...this.get(), ...ended]);
  }

  #follow(key: string, call: Call<JobAnswer, DiffusionStep>): void {
    this.#calls.set(key, call);
    void call
      .then(
        (result) => this.#change(key, (job) => finished(job, result as GenerateResult)),
        (error: unknown) => this.#change(key, (job) => failed(job, error)),
      )
      .finally(() => {
        this.#calls.delete(key);
        const ended = this.get().filter((job) => !isOpen(job));
        if (ended.length > KEPT) this.dismiss(ended.at(-1)?.key ?? "");
      });
  }

  #change(key: string, change: (job: Job) => Job): void {
    this.set(this.get().map((job) => (job.key === key ? change(job) : job)));
  }
}

/** A job found with an unknown size has the shape of its preview, once there is one. */
function shaped(job: Job): Job {
  return job.preview ? { ...job, width: job.preview.width, height: job.preview.height } : job;
}

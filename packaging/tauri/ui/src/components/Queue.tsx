// Waiting and running jobs, and those that failed out of sight: a failure is never lost because the next picture began.

import { useId } from "react";
import { isOpen, type Job, promptOf } from "../store/job.js";
import { isDenied } from "../words/problems.js";
import { statusOf } from "../words/progress.js";
import { Button } from "./parts.js";

export interface QueueProps {
  /** Newest first. */
  jobs: readonly Job[];
  /** The job that is shown elsewhere; its failure is not reported here. */
  shown?: string | undefined;
  onCancel: (job: Job) => void;
  onTryAgain?: ((job: Job) => void) | undefined;
  onDismiss: (job: Job) => void;
  onShow?: ((job: Job) => void) | undefined;
}

export function Queue({ jobs, shown, onCancel, onTryAgain, onDismiss, onShow }: QueueProps) {
  const heading = useId();
  const open = jobs.filter(isOpen).reverse();
  const running = open.filter(({ state }) => state === "running");
  const waiting = open.filter(({ state }) => state !== "running");
  const failed = jobs.filter(({ state, key }) => state === "failed" && key !== shown);
  const rows = [...running, ...waiting, ...failed];
  if (rows.length === 0 || (rows.length === 1 && rows[0]?.key === shown)) return null;
  return (
    <section className="locara-queue" aria-labelledby={heading}>
      <h2 id={heading}>Queue</h2>
      <ol>
        {rows.map((job) => {
          const place = waiting.indexOf(job);
          const name = promptOf(job) ?? "A picture of before";
          return (
            <li key={job.key} data-state={job.state}>
              <span className="locara-queue-prompt">{name}</span>
              <span className="locara-small">
                {place > 0 && !job.stopping ? `Waiting, number ${place + 1} in line` : statusOf(job)}
              </span>
              {isOpen(job) ? (
                <Button
                  kind="quiet"
                  disabled={job.stopping}
                  onClick={() => onCancel(job)}
                  aria-label={`Cancel: ${name}`}
                >
                  Cancel
                </Button>
              ) : (
                <>
                  {onShow && (
                    <Button kind="quiet" onClick={() => onShow(job)} aria-label={`Why it failed: ${name}`}>
                      Why?
                    </Button>
                  )}
                  {/* what the manifest lacks, it lacks the next time, too */}
                  {onTryAgain && job.request && !isDenied(job.error) && (
                    <Button kind="quiet" onClick={() => onTryAgain(job)} aria-label={`Try again: ${name}`}>
                      Try again
                    </Button>
                  )}
                  <Button kind="quiet" onClick={() => onDismiss(job)} aria-label={`Dismiss: ${name}`}>
                    Dismiss
                  </Button>
                </>
              )}
            </li>
          );
        })}
      </ol>
    </section>
  );
}

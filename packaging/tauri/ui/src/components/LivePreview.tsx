// The picture as it appears. The box has the picture's shape from the start, and the last preview stays until the finished
// picture has been decoded on top of it: nothing moves and nothing flickers.

import { type CSSProperties, type ReactNode, useState } from "react";
import { useShared } from "../context.js";
import { isOpen, type Job, promptOf } from "../store/job.js";
import { isDenied } from "../words/problems.js";
import { spoken, statusOf } from "../words/progress.js";
import { Announcement, Bar, Button, ProblemNote } from "./parts.js";

export interface LivePreviewProps {
  job: Job | undefined;
  /** Which of the job's finished pictures to show; by default the first. */
  index?: number;
  onCancel?: ((job: Job) => void) | undefined;
  onTryAgain?: ((job: Job) => void) | undefined;
  /** The text in the empty box before there is a job. */
  children?: ReactNode;
}

export function LivePreview({ job, index = 0, onCancel, onTryAgain, children }: LivePreviewProps) {
  return (
    <section className="locara-live" aria-label="Picture">
      <div className="locara-stage">
        {job === undefined ? (
          <div className="locara-empty">{children ?? "Here the picture appears."}</div>
        ) : (
          <Frame key={job.key} job={job} index={index} />
        )}
        {job?.state === "failed" && (
          <div className="locara-over">
            <ProblemNote error={job.error}>
              {/* what the manifest lacks, it lacks the next time, too */}
              {onTryAgain && job.request && !isDenied(job.error) && (
                <Button onClick={() => onTryAgain(job)}>Try again</Button>
              )}
            </ProblemNote>
          </div>
        )}
      </div>
      <Status job={job} index={index} onCancel={onCancel} />
      <Announcement>{spoken(job)}</Announcement>
    </section>
  );
}

function Frame({ job, index }: { job: Job; index: number }) {
  const { source } = useShared();
  const [shown, setShown] = useState<string>();
  const [broken, setBroken] = useState<string>();
  const image = job.images[index];
  const final = image && source(image);
  const { preview } = job;
  const isShown = final !== undefined && shown === final;
  return (
    <div
      className="locara-frame"
      data-state={job.state}
      style={{ "--ratio": job.width / job.height, aspectRatio: `${job.width} / ${job.height}` } as CSSProperties}
    >
      {preview && !isShown && (
        <img
          className="locara-layer"
          data-layer="preview"
          alt=""
          src={`data:${preview.mimeType};base64,${preview.data}`}
        />
      )}
      {final !== undefined && broken !== final && (
        <img
          className="locara-layer"
          data-layer="final"
          alt={promptOf(job) || "Finished picture"}
          src={final}
          style={{ opacity: isShown ? 1 : 0 }}
          ref={(element) => {
            // a picture that was decoded earlier fires no event that this component sees
            if (element?.complete && element.naturalWidth > 0 && !isShown) setShown(final);
          }}
          onLoad={(event) => {
            const settled = () => setShown(final);
            event.currentTarget.decode().then(settled, settled);
          }}
          onError={() => setBroken(final)}
        />
      )}
      {!preview && image === undefined && isOpen(job) && <div className="locara-shimmer" />}
      {image !== undefined && (final === undefined || broken === final) && (
        <p className="locara-unshown">This page cannot show it. It is saved{image.path ? ` as ${image.path}` : ""}.</p>
      )}
    </div>
  );
}

function Status({ job, index, onCancel }: Pick<LivePreviewProps, "job" | "onCancel"> & { index: number }) {
  const open = job !== undefined && isOpen(job);
  const progress = job?.state === "running" ? job.step?.progress : undefined;
  const words = job
    ? statusOf(index > 0 ? { ...job, images: job.images.slice(index) } : job)
    : "Nothing is being drawn";
  return (
    <div className="locara-status">
      {open ? (
        <Bar value={progress === 0 ? undefined : progress} label="Progress of the picture" text={spoken(job)} />
      ) : (
        <div className="locara-bar locara-bar-idle" />
      )}
      <div className="locara-row">
        <span className="locara-status-words">{words}</span>
        <Button
          kind="danger"
          style={{ visibility: open && onCancel ? "visible" : "hidden" }}
          disabled={!open || job.stopping}
          onClick={() => job && onCancel?.(job)}
        >
          Cancel
        </Button>
      </div>
      {job?.result?.warnings.map(({ kind, message }) => (
        <p key={kind} className="locara-small locara-warning">
          {message}
        </p>
      ))}
    </div>
  );
}

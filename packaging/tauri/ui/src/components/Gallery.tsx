// Finished pictures, newest first, with their settings.

import type { ImageResult } from "@locara/image/core";
import { useId } from "react";
import { useShared } from "../context.js";
import { type Job, promptOf } from "../store/job.js";
import { duration } from "../words/numbers.js";
import { Button } from "./parts.js";

/** One finished picture of a job. */
export interface Picture {
  readonly key: string;
  readonly job: Job;
  readonly index: number;
  readonly image: ImageResult;
}

/** All finished pictures, including those of jobs that were later cancelled or failed; in the order of the jobs. */
export function picturesOf(jobs: readonly Job[]): Picture[] {
  return jobs.flatMap((job) => job.images.map((image, index) => ({ key: `${job.key}/${index}`, job, index, image })));
}

type Act = (picture: Picture) => void;

export interface GalleryProps {
  jobs: readonly Job[];
  /** The key of the picture that is shown large. */
  shown?: string | undefined;
  onShow: Act;
  /** Actions that the app does not pass are left out. */
  onAgain?: Act | undefined;
  onVary?: Act | undefined;
  onEdit?: Act | undefined;
  onUseSettings?: Act | undefined;
  /** Why a picture cannot be requested again. */
  whyNotAgain?: ((picture: Picture) => string | undefined) | undefined;
  /** Why pictures cannot be varied or edited, if they cannot. */
  whyNotEdit?: string | undefined;
}

export function Gallery(props: GalleryProps) {
  const heading = useId();
  const pictures = picturesOf(props.jobs);
  return (
    <section className="locara-gallery" aria-labelledby={heading}>
      <h2 id={heading}>Pictures</h2>
      {pictures.length === 0 ? (
        <p className="locara-muted">What you draw is collected here.</p>
      ) : (
        <ul>
          {pictures.map((picture) => (
            <Item key={picture.key} picture={picture} {...props} />
          ))}
        </ul>
      )}
    </section>
  );
}

function Item({ picture, ...props }: GalleryProps & { picture: Picture }) {
  const { source } = useShared();
  const { job, image, key } = picture;
  const prompt = promptOf(job) ?? "A picture of before";
  const src = source(image) ?? (job.preview && `data:${job.preview.mimeType};base64,${job.preview.data}`);
  const again = props.whyNotAgain?.(picture);
  const act = (words: string, title: string, does: Act | undefined, why: string | undefined) =>
    does && (
      <Button
        kind="quiet"
        disabled={why !== undefined}
        title={why ?? title}
        aria-label={`${words}: ${prompt}`}
        onClick={() => does(picture)}
      >
        {words}
      </Button>
    );
  return (
    <li className="locara-picture" data-shown={key === props.shown}>
      <button
        type="button"
        className="locara-thumb"
        aria-pressed={key === props.shown}
        aria-label={`Show: ${prompt}`}
        onClick={() => props.onShow(picture)}
      >
        {src === undefined ? (
          <span className="locara-small">{image.path ?? "saved"}</span>
        ) : (
          <img src={src} alt="" loading="lazy" />
        )}
      </button>
      <p className="locara-picture-prompt" title={prompt}>
        {prompt}
      </p>
      <div className="locara-row locara-acts">
        {act("Again", "The same prompt and options with another seed", props.onAgain, again)}
        {act("Vary", "A picture near this one", props.onVary, props.whyNotEdit)}
        {act("Edit this", "Change it, all of it or where you paint", props.onEdit, props.whyNotEdit)}
      </div>
      <details>
        <summary className="locara-small">Details</summary>
        <Facts picture={picture} />
        {act("Use settings", "Put its prompt, options and seed into the panel", props.onUseSettings, again)}
      </details>
    </li>
  );
}

function Facts({ picture: { job, image } }: { picture: Picture }) {
  const { steps, guidance, strength } = (job.result?.parameters["options"] ?? {}) as Record<string, unknown>;
  const facts: [string, string | undefined][] = [
    ["Size", `${image.width} × ${image.height}`],
    ["Seed", String(image.seed)],
    ["Model", job.result?.model.id ?? job.model],
    ["Steps", steps === undefined ? undefined : String(steps)],
    ["Guidance", guidance === undefined ? undefined : String(guidance)],
    ["Strength", strength === undefined || strength === null ? undefined : String(strength)],
    ["Time", job.result && duration(job.result.timings.totalMs)],
    ["File", image.path],
  ];
  return (
    <dl className="locara-facts">
      {facts.map(
        ([name, value]) =>
          value !== undefined && (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{value}</dd>
            </div>
          ),
      )}
    </dl>
  );
}

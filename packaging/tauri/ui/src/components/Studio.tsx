// Everything together: choose a model, write a prompt, watch, keep, change.

import type { Model, OutputOptions } from "@locara/image/core";
import { useId, useState } from "react";
import type { ImageClient, PictureSource } from "../client.js";
import { ImageProvider, useJobs, useModels, useShared } from "../context.js";
import { maskImage } from "../mask/raster.js";
import { EMPTY, type Mask } from "../mask/strokes.js";
import { isOpen, type Job, promptOf } from "../store/job.js";
import {
  again,
  editRequest,
  edits,
  generateRequest,
  inlineOutput,
  type Sized,
  vary,
  whyNotAgain,
  withOutput,
} from "../store/requests.js";
import { DEFAULTS, optionsOf, type Settings, settingsFrom, sizeOf } from "../words/settings.js";
import { EditBar } from "./EditBar.js";
import { Gallery, type Picture, picturesOf } from "./Gallery.js";
import { LivePreview } from "./LivePreview.js";
import { MaskPainter } from "./MaskPainter.js";
import { ModelChoice } from "./ModelChoice.js";
import { PromptPanel } from "./PromptPanel.js";
import { ProblemNote } from "./parts.js";
import { Queue } from "./Queue.js";

interface SceneProps {
  /** Where results go, and in which format; by default into the app's folder and, without a `source`, into the page as well. */
  output?: OutputOptions | undefined;
  /** See {@link ModelPickerProps}. */
  onToken?: ((token: string) => Promise<void>) | undefined;
}

export interface StudioProps extends SceneProps {
  client: ImageClient;
  /** How this page shows finished pictures, see {@link PictureSource}. */
  source?: PictureSource | undefined;
  openLink?: ((url: string) => void) | undefined;
  theme?: "light" | "dark" | undefined;
}

/** Everything in one component. Its parts can be combined differently inside an {@link ImageProvider}. */
export function Studio({ client, source, openLink, theme, output, onToken }: StudioProps) {
  return (
    <ImageProvider client={client} source={source} openLink={openLink}>
      <div className="locara locara-studio" data-theme={theme}>
        <Scene output={output} onToken={onToken} />
      </div>
    </ImageProvider>
  );
}

interface Edit {
  picture: Picture;
  mask: Mask;
  strength: number;
}

function Scene({ output, onToken }: SceneProps) {
  const { jobs: store, source } = useShared();
  const { models } = useModels();
  const jobs = useJobs();
  const title = useId();
  const [wanted, setWanted] = useState<string>();
  const [prompt, setPrompt] = useState("");
  const [settings, setSettings] = useState<Settings>(DEFAULTS);
  const [shownKey, setShownKey] = useState<string>();
  const [edit, setEdit] = useState<Edit>();
  const [problem, setProblem] = useState<unknown>();

  const usable = models.filter(({ installed, runnable }) => installed && runnable);
  const editors = usable.filter((model) => edits(model) !== undefined);
  const able = edit ? editors : usable;
  const model = able.find(({ id }) => id === wanted) ?? able[0];
  const shown = picturesOf(jobs).find(({ key }) => key === shownKey);
  const failed = jobs.find(({ key, state }) => key === shownKey && state === "failed");
  const live = shown?.job ?? failed ?? liveOf(jobs);
  const where = (count: number, size: { width: number; height: number }) => output ?? inlineOutput(count, size);

  const start = (sized: Sized | undefined) => {
    if (sized === undefined) return;
    setShownKey(undefined);
    setProblem(undefined);
    store.start(sized.request, sized.size);
  };
  const submit = async (by: Model) => {
    const options = optionsOf(settings, by);
    const count = options.count ?? 1;
    if (edit === undefined) {
      const size = sizeOf(settings, by);
      start(generateRequest({ prompt, options: withOutput(options, where(count, size)) }, size));
      return;
    }
    const { width: _, height: __, ...kept } = options;
    const { image } = edit.picture;
    const byStrength = edits(by) === "strength";
    try {
      const mask = byStrength ? await maskImage(edit.mask.acts, image.width, image.height) : undefined;
      const given = { ...kept, ...(byStrength && { strength: edit.strength }) };
      start(editRequest({ image, prompt, options: withOutput(given, where(count, image)), mask }));
      setEdit(undefined);
    } catch (error) {
      setProblem(error);
    }
  };
  const takeSettings = ({ job, image }: Picture) => {
    const options = { ...job.request?.params.options, seed: image.seed, count: 1 };
    const by = models.find(({ id }) => id === job.model);
    setEdit(undefined);
    setWanted(job.model);
    setPrompt(promptOf(job) ?? "");
    setSettings(settingsFrom(options, by));
  };

  return (
    <>
      <section className="locara-controls" aria-label="Model and prompt">
        <ModelChoice model={model} onSelect={setWanted} onToken={onToken} />
        <PromptPanel
          model={model}
          prompt={prompt}
          onPrompt={setPrompt}
          settings={settings}
          onSettings={setSettings}
          isBusy={jobs.some(isOpen)}
          isEdit={edit !== undefined}
          onSubmit={() => model && void submit(model)}
        >
          {edit && (
            <EditBar
              picture={edit.picture}
              strength={model && edits(model) === "strength" ? edit.strength : undefined}
              onStrength={(strength) => setEdit({ ...edit, strength })}
              onLeave={() => setEdit(undefined)}
            />
          )}
        </PromptPanel>
        {problem !== undefined && <ProblemNote error={problem} />}
      </section>
      <main className="locara-main" aria-labelledby={title}>
        <h1 id={title} className="locara-unseen">
          {edit ? "Change a picture" : "Draw"}
        </h1>
        {edit && model && edits(model) === "strength" ? (
          <MaskPainter
            key={edit.picture.key}
            src={source(edit.picture.image)}
            width={edit.picture.image.width}
            height={edit.picture.image.height}
            mask={edit.mask}
            onMask={(mask) => setEdit({ ...edit, mask })}
          />
        ) : (
          <LivePreview
            job={edit ? edit.picture.job : live}
            index={(edit ? edit.picture : shown)?.index ?? 0}
            onCancel={({ key }) => store.cancel(key)}
            onTryAgain={(job) => start(again(job))}
          />
        )}
        <Queue
          jobs={jobs}
          shown={live?.key}
          onCancel={({ key }) => store.cancel(key)}
          onTryAgain={(job) => {
            store.dismiss(job.key);
            start(again(job));
          }}
          onDismiss={({ key }) => store.dismiss(key)}
          onShow={({ key }) => setShownKey(key)}
        />
        <Gallery
          jobs={jobs}
          shown={shown?.key ?? (live?.state === "done" ? `${live.key}/0` : undefined)}
          onShow={({ key }) => {
            setEdit(undefined);
            setShownKey(key);
          }}
          onAgain={({ job }) => start(again(job))}
          whyNotAgain={({ job }) => whyNotAgain(job.request)}
          onVary={({ job, image }) => start(vary(job, image, models))}
          onEdit={(picture) => {
            setPrompt(promptOf(picture.job) ?? "");
            setEdit({ picture, mask: EMPTY, strength: 0.6 });
          }}
          whyNotEdit={editors.length > 0 ? undefined : "No installed model can change a picture."}
          onUseSettings={takeSettings}
        />
      </main>
    </>
  );
}

/** The picture that is being drawn, otherwise the next one, otherwise the latest one. */
function liveOf(jobs: readonly Job[]): Job | undefined {
  const open = jobs.filter(isOpen);
  return open.find(({ state }) => state === "running") ?? open.at(-1) ?? jobs[0];
}

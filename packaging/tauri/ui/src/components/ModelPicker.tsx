// Chooses the model: what each one is, whether it fits this machine, its licence, and how to get it.

import type { EngineInfo, Model } from "@locara/image/core";
import { useId } from "react";
import { useModels, useShared } from "../context.js";
import { hasBegun, type Transfer } from "../store/models.js";
import { roomWords, suggested } from "../words/fit.js";
import { bytes } from "../words/numbers.js";
import { ModelEntry } from "./ModelEntry.js";
import { Button, ProblemNote } from "./parts.js";

export interface ModelPickerProps {
  selected?: string | undefined;
  onSelect: (model: string) => void;
  /**
   * Passes an access token for gated models to the host, which opens the sidecar's session with it. Without it, the picker
   * says how else to provide one.
   */
  onToken?: ((token: string) => Promise<void>) | undefined;
}

export function ModelPicker({ selected, onSelect, onToken }: ModelPickerProps) {
  const { models: store } = useShared();
  const { status, error, models, engines, transfers, freeBytes } = useModels();
  const group = useId();
  if (status === "failed") {
    return (
      <ProblemNote error={error}>
        <Button onClick={() => void store.refresh()}>Try again</Button>
      </ProblemNote>
    );
  }
  if (status === "loading") {
    return (
      <p className="locara-muted" role="status">
        Looking for models…
      </p>
    );
  }
  const best = suggested(models);
  return (
    <fieldset className="locara-picker">
      <legend>Model</legend>
      {models.length === 0 && <NoneDeclared />}
      {engines.length > 0 && !engines.some(({ available }) => available) && <NoEngine engines={engines} />}
      {models.length > 0 && !models.some(({ installed }) => installed) && (
        <NothingInstalled
          best={best}
          transfer={best && transfers[best.id]}
          room={best && roomWords(best, freeBytes, transfers[best.id])}
        />
      )}
      <ul className="locara-models">
        {models.map((model) => (
          <ModelEntry
            key={model.id}
            group={group}
            model={model}
            engines={engines}
            transfer={transfers[model.id]}
            room={roomWords(model, freeBytes, transfers[model.id])}
            isSelected={model.id === selected}
            isSuggested={model.id === best?.id}
            onSelect={() => onSelect(model.id)}
            onToken={onToken}
          />
        ))}
      </ul>
    </fieldset>
  );
}

function NoneDeclared() {
  return (
    <section className="locara-note locara-note-warn">
      <h2>This app may use no model</h2>
      <p>
        Its locara.json declares none under <code>capabilities.models</code>.
      </p>
    </section>
  );
}

function NoEngine({ engines }: { engines: readonly EngineInfo[] }) {
  return (
    <section className="locara-note locara-note-bad">
      <h2>No engine runs on this machine</h2>
      <ul>
        {engines.map(({ name, reason }) => (
          <li key={name}>
            <code>{name}</code>: {reason}
          </li>
        ))}
      </ul>
    </section>
  );
}

interface NothingInstalledProps {
  best: Model | undefined;
  /** The fit of the best form. */
  transfer: Transfer | undefined;
  /** Why there is not enough disk space for it. */
  room: string | undefined;
}

function NothingInstalled({ best, transfer, room }: NothingInstalledProps) {
  const { models: store } = useShared();
  return (
    <section className="locara-note locara-note-accent">
      <h2>No model is installed yet</h2>
      {best === undefined ? (
        <p>None of the models below fits this machine.</p>
      ) : (
        <>
          <p>
            {best.displayName} suits this machine.
            {best.downloadBytes > 0 && ` It takes ${bytes(best.downloadBytes)} on the disk, once for all apps.`}
          </p>
          {room && <p>{room}</p>}
          {transfer?.state !== "running" && (
            <div className="locara-row">
              <Button kind="primary" onClick={() => void store.download(best.id)}>
                {hasBegun(transfer) ? "Resume the download of" : "Download"} {best.displayName}
              </Button>
            </div>
          )}
        </>
      )}
    </section>
  );
}

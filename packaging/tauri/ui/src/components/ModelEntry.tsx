// One model in the list.

import { type EngineInfo, LicenseNotAccepted, type Model } from "@locara/image/core";
import { useId } from "react";
import { useShared } from "../context.js";
import { hasBegun, type Transfer } from "../store/models.js";
import { fitOf } from "../words/fit.js";
import { bytes } from "../words/numbers.js";
import { transferSpoken, transferWords } from "../words/progress.js";
import { Gated } from "./Gated.js";
import { Announcement, Badge, Bar, Button, Link, ProblemNote } from "./parts.js";

interface ModelEntryProps {
  group: string;
  model: Model;
  engines: readonly EngineInfo[];
  transfer: Transfer | undefined;
  /** Why there is not enough disk space for it. */
  room: string | undefined;
  isSelected: boolean;
  isSuggested: boolean;
  onSelect: () => void;
  onToken: ((token: string) => Promise<void>) | undefined;
}

const TONES = { fits: "good", tight: "warn", no: "bad", engine: "bad", unknown: "muted" } as const;

export function ModelEntry(props: ModelEntryProps) {
  const { model, engines, transfer, room, isSelected, isSuggested } = props;
  const [facts, input] = [useId(), useId()];
  const fit = fitOf(model, engines);
  return (
    <li className="locara-model" data-model={model.id} data-selected={isSelected} data-installed={model.installed}>
      <div className="locara-model-head">
        <input
          id={input}
          type="radio"
          name={props.group}
          checked={isSelected}
          disabled={!model.installed || fit.verdict === "engine"}
          onChange={props.onSelect}
          aria-describedby={facts}
        />
        <label htmlFor={input}>{model.displayName}</label>
        <span className="locara-model-state">
          {model.installed ? <Badge tone="good">Installed</Badge> : <Get {...props} />}
        </span>
      </div>
      <div id={facts} className="locara-model-facts">
        <p>{model.description}</p>
        <p>
          {isSuggested && <Badge tone="accent">Recommended</Badge>} <Badge tone={TONES[fit.verdict]}>{fit.short}</Badge>{" "}
          {fit.sentence}
        </p>
        {!model.commercialUse && (
          <p>
            <Badge tone="warn">Non-commercial</Badge> Its licence does not allow commercial use.
          </p>
        )}
        <p>
          {model.downloadBytes > 0 && <>{bytes(model.downloadBytes)} on disk · </>}
          Licence: <Link href={model.licenseUrl}>{model.license}</Link>
          {model.gated && !model.installed && <> · needs an access token</>}
        </p>
        {room && (
          <p>
            <Badge tone="warn">Disk too full</Badge> {room}
          </p>
        )}
      </div>
      {transfer && <TransferLine {...props} transfer={transfer} />}
    </li>
  );
}

function Get({ model, transfer }: ModelEntryProps) {
  const { models: store } = useShared();
  if (transfer?.state === "running") {
    return (
      <Button onClick={() => store.pause(model.id)} aria-label={`Pause the download of ${model.displayName}`}>
        Pause
      </Button>
    );
  }
  const size = model.downloadBytes > 0 ? `, ${bytes(model.downloadBytes)}` : "";
  const goesOn = hasBegun(transfer);
  return (
    <Button
      onClick={() => void store.download(model.id)}
      aria-label={`${goesOn ? "Resume the download of" : "Download"} ${model.displayName}${size}`}
    >
      {goesOn ? "Resume" : "Download"}
    </Button>
  );
}

function TransferLine({ model, transfer, onToken }: ModelEntryProps & { transfer: Transfer }) {
  const { models: store } = useShared();
  const { state, progress, error } = transfer;
  const part = progress && progress.totalBytes > 0 ? progress.bytes / progress.totalBytes : undefined;
  const label = `Download of ${model.displayName}`;
  const words = progress ? transferWords(progress) : "Asking for the list of files";
  const rest = progress && Math.max(0, progress.totalBytes - progress.bytes);
  return (
    <div className="locara-transfer">
      {state === "running" && (
        <>
          <Bar value={part} label={label} text={progress ? transferSpoken(progress) : words} />
          <p className="locara-small">{words}</p>
          <p className="locara-small">
            {rest ? `${bytes(rest)} more room on the disk is needed. ` : ""}It can be paused; it goes on where it
            stopped.
          </p>
        </>
      )}
      {state !== "running" && part !== undefined && part > 0 && (
        <>
          <Bar value={part} label={label} text={`Stopped at ${Math.floor(part * 100)} %`} />
          <p className="locara-small">
            {state === "paused" ? "Paused" : "Stopped"} at {words.split(" · ")[0]}. What has arrived is kept.
          </p>
        </>
      )}
      {state === "failed" &&
        (error instanceof LicenseNotAccepted ? (
          <Gated
            model={model}
            url={String(error.data["url"] ?? model.licenseUrl)}
            onToken={onToken}
            onTryAgain={() => void store.download(model.id)}
          />
        ) : (
          <ProblemNote error={error} />
        ))}
      <Announcement>{state === "running" && progress ? transferSpoken(progress) : `Download ${state}`}</Announcement>
    </div>
  );
}

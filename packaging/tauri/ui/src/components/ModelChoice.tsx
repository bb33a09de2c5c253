// The chosen model in one line; the list of models expands below it. It opens automatically if no model can draw, and stays
// open until the user collapses it: they may be using it when the first model arrives.

import type { Model } from "@locara/image/core";
import { useId, useState } from "react";
import { useModels, useShared } from "../context.js";
import { fitOf } from "../words/fit.js";
import { ModelPicker, type ModelPickerProps } from "./ModelPicker.js";
import { Badge, Button } from "./parts.js";

interface ModelChoiceProps extends Omit<ModelPickerProps, "selected"> {
  model: Model | undefined;
}

export function ModelChoice({ model, onSelect, onToken }: ModelChoiceProps) {
  const { models: store } = useShared();
  const { status, transfers } = useModels();
  const [wanted, setWanted] = useState<boolean>();
  const list = useId();
  const isBusy = Object.values(transfers).some(({ state }) => state === "running");
  if (wanted === undefined && status !== "loading" && model === undefined) setWanted(true);
  const isOpen = wanted ?? false;
  const fit = model && fitOf(model);
  return (
    <div className="locara-choice">
      <Button
        className="locara-choice-button"
        aria-expanded={isOpen}
        aria-controls={list}
        onClick={() => {
          if (!isOpen) void store.refresh(); // free memory and the installed models change
          setWanted(!isOpen);
        }}
      >
        <span className="locara-choice-name">
          <span className="locara-small">Model</span>
          <strong>{model?.displayName ?? (status === "loading" ? "Looking…" : "None yet")}</strong>
        </span>
        {model && !model.commercialUse && <Badge tone="warn">Non-commercial</Badge>}
        {fit && fit.verdict !== "fits" && fit.verdict !== "unknown" && (
          <Badge tone={fit.verdict === "tight" ? "warn" : "bad"}>{fit.short}</Badge>
        )}
        {isBusy && <Badge tone="accent">Downloading</Badge>}
        <span className="locara-chevron" aria-hidden="true" />
      </Button>
      <div id={list} hidden={!isOpen}>
        {isOpen && (
          // choosing leaves it open: with the arrow keys, each model on the way is chosen
          <ModelPicker selected={model?.id} onToken={onToken} onSelect={onSelect} />
        )}
      </div>
    </div>
  );
}

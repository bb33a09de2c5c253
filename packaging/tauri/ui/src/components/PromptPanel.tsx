// What to draw. Options are collapsed; blank ones have the model's default.

import type { Model } from "@locara/image/core";
import { type FormEvent, type KeyboardEvent, type ReactNode, useId } from "react";
import { changed, DEFAULTS, problemsOf, type Settings } from "../words/settings.js";
import { Options } from "./Options.js";
import { Button } from "./parts.js";

export interface PromptPanelProps {
  /** The model that will draw; undefined while none can. */
  model: Model | undefined;
  prompt: string;
  onPrompt: (prompt: string) => void;
  settings: Settings;
  onSettings: (settings: Settings) => void;
  onSubmit: () => void;
  /** Whether something is being drawn already, so the picture will have to wait. */
  isBusy?: boolean;
  /** Whether a picture is being changed; it keeps its size. */
  isEdit?: boolean;
  /** Shown above the prompt, such as the picture that is being changed. */
  children?: ReactNode;
}

const COMMAND = typeof navigator !== "undefined" && /Mac|iPhone|iPad/.test(navigator.userAgent) ? "⌘" : "Ctrl";

export function PromptPanel(props: PromptPanelProps) {
  const { model, prompt, settings, onPrompt, onSettings, isBusy = false, isEdit = false } = props;
  const [input, hint] = [useId(), useId()];
  const problems = model ? problemsOf(settings, model) : {};
  const isReady = model !== undefined && prompt.trim() !== "" && Object.keys(problems).length === 0;
  const submit = (event: FormEvent | KeyboardEvent) => {
    event.preventDefault();
    if (isReady) props.onSubmit();
  };
  const number = changed(settings);
  return (
    <form className="locara-prompt" onSubmit={submit} aria-label={isEdit ? "Change a picture" : "New picture"}>
      {props.children}
      <label htmlFor={input}>{isEdit ? "What it should become" : "What to draw"}</label>
      <textarea
        id={input}
        rows={3}
        value={prompt}
        placeholder={model ? "a red house by a lake, in the evening" : "Choose or install a model first"}
        onChange={(event) => onPrompt(event.target.value)}
        onKeyDown={(event) => {
          if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
        }}
        aria-describedby={hint}
      />
      <details className="locara-options" open={Object.keys(problems).length > 0 || undefined}>
        <summary>
          Options
          <span className="locara-muted">{number > 0 ? ` · ${number} changed` : " · the model's own"}</span>
        </summary>
        {model ? (
          <>
            <Options
              model={model}
              settings={settings}
              problems={problems}
              isEdit={isEdit}
              onChange={(changes) => onSettings({ ...settings, ...changes })}
            />
            <Button kind="quiet" disabled={number === 0} onClick={() => onSettings(DEFAULTS)}>
              Back to the model's own
            </Button>
          </>
        ) : (
          <p className="locara-muted">They depend on the model.</p>
        )}
      </details>
      <div className="locara-row locara-submit">
        <Button kind="primary" type="submit" disabled={!isReady}>
          {isBusy ? "Add to the queue" : isEdit ? "Change it" : "Draw"}
        </Button>
        <span id={hint} className="locara-small">
          {model ? `${COMMAND} + Enter does the same` : "No model can draw yet"}
        </span>
      </div>
    </form>
  );
}

// The options of a picture that the model supports.

import type { Model } from "@locara/image/core";
import { useId } from "react";
import type { SettingName, SettingProblems, Settings } from "../words/settings.js";
import { shapesOf } from "../words/shapes.js";

interface OptionsProps {
  model: Model;
  settings: Settings;
  problems: SettingProblems;
  isEdit: boolean;
  onChange: (changes: Partial<Settings>) => void;
}

export function Options({ model, settings, problems, isEdit, onChange }: OptionsProps) {
  const { defaults, limits } = model;
  const field = (name: SettingName, label: string, placeholder: string, mode: "numeric" | "decimal" = "numeric") => (
    <Field
      label={label}
      value={settings[name]}
      placeholder={placeholder}
      problem={problems[name]}
      mode={mode}
      onChange={(value) => onChange({ [name]: value })}
    />
  );
  const choice = (name: SettingName, label: string, choices: readonly (readonly [string, string])[]) => (
    <Choice label={label} value={settings[name]} choices={choices} onChange={(value) => onChange({ [name]: value })} />
  );
  const speeds = [...new Set(model.speeds.map(({ speed }) => speed))].filter((speed) => speed !== "exact");
  return (
    <div className="locara-fields">
      {!isEdit && limits.minimum < limits.maximum && (
        <>
          <ShapeChoice model={model} settings={settings} onChange={onChange} />
          {field("width", "Width", String(defaults.width))}
          {field("height", "Height", String(defaults.height))}
        </>
      )}
      {field("steps", "Steps", String(defaults.steps))}
      {field("guidance", "Guidance", String(defaults.guidance), "decimal")}
      {field("seed", "Seed", "random")}
      {field("count", "Pictures", "1")}
      {model.schedulers.length > 1 &&
        choice("scheduler", "Scheduler", [
          ["", `${defaults.scheduler} (default)`],
          ...model.schedulers.filter((name) => name !== defaults.scheduler).map((name) => [name, name] as const),
        ])}
      {speeds.length > 0 &&
        choice("speed", "Speed", [
          ["", "Exact (default)"],
          ...speeds.map((speed) => [speed, speed === "fast" ? "Fast, less exact" : "Balanced"] as const),
        ])}
      {choice("quantization", "Weights", [
        ["", "The best that fits (default)"],
        ["none", "As published"],
        ["8bit", "8 bits"],
        ["4bit", "4 bits, least memory"],
      ])}
      {model.classifierFreeGuidance && (
        <Field
          className="locara-wide"
          label="What to avoid"
          value={settings.negativePrompt}
          placeholder="nothing"
          onChange={(negativePrompt) => onChange({ negativePrompt })}
        />
      )}
    </div>
  );
}

interface FieldProps {
  label: string;
  value: string;
  placeholder: string;
  problem?: string | undefined;
  mode?: "numeric" | "decimal" | "text";
  className?: string;
  onChange: (value: string) => void;
}

function Field({ label, value, placeholder, problem, mode = "text", className = "", onChange }: FieldProps) {
  const [input, problemId] = [useId(), useId()];
  return (
    <div className={`locara-field ${className}`.trim()}>
      <label htmlFor={input}>{label}</label>
      <input
        id={input}
        inputMode={mode}
        autoComplete="off"
        value={value}
        placeholder={placeholder}
        aria-invalid={problem !== undefined}
        aria-describedby={problem === undefined ? undefined : problemId}
        onChange={(event) => onChange(event.target.value)}
      />
      {problem !== undefined && (
        <span id={problemId} className="locara-wrong">
          {problem}
        </span>
      )}
    </div>
  );
}

interface ChoiceProps {
  label: string;
  value: string;
  choices: readonly (readonly [value: string, words: string])[];
  onChange: (value: string) => void;
}

function Choice({ label, value, choices, onChange }: ChoiceProps) {
  const input = useId();
  return (
    <div className="locara-field">
      <label htmlFor={input}>{label}</label>
      <select id={input} value={value} onChange={(event) => onChange(event.target.value)}>
        {choices.map(([each, words]) => (
          <option key={each} value={each}>
            {words}
          </option>
        ))}
      </select>
    </div>
  );
}

function ShapeChoice({ model, settings, onChange }: Pick<OptionsProps, "model" | "settings" | "onChange">) {
  const shapes = shapesOf(model);
  if (shapes.length < 2) return null;
  const { defaults } = model;
  const own = `${defaults.width}x${defaults.height}`;
  const now = `${settings.width || defaults.width}x${settings.height || defaults.height}`;
  const choices = shapes.map(({ name, width, height }) => [`${width}x${height}`, name] as const);
  const known = choices.some(([size]) => size === now);
  return (
    <Choice
      label="Shape"
      value={known ? now : "other"}
      choices={known ? choices : [...choices, ["other", "As given below"]]}
      onChange={(size) => {
        if (size === "other") return;
        const [width = "", height = ""] = size === own ? [] : size.split("x");
        onChange({ width, height });
      }}
    />
  );
}

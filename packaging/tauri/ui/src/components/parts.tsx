// Small building blocks of several components.

import { type ComponentProps, type ReactNode, useId, useState } from "react";
import { useShared } from "../context.js";
import { explain, isDenied } from "../words/problems.js";
import { Denied } from "./Denied.js";

type ButtonProps = ComponentProps<"button"> & { kind?: "primary" | "plain" | "quiet" | "danger" };

export function Button({ kind = "plain", className = "", ...props }: ButtonProps) {
  return <button type="button" {...props} className={`locara-button locara-button-${kind} ${className}`.trim()} />;
}

type Tone = "good" | "warn" | "bad" | "accent" | "muted";

export function Badge({ tone = "muted", title, children }: { tone?: Tone; title?: string; children: ReactNode }) {
  return (
    <span className={`locara-badge locara-badge-${tone}`} title={title}>
      {children}
    </span>
  );
}

interface BarProps {
  /** From 0 to 1; undefined if unknown. */
  value: number | undefined;
  label: string;
  /** What a screen reader says instead of the number. */
  text: string;
}

export function Bar({ value, label, text }: BarProps) {
  return (
    <div
      className="locara-bar"
      role="progressbar"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={value === undefined ? undefined : Math.round(value * 100)}
      aria-valuetext={text}
    >
      <div
        className={value === undefined ? "locara-bar-moving" : "locara-bar-filled"}
        style={value === undefined ? undefined : { width: `${value * 100}%` }}
      />
    </div>
  );
}

/** Invisible; screen readers say its text when it changes. */
export function Announcement({ children }: { children: string }) {
  return (
    <div className="locara-unseen" role="status" aria-live="polite">
      {children}
    </div>
  );
}

export function Link({ href, children }: { href: string; children: ReactNode }) {
  const { openLink } = useShared();
  return (
    <a
      href={href}
      target="_blank"
      rel="noreferrer"
      onClick={(event) => {
        if (openLink === undefined) return;
        event.preventDefault();
        openLink(href);
      }}
    >
      {children}
    </a>
  );
}

/** A text to copy. */
export function Snippet({ text, label }: { text: string; label: string }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setCopied(true);
      setTimeout(() => setCopied(false), 2000);
    } catch {
      setCopied(false); // it can still be selected
    }
  };
  return (
    <div className="locara-snippet">
      {/* biome-ignore lint/a11y/useSemanticElements: a pre keeps the lines apart */}
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable with the keyboard */}
      <pre role="group" tabIndex={0} aria-label={label}>
        {text}
      </pre>
      <Button kind="quiet" onClick={() => void copy()}>
        {copied ? "Copied" : "Copy"}
      </Button>
    </div>
  );
}

/** An error with a remedy; a refused call with what it lacks. */
export function ProblemNote({ error, children }: { error: unknown; children?: ReactNode }) {
  const heading = useId();
  if (isDenied(error)) return <Denied error={error}>{children}</Denied>;
  const { title, message, advice } = explain(error);
  return (
    <section className="locara-note locara-note-bad" aria-labelledby={heading}>
      <h2 id={heading}>{title}</h2>
      <p>{message}</p>
      {advice.map((one) => (
        <p key={one}>{one}</p>
      ))}
      {children && <div className="locara-row">{children}</div>}
    </section>
  );
}

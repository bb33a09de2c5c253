import type { CapabilityDenied } from "@locara/image/core";
import { type ReactNode, useId } from "react";
import { lacking } from "../words/problems.js";
import { Snippet } from "./parts.js";

const WHO = {
  manifest: "For the app's developer",
  host: "For the app's developer",
  model: "For whoever installs models",
} as const;

/** A refused call: what it requested, and what would allow it. */
export function Denied({ error, children }: { error: CapabilityDenied; children?: ReactNode }) {
  const heading = useId();
  const { who, sentence, fragment, host } = lacking(error);
  return (
    <section className="locara-note locara-note-warn" aria-labelledby={heading}>
      <h2 id={heading}>This app may not do that</h2>
      <p>{error.message}</p>
      <p className="locara-muted">
        {WHO[who]}: {sentence}
      </p>
      {fragment !== undefined && <Snippet label="What locara.json lacks" text={fragment} />}
      {host !== undefined && (
        <>
          <p className="locara-muted">The host has to start the sidecar with:</p>
          <Snippet label="What the host has to supply" text={host} />
        </>
      )}
      {children && <div className="locara-row">{children}</div>}
    </section>
  );
}

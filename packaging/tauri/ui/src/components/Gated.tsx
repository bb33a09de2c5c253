// A model whose licence must be accepted first: how to do that, and how to provide the token.

import type { Model } from "@locara/image/core";
import { type FormEvent, useId, useState } from "react";
import { Button, Link } from "./parts.js";

interface GatedProps {
  model: Model;
  url: string;
  onToken: ((token: string) => Promise<void>) | undefined;
  onTryAgain: () => void;
}

export function Gated({ model, url, onToken, onTryAgain }: GatedProps) {
  const heading = useId();
  return (
    <section className="locara-note locara-note-warn" aria-labelledby={heading}>
      <h2 id={heading}>{model.displayName} needs an access token</h2>
      <ol>
        <li>
          Open <Link href={url}>the model's page</Link>, sign in and accept its licence.
        </li>
        <li>Make an access token there, one that may read.</li>
        <li>
          {onToken
            ? "Give it here. It is used for downloads and not kept."
            : "Start this app with the token in the variable HF_TOKEN, or type hf auth login in a terminal; then try again."}
        </li>
      </ol>
      {onToken ? (
        <TokenForm onToken={onToken} onTryAgain={onTryAgain} />
      ) : (
        <div className="locara-row">
          <Button onClick={onTryAgain}>Try again</Button>
        </div>
      )}
    </section>
  );
}

function TokenForm({ onToken, onTryAgain }: { onToken: (token: string) => Promise<void>; onTryAgain: () => void }) {
  const [token, setToken] = useState("");
  const [problem, setProblem] = useState("");
  const [input, problemId] = [useId(), useId()];
  const give = async (event: FormEvent) => {
    event.preventDefault();
    try {
      await onToken(token.trim());
      setToken("");
      setProblem("");
    } catch (error) {
      setProblem(error instanceof Error ? error.message : "The token was not taken.");
      return;
    }
    onTryAgain();
  };
  return (
    <form className="locara-row" onSubmit={(event) => void give(event)}>
      <label htmlFor={input}>Access token</label>
      <input
        id={input}
        type="password"
        autoComplete="off"
        value={token}
        onChange={(event) => setToken(event.target.value)}
        aria-invalid={problem !== ""}
        aria-describedby={problemId}
      />
      <Button kind="primary" type="submit" disabled={token.trim() === ""}>
        Download
      </Button>
      <span id={problemId} role="alert" className="locara-wrong">
        {problem}
      </span>
    </form>
  );
}

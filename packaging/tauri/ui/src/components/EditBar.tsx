import { useId } from "react";
import { useShared } from "../context.js";
import type { Picture } from "./Gallery.js";
import { Button } from "./parts.js";

interface EditBarProps {
  picture: Picture;
  /** How much changes, above 0 and at most 1; undefined for a model that follows an instruction. */
  strength: number | undefined;
  onStrength: (strength: number) => void;
  onLeave: () => void;
}

/** The picture that is changed, and how much of it. */
export function EditBar({ picture: { image }, strength, onStrength, onLeave }: EditBarProps) {
  const { source } = useShared();
  const slider = useId();
  const src = source(image);
  return (
    <div className="locara-edit">
      {src !== undefined && <img src={src} alt="What is changed" />}
      <div>
        {strength === undefined ? (
          <p className="locara-small">This model follows an instruction: say what to change.</p>
        ) : (
          <div className="locara-slider">
            <label htmlFor={slider}>How much</label>
            <input
              id={slider}
              type="range"
              min={0.05}
              max={1}
              step={0.05}
              value={strength}
              aria-valuetext={`${Math.round(strength * 100)} percent`}
              onChange={(event) => onStrength(Number(event.target.value))}
            />
            <output htmlFor={slider}>{Math.round(strength * 100)} %</output>
          </div>
        )}
        <Button kind="quiet" onClick={onLeave}>
          Leave it as it is
        </Button>
      </div>
    </div>
  );
}

import { useId } from "react";
import { isBlank, type Mask } from "../mask/strokes.js";
import { Button } from "./parts.js";

interface MaskToolsProps {
  erase: boolean;
  onErase: (erase: boolean) => void;
  radius: number;
  largest: number;
  onRadius: (radius: number) => void;
  mask: Mask;
  onUndo: () => void;
  onRedo: () => void;
  onAct: (kind: "fill" | "clear" | "invert") => void;
}

export function MaskTools({ erase, onErase, radius, largest, onRadius, mask, onUndo, onRedo, onAct }: MaskToolsProps) {
  const slider = useId();
  return (
    <div className="locara-row locara-tools" role="toolbar" aria-label="Painting">
      <div className="locara-switch">
        <Button aria-pressed={!erase} onClick={() => onErase(false)}>
          Brush
        </Button>
        <Button aria-pressed={erase} onClick={() => onErase(true)}>
          Eraser
        </Button>
      </div>
      <div className="locara-slider">
        <label htmlFor={slider}>Size</label>
        <input
          id={slider}
          type="range"
          min={1}
          max={largest}
          value={radius}
          aria-valuetext={`${radius * 2} pixels`}
          onChange={(event) => onRadius(Number(event.target.value))}
        />
        <output htmlFor={slider}>{radius * 2} px</output>
      </div>
      <Button kind="quiet" disabled={mask.acts.length === 0} onClick={onUndo}>
        Undo
      </Button>
      <Button kind="quiet" disabled={mask.undone.length === 0} onClick={onRedo}>
        Redo
      </Button>
      <Button kind="quiet" onClick={() => onAct("invert")}>
        Invert
      </Button>
      <Button kind="quiet" onClick={() => onAct("fill")}>
        All
      </Button>
      <Button kind="quiet" disabled={isBlank(mask)} onClick={() => onAct("clear")}>
        Clear
      </Button>
    </div>
  );
}

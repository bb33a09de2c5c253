// Paints where a picture may change, on top of it and at its own size. The mask belongs to the parent component, so it is
// still there when the painter is opened again.

import { type KeyboardEvent, type PointerEvent, useEffect, useRef, useState } from "react";
import { draw, drawAll } from "../mask/raster.js";
import { type Act, add, isBlank, largestRadius, type Mask, type Point, redo, resized, undo } from "../mask/strokes.js";
import { MaskTools } from "./MaskTools.js";
import { Announcement } from "./parts.js";

export interface MaskPainterProps {
  /** The picture's `src`, and its size in pixels, which the mask has too. */
  src: string | undefined;
  width: number;
  height: number;
  mask: Mask;
  onMask: (mask: Mask) => void;
}

type Stroke = Extract<Act, { kind: "stroke" }>;

/** The colour of what is painted; the stylesheet makes it translucent. */
const COLOUR = "#e5484d";
const HELP =
  "Arrow keys move the brush, with Shift farther; Space paints, held with arrows a line. B brush, E eraser, [ and ] size, Control Z undo.";

export function MaskPainter({ src, width, height, mask, onMask }: MaskPainterProps) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const stroke = useRef<Stroke | undefined>(undefined);
  const [erase, setErase] = useState(false);
  const largest = largestRadius(width, height);
  const [radius, setRadius] = useState(() => Math.max(1, Math.round(Math.max(width, height) / 20)));
  const [brush, setBrush] = useState<Point>();
  const [said, setSaid] = useState("");

  useEffect(() => {
    const context = canvas.current?.getContext("2d");
    if (context) drawAll(context, mask.acts, COLOUR);
  }, [mask]);

  useEffect(() => {
    // it may have been opened from far below, among the pictures
    canvas.current?.scrollIntoView?.({ block: "nearest" });
  }, []);

  const began = (point: Point) => {
    stroke.current = { kind: "stroke", erase, radius, points: [] };
    went(point);
  };
  const went = (point: Point) => {
    const now = stroke.current;
    if (now === undefined) return;
    const last = now.points.at(-1);
    stroke.current = { ...now, points: [...now.points, point] };
    const context = canvas.current?.getContext("2d");
    if (context) draw(context, { ...now, points: last ? [last, point] : [point] }, COLOUR);
  };
  const ended = () => {
    const done = stroke.current;
    stroke.current = undefined;
    if (done !== undefined) onMask(add(mask, done));
  };
  const change = (next: Mask, words: string) => {
    stroke.current = undefined;
    setSaid(words);
    onMask(next);
  };
  const size = (larger: boolean) => {
    const next = resized(radius, larger, largest);
    setRadius(next);
    setSaid(`Brush ${next * 2} pixels`);
  };
  const choose = (eraser: boolean) => {
    setErase(eraser);
    setSaid(eraser ? "Eraser" : "Brush");
  };

  const at = (event: PointerEvent<HTMLElement>): Point => {
    const box = event.currentTarget.getBoundingClientRect();
    return { x: ((event.clientX - box.x) / box.width) * width, y: ((event.clientY - box.y) / box.height) * height };
  };

  const keyed = (event: KeyboardEvent) => {
    const command = event.ctrlKey || event.metaKey;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const steps: Record<string, Point> = {
      ArrowLeft: { x: -1, y: 0 },
      ArrowRight: { x: 1, y: 0 },
      ArrowUp: { x: 0, y: -1 },
      ArrowDown: { x: 0, y: 1 },
    };
    const from = brush ?? { x: width / 2, y: height / 2 };
    const way = steps[key];
    if (command && key === "z") {
      change(event.shiftKey ? redo(mask) : undo(mask), event.shiftKey ? "Done again" : "Undone");
    } else if (command && key === "y") change(redo(mask), "Done again");
    else if (command || event.altKey) return;
    else if (way !== undefined) {
      const far = Math.max(1, Math.round(Math.max(width, height) / (event.shiftKey ? 8 : 64)));
      const to = {
        x: Math.min(width, Math.max(0, from.x + way.x * far)),
        y: Math.min(height, Math.max(0, from.y + way.y * far)),
      };
      setBrush(to);
      setSaid(`${Math.round(to.x)}, ${Math.round(to.y)}`);
      went(to);
    } else if (key === " " || key === "Enter") {
      if (!event.repeat) {
        setBrush(from);
        began(from);
        setSaid(erase ? "Erasing" : "Painting");
      }
    } else if (key === "b") choose(false);
    else if (key === "e") choose(true);
    else if (key === "[" || key === "]") size(key === "]");
    else return;
    event.preventDefault();
  };

  return (
    <section className="locara-painter" aria-label="Mask">
      <div className="locara-stage">
        <div
          className="locara-frame"
          style={{ "--ratio": width / height, aspectRatio: `${width} / ${height}` } as React.CSSProperties}
        >
          {src !== undefined && <img className="locara-layer" alt="" src={src} draggable={false} />}
          <div
            className="locara-paint"
            role="application"
            // biome-ignore lint/a11y/noNoninteractiveTabindex: it is painted on with the keyboard
            tabIndex={0}
            aria-label={`Mask of ${width} by ${height} pixels. ${HELP}`}
            onKeyDown={keyed}
            onKeyUp={({ key }) => (key === " " || key === "Enter") && ended()}
            onBlur={ended}
            onPointerDown={(event) => {
              if (event.button !== 0) return;
              event.currentTarget.setPointerCapture(event.pointerId); // a stroke goes on beyond the edge
              began(at(event));
            }}
            onPointerMove={(event) => {
              setBrush(at(event));
              went(at(event));
            }}
            onPointerUp={ended}
            onPointerCancel={ended}
            onPointerLeave={() => setBrush(undefined)}
          >
            <canvas ref={canvas} width={width} height={height} />
            {brush && (
              <span
                className="locara-brush"
                data-erase={erase}
                style={{
                  left: `${(brush.x / width) * 100}%`,
                  top: `${(brush.y / height) * 100}%`,
                  width: `${((2 * radius) / width) * 100}%`,
                }}
              />
            )}
          </div>
        </div>
      </div>
      <MaskTools
        erase={erase}
        onErase={choose}
        radius={radius}
        largest={largest}
        onRadius={setRadius}
        mask={mask}
        onUndo={() => change(undo(mask), "Undone")}
        onRedo={() => change(redo(mask), "Done again")}
        onAct={(kind) => change(add(mask, { kind }), { fill: "All of it", clear: "Cleared", invert: "Inverted" }[kind])}
      />
      <p className="locara-small">
        {isBlank(mask)
          ? "Nothing is painted: all of the picture may change."
          : "What is red may change, all else stays as it is."}
      </p>
      <Announcement>{said}</Announcement>
    </section>
  );
}

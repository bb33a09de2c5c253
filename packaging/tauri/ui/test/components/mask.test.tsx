import { fireEvent, render, screen } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { beforeEach, expect, test, vi } from "vitest";
import { MaskPainter } from "../../src/index.js";
import { add, EMPTY, isBlank, largestRadius, type Mask, redo, resized, undo } from "../../src/mask/strokes.js";
import { expectAccessible } from "../support/axe.js";
import { PIXEL } from "../support/scripted.js";

const dab = { kind: "stroke", erase: false, radius: 4, points: [{ x: 5, y: 5 }] } as const;

// jsdom has no canvas; the painted result is checked in Chromium
beforeEach(() => void vi.spyOn(HTMLCanvasElement.prototype, "getContext").mockReturnValue(null));

test("undo and redo go through the acts, and a new act forgets what was undone", () => {
  const two = add(add(EMPTY, dab), { kind: "invert" });
  expect(undo(two).acts).toEqual([dab]);
  expect(redo(undo(two))).toEqual(two);
  expect(add(undo(two), dab)).toEqual({ acts: [dab, dab], undone: [] });
  expect([undo(EMPTY), redo(EMPTY)]).toEqual([EMPTY, EMPTY]);
});

test("a mask is blank before the first stroke and after it was cleared", () => {
  expect(isBlank(EMPTY)).toBe(true);
  expect(isBlank(add(EMPTY, { ...dab, erase: true }))).toBe(true);
  expect(isBlank(add(EMPTY, dab))).toBe(false);
  expect(isBlank(add(add(EMPTY, dab), { kind: "clear" }))).toBe(true);
  expect(isBlank(add(add(add(EMPTY, dab), { kind: "clear" }), { kind: "invert" }))).toBe(false);
});

test("the brush grows and shrinks by a fifth, from one pixel to a quarter of the picture", () => {
  expect([resized(10, true, 100), resized(10, false, 100), resized(1, false, 100), resized(99, true, 100)]).toEqual([
    12, 8, 1, 100,
  ]);
  expect(largestRadius(512, 1024)).toBe(256);
});

function painter() {
  let mask: Mask = EMPTY;
  const src = `data:image/png;base64,${PIXEL}`;
  const whole = () => <MaskPainter src={src} width={128} height={64} mask={mask} onMask={change} />;
  const change = (next: Mask) => {
    mask = next;
    view.rerender(whole());
  };
  const view = render(whole());
  return { root: view.container, acts: () => mask.acts, board: screen.getByRole("application") };
}

test("it is painted with the keyboard alone: dabs, lines, size, eraser, undo and redo", async () => {
  const { root, acts, board } = painter();
  await userEvent.tab();
  while (document.activeElement !== board) await userEvent.tab({ shift: true });
  await userEvent.keyboard(" ");
  expect(acts()).toEqual([{ kind: "stroke", erase: false, radius: 6, points: [{ x: 64, y: 32 }] }]);
  await userEvent.keyboard("{ArrowRight}]{ >}{ArrowDown}{ArrowDown}{/ }");
  expect(acts()[1]).toEqual({
    kind: "stroke",
    erase: false,
    radius: 7,
    points: [
      { x: 66, y: 32 },
      { x: 66, y: 34 },
      { x: 66, y: 36 },
    ],
  });
  await userEvent.keyboard("e[[{Shift>}{ArrowLeft}{/Shift}{Enter}");
  expect(acts()[2]).toMatchObject({ erase: true, radius: 6, points: [{ x: 50, y: 36 }] });
  expect(screen.getByRole("button", { name: "Eraser" }).getAttribute("aria-pressed")).toBe("true");
  await userEvent.keyboard("{Control>}zz{/Control}");
  expect(acts()).toHaveLength(1);
  await userEvent.keyboard("{Control>}{Shift>}z{/Shift}{/Control}");
  expect(acts()).toHaveLength(2);
  await expectAccessible(root);
});

test("a stroke that leaves the picture goes on outside and keeps what was painted before", () => {
  const { acts, board } = painter();
  board.setPointerCapture = () => {};
  board.getBoundingClientRect = () => ({ x: 100, y: 50, width: 256, height: 128 }) as DOMRect;
  const at = (clientX: number, clientY: number) => ({ clientX, clientY, button: 0, pointerId: 1 });
  fireEvent.pointerDown(board, at(120, 70));
  fireEvent.pointerUp(board, at(120, 70));
  fireEvent.pointerDown(board, at(340, 80));
  fireEvent.pointerMove(board, at(420, 90));
  fireEvent.pointerLeave(board, at(420, 90));
  fireEvent.pointerMove(board, at(300, 60));
  fireEvent.pointerUp(board, at(300, 60));
  expect(acts().map((act) => act.kind === "stroke" && act.points)).toEqual([
    [{ x: 10, y: 10 }],
    [
      { x: 120, y: 15 },
      { x: 160, y: 20 },
      { x: 100, y: 5 },
    ],
  ]);
});

test("the tools do what they say", async () => {
  const { acts } = painter();
  screen.getByText(/all of the picture may change/);
  expect(screen.getByRole<HTMLButtonElement>("button", { name: "Undo" }).disabled).toBe(true);
  for (const name of ["All", "Invert", "Clear"]) await userEvent.click(screen.getByRole("button", { name }));
  expect(acts().map(({ kind }) => kind)).toEqual(["fill", "invert", "clear"]);
  await userEvent.click(screen.getByRole("button", { name: "Undo" }));
  await userEvent.click(screen.getByRole("button", { name: "Redo" }));
  expect(acts()).toHaveLength(3);
  fireEvent.change(screen.getByRole("slider", { name: "Size" }), { target: { value: "20" } });
  screen.getByText("40 px");
});

// Turns what was drawn into what the network was trained on: handwritten digits of 8×8 cells with 17 shades (the UCI
// "optical recognition of handwritten digits" set), each cell three pixels wide, two pixels of border: 28×28 in all.
// A drawing is a list of strokes, a stroke a list of points; it is fitted and inked as points, so that neither its
// size nor its place nor the width of the brush matters.

/** @typedef {{ x: number, y: number }} Point */

const cells = 8;
/** Samples along a side: four per cell, as in the bitmaps that the training data was made from. */
const side = 32;
/** How many of the 64 cells a digit fills: a little more than in the training data, where strokes are softer. */
const ink = 21;
/**
 * Training digits fill the height, and up to six of the eight columns. Half a cell right of the middle is where the
 * network reads pen strokes best: of plain sevens it knows 19 in 20 there, and three in four in the very middle.
 */
const box = { left: 6, top: 0, width: 24, height: 32 };

/**
 * The network's input for a drawing: 28×28 numbers from 0 to 1, row by row.
 * @param {readonly (readonly Point[])[]} strokes
 * @returns {Float32Array}
 */
export function toPixels(strokes) {
  const shades = toCells(strokes);
  const pixels = new Float32Array(28 * 28);
  for (let y = 0; y < 24; y++) {
    for (let x = 0; x < 24; x++) {
      pixels[(y + 2) * 28 + x + 2] = shades[Math.floor(y / 3) * cells + Math.floor(x / 3)];
    }
  }
  return pixels;
}

/**
 * The drawing as 8×8 shades from 0 to 1, in steps of 1/16.
 * @param {readonly (readonly Point[])[]} strokes
 * @returns {Float32Array}
 */
export function toCells(strokes) {
  const shades = new Float32Array(cells * cells);
  const segments = toSegments(strokes);
  if (segments.length === 0) return shades;
  // The wider the brush, the more ink, and the less room for the brush's middle line: search for the width that
  // gives a digit the ink of the training data.
  let thin = 2;
  let thick = 9;
  let bitmap = new Uint8Array(side * side);
  for (let step = 0; step < 5; step++) {
    const width = (thin + thick) / 2;
    bitmap = draw(fit(segments, width), width);
    const filled = bitmap.reduce((sum, bit) => sum + bit, 0) / 16;
    if (filled < ink) thin = width;
    else thick = width;
  }
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) shades[(y >> 2) * cells + (x >> 2)] += bitmap[y * side + x] / 16;
  }
  return shades;
}

/** The strokes as line segments [x0, y0, x1, y1]; a dot is a segment without length. */
function toSegments(strokes) {
  return strokes.flatMap((stroke) =>
    stroke.slice(0, Math.max(1, stroke.length - 1)).map((point, i) => {
      const next = stroke[i + 1] ?? point;
      return [point.x, point.y, next.x, next.y];
    }),
  );
}

/** Moves and scales segments, as much in width as in height, so that drawn with a brush they fill the box. */
function fit(segments, width) {
  const xs = segments.flatMap(([x0, , x1]) => [x0, x1]);
  const ys = segments.flatMap(([, y0, , y1]) => [y0, y1]);
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const fitting = Math.min((box.width - width) / (right - left), (box.height - width) / (bottom - top));
  const scale = Number.isFinite(fitting) ? fitting : 1;
  const moveX = (x) => box.left + box.width / 2 + (x - (left + right) / 2) * scale;
  const moveY = (y) => box.top + box.height / 2 + (y - (top + bottom) / 2) * scale;
  return segments.map(([x0, y0, x1, y1]) => [moveX(x0), moveY(y0), moveX(x1), moveY(y1)]);
}

/** A black and white bitmap of the segments, drawn with a round brush. */
function draw(segments, width) {
  const bitmap = new Uint8Array(side * side);
  const reach = width / 2;
  for (const [x0, y0, x1, y1] of segments) {
    const [dx, dy] = [x1 - x0, y1 - y0];
    const length = dx * dx + dy * dy;
    const first = (a, b) => Math.max(0, Math.floor(Math.min(a, b) - reach));
    const last = (a, b) => Math.min(side - 1, Math.ceil(Math.max(a, b) + reach));
    for (let y = first(y0, y1); y <= last(y0, y1); y++) {
      for (let x = first(x0, x1); x <= last(x0, x1); x++) {
        const [px, py] = [x + 0.5 - x0, y + 0.5 - y0];
        const along = length === 0 ? 0 : Math.min(1, Math.max(0, (px * dx + py * dy) / length));
        const [ex, ey] = [px - along * dx, py - along * dy];
        if (ex * ex + ey * ey <= reach * reach) bitmap[y * side + x] = 1;
      }
    }
  }
  return bitmap;
}

// One handwriting of each digit, in a square of 100×100: drawn on request (keys 0 to 9), and by the tests.

/** @typedef {{ x: number, y: number }} Point */

const points = (text) =>
  text.split(" ").map((pair) => {
    const [x, y] = pair.split(",").map(Number);
    return { x, y };
  });

/** A piece of an ellipse; angles in degrees, clockwise from the right. */
function arc(x, y, radiusX, radiusY, from, to) {
  const steps = 28;
  return Array.from({ length: steps + 1 }, (_, i) => {
    const angle = ((from + ((to - from) * i) / steps) * Math.PI) / 180;
    return { x: x + radiusX * Math.cos(angle), y: y + radiusY * Math.sin(angle) };
  });
}

/** @type {readonly (readonly (readonly Point[])[])[]} */
export const samples = [
  [arc(50, 50, 28, 40, -90, 270)],
  [points("40,22 54,8 52,30 50,92")],
  [[...arc(50, 32, 25, 24, -170, 40), ...points("25,90 78,90")]],
  [[...arc(46, 30, 24, 22, -150, 90), ...arc(46, 71, 28, 22, -90, 150)]],
  [points("55,8 20,62 82,62"), points("62,35 62,95")],
  [[...points("75,8 32,8 29,45"), ...arc(48, 65, 27, 25, -130, 140)]],
  [[...arc(62, 52, 34, 46, -100, -180), ...arc(50, 70, 22, 20, -180, 180)]],
  [points("22,12 78,12 42,92"), points("35,52 72,52")],
  [points("68,16 50,8 34,20 38,38 62,56 70,76 50,92 30,78 36,58 62,38 68,16")],
  [[...arc(48, 30, 22, 22, 0, -360), ...points("70,30 66,94")]],
];

// A canvas to draw on with mouse, pen or finger. It keeps the strokes as points, in hundredths of its width, so that
// what was drawn survives a change of size.

/** @typedef {{ x: number, y: number }} Point */

export class Pad {
  /** @type {Point[][]} */
  strokes = [];
  #canvas;
  #changed;
  #writing = 0;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {() => void} changed called after every change of the strokes
   */
  constructor(canvas, changed) {
    this.#canvas = canvas;
    this.#changed = changed;
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    new ResizeObserver(() => this.#resize()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#paint());
  }

  get empty() {
    return this.strokes.length === 0;
  }

  clear() {
    this.#writing++;
    this.strokes = [];
    this.#update();
  }

  /**
   * Clears, and then draws strokes as a hand would.
   * @param {readonly (readonly Point[])[]} strokes
   */
  async write(strokes) {
    this.clear();
    const mine = this.#writing;
    for (const stroke of strokes) {
      const line = [stroke[0]];
      this.strokes.push(line);
      for (const [i, to] of stroke.slice(1).entries()) {
        const from = stroke[i];
        const steps = Math.max(1, Math.round(Math.hypot(to.x - from.x, to.y - from.y) / 6));
        for (let step = 1; step <= steps; step++) {
          await new Promise(requestAnimationFrame);
          if (mine !== this.#writing) return;
          const part = step / steps;
          line.push({ x: from.x + (to.x - from.x) * part, y: from.y + (to.y - from.y) * part });
          this.#update();
        }
      }
    }
  }

  #begin(event) {
    if (!event.isPrimary || event.button !== 0) return;
    event.preventDefault();
    this.#writing++;
    this.#canvas.setPointerCapture(event.pointerId);
    this.strokes.push([this.#point(event)]);
    this.#update();
  }

  #move(event) {
    if (!this.#canvas.hasPointerCapture(event.pointerId)) return;
    const line = this.strokes.at(-1);
    const events = event.getCoalescedEvents?.() ?? [];
    for (const one of events.length > 0 ? events : [event]) line?.push(this.#point(one));
    this.#update();
  }

  /** @returns {Point} */
  #point(event) {
    const box = this.#canvas.getBoundingClientRect();
    return { x: ((event.clientX - box.left) / box.width) * 100, y: ((event.clientY - box.top) / box.height) * 100 };
  }

  #update() {
    this.#paint();
    this.#changed();
  }

  #resize() {
    const { clientWidth, clientHeight } = this.#canvas;
    this.#canvas.width = Math.round(clientWidth * devicePixelRatio);
    this.#canvas.height = Math.round(clientHeight * devicePixelRatio);
    this.#paint();
  }

  #paint() {
    const { width, height } = this.#canvas;
    const context = this.#canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    context.scale(width / 100, height / 100);
    context.lineWidth = 6;
    context.lineCap = context.lineJoin = "round";
    context.strokeStyle = getComputedStyle(this.#canvas).color;
    for (const stroke of this.strokes) {
      const [first, ...rest] = stroke;
      context.beginPath();
      context.moveTo(first.x, first.y);
      // Curves through the middles of the segments, with the points as control points, round the corners.
      rest.forEach((point, i) => {
        const next = rest[i + 1];
        if (next) context.quadraticCurveTo(point.x, point.y, (point.x + next.x) / 2, (point.y + next.y) / 2);
        else context.lineTo(point.x, point.y);
      });
      if (rest.length === 0) context.lineTo(first.x + 0.01, first.y);
      context.stroke();
    }
  }
}

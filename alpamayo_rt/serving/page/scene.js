// SPDX-License-Identifier: Apache-2.0
// The scene from above: forward is up, left is left, metres.

const MARGIN = 28;

function bounds(paths) {
  let [low, high, side] = [-6, 25, 8];
  for (const path of paths) {
    for (const [x, y] of path) {
      low = Math.min(low, x);
      high = Math.max(high, x);
      side = Math.max(side, Math.abs(y));
    }
  }
  return { low: low - 2, high: high + 3, side: side + 2 };
}

function colours(canvas) {
  const style = getComputedStyle(canvas);
  const read = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    line: read("line"), text: read("muted"), candidate: read("candidate"),
    truth: read("truth"), history: read("history"), vehicle: read("text"),
  };
}

// scene: {candidates: [[[x, y, …], …], …], truth: [[x, y], …] or null, history likewise}
export function drawScene(canvas, scene) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (!width || !height) return;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.clearRect(0, 0, width, height);
  const paint = colours(canvas);
  const candidates = scene.candidates ?? [];
  const known = [scene.history, scene.truth].filter(Boolean);
  const { low, high, side } = bounds([...candidates, ...known]);
  const scale = Math.min((height - 2 * MARGIN) / (high - low), (width - 2 * MARGIN) / (2 * side));
  const at = ([x, y]) => [width / 2 - y * scale, height - MARGIN - (x - low) * scale];

  grid(pen, paint, at, { low, high, width, scale });
  if (scene.truth) path(pen, at, [[0, 0], ...scene.truth], { colour: paint.truth, width: 10, dash: [12, 14], alpha: 0.75 });
  if (scene.history) path(pen, at, scene.history, { colour: paint.history, width: 4, dash: [2, 5] });
  candidates.forEach((points, number) => {
    path(pen, at, [[0, 0], ...points], { colour: paint.candidate, width: number ? 1.8 : 3.2, alpha: number ? 0.7 : 1 });
    const [x, y] = at(points[points.length - 1]);
    pen.beginPath();
    pen.arc(x, y, number ? 2.5 : 4, 0, 2 * Math.PI);
    pen.fillStyle = paint.candidate;
    pen.fill();
  });
  vehicle(pen, paint, at, scale);
}

function grid(pen, paint, at, { low, high, width, scale }) {
  const step = [5, 10, 20, 50, 100, 200].find((metres) => metres * scale >= 44) ?? 500;
  pen.strokeStyle = paint.line;
  pen.fillStyle = paint.text;
  pen.font = "12px system-ui, sans-serif";
  pen.lineWidth = 1;
  for (let x = Math.ceil(low / step) * step; x <= high; x += step) {
    const [, y] = at([x, 0]);
    pen.beginPath();
    pen.moveTo(0, y);
    pen.lineTo(width, y);
    pen.stroke();
    pen.fillText(`${x} m`, 6, y - 4);
  }
}

function path(pen, at, points, { colour, width, dash = [], alpha = 1 }) {
  pen.save();
  pen.globalAlpha = alpha;
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.lineJoin = pen.lineCap = "round";
  pen.setLineDash(dash);
  pen.beginPath();
  points.forEach((point, number) => (number ? pen.lineTo(...at(point)) : pen.moveTo(...at(point))));
  pen.stroke();
  pen.restore();
}

function vehicle(pen, paint, at, scale) {
  const [x, y] = at([0, 0]);
  const [w, l] = [Math.max(1.9 * scale, 7), Math.max(4.6 * scale, 15)];
  pen.fillStyle = paint.vehicle;
  pen.beginPath();
  pen.roundRect(x - w / 2, y - l / 2, w, l, w / 4);
  pen.fill();
}

// What the picture says, in words.
export function describeScene(scene) {
  const candidates = scene.candidates ?? [];
  if (!candidates.length) return "No trajectories yet";
  const ends = candidates.map((points) => points[points.length - 1]);
  const ahead = ends.map(([x]) => x);
  const [x, y] = ends[0];
  const turn = Math.abs(y) < 1.5 ? "straight on" : `${Math.abs(y).toFixed(0)} m to the ${y > 0 ? "left" : "right"}`;
  const range = `${Math.min(...ahead).toFixed(0)} to ${Math.max(...ahead).toFixed(0)} m ahead`;
  return `${candidates.length} proposed trajectories, ending ${range} after 6.4 s; the first ends ${x.toFixed(0)} m ahead, ${turn}`;
}

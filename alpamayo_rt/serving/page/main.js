// SPDX-License-Identifier: Apache-2.0
import { describeScene, drawScene } from "./scene.js";
import { getJson, postForEvents, Refused, setToken } from "./stream.js";

const $ = (id) => document.getElementById(id);
const STAGES = ["preprocess", "vision", "prefill", "decode", "expert", "total"];
const SETTLED = 250; // ms without a move of the scrubber after which the model is asked

const state = { span: null, window: null, scene: {}, navigationIsOwn: true, playing: false };
const drives = new Map(); // settings → result, so that going back shows what was said
let running = null; // AbortController of the request in progress
let looking = 0; // number of the window that is wanted

// ---- clips and windows

async function start() {
  for (;;) {
    let found;
    try {
      found = await getJson("/page/clips");
    } catch (error) {
      if (error.status === 401) return askForToken();
      say(error.message, true);
      return;
    }
    if (found.state === "loading") {
      say("The model is being loaded …");
      await new Promise((resolve) => setTimeout(resolve, 500));
      continue;
    }
    say(found.state === "ready" ? found.model : `The server is ${found.state}`);
    $("clip").replaceChildren(...found.clips.map(({ id, title }) => new Option(title, id)));
    if (found.clips.length) await openClip();
    return;
  }
}

function askForToken() {
  say("This server wants a token");
  $("access").hidden = false;
  $("token").focus();
}

async function openClip() {
  pause();
  await guarded(async () => {
    state.span = await getJson("/page/clip", { clip: $("clip").value });
    const { first_us: first, last_us: last, t0_us: own, step_us: step } = state.span;
    $("time").max = Math.round((last - first) / step);
    $("time").value = Math.round((own - first) / step);
    state.navigationIsOwn = true;
    await moved();
  });
}

function t0() {
  return state.span.first_us + Number($("time").value) * state.span.step_us;
}

// Shows the window at the scrubber's time; false if another one is wanted by now.
async function look() {
  const wanted = ++looking;
  const clip = $("clip").value;
  const at = t0();
  const seconds = `${(at / 1e6).toFixed(1)} s`;
  $("clock").textContent = seconds;
  $("time").setAttribute("aria-valuetext", seconds);
  const found = await getJson("/page/window", { clip, t0_us: at });
  if (wanted !== looking) return false;
  state.window = found;
  showCameras(found.images);
  if (state.navigationIsOwn) $("navigation").value = found.navigation ?? "";
  $("own").disabled = state.navigationIsOwn;
  $("questions").replaceChildren(...(found.questions ?? []).map(({ question }) => new Option(question)));
  show({ candidates: [], truth: found.future, history: found.history });
  return true;
}

function showCameras(images) {
  const figures = $("cameras").children;
  if (figures.length !== images.length) {
    $("cameras").replaceChildren(
      ...images.map(() => {
        const figure = document.createElement("figure");
        figure.append(document.createElement("img"), document.createElement("figcaption"));
        return figure;
      }),
    );
  }
  images.forEach(({ name, src }, number) => {
    const [image, caption] = figures[number].children;
    image.src = src;
    image.alt = `View of the ${name.toLowerCase()}`;
    caption.textContent = name;
  });
}

function show(scene) {
  state.scene = scene;
  drawScene($("scene"), scene);
  $("scene").setAttribute("aria-label", describeScene(scene));
}

// ---- the model

const NUMBERS = { candidates: "Trajectories", steps: "Steps", seed: "Seed" };

function settings() {
  for (const [id, name] of Object.entries(NUMBERS)) {
    const { min, max } = $(id);
    if (!$(id).checkValidity()) throw new Error(`${name}: expected a whole number from ${min}${max ? ` to ${max}` : " on"}`);
  }
  return {
    clip: $("clip").value,
    t0_us: t0(),
    num_traj_samples: Number($("candidates").value),
    num_diffusion_steps: Number($("steps").value),
    seed: Number($("seed").value),
  };
}

function stop() {
  running?.abort();
  running = null;
}

async function drive() {
  unsettled();
  stop();
  const mine = (running = new AbortController());
  const body = { ...settings(), mode: "trajectory", nav_text: $("navigation").value };
  const key = JSON.stringify(body);
  note("");
  $("answered").hidden = true;
  const text = $("reasoning");
  if (drives.has(key)) return driven(drives.get(key));
  text.textContent = "";
  text.classList.add("writing");
  try {
    await postForEvents("/page/run", body, {
      reasoning: writer(text),
      trajectories: ({ trajectories }) => show({ ...state.scene, candidates: trajectories }),
      result: (result) => {
        drives.set(key, result);
        driven(result);
      },
    }, mine.signal);
  } finally {
    if (running === mine) text.classList.remove("writing");
  }
}

function driven(result) {
  $("reasoning").textContent = result.reasoning[0];
  show({ ...state.scene, candidates: result.trajectories });
  showStages(result.milliseconds);
  const comfortable = result.comfort_metrics.filter((metrics) => metrics.comfortable).length;
  const odd = result.stop_reasons.filter((reason) => reason !== "finished");
  note(
    `${comfortable} of ${result.trajectories.length} trajectories comfortable` +
      (odd.length ? `; ended with ${odd.join(", ")}` : ""),
  );
  if (!state.playing) announce(`${result.reasoning[0]} ${describeScene(state.scene)}`);
}

async function ask() {
  pause();
  unsettled();
  stop();
  const question = $("question").value.trim() || $("question").placeholder;
  const mine = (running = new AbortController());
  $("asked").textContent = question;
  const text = $("answer");
  text.textContent = "";
  text.classList.add("writing");
  $("answered").hidden = false;
  note("");
  try {
    await postForEvents("/page/run", { ...settings(), mode: "answer", question }, {
      answer: writer(text),
      result: (result) => {
        text.textContent = result.answer;
        showStages(result.milliseconds);
        announce(result.answer);
      },
    }, mine.signal);
  } finally {
    text.classList.remove("writing");
  }
}

function writer(element) {
  return ({ sequence, text, replace }) => {
    if (sequence === 0) element.textContent = replace ? text : element.textContent + text;
  };
}

function showStages(milliseconds) {
  const total = milliseconds.total || 1;
  $("stages").replaceChildren(
    ...STAGES.filter((stage) => stage in milliseconds).map((stage) => {
      const row = document.createElement("li");
      const [name, track, bar, value] = ["span", "span", "div", "span"].map((tag) => document.createElement(tag));
      row.className = stage;
      name.textContent = stage;
      bar.className = "bar";
      bar.style.width = `${Math.min(100, (100 * milliseconds[stage]) / total)}%`;
      track.append(bar);
      value.className = "ms";
      value.textContent = `${milliseconds[stage].toFixed(0)} ms`;
      row.append(name, track, value);
      return row;
    }),
  );
}

// ---- time

let settling = null;
let moves = 0; // whoever asks the model for something else takes the next number

function unsettled() {
  clearTimeout(settling);
  return ++moves;
}

async function moved() {
  const move = unsettled();
  stop();
  note("");
  $("reasoning").textContent = "";
  await guarded(look);
  if (move === moves) settling = setTimeout(() => guarded(drive), SETTLED);
}

function step(by) {
  pause();
  $("time").value = Number($("time").value) + by;
  return moved();
}

async function play() {
  unsettled();
  state.playing = true;
  $("play").textContent = "Pause";
  $("play").setAttribute("aria-pressed", "true");
  if (Number($("time").value) >= Number($("time").max)) $("time").value = 0;
  while (state.playing) {
    const fine = await guarded(async () => (await look()) && state.playing && (await drive()));
    if (fine === false) break;
    if (!state.playing) return;
    if (Number($("time").value) >= Number($("time").max)) break;
    $("time").value = Number($("time").value) + 1;
  }
  pause();
}

function pause() {
  state.playing = false;
  $("play").textContent = "Play";
  $("play").setAttribute("aria-pressed", "false");
}

// ---- words for people

// Does something that may be refused; false if it was.
async function guarded(work) {
  try {
    await work();
    return true;
  } catch (error) {
    if (error.name === "AbortError") return true;
    if (error instanceof Refused && error.status === 401) askForToken();
    note(error.message, true);
    return false;
  }
}

function say(text, bad = false) {
  $("state").textContent = text;
  $("state").classList.toggle("bad", bad);
}

function note(text, bad = false) {
  $("notes").textContent = text;
  $("notes").classList.toggle("bad", bad);
  if (bad) announce(text);
}

function announce(text) {
  $("announcer").textContent = text;
}

// ---- events

$("clip").addEventListener("change", openClip);
$("time").addEventListener("input", () => {
  pause();
  moved();
});
$("back").addEventListener("click", () => step(-1));
$("forth").addEventListener("click", () => step(1));
$("play").addEventListener("click", () => (state.playing ? (pause(), stop()) : play()));
for (const id of Object.keys(NUMBERS)) $(id).addEventListener("change", () => guarded(drive));
$("navigation").addEventListener("input", () => {
  state.navigationIsOwn = false;
  $("own").disabled = false;
});
$("own").addEventListener("click", () => {
  state.navigationIsOwn = true;
  $("own").disabled = true;
  $("navigation").value = state.window?.navigation ?? "";
  guarded(drive);
});
$("drive").addEventListener("submit", (event) => {
  event.preventDefault();
  guarded(drive);
});
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  guarded(ask);
});
$("access").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken($("token").value.trim());
  $("access").hidden = true;
  start();
});
document.addEventListener("keydown", (event) => {
  if (event.target !== document.body || event.ctrlKey || event.metaKey || event.altKey) return;
  const does = { " ": () => $("play").click(), ArrowLeft: () => step(-1), ArrowRight: () => step(1) }[event.key];
  if (!does || !state.span) return;
  event.preventDefault();
  does();
});
const redraw = () => drawScene($("scene"), state.scene);
new ResizeObserver(redraw).observe($("scene"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

start();

// The settings: which fields the chosen model can use, their values, and drafts of them.

import { get } from "./api.js";
import { $, $$, h, put, say, store, stored, t, tell } from "./dom.js";

// Fields below "More settings": kind of input, and its bounds.
const MORE = {
  size: { kind: "select" },
  steps: { kind: "number", min: 1, max: 1000, step: 1 },
  guidance: { kind: "number", min: 0, max: 30, step: 0.5 },
  guidance_rescale: { kind: "number", min: 0, max: 1, step: 0.1 },
  sampler: { kind: "select" },
  spacing: { kind: "select" },
  eta: { kind: "number", min: 0, max: 1, step: 0.1 },
  temperature: { kind: "number", min: 0, max: 100, step: 0.1 },
  top_k: { kind: "number", min: 1, max: 100000, step: 1 },
  top_p: { kind: "number", min: 0.01, max: 1, step: 0.05 },
  label: { kind: "select" },
  best_of: { kind: "number", min: 1, max: 64, step: 1 },
  upscale: { kind: "select" },
  format: { kind: "select" },
  language: { kind: "select" },
  expand: { kind: "checkbox" },
  plan: { kind: "select" },
};
const PLANS = ["words", "layout", "all", "none"];
const SPACINGS = ["uniform", "quadratic", "beta", "kl-optimal", "karras", "exponential"];
const NEEDS = {
  language: "prompt", expand: "prompt", plan: "control", mask_mode: "mask",
  guidance_rescale: "sampler", eta: "sampler", spacing: "sampler",
};
// What a model can do, by its capabilities.
const SKILLS = {
  draw: ({ kinds }) => kinds.includes("image"),
  video: ({ kinds }) => kinds.includes("video"),
  edit: ({ uses }) => uses.includes("image"),
  mask: ({ uses }) => uses.includes("mask"),
  control: ({ uses }) => uses.includes("control"),
  larger: ({ tiles }) => tiles !== null,
};
const ALWAYS = ["best_of", "upscale", "format", "n", "seed", "model"];
const WHOLE = ["n", "steps", "top_k", "best_of", "upscale", "fps"];
const NUMBERS = [...WHOLE, "guidance", "guidance_rescale", "eta", "temperature", "top_p",
  "strength",
  "seconds", "extend"];
export const FIELDS = ["prompt", "negative_prompt", "model", "n", "seed", "strength", "seconds",
  "fps",
  "camera", "extend", ...Object.keys(MORE)];
const LARGEST_RANDOM = 1e9; // random seeds have at most 9 digits, so that they can be typed again

export let limits = { max_prompt: 32000, max_n: 64, max_input_pixels: 4e7, max_body: 64 << 20,
  search: false };
export let models = [];
const known = new Map(); // capabilities by model
export let capabilities = null; // of the chosen model
let mode = "draw";

const input = (name) => $(`#settings [name="${name}"]`);

export function build() {
  const place = $("#more-fields");
  for (const [name, about] of Object.entries(MORE)) {
    const { kind, ...bounds } = about;
    const id = { id: name, name };
    const control = kind === "select"
      ? h("select", id)
      : h("input", { ...id, ...bounds, type: kind, ...(kind === "number" ? { step: "any" } : {}) });
    const label = h("label", { for: name, "data-t": `f_${name}` });
    const reason = h("p", { class: "note reason", "data-reason": name });
    const parts = kind === "checkbox" ? [h("div", { class: "check" }, control, label)]
      : [label, control];
    place.append(h("div", { class: "field", "data-field": name }, ...parts, reason));
  }
  $("#settings").addEventListener("input", changed);
  input("model").addEventListener("change", () => choose(input("model").value));
  $("#dice").addEventListener("click", () => {
    input("seed").value = randomSeed();
    changed();
  });
  $("#lock").addEventListener("click", () => {
    lock($("#lock").getAttribute("aria-pressed") !== "true");
    if (isLocked() && !input("seed").value) input("seed").value = randomSeed();
    changed();
  });
  input("seed").addEventListener("input", () => lock(input("seed").value !== ""));
  $("#reset").addEventListener("click", reset);
  document.addEventListener("language", () => capabilities && show());
}

export const randomSeed = () => String(Math.floor(Math.random() * LARGEST_RANDOM));
const isLocked = () => $("#lock").getAttribute("aria-pressed") === "true";
const lock = (on) => $("#lock").setAttribute("aria-pressed", String(on));

// ------------------------------------------------------------------------------------- models

export async function load() {
  const [list, bounds] = await Promise.all([get("/v1/models"), get("/v1/limits")]);
  limits = bounds;
  models = list.data.filter((each) => each.kinds.includes("image") || each.kinds.includes("video"));
  input("n").max = limits.max_n;
  restoreDraft();
  await enter(mode);
}

export const able = (each, wanted) =>
  each.kinds.includes(wanted === "video" ? "video" : "image");

// Shows the models and fields of a tab.
export async function enter(wanted) {
  mode = wanted;
  const fitting = models.filter((each) => able(each, mode));
  const chosen = input("model").value || stored("draft")?.model;
  input("model").replaceChildren(...fitting.map((each) =>
    h("option", { value: each.id }, each.id)));
  const first = fitting.find((each) => each.id === chosen)
    ?? fitting.find((each) => each.id === "default") ?? fitting[0];
  $("#go").disabled = !first;
  if (!first) {
    capabilities = null;
    put($("#model-note"), mode === "video" ? "no_video_model" : "no_model");
    return;
  }
  await choose(first.id);
}

export async function capabilitiesOf(name) {
  if (!known.has(name)) known.set(name, get(`/v1/models/${encodeURIComponent(name)}/capabilities`));
  try {
    return await known.get(name);
  } catch (error) {
    known.delete(name);
    throw error;
  }
}

let choosing = 0;
async function choose(name) {
  const mine = ++choosing;
  input("model").value = name;
  put($("#model-note"), "loading_model", { model: name });
  const found = await capabilitiesOf(name);
  if (mine !== choosing) return; // another model was chosen meanwhile
  capabilities = found;
  show();
  document.dispatchEvent(new CustomEvent("model"));
  changed();
}

// The reason for which the model cannot use a field, as a key of the strings; null if it can.
export function refusal(name, able = capabilities) {
  if (!able || ALWAYS.includes(name)) return null;
  if (mode === "compare" && able === capabilities) return null; // each model takes what it can use
  if (name === "label" && !able.labels.length) return "no_such_setting";
  if (name === "strength" && able.kinds.includes("video")
    && !able.uses.includes("video")) return "no_such_setting";
  return able.uses.includes(NEEDS[name] ?? name) ? null : "no_such_setting";
}

function show() {
  const { defaults } = capabilities;
  const about = models.find((each) => each.id === capabilities.id);
  const languages = capabilities.languages.map((each) => t(`language_${each}`)).join(", ");
  const skills = Object.keys(SKILLS).filter((each) => SKILLS[each](capabilities));
  put($("#model-note"), "model_about", {
    family: capabilities.family,
    million: about?.parameters ? (about.parameters / 1e6).toFixed(1) : "?",
    languages,
    skills: skills.map((each) => t(`can_${each}`)).join(", "),
  });
  options("size", sizes(), capabilities.sizes[0]);
  options("sampler", capabilities.samplers, defaults.sampler);
  options("spacing", SPACINGS, defaults.spacing);
  options("format", capabilities.formats, capabilities.formats[0]);
  options("label", capabilities.labels, null);
  options("camera", capabilities.cameras, null);
  options("language", capabilities.languages, "auto", (each) => t(`language_${each}`));
  options("plan", PLANS, "words", (each) => t(`plan_${each}`));
  options("upscale", capabilities.kinds.includes("video") ? [] : ["2", "4"], "1",
    (each) => `${each}×`);
  for (const name of NUMBERS) {
    if (input(name)) input(name).placeholder = defaults[name] ?? "";
  }
  input("n").placeholder = "1";
  input("best_of").placeholder = "1";
  for (const field of $$("[data-field]")) disable(field, field.dataset.field);
}

// Larger sizes for a model that can draw in windows.
function sizes() {
  const more = capabilities.tiles ? ["256x128", "128x256", "256x256", "384x128"] : [];
  const [w, h] = capabilities.sizes[0].split("x").map(Number);
  const fits = more.filter((each) => {
    const [a, b] = each.split("x").map(Number);
    return a >= w && b >= h && a % capabilities.tiles === 0 && b % capabilities.tiles === 0;
  });
  return [...new Set([...capabilities.sizes, ...fits])];
}

function options(name, values, usual, label = (each) => each) {
  const select = input(name);
  const chosen = select.value;
  const first = usual
    ? h("option", { value: "", "data-t": "usual", values: { value: label(usual) } })
    : h("option", { value: "", "data-t": "none" });
  const rest = values.filter((each) => each !== usual);
  select.replaceChildren(first, ...rest.map((each) => h("option", { value: each }, label(each))));
  if (rest.includes(chosen)) select.value = chosen;
  else if (chosen && chosen !== usual) tell("value_dropped",
    { name: t(`f_${name}`), value: chosen });
}

function disable(field, name) {
  const why = refusal(name);
  const reason = $(`[data-reason="${name}"]`, field);
  for (const control of $$("input, select, textarea, button", field)) {
    control.disabled = Boolean(why);
    if (reason) {
      reason.id ||= `reason-${name}`;
      control.setAttribute("aria-describedby", reason.id);
    }
  }
  field.classList.toggle("off", Boolean(why));
  if (reason) put(reason, why, { model: capabilities.id });
}

// ------------------------------------------------------------------------------------- values

// The fields that are set and that the model can use; those that belong to the tab.
export function read({ all = false } = {}) {
  const fields = {};
  for (const name of FIELDS) {
    const control = input(name);
    if (!control) continue;
    const value = control.type === "checkbox" ? control.checked : control.value.trim();
    if (value === "" || value === false) continue;
    if (!all && (control.disabled || !belongs(control) || refusal(name))) continue;
    fields[name] = NUMBERS.includes(name) ? Number(value) : value;
  }
  return fields;
}

function belongs(control) {
  const only = control.closest("[data-only]");
  return !only || only.dataset.only.split(" ").includes(mode);
}

// The fields of a request, with a seed: that of the form if it is locked, else a new one.
export function request() {
  if (!isLocked()) input("seed").value = randomSeed();
  const fields = read();
  if (!/^\d{1,19}$/.test(fields.seed ?? "0")) delete fields.seed;
  return fields;
}

// Puts settings into the form; those that are left out are emptied.
export async function write(settings) {
  for (const name of FIELDS) {
    const control = input(name);
    if (!control || name === "model") continue;
    const value = settings[name] ?? (name === "n" ? 1 : "");
    if (control.type === "checkbox") control.checked = value === true;
    else fill(control, String(value));
  }
  lock(settings.seed !== undefined);
  const model = models.find((each) => each.id === settings.model);
  if (model && able(model, mode)) await choose(model.id);
  changed();
}

function fill(control, value) {
  if (control.tagName === "SELECT" && value
    && ![...control.options].some((o) => o.value === value)) {
    if (control.options[0]?.textContent.includes(value)) value = ""; // the model's own value
    else control.append(h("option", { value }, value));
  }
  control.value = value;
}

function reset() {
  const prompt = input("prompt").value;
  write({ prompt }).catch(() => {});
  lock(false);
  changed();
}

// -------------------------------------------------------------------------------------- drafts

function changed() {
  const fields = read({ all: true });
  store("draft", { ...fields, locked: isLocked() });
  const { length } = [...(fields.prompt ?? "")];
  const note = $("#prompt-note");
  const long = length > limits.max_prompt;
  input("prompt").setAttribute("aria-invalid", String(long));
  note.classList.toggle("error", long);
  put(note, long ? "prompt_too_long" : length > 1000 ? "prompt_length" : null,
    { n: length.toLocaleString(), most: limits.max_prompt.toLocaleString() });
  document.dispatchEvent(new CustomEvent("settings"));
}

function restoreDraft() {
  const draft = stored("draft");
  if (!draft) return;
  for (const name of FIELDS) {
    const control = input(name);
    if (!control || name === "model" || draft[name] === undefined) continue;
    if (control.type === "checkbox") control.checked = draft[name] === true;
    else fill(control, String(draft[name]));
  }
  lock(draft.locked === true);
  if (!draft.locked) input("seed").value = "";
}

export const promptIsFine = () => [...input("prompt").value].length <= limits.max_prompt;
export const fieldLabel = (name) =>
  say(name === "prompt" ? "prompt" : name === "model" ? "model" : name === "seed" ? "seed"
  : `f_${name}`);

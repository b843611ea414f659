// The edit tab: a picture with a mask that is painted or given by numbers, and control maps.

import { post } from "./api.js";
import { $, alertUser, h, put, t } from "./dom.js";
import { keep, kept, soon } from "./drafts.js";
import { capabilities, refusal } from "./form.js";
import { blobOf, Slot } from "./slots.js";

const OVERLAY = "rgba(120, 80, 255, 0.55)";
const MOST_UNDO = 20;
const SIDES = ["left", "top", "right", "bottom"];
let slot;
let mask = null; // a canvas of the size of the picture: opaque where it is drawn anew
let undo = [];
let painted = false;
const OF_PICTURES = ["edges", "outlines", "depth", "pose"]; // kinds the server makes
let maps = []; // {slot, kind, strength, element}
const changed = soon(() => keep("edit", {
  image: slot.value?.url, mask: painted ? maskUrl() : null, outpaint: widened(),
  maps: maps.map((each) => ({ kind: each.kind.value, strength: each.strength.value,
    image: each.slot.value?.url })),
}));

export function start() {
  slot = new Slot("image", "picture", { changed: pictureChanged });
  $("#edit-slot").append(slot.element);
  const canvas = $("#mask");
  canvas.addEventListener("pointerdown", paint);
  $("#erase").addEventListener("click", (event) => press(event.currentTarget));
  $("#undo-mask").addEventListener("click", () => {
    if (undo.length) restore(undo.pop());
  });
  $("#invert-mask").addEventListener("click", () => change((context, { width, height }) => {
    context.globalCompositeOperation = "xor";
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "source-over";
  }));
  $("#clear-mask").addEventListener("click", () => change((context, { width, height }) =>
    context.clearRect(0, 0, width, height)));
  $("#add-rect").addEventListener("click", () => {
    const [x, y, w, high] = ["x", "y", "w",
      "h"].map((each) => Number($(`#rect-${each}`).value) || 0);
    change((context) => context.fillRect(x, y, w, high));
  });
  $("#widen").addEventListener("input", changed);
  $("#add-control").addEventListener("click", () => addMap());
  document.addEventListener("language", () => mask && state());
  document.addEventListener("model", showKinds);
}

const press = (button) =>
  button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));

// --------------------------------------------------------------------------------------- mask

function pictureChanged(value) {
  changed();
  $("#mask-tools").hidden = $("#widen").hidden = !value;
  undo = [];
  mask = value && h("canvas", { width: value.width, height: value.height });
  mask?.getContext("2d", { willReadFrequently: true });
  painted = false;
  put($("#mask-state"), null);
  if (!value) return;
  const canvas = $("#mask");
  canvas.width = value.width;
  canvas.height = value.height;
  for (const [name, side] of [["x", value.width], ["w", value.width], ["y", value.height],
    ["h", value.height]]) {
    $(`#rect-${name}`).max = side;
  }
  $("#rect-w").value = Math.ceil(value.width / 2);
  $("#rect-h").value = Math.ceil(value.height / 2);
  draw();
}

function draw() {
  const canvas = $("#mask");
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.drawImage(slot.value.image, 0, 0, canvas.width, canvas.height);
  const tint = h("canvas", { width: mask.width, height: mask.height });
  const tinted = tint.getContext("2d");
  tinted.drawImage(mask, 0, 0);
  tinted.globalCompositeOperation = "source-in";
  tinted.fillStyle = OVERLAY;
  tinted.fillRect(0, 0, tint.width, tint.height);
  context.drawImage(tint, 0, 0);
}

// The share of the picture that the mask covers.
function covered() {
  const { data } = mask.getContext("2d").getImageData(0, 0, mask.width, mask.height);
  let count = 0;
  for (let k = 3; k < data.length; k += 4) if (data[k] > 127) count += 1;
  return count / (mask.width * mask.height);
}

function state() {
  const share = covered();
  changed();
  painted = share > 0;
  put($("#mask-state"), painted ? "mask_covers" : "mask_empty",
    { percent: (100 * share).toFixed(share < 0.1 ? 1 : 0) });
}

function snapshot() {
  undo.push(mask.getContext("2d").getImageData(0, 0, mask.width, mask.height));
  if (undo.length > MOST_UNDO) undo.shift();
}

function restore(pixels) {
  mask.getContext("2d").putImageData(pixels, 0, 0);
  draw();
  state();
}

function change(action) {
  snapshot();
  action(mask.getContext("2d"), mask);
  draw();
  state();
}

function paint(event) {
  const canvas = event.currentTarget;
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  snapshot();
  const context = mask.getContext("2d");
  const at = (each) => {
    const box = canvas.getBoundingClientRect();
    return [((each.clientX - box.left) * mask.width) / box.width,
      ((each.clientY - box.top) * mask.height) / box.height];
  };
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = (Number($("#brush").value) / 100) * Math.min(mask.width, mask.height) * 0.8;
  const erase = $("#erase").getAttribute("aria-pressed") === "true";
  context.globalCompositeOperation = erase ? "destination-out" : "source-over";
  let [x, y] = at(event);
  const line = (to) => {
    context.beginPath();
    context.moveTo(x, y);
    [x, y] = at(to);
    context.lineTo(x + 0.01, y);
    context.stroke();
    draw();
  };
  line(event);
  canvas.onpointermove = line;
  canvas.onpointerup = canvas.onpointercancel = () => {
    canvas.onpointermove = canvas.onpointerup = canvas.onpointercancel = null;
    context.globalCompositeOperation = "source-over";
    state();
  };
}

// The mask as a PNG, white where it is drawn anew.
function maskUrl() {
  const out = h("canvas", { width: mask.width, height: mask.height });
  const context = out.getContext("2d");
  const white = h("canvas", { width: mask.width, height: mask.height });
  const over = white.getContext("2d");
  over.drawImage(mask, 0, 0);
  over.globalCompositeOperation = "source-in";
  over.fillStyle = "#fff";
  over.fillRect(0, 0, white.width, white.height);
  context.fillStyle = "#000";
  context.fillRect(0, 0, out.width, out.height);
  context.drawImage(white, 0, 0);
  return out.toDataURL("image/png");
}

// A mask from a picture, white where it is drawn anew.
async function setMask(blob) {
  const image = await createImageBitmap(blob);
  const context = mask.getContext("2d");
  context.drawImage(image, 0, 0, mask.width, mask.height);
  const pixels = context.getImageData(0, 0, mask.width, mask.height);
  const transparent = pixels.data.some((value, k) => k % 4 === 3 && value < 255);
  for (let k = 0; k < pixels.data.length; k += 4) {
    pixels.data[k + 3] = transparent ? 255 - pixels.data[k + 3] : pixels.data[k];
  }
  restore(pixels);
}

// The margins by which the picture is widened, or null.
function widened() {
  const found = SIDES.map((side) => [side, Number($(`#widen-${side}`).value) || 0])
    .filter(([, pixels]) => pixels > 0);
  return found.length ? Object.fromEntries(found) : null;
}

function setWidened(margins) {
  for (const side of SIDES) $(`#widen-${side}`).value = margins?.[side] || "";
  if (margins) $("#widen").open = true;
}

// ---------------------------------------------------------------------------------------- maps

function addMap(kind, strength = 1) {
  if (maps.length >= 8) return null;
  const id = `map-${Date.now() % 1e6}-${maps.length}`;
  const entry = {};
  const select = h("select", { id: `${id}-kind`, onchange: changed });
  const weight = h("input",
    { id: `${id}-strength`, type: "number", min: 0, max: 2, step: 0.1, value: strength,
      oninput: changed });
  entry.slot = new Slot(id, "map", { changed, extra: [
    h("button", { type: "button", "data-t": "map_of",
      onclick: () => make(entry, OF_PICTURES.includes(select.value) ? select.value : "edges") }),
    h("button", { type: "button", "data-t": "glyphs_of", onclick: () => make(entry, "glyphs") }),
    h("button", { type: "button", "data-t": "boxes_of", onclick: () => make(entry, "boxes") }),
  ] });
  entry.slot.element.removeAttribute("data-field");
  Object.assign(entry, { kind: select, strength: weight });
  entry.element = h("div", { class: "map" },
    h("div", { class: "pair" },
      h("div", { class: "field" }, h("label", { for: select.id, "data-t": "map_kind" }), select),
      h("div", { class: "field" }, h("label", { for: weight.id, "data-t": "map_strength" }),
        weight)),
    entry.slot.element,
    h("button", { type: "button", "data-t": "remove_map", onclick: () => {
      maps = maps.filter((each) => each !== entry);
      entry.element.remove();
      changed();
      $("#add-control").focus();
    } }));
  maps.push(entry);
  $("#controls").append(entry.element);
  showKinds();
  const used = maps.map((each) => each.kind.value);
  select.value = kind ?? capabilities?.controls.find((each) => !used.slice(0, -1).includes(each))
    ?? "edges";
  changed();
  return entry;
}

function showKinds() {
  const kinds = capabilities?.controls.length ? capabilities.controls : ["edges"];
  for (const { kind } of maps) {
    const { value } = kind;
    kind.replaceChildren(...kinds.map((each) =>
      h("option", { value: each, "data-t": `map_${each}` })));
    if (kinds.includes(value)) kind.value = value;
  }
}

// Makes a map on the server: of the slot's picture or the edited one, or of the prompt.
async function make(entry, kind) {
  const image = entry.slot.value?.url ?? slot.value?.url;
  try {
    const ofPrompt = ["boxes", "glyphs"].includes(kind);
    if (!ofPrompt && !image) throw new Error(t("map_needs_picture"));
    const fields = !ofPrompt ? { kind, image } : {
      kind, prompt: $("#prompt").value, seed: Number($("#seed").value) || 0,
      side: Number(capabilities.sizes[0].split("x")[0]),
    };
    const answer = await post("/v1/maps", fields);
    await entry.slot.setUrl(answer.image);
    if ([...entry.kind.options].some((each) => each.value === kind)) entry.kind.value = kind;
  } catch (error) {
    alertUser(error);
  }
}

// ------------------------------------------------------------------------------ for the request

// The pictures of the request. Raises an Error if there is nothing to edit.
export function read() {
  const fields = {};
  if (slot.value && !refusal("image")) {
    fields.image = slot.value.url;
    const margins = widened();
    if (painted && !refusal("mask")) fields.mask = maskUrl();
    if (margins && fields.mask) throw new Error(t("outpaint_or_mask"));
    if (margins && !refusal("outpaint")) fields.outpaint = margins;
  }
  const used = maps.filter((each) => each.slot.value);
  if (used.length && !refusal("control")) {
    fields.control = used.map((each) => ({
      kind: each.kind.value, image: each.slot.value.url, strength: Number(each.strength.value || 1),
    }));
  }
  if (!fields.image && !fields.control) throw new Error(t("nothing_to_edit"));
  return fields;
}

export const setPicture = (blob) => slot.set(blob);

// Puts the pictures of a job's request back.
export async function write(request, input) {
  slot.clear();
  for (const each of [...maps]) each.element.remove();
  maps = [];
  painted = false;
  if (request.image) await slot.set(await input(request.image));
  setWidened(request.outpaint);
  if (request.mask && slot.value) await setMask(await input(request.mask));
  for (const each of request.control ?? []) {
    const entry = addMap(each.kind, each.strength ?? 1);
    if (entry) await entry.slot.set(await input(each.image));
  }
}

// Puts back the picture, the mask and the maps of before the page was loaded again.
export async function restoreDraft() {
  const draft = await kept("edit");
  if (draft?.image && await slot.setUrl(draft.image) && draft.mask) {
    await setMask(blobOf(draft.mask));
  }
  setWidened(draft?.outpaint);
  for (const each of draft?.maps ?? []) {
    const entry = addMap(each.kind, each.strength);
    if (entry && each.image) await entry.slot.setUrl(each.image);
  }
}

export const hasPicture = () => Boolean(slot.value);

// Cards of jobs: state, progress with preview, outputs; and the queue.

import { local } from "./api.js";
import { $, alertUser, announce, explain, h, icon, put, say, seconds, shortened, t } from "./dom.js";
import { bus, cancel, isOpen, jobs, listed, previews, refreshed, remove, retry } from "./jobs.js";
import { open } from "./viewer.js";

const SHOWN = 24; // cards on the page; the gallery has the others
const cards = new Map(); // id: {element, state}

export const isVideo = (file) => /\.(mp4|webm)$/.test(file);

// A finished picture or video of a job, as an element. It is asked for again when its link is old.
export function picture(job, output, attributes = {}) {
  const [width, height] = (job.size ?? "128x128").split("x");
  const source = local(output.url);
  const alt = t("picture_of", { prompt: shortened(job.request.prompt ?? "") , seed: output.seed });
  const size = { width, height, ...attributes };
  const element = isVideo(output.file)
    ? h("video", { src: source, muted: true, loop: true, playsinline: true, preload: "metadata",
      "aria-label": alt, ...size })
    : h("img", { src: source, alt, loading: "lazy", decoding: "async", ...size });
  if (isVideo(output.file) && !matchMedia("(prefers-reduced-motion: reduce)").matches) {
    element.addEventListener("pointerenter", () => element.play().catch(() => {}));
    element.addEventListener("pointerleave", () => element.pause());
  }
  let again = false;
  element.addEventListener("error", async () => {
    if (again) return element.classList.add("broken");
    again = true;
    const fresh = await refreshed(job.id).catch(() => null);
    const same = fresh?.outputs.find((each) => each.file === output.file);
    if (same) element.src = local(same.url);
    else element.classList.add("broken");
  });
  return element;
}

// A button that shows an output large.
export function tile(job, output, list) {
  return h("button", {
    type: "button", class: "tile", "data-file": output.file,
    "data-t-label": "show_large",
      values: { prompt: shortened(job.request.prompt ?? "", 60), seed: output.seed },
    onclick: () => open(job.id, output.file, list?.()),
  }, picture(job, output), output.starred ? h("span", { class: "starred" }, icon("star")) : null);
}

// ---------------------------------------------------------------------------------- one card

export function card(job) {
  const element = h("article", { class: "card", id: `job-${job.id}`, "data-id": job.id });
  const entry = { element, key: "" };
  fill(entry, job);
  return entry;
}

function fill(entry, job) {
  const key = [job.state, job.outputs.map((each) => each.file + each.starred), job.error].join();
  if (key !== entry.key) {
    entry.key = key;
    build(entry.element, job);
  }
  const { element } = entry;
  const bar = $("progress", element);
  if (bar) {
    bar.value = job.progress;
    bar.setAttribute("aria-label", t("progress_of", { percent: Math.round(job.progress * 100) }));
    put($(".card-state", element), ...state(job));
  }
  const image = $(".preview img", element);
  const preview = previews.get(job.id);
  if (image && preview && image.src !== preview) {
    image.src = preview;
    image.parentElement.classList.add("has-preview");
  }
}

function state(job) {
  if (job.state === "queued") {
    const values = { position: (job.position ?? 0) + 1,
      eta: job.eta === null ? "" : `· ${seconds(job.eta)}` };
    return ["state_queued", values];
  }
  if (job.state === "running") {
    const percent = Math.round(job.progress * 100);
    return job.eta === null ? ["state_running", { percent }]
      : ["state_running_eta", { percent, eta: seconds(job.eta) }];
  }
  return [`state_${job.state}`, {}];
}

function build(element, job) {
  const running = isOpen(job);
  const prompt = job.request.prompt || job.request.label || "";
  const [width, height] = (job.size ?? "128x128").split("x").map(Number);
  const list = () => job.outputs.map((output) => ({ id: job.id, file: output.file }));
  const outputs = job.outputs.map((output) => tile(job, output, list));
  if (running) {
    const frame = h("div", { class: "preview" },
      h("img", { alt: t("preview"), width, height, src: previews.get(job.id) ?? EMPTY }));
    if (previews.has(job.id)) frame.classList.add("has-preview");
    outputs.push(frame);
  }
  const time = job.finished_at && job.started_at ? seconds(job.finished_at - job.started_at) : "";
  element.className = `card ${job.state}`;
  element.setAttribute("aria-busy", String(running));
  element.replaceChildren(
    h("header", {},
      h("p", { class: "card-prompt", dir: "auto" }, shortened(prompt, 160)),
      h("p", { class: "note" }, h("span", {}, job.request.model ?? ""), " · ",
        say("seed_is", { seed: job.request.seed ?? (job.request.seeds ?? []).join(", ") }),
        time ? ` · ${time}` : "")),
    h("div", { class: "outputs" }, outputs),
    ...running ? [h("progress", { max: 1, value: job.progress })] : [],
    ...job.error ? [h("p", { class: "error" }, explain(job.error, "generation_failed"))] : [],
    ...job.warnings.map((each) => h("p", { class: "note warning", lang: "en", dir: "auto" }, each)),
    h("footer", {},
      h("span", { class: "card-state" }),
      running ? button("cancel", () => cancel(job.id)) : null,
      ["failed", "cancelled"].includes(job.state) ? button("retry", () => retry(job.id)) : null,
      running || job.outputs.length ? null : button("delete", () => remove(job.id))));
  put($(".card-state", element), ...(job.state === "done" ? [null] : state(job)));
}

const EMPTY = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==";

function button(key, action) {
  return h("button", { type: "button", "data-t": key, onclick: () => action().catch(alertUser) });
}

// ----------------------------------------------------------------------------------- all cards

export function start() {
  bus.addEventListener("job", ({ detail }) => update(detail));
  bus.addEventListener("preview", ({ detail }) => jobs.has(detail) && update(jobs.get(detail)));
  bus.addEventListener("deleted", ({ detail }) => {
    cards.get(detail)?.element.remove();
    cards.delete(detail);
    empty();
  });
  document.addEventListener("language", () => {
    for (const [id, entry] of cards) {
      entry.key = "";
      fill(entry, jobs.get(id));
    }
    empty();
  });
}

export async function loadRecent() {
  await listed(`limit=${SHOWN}`);
  empty();
}

function empty() {
  const place = $("#jobs");
  const note = $(".empty", place);
  if (cards.size && note) note.remove();
  if (!cards.size && !note) {
    place.append(h("div", { class: "empty" }, icon("mark"), say("empty_title", {}, "h2"),
      say("empty", {}, "p")));
  }
}

function update(job) {
  const entry = cards.get(job.id);
  if (entry) {
    const was = entry.state;
    entry.state = job.state;
    fill(entry, job);
    tellState(job, was);
    return;
  }
  const made = card(job);
  made.state = job.state;
  cards.set(job.id, made);
  const place = $("#jobs");
  const older = [...place.children].find((each) => {
    const other = jobs.get(each.dataset.id);
    return other && other.created_at < job.created_at;
  });
  place.insertBefore(made.element, older ?? null);
  const drop = [...cards.keys()].map((id) => jobs.get(id)).filter((each) => each && !isOpen(each))
    .sort((a, b) => b.created_at - a.created_at).slice(SHOWN);
  for (const { id } of drop) {
    cards.get(id).element.remove();
    cards.delete(id);
  }
  empty();
}

// Announces the start, each quarter, and the end of a job.
const quarters = new Map();
function tellState(job, was) {
  const quarter = Math.floor(job.progress * 4);
  if (job.state !== was && !isOpen(job)) {
    quarters.delete(job.id);
    announce(`told_${job.state}`, { n: job.outputs.length, error: job.error ?? "" });
  } else if (job.state === "running" && quarters.get(job.id) !== quarter) {
    quarters.set(job.id, quarter);
    if (quarter > 0 && quarter < 4) announce("told_percent", { percent: quarter * 25 });
  }
}

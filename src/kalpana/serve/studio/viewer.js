// A dialog with one output: large, with its settings and receipt, and what can be done with it.

import { fetchFile, local, post } from "./api.js";
import { $, alertUser, h, icon, say, shortened, t, tell, translate } from "./dom.js";
import { bus, jobs, refreshed, remove } from "./jobs.js";
import { isVideo } from "./results.js";

let shown = null; // {id, file, list}
export const actions = {}; // by name, set by main.js: use, edit, firstFrame, extend, similar

export async function open(id, file, list = []) {
  shown = { id, file, list: list.length ? list : [{ id, file }] };
  const dialog = $("#viewer");
  render(dialog);
  if (!dialog.open) dialog.showModal();
}

export function start() {
  const dialog = $("#viewer");
  dialog.addEventListener("close", () => {
    $("video", dialog)?.pause();
    dialog.replaceChildren();
    shown = null;
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.target.closest("input, textarea, pre, video")) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  document.addEventListener("language", () => shown && render(dialog));
}

function step(by) {
  const { list, file } = shown;
  const k = list.findIndex((each) => each.file === file);
  const next = list[k + by];
  if (next) open(next.id, next.file, list);
}

function render(dialog) {
  const job = jobs.get(shown.id);
  const output = job?.outputs.find((each) => each.file === shown.file);
  if (!output) return dialog.close();
  const { request } = job;
  const k = shown.list.findIndex((each) => each.file === output.file);
  const source = local(output.url);
  const media = isVideo(output.file)
    ? h("video", { src: source, controls: true, autoplay: !still(), loop: true, muted: true,
      playsinline: true })
    : h("img", { src: source,
      alt: t("picture_of", { prompt: shortened(request.prompt ?? ""), seed: output.seed }) });
  const receipt = h("details", { ontoggle: () => receipt.open && loadReceipt(output, receipt) },
    h("summary", { "data-t": "receipt" }),
      h("pre", { class: "receipt", tabindex: 0, "data-t-label": "receipt" }));
  dialog.replaceChildren(
    h("header", { class: "viewer-top" },
      iconButton("left", "previous", () => step(-1), k <= 0),
      iconButton("right", "next", () => step(1), k >= shown.list.length - 1),
      h("span", { class: "grow" }),
      star(output),
      iconButton("close", "close", () => dialog.close())),
    h("div", { class: "viewer-body" },
      h("div", { class: "viewer-media" }, media),
      h("div", { class: "viewer-about" },
        h("h2", { id: "viewer-title", dir: "auto", class: "viewer-prompt" },
          shortened(request.prompt || request.label || t("no_prompt"), 600)),
        output.revised_prompt
          ? h("p", { class: "note", dir: "auto" }, say("expanded_to"), " ", output.revised_prompt)
          : null,
        facts(job, output),
        ...job.warnings.map((each) => h("p", { class: "note warning", lang: "en" }, each)),
        buttons(job, output, dialog), receipt)));
  translate(dialog);
}

const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

function facts(job, output) {
  const left_out = ["prompt", "seed", "seeds", "n", "format", "strict"];
  const rows = Object.entries(job.request).filter(([name, value]) => !left_out.includes(name)
    && value !== null);
  const text = (name, value) => {
    if (name === "control") return value.map((each) =>
      `${each.kind} ${each.strength ?? 1}`).join(", ");
    return typeof value === "object" ? value.name : String(value);
  };
  const row = (key, value) =>
    h("div", {}, h("dt", { "data-t": key }), h("dd", { dir: "auto" }, shortened(value, 300)));
  return h("dl", { class: "facts" },
    row("seed", String(output.seed)), row("f_size", job.size ?? ""),
    rows.map(([name, value]) => row(labelKey(name), text(name, value))));
}

const OWN = {
  prompt: "prompt", seed: "seed", model: "model", negative_prompt: "negative", image: "picture",
  mask: "mask", control: "control",
};
export const labelKey = (name) => OWN[name] ?? `f_${name}`;

function buttons(job, output, dialog) {
  const act = (key, action) => h("button", { type: "button", "data-t": key, onclick: async () => {
    try {
      await action();
    } catch (error) {
      alertUser(error);
    }
  } });
  const go = (name) => async () => {
    dialog.close();
    await actions[name](job, output);
  };
  const video = job.kind === "video";
  return h("div", { class: "row" },
    act("use_settings", go("use")),
    act("similar", go("similar")),
    video ? act("extend_this", go("extend")) : act("edit_this", go("edit")),
    video ? null : act("first_frame", go("firstFrame")),
    h("a", { class: "button", href: local(output.url), download: output.file,
      "data-t": "download" }),
    act("delete_job", async () => {
      if (!confirm(t("delete_sure", { n: job.outputs.length }))) return;
      await remove(job.id);
      dialog.close();
      tell("deleted");
    }));
}

function star(output) {
  const button = h("button", {
    type: "button", class: "icon star", "aria-pressed": String(output.starred),
      "data-t-label": "star",
    onclick: async () => {
      const starred = button.getAttribute("aria-pressed") !== "true";
      try {
        await post(`/v1/outputs/${output.file}/star`, { starred });
      } catch (error) {
        return alertUser(error);
      }
      button.setAttribute("aria-pressed", String(starred));
      await refreshed(shown?.id ?? output.file.split("-")[0]);
    },
  }, icon("star"));
  return button;
}

function iconButton(name, label, action, disabled = false) {
  return h("button", { type: "button", class: "icon", "data-t-label": label, onclick: action,
    disabled }, icon(name));
}

async function loadReceipt(output, place) {
  const pre = $("pre", place);
  if (pre.textContent) return;
  try {
    const form = new FormData();
    form.append("file", await fetchFile(local(output.url)), output.file);
    const { receipt } = await post("/v1/metadata", form);
    pre.textContent = JSON.stringify(receipt, null, 2);
  } catch (error) {
    pre.textContent = error.message;
  }
}

bus.addEventListener("deleted", ({ detail }) => shown?.id === detail && $("#viewer").close());

// The Studio: tabs, keys, drops, and what the buttons do.

import { fetchFile, local, post } from "./api.js";
import * as compareAndGrid from "./tables.js";
import { $, $$, alertUser, announce, clearAlerts, has, language, loadStrings, put, setLanguage,
  store, stored, t, tell } from "./dom.js";
import * as edit from "./edit.js";
import * as form from "./form.js";
import * as gallery from "./gallery.js";
import * as jobs from "./jobs.js";
import * as results from "./results.js";
import { filesOf } from "./slots.js";
import * as trace from "./trace.js";
import * as video from "./video.js";
import * as viewer from "./viewer.js";

const MODES = ["draw", "edit", "video", "compare", "grid", "trace", "gallery"];
const GO = { draw: "draw", edit: "draw", video: "draw", compare: "compare_go", grid: "grid_go",
  trace: "trace_go" };
let mode = "draw";

// ---------------------------------------------------------------------------------------- tabs

async function enter(wanted, focus = false) {
  mode = MODES.includes(wanted) ? wanted : "draw";
  store("mode", mode);
  history.replaceState(null, "", `#${mode}`);
  for (const tab of $$('[role="tab"]')) {
    const chosen = tab.dataset.mode === mode;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    if (chosen && focus) tab.focus();
    if (chosen) tab.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  const panel = $("#panel");
  panel.dataset.mode = mode;
  panel.setAttribute("aria-labelledby", `tab-${mode}`);
  $("#settings").hidden = mode === "gallery";
  for (const each of $$("[data-only]")) each.hidden = !each.dataset.only.split(" ").includes(mode);
  put($("#go-label"), GO[mode] ?? "draw");
  stopButton();
  if (mode === "gallery") return gallery.enter();
  await form.enter(mode);
}

function tabKeys(event) {
  const k = MODES.indexOf(event.target.dataset.mode);
  const next = {
    ArrowRight: (k + 1) % MODES.length, ArrowLeft: (k + MODES.length - 1) % MODES.length,
    Home: 0, End: MODES.length - 1,
  }[event.key];
  if (k < 0 || next === undefined) return;
  event.preventDefault();
  go(() => enter(MODES[next], true));
}

// An action whose error is shown.
async function go(action) {
  try {
    return await action();
  } catch (error) {
    if (error.name === "AbortError") return null;
    if (error.code === "offline") alertUser("offline");
    else alertUser(error);
    if (error.param) $(`#settings [name="${error.param}"]`)?.focus();
    return null;
  }
}

// ---------------------------------------------------------------------------------------- draw

async function draw() {
  clearAlerts();
  if (!form.promptIsFine()) {
    $("#prompt").focus();
    throw new Error($("#prompt-note").textContent);
  }
  const inputs = mode === "edit" ? edit.read() : mode === "video" ? video.read() : {};
  const request = { ...form.request(), ...inputs };
  if (!request.prompt && !request.label && !inputs.image && !inputs.video) {
    $("#prompt").focus();
    throw new Error(t("prompt_missing"));
  }
  if (!inputs.image && !inputs.video) delete request.strength;
  if (!inputs.video) delete request.extend;
  if (mode === "compare") await compareAndGrid.compare(request);
  else if (mode === "grid") await compareAndGrid.grid(request);
  else if (mode === "trace") await tracing(request);
  else {
    const job = await jobs.submit(request);
    if (jobs.isOpen(job)) announce("told_queued"); // else its end was told already
    const card = $(`#job-${job.id}`);
    if (matchMedia("(max-width: 800px)").matches) card?.scrollIntoView({ block: "start" });
  }
}

async function tracing(request) {
  delete request.n;
  delete request.best_of;
  const run = trace.trace(request);
  stopButton();
  try {
    await run;
  } finally {
    stopButton();
  }
}

// What Cancel and Escape stop: the trace, the jobs of the table, or the jobs of this tab.
async function cancel() {
  if (mode === "trace") return trace.stop();
  const table = mode === "compare" || mode === "grid";
  const ids = table ? compareAndGrid.openIds(mode) : jobs.ownOpen().map((each) => each.id);
  for (const id of ids) await jobs.cancel(id);
  if (ids.length) announce("told_cancelled", { n: ids.length });
  return null;
}

function stopButton() {
  const open = mode === "trace" ? trace.isRunning() : jobs.ownOpen().length > 0;
  $("#stop").hidden = !open;
}

function keys(event) {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && mode !== "gallery"
    && !$("dialog[open]")) {
    event.preventDefault();
    go(draw);
  }
  if (event.key === "Escape" && !$("dialog[open]") && !event.defaultPrevented) go(cancel);
}

// ----------------------------------------------------------------- settings of a picture or job

// Restores the settings of a file that Kalpana made.
async function restore(file) {
  const body = new FormData();
  body.append("file", file, file.name);
  const { settings, notes } = await post("/v1/metadata", body);
  const model = form.models.find((each) => each.id === settings.model);
  if (model && !form.able(model, mode)) await enter(model.kinds.includes("video") ? "video"
    : "draw");
  else if (mode === "gallery") await enter("draw");
  await form.write(settings);
  tell("restored");
  for (const { code, ...values } of notes) {
    if (has(`note_${code}`)) alertUser(`note_${code}`,
      { ...values, fields: (values.fields ?? []).join(", ") });
  }
}

const inputOf = (job) => (media) => fetchFile(`/v1/jobs/${job.id}/inputs/${media.sha256}`);

viewer.actions.use = (job, output) => go(async () => {
  const { request } = job;
  const wanted = job.kind === "video" ? "video" : request.image || request.control ? "edit"
    : "draw";
  await enter(wanted);
  await form.write({ ...request, seed: output.seed, n: 1 });
  if (wanted === "edit") await edit.write(request, inputOf(job));
  if (wanted === "video") await video.write(request, inputOf(job));
  $("#prompt").focus();
  tell("restored");
});
viewer.actions.edit = (job, output) => go(async () => {
  const blob = await fetchFile(local(output.url));
  await enter("edit");
  await edit.setPicture(blob);
  if (!$("#prompt").value) $("#prompt").value = job.request.prompt ?? "";
  $("#prompt").focus();
});
viewer.actions.firstFrame = (job, output) => go(async () => {
  const blob = await fetchFile(local(output.url));
  await enter("video");
  await video.setFirst(blob);
});
viewer.actions.extend = (job, output) => go(async () => {
  const blob = await fetchFile(local(output.url));
  await enter("video");
  await video.setVideo(blob);
  $("#extend").value ||= "1";
  $("#extend").focus();
});
viewer.actions.similar = (_, output) => go(async () => {
  await enter("gallery");
  await gallery.similar(output.file);
});

// --------------------------------------------------------------------------------------- drops

function drops() {
  let depth = 0;
  const hint = $("#drop-hint");
  const isFile = (event) => event.dataTransfer?.types.includes("Files");
  const end = () => {
    depth = 0;
    hint.hidden = true;
  };
  document.addEventListener("dragenter", (event) => {
    if (!isFile(event)) return;
    depth += 1;
    hint.hidden = false;
  });
  document.addEventListener("dragleave", () => {
    depth -= 1;
    if (depth <= 0) end();
  });
  document.addEventListener("dragover", (event) => isFile(event) && event.preventDefault());
  document.addEventListener("dropped", end);
  document.addEventListener("drop", (event) => {
    if (!isFile(event)) return;
    event.preventDefault();
    end();
    const [file] = filesOf(event.dataTransfer);
    if (file) go(() => restore(file));
  });
  document.addEventListener("paste", (event) => {
    const [file] = filesOf(event.clipboardData);
    if (!file || mode !== "edit") return;
    event.preventDefault();
    go(() => edit.setPicture(file));
  });
}

// --------------------------------------------------------------------------------------- start

function connection({ detail: up }) {
  const place = $("#connection");
  place.classList.toggle("down", !up);
  put(place, up ? null : "disconnected");
}

async function main() {
  await loadStrings();
  form.build();
  for (const part of [edit, video, results, viewer, gallery, trace]) part.start();
  setLanguage(language);
  $("#page-language").value = language;
  $("#page-language").addEventListener("change", (event) => setLanguage(event.target.value));
  for (const tab of $$('[role="tab"]')) tab.addEventListener("click",
    () => go(() => enter(tab.dataset.mode)));
  $(".tabs").addEventListener("keydown", tabKeys);
  $("#settings").addEventListener("submit", (event) => {
    event.preventDefault();
    go(draw);
  });
  $("#stop").addEventListener("click", () => go(cancel));
  $("#restore").addEventListener("change", (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file) go(() => restore(file));
  });
  document.addEventListener("keydown", keys);
  addEventListener("hashchange", () => go(() => enter(location.hash.slice(1))));
  drops();
  jobs.bus.addEventListener("connection", connection);
  jobs.bus.addEventListener("job", stopButton);
  await whenUp(() => form.load());
  compareAndGrid.showModels();
  compareAndGrid.start();
  for (const part of [edit, video]) await go(() => part.restoreDraft());
  await go(() => enter(location.hash.slice(1) || stored("mode") || "draw"));
  await go(() => results.loadRecent());
  document.documentElement.dataset.ready = "true";
  await jobs.follow();
}

// Does something that needs the server, again until it answers.
async function whenUp(action) {
  for (;;) {
    try {
      return await action();
    } catch (error) {
      if (error.status !== 0) {
        alertUser(error);
        return null;
      }
      connection({ detail: false });
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

main();

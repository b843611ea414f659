// The tabs Compare and X/Y grid: many jobs, shown as a table with legends.

import { $, $$, alertUser, announce, explain, h, put, say, seconds, shortened, store, stored,
  t } from "./dom.js";
import { able, capabilitiesOf, models, refusal } from "./form.js";
import { bus, isOpen, jobs, previews, refreshed, submit } from "./jobs.js";
import { tile } from "./results.js";
import { labelKey } from "./viewer.js";

const MOST_CELLS = 100;
const AXES = ["steps", "guidance", "seed", "sampler", "spacing", "model", "prompt",
  "negative_prompt", "size",
  "eta", "guidance_rescale", "temperature", "top_k", "top_p", "best_of"];
const tables = { compare: null, grid: null }; // {cells: [{fields, id, error}], …}

export function start() {
  for (const axis of ["x", "y"]) {
    const select = $(`#${axis}-field`);
    select.append(h("option", { value: "", "data-t": axis === "y" ? "no_rows" : "none" }),
      ...AXES.map((name) => h("option", { value: name, "data-t": labelKey(name) })));
    const saved = stored("axes") ?? { x: ["guidance", "2, 4, 8"], y: ["", ""] };
    select.value = saved[axis][0];
    $(`#${axis}-values`).value = saved[axis][1];
    for (const each of [select, $(`#${axis}-values`)]) each.addEventListener("input", axesChanged);
  }
  for (const name of Object.keys(tables)) {
    tables[name] = stored(`table.${name}`);
    if (tables[name]) reload(name);
  }
  const draw = ({ detail }) => {
    const id = detail.id ?? detail;
    for (const [name, table] of Object.entries(tables)) {
      const k = table?.cells.findIndex((each) => each.id === id) ?? -1;
      if (k >= 0) cell(name, k);
    }
  };
  for (const name of ["job", "preview", "deleted"]) bus.addEventListener(name, draw);
  document.addEventListener("language", () => Object.keys(tables).forEach(render));
  axesChanged();
}

export function showModels() {
  const chosen = stored("compared") ?? [];
  const fitting = models.filter((each) => able(each, "compare"));
  $("#compare-models").replaceChildren(...fitting.map((each) => h("label", { class: "check" },
    h("input", { type: "checkbox", value: each.id,
      checked: chosen.length ? chosen.includes(each.id) : true,
      onchange: () => store("compared", comparedModels()) }), h("span", {}, each.id))));
}

const comparedModels = () => $$("#compare-models input:checked").map((each) => each.value);

// Jobs of a table that were running when the page was left, and links that are old.
async function reload(name) {
  for (const { id } of tables[name].cells) {
    if (id && !jobs.has(id)) await refreshed(id).catch(() => null);
  }
  render(name);
}

// ------------------------------------------------------------------------------------- compare

// Draws one request by each chosen model, with the settings that it can use.
export async function compare(request) {
  const names = comparedModels();
  if (!names.length) throw new Error(t("no_models_chosen"));
  const { model: _, ...rest } = request;
  const cells = [];
  for (const name of names) {
    const abilities = await capabilitiesOf(name);
    const fields = {};
    const left = [];
    for (const [field, value] of Object.entries(rest)) {
      if (refusal(field, abilities) || unknownValue(field, value, abilities)) left.push(field);
      else fields[field] = value;
    }
    cells.push({ fields: { ...fields, model: name }, left, x: name, y: "" });
  }
  await run("compare", { prompt: request.prompt ?? "", seed: request.seed, cells, columns: names,
    rows: [""] });
}

function unknownValue(field, value, able) {
  const values = { sampler: able.samplers, size: able.sizes, format: able.formats }[field];
  return values !== undefined && !values.includes(value) && !(field === "size" && able.tiles);
}

// ---------------------------------------------------------------------------------------- grid

// The values of an axis: separated by commas (prompts by |), with ranges such as 1..5 or 2..8..2.
export function values(field, text) {
  if (!field) return [undefined];
  const apart = ["prompt", "negative_prompt"].includes(field) ? "|" : ",";
  return text.split(apart).map((each) => each.trim()).filter(Boolean).flatMap((each) => {
    const range = /^(-?[\d.]+?)\.\.(-?[\d.]+?)(?:\.\.([\d.]+))?$/.exec(each);
    if (!range || apart === "|") return [each];
    const [from, to, step] = [Number(range[1]), Number(range[2]), Number(range[3] ?? 1)];
    const count = Math.floor((to - from) / step + 1e-9) + 1;
    if (!(step > 0) || !(count > 0) || count > MOST_CELLS) return [each];
    return Array.from({ length: count }, (_, k) => String(Number((from + k * step).toFixed(6))));
  });
}

function axes() {
  return ["x", "y"].map((axis) => {
    const field = $(`#${axis}-field`).value;
    return { field, values: values(field, $(`#${axis}-values`).value) };
  });
}

function axesChanged() {
  const [x, y] = axes();
  store("axes", { x: [x.field, $("#x-values").value], y: [y.field, $("#y-values").value] });
  const count = x.values.length * y.values.length;
  $("#x-values").disabled = !x.field;
  $("#y-values").disabled = !y.field;
  put($("#grid-count"), count > MOST_CELLS ? "too_many_cells" : "cells",
    { n: count, most: MOST_CELLS });
  $("#grid-count").classList.toggle("error", count > MOST_CELLS);
}

export async function grid(request) {
  const [x, y] = axes();
  if (x.field && x.field === y.field) throw new Error(t("same_axes"));
  if (!x.values.length || !y.values.length) throw new Error(t("axis_empty"));
  if (x.values.length * y.values.length > MOST_CELLS) throw new Error(t("too_many_cells",
    { n: x.values.length * y.values.length, most: MOST_CELLS }));
  const cells = y.values.flatMap((down) => x.values.map((across) => {
    const fields = { ...request };
    if (x.field) fields[x.field] = across;
    if (y.field) fields[y.field] = down;
    return { fields, x: across, y: down };
  }));
  await run("grid", { prompt: request.prompt ?? "", seed: request.seed, cells, columns: x.values,
    rows: y.values, x: x.field, y: y.field });
}

// ----------------------------------------------------------------------------------- the table

// Submits the jobs of a table, one after another; a cell that is refused shows the reason.
async function run(name, table) {
  tables[name] = table;
  render(name);
  for (const [k, each] of table.cells.entries()) {
    if (tables[name] !== table) return; // another one was started
    try {
      each.id = (await submit({ previews: 4, ...each.fields })).id;
    } catch (error) {
      if (error.status === 0) throw error;
      each.error = { message: error.message, code: error.code, param: error.param };
    }
    store(`table.${name}`, table);
    cell(name, k);
  }
  announce("told_submitted", { n: table.cells.filter((each) => each.id).length });
}

function heading(field, value) {
  if (value === undefined || value === "") return "";
  return field ? h("span", {}, say(labelKey(field)), " ",
    h("b", { dir: "auto" }, shortened(String(value), 60))) : h("b", {}, value);
}

function render(name) {
  const table = tables[name];
  const place = $(`#${name}`);
  if (!table) {
    place.replaceChildren(h("div", { class: "empty" }, say(`${name}_empty_title`, {}, "h2"),
      say(`${name}_empty`, {}, "p")));
    return;
  }
  const rows = table.rows.map((down, r) => h("tr", {},
    table.rows.length > 1 || table.y ? h("th", { scope: "row" }, heading(table.y, down)) : null,
    table.columns.map((_, c) => h("td", { "data-cell": r * table.columns.length + c }))));
  const corner = table.rows.length > 1 || table.y ? h("td", {}) : null;
  place.replaceChildren(h("div",
    { class: "scroll", tabindex: 0, role: "region", "data-t-label": `tab_${name}` },
    h("table", { class: "results" },
      h("caption", { dir: "auto" }, shortened(table.prompt, 200), " ",
        table.seed ? h("span", { class: "note" }, say("seed_is", { seed: table.seed })) : null),
      h("thead", {}, h("tr", {}, corner,
        table.columns.map((each) => h("th", { scope: "col" }, heading(table.x, each))))),
      h("tbody", {}, rows))));
  table.cells.forEach((_, k) => cell(name, k));
}

function cell(name, k) {
  const table = tables[name];
  const place = $(`#${name} [data-cell="${k}"]`);
  const each = table.cells[k];
  const job = jobs.get(each.id);
  if (!place) return;
  const [width, height] = (job?.size ?? "128x128").split("x");
  const parts = [];
  if (each.error) {
    const { message = each.error, code, param } = each.error;
    parts.push(h("p", { class: "error" }, explain(message, code, param)));
  }
  else if (!each.id) parts.push(say("not_sent", {}, "p"));
  else if (!job) parts.push(say("was_deleted", {}, "p"));
  else if (job.outputs.length) {
    const all = () => table.cells.flatMap(({ id }) =>
      (jobs.get(id)?.outputs ?? []).map(({ file }) => ({ id, file })));
    parts.push(...job.outputs.map((output) => tile(job, output, all)));
  } else if (isOpen(job)) {
    const preview = previews.get(job.id);
    parts.push(preview ? h("img", { src: preview, alt: t("preview"), width, height, class: "live" })
      : h("div", { class: "blank" }),
      h("progress", { max: 1, value: job.progress,
        "aria-label": t("progress_of", { percent: Math.round(100 * job.progress) }) }));
  } else parts.push(h("p", { class: "error" }, job.error
    ? explain(job.error, "generation_failed") : say(`state_${job.state}`)));
  const about = [];
  if (job?.finished_at && job.started_at) about.push(seconds(job.finished_at - job.started_at));
  if (about.length) parts.push(h("p", { class: "note" }, about.join(" · ")));
  if (each.left?.length) {
    parts.push(h("p", { class: "note" }, say("left_out"), " ",
      each.left.flatMap((field, j) => [j ? ", " : "", say(labelKey(field))])));
  }
  place.replaceChildren(...parts);
}

export const openIds = (name) =>
  (tables[name]?.cells ?? []).map(({ id }) => id).filter((id) => jobs.has(id)
    && isOpen(jobs.get(id)));

// The gallery: all finished pictures and videos of this client, found by words, meaning or stars.

import { get, post } from "./api.js";
import { $, alertUser, put } from "./dom.js";
import { limits } from "./form.js";
import { bus, jobs, keep } from "./jobs.js";
import { tile } from "./results.js";

const PAGE = 60; // jobs at a time
let last = null; // the id of the last job that was listed
let hits = null; // of a search by meaning, [{id, file}]
let shown = false; // whether the gallery was filled
let listing = false; // jobs of a page that is being listed are not new
let wanted = 0; // number of the latest search

export function start() {
  $("#find").addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
  $("#starred").addEventListener("change", search);
  $("#find-by").addEventListener("change", () => $("#query").value && search());
  $("#query").addEventListener("search", search);
  $("#older").addEventListener("click", () => more().catch(alertUser));
  bus.addEventListener("job", ({ detail }) => {
    if (shown && !listing && detail.state === "done") refresh(detail);
  });
  bus.addEventListener("deleted", ({ detail }) => {
    document.querySelectorAll(`#tiles [data-job="${detail}"]`).forEach((each) => each.remove());
  });
}

export function enter() {
  const meaning = $('#find-by option[value="meaning"]');
  meaning.disabled = !limits.search;
  search();
}

function search() {
  find().catch(alertUser);
}

async function find() {
  const mine = ++wanted;
  const words = $("#query").value.trim();
  shown = true;
  if ($("#find-by").value === "meaning" && words) {
    await byMeaning({ query: words }, mine);
    return;
  }
  hits = null;
  last = null;
  $("#tiles").replaceChildren();
  await more(mine);
}

// Shows what resembles an output.
export async function similar(file) {
  shown = true;
  $("#query").value = "";
  await byMeaning({ like: file }, ++wanted);
}

async function byMeaning(fields, mine) {
  put($("#gallery-state"), "searching");
  const { data } = await post("/v1/search", { n: 60, ...fields });
  if (mine !== wanted) return;
  listing = true;
  data.forEach(({ job }) => keep(job));
  listing = false;
  const starred = $("#starred").checked;
  hits = data.map(({ job, file }) => ({ id: job.id, file }))
    .filter(({ id, file }) => !starred
      || jobs.get(id).outputs.some((each) => each.file === file && each.starred));
  $("#tiles").replaceChildren();
  hits.forEach(({ id, file }) => place(jobs.get(id), file));
  $("#older").hidden = true;
  put($("#gallery-state"), fields.like ? "similar_found" : "found", { n: hits.length });
}

async function more(mine = wanted) {
  put($("#gallery-state"), "searching");
  const query = new URLSearchParams({ limit: PAGE });
  const words = $("#query").value.trim();
  if (words) query.set("query", words);
  if ($("#starred").checked) query.set("starred", "true");
  if (last) query.set("after", last);
  const { data, has_more } = await get(`/v1/jobs?${query}`);
  if (mine !== wanted) return;
  listing = true;
  data.forEach((job) => keep(job));
  listing = false;
  last = data.at(-1)?.id ?? last;
  for (const job of data) for (const { file } of job.outputs) place(jobs.get(job.id), file);
  $("#older").hidden = !has_more;
  const n = $("#tiles").children.length;
  put($("#gallery-state"),
    n || has_more ? "found" : words || $("#starred").checked ? "found_none" : "gallery_empty",
    { n });
}

const list = () => [...document.querySelectorAll("#tiles [data-file]")].map((each) => ({
  id: each.dataset.job, file: each.dataset.file,
}));

function place(job, file) {
  const output = job?.outputs.find((each) => each.file === file);
  if (!output || ($("#starred").checked && !output.starred)) return;
  $("#tiles").append(made(job, output));
}

function made(job, output) {
  const element = tile(job, output, list);
  element.dataset.job = job.id;
  return element;
}

// A job that has finished or changed its stars.
function refresh(job) {
  for (const output of job.outputs) {
    const old = $(`#tiles [data-file="${output.file}"]`);
    if (old) {
      if ($("#starred").checked && !output.starred) old.remove();
      else if ($(".starred", old) === null ? output.starred
        : !output.starred) old.replaceWith(made(job, output));
    } else if (hits === null && !$("#query").value.trim() && !$("#starred").checked
      && newest(job)) {
      $("#tiles").prepend(made(job, output));
    }
  }
}

function newest(job) {
  const first = $("#tiles [data-job]");
  return !first || (jobs.get(first.dataset.job)?.created_at ?? 0) <= job.created_at;
}


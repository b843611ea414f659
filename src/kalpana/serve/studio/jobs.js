// The jobs of this client: one stream of events from the server, which is opened again whenever it
// breaks. Nothing is lost meanwhile: jobs live on the server.

import { ApiError, events, get, post, remove as erase } from "./api.js";

export const jobs = new Map(); // id: job
export const previews = new Map(); // id: data URL of the latest preview
export const bus = new EventTarget(); // job, preview, deleted, connection

const OPEN = ["queued", "running"];
const FIRST_WAIT = 500; // milliseconds until a broken stream is opened again, doubled each time
const LONGEST_WAIT = 8000;
const SILENCE = 40_000; // milliseconds without an event after which a stream counts as broken
export const isOpen = (job) => OPEN.includes(job.state);
export const openJobs = () => [...jobs.values()].filter(isOpen);

const MINE = "kalpana.mine"; // in sessionStorage: ids of the jobs that this tab has started
const mine = new Set(session() ?? []);
export const ownOpen = () => openJobs().filter(({ id }) => mine.has(id));

function session(value) {
  try {
    if (value) sessionStorage.setItem(MINE, JSON.stringify(value));
    return JSON.parse(sessionStorage.getItem(MINE));
  } catch {
    return null;
  }
}

const emit = (name, detail) => bus.dispatchEvent(new CustomEvent(name, { detail }));

export function keep(job) {
  const before = jobs.get(job.id);
  if (before?.state === "done" && isOpen(job)) return before; // an older answer came late
  jobs.set(job.id, job);
  if (!isOpen(job)) previews.delete(job.id);
  emit("job", job);
  return job;
}

function forget(id) {
  jobs.delete(id);
  previews.delete(id);
  emit("deleted", id);
}

export async function submit(fields) {
  const job = await post("/v1/jobs", { previews: 12, ...fields });
  mine.add(job.id);
  session([...mine].slice(-500));
  return keep(job);
}

export async function cancel(id) {
  keep(await post(`/v1/jobs/${id}/cancel`));
}

export async function retry(id) {
  keep(await post(`/v1/jobs/${id}/retry`));
}

export async function remove(id) {
  await erase(`/v1/jobs/${id}`);
  forget(id);
}

// A job by its id, asked for again; null if it was deleted.
export async function refreshed(id) {
  try {
    return keep(await get(`/v1/jobs/${id}`));
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) {
      forget(id);
      return null;
    }
    throw error;
  }
}

export async function listed(query = "") {
  const page = await get(`/v1/jobs?${query}`);
  page.data.forEach((job) => keep(job));
  return page;
}

// The job once it has ended; null if it was deleted.
export function ended(id) {
  return new Promise((resolve) => {
    const look = () => {
      const job = jobs.get(id);
      if (job && isOpen(job)) return;
      bus.removeEventListener("job", look);
      bus.removeEventListener("deleted", look);
      resolve(job ?? null);
    };
    bus.addEventListener("job", look);
    bus.addEventListener("deleted", look);
    look();
  });
}

// Follows the jobs for ever.
export async function follow() {
  let wait = FIRST_WAIT;
  for (;;) {
    const stop = new AbortController();
    const hide = () => document.hidden && stop.abort();
    document.addEventListener("visibilitychange", hide); // browsers open few connections at a time
    let watchdog = setTimeout(() => stop.abort(), SILENCE);
    try {
      const seen = new Set();
      for await (const { name, data } of events("GET", "/v1/jobs/events", undefined, stop.signal)) {
        wait = FIRST_WAIT;
        clearTimeout(watchdog);
        watchdog = setTimeout(() => stop.abort(), SILENCE);
        if (name === "job") {
          seen.add(data.id);
          keep(data);
        } else if (name === "preview") {
          previews.set(data.id, `data:image/png;base64,${data.b64_json}`);
          emit("preview", data.id);
        } else if (name === "deleted") {
          forget(data.id);
        } else if (name === "ready") {
          emit("connection", true);
          for (const job of openJobs()) if (!seen.has(job.id)) await refreshed(job.id);
        }
      }
    } catch (error) {
      if (error.name !== "AbortError" && !(error instanceof ApiError)) {
        if (!(error instanceof TypeError)) throw error; // TypeError: the connection broke
      }
    } finally {
      clearTimeout(watchdog);
      document.removeEventListener("visibilitychange", hide);
      stop.abort();
    }
    if (document.hidden) {
      await new Promise((go) => document.addEventListener("visibilitychange", go, { once: true }));
      continue;
    }
    emit("connection", false);
    await new Promise((go) => setTimeout(go, wait));
    wait = Math.min(2 * wait, LONGEST_WAIT);
  }
}

// Pictures, masks and maps of the forms in the browser's database, so that they survive a reload.
// Each tab of the browser has its own; those that are a week old are deleted.

import { tell } from "./dom.js";

const STORE = "drafts";
const OLDEST = 7 * 24 * 3600 * 1000; // milliseconds
let opened = null; // the promise of the database
let warned = false;

function tabId() {
  const name = "kalpana.tab";
  const id = sessionStorage.getItem(name) ?? crypto.getRandomValues(new Uint32Array(2)).join("");
  sessionStorage.setItem(name, id);
  return id;
}

const done = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

function database() {
  opened ??= (async () => {
    const asked = indexedDB.open("kalpana", 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore(STORE);
    const base = await done(asked);
    const drafts = base.transaction(STORE, "readwrite").objectStore(STORE);
    drafts.openCursor().onsuccess = ({ target: { result: cursor } }) => {
      if (!cursor) return;
      if (Date.now() - cursor.value.time > OLDEST) cursor.delete();
      cursor.continue();
    };
    return base;
  })();
  return opened;
}

async function withStore(mode, action) {
  try {
    const drafts = (await database()).transaction(STORE, mode).objectStore(STORE);
    return await done(action(drafts));
  } catch {
    if (!warned) tell("drafts_not_kept"); // forbidden or full: everything else works
    warned = true;
    return null;
  }
}

// Keeps a value of this tab under a name; null deletes it.
export async function keep(name, value) {
  const key = `${tabId()}/${name}`;
  await withStore("readwrite", (drafts) =>
    value === null ? drafts.delete(key) : drafts.put({ time: Date.now(), value }, key));
}

// The value of this tab under a name, or null.
export async function kept(name) {
  return (await withStore("readonly", (drafts) => drafts.get(`${tabId()}/${name}`)))?.value ?? null;
}

// A function that calls another once its own calls have ceased for a moment.
export function soon(action, wait = 300) {
  let timer = null;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, wait);
  };
}

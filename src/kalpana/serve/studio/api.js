// Calls to the server: JSON, files and server-sent events, with the API key where one is asked for.

import { $, put, translate } from "./dom.js";

export class ApiError extends Error {
  constructor(status, message, code = null, param = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
  }
}

const KEY = "kalpana.key";
let key = session("get");
let asking = null; // the promise of a key that is being asked for

function session(action, value) {
  try {
    return action === "get" ? sessionStorage.getItem(KEY) : sessionStorage.setItem(KEY, value);
  } catch {
    return null;
  }
}

// Asks for the API key; all calls that wait for it go on together.
function askKey(wasWrong) {
  asking ??= new Promise((resolve) => {
    const dialog = $("#key-dialog");
    translate(dialog);
    put($("#key-error"), wasWrong ? "key_wrong" : null);
    $("#key").value = "";
    dialog.oncancel = (event) => event.preventDefault(); // nothing works without it
    $("#key-form").onsubmit = () => {
      key = $("#key").value.trim();
      session("set", key);
      asking = null;
      resolve();
    };
    dialog.showModal();
  });
  return asking;
}

// Integers above 2**53 stay exact, as text: seeds may be so large.
function parse(text) {
  return JSON.parse(text, (_, value, context) =>
    typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value)
      ? (context?.source ?? String(value))
      : value);
}

// The response of a call. Raises ApiError; its status is 0 if the server does not answer.
export async function send(method, path, body, signal) {
  for (;;) {
    const used = key;
    const headers = used ? { authorization: `Bearer ${used}` } : {};
    let data = body;
    if (body !== undefined && !(body instanceof FormData)) {
      headers["content-type"] = "application/json";
      data = JSON.stringify(body);
    }
    let response;
    try {
      response = await fetch(path, { method, headers, body: data, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "offline", "offline");
    }
    if (response.status === 401) {
      if (used === key) await askKey(Boolean(used));
      continue;
    }
    if (!response.ok) throw await failure(response);
    return response;
  }
}

async function failure(response) {
  try {
    const { error } = parse(await response.text());
    return new ApiError(response.status, error.message, error.code, error.param);
  } catch {
    return new ApiError(response.status, `HTTP ${response.status}`);
  }
}

export const get = async (path, signal) =>
  parse(await (await send("GET", path, undefined, signal)).text());
export const post = async (path, body, signal) =>
  parse(await (await send("POST", path, body, signal)).text());
export const remove = (path) => send("DELETE", path);

// The server-sent events of a call, as {name, data}; ends when the server ends the stream.
export async function* events(method, path, body, signal) {
  const response = await send(method, path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      const parts = text.split("\n\n");
      text = parts.pop();
      for (const part of parts) {
        const event = /^event: (.*)\ndata: (.*)$/s.exec(part);
        if (event) yield { name: event[1], data: parse(event[2]) };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// The path of a link, so that it is loaded from where the page is, whatever name the server has.
export function local(url) {
  const { pathname, search } = new URL(url, location.href);
  return pathname + search;
}

export const fetchFile = async (path) => (await send("GET", path)).blob();

export function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

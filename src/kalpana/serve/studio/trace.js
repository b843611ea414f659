// The trace tab: how noise becomes a picture, step by step, as the server's trace page shows it.

import { ApiError, events } from "./api.js";
import { $, announce, h, put, say, seconds } from "./dom.js";

let running = null; // the AbortController of the trace that is being made
let page = null; // the last page, as HTML

export function start() {
  empty();
}

function empty() {
  $("#trace").replaceChildren(h("div", { class: "empty" }, say("trace_empty_title", {}, "h2"),
    say("trace_empty", {}, "p")));
}

export const isRunning = () => running !== null;
export const stop = () => running?.abort();

export async function trace(request) {
  stop();
  const mine = (running = new AbortController());
  const bar = h("progress", { max: 1, value: 0, "data-t-label": "tracing" });
  const note = h("p", { class: "note" });
  put(note, "tracing");
  $("#trace").replaceChildren(h("div", { class: "card" }, note, bar));
  try {
    for await (const { name, data } of events("POST", "/v1/trace", { ...request, stream: true },
      mine.signal)) {
      if (name === "progress") {
        bar.value = data.index / data.total;
        put(note, data.eta === null ? "tracing" : "tracing_eta", { eta: seconds(data.eta ?? 0) });
      } else if (name === "error") {
        throw new ApiError(400, data.error.message, data.error.code, data.error.param);
      } else if (name === "done") {
        page = data.html;
        show();
        announce("told_traced");
      }
    }
  } catch (error) {
    empty();
    if (error.name !== "AbortError") throw error;
  } finally {
    if (running === mine) running = null;
  }
}

// Takes the parts of the trace page over: its style is that of this page.
function show() {
  const bare = page.replace(/<style>[^]*?<\/style>/, ""); // the policy of this page forbids it
  const parsed = new DOMParser().parseFromString(bare, "text/html");
  for (const each of parsed.querySelectorAll("script, title, meta")) each.remove();
  const download = h("button", { type: "button", "data-t": "save_page", onclick: () => {
    const link = h("a", { href: URL.createObjectURL(new Blob([page], { type: "text/html" })),
      download: "trace.html" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  } });
  const parts = [...parsed.body.childNodes].map((each) => document.adoptNode(each));
  const box = h("div", { class: "traced", lang: parsed.documentElement.lang });
  box.append(...parts);
  $("#trace").replaceChildren(h("div", { class: "row end" }, download), box);
  const heading = $("h1", box);
  heading.replaceWith(h("h2", { class: "traced-title", dir: "auto" }, heading.textContent));
}

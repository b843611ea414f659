// The video tab: first and last picture, and a video to change or to continue.

import { $ } from "./dom.js";
import { refusal } from "./form.js";
import { keep, kept, soon } from "./drafts.js";
import { Slot } from "./slots.js";

const slots = {};
const changed = soon(() => keep("video", Object.fromEntries(
  Object.entries(slots).map(([name, { value }]) => [name, value?.url]))));

export function start() {
  slots.image = new Slot("first", "first_picture", { changed });
  slots.last_image = new Slot("last", "last_picture", { changed });
  slots.video = new Slot("video", "source_video", { changed, video: true });
  slots.image.element.dataset.field = "image";
  slots.last_image.element.dataset.field = "last_image";
  for (const slot of Object.values(slots)) {
    slot.reason.dataset.reason = slot.element.dataset.field;
    $("#video-slots").append(slot.element);
  }
}

// The pictures and video of the request.
export function read() {
  const fields = {};
  for (const [name, slot] of Object.entries(slots)) {
    if (slot.value && !refusal(name)) fields[name] = slot.value.url;
  }
  return fields;
}

export const setFirst = (blob) => slots.image.set(blob);

export async function setVideo(blob) {
  slots.image.clear();
  slots.last_image.clear();
  return slots.video.set(blob);
}

// Puts back what was in the slots before the page was loaded again.
export async function restoreDraft() {
  for (const [name, url] of Object.entries(await kept("video") ?? {})) {
    if (url && slots[name]) await slots[name].setUrl(url);
  }
}

// Puts the inputs of a job's request back.
export async function write(request, input) {
  for (const [name, slot] of Object.entries(slots)) {
    slot.clear();
    if (request[name]) await slot.set(await input(request[name]));
  }
}

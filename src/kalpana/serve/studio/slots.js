// Slots for pictures and videos: chosen, dropped, pasted or taken from the gallery; checked here
// before anything is sent.

import { dataUrl } from "./api.js";
import { alertUser, h, t, tell } from "./dom.js";
import { limits } from "./form.js";

const LARGEST_SIDE = 2048; // pixels of an input; larger pictures are scaled down

// Reads a file as a picture: {url, width, height, image}. Raises an Error that says what is wrong.
export async function readPicture(file) {
  if (file.size > limits.max_body * 0.7) {
    throw new Error(t("file_too_large",
      { name: file.name ?? "", most: Math.round((limits.max_body * 0.7) / 2 ** 20) }));
  }
  const source = URL.createObjectURL(file);
  try {
    const image = new Image();
    image.src = source;
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = () => reject(new Error(t("no_picture", { name: file.name ?? "" })));
    });
    const { naturalWidth: width, naturalHeight: height } = image;
    if (width * height > limits.max_input_pixels) {
      const values = { width, height, most: Math.round(limits.max_input_pixels / 1e6) };
      throw new Error(t("picture_too_large", values));
    }
    const scale = LARGEST_SIDE / Math.max(width, height);
    if (scale >= 1) return { url: await dataUrl(file), width, height,
      image: await loaded(await dataUrl(file)) };
    const canvas = h("canvas",
      { width: Math.round(width * scale), height: Math.round(height * scale) });
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    tell("scaled_down", { width: canvas.width, height: canvas.height });
    const url = canvas.toDataURL("image/png");
    return { url, width: canvas.width, height: canvas.height, image: await loaded(url) };
  } finally {
    URL.revokeObjectURL(source);
  }
}

async function loaded(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

async function readVideo(file) {
  if (file.size > limits.max_body * 0.7) {
    throw new Error(t("file_too_large",
      { name: file.name ?? "", most: Math.round((limits.max_body * 0.7) / 2 ** 20) }));
  }
  return { url: await dataUrl(file), width: 0, height: 0, image: null, type: file.type };
}

// The bytes of a data URL in base64.
export function blobOf(url) {
  const bytes = Uint8Array.from(atob(url.slice(url.indexOf(",") + 1)), (each) => each.charCodeAt(0));
  return new Blob([bytes], { type: /^data:([^;,]*)/.exec(url)[1] });
}

// A slot for one file. ``value`` is what was read, or null; ``set`` takes a file or blob.
export class Slot {
  constructor(name, label, { video = false, changed = () => {}, extra = [] } = {}) {
    this.value = null;
    this.changed = changed;
    this.video = video;
    const id = `slot-${name}`;
    const accept = video ? "video/*,image/gif,image/webp,image/png" : "image/*";
    this.input = h("input",
      { type: "file", id, accept, class: "visually-hidden slot-input", onchange: () => {
      const [file] = this.input.files;
      if (file) this.set(file);
      this.input.value = "";
    } });
    this.thumb = h("div", { class: "slot-thumb" });
    this.clearButton = h("button",
      { type: "button", "data-t": "remove", hidden: true, onclick: () => this.clear() });
    this.title = h("span", { class: "slot-title", "data-t": label });
    this.reason = h("p", { class: "note reason", "data-reason": name });
    this.element = h("div", { class: "slot field", "data-field": name },
      this.input,
      h("label", { for: id, class: "slot-label" }, this.thumb, h("span", {}, this.title, h("br"),
        h("span", { class: "note", "data-t": "choose_or_drop" }))),
      h("div", { class: "row" }, this.clearButton, ...extra), this.reason);
    this.element.addEventListener("dragover", (event) => {
      event.preventDefault();
      this.element.classList.add("over");
    });
    this.element.addEventListener("dragleave", () => this.element.classList.remove("over"));
    this.element.addEventListener("drop", (event) => {
      event.preventDefault();
      event.stopPropagation();
      this.element.classList.remove("over");
      document.dispatchEvent(new CustomEvent("dropped"));
      const [file] = event.dataTransfer.files;
      if (file) this.set(file);
    });
  }

  // Takes a file; another one stays if it cannot be read.
  async set(file) {
    try {
      this.value = await (this.video ? readVideo(file) : readPicture(file));
    } catch (error) {
      alertUser(error);
      return false;
    }
    this.show();
    return true;
  }

  // Takes a data URL in base64.
  async setUrl(url) {
    return this.set(blobOf(url));
  }

  clear() {
    this.value = null;
    this.show();
  }

  show() {
    const { value } = this;
    const media = value && (this.video && !/^data:image/.test(value.url)
      ? h("video", { src: value.url, muted: true, playsinline: true })
      : h("img", { src: value.url, alt: "" }));
    this.thumb.replaceChildren(...(media ? [media] : []));
    this.element.classList.toggle("filled", Boolean(value));
    this.clearButton.hidden = !value;
    this.changed(value);
  }
}

// The pictures of a clipboard or a drop.
export const filesOf = (transfer) => [...(transfer?.files ?? [])];

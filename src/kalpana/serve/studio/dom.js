// Elements, strings in two languages, announcements, and safe storage.

export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

// ------------------------------------------------------------------------------------ language

const strings = { en: {}, hi: {} };
export let language = "en";

export async function loadStrings() {
  for (const name of Object.keys(strings)) {
    strings[name] = await (await fetch(`/studio/strings-${name}.json`)).json();
  }
  const wanted = stored("language") ?? (navigator.language.startsWith("hi") ? "hi" : "en");
  language = wanted in strings ? wanted : "en";
}

// A string of the page's language; {name} in it is replaced by values.name.
export function t(key, values = {}) {
  const text = strings[language][key] ?? strings.en[key] ?? key;
  return text.replace(/\{(\w+)\}/g,
    (whole, name) => (name in values ? String(values[name]) : whole));
}

export const has = (key) => key in strings.en;

export function setLanguage(wanted) {
  language = wanted;
  store("language", wanted);
  document.documentElement.lang = wanted;
  document.title = t("title");
  translate(document);
  document.dispatchEvent(new CustomEvent("language"));
}

// Fills the strings of all elements that name one: data-t the text, data-t-label the aria-label,
// data-t-placeholder and data-t-title the attributes.
export function translate(root) {
  for (const element of $$("[data-t], [data-t-label], [data-t-placeholder], [data-t-title]",
    root)) {
    translateOne(element);
  }
}

function translateOne(element) {
  const { t: text, tLabel, tPlaceholder, tTitle, tValues } = element.dataset;
  const values = tValues ? JSON.parse(tValues) : {};
  if (text) element.textContent = t(text, values);
  if (tLabel) element.setAttribute("aria-label", t(tLabel, values));
  if (tPlaceholder) element.setAttribute("placeholder", t(tPlaceholder, values));
  if (tTitle) element.setAttribute("title", t(tTitle, values));
}

// ------------------------------------------------------------------------------------ elements

// An element with attributes and children. on… attributes are listeners; null and false are left
// out; children are elements or text.
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "values") element.dataset.tValues = JSON.stringify(value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((each) => each !== null && each !== undefined));
  translateOne(element);
  return element;
}

// A string of the page as an element, which follows a change of the language.
export const say = (key, values = {}, tag = "span") => h(tag, { "data-t": key, values });

// Sets the text of an element to a string of the page, or to nothing.
export function put(element, key, values = {}) {
  if (!key) {
    delete element.dataset.t;
    element.textContent = "";
    return;
  }
  element.dataset.t = key;
  element.dataset.tValues = JSON.stringify(values);
  translateOne(element);
}

const SVG = "http://www.w3.org/2000/svg";
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `/studio/icon.svg#${name}`);
  svg.append(use);
  return svg;
}

// -------------------------------------------------------------------------------- announcements

// Tells screen readers something.
export function announce(key, values = {}) {
  $("#live").textContent = t(key, values);
}

// The server's words about an error, and before them the kind of error in the page's language, by
// its code; the style sheet hides the kind on the English page, where the words say it.
export function explain(message, code = null, param = null) {
  const words = h("span", { lang: "en", dir: "auto" }, message);
  if (!has(`error_${code}`)) return words;
  const field = [`f_${param}`, param].find(has);
  return h("span", {}, h("span", { class: "error-kind" },
    ...field ? [say(field), ": "] : [], say(`error_${code}`), " "), words);
}

// Shows a message until it is closed; at most three. ``text`` is a string key, or an error.
export function alertUser(text, values = {}) {
  const message = !(text instanceof Error) ? say(text, values)
    : text.status === undefined ? h("span", { dir: "auto" }, text.message)
    : explain(text.message, text.code, text.param);
  const box = h("div", { class: "alert" }, message,
    h("button", { type: "button", class: "icon", "data-t-label": "close",
      onclick: () => box.remove() },
      icon("close")));
  const boxes = $("#alerts");
  const same = [...boxes.children].find((each) => each.textContent === box.textContent);
  if (same) same.remove();
  boxes.append(box);
  while (boxes.children.length > 3) boxes.firstChild.remove();
}

// A message that goes by itself.
export function tell(key, values = {}) {
  const box = h("div", { class: "alert told" }, say(key, values));
  announce(key, values);
  $("#alerts").append(box);
  setTimeout(() => box.remove(), 6000);
}

export const clearAlerts = () => $("#alerts").replaceChildren();

// ------------------------------------------------------------------------------------- storage

// Values in localStorage; a browser that refuses it forgets them, and everything else works.
export function stored(name) {
  try {
    return JSON.parse(localStorage.getItem(`kalpana.${name}`));
  } catch {
    return null;
  }
}

export function store(name, value) {
  try {
    localStorage.setItem(`kalpana.${name}`, JSON.stringify(value));
  } catch {
    // full or forbidden
  }
}

// ------------------------------------------------------------------------------------ numbers

export function seconds(value) {
  if (value < 60) return t("seconds_short",
    { s: value < 10 ? value.toFixed(1) : Math.round(value) });
  return t("minutes_short", { m: Math.floor(value / 60), s: Math.round(value % 60) });
}

export const shortened = (text, most = 120) =>
  [...text.slice(0, 2 * most)].length > most
    ? `${[...text.slice(0, 2 * most)].slice(0, most).join("")}…` : text;
